"""Flights: the requests of older sessions that are not answered yet, so that two with one id are told apart.

The SDK keeps a session's streams by request id, and sends the answer of one call to the stream of another that has the same. A
client should not use an id twice (2025-11-25 basic, Requests); one that does, from two threads say, gets each call its own answer:
the later one goes in under an id of ours, and its answer goes out under the client's.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from starlette.types import Message, Send

OURS: Final = "agentmesh-"
"""What the ids that we give begin with."""
_CANCELLED: Final = "notifications/cancelled"


class Flights:
    """Of all sessions of an edge."""

    def __init__(self) -> None:
        self._flying: dict[tuple[bytes, str], dict[str | int, None]] = {}
        """By session and the client's id: the ids under which the SDK has them, the newest last."""
        self._count = itertools.count(1)

    @contextmanager
    def flight(self, session: bytes, body: bytes) -> Iterator[tuple[bytes, str | int | None, str | None]]:
        """For as long as a message is being answered: the body to hand on, and the client's id and ours where they differ."""
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            message = None  # the SDK says what is wrong with it
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            yield body, None, None
            return
        if "id" not in message:
            yield self._cancelled(session, message) or body, None, None
            return
        ident: str | int = message["id"]
        key = (session, str(ident))
        flying = self._flying.setdefault(key, {})
        ours = f"{OURS}{next(self._count)}" if flying else None
        used = ident if ours is None else ours
        flying[used] = None
        try:
            yield (body, None, None) if ours is None else (json.dumps({**message, "id": ours}).encode(), ident, ours)
        finally:
            del flying[used]
            if not flying:
                self._flying.pop(key, None)

    def _cancelled(self, session: bytes, message: dict[str, Any]) -> bytes | None:
        """A cancellation with the id that the newest such request has at the SDK; None when it is right as it is."""
        params = message.get("params")
        if message["method"] != _CANCELLED or not isinstance(params, dict):
            return None
        flying = self._flying.get((session, str(params.get("requestId"))))
        if not flying:
            return None
        return json.dumps({**message, "params": {**params, "requestId": next(reversed(flying))}}).encode()


def under(send: Send, ident: str | int, ours: str) -> Send:
    """A `send` that gives the answer to `ours` out as the answer to `ident`."""

    async def renamed(message: Message) -> None:
        body = message.get("body", b"")
        if message["type"] == "http.response.body" and ours.encode() in body:
            message = {**message, "body": b"\n".join(_line(line, ident, ours) for line in body.split(b"\n"))}
        await send(message)

    return renamed


def _line(line: bytes, ident: str | int, ours: str) -> bytes:
    """A line of a stream of events, or a whole body."""
    event = line.startswith(b"data:")
    rest = line.removeprefix(b"data:") if event else line
    try:
        answer = json.loads(rest)
    except ValueError:
        return line
    if not isinstance(answer, dict) or answer.get("id") != ours or "method" in answer:
        return line
    text = json.dumps({**answer, "id": ident}, separators=(",", ":")).encode()
    return b"data: " + text + (b"\r" if rest.endswith(b"\r") else b"") if event else text
