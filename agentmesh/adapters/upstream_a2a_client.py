"""PeerClient: an agent elsewhere, spoken to by its card, over the interface that it likes best of those that can be used.

Wires of versions 1.0 and 0.3 over JSON-RPC, HTTP+JSON and gRPC stand behind it; in front of it is JSON in A2A 1.0's spelling. When an
interface turns out not to be there, or not to speak as the card says, the next one is taken, and kept until the card is read again.
It knows nothing of tools, stores and health: `upstream_a2a` does.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from agentmesh.adapters.reach import names_inside
from agentmesh.adapters.upstream_a2a_errors import Asked, NotOffered, Unusable
from agentmesh.adapters.upstream_a2a_http import TIME, PeerHttp
from agentmesh.adapters.upstream_a2a_wire import IDLE, Ask, JsonRpc, Method, Rest, Wire
from agentmesh.core.agent import IDEMPOTENCY, Json, PeerCall
from agentmesh.errors import Fail, NotFound, NotSent

BINDINGS: Final = ("JSONRPC", "HTTP+JSON", "GRPC")
PAGES: Final = 5
PAGE: Final = 100
"""Tasks that are looked through for the one that a message began: PAGES times PAGE."""
SKEW: Final = 300.0
"""Seconds that the agent's clock may be behind ours when its tasks are looked through."""
KNOWN: Final = frozenset(
    {IDEMPOTENCY, "urn:agentmesh:a2a:skill:1", "urn:agentmesh:a2a:answer:1", "urn:agentmesh:a2a:route:1"}
)
"""Extensions that this side knows itself: what such an agent requires of its clients is there."""


@dataclass(frozen=True, slots=True)
class Interface:
    """One way to speak to an agent (A2A 1.0.1 section 4.4.6)."""

    url: str
    binding: str
    version: str
    tenant: str = ""
    why_not: str = ""
    """Why it cannot be used; empty when it can."""

    @property
    def legacy(self) -> bool:
        return self.version.startswith("0.")

    @property
    def title(self) -> str:
        return f"{self.binding} {'.'.join(self.version.split('.')[:2])}"


