"""HTTP to an agent elsewhere: kept connections to judged addresses, with or without TLS; answers that are bounded in size and time.

The address that the operator gave may be inside; what a card names beyond that host may not (see `outbound`). httpx costs as much as
all the rest of a call through the mesh, so it is used only where the environment names a proxy.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import anyio.to_thread

from agentmesh import __version__
from agentmesh.adapters.outbound import Guard
from agentmesh.adapters.reach import names_inside
from agentmesh.adapters.server_events import events
from agentmesh.adapters.upstream_http import (
    END_TIME,
    HEAD_LIMIT,
    Dropped,
    Http,
    HttpAnswer,
    Oversized,
    PlainHttp,
    Unreachable,
    Where,
)
from agentmesh.core.json_text import parse_json, parse_once
from agentmesh.core.trace import current
from agentmesh.errors import Fail, InvalidInput, NotSent, TooLarge, Unanswered

ANSWER: Final = 8 * 1024 * 1024
"""Bytes of one answer, or of one event of a stream: a task with its artifacts."""
DEPTH: Final = 64
TIME: Final = 60.0
"""Seconds for an answer, or for the first word of a stream."""
EVENTS: Final = 100_000
"""Of one stream."""
STREAM: Final = 256 * 1024 * 1024
"""Bytes of one stream."""
_IN_THREAD: Final = 256 * 1024
"""Bytes of JSON from which its parsing is kept off the event loop."""


@dataclass(slots=True)
class Left:
    """How a stream was left: at its last event, whose end is on its way, or in the middle."""

    at_the_end: bool = False


class PeerHttp:
    """The HTTP client of one agent. `async with` it; opens nothing before the first request."""

    def __init__(self, home: str, token: str | None, *, guard: Guard | None = None) -> None:
        """`home`: the address that the operator gave, whose host may be inside. `token`: a bearer token, sent with every request."""
        self._host = urlsplit(home).hostname or ""
        self.guard = guard or Guard([self._host])
        self.headers: Mapping[str, str] = {
            "user-agent": f"agentmesh/{__version__}", "accept-encoding": "identity",
        } | ({"authorization": f"Bearer {token}"} if token else {})  # fmt: skip
        self._direct = _Judged(self.guard)
        self._proxied: Http | None = None
        self._ways: dict[tuple[str, str], Http] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            for http in (self._direct, self._proxied):
                if http is not None:
                    await http.aclose()

    async def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, again: bool, time: float = TIME,
        limit: int = ANSWER,
    ) -> tuple[int, Mapping[str, str], bytes]:  # fmt: skip
        """Status, headers (names in lower case) and body of an answer. `again`: see `Http.send`. NotSent, Unanswered, Fail."""
        try:
            with anyio.fail_after(time):
                way = await self._way(url)
                async with way.send(method, url, {**self.headers, **current(), **headers}, body, again=again) as answer:
                    return answer.status, answer.headers, await _whole(answer, limit)
        except TimeoutError:
            raise Unanswered(f"the agent did not answer within {time:g} s") from None
        except (Unreachable, Dropped, Oversized) as error:
            raise _plain(error) from None

    async def stream(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, again: bool, idle: float,
        time: float = TIME, left: Left | None = None,
    ) -> AsyncGenerator[tuple[int, Mapping[str, str], bytes], None]:  # fmt: skip
        """As `ask`, but of a stream of events each event's data, with status 0. It ends, too, when nothing came for `idle` seconds.

        `left`: says whether the connection is worth keeping when the stream is left before its end.
        """
        async with AsyncExitStack() as stack:
            try:
                with anyio.fail_after(time):
                    way = await self._way(url)
                    sending = way.send(method, url, {**self.headers, **current(), **headers}, body, again=again)
                    answer = await stack.enter_async_context(sending)
                    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
                    whole = None
                    if not 200 <= answer.status < 300 or kind != "text/event-stream":
                        whole = await _whole(answer, ANSWER)
            except TimeoutError:
                raise Unanswered(f"the agent did not answer within {time:g} s") from None
            except (Unreachable, Dropped, Oversized) as error:
                raise _plain(error) from None
            if whole is not None:
                yield answer.status, answer.headers, whole
                return
            _check_encoding(answer)
            found = await stack.enter_async_context(aclosing(events(answer.parts(), ANSWER)))  # type: ignore[type-var]
            count = size = 0
            while True:
                try:
                    with anyio.fail_after(idle):
                        event = await anext(found)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    return  # whoever wants to know more asks for the task
                except (Unreachable, Dropped, Oversized) as error:
                    raise _plain(error) from None
                count, size = count + 1, size + len(event.data)
                if count > EVENTS or size > STREAM:
                    raise Fail(
                        f"the agent's stream does not end: it has more than {EVENTS:,} events or {STREAM // 1024 // 1024} MB"
                    )
                if event.data:
                    try:
                        yield 0, answer.headers, event.data
                    except GeneratorExit:
                        if left is not None and left.at_the_end:
                            if (
                                "content-length" in answer.headers
                            ):  # its end is here already; of a chunked one it is on its way
                                with anyio.move_on_after(END_TIME):
                                    async for _ in found:
                                        pass
                            await stack.pop_all().aclose()
                        raise

    async def reach(self, url: str, time: float = 10.0) -> None:
        """Makes sure that connections can be made, and keeps one. NotSent."""
        try:
            with anyio.fail_after(time):
                way = await self._way(url)
                if isinstance(way, _Judged):
                    await way.connected(url)
        except TimeoutError:
            raise NotSent(f"no connection within {time:g} s") from None
        except (Unreachable, Dropped) as error:
            raise _plain(error) from None

    async def _way(self, url: str) -> Http:
        """The client for an address: by way of the proxy that the environment names for it, if any."""
        parts = urlsplit(url)
        key = parts.scheme, parts.hostname or ""
        way = self._ways.get(key)
        if way is None:
            try:
                self.guard.check(url)
            except InvalidInput as error:
                why = "that is a private address" if names_inside(parts.hostname or "") else error.message
                raise Fail(f"the agent cannot be spoken to at {url[:200]}: {why}") from None
            way = await self._find_way(*key)
            if len(self._ways) < 64:
                self._ways[key] = way
        return way

    async def _find_way(self, scheme: str, host: str) -> Http:
        proxies = getproxies()
        if (
            host in {"localhost", "127.0.0.1", "::1"}
            or not (proxies.get(scheme) or proxies.get("all"))
            or proxy_bypass(host)
        ):
            return self._direct
        if self._proxied is None:
            self._proxied = await anyio.to_thread.run_sync(_open_proxied)
        return self._proxied


class _Judged(PlainHttp):
    """Connects to addresses that the guard has judged, and to no other."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard
        self._tls: ssl.SSLContext | None = None

    async def _dial(self, where: Where) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        given: dict[str, Any] = {}
        if where.scheme == "https":
            if self._tls is None:  # reading the certificates of the machine's authorities takes a moment
                self._tls = await anyio.to_thread.run_sync(ssl.create_default_context)
            given = {"ssl": self._tls, "server_hostname": where.host}
        *addresses, last = await self._guard.addresses(where.host, where.port)
        for address in addresses:
            try:
                async with asyncio.timeout(3):
                    return await asyncio.open_connection(address, where.port, limit=HEAD_LIMIT, **given)
            except OSError:
                continue
        return await asyncio.open_connection(last, where.port, limit=HEAD_LIMIT, **given)


