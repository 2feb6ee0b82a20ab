"""An MCP server over stdin and stdout, with nothing but the standard library; what it does wrong is its first argument.

`good`: speaks as one of 2025-11-25 does. `modern`: as one of 2026-07-28. `dies-at-discover`: ends when it is asked what it does not
know. Others: see `call`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

KIND = sys.argv[1] if len(sys.argv) > 1 else "good"
TOOLS = ["echo", "environment", "hang", "die", "line", "flood", "eat", "spawn", "ask", "count"]


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text(said: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": said}], **({"resultType": "complete"} if KIND == "modern" else {})}


def call(ident: Any, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    match name:
        case "echo":
            return text(arguments.get("text", ""))
        case "environment":
            return text(json.dumps(dict(os.environ)))
        case "hang":
            return None
        case "die":
            os._exit(3)
        case "line":
            for _ in range(100):
                sys.stdout.write("x" * 1024 * 1024)
            sys.stdout.write("\n")
            sys.stdout.flush()
            return text("done")
        case "flood":
            line = json.dumps(
                {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 100}}
            )
            while True:
                sys.stdout.write(line + "\n")
                sys.stderr.write("flood\n")
        case "eat":
            eaten = b"x" * (300 * 1024 * 1024)
            time.sleep(60)
            return text(str(len(eaten)))
        case "spawn":
            other = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True, stdin=subprocess.DEVNULL
            )
            return text(str(other.pid))
        case "ask":
            say(
                {
                    "id": "q1",
                    "method": "elicitation/create",
                    "params": {
                        "mode": "form",
                        "message": "Which?",
                        "requestedSchema": {"type": "object", "properties": {}},
                    },
                }
            )
            answer = json.loads(sys.stdin.readline())
            return text(json.dumps(answer.get("result") or answer.get("error")))
        case "count":
            with Path(arguments["file"]).open("a") as out:
                out.write("x")
            return text("counted")
    raise AssertionError(name)


def answer(message: dict[str, Any]) -> None:
    ident, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    if ident is None:
        return
    if method == "server/discover":
        if KIND == "dies-at-discover":
            sys.exit(1)
        if KIND == "modern":
            say(
                {
                    "id": ident,
                    "result": {
                        "resultType": "complete",
                        "supportedVersions": ["2026-07-28"],
                        "capabilities": {"tools": {}},
                        "ttlMs": 0,
                        "cacheScope": "public",
                    },
                }
            )
            return
    if method == "initialize" and KIND != "modern":
        say(
            {
                "id": ident,
                "result": {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "child", "version": "1"},
                },
            }
        )
    elif method == "tools/list":
        more = {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"} if KIND == "modern" else {}
        say(
            {
                "id": ident,
                "result": {
                    "tools": [{"name": name, "description": name, "inputSchema": {"type": "object"}} for name in TOOLS],
                    **more,
                },
            }
        )
    elif method == "tools/call":
        result = call(ident, params["name"], params.get("arguments") or {})
        if result is not None:
            say({"id": ident, "result": result})
    elif method == "ping":
        say({"id": ident, "result": {}})
    else:
        say({"id": ident, "error": {"code": -32601, "message": "Method not found"}})


if KIND == "exits":
    sys.exit(2)
if KIND == "silent":
    time.sleep(600)
sys.stderr.write("ready\n")
sys.stderr.flush()
for row in sys.stdin:
    answer(json.loads(row))
