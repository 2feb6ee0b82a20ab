"""Server-sent events of a body that somebody else sends (HTML Living Standard section 9.2), bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from agentmesh.adapters.upstream_http import ANSWER_LIMIT, Oversized


@dataclass(slots=True)
class Event:
    """One server-sent event."""

    data: bytes
    id: str | None
    retry: float | None
    """Seconds."""


async def events(parts: AsyncIterator[bytes], limit: int = ANSWER_LIMIT) -> AsyncIterator[Event]:
    """Server-sent events of a body. Oversized when one has more bytes than `limit`, or does not end."""
    data: list[bytes] = []
    ident: str | None = None
    retry: float | None = None
    size = idle = 0
    async for line in _lines(parts, limit):
        idle += len(line) + 1
        if idle > 2 * limit:
            raise Oversized(f"{2 * limit // 1024 // 1024} MB without an event")
        if line:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                size += len(value) + 1
                if size > limit:
                    raise Oversized(f"an event of more than {limit // 1024 // 1024} MB")
                data.append(value)
            elif field == b"id":
                ident = value.decode("utf-8", "replace")
            elif field == b"retry" and value.isdigit() and len(value) < 10:
                retry = int(value) / 1000
        elif data or ident is not None or retry is not None:
            yield Event(b"\n".join(data), ident, retry)
            data, ident, retry, size, idle = [], None, None, 0, 0


async def _lines(parts: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """The lines of a body without their ends. One that does not end is kept in pieces, so that it costs no more than its length."""
    rest: list[bytes] = []
    size = 0
    async for part in parts:
        if b"\n" not in part:
            rest.append(part)
            size += len(part)
            if size > limit:
                raise Oversized(f"a line of more than {limit // 1024 // 1024} MB")
            continue
        first, *whole = b"".join((*rest, part)).split(b"\n")
        *middle, last = (first, *whole)
        for line in middle:
            yield line.removesuffix(b"\r")
        rest, size = ([last], len(last)) if last else ([], 0)
