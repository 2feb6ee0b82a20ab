"""Watching: looks at the runs and files that clients have subscribed to, and says when one has changed."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup, TaskStatus

from agentmesh.core.outside import Files
from agentmesh.core.store import Store
from agentmesh.engine.changes import Changes
from agentmesh.errors import TooLarge

log = logging.getLogger("agentmesh.engine")
MOST = 10_000
"""Resources watched at once."""
LOOK = 1.0
"""Seconds between two looks at the files."""


@dataclass(slots=True)
class _Watched:
    """One resource, and how many have asked for it."""

    run_id: str | None = None
    path: str | None = None
    stamp: object = None
    count: int = 0
    scope: anyio.CancelScope | None = None


class Watching:
    """What is watched, counted. Everything here runs on the event loop's thread; `run` may be entered once."""

    def __init__(
        self,
        changes: Changes,
        store: Store,
        files: Files | None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._changes = changes
        self._store = store
        self._files = files
        self._sleep = sleep
        self._watched: dict[str, _Watched] = {}
        self._group: TaskGroup | None = None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watches until it is cancelled."""
        async with anyio.create_task_group() as group:
            self._group = group
            for uri, watched in self._watched.items():
                self._begin(uri, watched)
            task_status.started()
            try:
                await self._look_at_files()
            finally:
                self._group = None

    def run_changes(self, uri: str, run_id: str) -> None:
        """Watches a run. TooLarge when too much is watched."""
        self._add(uri, _Watched(run_id=run_id))

    async def file(self, uri: str, path: str) -> None:
        """Watches a file: what it is when this returns is what it is compared with. TooLarge when too much is watched."""
        stamp = None if self._files is None else await self._files.stamp(path)
        self._add(uri, _Watched(path=path, stamp=stamp))

    def forget(self, uri: str) -> bool:
        """Ends one of the two above; False when there was none."""
        watched = self._watched.get(uri)
        if watched is None:
            return False
        watched.count -= 1
        if watched.count == 0:
            del self._watched[uri]
            if watched.scope is not None:
                watched.scope.cancel()
        return True

    def _add(self, uri: str, new: _Watched) -> None:
        watched = self._watched.get(uri)
        if watched is None:
            if len(self._watched) >= MOST:
                raise TooLarge(f"{MOST:,} resources are watched already; unsubscribe from some")
            watched = self._watched[uri] = new
            self._begin(uri, watched)
        watched.count += 1

    def _begin(self, uri: str, watched: _Watched) -> None:
        if self._group is not None and watched.run_id is not None and watched.scope is None:
            watched.scope = anyio.CancelScope()
            # Subscribed here and not in the task: what happens before it first runs is heard, too.
            self._group.start_soon(self._follow, uri, watched.scope, self._store.changes(watched.run_id))

    async def _follow(self, uri: str, scope: anyio.CancelScope, changes: AsyncIterator[str]) -> None:
        with scope:
            async for _ in changes:
                self._changes.publish("updated", uri)

    async def _look_at_files(self) -> None:
        while True:
            for uri, watched in list(self._watched.items()):
                if watched.path is not None and self._files is not None:
                    try:
                        stamp = await self._files.stamp(watched.path)
                    except Exception:  # one that cannot be looked at must not end the looking at others
                        log.exception("the file %s cannot be looked at", watched.path)
                        continue
                    if stamp != watched.stamp:
                        watched.stamp = stamp
                        self._changes.publish("updated", uri)
            await self._sleep(LOOK)
