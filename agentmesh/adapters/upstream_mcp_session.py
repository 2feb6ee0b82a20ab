"""Session: MCP over a wire, as a client of either era: agreeing on a revision, requests, and what the upstream says meanwhile.

A modern upstream (2026-07-28) is told with every request what the client behind it can be asked; one of the older era is told at
`initialize` that everything may be asked, and each question goes to the client of the very call that it belongs to, or to nobody.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import anyio
import anyio.abc
from mcp.shared.inbound import NAME_BEARING_METHODS, encode_header_value
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    METHOD_NOT_FOUND,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)

from agentmesh import __version__
from agentmesh.adapters.upstream_mcp_wire import HttpStatus, Message, Wire
from agentmesh.core.caller import (
    CAPABILITY,
    ELICITATION,
    NOBODY,
    ROOTS,
    SAMPLING,
    Caller,
    InputRequest,
    Method,
    missing,
)
from agentmesh.core.trace import current
from agentmesh.errors import Fail, MeshError, MissingCapability, Unanswered

log = logging.getLogger("agentmesh.sources")

CLIENT: Final = {"name": "agentmesh", "version": __version__}
METHODS: Final[tuple[Method, ...]] = (ELICITATION, SAMPLING, ROOTS)
ABILITY: Final[Mapping[str, Any]] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
EVERYTHING: Final = dict(ABILITY)
ASKED_AT_ONCE: Final = 64
"""Requests of an upstream's own that wait for an answer."""
LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
LOG_LEVEL: Final = "info"
"""Asked of upstreams where nobody says otherwise."""
_MIN_TIME: Final = 5.0


class RpcError(Exception):
    """What the upstream answered is a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.data = code, message, data


Ask = Callable[[InputRequest], Awaitable[Mapping[str, Any]]]


async def ask_nobody(request: InputRequest) -> Mapping[str, Any]:
    raise missing(request)


@dataclass(slots=True, eq=False)
class Exchange:
    """One request of ours while it is open."""

    caller: Caller = NOBODY
    ask: Ask = ask_nobody
    """Puts what an upstream of the older era asks during the request."""
    asking: int = 0
    """How many questions of it are open: the time for them is not the upstream's."""
    scope: anyio.CancelScope | None = None
    timeout: float = 0.0

    def hears_progress(self) -> bool:
        return self.caller is not NOBODY and getattr(self.caller, "wants_progress", True)


Notice = Callable[[str, Mapping[str, Any]], None]
"""Hears a notification that belongs to no request: its method and params."""


