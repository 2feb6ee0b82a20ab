"""Both paths answer alike: hundreds of odd requests, each down the shorter path and down the SDK's own."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentmesh.core.policy import Principal
from tests.mcp.asgi import HEADERS, META, Answer, ask, call, edge
from tests.requirements import covers

pytestmark = pytest.mark.anyio

Headers = list[tuple[str, str]]
Odd = Callable[[random.Random, dict[str, Any], dict[str, str]], None]
TOOLS = (
    "desk.echo", "desk.blocks", "desk.number", "desk.checked", "desk.secret", "desk.elicits", "desk.mirrored",
    "desk.wrong_block", "desk.bad", "desk.fails", "desk.breaks", "desk.asks", "desk.logs", "desk.nothing", "run",
    "nosuch", "", "desk.ech\u00f6",
)  # fmt: skip
VALUES = (
    None, True, 0, -1, 1.5, 1e300, 2**53, 2**70, "", "x", "\u00e9", "\U0001f600", "\ud800", [], {}, [1], {"a": None},
    [[[[[]]]]], "desk.echo", "2026-07-28", "2025-11-25", "2099-01-01",
)  # fmt: skip


def other_tool(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    name = rng.choice(TOOLS)
    if isinstance(body.get("params"), dict):
        body["params"]["name"] = name
    headers["mcp-name"] = name if name.isascii() else "=?base64?ZGVzay5lY2jDtg==?="


def odd_member(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    body[rng.choice(["jsonrpc", "id", "method", "params", "more", "result", "error"])] = rng.choice(VALUES)


def no_member(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    body.pop(rng.choice(sorted(body)), None)


def odd_param(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    if isinstance(body.get("params"), dict):
        key = rng.choice(["name", "arguments", "_meta", "inputResponses", "requestState", "task", "more"])
        body["params"][key] = rng.choice(VALUES)


def no_param(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    if isinstance(body.get("params"), dict):
        body["params"].pop(rng.choice(["name", "arguments", "_meta"]), None)


def odd_argument(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    params = body.get("params")
    if isinstance(params, dict) and isinstance(params.get("arguments"), dict):
        params["arguments"][rng.choice(["text", "region", "more"])] = rng.choice(VALUES)


def odd_meta(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    params = body.get("params")
    if isinstance(params, dict) and isinstance(params.get("_meta"), dict):
        key = rng.choice([*META, "io.modelcontextprotocol/logLevel", "progressToken", "traceparent", "com.example/x"])
        params["_meta"][key] = rng.choice(
            [*VALUES, {"name": "a", "version": "b", "title": "c", "icons": [{"src": "x"}]}, {"name": "a"},
             {"elicitation": {}}, {"elicitation": {"form": {}}, "sampling": {"tools": {}}}, {"roots": []},
             {"extensions": {"io.modelcontextprotocol/tasks": {}}}, {"experimental": {"a": {}}}, "warning"]
        )  # fmt: skip


def no_meta(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    params = body.get("params")
    if isinstance(params, dict) and isinstance(params.get("_meta"), dict):
        params["_meta"].pop(rng.choice(sorted(META)), None)


def odd_header(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    name, values = rng.choice(
        [
            ("mcp-method", ["tools/list", "TOOLS/CALL", "", "tools/call "]),
            ("mcp-name", ["other", "DESK.ECHO", "", "=?base64?ZGVzay5lY2hv?=", "=?base64?ZGVzay5lY2hv", "=?base64?!!?=", "desk.echo\xe9"]),
            ("mcp-protocol-version", ["2025-11-25", "2099-01-01", "", "2026-07-28 "]),
            ("content-type", ["text/plain", "application/json; charset=utf-8", "Application/JSON", "application/jsonx", ""]),
            ("accept", ["*/*", "application/json", "text/event-stream", "application/*, text/*", "text/html", "",
                        "text/event-stream;q=0.5,application/json;q=1"]),
            ("mcp-param-region", ["eu", "=?base64?ZXU=?=", ""]),
            ("mcp-session-id", ["0190", ""]),
            ("last-event-id", ["1"]),
        ]
    )  # fmt: skip
    headers[name] = rng.choice(values)


def no_header(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    headers.pop(rng.choice(sorted(HEADERS)), None)


def mirrored(rng: random.Random, body: dict[str, Any], headers: dict[str, str]) -> None:
    body["params"] = {**call()["params"], "name": "desk.mirrored", "arguments": {"region": rng.choice(["eu", "us"])}}
    headers["mcp-name"] = "desk.mirrored"
    if rng.random() < 0.7:
        headers["mcp-param-region"] = rng.choice(["eu", "us", "=?base64?ZXU=?="])


ODD: tuple[Odd, ...] = (
    other_tool, other_tool, odd_member, no_member, odd_param, no_param, odd_argument, odd_argument, odd_meta, odd_meta,
    no_meta, odd_header, odd_header, no_header, mirrored,
)  # fmt: skip


def odd_bytes(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return rng.choice(
        [
            lambda: data[:at],
            lambda: data[:at] + bytes([rng.randrange(256)]) + data[at:],
            lambda: data + b"{}",
            lambda: b"\xef\xbb\xbf" + data,
            lambda: b"[" + data + b"]",
            lambda: b"[" * 2000 + b"]" * 2000,
            lambda: data.replace(b'"hello"', b"NaN"),
            lambda: data.replace(b'"hello"', b"1e999"),
            lambda: data.replace(b'"hello"', b'"\\ud800"'),
            lambda: data.replace(b'"hello"', b'"\\u00e9"'),
            lambda: data.replace(b'"hello"', b'"' + "\u00e9".encode("latin-1") + b'"'),
            lambda: data.replace(b'"hello"', b"9" * 5000),
            lambda: data.replace(b'"hello"', b"[" * 100 + b"]" * 100),
            lambda: json.dumps(json.loads(data)).encode("utf-16"),
            lambda: b"",
            lambda: b"null",
        ]
    )()  # fmt: skip


def requests(seed: int, count: int) -> Iterator[tuple[bytes, Headers, str]]:
    """Plain calls with up to three things odd about each; now and then the bytes themselves, or a header twice."""
    rng = random.Random(seed)
    for _ in range(count):
        body, headers = copy.deepcopy(call()), dict(HEADERS)
        for odd in rng.sample(ODD, rng.choice([0, 1, 1, 1, 2, 3])):
            odd(rng, body, headers)
        data = json.dumps(body).encode()
        if rng.random() < 0.15:
            data = odd_bytes(rng, data)
        pairs = list(headers.items())
        if rng.random() < 0.05:
            pairs.append(rng.choice(pairs))
        yield data, pairs, "GET" if rng.random() < 0.02 else "POST"


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def shown(answer: Answer) -> Any:
    """Status, kind of body, and all that the message says; an error's words may differ, its code and data may not."""
    message = answer.json
    kind = dict(answer.headers).get(b"content-type", b"").split(b";")[0]
    if isinstance(message, dict) and "error" in message:
        return answer.status, kind, message.get("id"), message["error"]["code"], message["error"].get("data")
    if isinstance(message, dict) and isinstance(message.get("result"), dict):
        result = message["result"]
        if result.get("resultType") == "task":
            return answer.status, kind, message.get("id"), "task"
        if result.get("resultType") == "input_required":  # its state is sealed anew each time
            return answer.status, kind, message.get("id"), result["inputRequests"]
        result.get("_meta", {}).pop("io.agentmesh/run", None)
    return answer.status, kind, message


