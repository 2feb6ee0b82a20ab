"""This process's own stdin and stdout, for the pipe: lines in, lines out, and nothing else on stdout."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import anyio.from_thread
import anyio.to_thread

from agentmesh.mcp.pipe import run_pipe

log = logging.getLogger("agentmesh.mcp.pipe")

MAX_LINE: Final = 16 * 1024 * 1024
"""Bytes of one line of stdin; the server has a smaller limit, and says so itself."""


def run_stdio(url: str, headers: Mapping[str, str]) -> None:
    """Pipes this process's stdin and stdout to `/mcp` at `url`; returns when stdin ends, or on SIGTERM or Ctrl-C."""
    with suppress(KeyboardInterrupt):
        anyio.run(serve_stdio, url, headers)


async def serve_stdio(url: str, headers: Mapping[str, str]) -> None:
    """`run_pipe` on this process's own stdin and stdout. What anything else prints goes to stderr from here on."""
    out = os.dup(1)
    os.dup2(2, 1)
    async with anyio.create_task_group() as group:

        async def write(line: bytes) -> None:
            try:
                await anyio.to_thread.run_sync(_write_all, out, line, abandon_on_cancel=True)
            except OSError:  # nobody reads any more
                group.cancel_scope.cancel()

        async def until_told() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    group.cancel_scope.cancel()

        group.start_soon(until_told)
        async with _lines_of(0) as lines:
            await run_pipe(url, stdin=lines, stdout=write, headers=headers)
        group.cancel_scope.cancel()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@asynccontextmanager
async def _lines_of(descriptor: int) -> AsyncIterator[AsyncIterator[bytes]]:
    """Lines, read in a daemon thread since a blocking read cannot be cancelled; raw, so that exit waits for no lock."""
    send, receive = anyio.create_memory_object_stream[bytes](16)

    def read(portal: anyio.from_thread.BlockingPortal) -> None:
        pending = bytearray()
        try:
            while chunk := os.read(descriptor, 65536):
                pending += chunk
                *lines, rest = pending.split(b"\n")
                for line in lines:
                    portal.call(send.send, bytes(line))
                pending = rest if len(rest) <= MAX_LINE else bytearray(b"too long")  # answered as no JSON
            if pending:
                portal.call(send.send, bytes(pending))
            portal.call(send.aclose)
        except (RuntimeError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            log.debug("stopped reading", exc_info=True)

    async with anyio.from_thread.BlockingPortal() as portal, receive:
        threading.Thread(target=read, args=(portal,), name="stdin", daemon=True).start()
        yield receive
        await portal.stop(cancel_remaining=True)
