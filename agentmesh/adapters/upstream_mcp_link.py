"""Link: the connection to one upstream as one identity, opened, kept and closed by one task.

It is never anybody's else: whoever calls, waits a moment for the session and uses it. When the connection ends, or a call finds
that nobody is there, the task opens another, after a pause that grows and is never quite the same.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Literal

import anyio
import anyio.abc

from agentmesh.adapters.breaker import Breaker
from agentmesh.adapters.upstream_mcp_session import Notice, RpcError, Session, negotiate
from agentmesh.adapters.upstream_mcp_wire import Wire
from agentmesh.errors import MeshError, NotSent

log = logging.getLogger("agentmesh.sources")

Changed = Literal["tools", "prompts", "resources"]
LISTS: Mapping[str, Changed] = {
    "notifications/tools/list_changed": "tools",
    "notifications/prompts/list_changed": "prompts",
    "notifications/resources/list_changed": "resources",
}


@dataclass(frozen=True, slots=True)
class LinkPace:
    """Seconds. Tests shorten them."""

    connect: float = 30.0
    """For agreeing on a revision; a program that npx or uvx has to fetch first takes its time."""
    probe: float = 10.0
    """Of it, for an answer to `server/discover`."""
    wait: float = 10.0
    """That a call waits for a session that is on its way."""
    backoff: float = 0.5
    """Before the second attempt; doubles up to `backoff_limit`. The first follows at once."""
    backoff_limit: float = 60.0
    settled: float = 30.0
    """A connection that lived this long begins again with `backoff`."""
    again: float = 0.2
    """Between two attempts at least, however urgent a call is."""
    older: bool = False
    """Begin with `initialize`: the upstream is known to be of the older era."""


class Link:
    """One connection. `run` is its life, and is cancelled to end it."""

    def __init__(
        self,
        name: str,
        open_wire: Callable[[], AbstractAsyncContextManager[Wire]],
        *,
        tasks: anyio.abc.TaskGroup,
        serve: Callable[[Session], Awaitable[None]],
        notice: Notice,
        breaker: Breaker,
        rng: random.Random,
        pace: LinkPace = LinkPace(),
        duplex: bool = False,
    ) -> None:
        """`serve` runs as long as a session does, and is cancelled with it. In `tasks` is answered what the upstream asks.

        `duplex`: all its messages come on one stream, which has to be read for anything to be answered (a child's pipe).
        """
        self._name, self._open_wire, self._tasks, self._serve, self._notice = name, open_wire, tasks, serve, notice
        self._breaker, self._random, self._pace, self._duplex = breaker, rng, pace, duplex
        self._session: Session | None = None
        self._turn = anyio.Event()
        """Set, and another put in its place, when an attempt to connect has ended, well or not."""
        self._served = False
        self._urgent = anyio.Event()
        self._lost = anyio.Event()
        self._legacy = pace.older
        """The upstream ended when it was asked `server/discover`: it is not asked again."""
        self.state: Literal["connecting", "ready", "failed"] = "connecting"
        self.detail = "connecting"

    async def session(self, wait: float | None = None) -> Session:
        """The session, waiting a moment for one that is on its way. NotSent when there is none."""
        if self._session is not None:
            return self._session
        self._urgent.set()
        turn = self._turn
        with anyio.move_on_after(self._pace.wait if wait is None else min(wait, self._pace.wait)):
            await turn.wait()
            if self._session is not None:
                return self._session
        raise NotSent(f"{self.detail or f'{self._name} is not connected yet'}; nothing was sent", after=1.0)

    def hurry(self) -> None:
        """Has the next attempt to connect made soon."""
        self._urgent.set()

    @property
    def ready(self) -> Session | None:
        """The session, when there is one."""
        return self._session

    def lost(self, session: Session, why: str) -> None:
        """Says that a call found nobody there; another session is opened. Calls that go on are not touched."""
        if self._session is session:
            self._session, self.state, self.detail = None, "connecting", why
            self._lost.set()

    async def run(self) -> None:
        failures, said = 0, ""
        while True:
            began, self._served, self.state = anyio.current_time(), False, "connecting"
            try:
                await self._once()
            except (MeshError, RpcError, OSError) as error:
                self.detail = str(error) or type(error).__name__
            except Exception as error:
                # Whatever an upstream makes us stumble over, the others go on, and so does the mesh.
                log.exception("upstream %s", self._name)
                self.detail = f"{type(error).__name__}: {error}"
            self._session = None
            if self._served and anyio.current_time() - began > self._pace.settled:
                failures = 0
            failures += 1
            log.log(
                logging.DEBUG if said == self.detail else logging.WARNING, "upstream %s: %s", self._name, self.detail
            )
            said = "" if self._served else self.detail
            if not self._served:
                self.state = "failed"
                self._flip()
            if not self._served or failures > 1:
                await self._rest(failures)

    async def _rest(self, failures: int) -> None:
        """Pauses before the next attempt. A call that waits shortens it, but not to nothing where attempts fail again and again."""
        self._urgent = anyio.Event()
        delay = min(self._pace.backoff_limit, self._pace.backoff * 2 ** min(failures - 1, 20))
        delay *= self._random.uniform(0.75, 1.25)
        least = min(delay, self._pace.again * 2 ** min(failures - 1, 6))
        await anyio.sleep(least)
        with anyio.move_on_after(delay - least):
            await self._urgent.wait()

    def _flip(self) -> None:
        turn, self._turn = self._turn, anyio.Event()
        turn.set()

    async def _once(self) -> None:
        """One connection, from its opening to its end."""
        self._lost = anyio.Event()
        error: MeshError | RpcError | None = None
        async with self._open_wire() as wire, anyio.create_task_group() as group:
            session = Session(self._name, wire, self._tasks, self._notice)

            async def within(work: Callable[[], Awaitable[None]]) -> None:
                nonlocal error
                try:
                    await work()
                except (MeshError, RpcError) as caught:
                    error = error or caught
                    group.cancel_scope.cancel()

            if self._duplex:
                group.start_soon(within, lambda: wire.listen(session.hear))
            try:
                with anyio.move_on_after(self._pace.connect) as scope:
                    await negotiate(session, legacy=self._legacy, probe_time=self._pace.probe)
                if scope.cancelled_caught:
                    error = NotSent(f"{self._name} did not greet us within {self._pace.connect:g} s")
                    raise error
                if not self._duplex:
                    group.start_soon(within, lambda: wire.listen(session.hear))
                self._ready(session)
                group.start_soon(within, lambda: self._serve(session))
                await self._lost.wait()
                error = NotSent(self.detail)
            except (MeshError, RpcError) as caught:
                error = error or caught
            finally:
                if self._duplex and not self._served:
                    self._legacy = not self._legacy
                if not self._lost.is_set():  # calls that go on may have the session still
                    with anyio.CancelScope(shield=True), suppress(MeshError):
                        await wire.aclose()
                group.cancel_scope.cancel()
        if error is not None:
            raise error

    def _ready(self, session: Session) -> None:
        self._session, self.state, self._served = session, "ready", True
        self.detail = f"MCP {session.version}"
        self._breaker.succeeded()
        self._flip()
