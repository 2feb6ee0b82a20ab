"""Callers of /mcp that mean harm, or know no better: each is refused or bounded, and the others are served meanwhile.

The rules stand in MCP 2026-07-28 basic/transports/streamable-http; where it says nothing, in HTTP (RFC 9110, 9112) and JSON (RFC 8259).
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.served import Served
from tests.faults.test_bad_input import META, REFUSED, others_are_answered

CALL_HEADERS = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "desk.echo",
}
OLDER = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
SERVER = """name: desk
tools:
  echo:
    description: Echo.
    input: {type: object, properties: {text: {type: string}}, required: [text]}
    python: hostile_echo:echo
"""
ECHO = "async def echo(text):\n    return {'text': text}\n"
MB = 1024 * 1024
MEMORY = 150.0
"""Most megabytes that any of this may add to the server."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all of this file: it must survive all of it."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "servers").mkdir()
    (folder / "agentmesh.yaml").write_text("name: hostile\n")
    (folder / "servers" / "desk.yaml").write_text(SERVER)
    (folder / "hostile_echo.py").write_text(ECHO)
    root = Path(__file__).parents[2]
    with Served(folder, PYTHONPATH=f"{folder}:{root}").start() as served:
        served.http.timeout = 60
        assert called(served.http)["structuredContent"] == {"text": "hello"}
        yield served


def call(text: str = "hello", ident: Any = 1) -> dict[str, Any]:
    params = {"name": "desk.echo", "arguments": {"text": text}, "_meta": META}
    return {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}


def called(http: httpx.Client, text: str = "hello") -> Any:
    """The result of a plain call."""
    answer = http.post("/mcp", json=call(text), headers=CALL_HEADERS)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


