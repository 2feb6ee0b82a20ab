"""PeerSource: an A2A agent elsewhere: its skills as tools, `PEER.SKILL`, and the agent itself, to send messages to.

Both are known by its card, which is fetched from the address that the operator gave, and looked at again from time to time, sooner while
the agent is down. What the card says of a skill is held back when it changes, as an upstream's tools are: whoever may change those words
later could tell every model of this mesh what to do. What a call does is the engine's relay's: it sends the message here.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, Self

import anyio
from anyio.abc import TaskGroup

from agentmesh.adapters.approvals import Approvals, changed, same
from agentmesh.adapters.looking import Looking
from agentmesh.adapters.tools_only import ToolsOnly
from agentmesh.adapters.upstream_a2a_card import CardVerifier
from agentmesh.adapters.upstream_a2a_client import PeerClient
from agentmesh.adapters.upstream_a2a_errors import of_status
from agentmesh.adapters.upstream_a2a_facts import Signed, agent_of, as_approved, card_of, definition_of, skills_of
from agentmesh.adapters.upstream_a2a_health import Condition
from agentmesh.adapters.upstream_a2a_http import PeerHttp, read_document
from agentmesh.adapters.upstream_a2a_read import has_ended
from agentmesh.core.agent import Agent, AgentHealth, Json, PeerCall, Skill
from agentmesh.core.mesh import Peer
from agentmesh.core.secret import fill_secrets, hide
from agentmesh.core.source import Held, OnChange, SourceCall, SourceStatus
from agentmesh.core.store import Store
from agentmesh.core.tool import Tool, ToolResult
from agentmesh.errors import Fail, MeshError, NotSent, Retry, Unanswered

log = logging.getLogger("agentmesh.sources")

REFRESH: Final = 300.0
"""Seconds between two looks at the card that went well."""
CARD: Final = 1024 * 1024
"""Bytes of a card."""
CARD_TIME: Final = 20.0
SCOPE: Final = "a2a-card"
"""Of the store: the last card of each peer, and the one that it shows to who has our token."""


class PeerSource(ToolsOnly):
    """One agent, declared or registered. `async with` it, and leave it in the task that entered it; entering waits for no network."""

    def __init__(
        self, name: str, peer: Peer, *, store: Store, secrets: Mapping[str, str] = MappingProxyType({}),
        clock: Callable[[], float] = time.time, sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:  # fmt: skip
        self.title = f"the agent {name}"
        self._name, self._peer, self._store, self._clock, self._sleep = name, peer, store, clock, sleep
        self._token = fill_secrets(peer.token, secrets) if peer.token is not None else None
        self._secrets = [self._token] if self._token else []
        self._http = PeerHttp(peer.card, self._token)
        self._keys = PeerHttp(peer.jwks or peer.card, None)
        """For what its card is signed with: whoever has the keys needs no token of ours."""
        self._verifier = CardVerifier(clock)
        self._approvals = Approvals(store, f"peer:{name}")
        self._looking = Looking(name, peer.card, sleep=self._nap, secrets=self._secrets)
        self.looked = self._looking.looked
        """Set when the card was looked for once, with whatever success."""
        self._wake = anyio.Event()
        self._condition = Condition(clock)
        self._client: PeerClient | None = None
        self._retired: list[PeerClient] = []
        """Of earlier cards; they are closed when nobody is spoken to through them."""
        self._public: Json = {}
        self._extended: Json | None = None
        """What it shows to who has our token."""
        self._signed: Signed = ""
        self._fault: MeshError | None = None
        """What was wrong at the last look."""
        self._skills: Mapping[str, Skill] = {}
        self._offered: Mapping[str, Json] = {}
        self._tools: Mapping[str, Tool] = {}
        self._agent: Agent | None = None
        self._moved = ""
        """A tool whose agent is at another address since it was approved; empty when none is."""
        self._hearers: list[OnChange] = []
        self._etag = ""
        self._group: TaskGroup | None = None
        self._calls = 0
        self._silent = 0

    async def __aenter__(self) -> Self:
        await self._approvals.load()
        self._publish()
        await self._http.__aenter__()
        await self._keys.__aenter__()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._looking.run, self._look, REFRESH, self._recall)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._group is not None
        self._group.cancel_scope.cancel()
        try:
            await self._group.__aexit__(None, None, None)
        finally:  # each of these bounds its own time, also when all of the server is being cancelled
            for client in filter(None, (self._client, *self._retired)):
                await client.aclose()
            await self._http.__aexit__(None, None, None)
            await self._keys.__aexit__(None, None, None)

    # What is known

    @property
    def name(self) -> str:
        return self._name

    @property
    def busy(self) -> int:
        """Calls that somebody waits for."""
        return self._calls

    def tools(self) -> Mapping[str, Tool]:
        return self._tools

    def agent(self) -> Agent | None:
        """See AgentPeer.agent; the same object until something in it changes."""
        return self._agent

    def health(self) -> AgentHealth:
        """See AgentPeer.health."""
        return self._condition.now(self._silent)

    def held(self) -> Sequence[Held]:
        return self._approvals.held()

    def on_change(self, hear: OnChange) -> None:
        self._hearers.append(hear)

    def status(self) -> SourceStatus:
        trouble = self._looking.trouble
        left_out = next((f"skill {one.id} is no tool: it takes {', '.join(one.input_modes)[:100]} only" for one in
                         self._skills.values() if not one.tool), "")  # fmt: skip
        spoken = f"A2A {self._client.used.version}" if self._client is not None and not trouble else ""
        known = self._client is not None or bool(self._tools)
        state: Literal["connecting", "ready", "failed"] = "ready" if known else "failed" if trouble else "connecting"
        detail = "; ".join(filter(None, [trouble, spoken, self._why_not(), left_out]))
        return SourceStatus(self._name, "peer", state, detail, len(self._tools), len(self._approvals.held()))

    def facts(self) -> Json:
        """See Inspected.facts."""
        client = self._client
        return {
            "card": self._peer.card, "trouble": self._looking.trouble, "why_not": self._why_not(), "etag": self._etag,
            "interfaces": [
                {
                    "url": one.url, "binding": one.binding, "version": one.version, "tenant": one.tenant or None,
                    "used": client is not None and one == client.used, "why_not": one.why_not or None,
                }
                for one in (client.interfaces if client is not None else ())
            ],
            "requires": list(client.unmet) if client is not None else [],
        }  # fmt: skip

    def _why_not(self) -> str:
        """Why messages are not sent to it, beyond its being down."""
        if self._client is not None and self._client.unmet:
            return f"it requires the extension {self._client.unmet[0]} of its clients, which this mesh does not have"
        if self._moved:
            return f"it is at another address since it was approved; see `agentmesh tools diff {self._moved}`"
        return ""

    async def approve(self, names: Sequence[str]) -> Sequence[str]:
        done = await self._approvals.approve(names)
        if done:
            self._publish()
            self._tell()
        return done

    # The card

    async def _nap(self, seconds: float) -> None:
        """Until it is time to look again, or a call has found the agent down."""
        self._wake = anyio.Event()
        async with anyio.create_task_group() as group:

            async def sleep() -> None:
                await self._sleep(seconds)
                group.cancel_scope.cancel()

            group.start_soon(sleep)
            await self._wake.wait()
            group.cancel_scope.cancel()

    async def _recall(self) -> None:
        kept = await self._store.get(SCOPE, self._name)
        if not isinstance(kept, Mapping) or kept.get("address") != self._peer.card:
            return
        if self._peer.jwks is not None and kept.get("jwks") != self._peer.jwks:
            return  # it was not held to these keys
        extended = await self._store.get(SCOPE, self._extended_key()) if self._token else None
        await self._take(kept["card"], extended, kept.get("signed") or "")
        self._etag = str(kept.get("etag") or "")

    async def _look(self) -> None:
        try:
            await self._look_at_it()
        except MeshError as error:
            self._fault = error
            said = hide(error.message, self._secrets)
            if isinstance(error, Retry):
                self._condition.fell(said)
            elif self._client is None:
                self._condition.fell(f"it cannot be used: {said}")
            raise
        self._fault = None

    async def _look_at_it(self) -> None:
        begun = time.perf_counter()
        found = await self._fetch()
        took = time.perf_counter() - begun
        public, etag = found or (self._public, self._etag)
        signed = await self._verified(public)  # before anybody is spoken to whom the card names
        extended = await self._extended_of(public)
        if found is not None or signed != self._signed or not same(extended, self._extended):
            await self._take(public, extended, signed)
            self._etag = etag
            kept = {"address": self._peer.card, "etag": etag, "card": dict(public), "signed": signed}
            await self._store.put(SCOPE, self._name, kept | ({"jwks": self._peer.jwks} if self._peer.jwks else {}))
            if extended is not None:
                await self._store.put(SCOPE, self._extended_key(), dict(extended))
        assert self._client is not None
        await self._client.reach()
        self._condition.answered(None if self._condition.now(0).latency else took)

    async def _fetch(self) -> tuple[Json, str] | None:
        """The card and its ETag; None when it is the one that is known."""
        known = {"if-none-match": self._etag} if self._etag and self._client is not None else {}
        status, headers, body = await self._http.ask(
            "GET",
            self._peer.card,
            {"accept": "application/json", **known},
            None,
            again=True,
            time=CARD_TIME,
            limit=CARD,
        )
        if status == 304 and known:
            return None
        if status != 200:
            if 300 <= status < 400:
                where = headers.get("location", "")[:200]
                raise Fail(f"it redirects to {where!r}; give that address if you trust it")
            error = of_status(status, headers, "", "card")
            raise error if isinstance(error, Retry) else Fail(f"it answered {status}")
        card = await read_document(body)
        if not isinstance(card, dict):
            raise Fail("what is there is no card: it is no object")
        return card, headers.get("etag", "")[:200]

    async def _extended_of(self, public: Json) -> Json | None:
        """The card that it shows to who has our token; the one that is known when it cannot be had, None when there is none."""
        card = card_of(public)
        if self._token is None or not card.capabilities.extended_agent_card:
            return None
        client = self._speaker(card)
        try:
            found = await client.extended_card()
            await self._verified(found)
            return found
        except MeshError as error:
            if isinstance(error, Retry):
                raise
            log.warning("%s: its extended card cannot be had: %s", self._name, hide(error.message, self._secrets))
            return self._extended
        finally:
            await client.aclose()

    def _extended_key(self) -> str:
        """By the credential: what one token is shown is not for another."""
        digest = hashlib.sha256(f"{self._peer.card} {self._token}".encode()).hexdigest()
        return f"{self._name}~{digest[:32]}"

    async def _take(self, public: Json, extended: Json | None, signed: Signed) -> None:
        """`public` says where the agent is; `extended`, when there is one, what it can do. Both were verified."""
        card = card_of(public)
        if extended is not None:
            whole = card_of(extended)
            del whole.supported_interfaces[:]
            whole.supported_interfaces.extend(card.supported_interfaces)
            card = whole
        client = self._speaker(card)
        self._public, self._extended = public, extended
        before, self._client = self._client, client
        if before is not None:
            self._retired.append(before)
        await self._close_retired()
        self._signed = signed
        self._skills = skills_of(self._name, card)
        self._offered = {name: definition_of(skill, client.where) for name, skill in self._skills.items()}
        changed_ = await self._approvals.offer(self._offered)
        self._publish()
        if changed_:
            self._tell()

    def _speaker(self, card: Any) -> PeerClient:
        return PeerClient(card, self._http, address=self._peer.card, token=self._token, told=self._told)

    async def _verified(self, card: Json) -> Signed:
        return await self._verifier.verify(
            card, jwks=self._peer.jwks, card_url=self._peer.card, fetch=self._key_set
        )  # fmt: skip

    async def _key_set(self, url: str) -> Json:
        status, headers, body = await self._keys.ask(
            "GET", url, {"accept": "application/jwk-set+json, application/json"}, None, again=True, time=CARD_TIME, limit=CARD
        )  # fmt: skip
        if status != 200:
            error = of_status(status, headers, "", "card")
            refusal = Fail(f"the keys of its card cannot be read: {url[:200]} answered {status}")
            raise error if isinstance(error, Retry) else refusal
        keys: Json = await read_document(body)
        return keys

    async def _close_retired(self) -> None:
        if not self._calls:
            retired, self._retired = self._retired, []
            for client in retired:
                await client.aclose()

    def _told(self, line: str) -> None:
        log.warning("%s: %s", self._name, hide(line, self._secrets))

    def _publish(self) -> None:
        visible = self._approvals.visible
        self._tools = MappingProxyType({
            name: Tool(
                name=name,
                description=str(one.get("description", "")),
                input_schema=one["inputSchema"],
                title=one.get("title"),
                annotations=one.get("annotations", {}),
                source=f"peer:{self._name}",
            )
            for name, one in sorted(visible.items())
            if one.get("inputSchema") is not None
        })  # fmt: skip
        if self._client is None:
            return
        skills = [
            skill if not changed(visible[name], self._offered[name]) else as_approved(skill, visible[name])
            for name, skill in self._skills.items()
            if name in visible
        ]
        self._moved = next(
            (n for n, one in visible.items() if n in self._offered and not same(one.get("request"), self._offered[n]["request"])), ""
        )  # fmt: skip
        agent = agent_of(
            self._name, self._client.card, self._client.interfaces, skills, signed=self._signed, price=self._peer.price
        )
        if agent != self._agent:
            self._agent = agent

    def _tell(self) -> None:
        for hear in self._hearers:
            hear("tools", None)

    # The agent

    async def send(self, message: Json, call: PeerCall) -> AsyncGenerator[Json, None]:
        """See AgentPeer.send."""
        client = self._speaking()
        if self._moved:
            raise Fail(
                f"{self._name} is at another address since it was approved; see `agentmesh tools diff {self._moved}`"
            )
        self._silent += 1
        silent = True
        begun = time.perf_counter()
        try:
            async with aclosing(self._counted(client.send(message, call))) as events:
                async for event in events:
                    if silent:
                        silent, self._silent = False, self._silent - 1
                        self._condition.answered(time.perf_counter() - begun)
                    self._note(event)
                    yield event
        finally:
            if silent:
                self._silent -= 1
        if silent:
            raise Unanswered(f"{self._name} answered the message with nothing")

    async def follow(self, task_id: str, call: PeerCall) -> AsyncGenerator[Json, None]:
        """See AgentPeer.follow."""
        async with aclosing(self._counted(self._speaking().subscribe(task_id, call))) as events:
            async for event in events:
                self._note(event)
                yield event

    async def get(self, task_id: str, call: PeerCall, *, history_length: int | None = None) -> Json:
        """See AgentPeer.get."""
        begun = time.perf_counter()
        task: Json = await self._asked(self._speaking().get(task_id, call, history_length))
        self._condition.answered(time.perf_counter() - begun)
        self._note({"task": task})
        return task

    async def find(self, message_id: str, since: float, call: PeerCall) -> Json | None:
        """See AgentPeer.find."""
        task: Json | None = await self._asked(self._speaking().find(message_id, since, call))
        return task

    async def cancel(self, task_id: str, call: PeerCall) -> Json:
        """See AgentPeer.cancel."""
        task: Json = await self._asked(self._speaking().cancel(task_id, call))
        self._note({"task": task})
        return task

    async def call(self, call: SourceCall) -> ToolResult:
        """A skill that is called is a run, whose step sends it as a message."""
        raise Fail(f"{call.tool.name} is done by an agent: it is sent a message, and not called")

    def _speaking(self) -> PeerClient:
        """NotSent while its card cannot be had, Fail when it cannot be used."""
        if self._client is not None:
            return self._client
        said = hide(self._fault.message, self._secrets) if self._fault is not None else "its card is not read yet"
        if self._fault is not None and not isinstance(self._fault, Retry):
            raise Fail(f"{self._name} cannot be used: {said}")
        raise NotSent(f"{self._name} cannot be reached: {said}")

    async def _counted(self, events: AsyncGenerator[Json, None]) -> AsyncGenerator[Json, None]:
        """The events; errors in this peer's name, and known to its condition."""
        self._calls += 1
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        except MeshError as error:
            raise self._named(error) from error.__cause__
        finally:
            self._calls -= 1

    async def _asked(self, answer: Awaitable[Any]) -> Any:
        self._calls += 1
        try:
            return await answer
        except MeshError as error:
            raise self._named(error) from error.__cause__
        finally:
            self._calls -= 1

    def _named(self, error: MeshError) -> MeshError:
        said, was_down = hide(error.message, self._secrets), self._condition.down
        if isinstance(error, NotSent):
            self._condition.fell(said)
        elif isinstance(error, Retry):
            self._condition.missed(said)
        if self._condition.down and not was_down:  # while it is down it is looked at ever more seldom
            self._wake.set()
        elif not isinstance(error, (Fail, Retry)):
            self._condition.answered()
        error.args = (f"{self._name}: {said}",)
        return error

    def _note(self, event: Json) -> None:
        """Counts the tasks that it works on."""
        ended = has_ended(event)
        task = event.get("task", {}).get("id") or event.get("statusUpdate", {}).get("taskId")
        if task and ended:
            self._condition.ended(task)
        elif task and ended is False:
            self._condition.works_on(task)
