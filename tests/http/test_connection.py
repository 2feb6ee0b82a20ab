"""A head that does not end, in time or in bytes, ends its connection, and no other."""

from __future__ import annotations

import anyio
import httpx
import pytest
from anyio.abc import SocketStream
from starlette.types import Receive, Scope, Send

from agentmesh.http.auth import Guard
from agentmesh.http.connection import bounded
from agentmesh.settings import Limits
from tests.http.serving import served

pytestmark = pytest.mark.anyio

SLOW = 0.3
"""Seconds for a head in these tests."""


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def connect(url: str) -> SocketStream:
    host, _, port = url.removeprefix("http://").partition(":")
    return await anyio.connect_tcp(host, int(port))


async def until(stream: SocketStream, wanted: bytes) -> bytes:
    said = b""
    with anyio.fail_after(5):
        while wanted not in said:
            said += await stream.receive()
    return said


async def rest(stream: SocketStream) -> bytes:
    said = b""
    with anyio.fail_after(10):
        try:
            while True:
                said += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return said


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HTTP/1.1\r\n", b"GET /" + b"a" * 900, b"GET / HTTP/1.1\r\nhost: x\r\nlong: "]
)
async def test_a_head_that_does_not_come_ends_its_connection(begun: bytes) -> None:
    """408 after a while, however little was sent, and however often: more bytes do not buy more time."""
    async with served(hello, http=bounded(8000, SLOW)) as url, await connect(url) as stream:
        await stream.send(begun or b"G")
        said = await rest(stream)
    assert said.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert said.endswith(b"the headers did not arrive within 0.3 seconds")


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nlong: ", b"GET /", b"GET / HTTP/1.1\r\na: b\r\n"])
async def test_a_head_without_end_is_not_kept(head: bytes) -> None:
    """431 long before its time is over; llhttp itself would collect it for ever."""
    async with served(hello, http=bounded(8000)) as url, await connect(url) as stream:
        said = b""
        with anyio.fail_after(10):
            await stream.send(head)
            try:
                for _ in range(1000):
                    await stream.send(b"a: b\r\n" * 200 if head.endswith(b"b\r\n") else b"a" * 1000)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            else:
                said = await rest(stream)
                assert said.startswith(b"HTTP/1.1 431 "), said[:100]


async def test_requests_on_a_kept_connection_each_have_their_time() -> None:
    """The clock of a head begins with its own first byte, and an answer that takes longer is waited for."""
    go = anyio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await go.wait()
        await hello(scope, receive, send)

    async with served(slow, http=bounded(8000, SLOW), timeout_keep_alive=60) as url, await connect(url) as stream:
        request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        for _ in range(3):
            await stream.send(request)
            await until(stream, b"hello")
        await stream.send(request.replace(b"/ ", b"/slow ") + b"GET / HTTP/1.1\r\n")  # half of the next one
        with anyio.move_on_after(SLOW * 3) as waited:
            await stream.receive()
        assert waited.cancelled_caught, "the first is still being answered"
        go.set()
        with anyio.fail_after(5):
            said = await until(stream, b"hello")
            assert b"408" in said + await rest(stream)


async def test_five_hundred_half_open_requests_leave_the_others_served() -> None:
    """Heads and bodies that stop halfway: whoever else asks is answered meanwhile, and all of them end."""
    guard = Guard(hello, limits=Limits(), body_seconds=SLOW)
    head = b"POST / HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: 1000\r\n\r\n{"
    async with served(guard, http=bounded(8000, SLOW)) as url:
        port = int(url.rsplit(":", 1)[1])
        streams = [await connect(url) for _ in range(500)]
        for number, stream in enumerate(streams):
            await stream.send(head % port if number % 2 else b"POST / HTTP/1.1\r\nhost: ")
        async with httpx.AsyncClient(base_url=url, timeout=5) as client:
            answers = [await client.get("/") for _ in range(20)]
        assert all(answer.text == "hello" for answer in answers)
        ends = [await rest(stream) for stream in streams]
        for stream in streams:
            await stream.aclose()
    assert all(b" 408 " in said.split(b"\r\n", 1)[0] for said in ends)


async def test_bodies_on_their_way_are_bounded_together() -> None:
    """Many slow bodies, each within its limit, do not fill the memory: 503 past the bound, small requests are served."""
    guard = Guard(hello, limits=Limits(body=200_000), body_seconds=5, unread=400_000)
    refused = anyio.Event()
    async with served(guard, http=bounded(8000)) as url:
        port = int(url.rsplit(":", 1)[1])
        head = b"POST / HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-length: 199000\r\n\r\n" % port
        streams = [await connect(url) for _ in range(6)]
        for stream in streams:
            await stream.send(head + b"a" * 150_000)
        with anyio.fail_after(5):
            said = [b""] * len(streams)

            async def listen(index: int) -> None:
                said[index] = await rest(streams[index])
                refused.set()

            async with anyio.create_task_group() as group:
                for index in range(len(streams)):
                    group.start_soon(listen, index)
                async with httpx.AsyncClient(base_url=url, timeout=5) as client:
                    assert (await client.post("/", content=b"{}")).text == "hello"
                await refused.wait()
                group.cancel_scope.cancel()
        for stream in streams:
            await stream.aclose()
    assert any(b" 503 " in one.split(b"\r\n", 1)[0] for one in said)
    assert guard._unread == 0


async def test_the_end_of_a_body_is_no_part_of_the_head_behind_it() -> None:
    """Of requests sent one behind another (RFC 9112 section 9.3.2): each is answered, whatever came in one piece."""
    body = b"x" * 20_000
    first = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    async with served(hello, http=bounded(8000, 5)) as url, await connect(url) as stream:
        await stream.send(first + b"GET / HTTP/1.1\r\nho")
        said = await until(stream, b"hello")
        assert said.startswith(b"HTTP/1.1 200")
        await stream.send(b"st: x\r\n\r\n")
        assert (await until(stream, b"hello")).startswith(b"HTTP/1.1 200")
