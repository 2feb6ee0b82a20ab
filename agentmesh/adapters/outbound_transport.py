"""GuardedTransport: an httpx transport that connects to judged addresses only. See `outbound`."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable
from typing import Final

import anyio
import httpcore
import httpx

from agentmesh.adapters.outbound import Allow, Guard
from agentmesh.errors import Fail, InvalidInput

CONNECT_TIME: Final = 10.0
LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=5)


class GuardedTransport(httpx.AsyncHTTPTransport):
    """For an `httpx.AsyncClient(transport=..., follow_redirects=False)`; a redirect that is followed is judged like any request.

    Raises Fail, past httpx's own errors, for an address that may not be reached and for an answer over `limit`; no byte has been sent
    for the former. Answers come without their cookies.
    """

    def __init__(
        self, guard: Guard | Allow = (), *, verify: ssl.SSLContext | bool = True, http2: bool = False, limits: httpx.Limits = LIMITS,
        proxy: str | None = None, limit: int | None = None,
    ) -> None:  # fmt: skip
        """`guard`, or what is permitted inside. `limit`: bytes of one answer's body as it is sent; None: the caller bounds it."""
        self._guard = guard if isinstance(guard, Guard) else Guard(guard)
        self._limit = limit
        if proxy is not None:
            super().__init__(verify=verify, trust_env=False, http2=http2, limits=limits, proxy=proxy)
            return
        # What super().__init__ makes, but for the network, for which httpx has no argument.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(verify=verify, trust_env=False),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http2=http2,
            network_backend=_JudgedNetwork(self._guard),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        try:
            self._guard.check_parts(url.scheme, url.host, url.port, userinfo=bool(url.userinfo))
        except InvalidInput as error:
            raise Fail(error.message) from None
        response = await super().handle_async_request(request)
        if "set-cookie" in response.headers:
            del response.headers["set-cookie"]
        if self._limit is not None:
            assert isinstance(response.stream, httpx.AsyncByteStream)
            response.stream = _Bounded(response.stream, self._limit, url.host)
        return response


class _JudgedNetwork(httpcore.AsyncNetworkBackend):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:  # fmt: skip
        """As httpcore's own, but to one of the addresses that were judged; each in turn has its share of the time."""
        timeout = CONNECT_TIME if timeout is None else timeout
        try:
            with anyio.fail_after(timeout):
                *addresses, last = await self._guard.addresses(host, port)
                for address in addresses:
                    try:
                        return await self._network.connect_tcp(
                            address, port, timeout / (len(addresses) + 1), local_address, socket_options
                        )
                    except (httpcore.ConnectError, httpcore.ConnectTimeout):
                        continue
                return await self._network.connect_tcp(last, port, timeout, local_address, socket_options)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"no connection within {timeout:g} s") from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name cannot be found: {error}") from None

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("a file is no place that somebody else may name")

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Bounded(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, limit: int, host: str) -> None:
        self._stream, self._limit, self._host = stream, limit, host

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = 0
        async for part in self._stream:
            total += len(part)
            if total > self._limit:
                raise Fail(f"the answer of {self._host} is larger than {self._limit // 1024} KiB")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