class PeerClient:
    """One agent, by its card. Cheap to make anew when the card has changed; `http` is shared and outlives it. Close it at the end."""

    def __init__(
        self,
        card: Any,
        http: PeerHttp,
        *,
        address: str,
        token: str | None,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`card`: the SDK's AgentCard. `address`: where it is from. `token`: sent to that host alone. `told`: hears a line for the log.

        Fail when it has no interface that can be used.
        """
        self.card = card
        self.interfaces = _in_order(
            [_judged(one, address, secret=token is not None) for one in card.supported_interfaces]
        )
        """All of them, the one that is used first first."""
        usable = [one for one in self.interfaces if not one.why_not]
        if not usable:
            raise Fail(next((one.why_not for one in self.interfaces), "the card names no interface"))
        self._usable = usable
        self._http, self._token, self._told = http, token, told
        self._secure = urlsplit(address).scheme == "https"
        self._wires: dict[Interface, Wire] = {}
        self._opening = anyio.Lock()
        declared = {extension.uri: extension.required for extension in card.capabilities.extensions}
        self._declared = frozenset(declared)
        self._required = frozenset(uri for uri, required in declared.items() if required)

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            for wire in self._wires.values():
                await wire.aclose()

    @property
    def used(self) -> Interface:
        """The interface that is spoken to now."""
        return self._usable[0]

    @property
    def where(self) -> str:
        """The address that an operator has agreed to, whatever binding is used now: the first that is no gRPC, if there is one."""
        plain = [one for one in self.interfaces if not one.why_not and one.binding != "GRPC"]
        return (plain or self.interfaces)[0].url

    @property
    def streams(self) -> bool:
        return bool(self.card.capabilities.streaming)

    @property
    def unmet(self) -> Sequence[str]:
        """URIs of extensions that it requires of its clients, and this side does not know itself."""
        return sorted(self._required - KNOWN)

    async def send(self, message: Json, call: PeerCall) -> AsyncGenerator[Json, None]:
        """See AgentPeer.send."""
        missing = self._required - KNOWN - set(call.extensions)
        if missing:
            raise Fail(
                f"the agent requires the extension {min(missing)}, which neither this mesh nor the caller has; nothing was sent"
            )
        asked: Asked = "follow_up" if message.get("taskId") else "send"
        configuration: dict[str, Any] = {}
        if call.accepted:
            configuration["acceptedOutputModes"] = list(call.accepted)
        if self.streams:
            params = {"message": message, "configuration": configuration} if configuration else {"message": message}
            async with aclosing(self._stream("SendStreamingMessage", params, self._ask(call, asked))) as events:
                async for event in _of_one_task(events, str(message.get("taskId") or "")):
                    yield event
            return
        configuration["returnImmediately"] = True
        if call.push is not None and self.card.capabilities.push_notifications:
            url, token = call.push
            configuration["taskPushNotificationConfig"] = {"url": url, "token": token}
        params = {"message": message, "configuration": configuration}
        found = await self._one("SendMessage", params, self._ask(call, asked))
        known = message.get("taskId")
        if known and found.get("task", {}).get("id", known) != known:
            raise Fail("the agent answered a message to one task with another task")
        yield found

    async def subscribe(self, task_id: str, call: PeerCall) -> AsyncGenerator[Json, None]:
        """See AgentPeer.subscribe."""
        if not self.streams:
            raise Fail("the agent's card says that it does not stream; ask for the task")
        async with aclosing(self._stream("SubscribeToTask", {"id": task_id}, self._ask(call, "subscribe"))) as events:
            async for event in _of_one_task(events, task_id):
                yield event

    async def get(self, task_id: str, call: PeerCall, history_length: int | None = None) -> Json:
        """See AgentPeer.get."""
        params: dict[str, Any] = {"id": task_id}
        if history_length is not None:
            params["historyLength"] = history_length
        return _the_one(await self._one("GetTask", params, self._ask(call, "get")), task_id)

    async def cancel(self, task_id: str, call: PeerCall) -> Json:
        """See AgentPeer.cancel."""
        return _the_one(await self._one("CancelTask", {"id": task_id}, self._ask(call, "cancel")), task_id)

    async def find(self, message_id: str, since: float, call: PeerCall) -> Json | None:
        """See AgentPeer.find. None where the agent cannot list tasks."""
        if self.used.legacy:
            return None
        after = datetime.fromtimestamp(max(0.0, since - SKEW), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        params: dict[str, Any] = {"pageSize": PAGE, "historyLength": PAGE, "statusTimestampAfter": after}
        for _ in range(PAGES):
            try:
                tasks, following = await self._one("ListTasks", params, self._ask(call, "list"))
            except (NotOffered, NotFound):
                return None
            for task in tasks:
                if any(said.get("messageId") == message_id for said in task.get("history") or ()):
                    return await self.get(task["id"], call)
            if not following:
                return None
            params["pageToken"] = following
        return None

    async def extended_card(self) -> Json:
        """The card for who has our token (A2A 1.0.1 section 3.1.11), as it is."""
        found = await self._one("GetExtendedAgentCard", {}, Ask("card", time=20.0))
        if not isinstance(found, dict):
            raise Fail("what the agent gave for its extended card is no object")
        return found

    async def reach(self) -> None:
        """Makes sure that the interface in use is there, or finds another. NotSent."""
        for interface, last in self._turns():
            try:
                wire = await self._wire(interface)
                await wire.reach()
            except (NotSent, Unusable) as error:
                self._pass_over(interface, error)
                if last:
                    raise
            else:
                return

    # Wires

    def _ask(self, call: PeerCall, asked: Asked) -> Ask:
        wanted = [uri for uri in dict.fromkeys((*call.extensions, *sorted(KNOWN))) if uri in self._declared]
        headers = {"a2a-extensions": ", ".join(wanted)} if wanted else {}
        return Ask(asked, headers, TIME if call.timeout is None else call.timeout, call.timeout or IDLE)

    async def _one(self, method: Method, params: Json, ask: Ask) -> Any:
        for interface, last in self._turns():
            try:
                wire = await self._wire(interface)
                return await wire.ask(method, params, ask)
            except (NotSent, Unusable) as error:
                if not self._passes(method, error):
                    raise
                self._pass_over(interface, error)
                if last:
                    raise
        raise AssertionError("a client has an interface")

    async def _stream(self, method: Any, params: Json, ask: Ask) -> AsyncGenerator[Json, None]:
        for interface, last in self._turns():
            begun = False
            try:
                wire = await self._wire(interface)
                async with aclosing(wire.stream(method, params, ask)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except (NotSent, Unusable) as error:
                if begun or not self._passes(method, error):
                    raise
                self._pass_over(interface, error)
                if last:
                    raise

    def _turns(self) -> list[tuple[Interface, bool]]:
        """The interfaces in the order in which they are tried now, each with whether it is the last."""
        return [(one, one is self._usable[-1]) for one in self._usable]

    def _passes(self, method: str, error: Exception) -> bool:
        """Whether another interface may do what this one did not: a method that many agents leave out says nothing about the rest."""
        return not (
            isinstance(error, NotOffered) and method in {"ListTasks", "GetExtendedAgentCard", "SubscribeToTask"}
        )

    def _pass_over(self, interface: Interface, error: Fail | NotSent) -> None:
        """Puts an interface behind the others."""
        rest = [one for one in self._usable if one != interface]
        if rest and self._usable[0] == interface:
            self._usable = [*rest, interface]
            self._told(f"{interface.title} at {interface.url} cannot be used ({error.message}); trying {rest[0].title}")

    async def _wire(self, interface: Interface) -> Wire:
        wire = self._wires.get(interface)
        if wire is not None:
            return wire
        async with self._opening:
            if interface not in self._wires:
                self._wires[interface] = await self._make(interface)
        return self._wires[interface]

    async def _make(self, interface: Interface) -> Wire:
        url, tenant = interface.url, interface.tenant
        if interface.binding == "GRPC":
            try:
                module = await anyio.to_thread.run_sync(importlib.import_module, "agentmesh.adapters.upstream_a2a_grpc")
            except ImportError as error:
                raise Unusable(f"gRPC is not installed here ({error})") from None
            authorization = self._http.headers.get("authorization")
            found: Wire = module.Grpc(
                self._http.guard, url, tenant, legacy=interface.legacy, secure=self._secure, authorization=authorization
            )
            return found
        if interface.legacy:
            module = await anyio.to_thread.run_sync(importlib.import_module, "agentmesh.adapters.upstream_a2a_v03")
            old: Wire = (module.JsonRpc03 if interface.binding == "JSONRPC" else module.Rest03)(self._http, url, tenant)
            return old
        return JsonRpc(self._http, url, tenant) if interface.binding == "JSONRPC" else Rest(self._http, url, tenant)


async def _of_one_task(events: AsyncGenerator[Json, None], task_id: str) -> AsyncGenerator[Json, None]:
    """The events as they are, while they speak of one task; Fail when they speak of another."""
    async for event in events:
        found = event.get("task", {}).get("id") or next(
            (event[name]["taskId"] for name in ("statusUpdate", "artifactUpdate") if name in event), ""
        )
        if found and task_id and found != task_id:
            raise Fail(f"the agent speaks of task {found[:100]} on the stream of task {task_id[:100]}")
        task_id = task_id or found
        yield event


def _the_one(task: Json, task_id: str) -> Json:
    if task["id"] != task_id:
        raise Fail(f"the agent was asked for task {task_id[:100]} and answered with {task['id'][:100]}")
    return task


# Interfaces


def _judged(one: Any, address: str, *, secret: bool) -> Interface:
    """An interface of a card, and why it cannot be used: a card names no inner place beyond its own host, where alone our token goes."""
    version = one.protocol_version or "1.0"
    why_not = ""
    if one.protocol_binding not in BINDINGS:
        why_not = f"the agent has neither a JSON-RPC, an HTTP+JSON nor a gRPC interface (it has: {one.protocol_binding[:60] or 'none'})"
    elif not (version.split(".")[0] == "1" or version == "0.3" or version.startswith("0.3.")):
        why_not = f"the agent speaks A2A {version[:20]}; 1.0 and 0.3 are what is spoken here"
    else:
        why_not = _elsewhere(one.url, one.protocol_binding, address, secret=secret)
    return Interface(one.url, one.protocol_binding, version, one.tenant, why_not)


def _elsewhere(url: str, binding: str, address: str, *, secret: bool) -> str:
    try:
        home, there = urlsplit(address), urlsplit(url if "://" in url or binding != "GRPC" else f"//{url}")
        host, _ = there.hostname or "", there.port
    except ValueError:
        return f"the card names an agent at {url[:200]!r}, which is no address"
    schemes = {"", "http", "https", "grpc", "grpcs"} if binding == "GRPC" else {"http", "https"}
    if not host or there.scheme not in schemes or there.username is not None or len(url) > 2048:
        return f"the card names an agent at {url[:200]!r}, which is no address"
    same = host.lower() == (home.hostname or "").lower()
    shown = f"{there.scheme}://{there.netloc}" if there.scheme else there.netloc
    if same and home.scheme == "https" and secret and there.scheme in {"http", "grpc"}:
        return (
            f"the card names an agent at {shown}, where its token would be sent in the clear; name a card that is there"
        )
    if same:
        return ""
    if secret:
        return f"the card names an agent at {shown}, which would be sent its token; name a card that is there"
    if names_inside(host):
        return f"the card names an agent at {shown}, which is a private address; name a card that is there"
    return ""


def _in_order(interfaces: Sequence[Interface]) -> list[Interface]:
    """By the agent's favourite bindings, the newest version of each first; what cannot be used last."""
    first: Mapping[str, int] = {one.binding: at for at, one in reversed(list(enumerate(interfaces))) if not one.why_not}
    return sorted(interfaces, key=lambda one: (bool(one.why_not), first.get(one.binding, len(interfaces)), one.legacy))
