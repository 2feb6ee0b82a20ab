"""A response of server-sent events that goes out as its events come, and leaves nothing behind when its client does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

import anyio
from starlette.types import Receive, Scope, Send

HEARTBEAT: Final = 15.0
"""Seconds between comments on a quiet stream, so that nobody between takes it for dead."""
SEND_TIMEOUT: Final = 60.0
"""A client that takes nothing for so long has left."""
_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class Streams:
    """The streams that are open, for a server that stops: clients take them up again with SubscribeToTask."""

    def __init__(self) -> None:
        self._open: set[anyio.CancelScope] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """Ends them, and those that would still begin."""
        self._closed = True
        for scope in tuple(self._open):
            scope.cancel()

    def add(self, scope: anyio.CancelScope) -> None:
        self._open.add(scope)
        if self._closed:
            scope.cancel()

    def remove(self, scope: anyio.CancelScope) -> None:
        self._open.discard(scope)


class EventStream:
    """An ASGI response. `first` is what `events` gave first: it was waited for, so that an error could be answered as one."""

    def __init__(
        self, first: bytes | None, events: AsyncGenerator[bytes], streams: Streams, headers: Mapping[str, str]
    ) -> None:
        self._first = first
        self._events = events
        self._streams = streams
        self._headers = [*_HEADERS, *((name.lower().encode(), value.encode()) for name, value in headers.items())]
        self._quiet = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            async with anyio.create_task_group() as group:
                self._streams.add(group.cancel_scope)
                try:
                    if self._first is not None:
                        await _send(send, self._first)
                    group.start_soon(_until_gone, receive, group.cancel_scope)
                    group.start_soon(self._beat, send, group.cancel_scope)
                    async for event in self._events:
                        self._quiet = False
                        await _send(send, event)
                except TimeoutError:
                    pass  # the client takes nothing any more
                finally:
                    self._streams.remove(group.cancel_scope)
                    group.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send, scope: anyio.CancelScope) -> None:
        while True:
            self._quiet = True
            await anyio.sleep(HEARTBEAT)
            if self._quiet:
                with anyio.move_on_after(SEND_TIMEOUT) as taken:
                    await send({"type": "http.response.body", "body": b": still here\n\n", "more_body": True})
                if taken.cancelled_caught:
                    scope.cancel()


def event_of(data: bytes) -> bytes:
    """One event, of JSON on one line."""
    return b"data: " + data + b"\n\n"


async def _send(send: Send, body: bytes) -> None:
    with anyio.fail_after(SEND_TIMEOUT):
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
