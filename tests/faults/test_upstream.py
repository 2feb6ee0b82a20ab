"""Upstreams that misbehave: each is its own trouble, and the others' tools answer in the usual time meanwhile."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh.adapters.breaker import BreakerPace
from agentmesh.adapters.processes import process
from agentmesh.adapters.upstream_mcp import UpstreamMcp
from agentmesh.adapters.upstream_mcp_link import LinkPace
from agentmesh.adapters.upstream_stdio import end_left
from agentmesh.core.policy import Principal
from agentmesh.errors import Fail, NotSent, Unanswered
from tests.adapters.upstreams import call, desk_at, listening, until, upstream

pytestmark = [pytest.mark.anyio, pytest.mark.faults]
CHILD = str(Path(__file__).parent.parent / "adapters" / "upstream_child.py")
USUAL, SLOWEST = 0.3, 1.5
"""Seconds in which a good upstream answers nine times of ten, and always: with a wide margin for a machine that does other things too."""


def command(kind: str = "good") -> dict[str, Any]:
    return {"command": [sys.executable, CHILD, kind]}


@asynccontextmanager
async def well_beside() -> AsyncIterator[list[float]]:
    """A good upstream that is called all the time; the seconds each call took. Fails when one took longer than usual."""
    took: list[float] = []

    async def ask(source: UpstreamMcp) -> None:
        while True:
            began = time.perf_counter()
            assert (await call(source, "desk.echo", {"text": "x"})).text == "x"
            took.append(time.perf_counter() - began)
            await anyio.sleep(0.01)

    async with (
        desk_at(modern=True) as (_, url),
        upstream("desk", {"url": url}) as source,
        anyio.create_task_group() as group,
    ):
        group.start_soon(ask, source)
        yield took
        group.cancel_scope.cancel()
    assert len(took) > 3, "the good upstream was hardly asked"
    took.sort()
    assert took[len(took) * 9 // 10] < USUAL, f"the good upstream took {took[len(took) * 9 // 10]:.2f} s"
    assert took[-1] < SLOWEST, f"the good upstream took {took[-1]:.2f} s once"


async def test_one_that_hangs_keeps_nobody_waiting_but_its_callers() -> None:
    """A child that answers nothing at all is not waited for; its calls end at their timeout, and then it is let rest."""
    pace = LinkPace(connect=1, probe=0.5, wait=0.5, backoff=0.05, backoff_limit=0.5)
    async with well_beside(), upstream("silent", command("silent"), ready=False, pace=pace) as source:
        assert source.tools() == {}
        await until(lambda: source.status().state != "connecting")
    breaker = BreakerPace(failures=3, rest=0.3, rest_limit=1)
    async with well_beside(), upstream("child", {**command(), "timeout": 0.2}, breaker=breaker) as source:
        for _ in range(3):
            with pytest.raises(Unanswered, match="timeout"):
                await call(source, "child.hang")
        began = time.perf_counter()
        with pytest.raises(NotSent, match="let rest"):
            await call(source, "child.echo", {"text": "x"})
        assert time.perf_counter() - began < 0.05
        assert source.status().state == "open"
        await anyio.sleep(0.5)
        assert (await call(source, "child.echo", {"text": "x"})).text == "x"
        assert source.status().state == "ready"


async def test_one_that_floods_is_slowed_down() -> None:
    """Endless notices and log lines take neither the loop nor the memory from the others."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with well_beside(), upstream("child", {**command(), "timeout": 2}) as source:
        with pytest.raises(Unanswered):
            await call(source, "child.flood")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


async def test_one_that_exits_again_and_again_does_not_spin(tmp_path: Path) -> None:
    """Its restarts become rare, also while it is called all the time."""
    log = tmp_path / "starts"
    script = f"open({str(log)!r}, 'a').write('x')"
    pace = LinkPace(connect=5, probe=2, wait=0.2, backoff=0.1, backoff_limit=5)
    given = {"command": [sys.executable, "-c", script]}
    breaker = BreakerPace(failures=10**6)
    async with well_beside(), upstream("loop", given, ready=False, pace=pace, breaker=breaker) as source:
        with anyio.move_on_after(4):
            while True:
                with pytest.raises(NotSent):
                    await source.read("x://y", principal=Principal())
                await anyio.sleep(0.01)
    assert 2 <= len(log.read_text()) <= 12