def _open_proxied() -> Http:
    from agentmesh.adapters.upstream_mcp_httpx import Httpx2Http

    return Httpx2Http(at_once=16)


async def _whole(answer: HttpAnswer, limit: int) -> bytes:
    _check_encoding(answer)
    found: list[bytes] = []
    size = 0
    async for part in answer.parts():
        size += len(part)
        if size > limit:
            raise Oversized(f"an answer of more than {limit // 1024 // 1024} MB")
        found.append(part)
    return b"".join(found)


def _check_encoding(answer: HttpAnswer) -> None:
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise Fail(f"the agent's answer is encoded as {encoding[:40]!r}, which was not asked for")


def _plain(error: Exception) -> NotSent | Unanswered | Fail:
    if isinstance(error, Unreachable):
        return NotSent(f"the agent cannot be reached: {error}")
    if isinstance(error, Oversized):
        return Fail(f"the agent's answer is larger than can be taken: {error}")
    return Unanswered(f"the agent gave no whole answer: {error}")


async def read_json(body: bytes) -> Any:
    """The value of an answer. Fail."""
    try:
        if len(body) > _IN_THREAD:
            return await anyio.to_thread.run_sync(parse_json, body)
        return parse_json(body, depth=DEPTH)
    except InvalidInput as error:
        raise Fail(f"the agent answered with what cannot be read: {error.message}") from None


async def read_document(body: bytes) -> Any:
    """The same of a document that is signed, or that has keys: no name stands in it twice, of which readers could take either. Fail."""
    value = await read_json(body)
    try:
        await anyio.to_thread.run_sync(parse_once, body)
    except (InvalidInput, TooLarge) as error:
        raise Fail(f"what is there cannot be read: {error.message}") from None
    return value
