"""Answers over HTTP: one JSON response, or a stream of server-sent events, in the words of a binding."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from a2a.server.context import ServerCallContext
from a2a.utils.errors import A2AError
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh.a2a.errors import headers_of
from agentmesh.a2a.operations import ACTIVATED
from agentmesh.a2a.stream import EventStream, Streams, event_of
from agentmesh.core.json_text import write_json

JSON_TYPE: Final = "application/json"
A2A_TYPE: Final = "application/a2a+json"
"""The media type of HTTP+JSON (A2A 1.0.1 section 11.1)."""


class Answer:
    """One JSON response."""

    def __init__(
        self, body: Any, status: int = 200, headers: Mapping[str, str] | None = None, *, media: str = JSON_TYPE
    ) -> None:
        self._body = write_json(body)
        self._status = status
        self._headers = {**(headers or {}), "content-type": media, "content-length": str(len(self._body))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in self._headers.items()]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def activated(context: ServerCallContext) -> dict[str, str]:
    """The header that names the extensions in use, where there are any."""
    active = context.state.get(ACTIVATED)
    return {"A2A-Extensions": ", ".join(active)} if active else {}


async def streamed(
    events: AsyncGenerator[Any],
    context: ServerCallContext,
    streams: Streams,
    show: Callable[[Any], Any],
    fail: Callable[[A2AError], Any],
) -> ASGIApp:
    """A stream whose first event is there. Raises what came instead of it.

    `show`, `fail`: an event, or an error after the first, as JSON.
    """
    try:
        first = await anext(events)
    except StopAsyncIteration:
        return EventStream(None, events_of(events, show, fail), streams, activated(context))
    except BaseException:
        await events.aclose()
        raise
    shown = event_of(write_json(show(first)))
    return EventStream(shown, events_of(events, show, fail), streams, activated(context))


async def events_of(
    events: AsyncGenerator[Any], show: Callable[[Any], Any], fail: Callable[[A2AError], Any]
) -> AsyncGenerator[bytes]:
    try:
        async with aclosing(events):
            async for event in events:
                yield event_of(write_json(show(event)))
    except A2AError as error:
        yield b"event: error\n" + event_of(write_json(fail(error)))


def headers_for(error: A2AError, **more: str) -> dict[str, str]:
    return {**headers_of(error), **more}
