"""HTTP to an upstream: what its transport needs of a client, and a small one for plain `http://`.

Unlike `http1` it never sends a request twice unless it is told that it may: a kept connection that was closed without an answer
leaves open whether a tool was called. TLS, proxies and OAuth are `upstream_mcp_httpx`'s, behind the same names.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol
from urllib.parse import urlsplit

from agentmesh.adapters.http1 import Dropped, Oversized, Unreachable
from agentmesh.errors import Fail

__all__ = ["ANSWER_LIMIT", "Dropped", "Http", "HttpAnswer", "Oversized", "PlainHttp", "Unreachable"]

ANSWER_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one answer, or of one event of a stream."""
HEAD_LIMIT: Final = 64 * 1024
CONNECT_TIME: Final = 10.0
IDLE: Final = 4.0
"""Seconds that an unused connection is kept: servers close them after five, and a write must not meet a closed one."""


END_TIME: Final = 0.005
"""Seconds for the end of a stream whose answer was read before."""


class HttpAnswer(Protocol):
    """The head of an answer, and its body to be read once."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""

    async def read(self) -> bytes:
        """The whole body. Oversized, Dropped."""

    def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes; of any length. Dropped."""


class Http(Protocol):
    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, again: bool
    ) -> AbstractAsyncContextManager[HttpAnswer]:
        """Unreachable when no byte can have left, Dropped when it may have been worked on. Times are the caller's to keep.

        `again`: it may be sent once more when a kept connection turns out to be closed.
        """

    async def aclose(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    until: float = 0.0
    """When it is no longer taken from the idle ones."""
    used: bool = False
    rest: _Answer | None = None
    """An answer of which only the end is missing: a stream is left at the message that was waited for, just before its own end."""


class _Answer:
    __slots__ = ("_reader", "complete", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self.headers: Mapping[str, str] = headers
        self._reader = reader
        self.complete = False
        """The whole body was read: the connection may be used again."""

    async def read(self) -> bytes:
        length = self.headers.get("content-length")
        if length is not None and "transfer-encoding" not in self.headers:
            size = _number(length, 10)
            _check(size)
            try:
                body = await self._reader.readexactly(size) if size else b""
            except (asyncio.IncompleteReadError, OSError) as error:
                raise Dropped("the connection ended in the middle of the answer") from error
            self._end()
            return body
        found: list[bytes] = []
        total = 0
        async for part in self.parts():
            total += len(part)
            _check(total)
            found.append(part)
        return b"".join(found)

    async def parts(self) -> AsyncIterator[bytes]:
        read = self._reader
        try:
            if "chunked" in self.headers.get("transfer-encoding", "").lower():
                while size := _number((await read.readuntil(b"\r\n")).split(b";")[0], 16):
                    _check(size)
                    yield (await read.readexactly(size + 2))[:-2]
                while await read.readuntil(b"\r\n") != b"\r\n":
                    pass
            elif (length := self.headers.get("content-length")) is not None:
                left = _number(length, 10)
                while left:
                    part = await read.read(min(left, HEAD_LIMIT))
                    if not part:
                        raise Dropped("the connection ended in the middle of the answer")
                    left -= len(part)
                    yield part
            elif self.status not in (204, 304):
                while part := await read.read(HEAD_LIMIT):
                    yield part
                return  # the end of the connection was the end of the body
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            raise Dropped("the connection ended in the middle of the answer") from error
        self._end()

    def _end(self) -> None:
        self.complete = self.headers.get("connection", "").lower() != "close"


class PlainHttp:
    """Kept connections by address; as many as are used at once, one request at a time on each."""

    def __init__(self) -> None:
        self._idle: dict[str, list[_Connection]] = {}

    @asynccontextmanager
    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, again: bool
    ) -> AsyncIterator[HttpAnswer]:
        where = _where(url)
        request = _request(method, where.target, where.authority, headers, body)
        connection, status, head = await self._answered(where, request, again)
        answer = _Answer(status, head, connection.reader)
        try:
            yield answer
        except BaseException:
            connection.writer.close()
            raise
        chunked = "chunked" in answer.headers.get("transfer-encoding", "").lower()
        if answer.complete or chunked or head.get("content-length") == "0":
            connection.used, connection.until = True, time.monotonic() + IDLE
            connection.rest = None if answer.complete or not chunked else answer
            self._idle.setdefault(where.key, []).append(connection)
            self.tidy()
        else:
            connection.writer.close()

    async def _answered(self, where: Where, request: bytes, again: bool) -> tuple[_Connection, int, dict[str, str]]:
        while True:
            connection = await self._connection(where)
            try:
                connection.writer.write(request)
                if len(request) > HEAD_LIMIT:
                    await connection.writer.drain()
                return connection, *await _read_head(connection.reader)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
                connection.writer.close()
                if connection.used and again:
                    continue
                raise Dropped(f"{where.authority} closed the connection without an answer") from error
            except BaseException:
                connection.writer.close()
                raise

    async def connected(self, url: str) -> None:
        """Has a connection to that address, to be used by whoever sends next. Unreachable."""
        where = _where(url)
        connection = await self._connection(where)
        connection.until = time.monotonic() + IDLE
        self._idle.setdefault(where.key, []).append(connection)

    def tidy(self) -> None:
        """Closes connections that were idle for too long; the oldest stand first."""
        now = time.monotonic()
        for idle in self._idle.values():
            while idle and idle[0].until < now:
                idle.pop(0).writer.close()

    async def _drained(self, connection: _Connection) -> bool:
        """Whether the stream that was on it has come to its end, which was on its way when its answer was read."""
        answer, connection.rest = connection.rest, None
        assert answer is not None
        try:
            async with asyncio.timeout(END_TIME):
                async for _ in answer.parts():
                    pass
        except (TimeoutError, Dropped, Oversized):
            return False
        except BaseException:
            connection.writer.close()
            raise
        return answer.complete

    async def aclose(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.writer.close()
        self._idle.clear()

    async def _connection(self, where: Where) -> _Connection:
        idle, now = self._idle.get(where.key), time.monotonic()
        while idle:
            connection = idle.pop()
            if connection.until > now and not connection.reader.at_eof() and not connection.writer.is_closing():
                if connection.rest is None or await self._drained(connection):
                    return connection
            connection.writer.close()
        try:
            async with asyncio.timeout(CONNECT_TIME):
                return _Connection(*await self._dial(where))
        except OSError as error:  # TimeoutError is one
            raise Unreachable(f"{where.authority} does not accept connections") from error

    async def _dial(self, where: Where) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection. OSError when none is made; who connects in another way overrides this."""
        return await asyncio.open_connection(where.host, where.port, limit=HEAD_LIMIT)


@dataclass(frozen=True, slots=True)
class Where:
    """An address in the parts that a request needs."""

    scheme: str
    authority: str
    host: str
    port: int
    target: str

    @property
    def key(self) -> str:
        """What connections are kept by."""
        return self.authority if self.scheme == "http" else f"{self.scheme}://{self.authority}"


@lru_cache(1024)
def _where(url: str) -> Where:
    parts = urlsplit(url)
    path = parts.path or "/"
    target = f"{path}?{parts.query}" if parts.query else path
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Where(parts.scheme, parts.netloc.rpartition("@")[2], parts.hostname or "", port, target)


def _request(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    fields = [f"{method} {target} HTTP/1.1", f"host: {host}"]
    if body is not None:
        fields.append(f"content-length: {len(body)}")
    fields += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(fields)
    if head.count("\n") != len(fields) - 1 or head.count("\r") != len(fields) - 1 or not _writable(head):
        raise Fail(f"a header for {host} holds a line break, or what no header can carry; look at the secret behind it")
    return head.encode("latin-1") + b"\r\n\r\n" + (body or b"")


def _writable(head: str) -> bool:
    try:
        head.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    while True:
        first, *rest = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        _, _, rest_of_line = first.partition(" ")
        status = int(rest_of_line[:3])  # a ValueError is the caller's to tell
        if status >= 200:  # 100 Continue and its like announce the real one
            break
    headers: dict[str, str] = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return status, headers


def _number(digits: str | bytes, base: int) -> int:
    try:
        size = int(digits, base)
    except ValueError:
        raise Dropped("the answer's length is no number") from None
    if size < 0:
        raise Dropped("the answer's length is no number")
    return size


def _check(size: int) -> None:
    if size > ANSWER_LIMIT:
        raise Oversized(f"an answer of more than {ANSWER_LIMIT // 1024 // 1024} MB")
