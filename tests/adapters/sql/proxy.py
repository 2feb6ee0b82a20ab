"""A road to PostgreSQL that can be cut just after the server was told to commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream, SocketAttribute


class Proxy:
    """Forwards connections. While `cut` is set, the answer to the next COMMIT is swallowed and that connection is closed."""

    def __init__(self) -> None:
        self.port = 0
        self.cut = False
        self.cuts = 0

    async def carry(self, client: ByteStream, target: int) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", target) as server, anyio.create_task_group() as group:

            async def back() -> None:
                try:
                    async for data in server:
                        if self.cutting:
                            self.cutting = False
                            self.cuts += 1
                            break
                        await client.send(data)
                except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                    pass
                group.cancel_scope.cancel()

            group.start_soon(back)
            try:
                async for data in client:
                    if self.cut and b"COMMIT" in data:
                        self.cut, self.cutting = False, True
                    await server.send(data)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                pass
            group.cancel_scope.cancel()

    cutting = False


@asynccontextmanager
async def proxied(target: int) -> AsyncIterator[Proxy]:
    """A proxy to a port of loopback, while the block runs."""
    proxy = Proxy()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    proxy.port = listener.extra(SocketAttribute.local_port)  # noqa: S610
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, lambda client: proxy.carry(client, target))
        yield proxy
        group.cancel_scope.cancel()
