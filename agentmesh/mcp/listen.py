"""Who is told of changes: the streams of `subscriptions/listen` (2026-07-28) and the sessions of the older era, fed by engine.changes.

A stream hears only what it asked for and what its caller may read, each frame with the id of its request. A change is news and no
count: what a slow reader missed is told once. Streams and sessions are bounded for each caller and in all, so that one who opens
hundreds leaves room for others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import (
    Notification,
    NotificationParams,
    PromptListChangedNotification,
    ResourceListChangedNotification,
    ResourceUpdatedNotification,
    ResourceUpdatedNotificationParams,
    ServerNotification,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    ToolListChangedNotification,
)

from agentmesh.core.policy import Principal
from agentmesh.core.source import Change
from agentmesh.errors import CallerError, MeshError, TooLarge
from agentmesh.mcp.convert import UNAVAILABLE
from agentmesh.mcp.sessions import Session, connection_of

if TYPE_CHECKING:
    from anyio.abc import TaskGroup
    from mcp.server.context import ServerRequestContext

    from agentmesh.engine import Engine

log = logging.getLogger("agentmesh.mcp")

STREAMS: Final = 4096
"""Listen streams at once; a stream costs about 60 kB."""
STREAMS_OF_ONE: Final = 1024
"""Of them, those of one caller."""
URIS: Final = 1000
"""Resources that one stream, or session, may subscribe to."""

Owner = tuple[str, str]


class TaskNews(Protocol):
    """What of the tasks extension a stream may ask for: `notifications/tasks` of its own tasks."""

    async def agreed(self, ctx: ServerRequestContext[Any], task_ids: Any) -> Sequence[str]: ...
    async def watch(
        self, ctx: ServerRequestContext[Any], task_ids: Sequence[str], tell: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None: ...


class _Stream:
    """What one listen stream has not told yet."""

    def __init__(self, kinds: frozenset[Change]) -> None:
        self.kinds = kinds
        self.uris: frozenset[str] = frozenset()
        self.ended = False
        self._waiting: dict[tuple[Change, str | None], None] = {}
        self._news: anyio.Event | None = None

    def hear(self, change: Change, uri: str | None) -> None:
        if change in self.kinds if change != "updated" else uri in self.uris:
            self._waiting.setdefault((change, uri))
            if self._news is not None:
                self._news.set()

    def end(self) -> None:
        self.ended = True
        if self._news is not None:
            self._news.set()

    async def next(self) -> tuple[Change, str | None] | None:
        """The next change; None when the server ends the stream."""
        while not self._waiting:
            if self.ended:
                return None
            self._news = anyio.Event()
            await self._news.wait()
        first = next(iter(self._waiting))
        del self._waiting[first]
        return first


class Hub:
    """One for an edge; `run` holds it."""

    def __init__(
        self,
        engine: Engine,
        *,
        streams: int = STREAMS,
        streams_of_one: int = STREAMS_OF_ONE,
        sessions_of_one: int = 500,
    ) -> None:
        self.tasks: TaskNews | None = None
        """What tells of tasks, where the mesh has such."""
        self._engine = engine
        self._max = streams
        self._max_of_one = streams_of_one
        self._sessions_of_one = sessions_of_one
        self._streams: dict[_Stream, None] = {}
        self._of_one: Counter[Owner] = Counter()
        self._sessions: dict[Session, None] = {}
        self._opened: Counter[Owner] = Counter()
        self._group: TaskGroup | None = None
        self._closed = False

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Tells whoever is there of what changes; leaving ends the streams, each with its result."""
        async with anyio.create_task_group() as group:
            self._group = group
            group.start_soon(self._spread)
            try:
                yield
            finally:
                self._group = None
                self.close()
                group.cancel_scope.cancel()

    def close(self) -> None:
        """Ends every stream gracefully (basic/patterns/subscriptions, Graceful Closure); new ones end at once."""
        self._closed = True
        for stream in self._streams:
            stream.end()

    async def _spread(self) -> None:
        with self._engine.changes.subscribe() as heard:
            async for change, uri in heard:
                for stream in self._streams:
                    stream.hear(change, uri)
                for session in self._sessions:
                    if session.hear(change, uri) and self._group is not None:
                        self._group.start_soon(self._tell, session)

    @staticmethod
    async def _tell(session: Session) -> None:
        try:
            await session.tell()
        except Exception:
            log.exception("a session could not be told of a change")

    # Sessions of the older era

    def full(self, principal: Principal) -> bool:
        """Whether a caller has as many sessions as one may."""
        return self._opened[_owner(principal)] >= self._sessions_of_one

    def open(self, ctx: ServerRequestContext[Any], principal: Principal) -> None:
        """Keeps a session that `initialize` opened, until its connection ends."""
        connection = connection_of(ctx)
        session = Session(connection, principal)
        self._sessions[session] = None
        self._opened[_owner(principal)] += 1
        connection.exit_stack.push_async_callback(self._end, session)

    async def _end(self, session: Session) -> None:
        self._sessions.pop(session, None)
        _less(self._opened, _owner(session.principal))
        await self._release(session.principal, session.uris)

    async def subscribe(self, ctx: ServerRequestContext[Any], principal: Principal, uri: str) -> None:
        """`resources/subscribe`. Raises what Resources.subscribe does; TooLarge past the limit."""
        session = Session.of(ctx)
        if session is None or uri in session.uris:
            return
        if len(session.uris) >= URIS:
            raise TooLarge(f"a session subscribes to at most {URIS} resources; unsubscribe from some first")
        await self._engine.resources.subscribe(principal, uri)
        session.uris.add(uri)

    async def unsubscribe(self, ctx: ServerRequestContext[Any], principal: Principal, uri: str) -> None:
        """`resources/unsubscribe`; of one that it had not subscribed to, nothing."""
        session = Session.of(ctx)
        if session is not None and uri in session.uris:
            session.uris.discard(uri)
            await self._engine.resources.unsubscribe(principal, uri)

    # Streams of 2026-07-28

    async def listen(
        self, ctx: ServerRequestContext[Any], principal: Principal, params: SubscriptionsListenRequestParams
    ) -> dict[str, Any]:
        """Serves one stream until its client leaves or the server ends it."""
        wanted = params.notifications
        kinds: dict[Change, bool | None] = {
            "tools": wanted.tools_list_changed,
            "prompts": wanted.prompts_list_changed,
            "resources": wanted.resources_list_changed,
        }
        uris = list(dict.fromkeys(wanted.resource_subscriptions or ()))
        if len(uris) > URIS:
            raise TooLarge(f"a stream subscribes to at most {URIS} resources; open another one for the rest")
        asked = ((ctx.params or {}).get("notifications") or {}).get("taskIds")
        tasks = await self.tasks.agreed(ctx, asked) if self.tasks is not None and asked is not None else ()
        stream = _Stream(frozenset(kind for kind, on in kinds.items() if on))
        meta = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        with self._admitted(stream, principal):
            try:
                stream.uris = await self._subscribed(principal, uris)
                honored = SubscriptionFilter(
                    tools_list_changed=wanted.tools_list_changed or None,
                    prompts_list_changed=wanted.prompts_list_changed or None,
                    resources_list_changed=wanted.resources_list_changed or None,
                    resource_subscriptions=[uri for uri in uris if uri in stream.uris] or None,
                )
                acknowledged = SubscriptionsAcknowledgedNotificationParams(notifications=honored, _meta=meta)
                if tasks:
                    await self._acknowledge_tasks(ctx, acknowledged, tasks)
                    await self._with_tasks(ctx, stream, meta, tasks)
                else:
                    await _send(ctx, SubscriptionsAcknowledgedNotification(params=acknowledged))
                    await _forward(ctx, stream, meta)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._release(principal, stream.uris)
        return {"resultType": "complete", "_meta": meta}

    @contextmanager
    def _admitted(self, stream: _Stream, principal: Principal) -> Iterator[None]:
        owner = _owner(principal)
        if len(self._streams) >= self._max or self._of_one[owner] >= self._max_of_one:
            whose = "you have" if self._of_one[owner] >= self._max_of_one else "the server has"
            raise MCPError(UNAVAILABLE, f"{whose} as many listen streams open as it may; close one, or try again later")
        self._of_one[owner] += 1
        self._streams[stream] = None
        stream.ended = self._closed
        try:
            yield
        finally:
            del self._streams[stream]
            _less(self._of_one, owner)

    async def _subscribed(self, principal: Principal, uris: list[str]) -> frozenset[str]:
        """Those that there are, and that the caller may read and hear of; the others are left out of what is agreed."""
        agreed: set[str] = set()
        try:
            for uri in uris:
                try:
                    await self._engine.resources.subscribe(principal, uri)
                except CallerError as error:
                    log.debug("no news of %s for %s: %s", uri, principal.subject, error.message)
                else:
                    agreed.add(uri)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._release(principal, agreed)
            raise
        return frozenset(agreed)

    async def _release(self, principal: Principal, uris: set[str] | frozenset[str]) -> None:
        for uri in uris:
            try:
                await self._engine.resources.unsubscribe(principal, uri)
            except MeshError as error:
                log.debug("could not unsubscribe from %s: %s", uri, error.message)

    @staticmethod
    async def _acknowledge_tasks(
        ctx: ServerRequestContext[Any], params: SubscriptionsAcknowledgedNotificationParams, tasks: Sequence[str]
    ) -> None:
        told = params.model_dump(by_alias=True, mode="json", exclude_none=True)
        told["notifications"]["taskIds"] = list(tasks)
        await _send(ctx, _Raw(method="notifications/subscriptions/acknowledged", params=told))

    async def _with_tasks(
        self, ctx: ServerRequestContext[Any], stream: _Stream, meta: dict[str, Any], ids: Sequence[str]
    ) -> None:
        tasks = self.tasks
        if tasks is None:
            return

        async def tell(params: dict[str, Any]) -> None:
            told = {**params, "_meta": {**params.get("_meta", {}), **meta}}
            await _send(ctx, _Raw(method="notifications/tasks", params=told))

        async with anyio.create_task_group() as group:
            group.start_soon(tasks.watch, ctx, ids, tell)
            await _forward(ctx, stream, meta)
            group.cancel_scope.cancel()


