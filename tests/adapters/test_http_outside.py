"""HTTP for steps, against small servers on real sockets that behave and misbehave."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

from agentmesh.adapters import http_outside
from agentmesh.adapters.http_outside import OutsideHttp
from agentmesh.core.outside import HttpRequest
from agentmesh.errors import Fail, NotSent, Unanswered

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def listening(serve, host="127.0.0.1", tls=None):
    """A TCP server; leaving ends its connections and waits for them. Yields its port."""
    open_ones: set[asyncio.StreamWriter] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            open_ones.discard(writer)

    listener = await asyncio.start_server(connection, host, 0, ssl=tls)
    async with listener:
        try:
            yield listener.sockets[0].getsockname()[1]
        finally:
            listener.close()
            with anyio.CancelScope(shield=True), anyio.fail_after(5):
                while open_ones:
                    for writer in list(open_ones):
                        writer.close()
                    await anyio.sleep(0.01)


@asynccontextmanager
async def server(*replies, host="127.0.0.1"):
    """Answers each request with the next of `replies` (the last for ever): bytes, or None to hang up. Yields url and requests."""
    left, seen = list(replies), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            seen.append((first, headers, body))
            reply = left.pop(0) if len(left) > 1 else left[0]
            if reply is None:
                return
            if isinstance(reply, anyio.Event):
                await reply.wait()
                return
            writer.write(reply)
            await writer.drain()

    async with listening(serve, host) as port:
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", seen


def reply(body: bytes = b"", status: int = 200, *headers: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body


JSON = "content-type: application/json; charset=utf-8"


async def send(url: str, method: str = "GET", **more):
    with anyio.fail_after(10):
        async with OutsideHttp(trust_env=False) as client:
            return await client.send(HttpRequest(method, url, **more))


async def test_a_request_arrives_and_its_answer_comes_back():
    """Method, headers and body go out as given; status, headers in lower case and the JSON body come back."""
    async with server(reply(b'{"a": [1, null]}', 201, JSON, "X-Two: 1", "X-Two: 2")) as (url, seen):
        answer = await send(f"{url}/x?q=1", "POST", headers={"X-Key": "k", "content-type": "text/plain"}, body=b"hello")
    assert (answer.status, answer.body, answer.headers["x-two"]) == (201, {"a": [1, None]}, "1, 2")
    first, headers, body = seen[0]
    assert (first, headers["x-key"], headers["content-type"], body) == (
        "POST /x?q=1 HTTP/1.1",
        "k",
        "text/plain",
        b"hello",
    )


async def test_a_body_is_json_only_where_the_answer_says_so():
    """Text stays text, problem+json is JSON, nothing is null."""
    async with server(
        reply(b'{"a": 1}', 200, "content-type: text/plain"),
        reply(b'{"a": 1}', 200, "content-type: application/problem+json"),
        reply(b"", 204),
        reply("grün".encode("latin-1"), 200, "content-type: text/plain; charset=latin-1"),
    ) as (url, _):
        assert [(await send(url)).body for _ in range(4)] == ['{"a": 1}', {"a": 1}, None, "grün"]


@pytest.mark.parametrize("body", [b"{", b'{"a": NaN}', b'"\\ud800"', b"[" * 100, b"\xff"])
async def test_json_that_is_none_fails(body):
    """The same rules as for JSON that callers send; trying again does not help."""
    async with server(reply(body, 200, JSON)) as (url, _):
        with pytest.raises(Fail, match="that is none"):
            await send(url)


async def test_of_a_refusal_the_words_are_kept_even_if_they_are_not_json():
    """A gateway that says 502 in broken JSON is told as 502."""
    async with server(reply(b"{oops", 502, JSON)) as (url, _):
        answer = await send(url)
    assert (answer.status, answer.body) == (502, "{oops")


async def test_what_is_neither_json_nor_text_fails():
    """An image is not silently made into text."""
    async with server(reply(b"\x89PNG\xff", 200, "content-type: image/png")) as (url, _):
        with pytest.raises(Fail, match="image/png, which is neither JSON nor text"):
            await send(url)


@pytest.mark.parametrize("compress", [False, True])
async def test_an_answer_over_the_limit_is_not_read(compress):
    """4 MB, also when a few bytes grow to that, and without holding it all."""
    data = b"x" * (http_outside.BODY_LIMIT + 1)
    headers = ["content-encoding: gzip"] if compress else []
    async with server(reply(gzip.compress(data) if compress else data, 200, "content-type: text/plain", *headers)) as (
        url,
        _,
    ):
        with pytest.raises(Fail, match="larger than 4 MB"):
            await send(url)


async def test_a_compressed_answer_is_read():
    """gzip, which is asked for."""
    data = json.dumps({"n": list(range(50_000))}).encode()
    async with server(reply(gzip.compress(data), 200, JSON, "content-encoding: gzip")) as (url, _):
        assert len((await send(url)).body["n"]) == 50_000


async def test_a_port_that_nobody_listens_on_is_not_sent():
    """No byte can have left."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        with pytest.raises(NotSent, match="cannot be reached"):
            await send(f"http://127.0.0.1:{taken.getsockname()[1]}", "POST", body=b"x")


