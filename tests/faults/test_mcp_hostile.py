"""A served mesh under attack over MCP: whoever asks properly meanwhile is served as usual, and nobody gets another's answer."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.mesh import write_mesh
from tests.faults.served import Served
from tests.faults.test_bad_input import HEADERS, LIST, META, others_are_answered
from tests.requirements import covers

BOTH = {"accept": "application/json, text/event-stream"}
STREAMS = 400
DESK = """
name: desk
description: Of the hostile tests.
tools:
  echo:
    description: Says it again.
    input: {type: object, properties: {text: {type: string}, n: {type: integer}}, required: [text]}
    python: tests.faults.functions:again
  sure:
    description: Asks first.
    input: {type: object, properties: {text: {type: string}}, required: [text]}
    python: tests.faults.functions:again
    elicit:
      sure: {message: "Sure?", form: {type: object, properties: {yes: {type: boolean}}}}
  other:
    description: Asks first, too.
    input: {type: object, properties: {text: {type: string}}, required: [text]}
    python: tests.faults.functions:again
    elicit:
      sure: {message: "Sure?", form: {type: object, properties: {yes: {type: boolean}}}}
"""


def written(folder: Path) -> Path:
    mesh = write_mesh(folder, "http://127.0.0.1:9")
    (mesh / "servers").mkdir(exist_ok=True)
    (mesh / "servers" / "desk.yaml").write_text(DESK)
    return mesh


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(written(tmp_path_factory.mktemp("hostile") / "mesh")).start() as served:
        assert served.http.post("/mcp", json=LIST, headers=HEADERS).status_code == 200
        yield served


def request(
    method: str, params: Mapping[str, Any], ident: Any = 1, capabilities: Mapping[str, Any] | None = None, **meta: Any
) -> dict[str, Any]:
    """The arguments of `post` for a request of 2026-07-28."""
    said = {**META, "io.modelcontextprotocol/clientCapabilities": capabilities or {}, **meta}
    name = params.get("name")
    return {
        "json": {"jsonrpc": "2.0", "id": ident, "method": method, "params": {**params, "_meta": said}},
        "headers": {**HEADERS, "mcp-method": method} | ({"mcp-name": name} if name else {}),
    }


def message(answer: httpx.Response) -> dict[str, Any]:
    """The only answer in it."""
    if answer.text.startswith("{"):
        found: dict[str, Any] = answer.json()
        return found
    events = [
        json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:") and line[5:].strip()
    ]
    (last,) = [event for event in events if "result" in event or "error" in event]
    return dict(last)


def session(server: Served) -> dict[str, str]:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    answer = server.http.post(
        "/mcp", json={"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}, headers=BOTH
    )
    headers = {**BOTH, "mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
    server.http.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
    return headers


@covers("MCP-2026-07-28 basic#ids-in-parallel")
@pytest.mark.parametrize("way", ["plain", "with progress", "sessions", "one session"])
def test_forty_calls_with_one_id_at_once(server: Served, way: str) -> None:
    """Each gets the answer to what it asked, on the shorter path, the SDK's, in sessions of their own and all in one."""
    one = session(server) if way == "one session" else None

    def call(n: int) -> str:
        params = {"name": "desk.echo", "arguments": {"text": f"text {n}", "n": n}}
        with httpx.Client(base_url=server.http.base_url, timeout=20, trust_env=False) as client:
            if way in ("plain", "with progress"):
                meta: dict[str, Any] = {"progressToken": "p"} if way == "with progress" else {}
                found = message(client.post("/mcp", **request("tools/call", params, 7, **meta)))
            else:
                body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
                found = message(client.post("/mcp", json=body, headers=one or session(server)))
        assert found["id"] == 7
        return str(found["result"]["structuredContent"]["text"])

    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(call, range(40))) == [f"text {n}" for n in range(40)]


@covers("MCP-2026-07-28 basic/patterns/mrtr#request-state", "MCP-2026-07-28 basic/patterns/mrtr#replay")
def test_a_state_is_good_for_its_own_call_on_its_own_mesh(tmp_path: Path) -> None:
    """Not for other arguments, another tool or method, nor cut or changed, nor on another mesh; for its own after a restart too."""
    forms: dict[str, Any] = {"elicitation": {}}
    responses = {"sure": {"action": "accept", "content": {"yes": True}}}

    def asked(
        server: Served, name: str, text: str, state: str | None = None, method: str = "tools/call"
    ) -> dict[str, Any]:
        params = {"name": name, "arguments": {"text": text}}
        more = {"requestState": state, "inputResponses": responses} if state is not None else {}
        return message(server.http.post("/mcp", **request(method, {**params, **more}, capabilities=forms)))

    with Served(written(tmp_path / "one")) as one, Served(written(tmp_path / "two")) as two:
        one.start()
        two.start()
        first = asked(one, "desk.sure", "a")["result"]
        assert first["resultType"] == "input_required"
        state = first["requestState"]
        foreign = asked(two, "desk.sure", "a")["result"]["requestState"]
        for name, text, forged in [
            ("desk.sure", "b", state), ("desk.other", "a", state), ("desk.sure", "a", foreign), ("desk.sure", "a", state[:-1]),
            ("desk.sure", "a", state[:20]), ("desk.sure", "a", state + "A"), ("desk.sure", "a", ""), ("desk.sure", "a", "v1." + "A" * 99),
            ("desk.sure", "a", state[:40] + ("A" if state[40] != "A" else "B") + state[41:]), ("desk.sure", "a", "x" * 1_000_000),
        ]:  # fmt: skip
            refused = asked(one, name, text, forged)
            assert refused["error"]["code"] == -32602, (name, text, refused)
            assert refused["error"]["data"]["reason"] == "invalid_request_state"
        assert asked(one, "desk.sure", "a", state, "prompts/get")["error"]["code"] == -32602
        one.kill()
        one.start()
        again = asked(one, "desk.sure", "a", state)["result"]
        assert again["structuredContent"]["text"] == "a"


