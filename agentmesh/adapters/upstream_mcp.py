"""UpstreamMcp: somebody else's MCP server, offered by this mesh: tools, resources and prompts of any era for clients of any era.

On the far side stands one server of `servers/*.yaml` with `upstream`, over HTTP or as a child process; on the near side the
engine, by `core.source.Source`. Listings answer from what is known. One connection is kept warm by one task (`Link`); with OAuth
for each user there is one a user, opened when first used and closed when idle. Nothing here waits for an upstream but a call of it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import anyio
import anyio.abc
import mcp_types as types

from agentmesh.adapters import upstream_mcp_listing as listing
from agentmesh.adapters.approvals import Approvals
from agentmesh.adapters.breaker import Breaker, BreakerPace
from agentmesh.adapters.upstream_http import Http, PlainHttp
from agentmesh.adapters.upstream_mcp_catalog import Catalog
from agentmesh.adapters.upstream_mcp_http import HttpWire
from agentmesh.adapters.upstream_mcp_httpx import Httpx2Http
from agentmesh.adapters.upstream_mcp_link import LISTS, Link, LinkPace
from agentmesh.adapters.upstream_mcp_rounds import rounds
from agentmesh.adapters.upstream_mcp_session import METHODS, Exchange, RpcError, Session
from agentmesh.adapters.upstream_mcp_talk import Talk, Talks
from agentmesh.adapters.upstream_mcp_watch import Watch
from agentmesh.adapters.upstream_mcp_wire import Broken, HttpStatus, Wire
from agentmesh.adapters.upstream_stdio import ChildSpec, child_wire
from agentmesh.core.caller import NOBODY, Caller
from agentmesh.core.content import text_of_blocks
from agentmesh.core.policy import Principal
from agentmesh.core.resource import Completion, Prompt, PromptResult, Resource, ResourceTemplate
from agentmesh.core.secret import fill_secrets
from agentmesh.core.server_file import ServerFile
from agentmesh.core.size import size_in_bytes
from agentmesh.core.source import Change, Held, OnChange, SourceCall, SourceStatus
from agentmesh.core.store import Store
from agentmesh.core.tool import Tool, ToolResult
from agentmesh.core.workflow import seconds
from agentmesh.errors import Fail, InvalidInput, MeshError, MissingCapability, NotFound, NotSent, Retry, Unanswered

if TYPE_CHECKING:
    from agentmesh.adapters.upstream_oauth import UpstreamOAuth

log = logging.getLogger("agentmesh.sources")

KEY: Final = "io.agentmesh/idempotency-key"
IDLE: Final = 900.0
"""Seconds without a call after which a user's own connection is closed."""
USERS: Final = 1000
"""Users' connections at once; the one that was longest idle makes room."""
SWEEP: Final = 30.0
COMPLETIONS: Final = 100
LINK_PACE: Final = LinkPace()
BREAKER_PACE: Final = BreakerPace()
_PROTOCOL_META: Final = "io.modelcontextprotocol/"


State = Literal["connecting", "ready", "failed", "open"]


@dataclass(slots=True, eq=False)
class _Tie:
    """A link and what belongs to it."""

    link: Link
    principal: Principal | None
    http: Http | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    busy: int = 0
    used: float = 0.0