async def test_a_connection_that_is_never_taken_is_not_sent():
    """The time is over before anything was written: a TLS server that never speaks."""
    done = anyio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()

    async with listening(silent) as port:
        with pytest.raises(NotSent, match="cannot be reached"):
            await send(f"https://127.0.0.1:{port}/", "POST", body=b"x", timeout=0.2)
        done.set()


async def test_an_answer_that_does_not_come_is_unanswered():
    """The request was written and may have been done: a server that hangs, one that hangs up, one that stops in the middle."""
    hang = anyio.Event()
    async with server(hang) as (url, _):
        with pytest.raises(Unanswered, match="did not answer within"):
            await send(url, "POST", body=b"x", timeout=0.2)
        hang.set()
    async with server(None) as (url, seen):
        with pytest.raises(Unanswered):
            await send(url, "POST", body=b"x")
        assert len(seen) == 1
    async with server(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc") as (url, _):
        with pytest.raises(Unanswered):
            await send(url, "POST", body=b"x", timeout=0.5)


async def test_a_flood_ends_with_the_time():
    """An answer that drips for ever is cut off when the time for all of it is over."""
    drip = anyio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while not drip.is_set():
            writer.write(b"x")
            await writer.drain()
            await anyio.sleep(0.02)

    async with listening(serve) as port:
        with pytest.raises(Unanswered, match=r"within 0\.3 s"):
            await send(f"http://127.0.0.1:{port}", timeout=0.3)
        drip.set()


async def test_redirects_are_followed_for_reads_within_the_origin_only():
    """A write comes back as it is, and so does what points elsewhere: headers may hold secrets for this origin."""
    async with server(reply(b"", 302, "location: /b"), reply(b"here", 200, "content-type: text/plain")) as (url, seen):
        assert (await send(f"{url}/a")).body == "here"
        assert [first for first, *_ in seen] == ["GET /a HTTP/1.1", "GET /b HTTP/1.1"]
    async with server(reply(b"", 307, "location: /b")) as (url, seen):
        assert (await send(f"{url}/a", "POST", body=b"x")).status == 307
        assert len(seen) == 1
    async with server(reply(b"", 302, "location: http://127.0.0.2:1/")) as (url, _):
        assert (await send(f"{url}/a")).status == 302
    async with server(reply(b"", 302, "location: /a")) as (url, _):
        with pytest.raises(Fail, match="redirects more than 5 times"):
            await send(f"{url}/a")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "file:///etc/passwd", "127.0.0.1/x", "http://", "http://[::1/"])
async def test_only_http_urls_are_sent(url):
    """Anything else fails before a connection is made."""
    with pytest.raises(Fail, match="url"):
        await send(url)


async def test_no_cookie_is_kept():
    """What one step was told is not sent by the next."""
    async with server(reply(b"", 200, "set-cookie: who=me")) as (url, seen), OutsideHttp(trust_env=False) as client:
        for _ in range(2):
            await client.send(HttpRequest("GET", url))
    assert "cookie" not in seen[1][1]


@pytest.mark.parametrize("value", ["se\ncret", "secr€t"])
async def test_a_header_that_cannot_be_sent_is_not_shown(value):
    """The words of the error do not hold its value."""
    async with server(reply()) as (url, _):
        with pytest.raises(Fail) as caught:
            await send(url, headers={"x-key": value})
    assert "cret" not in caught.value.message
    assert "secr" not in caught.value.message


async def test_ipv6_is_spoken():
    """A literal address in brackets."""
    try:
        async with server(reply(b"six", 200, "content-type: text/plain"), host="::1") as (url, _):
            assert (await send(url)).body == "six"
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")


async def test_a_cancelled_request_ends_its_connection():
    """The other side sees the end at once."""
    came, gone = anyio.Event(), anyio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.set()
        assert await reader.read(1) == b""
        gone.set()

    with anyio.fail_after(5):
        async with listening(serve) as port, anyio.create_task_group() as tasks:
            tasks.start_soon(send, f"http://127.0.0.1:{port}")
            await came.wait()
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await gone.wait()


async def test_this_machine_is_not_reached_through_a_proxy(monkeypatch):
    """A proxy that the environment names is for the world; a service on loopback is asked itself."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with server(reply(b"here", 200, "content-type: text/plain")) as (url, _), OutsideHttp() as client:
        assert (await client.send(HttpRequest("GET", url))).body == "here"
        with pytest.raises((NotSent, Unanswered)):
            await client.send(HttpRequest("GET", "http://elsewhere.invalid/"))