def memory(server: Served) -> float:
    """Resident megabytes of the server."""
    found = re.search(r"^process_resident_memory_bytes (\d+)$", server.http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / MB


@contextmanager
def bounded(server: Served) -> Iterator[None]:
    """Others are answered while the block runs, a call of a tool among them, and little memory is taken."""
    before = memory(server)
    with others_are_answered(server):
        yield
        assert called(server.http) is not None
    assert memory(server) - before < MEMORY
    assert server.process.poll() is None


def connection(server: Served) -> socket.socket:
    url = server.http.base_url
    return socket.create_connection((url.host, url.port or 80), timeout=60)


def head(server: Served, **headers: str) -> bytes:
    lines = {"host": f"{server.http.base_url.host}:{server.http.base_url.port}", **CALL_HEADERS, **headers}
    return ("POST /mcp HTTP/1.1\r\n" + "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in lines.items())).encode()


def test_half_open_requests(server: Served) -> None:
    """Six hundred heads and bodies that stop halfway: nobody else waits for them (RFC 9110 section 15.5.9 gives 408 for the end)."""
    with ExitStack() as stack, bounded(server):
        for number in range(600):
            one = stack.enter_context(connection(server))
            one.sendall(
                head(server)[:-40]
                if number % 2
                else head(server, content_length="4000000") + b"\r\n" + b'{"jsonrpc":' * 20
            )
        for _ in range(20):
            assert called(server.http)


def test_slow_bodies_are_bounded_together(server: Served) -> None:
    """A hundred bodies of almost four megabytes that never end hold far less than that together."""
    with ExitStack() as stack, bounded(server):
        sent = 0
        for _ in range(100):
            one = stack.enter_context(connection(server))
            one.settimeout(2)
            try:
                one.sendall(head(server, content_length=str(4_000_000)) + b"\r\n" + b" " * 3_000_000)
                sent += 1
            except OSError:
                continue  # refused while it was still sending
        assert sent > 0
        assert called(server.http)


@pytest.mark.parametrize("headers", [CALL_HEADERS, OLDER], ids=["2026", "2025"])
def test_a_body_without_end(server: Served, headers: dict[str, str]) -> None:
    """Chunk after chunk of one JSON text: 413 as soon as it is too long, in both eras (RFC 9110 section 15.5.14)."""

    def endless() -> Iterator[bytes]:
        yield b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"desk.echo","arguments":{"text":"'
        for _ in range(2000):
            yield b"x" * 65536

    with bounded(server):
        try:
            status = server.http.post("/mcp", content=endless(), headers=headers).status_code
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            status = 413  # it hung up while we were still sending
    assert status == 413


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br", "deflate", "identity, gzip", "x" * 3000])
@pytest.mark.parametrize("headers", [CALL_HEADERS, OLDER], ids=["2026", "2025"])
def test_a_compressed_body_is_not_unpacked(server: Served, coding: str, headers: dict[str, str]) -> None:
    """415 with what is taken instead (RFC 9110 sections 8.4 and 15.5.16): a kilobyte cannot become a gigabyte here."""
    bomb = gzip.compress(json.dumps(call("x" * (50 * MB))).encode())
    with bounded(server):
        answer = server.http.post("/mcp", content=bomb, headers={**headers, "content-encoding": coding})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    assert answer.json()["error"]["code"] == -32600


def test_identity_is_no_coding(server: Served) -> None:
    """What says that it is as it is, is taken (RFC 9110 section 8.4.1)."""
    answer = server.http.post("/mcp", json=call(), headers={**CALL_HEADERS, "content-encoding": "identity"})
    assert answer.status_code == 200


@pytest.mark.parametrize("headers", [CALL_HEADERS, OLDER], ids=["2026", "2025"])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("inside", [False, True])
def test_a_megabyte_of_nesting(server: Served, headers: dict[str, str], opening: bytes, inside: bool) -> None:
    """Refused at once, as a text by itself and as the arguments of a call (RFC 8259 section 9 lets a parser limit depth)."""
    nested = opening * (MB // len(opening))
    if inside:
        nested = (
            json.dumps(call())
            .encode()
            .replace(b'"hello"', nested + b"1" + (b"]" if opening == b"[" else b"}") * (MB // len(opening)))
        )
    with bounded(server):
        begun = time.monotonic()
        answer = server.http.post("/mcp", content=nested, headers=headers)
        assert time.monotonic() - begun < REFUSED
    assert answer.status_code in (400, 413)
    assert answer.json()["error"]["code"] in (-32700, -32600, -32602)


def test_forty_calls_with_one_id(server: Served) -> None:
    """Each gets its own answer on its own response stream (streamable-http, Sending Messages)."""

    def one(number: int) -> Any:
        with httpx.Client(base_url=server.http.base_url, timeout=30, trust_env=False) as http:
            answer = http.post("/mcp", json=call(f"t{number}", "same"), headers=CALL_HEADERS).json()
        return answer["id"], answer["result"]["structuredContent"]["text"]

    with bounded(server), ThreadPoolExecutor(40) as pool:
        assert list(pool.map(one, range(40))) == [("same", f"t{number}") for number in range(40)]


def test_clients_that_leave_at_once(server: Served) -> None:
    """A thousand requests whose clients do not wait for the answer leave nothing behind (streamable-http, Cancellation)."""
    body = json.dumps(call()).encode()
    request = head(server, content_length=str(len(body))) + b"\r\n" + body
    with bounded(server):
        for _ in range(1000):
            with connection(server) as one:
                one.sendall(request)
        assert called(server.http)


def test_requests_behind_one_another(server: Served) -> None:
    """A hundred requests in one write are answered in their order (RFC 9112 section 9.3.2)."""
    parts = [json.dumps(call(f"t{number}", number)).encode() for number in range(100)]
    with bounded(server), connection(server) as one:
        one.sendall(b"".join(head(server, content_length=str(len(body))) + b"\r\n" + body for body in parts))
        said = b""
        while said.count(b'"jsonrpc"') < 100:
            more = one.recv(65536)
            assert more, said[-500:]
            said += more
    assert [int(found) for found in re.findall(rb'"id":(\d+)', said)] == list(range(100))


@pytest.mark.parametrize(
    "lines",
    [
        {"content_length": "5", "transfer_encoding": "chunked"},
        {"content_length": "-1"},
        {"content_length": "0x10"},
        {"content_length": "9" * 30},
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"x_long": "a" * 70_000},
    ],
    ids=lambda lines: next(iter(lines)),
)
def test_heads_that_lie(server: Served, lines: dict[str, str]) -> None:
    """Two lengths, no length, somebody else's name, too much of it: 4xx and the end of the connection (RFC 9112 section 6.3)."""
    with bounded(server), connection(server) as one:
        one.sendall(head(server, **lines) + b"\r\n" + b"{}")
        said = b""
        while more := one.recv(65536):
            said += more
    assert said.startswith(b"HTTP/1.1 4"), said[:200]
    assert said.count(b"HTTP/1.1 ") == 1