@covers("MCP-2026-07-28 basic/transports/streamable-http#server-validation", "MCP-2026-07-28 basic#meta")
@pytest.mark.parametrize("seed", range(8))
async def test_odd_requests_are_answered_alike(seed: int) -> None:
    """Status, code, id and result are the same by both paths, so that no rule of the specification can be lost on the shorter one."""
    plain = 0
    async with edge() as (built, _):
        for number, (data, headers, method) in enumerate(requests(seed, 150)):
            told = (data, headers, method)
            short = await ask(built.app, data, headers, method=method, chunks=1 + number % 2, principal=Principal())
            if method == "POST" and not is_utf8(data):
                assert (short.status, short.json["error"]["code"]) == (400, -32700), told
                continue  # of these the SDK reads some
            plain += b"tools/call" in data and short.status == 200
            whole = await ask(built.app._front, data, headers, method=method, principal=Principal())
            assert shown(short) == shown(whole), told
    assert plain > 20, "the odd ones must not be all there is"


@pytest.mark.parametrize("name", [name for name in TOOLS if name.isascii()])
async def test_every_kind_of_tool_answers_alike(name: str) -> None:
    """The same call by both paths, twice: what is learnt of a tool at its first call changes nothing."""
    arguments: dict[str, Any] = {"text": "hello"} if name in {"run", "desk.echo", "desk.blocks", "desk.checked"} else {}
    headers = list({**HEADERS, "mcp-name": name}.items())
    async with edge() as (built, _):
        for _ in range(2):
            body = call(name, arguments)
            assert shown(await ask(built.app, body, headers)) == shown(await ask(built.app._front, body, headers))
