"""What stands on the wire: statuses, headers, sessions and refusals, by plain HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx2
import pytest

from tests.mcp.conftest import FakeEngine
from tests.requirements import covers

pytestmark = pytest.mark.anyio

VERSION = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
BOTH = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url, headers=BOTH, timeout=5) as client:
        yield client


def modern(method: str, params: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    """A request of 2026-07-28 as keyword arguments of httpx."""
    meta = {VERSION: "2026-07-28", CAPABILITIES: {}}
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**(params or {}), "_meta": meta}}
    named = {"mcp-name": str(params["name"])} if params and "name" in params else {}
    return {"json": body, "headers": {"mcp-protocol-version": "2026-07-28", "mcp-method": method, **named, **headers}}


def legacy(method: str, params: dict[str, Any] | None = None, *, ident: int | None = 1) -> dict[str, Any]:
    body: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params or {}}
    return body | ({} if ident is None else {"id": ident})


async def opened(http: httpx2.AsyncClient, version: str = "2025-11-25", **headers: str) -> dict[str, str]:
    """Opens a session; the headers of later requests."""
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    response = await http.post("", json=legacy("initialize", params), headers=headers)
    assert response.status_code == 200, response.text
    session = {"mcp-session-id": response.headers["mcp-session-id"], "mcp-protocol-version": version, **headers}
    done = await http.post("", json=legacy("notifications/initialized", ident=None), headers=session)
    assert done.status_code == 202
    return session


def answer(response: httpx2.Response) -> dict[str, Any]:
    """The JSON-RPC response in a JSON body, or the last one of a stream."""
    if response.headers["content-type"].startswith("application/json"):
        return dict(response.json())
    return dict(json.loads([line for line in response.text.splitlines() if line.startswith("data:")][-1][5:]))


@covers("MCP-2026-07-28 server/tools#calling")
async def test_a_short_call_is_one_json_body(http: httpx2.AsyncClient) -> None:
    """Without progress there is no stream; the whole shape of a result."""
    response = await http.post("", **modern("tools/call", {"name": "echo", "arguments": {"text": "x"}}))
    assert response.status_code == 200
    result = response.json()["result"]
    assert result.pop("_meta").keys() == {"io.agentmesh/run", "io.modelcontextprotocol/serverInfo"}
    assert result == {
        "content": [{"type": "text", "text": '{"text": "x", "who": "local"}'}],
        "structuredContent": {"text": "x", "who": "local"},
        "isError": False,
        "resultType": "complete",
    }


@covers("MCP-2026-07-28 basic#meta")
@pytest.mark.parametrize("missing", [VERSION, CAPABILITIES])
async def test_a_request_without_its_envelope_is_refused(http: httpx2.AsyncClient, missing: str) -> None:
    """The missing key is named."""
    request = modern("tools/list")
    del request["json"]["params"]["_meta"][missing]
    response = await http.post("", **request)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == -32602
    assert missing in response.json()["error"]["message"]


@covers("MCP-2026-07-28 basic/versioning#unsupported")
async def test_an_unknown_version_is_told_the_known_ones(http: httpx2.AsyncClient) -> None:
    """-32022 with data.supported."""
    request = modern("tools/list", **{"mcp-protocol-version": "2099-01-01"})
    request["json"]["params"]["_meta"][VERSION] = "2099-01-01"
    response = await http.post("", **request)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == -32022
    assert "2026-07-28" in response.json()["error"]["data"]["supported"]


@covers("MCP-2026-07-28 basic/transports/streamable-http#server-validation")
@pytest.mark.parametrize("header", ["mcp-method", "mcp-name"])
async def test_a_header_that_is_not_the_bodys_is_refused(http: httpx2.AsyncClient, header: str) -> None:
    """-32020, whether the header differs or is absent."""
    request = modern("tools/call", {"name": "echo", "arguments": {"text": "x"}})
    for value in ("other", None):
        headers = {k: v for k, v in request["headers"].items() if k != header} | ({header: value} if value else {})
        response = await http.post("", json=request["json"], headers=headers)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == -32020


@covers("MCP-2026-07-28 basic/transports/streamable-http#server-validation")
async def test_white_space_around_a_header_is_no_part_of_it(url: str) -> None:
    """RFC 9110 section 5.5; sent by hand, since HTTP clients trim it."""
    request = modern("tools/call", {"name": "echo", "arguments": {"text": "x"}})
    body = json.dumps(request["json"]).encode()
    port = int(url.split(":")[2].split("/", maxsplit=1)[0])
    lines = (
        {"host": f"127.0.0.1:{port}", "connection": "close", "content-length": str(len(body))}
        | BOTH
        | request["headers"]
    )
    lines["mcp-name"] = "  echo \t"
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with anyio.fail_after(5):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")


@covers("MCP-2026-07-28 basic/transports/streamable-http#custom-headers")
async def test_a_mirrored_argument_must_be_the_bodys(engine: FakeEngine, http: httpx2.AsyncClient) -> None:
    """Mcp-Param-Region is compared with the argument, and the tool is not called when they differ."""
    request = modern("tools/call", {"name": "mirrored", "arguments": {"region": "eu"}}, **{"mcp-param-region": "us"})
    response = await http.post("", **request)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == -32020
    assert engine.tools.called == []


@covers("MCP-2026-07-28 basic/transports/streamable-http#method-not-found")
@pytest.mark.parametrize(
    "method",
    ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "nonsense"],
)
async def test_what_is_not_served_is_not_found(http: httpx2.AsyncClient, method: str) -> None:
    """Unknown methods, and those the revision retired, are -32601 with HTTP 404."""
    params: dict[str, Any] = {"logging/setLevel": {"level": "info"}}.get(
        method, {"uri": "test://one"} if "resources" in method else {}
    )
    response = await http.post("", **modern(method, params))
    assert (response.status_code, response.json()["error"]["code"]) == (404, -32601), response.text


@covers("MCP-2026-07-28 basic/transports/streamable-http#notifications")
async def test_a_notification_is_accepted(http: httpx2.AsyncClient) -> None:
    """202 and no body."""
    body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    response = await http.post("", json=body, headers={"mcp-protocol-version": "2026-07-28"})
    assert (response.status_code, response.content) == (202, b"")


@covers("MCP-2026-07-28 basic/transports/streamable-http#single-message")
@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25", None])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700), (b"\xff\xfe", -32700), (b"[" * 100_000, -32700), (b'{"a":' + b"9" * 5000 + b"}", None),
        (b"[]", -32600), (b"7", -32600), (b'{"jsonrpc":"1.0","id":1,"method":"x"}', -32600),
        (b'{"jsonrpc":"2.0","id":[],"method":"tools/list"}', -32600),
    ],
)  # fmt: skip
async def test_a_body_that_is_no_message_is_refused_in_plain_words(
    http: httpx2.AsyncClient, version: str | None, body: bytes, code: int | None
) -> None:
    """Always 400 with a JSON-RPC error of one sentence, none of it from a library's insides."""
    headers = {"mcp-protocol-version": version} if version else {}
    if version != "2026-07-28":
        headers |= await opened(http)
    response = await http.post("", content=body, headers=headers)
    assert response.status_code == 400
    error = response.json()["error"]
    assert code is None or error["code"] == code
    assert error["code"] in {-32700, -32600}
    assert "pydantic" not in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize("version", ["2026-07-28", None])
