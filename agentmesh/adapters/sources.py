"""SourceSet: opens what others serve and a mesh offers: upstream MCP servers, APIs and peers; each in a task of its own.

Opening waits for no network. Files that did not change keep their open source when the mesh is read again; one that is replaced
finishes its calls first. The protocols' libraries are imported here, late: a mesh without upstreams does not pay for them.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import anyio
import anyio.abc
import anyio.to_thread
from anyio.abc import TaskStatus

from agentmesh.core.mesh import Mesh, Peer
from agentmesh.core.outside import HttpClient
from agentmesh.core.registry import no_peer_name
from agentmesh.core.server_file import ServerFile
from agentmesh.core.source import Source
from agentmesh.core.store import Store
from agentmesh.errors import StoreError

if TYPE_CHECKING:
    from agentmesh.adapters.logins import Logins
    from agentmesh.adapters.peer_registry import PeerRegistry

log = logging.getLogger("agentmesh.sources")

GRACE: Final = 60.0
"""Seconds that the calls of a source which was replaced get to end."""
_QUIET: Final = 0.5
LOOK: Final = 2.0
"""Seconds between two looks whether agents were registered, by this server or another of the same store."""


class _Living(Source, AbstractAsyncContextManager[Any], Protocol):
    """A source with a life."""


@dataclass(frozen=True, slots=True)
class _Registered:
    """An agent that no file declares. Its token is a token, and names no secret of this mesh."""

    peer: Peer


@dataclass(slots=True, eq=False)
class _Open:
    source: _Living
    made_of: ServerFile | Peer | _Registered
    stop: anyio.Event = field(default_factory=anyio.Event)


class SourceSet:
    """The open sources of one mesh. `async with` it, then `replace` with each mesh that is read."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        http: HttpClient,
        *,
        state: Path | None = None,
        secrets: Mapping[str, str] = MappingProxyType({}),
        logins: Logins | None = None,
        registry: PeerRegistry | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        """`folder` is the mesh's. `state`: of this server process, by which its children are found again after it was killed.

        `registry`: of agents that were registered, and are opened too.
        """
        self._folder, self._store, self._http, self._secrets, self._logins = folder, store, http, secrets, logins
        self._random = rng or random.Random()
        where = str((state or folder).resolve())
        self._mark = f"sources-{hashlib.sha256(where.encode()).hexdigest()[:16]}-"
        self._open: dict[str, _Open] = {}
        self._registry, self._sleep = registry, sleep
        self._taken: Any = None
        """Mark of the registry as it is open here."""
        self._refused: dict[str, str] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._swept = False

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)
            self._tasks = None

    async def replace(self, mesh: Mesh) -> Sequence[Source]:
        """The sources of this mesh, by name, open. Those of before that it has no more, or has otherwise, end when they are idle.

        Nothing of before ends before everything new is open: when a source cannot be opened, all is as it was.
        """
        assert self._tasks is not None
        wanted: dict[str, ServerFile | Peer | _Registered] = {
            name: server for name, server in mesh.servers.items() if server.is_source
        }
        wanted |= mesh.file.agents
        mark = None if self._registry is None else await self._registry.mark()
        wanted |= await self._registered(mesh)
        fresh: dict[str, _Open] = {}
        try:
            for name, made_of in wanted.items():
                old = self._open.get(name)
                if old is None or old.made_of != made_of:
                    new = _Open(await self._make(name, made_of), made_of)
                    await self._tasks.start(self._live, name, new)
                    fresh[name] = new
        except BaseException:
            for new in fresh.values():
                new.stop.set()
            raise
        leaving = [one for name, one in self._open.items() if name in fresh or name not in wanted]
        for name in self._open.keys() - wanted.keys():
            if self._logins is not None:
                self._logins.drop(name)
        self._open = {name: one for name, one in self._open.items() if name in wanted} | fresh
        for one in leaving:
            one.stop.set()
        self._taken = mark
        return [self._open[name].source for name in sorted(self._open)]

    async def changed(self) -> None:
        """Waits until other agents are registered than are open here. Never returns without a registry."""
        while True:
            await self._sleep(LOOK)
            try:
                if self._registry is not None and await self._registry.mark() != self._taken:
                    return
            except StoreError as error:
                log.warning("whether agents were registered cannot be looked up: %s", error.message)

    async def _registered(self, mesh: Mesh) -> Mapping[str, _Registered]:
        """Those that no file stands in the way of: what is declared later wins over what was registered."""
        found: dict[str, _Registered] = {}
        if self._registry is None:
            return found
        refused: dict[str, str] = {}
        for name, peer in (await self._registry.all()).items():
            why = no_peer_name(name, mesh)
            if why is None:
                found[name] = _Registered(peer)
            else:
                refused[name] = why
                if self._refused.get(name) != why:
                    log.warning("the registered agent %s is not opened: %s", name, why)
        self._refused = refused
        return found

    async def _make(self, name: str, made_of: ServerFile | Peer | _Registered) -> _Living:
        found: _Living
        if isinstance(made_of, (Peer, _Registered)):
            module = await _import("agentmesh.adapters.upstream_a2a")
            if isinstance(made_of, _Registered):
                found = module.PeerSource(name, made_of.peer, store=self._store)
            else:
                found = module.PeerSource(name, made_of, store=self._store, secrets=self._secrets)
        elif made_of.openapi is not None:
            module = await _import("agentmesh.adapters.openapi")
            found = module.OpenApiSource(
                made_of, folder=self._folder, store=self._store, http=self._http, secrets=self._secrets
            )
        else:
            assert made_of.upstream is not None
            if made_of.upstream.command is not None and not self._swept:
                stdio = await _import("agentmesh.adapters.upstream_stdio")
                await anyio.to_thread.run_sync(stdio.end_left, self._mark)
                self._swept = True
            oauth = None
            if made_of.upstream.oauth is not None and self._logins is not None:
                await _import("agentmesh.adapters.upstream_oauth")
                oauth = self._logins.of(made_of, self._secrets)
            module = await _import("agentmesh.adapters.upstream_mcp")
            found = module.UpstreamMcp(
                made_of, folder=self._folder, store=self._store, mark=self._mark, secrets=self._secrets, oauth=oauth,
                rng=self._random,
            )  # fmt: skip
        return found

    async def _live(self, name: str, one: _Open, *, task_status: TaskStatus[None]) -> None:
        """Opens, keeps and closes one source: all in this task."""
        async with one.source:
            task_status.started()
            await one.stop.wait()
            for _ in range(int(GRACE / _QUIET)):
                await anyio.sleep(_QUIET)  # at least once: a call may have found it just before it was replaced
                if not one.source.busy:
                    break
        log.info("%s: closed", name)


async def _import(name: str) -> Any:
    return await anyio.to_thread.run_sync(importlib.import_module, name)
