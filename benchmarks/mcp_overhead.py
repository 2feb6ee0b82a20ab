"""How much our MCP edge costs on top of the SDK's bare low-level server: calls per second, both eras, one run.

Two servers in processes of their own, each uvicorn with uvloop and httptools on a free port of the loopback: the SDK's
Server with one trivial tool, and our edge over an engine in memory with one. The rounds alternate, so that a busy
machine slows both alike; the CPU of a call is the server's own count, which a busy machine changes little. The client
is raw HTTP/1.1 on sockets, many in flight.

    python benchmarks/mcp_overhead.py [--calls 2000] [--at-once 32] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import socket
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "mcp_overhead.json"
ERAS = ("2026", "2025")
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def serve(kind: str, sock: socket.socket, ready: Any) -> None:
    """The server process: `bare` or `ours`. /usage tells what CPU and memory it has used."""
    import uvicorn

    if kind == "bare":
        app, run = bare_app()
    else:
        app, run = our_app()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/usage":
            used = resource.getrusage(resource.RUSAGE_SELF)
            body = json.dumps({"cpu": used.ru_utime + used.ru_stime, "rss_mb": used.ru_maxrss / 1024}).encode()
            head = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": body})
            return
        await app(scope, receive, send)

    async def main() -> None:
        config = uvicorn.Config(
            outer, loop="uvloop", http="httptools", log_level="error", access_log=False, lifespan="off"
        )
        async with run():
            ready.set()
            await uvicorn.Server(config).serve([sock])

    import uvloop

    uvloop.run(main())


def bare_app() -> tuple[Any, Any]:
    """The SDK's low-level server as its documentation has it, with one tool that answers at once."""
    import mcp_types as types
    from mcp.server.lowlevel import Server
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    tool = types.Tool(name="echo", description="Echo.", input_schema=SCHEMA, output_schema=SCHEMA)

    async def list_tools(ctx: Any, params: Any) -> Any:
        return types.ListToolsResult(tools=[tool])

    async def call_tool(ctx: Any, params: Any) -> Any:
        value = {"text": params.arguments["text"]}
        content: list[Any] = [types.TextContent(type="text", text=json.dumps(value))]
        return types.CallToolResult(content=content, structured_content=value)

    server: Any = Server("bare", on_list_tools=list_tools, on_call_tool=call_tool, get_tool_input_schema={}.get)
    manager = StreamableHTTPSessionManager(server)
    return manager.asgi_app, manager.run


def our_app() -> tuple[Any, Any]:
    """Our edge, over an engine in memory whose one tool answers at once."""
    from agentmesh.adapters.memory import MemoryStore
    from agentmesh.adapters.memory_model import ScriptedModel
    from agentmesh.core.mesh import Mesh, MeshFile
    from agentmesh.core.policy import Principal
    from agentmesh.core.tool import Tool, ToolSpec
    from agentmesh.engine import build_engine
    from agentmesh.mcp.server import build_mcp
    from agentmesh.settings import Settings

    async def echo(text: str) -> dict[str, str]:
        return {"text": text}

    tool = Tool(name="echo", description="Echo.", input_schema=SCHEMA, output_schema=SCHEMA)
    spec = ToolSpec(description="Echo.", input=SCHEMA, output=SCHEMA, python="bench:echo")
    mesh = Mesh(folder=Path("/mesh"), file=MeshFile(name="bench"), tools={"echo": tool}, specs={"echo": spec})
    store = MemoryStore(clock=time.time)
    engine = build_engine(mesh, store, ScriptedModel([]), functions={"bench:echo": echo}.__getitem__)
    edge = build_mcp(engine, Settings(folder=Path("/mesh")))
    principal = Principal()

    @asynccontextmanager
    async def run() -> AsyncIterator[None]:
        async with store, edge.run():
            yield

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {"principal": principal}
        await edge.app(scope, receive, send)

    return guarded, run