class UpstreamMcp:
    """One upstream. `async with` it: entering reads the store and starts connecting, and waits for no network.

    Leave it in the task that entered it; then its connections and children end.
    """

    def __init__(
        self,
        server: ServerFile,
        *,
        folder: Path,
        store: Store,
        mark: str = "",
        secrets: Mapping[str, str] = MappingProxyType({}),
        oauth: UpstreamOAuth | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        pace: LinkPace = LINK_PACE,
        breaker: BreakerPace = BREAKER_PACE,
    ) -> None:
        """`mark`: of this mesh's children, the same after a restart. `oauth`: what authorizes requests, where the file says so."""
        assert server.upstream is not None
        self._server, self._spec, self._oauth = server, server.upstream, oauth
        self._folder, self._mark, self._secrets, self._sleep, self._pace = folder, mark, secrets, sleep, pace
        self._random = rng or random.Random()
        self._breaker = Breaker(server.name, clock=clock, rng=self._random, pace=breaker)
        self._timeout = seconds(self._spec.timeout)
        self._room = anyio.CapacityLimiter(self._spec.at_once)
        approvals = Approvals(store, f"upstream:{server.name}", mode=server.approve)
        self._catalog = Catalog(server, approvals, self._tell, timeout=self._timeout)
        self._hearing: list[OnChange] = []
        self._tasks: anyio.abc.TaskGroup | None = None
        self._ties: dict[tuple[str, str] | None, _Tie] = {}
        self._lister: _Tie | None = None
        self._talks: Talks | None = None
        self._watch = Watch(server.name, self._updated, rng=self._random, sleep=sleep)

    async def __aenter__(self) -> Self:
        await self._catalog.load()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._talks = Talks(self.name, self._tasks)
        self._tasks.start_soon(self._sweep)
        if self._oauth is not None and self._oauth.per_user:
            self._oauth.on_login(self._logged_in)
            self._tasks.start_soon(self._first_user)
        else:
            self._tie(None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)
            self._tasks = None

    # -- what is known

    @property
    def name(self) -> str:
        return self._server.name

    def tools(self) -> Mapping[str, Tool]:
        return self._catalog.tools

    def resources(self) -> Sequence[Resource]:
        return self._catalog.resources

    def templates(self) -> Sequence[ResourceTemplate]:
        return self._catalog.templates

    def prompts(self) -> Mapping[str, Prompt]:
        return self._catalog.prompts

    def held(self) -> Sequence[Held]:
        return self._catalog.approvals.held()

    def status(self) -> SourceStatus:
        link = self._lister.link if self._lister is not None else None
        state: State = "failed" if link is None else link.state
        detail = self._way_in() if link is None else link.detail
        if self._breaker.is_open:
            state, detail = "open", f"{detail}; nothing is sent for {self._breaker.left:.0f} s more"
        if self._catalog.detail:
            detail = f"{detail}; {self._catalog.detail}"
        return SourceStatus(self.name, "upstream", state, detail, len(self.tools()), len(self.held()))

    def _way_in(self) -> str:
        return f"log in at {self._oauth.way_in}" if self._oauth is not None else "not started"

    def on_change(self, hear: OnChange) -> None:
        self._hearing.append(hear)

    def _tell(self, change: Change, uri: str | None = None) -> None:
        for hear in self._hearing:
            hear(change, uri)

    def _updated(self, uri: str) -> None:
        self._tell("updated", uri)

    async def approve(self, names: Sequence[str]) -> Sequence[str]:
        return await self._catalog.approve(names)

    # -- calls

    @property
    def busy(self) -> int:
        """Requests that somebody waits for, and those whose clients are to come again."""
        return self._room.borrowed_tokens + (0 if self._talks is None else self._talks.parked)

    async def call(self, call: SourceCall) -> ToolResult:
        name = call.tool.name
        own = self._catalog.own(name)
        if own is None:
            raise NotFound(f"{self.name} does not offer {name} any more")
        if (refusal := self._catalog.approvals.refusal(name)) is not None:
            raise Fail(refusal)
        params: dict[str, Any] = {"name": own, "arguments": dict(call.arguments)}
        if call.key:
            params["_meta"] = {KEY: call.key}
        result = await self._ask(
            "tools/call", params, call.principal, call.caller, again=not call.writes,
            timeout=self._timeout if call.timeout is None else call.timeout,
            headers=self._catalog.headers(name, call.arguments),
        )  # fmt: skip
        content = listing.blocks(result.get("content"), name)
        structured, is_error = result.get("structuredContent"), result.get("isError") is True
        if not is_error:
            self._catalog.check(self._catalog.tools.get(name, call.tool), structured)
        meta = result.get("_meta")
        kept = {k: v for k, v in meta.items() if not k.startswith(_PROTOCOL_META)} if isinstance(meta, dict) else None
        return ToolResult(structured, text_of_blocks(content), is_error, content=content, meta=kept or None)

    async def read(self, uri: str, *, principal: Principal, caller: Caller = NOBODY) -> Sequence[Mapping[str, Any]]:
        result = await self._ask(
            "resources/read", {"uri": uri}, principal, caller, missing=f"there is no resource {uri!r}"
        )
        return listing.contents(result.get("contents"), self.name)

    async def prompt(
        self, name: str, arguments: Mapping[str, str], *, principal: Principal, caller: Caller = NOBODY
    ) -> PromptResult:
        own = self._catalog.own_prompt(name)
        if own is None:
            raise NotFound(f"{self.name} does not offer the prompt {name!r}")
        result = await self._ask("prompts/get", {"name": own, "arguments": dict(arguments)}, principal, caller)
        return PromptResult(
            tuple(listing.messages(result.get("messages"), self.name)), str(result.get("description") or "")
        )

    async def complete(
        self, ref: Mapping[str, Any], argument: Mapping[str, str], context: Mapping[str, str], *, principal: Principal
    ) -> Completion:
        tie = await self._to(principal, NOBODY)
        session = tie.link.ready or await tie.link.session(self._timeout)
        if "completions" not in session.capabilities:
            return Completion()
        ref = dict(ref)
        if ref.get("type") == "ref/prompt":
            own = self._catalog.own_prompt(str(ref.get("name")))
            if own is None:
                raise NotFound(f"{self.name} does not offer the prompt {ref.get('name')!r}")
            ref["name"] = own
        params: dict[str, Any] = {"ref": ref, "argument": dict(argument)}
        if context:
            params["context"] = {"arguments": dict(context)}
        found = (await self._ask("completion/complete", params, principal, NOBODY)).get("completion")
        values = found.get("values") if isinstance(found, dict) else None
        if not isinstance(found, dict) or not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise Fail(f"{self.name} answered a completion that is none")
        total = found.get("total")
        return Completion(
            tuple(values[:COMPLETIONS]),
            total if isinstance(total, int) and total >= 0 else None,
            found.get("hasMore") is True or len(values) > COMPLETIONS,
        )

    async def subscribe(self, uri: str) -> None:
        session = self._lister.link.ready if self._lister is not None else None
        await self._watch.add(uri, session, self._timeout)

    async def unsubscribe(self, uri: str) -> None:
        session = self._lister.link.ready if self._lister is not None else None
        await self._watch.remove(uri, session, self._timeout)

    async def _ask(
        self, method: str, params: Mapping[str, Any], principal: Principal, caller: Caller, *,
        again: bool = True, timeout: float | None = None, headers: Mapping[str, str] = MappingProxyType({}), missing: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """The result of one request, of as many rounds as it takes, with the breaker around it."""
        timeout = self._timeout if timeout is None else timeout
        with self._breaker.passing():
            place = object()
            await self._enter(place, timeout)
            try:
                result = await self._authorized(method, params, principal, caller, again, timeout, headers)
            except (NotSent, Unanswered):
                self._breaker.failed()
                raise
            except RpcError as error:
                self._breaker.succeeded()
                raise self._translated(error, method, missing) from None
            except (Fail, Retry):
                self._breaker.succeeded()
                raise
            finally:
                self._room.release_on_behalf_of(place)
            self._breaker.succeeded()
            return result

    async def _enter(self, place: object, timeout: float) -> None:
        """Waits for one of the `at_once` places. NotSent when none gets free in time."""
        try:
            self._room.acquire_on_behalf_of_nowait(place)
        except anyio.WouldBlock:
            with anyio.move_on_after(timeout):
                await self._room.acquire_on_behalf_of(place)
                return
            raise NotSent(
                f"{self.name} has {self._spec.at_once} calls in flight (`at_once`), of which none ended in {timeout:g} s"
            ) from None

    async def _authorized(
        self, method: str, params: Mapping[str, Any], principal: Principal, caller: Caller, again: bool, timeout: float,
        headers: Mapping[str, str],
    ) -> dict[str, Any]:  # fmt: skip
        if self._oauth is None:
            return await self._sent(method, params, principal, caller, again, timeout, headers)
        with self._oauth.attempt() as attempt:
            try:
                return await self._sent(method, params, principal, caller, again, timeout, headers)
            except (NotSent, HttpStatus) as error:
                if isinstance(error, HttpStatus) and error.status not in (401, 403):
                    raise
                # The connection may have found out in its own task that the login has ended.
                if attempt.refusal is None and await self._oauth.token(principal) is not None:
                    raise
        # 401 and 403 of the request itself say that it was not done, and so does what could not be sent: it may be sent once more
        # when there is another token. Whatever else was refused meanwhile (a stream that was to go on, a notice) says nothing of it.
        await self._oauth.require(principal, caller, after=attempt)
        return await self._sent(method, params, principal, caller, again, timeout, headers)

    async def _sent(
        self, method: str, params: Mapping[str, Any], principal: Principal, caller: Caller, again: bool, timeout: float,
        headers: Mapping[str, str],
    ) -> dict[str, Any]:  # fmt: skip
        tie = await self._to(principal, caller)
        tie.busy += 1
        try:
            for _ in range(2):
                session = tie.link.ready or await tie.link.session(timeout)
                try:
                    return await self._spoken(tie, session, method, params, principal, caller, again, timeout, headers)
                except NotSent as error:
                    lost = error  # it did nothing, so it may be sent to the next session
                    tie.link.lost(session, error.message)
                except Broken as error:
                    tie.link.lost(session, error.message)
                    raise
            raise lost
        finally:
            tie.busy -= 1
            tie.used = anyio.current_time()

    async def _spoken(
        self, tie: _Tie, session: Session, method: str, params: Mapping[str, Any], principal: Principal, caller: Caller,
        again: bool, timeout: float, headers: Mapping[str, str],
    ) -> dict[str, Any]:  # fmt: skip
        async def send(params: Mapping[str, Any], exchange: Exchange) -> dict[str, Any]:
            return await session.request(
                method, params, timeout=timeout, exchange=exchange, headers=headers if session.modern else {}, again=again
            )  # fmt: skip

        if session.modern:
            return await rounds(
                f"{self.name} {method}", params, caller, lambda params: send(params, Exchange(caller)), self._sleep
            )
        if caller is NOBODY or not any(map(caller.can, METHODS)):
            return await send(params, Exchange(caller))
        assert self._talks is not None

        async def talk(talk: Talk) -> dict[str, Any]:
            tie.busy += 1  # until it ends, also while its client is away
            try:
                return await send(params, Exchange(talk.ear, talk.ask))
            finally:
                tie.busy -= 1
                tie.used = anyio.current_time()

        return await self._talks.call(caller, principal, talk)

    def _translated(self, error: RpcError, method: str, missing: str) -> MeshError:
        """A JSON-RPC error as one of ours."""
        said = f"{self.name} refuses {method}: {error.message}"
        if missing and error.code in (types.INVALID_PARAMS, -32002):
            return NotFound(missing)
        if error.code == types.INVALID_PARAMS:
            return InvalidInput(said)
        if error.code == types.MISSING_REQUIRED_CLIENT_CAPABILITY:
            data = error.data if isinstance(error.data, dict) else {}
            return MissingCapability(said, requiredCapabilities=data.get("requiredCapabilities", {}))
        if error.code == types.HEADER_MISMATCH:
            self._watch.stale("tools")  # its schema says other headers than the one that we know
            return Fail(f"{said}; its tools are looked at again, call once more")
        return Fail(said)

    # -- connections

    async def _to(self, principal: Principal, caller: Caller) -> _Tie:
        """The connection for a caller."""
        if self._oauth is None or not self._oauth.per_user:
            return self._ties[None]
        await self._oauth.require(principal, caller)
        return self._tie(principal)

    def _tie(self, principal: Principal | None) -> _Tie:
        whose = None if principal is None else (principal.tenant, principal.subject)
        tie = self._ties.get(whose)
        if tie is None:
            assert self._tasks is not None
            if len(self._ties) >= USERS:
                self._untie(min((t for t in self._ties.values() if not t.busy), key=lambda t: t.used, default=None))
            http = self._http(principal)
            tie = _Tie(self._link(principal, http), principal, http, used=anyio.current_time())
            self._ties[whose] = tie
            self._lister = self._lister or tie
            self._tasks.start_soon(self._run, tie)
        return tie

    def _untie(self, tie: _Tie | None) -> None:
        if tie is not None:
            self._ties = {whose: other for whose, other in self._ties.items() if other is not tie}
            tie.scope.cancel()
            if self._lister is tie:
                self._lister = next(iter(self._ties.values()), None)

    async def _run(self, tie: _Tie) -> None:
        try:
            with tie.scope:
                await tie.link.run()
        finally:
            if tie.http is not None:
                with anyio.CancelScope(shield=True):
                    await tie.http.aclose()

    def _http(self, principal: Principal | None) -> Http | None:
        if self._spec.url is None:
            return None
        if self._oauth is None and self._spec.url.startswith("http://"):
            return PlainHttp()
        auth = None if self._oauth is None else self._oauth.auth(principal)
        return Httpx2Http(at_once=self._spec.at_once, auth=auth)

    def _link(self, principal: Principal | None, http: Http | None) -> Link:
        assert self._tasks is not None
        opener: Callable[[], AbstractAsyncContextManager[Wire]]
        opener = self._child if http is None else lambda: self._over(http)
        return Link(
            self.name, opener, tasks=self._tasks, serve=lambda session: self._serve(session, principal),
            notice=self._notice, breaker=self._breaker, rng=self._random, pace=self._pace, duplex=http is None,
        )  # fmt: skip

    @asynccontextmanager
    async def _over(self, http: Http) -> AsyncIterator[Wire]:
        headers = {name: fill_secrets(value, self._secrets) for name, value in self._spec.headers.items()}
        if self._spec.token is not None:
            headers["authorization"] = f"Bearer {fill_secrets(self._spec.token, self._secrets)}"
        yield HttpWire(self.name, self._spec.url or "", http, headers, sleep=self._sleep)

    def _child(self) -> AbstractAsyncContextManager[Wire]:
        return child_wire(
            ChildSpec(
                name=self.name,
                command=self._spec.command or (),
                env={name: fill_secrets(value, self._secrets) for name, value in self._spec.env.items()},
                folder=self._folder / (self._spec.cwd or "."),
                memory=size_in_bytes(self._spec.memory),
                mark=f"{self._mark}{self.name}",
            )
        )

    async def _serve(self, session: Session, principal: Principal | None) -> None:
        """What is done as long as a session lives: its lists are kept fresh, and its news are heard."""
        tie = self._lister
        if tie is None or tie.principal != principal:
            return
        await self._catalog.refresh(session)
        await self._watch.run(session, lambda what: self._catalog.refresh(session, what))

    def _notice(self, method: str, params: Mapping[str, Any]) -> None:
        if method in LISTS:
            self._watch.stale(LISTS[method])
        elif method == "notifications/resources/updated" and isinstance(uri := params.get("uri"), str):
            self._watch.heard(uri)

    def _logged_in(self, principal: Principal) -> None:
        if self._tasks is None:
            return
        tie = self._tie(principal)
        tie.link.hurry()
        self._lister = self._lister or tie
        if self._lister is tie and self._catalog.detail:
            for what in LISTS.values():
                self._watch.stale(what)  # what was refused to the login of before may be listed now

    async def _first_user(self) -> None:
        assert self._oauth is not None
        principal = await self._oauth.someone()
        if principal is not None:
            self._logged_in(principal)

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(SWEEP)
            assert self._talks is not None
            self._talks.sweep()
            before = anyio.current_time() - IDLE
            for tie in list(self._ties.values()):
                if isinstance(tie.http, PlainHttp):
                    tie.http.tidy()
                if tie.principal is not None and tie is not self._lister and not tie.busy and tie.used < before:
                    self._untie(tie)
