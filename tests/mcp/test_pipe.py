"""`agentmesh mcp`: the official client over stdio, and the lines themselves."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError

from agentmesh.mcp.pipe import run_pipe
from agentmesh.mcp.server import build_mcp
from tests.mcp.conftest import LEGACY, MODERN, FakeEngine, fake_engine, serving, settings, with_principal
from tests.requirements import covers

pytestmark = pytest.mark.anyio

ERAS = [pytest.param("auto", id="2026"), pytest.param(LEGACY, id="2025")]
PROGRAM = """
import sys
from agentmesh.mcp.stdio import run_stdio
run_stdio(sys.argv[1], {"x-who": "token:ide"})
"""
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}


def stdio(url: str, era: str) -> Client:
    return Client(StdioServerParameters(command=sys.executable, args=["-c", PROGRAM, url]), mode=era)


class Lines:
    """The two ends of a pipe in this process."""

    def __init__(self, stdin: MemoryObjectSendStream[bytes], stdout: MemoryObjectReceiveStream[dict[str, Any]]) -> None:
        self._stdin = stdin
        self._stdout = stdout

    async def send(self, message: Any) -> None:
        await self._stdin.send(message if isinstance(message, bytes) else json.dumps(message).encode())

    async def call(
        self, ident: int, name: str, arguments: dict[str, Any] | None = None, token: int | None = None
    ) -> None:
        meta = META | ({} if token is None else {"progressToken": token})
        params = {"name": name, "arguments": arguments or {}, "_meta": meta}
        await self.send({"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params})

    async def receive(self) -> dict[str, Any]:
        with anyio.fail_after(5):
            return await self._stdout.receive()

    async def end(self) -> None:
        await self._stdin.aclose()

    async def rest(self) -> list[dict[str, Any]]:
        """What still comes until the pipe ends."""
        with anyio.fail_after(5):
            return [message async for message in self._stdout]


@asynccontextmanager
async def piping(url: str, **given: Any) -> AsyncIterator[Lines]:
    """A pipe on memory streams; every line it writes has to be one JSON message."""
    stdin, lines = anyio.create_memory_object_stream[bytes](10)
    out, stdout = anyio.create_memory_object_stream[dict[str, Any]](100)

    async def write(line: bytes) -> None:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        await out.send(json.loads(line))

    async def run() -> None:
        async with out, lines:
            await run_pipe(url, stdin=lines, stdout=write, headers={}, **given)

    async with anyio.create_task_group() as group, stdin, stdout:
        group.start_soon(run)
        yield Lines(stdin, stdout)
        await stdin.aclose()
        with anyio.fail_after(5):
            async for _ in stdout:
                pass


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 basic/transports/stdio#framing", "MCP-2026-07-28 basic/transports/stdio#shutdown")
async def test_the_official_client_over_stdio(url: str, era: str) -> None:
    """Listing, calling, errors and progress come through a real process, which ends with its stdin."""
    seen: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message)

    with anyio.fail_after(20):
        async with stdio(url, era) as c:
            assert c.protocol_version == ("2026-07-28" if era == "auto" else "2025-11-25")
            assert "echo" in [t.name for t in (await c.list_tools()).tools]
            result = await c.call_tool("echo", {"text": "grüß\u2028dich"})
            assert result.structured_content == {"text": "grüß\u2028dich", "who": "token:ide"}
            await c.call_tool("steps", progress_callback=on_progress)
            with pytest.raises(MCPError, match="no tool 'eco'"):
                await c.call_tool("eco")
            while len(seen) < 3:
                await anyio.lowlevel.checkpoint()
    assert sorted(filter(None, seen)) == ["cut completed", "cut started", "waiting for model tiny: loading weights"]


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 basic/transports/stdio#cancellation")
async def test_a_cancelled_call_is_cancelled_at_the_server(engine: FakeEngine, url: str, era: str) -> None:
    """notifications/cancelled on stdin reaches the call behind /mcp, and other calls go on."""
    with anyio.fail_after(20):
        async with stdio(url, era) as c:
            async with anyio.create_task_group() as group:

                async def call() -> None:
                    await c.call_tool("wait")

                group.start_soon(call)
                await engine.tools.started.wait()
                assert (await c.call_tool("echo", {"text": "x"})).is_error is False
                group.cancel_scope.cancel()
            await engine.tools.cancelled.wait()
            assert (await c.call_tool("echo", {"text": "y"})).is_error is False


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_closes_stdin_cancels_its_calls(engine: FakeEngine, url: str, era: str) -> None:
    """When the client goes, so does what ran for it."""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def session() -> None:
                async with stdio(url, era) as c, anyio.create_task_group() as calls:
                    calls.start_soon(c.call_tool, "wait")
                    await engine.tools.started.wait()
                    group.cancel_scope.cancel()

            group.start_soon(session)
        await engine.tools.cancelled.wait()


@pytest.mark.parametrize("era", ERAS)
async def test_a_pipe_that_is_terminated_cancels_its_calls(engine: FakeEngine, url: str, era: str) -> None:
    """SIGTERM ends the session and the process, without a word."""
    with anyio.fail_after(20):
        async with await anyio.open_process([sys.executable, "-c", PROGRAM, url]) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "wait"}}
            if era == LEGACY:
                params = {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {},
                    "clientInfo": {"name": "i", "version": "1"},
                }
                opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
                await process.stdin.send(json.dumps(opening).encode() + b"\n")
            else:
                call["params"] = {"name": "wait", "_meta": META}
            await process.stdin.send(json.dumps(call).encode() + b"\n")
            await engine.tools.started.wait()
            process.terminate()
            await engine.tools.cancelled.wait()
            assert await process.wait() == 0


async def test_nothing_is_sent_for_a_cancelled_request(engine: FakeEngine, url: str) -> None:
    """Neither progress nor an answer follows a cancellation, in this era."""
    async with piping(url) as pipe:
        await pipe.call(1, "wait", token=5)
        assert (await pipe.receive())["method"] == "notifications/progress"
        await pipe.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        with anyio.fail_after(5):
            await engine.tools.cancelled.wait()
        await pipe.call(2, "echo", {"text": "x"})
        assert (await pipe.receive())["id"] == 2
        await pipe.end()
        assert await pipe.rest() == []


@pytest.mark.parametrize(
    ("line", "ident", "code", "says"),
    [
        (b"{", None, -32700, "not JSON"),
        (b"[]", None, -32600, "not one JSON-RPC message"),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None, -32600, "id of a request"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', 1, -32600, "session"),
    ],
)
async def test_a_wrong_line_is_answered(url: str, line: bytes, ident: int | None, code: int, says: str) -> None:
    """Each wrong line has its error, with the id where there is one."""
    async with piping(url) as pipe:
        await pipe.send(line)
        answer = await pipe.receive()
        assert (answer["id"], answer["error"]["code"]) == (ident, code)
        assert says in answer["error"]["message"]


async def test_an_id_in_use_is_refused(engine: FakeEngine, url: str) -> None:
    """Two requests with one id could not be told apart."""
    async with piping(url) as pipe:
        await pipe.call(1, "steps.gated")
        with anyio.fail_after(5):
            await engine.tools.started.wait()
        await pipe.call(1, "echo", {"text": "x"})
        assert (await pipe.receive())["error"]["code"] == -32600
        engine.tools.go.set()
        assert (await pipe.receive())["result"]["structuredContent"] == {"done": True}


async def test_what_is_in_flight_when_stdin_ends_may_still_be_answered(url: str) -> None:
    """`echo … | agentmesh mcp` prints the answer."""
    async with piping(url) as pipe:
        await pipe.call(1, "echo", {"text": "x"})
        await pipe.end()
        assert [m["id"] for m in await pipe.rest()] == [1]


async def test_a_mirrored_argument_gets_its_header(url: str) -> None:
    """The pipe adds Mcp-Param headers that a stdio client does not know of: the server gets as far as the tool."""
    async with piping(url) as pipe:
        await pipe.call(1, "mirrored", {"region": "eu"})
        answer = await pipe.receive()
        assert "Mcp-Param" not in json.dumps(answer)


async def test_a_server_that_is_not_there_is_said(url: str) -> None:
    """The sentence says what to do."""
    async with piping("http://127.0.0.1:9/mcp", reconnects=(0.0,)) as pipe:
        await pipe.call(1, "echo", {"text": "x"})
        answer = await pipe.receive()
        assert answer["id"] == 1
        assert "agentmesh serve" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [("text/event-stream", b"data: nonsense\n\n"), ("text/html", b"<p>hello"), ("application/json", b"[]")],
)
async def test_what_is_no_mcp_server_is_said(kind: str, body: bytes) -> None:
    """An answer that is no JSON-RPC is one error for its request, and the pipe goes on."""

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode())]})
        await send({"type": "http.response.body", "body": body})

    async with serving(other) as base, piping(base) as pipe:
        for ident in (1, 2):
            await pipe.call(ident, "echo", {"text": "x"})
            assert (await pipe.receive())["error"]["code"] in {-32004, -32600}


async def test_a_session_survives_a_restart_of_the_server() -> None:
    """A client that initialized once goes on when the server has forgotten it."""
    before, after = build_mcp(fake_engine(), settings()), build_mcp(fake_engine(), settings())  # type: ignore[arg-type]
    current = before

    async def whichever(scope: Any, receive: Any, send: Any) -> None:
        await current.app(scope, receive, send)

    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "ide", "version": "1"}}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "x"}}}
    async with before.run(), after.run(), serving(with_principal(whichever)) as base, piping(f"{base}/mcp") as pipe:
        await pipe.send({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        assert (await pipe.receive())["result"]["protocolVersion"] == "2025-11-25"
        await pipe.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        await pipe.send(call)
        assert (await pipe.receive())["result"]["isError"] is False
        current = after
        for ident in (3, 4):
            await pipe.send(call | {"id": ident})
        answers = [await pipe.receive(), await pipe.receive()]
        assert {a["id"]: a["result"]["isError"] for a in answers} == {3: False, 4: False}
