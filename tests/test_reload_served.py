"""A mesh that is served: its files change again and again under fifty callers, and none of them notices."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from mcp import Client

from tests.faults.served import Served
from tests.mcp.conftest import LEGACY
from tests.mcp.everything import Modern
from tests.mcp.test_wire import BOTH

pytestmark = pytest.mark.anyio
CALLERS = 50
ROUNDS = 8
HEADERS = {
    "accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call",
    "mcp-name": "desk.pause",
}  # fmt: skip
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
}
PAUSE = """
name: desk
tools:
  pause:
    description: Waits, and says what it was given. Files of round {0}.
    input: {{type: object, properties: {{delay: {{type: number}}, result: {{}}}}, required: [delay, result]}}
    python: asyncio:sleep
  only_{0}:
    description: Of this round.
    python: time:time
"""
FLOW = """
name: flow
on: {{mcp: {{}}}}
input: {{type: object, properties: {{said: {{type: string}}}}, required: [said]}}
steps:
  - {{id: pause, tool: desk.pause, with: {{delay: 0.2, result: "${{{{ input.said }}}}"}}}}
  - {{id: round, set: {0}}}
output: "${{{{ steps.pause.output }}}}"
"""


def write(folder: Path, round_: int) -> None:
    for name, text in {
        "agentmesh.yaml": "name: acme\n",
        "servers/desk.yaml": PAUSE,
        "workflows/flow.yaml": FLOW,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(round_).lstrip())


def calling(id_: str, name: str, arguments: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments, "_meta": META}
    return {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}


def answered(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    body = response.text
    if response.headers["content-type"].startswith("text/event-stream"):
        body = next(line.removeprefix("data: ") for line in reversed(body.splitlines()) if line.startswith("data: "))
    result = httpx.Response(200, text=body).json()["result"]
    assert not result.get("isError"), result
    return result["structuredContent"] if "structuredContent" in result else result["content"][0]["text"]


async def test_no_call_fails_while_files_change(tmp_path: Path) -> None:
    """Tools that pass through, and workflows: each call gets its own answer. Faulty files in between change nothing."""
    write(tmp_path, 0)
    calls = 0
    with Served(tmp_path) as server:
        server.start()
        stop = anyio.Event()

        async def caller(client: httpx.AsyncClient, n: int) -> None:
            nonlocal calls
            while not stop.is_set():
                said = f"{n}-{calls}"
                name, arguments = ("desk.pause", {"delay": 0.2, "result": said}) if n % 2 else ("flow", {"said": said})
                answer = await client.post(
                    "/mcp", json=calling(said, name, arguments), headers=HEADERS | {"mcp-name": name}
                )
                assert answered(answer) in (said, {"result": said})
                calls += 1

        limits = httpx.Limits(max_connections=CALLERS + 5)
        async with httpx.AsyncClient(
            base_url=server.http.base_url, timeout=30, trust_env=False, limits=limits
        ) as client:
            with anyio.fail_after(120):
                async with anyio.create_task_group() as group:
                    for n in range(CALLERS):
                        group.start_soon(caller, client, n)
                    for round_ in range(1, ROUNDS + 1):
                        if round_ == 4:  # a fault: what is served goes on
                            (tmp_path / "servers" / "desk.yaml").write_text("name: desk\ntools: {broken: {}}\n")
                            os.kill(server.process.pid, signal.SIGHUP)
                            await until(client, lambda files: bool(files["faults"]))
                        write(tmp_path, round_)
                        if round_ % 2:  # the others are noticed without being asked
                            os.kill(server.process.pid, signal.SIGHUP)
                        await until(
                            client, lambda files, least=round_: files["revision"] >= least and not files["faults"]
                        )
                        listed = (await client.get("/v1/tools")).json()["tools"]
                        assert [tool["name"] for tool in listed] == [f"desk.only_{round_}", "desk.pause", "flow"]
                    stop.set()
    assert calls > CALLERS * 3


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_clients_of_both_eras_are_told_and_go_on(tmp_path: Path) -> None:
    """A session of the older era, and a listen stream, hear that the tools are others; the same session calls a new one."""
    write(tmp_path, 0)
    told = anyio.Event()

    async def hear(message: Any) -> None:
        if type(message).__name__ == "ToolListChangedNotification":
            told.set()

    with Served(tmp_path) as server:
        server.start()
        url = f"{server.http.base_url}/mcp".replace("//mcp", "/mcp")
        with anyio.fail_after(60):
            async with (
                Client(url, mode=LEGACY, message_handler=hear) as older,
                httpx2.AsyncClient(
                    base_url=url, headers=BOTH, timeout=20, follow_redirects=True, trust_env=False
                ) as http,
                Modern(http).listening({"toolsListChanged": True}) as events,
            ):
                assert (await anext(events))["method"] == "notifications/subscriptions/acknowledged"
                assert "desk.only_1" not in [tool.name for tool in (await older.list_tools()).tools]
                write(tmp_path, 1)
                os.kill(server.process.pid, signal.SIGHUP)
                assert (await anext(events))["method"] == "notifications/tools/list_changed"
                with anyio.fail_after(5):
                    await told.wait()
                assert "desk.only_1" in [tool.name for tool in (await older.list_tools()).tools]
                assert not (await older.call_tool("desk.only_1", {})).is_error


async def until(client: httpx.AsyncClient, holds: Any) -> None:
    """Waits for what `/v1/mesh` says of the files."""
    end = time.monotonic() + 20
    while not holds(files := (await client.get("/v1/mesh")).json()["files"]):
        assert time.monotonic() < end, files
        await anyio.sleep(0.05)
