"""A model's answer that does not end is given up, and not asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from agentmesh.adapters.http1 import BODY_LIMIT, LINE_LIMIT
from agentmesh.adapters.openai_http import OpenAiHttp
from agentmesh.core.model import ChatRequest, Model
from agentmesh.errors import ModelRefused

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


@asynccontextmanager
async def saying(head: bytes, piece: bytes) -> AsyncIterator[tuple[OpenAiHttp, list[int]]]:
    """A model behind a server that says `head`, and then `piece` for ever; how often it was asked."""
    asked = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked[0] += 1
        try:
            writer.write(head)
            while True:
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    model = Model.model_validate({"url": f"http://127.0.0.1:{port}/v1", "model": "m"})
    try:
        async with OpenAiHttp({"m": model}, None) as endpoints:
            yield endpoints, asked
    finally:
        server.close()


@pytest.mark.parametrize(
    ("stream", "head", "piece", "limit"),
    [
        (False, b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n", b"x" * 65536, BODY_LIMIT),
        (False, b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, BODY_LIMIT),
        (True, STREAM, b"x" * 65536, LINE_LIMIT),
        (True, STREAM, (b": " + b"x" * 1000 + b"\n") * 60, BODY_LIMIT),
    ],
    ids=["by its length", "whole", "in one line", "in many lines"],
)
async def test_an_answer_without_an_end(stream: bool, head: bytes, piece: bytes, limit: int) -> None:
    """It is refused by its size, after one request."""
    async with saying(head, piece) as (endpoints, asked):
        request = ChatRequest("m", ({"role": "user", "content": "hello"},), stream=stream)
        with anyio.fail_after(20), pytest.raises(ModelRefused, match=f"more than {limit // 1024 // 1024} MB"):
            async for _ in endpoints.chat(request):
                pass
        assert asked == [1]
