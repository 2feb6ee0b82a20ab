"""Wire: how JSON-RPC messages reach an upstream MCP server and come back, over HTTP or a child's pipes; and what may go wrong.

Below it are bytes, above it (`upstream_mcp_session`) is MCP. An answer that says `error` is an answer: the wire hands it on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import anyio
import anyio.to_thread
from pydantic_core import from_json

from agentmesh.core.json_text import VALUES, too_many_values
from agentmesh.errors import Fail, NotSent, Unanswered

Message = dict[str, Any]
"""A JSON-RPC message."""
Hear = Callable[[Message], Awaitable[None]]
"""Takes what the upstream says besides the answer: notices and requests of its own. Waits no longer than it takes to note it."""
LARGE: Final = 256 * 1024
"""Bytes of JSON above which a thread reads it, so that other calls go on."""


class SessionLost(NotSent):
    """The upstream has forgotten our session; it did nothing of what it was asked."""

    code = "not_sent"


class Broken(Unanswered):
    """The connection ended before the answer did: the upstream may be gone."""

    code = "unanswered"


class HttpStatus(Fail):
    """An answer with an HTTP status that is no success, and no message of the protocol in it."""

    code = "failed"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Wire(Protocol):
    """One connection. Its life is a `Link`'s."""

    async def request(self, message: Message, headers: Mapping[str, str], hear: Hear, *, again: bool) -> Message:
        """The answer to a request. What comes before it goes to `hear`. Cancelling it tells the upstream, if `tell` was set so.

        NotSent, Unanswered, Retry, Fail as `core.source.Source.call` says. `again`: it may be sent twice.
        """

    async def send(self, message: Message) -> None:
        """A notice, or an answer to a request of the upstream's."""

    def settle(self, version: str, *, modern: bool) -> None:
        """Says which revision is spoken from now on."""

    async def listen(self, hear: Hear) -> None:
        """Hears what comes unasked, until the connection ends; returns when there is nothing of the sort."""

    async def aclose(self) -> None:
        """Ends the upstream's session, within a moment."""


async def parse(raw: bytes, what: str) -> Message:
    """One JSON-RPC message. Fail when it is none."""
    try:
        value = await anyio.to_thread.run_sync(_read_large, raw, what) if len(raw) > LARGE else from_json(raw)
    except ValueError as error:
        raise Fail(f"{what} answered what is no JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise Fail(f"{what} answered what is no JSON-RPC message")
    return value


def _read_large(raw: bytes, what: str) -> Any:
    if too_many_values(raw):
        raise Fail(f"{what} answered more than {VALUES:,} values in one message; ask it for less at a time")
    return from_json(raw)


class Pace:
    """Slows one upstream's unasked messages down to what harms nobody: it waits, and so does its pipe or socket.

    A burst passes at once; on the average at most `rate` a second do, where 16 kB count as one.
    """

    def __init__(
        self, rate: float = 2000.0, burst: float = 4000.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = burst, clock()

    async def passing(self, size: int) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - 1 - size / 16384
        self._at = now
        if self._left < 0:
            await anyio.sleep(min(5.0, -self._left / self._rate))


def seconds_of(headers: Mapping[str, str]) -> float | None:
    """`Retry-After` as seconds; None when there is none that can be read."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