class Http:
    """One keep-alive connection; answers are read whole."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, head: bytes, body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        self.writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
        if b"content-length" in headers:
            data = await self.reader.readexactly(int(headers[b"content-length"]))
        else:
            data = b""
            while size := int(await self.reader.readline(), 16):
                data += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        return int(lines[0].split(b" ")[1]), headers, data


async def connect(port: int) -> Http:
    return Http(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))


def head(port: int, **headers: str) -> bytes:
    lines = {
        "host": f"127.0.0.1:{port}",
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
    }
    lines |= {k.replace("_", "-"): v for k, v in headers.items()}
    return b"POST /mcp HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()).encode()


async def prepare(port: int, era: str) -> tuple[bytes, dict[str, Any]]:
    """The head and the params of a call in this era."""
    params: dict[str, Any] = {"name": "echo", "arguments": {"text": "hello"}}
    if era == "2026":
        headers = head(port, mcp_protocol_version="2026-07-28", mcp_method="tools/call", mcp_name="echo")
        return headers, {**params, "_meta": META}
    http = await connect(port)
    opening = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": opening}).encode()
    _, answered, _ = await http.ask(head(port), body)
    session = answered[b"mcp-session-id"].decode()
    headers = head(port, mcp_protocol_version="2025-11-25", mcp_session_id=session)
    await http.ask(headers, json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode())
    return headers, params


async def usage_of(port: int) -> dict[str, float]:
    http = await connect(port)
    _, _, body = await http.ask(f"GET /usage HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n".encode(), b"")
    return dict(json.loads(body))


async def measure(port: int, era: str, calls: int, at_once: int) -> dict[str, float]:
    """Calls per second, and the server's CPU milliseconds a call."""
    headers, params = await prepare(port, era)
    numbers = iter(range(1, calls + 1))

    async def worker() -> None:
        http = await connect(port)
        for number in numbers:
            body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()
            status, _, data = await http.ask(headers, body)
            assert status == 200, data
            assert b"structuredContent" in data, data

    before = await usage_of(port)
    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    seconds = time.perf_counter() - began
    after = await usage_of(port)
    return {
        "calls_per_second": calls / seconds,
        "cpu_ms": 1000 * (after["cpu"] - before["cpu"]) / calls,
        "rss_mb": after["rss_mb"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ports: dict[str, int] = {}
    processes = []
    for kind in ("bare", "ours"):
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(1024)
        ready = context.Event()
        process = context.Process(target=serve, args=(kind, sock, ready), daemon=True)
        process.start()
        assert ready.wait(60), f"{kind} did not start"
        processes.append(process)
        ports[kind] = sock.getsockname()[1]
        sock.close()
    found: dict[str, list[dict[str, float]]] = {}
    try:
        for _ in range(options.rounds):
            for era in ERAS:
                for kind, port in ports.items():
                    result = asyncio.run(measure(port, era, options.calls, options.at_once))
                    found.setdefault(f"{kind} {era}", []).append(result)
    finally:
        for process in processes:
            process.terminate()
            process.join(10)
    best = {
        name: {key: statistics.median(r[key] for r in rounds) for key in rounds[0]} for name, rounds in found.items()
    }
    speed = {era: best[f"ours {era}"]["calls_per_second"] / best[f"bare {era}"]["calls_per_second"] for era in ERAS}
    work = {era: best[f"ours {era}"]["cpu_ms"] / best[f"bare {era}"]["cpu_ms"] for era in ERAS}
    report = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load_average": os.getloadavg()[0],
        "calls": options.calls,
        "at_once": options.at_once,
        "median_of": options.rounds,
        "results": best,
        "calls_per_second_to_bare_sdk": speed,
        "cpu_to_bare_sdk": work,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, one in best.items():
        cost = f"{one['cpu_ms']:.2f} ms of CPU a call, {one['rss_mb']:.0f} MB"
        print(f"{name}: {one['calls_per_second']:.0f} calls/s, {cost}")
    parts = (f"{best[f'ours {era}']['calls_per_second']:.0f} calls/s in {era} ({speed[era]:.2f})" for era in ERAS)
    cost = f"CPU a call {work['2026']:.2f} and {work['2025']:.2f} of it"
    print(f"MCP edge: {', '.join(parts)} of the SDK's bare server; {cost}")


if __name__ == "__main__":
    main()
