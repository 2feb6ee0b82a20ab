"""Serves an ASGI application on a free loopback port, as `agentmesh serve` does: for tests that need real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import uvicorn
from starlette.types import ASGIApp


@asynccontextmanager
async def served(app: ASGIApp, **given: Any) -> AsyncIterator[str]:
    """The address, `http://127.0.0.1:PORT`, while the block runs. `given`: more of uvicorn's settings."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1, **given)
        server = _Server(config)
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [bound])
            with anyio.fail_after(10):
                await server.up.wait()
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                server.should_exit = True


class _Server(uvicorn.Server):
    """Says when it listens, and leaves the signals of the test runner alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = anyio.Event()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


async def raw(url: str, request: bytes) -> tuple[int, bytes]:
    """Sends bytes as they are and reads until the server closes: the status and all that came."""
    host, _, port = url.removeprefix("http://").partition(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(request)
        answer = b""
        with anyio.fail_after(10):
            while True:
                try:
                    answer += await stream.receive()
                except anyio.EndOfStream:
                    break
    return int(answer.split(b" ", 2)[1]) if answer else 0, answer
