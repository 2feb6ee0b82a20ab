"""An upstream for `gateway.py`: the SDK's MCPServer with an echo tool that waits, as one does that asks somebody else.

Prints the port as a line of JSON when it listens.

    python slow_upstream.py MILLISECONDS
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from typing import Any

import anyio
import uvicorn
from mcp.server import MCPServer


def main() -> None:
    logging.disable(logging.WARNING)
    wait = float(sys.argv[1]) / 1000
    server: Any = MCPServer("slow", log_level="ERROR")

    async def echo(text: str) -> dict[str, str]:
        await anyio.sleep(wait)
        return {"text": text}

    server.add_tool(echo, name="echo")
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    config = uvicorn.Config(
        server.streamable_http_app(), loop="uvloop", http="httptools", ws="none", lifespan="on", access_log=False,
        log_config=None, server_header=False,
    )  # fmt: skip
    uvicorn.Server(config).run([sock])


if __name__ == "__main__":
    main()
