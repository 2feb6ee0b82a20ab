"""Watch: hears what changes at an upstream, by the means of its era, and has what changed looked at again.

A modern upstream tells on streams that stay open (`subscriptions/listen`): one for its lists, and one for each resource that
somebody watches, so that watching another leaves no gap in the ones before. One of the older era tells by itself, about the
resources that were subscribed to. Lists that nobody tells about are looked at now and then.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import anyio
import anyio.abc

from agentmesh.adapters.upstream_mcp_catalog import ALL
from agentmesh.adapters.upstream_mcp_link import Changed
from agentmesh.adapters.upstream_mcp_session import RpcError, Session
from agentmesh.errors import Conflict, Fail, InvalidInput, MeshError, NotSent

log = logging.getLogger("agentmesh.sources")

LOOK: Final = 300.0
"""Seconds after which all lists are looked at again, whatever the upstream tells of."""
LEAST: Final = 0.5
"""Between two looks, however often the upstream says that something changed."""
WATCHED: Final = 200
"""Resources of one upstream."""
AGAIN: Final = 1.0
AGAIN_LIMIT: Final = 60.0
LOST: Final = 5
"""Streams in a row that could not be opened, after which the upstream counts as gone."""
_FILTER: Final = {"tools": "toolsListChanged", "prompts": "promptsListChanged", "resources": "resourcesListChanged"}


class Watch:
    """Of one upstream; `run` for each session."""

    def __init__(
        self,
        name: str,
        updated: Callable[[str], None],
        *,
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._name, self._updated, self._random, self._sleep = name, updated, rng, sleep
        self._uris: Counter[str] = Counter()
        self._stale: set[Changed] = set()
        self._news = anyio.Event()
        self._told: set[Changed] = set()
        """Lists whose changes the upstream tells; the others are looked at now and then."""
        self._streams: dict[str, anyio.CancelScope] = {}
        self._group: anyio.abc.TaskGroup | None = None

    def stale(self, what: Changed) -> None:
        """Says that a list is another now."""
        self._stale.add(what)
        self._news.set()

    def heard(self, uri: str) -> None:
        """Says that a resource has changed. A stream that is told of a folder may name what is in it."""
        if any(uri == watched or uri.startswith(watched) for watched in self._uris):
            self._updated(uri)

    async def run(self, session: Session, refresh: Callable[[Collection[Changed]], Awaitable[None]]) -> None:
        """Until it is cancelled. NotSent when the upstream counts as gone."""
        told = self._told = {what for what in ALL if _tells(session, what, "listChanged")}
        async with anyio.create_task_group() as group:
            self._group, self._streams = group, {}
            try:
                if session.modern and told:
                    group.start_soon(self._listen, session, {_FILTER[what]: True for what in told}, told)
                for uri in list(self._uris):
                    try:
                        await self._begin(session, uri)
                    except InvalidInput as error:
                        log.warning("%s", error)
                await self._look(refresh)
            finally:
                self._group, self._streams = None, {}
                group.cancel_scope.cancel()

    async def _look(self, refresh: Callable[[Collection[Changed]], Awaitable[None]]) -> None:
        while True:
            with anyio.move_on_after(LOOK * self._random.uniform(0.8, 1.2)) as scope:
                await self._news.wait()
            looked = scope.cancelled_caught
            # Now and then all of them, those too that it promised to tell of: a stream may hang on a process that is gone.
            what = [one for one in ALL if looked or one in self._stale]
            self._news, self._stale = anyio.Event(), set()
            if what:
                await refresh(what)
            await self._sleep(LEAST)

    async def _listen(self, session: Session, wanted: dict[str, Any], told: Collection[Changed] = ()) -> None:
        """Holds one stream open. What was missed while it was not is looked at again."""
        failures, first = 0, True
        while True:
            if not first:
                for what in told:
                    self.stale(what)
            first, began = False, anyio.current_time()
            try:
                await session.request("subscriptions/listen", {"notifications": wanted}, timeout=None)
            except (RpcError, Fail) as error:
                log.warning("upstream %s: does not tell of changes: %s", self._name, error)
                self._told.difference_update(told)
                return
            except MeshError as error:
                if anyio.current_time() - began < AGAIN:
                    failures += 1
                if failures >= LOST:
                    raise NotSent(f"{self._name} is gone: {error.message}") from error
            if anyio.current_time() - began > AGAIN_LIMIT:
                failures = 0
            await self._sleep(min(AGAIN_LIMIT, AGAIN * 2**failures) * self._random.uniform(0.75, 1.25))

    # -- resources

    async def add(self, uri: str, session: Session | None, timeout: float) -> None:
        """InvalidInput when the upstream tells of no resource, Conflict when there are too many."""
        if session is not None and not _tells(session, "resources", "subscribe"):
            raise InvalidInput(f"{self._name} does not tell when a resource changes")
        if uri not in self._uris and len(self._uris) >= WATCHED:
            raise Conflict(f"{WATCHED} resources of {self._name} are watched already")
        self._uris[uri] += 1
        if self._uris[uri] == 1 and session is not None:
            try:
                await self._begin(session, uri, timeout)
            except BaseException:
                self._drop(uri)
                raise

    async def remove(self, uri: str, session: Session | None, timeout: float) -> None:
        if uri not in self._uris:
            return
        if self._drop(uri):
            return
        if (scope := self._streams.pop(uri, None)) is not None:
            scope.cancel()
        elif session is not None and not session.modern:
            try:
                await session.request("resources/unsubscribe", {"uri": uri}, timeout=timeout)
            except (RpcError, MeshError) as error:
                log.debug("upstream %s: resources/unsubscribe: %s", self._name, error)

    def _drop(self, uri: str) -> int:
        """How many still watch it."""
        self._uris[uri] -= 1
        if self._uris[uri] > 0:
            return self._uris[uri]
        del self._uris[uri]
        return 0

    async def _begin(self, session: Session, uri: str, timeout: float = 30.0) -> None:
        if session.modern:
            if self._group is not None and uri not in self._streams:
                scope = self._streams[uri] = anyio.CancelScope()
                self._group.start_soon(self._follow, session, uri, scope)
            return
        try:
            await session.request("resources/subscribe", {"uri": uri}, timeout=timeout)
        except RpcError as error:
            raise InvalidInput(f"{self._name} does not let {uri!r} be watched: {error.message}") from None

    async def _follow(self, session: Session, uri: str, scope: anyio.CancelScope) -> None:
        with scope:
            await self._listen(session, {"resourceSubscriptions": [uri]})


def _tells(session: Session, what: str, how: str) -> bool:
    offered = session.capabilities.get(what)
    return isinstance(offered, dict) and offered.get(how) is True
