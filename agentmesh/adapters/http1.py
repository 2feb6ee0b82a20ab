"""A small HTTP/1.1 client for POSTs to replicas and other plain `http://` endpoints.

httpx's pool costs ten milliseconds a request at 32 at once, which on a small machine the model needs. This one keeps
connections per address, sends one request at a time on each, and reads heads and bodies with asyncio's own streams.
TLS, proxies and redirects are httpx's business (`HttpxClient` below), behind the same two names.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx

HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 16 * 1024 * 1024
LINE_LIMIT = 4 * 1024 * 1024
"""Bytes of an answer, and of one line of a stream: no model needs more, and one that does not end must not fill the memory."""
CONNECT_TIME = 10.0


class Unreachable(OSError):
    """No connection could be made: the request was not sent."""


class Dropped(OSError):
    """The connection ended before the answer did: the request may have been worked on."""


class Oversized(Exception):
    """The answer is larger than anybody wants it. Asking again would bring the same."""


class Answer(Protocol):
    """The head of an answer, and its body to be read once."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""

    async def read(self) -> bytes: ...

    def lines(self) -> AsyncIterator[bytes]: ...


class Client(Protocol):
    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> AbstractAsyncContextManager[Answer]:
        """Raises Unreachable or Dropped, also while the body is read. Times are the caller's to keep."""
        ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: bool = False


class _Http1Answer:
    def __init__(self, status: int, headers: Mapping[str, str], reader: asyncio.StreamReader) -> None:
        self.status, self.headers = status, headers
        self._reader = reader
        self.complete = False
        """The whole body was read: the connection may be used again."""

    async def read(self) -> bytes:
        return b"".join([part async for part in self._parts()])

    def lines(self) -> AsyncIterator[bytes]:
        return _lines(self._parts())

    async def _parts(self) -> AsyncIterator[bytes]:
        read, total = self._reader, 0
        try:
            if "chunked" in self.headers.get("transfer-encoding", "").lower():
                while size := int((await read.readuntil(b"\r\n")).split(b";")[0], 16):
                    total += size
                    _check_size(total)
                    yield (await read.readexactly(size + 2))[:-2]
                while await read.readuntil(b"\r\n") != b"\r\n":
                    pass
            elif (length := self.headers.get("content-length")) is not None:
                _check_size(int(length))
                if int(length):
                    yield await read.readexactly(int(length))
            else:
                while part := await read.read(64 * 1024):
                    total += len(part)
                    _check_size(total)
                    yield part
                return  # the end of the connection was the end of the body
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, OSError) as error:
            raise Dropped("the connection ended in the middle of the answer") from error
        self.complete = self.headers.get("connection", "").lower() != "close"


class Http1Client:
    """Kept connections by address; as many as are used at once. Use within one event loop."""

    def __init__(self) -> None:
        self._idle: dict[str, list[_Connection]] = {}

    @asynccontextmanager
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[Answer]:
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        fields = [f"POST {target} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
        fields += [f"{name}: {value}" for name, value in headers.items()]
        if any("\r" in field or "\n" in field for field in fields):
            raise ValueError("a header may not hold a line break")
        request = "\r\n".join(fields).encode("latin-1") + b"\r\n\r\n" + body
        while True:
            connection = await self._connection(parts.netloc, parts.hostname or "", parts.port or 80)
            try:
                connection.writer.write(request)
                status, head = await _read_head(connection.reader)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
                connection.writer.close()
                if connection.used:
                    continue  # a kept connection that the other side has closed meanwhile
                raise Dropped(f"{parts.netloc} closed the connection without an answer") from error
            except BaseException:
                connection.writer.close()
                raise
            break
        answer = _Http1Answer(status, head, connection.reader)
        try:
            yield answer
        finally:
            if answer.complete:
                connection.used = True
                self._idle.setdefault(parts.netloc, []).append(connection)
            else:
                connection.writer.close()

    async def aclose(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.writer.close()
                with suppress(OSError):
                    await connection.writer.wait_closed()
        self._idle.clear()

    async def _connection(self, key: str, host: str, port: int) -> _Connection:
        idle = self._idle.get(key)
        while idle:
            connection = idle.pop()
            if not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            connection.writer.close()
        try:
            async with asyncio.timeout(CONNECT_TIME):
                return _Connection(*await asyncio.open_connection(host, port, limit=HEAD_LIMIT))
        except OSError as error:  # TimeoutError is one
            raise Unreachable(f"{key} does not accept connections") from error


class HttpxClient:
    """The same over httpx, for `https://` and whatever proxies the environment names."""

    def __init__(self, concurrency: int = 64) -> None:
        self._concurrency = concurrency
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[Answer]:
        import httpx

        if self._client is None:
            limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
            self._client = httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(None, connect=CONNECT_TIME))
        request = self._client.build_request("POST", url, headers=dict(headers), content=body)
        try:
            response = await self._client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unreachable(f"{urlsplit(url).netloc} cannot be reached: {error}") from error
        except httpx.TransportError as error:
            raise Dropped(f"{urlsplit(url).netloc} closed the connection without an answer") from error
        try:
            yield _HttpxAnswer(response)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()


class _HttpxAnswer:
    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        return b"".join([part async for part in self._parts()])

    def lines(self) -> AsyncIterator[bytes]:
        return _lines(self._parts())

    async def _parts(self) -> AsyncIterator[bytes]:
        import httpx

        total = 0
        try:
            async for part in self._response.aiter_bytes():
                total += len(part)
                _check_size(total)
                yield part
        except httpx.TransportError as error:
            raise Dropped("the connection ended in the middle of the answer") from error


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a body without their ends."""
    rest = b""
    async for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        if len(rest) > LINE_LIMIT:
            raise Oversized(f"a line of more than {LINE_LIMIT // 1024 // 1024} MB")
        for line in whole:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    while True:
        first, *rest = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        status = int(first.split(" ", 2)[1])
        if status >= 200:  # 100 Continue and its like announce the real one
            break
    headers: dict[str, str] = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return status, headers


def _check_size(size: int) -> None:
    if size > BODY_LIMIT:
        raise Oversized(f"an answer of more than {BODY_LIMIT // 1024 // 1024} MB")