class _Raw(Notification[dict[str, Any], str]):
    """A notification that the SDK has no model of."""

    params: dict[str, Any]


async def _forward(ctx: ServerRequestContext[Any], stream: _Stream, meta: dict[str, Any]) -> None:
    while (news := await stream.next()) is not None:
        await _send(ctx, _notice(*news, meta))


async def _send(ctx: ServerRequestContext[Any], notice: ServerNotification | _Raw) -> None:
    await ctx.session.send_notification(notice, related_request_id=ctx.request_id)  # type: ignore[arg-type]


def _notice(change: Change, uri: str | None, meta: dict[str, Any]) -> ServerNotification:
    if change == "tools":
        return ToolListChangedNotification(params=NotificationParams(_meta=meta))
    if change == "prompts":
        return PromptListChangedNotification(params=NotificationParams(_meta=meta))
    if change == "resources":
        return ResourceListChangedNotification(params=NotificationParams(_meta=meta))
    return ResourceUpdatedNotification(params=ResourceUpdatedNotificationParams(uri=uri or "", _meta=meta))


def _owner(principal: Principal) -> Owner:
    return principal.tenant, principal.subject


def _less(count: Counter[Owner], owner: Owner) -> None:
    count[owner] -= 1
    if not count[owner]:
        del count[owner]
