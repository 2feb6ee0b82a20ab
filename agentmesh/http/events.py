"""Events: a run as server-sent events, to be followed and taken up again where a connection broke.

`entry` carries a committed journal row with `id` its seq; `notice` a line that is not recorded; `run` the whole run,
once at the start and once when it has ended. A client that comes back says `Last-Event-ID` and hears what it missed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.responses import Response

from agentmesh.core.json_text import write_json
from agentmesh.core.policy import Principal
from agentmesh.engine import Engine
from agentmesh.errors import InvalidInput
from agentmesh.http.shapes import entry_to_json, run_to_json

HEARTBEAT = 15
"""Seconds between comments on a quiet stream, so that nobody between takes it for dead."""
SEND_TIMEOUT = 60.0
"""A client that takes nothing for so long has left."""


async def run_events(engine: Engine, principal: Principal, run_id: str, last_event_id: str | None) -> Response:
    """The response of `GET /v1/runs/{id}/events`; NotFound before anything is sent."""
    after = _seq(last_event_id)
    run = await engine.runs.get(principal, run_id)
    if run.state.terminal and after >= run.seq:
        # An EventSource comes back for ever; only 204 tells it that there is no more (HTML Living Standard, 9.2.3).
        return Response(status_code=204)

    async def follow() -> AsyncIterator[ServerSentEvent]:
        yield _event("run", run_to_json(run))
        last = run
        async with aclosing(engine.runs.watch(principal, run_id, after=after)) as events:  # type: ignore[type-var]
            async for event in events:
                last = event.run
                if event.entry is None:
                    yield _event("notice", {"message": event.message})
                else:
                    shape = {**entry_to_json(event.entry), "message": event.message, "state": event.run.state.value}
                    yield _event("entry", shape, event.entry.seq)
        yield _event("run", run_to_json(last))

    return stream(follow())


def stream(events: AsyncIterator[ServerSentEvent]) -> Response:
    """Server-sent events with heartbeats; ends when the client leaves or the server stops."""
    return EventSourceResponse(
        events, ping=HEARTBEAT, send_timeout=SEND_TIMEOUT, sep="\n",
        ping_message_factory=lambda: ServerSentEvent(comment="still here"),
    )  # fmt: skip


def _event(name: str, data: Any, ident: int | None = None) -> ServerSentEvent:
    text = write_json(data).decode()
    return ServerSentEvent(text, event=name, id=None if ident is None else str(ident), sep="\n")


def _seq(last_event_id: str | None) -> int:
    if not last_event_id:
        return 0
    if not (last_event_id.isascii() and last_event_id.isdigit()) or len(last_event_id) > 15:
        raise InvalidInput("Last-Event-ID is not the id of an event of this stream")
    return int(last_event_id)