@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"content-type": "text/plain"}, 400, "Content-Type: application/json"),
        ({"accept": "text/html"}, 406, "text/event-stream"),
    ],
)
async def test_a_refusal_says_what_to_do(
    http: httpx2.AsyncClient, version: str | None, changed: dict[str, str], status: int, says: str
) -> None:
    """Even before JSON-RPC begins the answer is a sentence."""
    headers = changed | ({"mcp-protocol-version": version} if version else {})
    response = await http.post("", content=json.dumps(legacy("ping")), headers=headers)
    assert response.status_code == status
    assert says in response.json()["error"]["message"]


async def test_a_body_over_the_limit_is_refused(http: httpx2.AsyncClient) -> None:
    """413, by its declared length."""
    response = await http.post("", content=b" " * (4 * 1024 * 1024 + 1))
    assert response.status_code == 413
    assert "limit" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"text": "\\ud800"}', "surrogate"), ('{"\\ud800": 1}', "surrogate"), ('{"text": NaN}', "JSON does not have"),
        ('{"text": 1e999}', "JSON does not have"), ('{"text": ' + "[" * 70 + "]" * 70 + "}", "nested deeper than 64"),
    ],
)  # fmt: skip
async def test_json_that_only_python_accepts_is_the_callers_error(
    engine: FakeEngine, http: httpx2.AsyncClient, arguments: str, says: str
) -> None:
    """NaN, half surrogates and deep nesting stop here, before the engine."""
    request = modern("tools/call", {"name": "echo", "arguments": {}})
    body = json.dumps(request["json"]).replace('"arguments": {}', f'"arguments": {arguments}')
    response = await http.post("", content=body, headers=request["headers"])
    assert response.status_code == 200
    result = response.json()["result"]
    assert result["isError"] is True
    assert says in result["content"][0]["text"]
    assert engine.tools.called == []


@pytest.mark.parametrize(
    "params", [{}, {"name": 7}, {"name": "echo", "arguments": [1]}, {"name": "echo", "arguments": "x"}]
)
async def test_a_malformed_call_is_invalid_params(http: httpx2.AsyncClient, params: dict[str, Any]) -> None:
    """A request that is no CallToolRequest is -32602 in both eras."""
    request = modern("tools/call", params)
    body = (await http.post("", **request)).json()
    session = await opened(http)
    old = answer(await http.post("", json=legacy("tools/call", params), headers=session))
    assert old["error"]["code"] == -32602
    assert body["error"]["code"] in {-32602, -32020}
    if "name" in params and isinstance(params["name"], str):
        assert body["error"]["code"] == -32602


