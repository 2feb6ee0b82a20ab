"""HTTP to an upstream over httpx2: TLS, the environment's proxies, and whatever an `httpx2.Auth` does to a request (OAuth)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
import httpx2

from agentmesh.adapters.upstream_http import ANSWER_LIMIT, CONNECT_TIME, Dropped, HttpAnswer, Oversized, Unreachable

END_TIME = 0.05
"""Seconds for the end of a stream whose answer was read."""


class Httpx2Http:
    """One client, with connections of its own. Redirects are not followed."""

    def __init__(self, *, at_once: int, auth: httpx2.Auth | None = None) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=at_once, keepalive_expiry=20.0)
        self._client = httpx2.AsyncClient(
            auth=auth, limits=limits, timeout=httpx2.Timeout(None, connect=CONNECT_TIME), follow_redirects=False
        )

    @asynccontextmanager
    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, again: bool
    ) -> AsyncIterator[HttpAnswer]:
        where = urlsplit(url).netloc
        while True:
            request = self._client.build_request(method, url, headers=dict(headers), content=body)
            try:
                response = await self._client.send(request, stream=True)
                break
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
                raise Unreachable(f"{where} cannot be reached: {error}") from error
            except httpx2.TransportError as error:
                if not again:
                    raise Dropped(f"{where} closed the connection without an answer") from error
                again = False
        answer = _Answer(response)
        try:
            yield answer
            # A stream is left at its answer, a moment before its end. Without the end the connection could not be used again,
            # and a TLS handshake costs more than the moment.
            with anyio.move_on_after(END_TIME), suppress(Dropped):
                async for _ in answer.parts():
                    pass
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()


class _Answer:
    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._parts = response.aiter_bytes()

    async def read(self) -> bytes:
        found: list[bytes] = []
        total = 0
        async for part in self.parts():
            total += len(part)
            if total > ANSWER_LIMIT:
                raise Oversized(f"an answer of more than {ANSWER_LIMIT // 1024 // 1024} MB")
            found.append(part)
        return b"".join(found)

    async def parts(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._parts:
                yield part
        except httpx2.TransportError as error:
            raise Dropped("the connection ended in the middle of the answer") from error