@dataclass(slots=True, eq=False)
class Session:
    """What was agreed with one upstream. Many requests at once."""

    name: str
    wire: Wire
    tasks: anyio.abc.TaskGroup
    """Where what the upstream asks is answered."""
    notice: Notice
    version: str = LATEST_MODERN_VERSION
    modern: bool = True
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _open: dict[int, Exchange] = field(default_factory=dict)
    _asked: dict[Any, anyio.CancelScope] = field(default_factory=dict)
    _abilities: dict[tuple[bool, ...], dict[str, Any]] = field(default_factory=dict)

    async def request(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        timeout: float | None,
        exchange: Exchange | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        again: bool = True,
    ) -> dict[str, Any]:
        """The result. RpcError for an error; Unanswered when no answer came in time; and what the wire raises.

        `again`: it changes nothing there, so that it may be sent twice.
        """
        exchange = exchange or Exchange()
        ident = next(self._ids)
        message = self._message(ident, method, params, exchange)
        headers = {**current(), **headers}
        if self.modern:
            headers = {"mcp-method": method, **headers}
            if (member := NAME_BEARING_METHODS.get(method)) is not None:
                headers["mcp-name"] = encode_header_value(str(params[member]))
        self._open[ident] = exchange

        async def hear(said: Message) -> None:
            await self.hear(said, exchange)

        try:
            if timeout is None:
                answer = await self.wire.request(message, headers, hear, again=again)
            else:
                exchange.timeout = timeout
                with anyio.move_on_after(timeout) as exchange.scope:
                    answer = await self.wire.request(message, headers, hear, again=again)
                if exchange.scope.cancelled_caught:
                    raise Unanswered(
                        f"{self.name} did not answer {method} within its timeout of {timeout:g} s; it may have been done"
                    )
        finally:
            del self._open[ident]
        if "error" in answer:
            raise _error(answer["error"])
        result = answer.get("result")
        if not isinstance(result, dict):
            raise Fail(f"{self.name} answered {method} with a result that is no object")
        return result

    def _message(self, ident: int, method: str, params: Mapping[str, Any], exchange: Exchange) -> Message:
        meta = {**(params.get("_meta") or {}), **current()}
        if exchange.hears_progress():
            meta["progressToken"] = ident
        if self.modern:
            meta[PROTOCOL_VERSION_META_KEY] = self.version
            meta[CLIENT_INFO_META_KEY] = CLIENT
            meta[CLIENT_CAPABILITIES_META_KEY] = self._ability(exchange.caller)
            if exchange.caller is not NOBODY and (level := getattr(exchange.caller, "log_level", LOG_LEVEL)):
                meta[LOG_LEVEL_META_KEY] = level
        whole = {**params, "_meta": meta} if meta else dict(params)
        return {"jsonrpc": "2.0", "id": ident, "method": method, "params": whole}

    def _ability(self, caller: Caller) -> dict[str, Any]:
        """What the client behind a request may be asked."""
        can = tuple(map(caller.can, METHODS)) if caller is not NOBODY else (False, False, False)
        found = self._abilities.get(can)
        if found is None:
            names = [CAPABILITY[method] for method, able in zip(METHODS, can, strict=True) if able]
            found = self._abilities[can] = {name: ABILITY[name] for name in names}
        return found

    async def tell(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Sends a notification."""
        await self.wire.send({"jsonrpc": "2.0", "method": method, **({"params": dict(params)} if params else {})})

    # -- what the upstream says by itself

    async def hear(self, said: Message, exchange: Exchange | None = None) -> None:
        """Takes a notification or a request of the upstream's. `exchange`: the request of ours whose stream it came on."""
        method, params = said.get("method"), said.get("params")
        if not isinstance(method, str):
            return
        params = params if isinstance(params, dict) else {}
        if "id" in said:
            await self._asked_for(said["id"], method, params, exchange)
        elif method == "notifications/progress":
            self._progress(params)
        elif method == "notifications/message":
            self._log(params, exchange)
        elif method == "notifications/cancelled":
            if (scope := self._asked.get(_ident(params.get("requestId")))) is not None:
                scope.cancel()
        else:
            self.notice(method, params)

    def _progress(self, params: Mapping[str, Any]) -> None:
        exchange = self._open.get(_ident(params.get("progressToken")))
        done, total, message = params.get("progress"), params.get("total"), params.get("message")
        if exchange is not None and isinstance(done, (int, float)) and not isinstance(done, bool):
            exchange.caller.progress(
                float(done), float(total) if isinstance(total, (int, float)) else None, message if isinstance(message, str) else ""
            )  # fmt: skip

    def _log(self, params: Mapping[str, Any], exchange: Exchange | None) -> None:
        exchange = exchange or self._only()
        level, logger = params.get("level"), params.get("logger")
        if exchange is not None and level in LEVELS:
            exchange.caller.log(level, params.get("data"), logger if isinstance(logger, str) else None)

    def _only(self) -> Exchange | None:
        """The one call that is open, when there is but one: then what comes on a pipe, or on a stream that is no call's, is meant for it.

        Servers of the older era put their questions there over HTTP too, and expect an answer.
        """
        calls = [exchange for exchange in self._open.values() if exchange.caller is not NOBODY]
        return calls[0] if len(calls) == 1 else None

    async def _asked_for(self, ident: Any, method: str, params: Mapping[str, Any], exchange: Exchange | None) -> None:
        if method == "ping":
            await self._reply(ident, {"result": {}})
            return
        exchange = exchange or self._only()
        if method not in METHODS or self.modern:
            await self._reply(ident, _refusal(METHOD_NOT_FOUND, f"{method} is nothing that this client answers"))
        elif exchange is None and method == ROOTS:
            await self._reply(ident, {"result": {"roots": []}})  # the mesh itself has no folders to show
        elif exchange is None:
            why = "it cannot be told which call this belongs to, so nobody is asked; send it on that call's own stream"
            await self._reply(ident, _refusal(METHOD_NOT_FOUND, why))
        elif len(self._asked) >= ASKED_AT_ONCE:
            await self._reply(ident, _refusal(-32000, "too many requests of yours wait for an answer"))
        else:
            self.tasks.start_soon(self._answer, ident, InputRequest(method, params), exchange)

    async def _answer(self, ident: Any, request: InputRequest, exchange: Exchange) -> None:
        with anyio.CancelScope() as scope:
            self._asked[_ident(ident)] = scope
            began = anyio.current_time()
            exchange.asking += 1
            if exchange.scope is not None:
                exchange.scope.deadline += 10**9  # people take their time, which is not the upstream's
            try:
                answer = {"result": dict(await exchange.ask(request))}
            except MeshError as error:
                code = METHOD_NOT_FOUND if isinstance(error, MissingCapability) else -32000
                answer = _refusal(code, error.message)
            finally:
                self._asked.pop(_ident(ident), None)
                exchange.asking -= 1
                if exchange.scope is not None:
                    exchange.scope.deadline += anyio.current_time() - began - 10**9
            await self._reply(ident, answer)

    async def _reply(self, ident: Any, answer: Mapping[str, Any]) -> None:
        try:
            await self.wire.send({"jsonrpc": "2.0", "id": ident, **answer})
        except MeshError as error:
            log.debug("upstream %s: its question could not be answered: %s", self.name, error)


async def negotiate(session: Session, *, legacy: bool, probe_time: float) -> None:
    """Agrees on a revision: the newest by `server/discover`, else by `initialize`. `legacy`: do not try the first.

    Fail when there is none that both speak; RpcError and what the wire raises else.
    """
    if not legacy:
        session.wire.settle(LATEST_MODERN_VERSION, modern=True)
        try:
            found = await session.request("server/discover", {}, timeout=probe_time)
        except RpcError as error:
            named = error.data.get("supported") if isinstance(error.data, dict) else None
            if (
                error.code == UNSUPPORTED_PROTOCOL_VERSION
                and isinstance(named, list)
                and not set(named) & set(HANDSHAKE_PROTOCOL_VERSIONS)
            ):
                raise Fail(
                    f"{session.name} speaks only {', '.join(map(str, named[:5]))}, which this release does not"
                ) from None
        except HttpStatus as error:
            if error.status in (401, 403, 407):
                raise
        except Unanswered:
            # It may not have answered because it knows no such method, or because it is gone: `initialize` will tell.
            log.debug("upstream %s: does not answer server/discover; trying initialize", session.name)
        else:
            versions = found.get("supportedVersions")
            if isinstance(versions, list) and set(versions) & set(MODERN_PROTOCOL_VERSIONS):
                capabilities = found.get("capabilities")
                session.capabilities = capabilities if isinstance(capabilities, dict) else {}
                return
    await _initialize(session)


async def _initialize(session: Session) -> None:
    session.modern, session.version = False, LATEST_HANDSHAKE_VERSION
    session.wire.settle(LATEST_HANDSHAKE_VERSION, modern=False)
    offer = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": EVERYTHING, "clientInfo": CLIENT}
    found = await session.request("initialize", offer, timeout=None)
    version = found.get("protocolVersion")
    if version not in HANDSHAKE_PROTOCOL_VERSIONS:
        raise Fail(f"{session.name} wants to speak MCP {version!r}, which this release does not")
    session.version = version
    session.wire.settle(version, modern=False)
    capabilities = found.get("capabilities")
    session.capabilities = capabilities if isinstance(capabilities, dict) else {}
    await session.tell("notifications/initialized")
    if "logging" in session.capabilities:
        try:
            await session.request("logging/setLevel", {"level": LOG_LEVEL}, timeout=_MIN_TIME)
        except (RpcError, MeshError) as error:
            log.debug("upstream %s: logging/setLevel: %s", session.name, error)


def _error(error: Any) -> RpcError:
    if not isinstance(error, dict):
        return RpcError(-32603, "it did not say why", None)
    code = error.get("code")
    return RpcError(
        code if isinstance(code, int) else -32603,
        str(error.get("message") or "it did not say why")[:2000],
        error.get("data"),
    )


def _refusal(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _ident(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else None