@covers("MCP-2025-06-18 server/tools#error-handling")
@pytest.mark.parametrize("version", ["2025-06-18", "2025-03-26", "2024-11-05"])
async def test_older_revisions_get_invalid_arguments_as_a_protocol_error(
    http: httpx2.AsyncClient, version: str
) -> None:
    """Before 2025-11-25 "Invalid arguments" stand under protocol errors."""
    session = await opened(http, version)
    response = await http.post("", json=legacy("tools/call", {"name": "echo", "arguments": {}}), headers=session)
    assert answer(response)["error"] == {
        "code": -32602,
        "message": "echo: 'text' is required.",
        "data": {"code": "invalid_input", "path": "text"},
    }


@covers("MCP-2025-11-25 basic/transports#sessions")
async def test_a_session_is_needed_and_must_be_known(http: httpx2.AsyncClient) -> None:
    """Without one a request is 400, with an unknown one 404; both say how to get one."""
    for headers, status in (({}, 400), ({"mcp-session-id": "f00"}, 404)):
        response = await http.post("", json=legacy("tools/list"), headers=headers)
        assert response.status_code == status
        assert "initialize" in response.json()["error"]["message"]


@covers("MCP-2025-11-25 basic/transports#session-end")
async def test_ending_a_session_cancels_what_runs_for_it(engine: FakeEngine, http: httpx2.AsyncClient) -> None:
    """DELETE ends the session and the calls in flight; afterwards it is 404."""
    session = await opened(http)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:

            async def call() -> None:
                await http.post("", json=legacy("tools/call", {"name": "wait"}), headers=session)

            group.start_soon(call)
            await engine.tools.started.wait()
            assert (await http.delete("", headers=session)).status_code == 200
            await engine.tools.cancelled.wait()
    response = await http.post("", json=legacy("tools/list"), headers=session)
    assert response.status_code == 404


@covers("MCP-2025-11-25 basic/transports#security")
async def test_a_session_belongs_to_the_principal_that_opened_it(http: httpx2.AsyncClient) -> None:
    """Somebody else's session does not exist."""
    session = await opened(http, **{"x-who": "token:a"})
    body = legacy("tools/list")
    assert (await http.post("", json=body, headers=session)).status_code == 200
    assert (await http.post("", json=body, headers=session | {"x-who": "token:b"})).status_code == 404


async def test_many_calls_of_one_session_run_at_once(engine: FakeEngine, http: httpx2.AsyncClient) -> None:
    """A call that waits does not hold up another."""
    session = await opened(http)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:

            async def slow() -> None:
                await http.post("", json=legacy("tools/call", {"name": "steps.gated"}, ident=2), headers=session)

            group.start_soon(slow)
            await engine.tools.started.wait()
            quick = legacy("tools/call", {"name": "echo", "arguments": {"text": "x"}}, ident=3)
            assert (
                answer(await http.post("", json=quick, headers=session))["result"]["structuredContent"]["text"] == "x"
            )
            engine.tools.go.set()


@covers("MCP-2025-11-25 basic#ids-in-parallel")
async def test_calls_of_one_session_with_one_id_get_an_answer_each(
    engine: FakeEngine, http: httpx2.AsyncClient
) -> None:
    """Forty at once, each its own answer under its own id, as number or text; a cancellation ends one of them."""
    session = await opened(http)
    found: dict[str, Any] = {}

    async def call(ident: int | str, text: str) -> None:
        body = {**legacy("tools/call", {"name": "gated.echo", "arguments": {"text": text}}), "id": ident}
        told = answer(await http.post("", json=body, headers=session))
        found[text] = (told["id"], told["result"]["structuredContent"]["text"])

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for n in range(40):
                group.start_soon(call, 7 if n % 2 else "7", f"n{n}")
            while len(engine.tools.called) < 40:
                await anyio.lowlevel.checkpoint()
            engine.tools.go.set()
    assert found == {f"n{n}": (7 if n % 2 else "7", f"n{n}") for n in range(40)}


async def test_a_cancellation_finds_the_newest_call_of_its_id(engine: FakeEngine, http: httpx2.AsyncClient) -> None:
    """The other one goes on."""
    session = await opened(http)

    async def call(name: str, scope: anyio.CancelScope) -> None:
        body = {**legacy("tools/call", {"name": name, "arguments": {"text": name}}), "id": 7}
        with scope:
            done.append(answer(await http.post("", json=body, headers=session)))

    done: list[dict[str, Any]] = []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(call, "gated.echo", anyio.CancelScope())
            while not engine.tools.called:
                await anyio.lowlevel.checkpoint()
            second = anyio.CancelScope()
            group.start_soon(call, "wait", second)
            await engine.tools.started.wait()
            cancel = legacy("notifications/cancelled", {"requestId": 7}, ident=None)
            assert (await http.post("", json=cancel, headers=session)).status_code == 202
            await engine.tools.cancelled.wait()
            second.cancel()
            engine.tools.go.set()
    assert [(one["id"], one["result"]["structuredContent"]["text"]) for one in done] == [(7, "gated.echo")]
