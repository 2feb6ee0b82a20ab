"""A server to measure with `mcp_calls.py`: a bare Starlette handler, or an echo tool on one of the Python peers.

Prints the port as a line of JSON when it listens. Every kind runs on uvicorn with uvloop and httptools, logs nothing, and keeps what
its own documentation has for a server on loopback; the peers' checks of Host and Origin are on where they have any.

    python mcp_servers.py starlette|mcpserver|lowlevel|fastmcp [--tools N]
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
from typing import Any

import uvicorn

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def starlette() -> Any:
    """What the others are compared with: reads the body as JSON, and answers as much JSON as a tool does."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def handler(request: Request) -> JSONResponse:
        message = await request.json()
        text = message["params"]["arguments"]["text"]
        result = {
            "resultType": "complete", "content": [{"type": "text", "text": json.dumps({"text": text})}],
            "structuredContent": {"text": text}, "isError": False,
        }  # fmt: skip
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result})

    return Starlette(routes=[Route("/mcp", handler, methods=["POST"])])


def mcpserver(tools: int) -> Any:
    """The SDK's high-level server."""
    from mcp.server import MCPServer

    server: Any = MCPServer("bench", log_level="ERROR")
    _add(lambda name, function: server.add_tool(function, name=name), tools)
    return server.streamable_http_app()


def lowlevel(tools: int) -> Any:
    """The SDK's low-level server, told how to find a tool's schema: without that each call would cost a list."""
    import mcp_types as types
    from mcp.server.lowlevel import Server

    offered = {name: types.Tool(name=name, description="Echo.", input_schema=TEXT) for name in _names(tools)}

    async def list_tools(ctx: Any, params: Any) -> Any:
        return types.ListToolsResult(tools=list(offered.values()))

    async def call_tool(ctx: Any, params: Any) -> Any:
        value = {"text": params.arguments["text"]}
        content: list[Any] = [types.TextContent(type="text", text=json.dumps(value))]
        return types.CallToolResult(content=content, structured_content=value)

    server: Any = Server(
        "bench", on_list_tools=list_tools, on_call_tool=call_tool, get_tool_input_schema=lambda _: None
    )
    return server.streamable_http_app()


def fastmcp(tools: int) -> Any:
    """FastMCP, stateless as it has to be for requests that stand alone."""
    from fastmcp import FastMCP
    from fastmcp.tools import Tool

    server: Any = FastMCP("bench")
    _add(lambda name, function: server.add_tool(Tool.from_function(function, name=name)), tools)
    return server.http_app(path="/mcp", stateless_http=True, json_response=True)


def _names(tools: int) -> list[str]:
    return ["echo", *(f"tool_{number}" for number in range(1, tools))]


def _add(add: Any, tools: int) -> None:
    async def echo(text: str) -> dict[str, str]:
        """Echo."""
        return {"text": text}

    for name in _names(tools):
        add(name, echo)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("starlette", "mcpserver", "lowlevel", "fastmcp"))
    parser.add_argument("--tools", type=int, default=1)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    app = starlette() if asked.kind == "starlette" else globals()[asked.kind](asked.tools)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", ws="none", lifespan="on", access_log=False, log_config=None,
        server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run([sock])


if __name__ == "__main__":
    main()