@covers("MCP-2026-07-28 basic/transports/streamable-http#security-endpoint")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403), ({"origin": "http://127.0.0.1:{port}.evil.example"}, 403),
        ({"origin": "https://127.0.0.1:{port}"}, 403), ({"origin": "http://127.0.0.1:{port}/"}, 403), ({"origin": ""}, 403),
        ({"origin": "http://user@127.0.0.1:{port}"}, 403), ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "http://127.0.0.1:{port}"}, 200),
        ({"host": "evil.example"}, 421), ({"host": "127.0.0.1:{port}.evil.example"}, 421), ({"host": "127.0.0.1:1"}, 421),
        ({"host": "user@127.0.0.1:{port}"}, 421), ({"host": "127.0.0.1.:{port}"}, 421), ({"host": "LOCALHOST:{port}"}, 200),
    ],
)  # fmt: skip
@pytest.mark.parametrize("older", [False, True])
def test_host_and_origin_are_compared_whole(server: Served, headers: dict[str, str], status: int, older: bool) -> None:
    """By scheme, host and port, in both eras; a prefix is nothing."""
    port = str(server.http.base_url.port)
    said = {name: value.replace("{port}", port) for name, value in headers.items()}
    if older:
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        answer = server.http.post("/mcp", json=body, headers=session(server) | said)
    else:
        answer = server.http.post("/mcp", json=LIST, headers=HEADERS | said)
    assert answer.status_code == status
    assert status == 200 or message(answer)["error"]["code"] == -32600


@covers("MCP-2026-07-28 basic/transports/streamable-http#single-message")
def test_bodies_that_explode(server: Served) -> None:
    """A bomb in gzip, megabytes of brackets, of objects, of quotes, of digits: refused, and nobody else waits."""
    deep, wide = b"[" * 1_000_000 + b"]" * 1_000_000, b"[" + b"{}," * 1_300_000 + b"{}]"
    bodies = {
        "gzip": gzip.compress(b" " * 50_000_000),
        "deep": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "desk.echo", "arguments": ' + deep + b"}}",
        "wide": b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "desk.echo", "arguments": ' + wide + b"}}",
        "quotes": b"[" * 600_000 + b'"' + b'\\"' * 1_500_000,
        "digits": b'{"jsonrpc": "2.0", "id": ' + b"9" * 3_000_000 + b', "method": "ping"}',
        "batch": b"[" + b",".join([json.dumps(LIST).encode()] * 1000) + b"]",
        "twice": json.dumps(LIST).replace('"id": 1', '"id": 1, "id": 2').encode(),
    }  # fmt: skip
    older = session(server)
    for name, body in bodies.items():
        for headers in ({**HEADERS, "mcp-method": "tools/call", "mcp-name": "desk.echo"}, older):
            coding = {"content-encoding": "gzip"} if name == "gzip" else {}
            with others_are_answered(server):
                answer = server.http.post(
                    "/mcp", content=body, headers={**headers, **coding, "content-type": "application/json"}
                )
            assert answer.status_code in (400, 413, 415), (name, answer.status_code)
            assert message(answer)["error"]["code"] in (-32600, -32700), name


@covers("MCP-2026-07-28 basic/patterns/subscriptions#bounds")
def test_hundreds_of_streams_and_half_open_requests(server: Served) -> None:
    """Listen streams that nobody reads, and requests that never end, beside a thousand calls that are answered."""
    address = ("127.0.0.1", server.http.base_url.port or 0)
    listen = json.dumps(request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})["json"]).encode()
    head = (
        f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{address[1]}\r\ncontent-type: application/json\r\n"
        "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: {}\r\n"
        "content-length: {}\r\n\r\n"
    )
    with ExitStack() as held:
        streams = []
        for n in range(STREAMS):
            stream = held.enter_context(socket.create_connection(address, timeout=20))
            stream.sendall(head.format("subscriptions/listen", len(listen)).encode() + listen)
            streams.append(stream)
            half = held.enter_context(socket.create_connection(address, timeout=20))
            half.sendall(head.format("tools/list", 1000).encode() + b'{"json' if n % 2 else b"POST /mcp HT")
        for stream in streams:
            said = b""
            while b"acknowledged" not in said:
                piece = stream.recv(65536)
                assert piece, said
                said += piece
        with others_are_answered(server) as took:
            threading.Event().wait(2)
        assert len(took) > 20
    with others_are_answered(server):
        pass