async def test_a_hundred_megabytes_on_a_line_fill_no_memory() -> None:
    """The child is ended when its line is too long, the call is unanswered, and a new child answers the next."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with well_beside(), upstream("child", command()) as source:
        with pytest.raises(Unanswered, match="a line of more than 16 MB"):
            await call(source, "child.line", timeout=20)
        await until(lambda: source.status().state == "ready")
        assert (await call(source, "child.echo", {"text": "x"})).text == "x"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024


async def test_one_that_eats_memory_is_ended() -> None:
    """At the cap of its file; the call says why."""
    async with well_beside(), upstream("child", {**command(), "memory": "100MiB"}) as source:
        with pytest.raises(Unanswered, match="more than the 100 MiB"):
            await call(source, "child.eat", timeout=20)
        await until(lambda: source.status().state == "ready")


async def test_a_write_is_never_made_twice(tmp_path: Path) -> None:
    """A server that closes the connection without an answer has been called once, whether or not the connection was a kept one."""
    calls: list[str] = []

    def app(kept: bool) -> ASGIApp:
        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await _lifespan(receive, send)
                return
            body = json.loads(await _body(receive) or b"{}")
            method = body.get("method")
            calls.append(method)
            if method == "server/discover":
                result: dict[str, Any] = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
            elif method == "tools/list":
                tool = {"name": "pay", "inputSchema": {"type": "object"}}
                result = {"tools": [tool]}
            else:
                raise RuntimeError("gone")  # uvicorn closes the connection: nothing was sent
            answer = json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": {"resultType": "complete", **result}})
            headers = [(b"content-type", b"application/json")] + ([] if kept else [(b"connection", b"close")])
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer.encode()})

        return serve

    for kept in (True, False):
        calls.clear()
        async with listening(_abrupt(app(kept))) as url, upstream("shop", {"url": url}) as source:
            with pytest.raises((Unanswered, Fail)):
                await call(source, "shop.pay", timeout=3)
        assert calls.count("tools/call") == 1


def _abrupt(app: ASGIApp) -> ASGIApp:
    """Drops the connection where the app raises, in place of a page that says 500."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except RuntimeError:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
            await send({"type": "http.response.body", "body": b"{", "more_body": True})
            raise

    return serve


async def test_one_that_lies_about_its_schemas_offers_the_rest(tmp_path: Path) -> None:
    """Schemas that are none, that are huge, that refer elsewhere or are nested without end: their tools are left out, and it is said."""
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(60):
        deep = {"type": "object", "properties": {"x": deep}}
    tools: list[dict[str, Any]] = [
        {"name": "good", "description": "Good.", "inputSchema": {"type": "object"}},
        {"name": "none", "inputSchema": "object"},
        {"name": "wrong", "inputSchema": {"type": "objekt"}},
        {"name": "list", "inputSchema": {"type": "array"}},
        {"name": "huge", "inputSchema": {"type": "object", "description": "x" * 200_000}},
        {"name": "deep", "inputSchema": deep},
        {"name": "elsewhere", "inputSchema": {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:1/x"}}}},
        {"name": "output", "inputSchema": {"type": "object"}, "outputSchema": {"type": "object", "required": 7}},
        {"name": "twice", "inputSchema": {"type": "object"}},
        {
            "name": "header",
            "inputSchema": {"type": "object", "properties": {"a": {"type": "object", "x-mcp-header": "A"}}},
        },
        {"name": 7, "inputSchema": {"type": "object"}},
        {"inputSchema": {"type": "object"}},
        {
            "name": "look",
            "inputSchema": {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}},
        },
    ]

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _lifespan(receive, send)
            return
        body = json.loads(await _body(receive) or b"{}")
        result: dict[str, Any]
        if body.get("method") == "server/discover":
            result = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        else:
            result = {"tools": tools}
        answer = {"jsonrpc": "2.0", "id": body["id"], "result": {"resultType": "complete", **result}}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async with well_beside(), listening(serve) as url, upstream("liar", {"url": url}) as source:
        assert set(source.tools()) == {"liar.good", "liar.twice", "liar.look"}
        assert "pattern" not in source.tools()["liar.look"].input_schema["properties"]["a"]
        assert "not offered: " in source.status().detail


async def test_a_list_without_end_is_ended() -> None:
    """A server that gives page after page is told as one, and harms no other."""
    pages = 0

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal pages
        if scope["type"] != "http":
            await _lifespan(receive, send)
            return
        body = json.loads(await _body(receive) or b"{}")
        if body.get("method") == "server/discover":
            result: dict[str, Any] = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        else:
            pages += 1
            result = {"tools": [], "nextCursor": str(pages)}
        answer = {"jsonrpc": "2.0", "id": body["id"], "result": {"resultType": "complete", **result}}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async with well_beside(), listening(serve) as url, upstream("long", {"url": url}, ready=False) as source:
        await until(lambda: "does not end" in source.status().detail)
        assert pages <= 200


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_children_of_a_server_that_was_killed_are_ended(tmp_path: Path) -> None:
    """The child goes with its server; what the child had started is ended at the next start, by its mark."""
    script = f"""
import anyio, sys
from tests.adapters.upstreams import *
async def main():
    async with upstream("child", {command()!r}, mark="killed-test-") as source:
        print((await call(source, "child.spawn")).text, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""
    server = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
        [sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )  # fmt: skip
    assert server.stdout is not None
    grandchild = int(await anyio.to_thread.run_sync(server.stdout.readline))
    children = [int(p) for p in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
    assert children
    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdout.close()
    await until(lambda: all(process(pid) is None for pid in children), "a child outlived its server")
    assert process(grandchild) is not None
    await anyio.to_thread.run_sync(end_left, "killed-test-")
    assert process(grandchild) is None


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
