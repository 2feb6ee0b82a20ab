"""A thousand clients that listen, and one too many: what they cost, what they are told, and who is served meanwhile."""

from __future__ import annotations

import json
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from agentmesh.mcp.listen import STREAMS_OF_ONE
from tests.faults.served import Served

IDLE = 1000
MEGABYTES = 100.0
"""Most that a thousand idle streams may cost the server."""
SERVER = """name: change
prefix: false
tools:
  change:
    description: Says that the list of tools changed.
    python: tests.conformance.fixtures:trigger_tool_change
    annotations: {readOnlyHint: true}
"""
VERSION = "2026-07-28"


def request(port: int, ident: int, method: str, params: dict[str, object], name: str = "") -> bytes:
    meta = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}}
    body = json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": {**params, "_meta": meta}}).encode()
    lines = [
        "POST /mcp HTTP/1.1", f"host: 127.0.0.1:{port}", "content-type: application/json",
        "accept: application/json, text/event-stream", f"mcp-protocol-version: {VERSION}", f"mcp-method: {method}",
        f"content-length: {len(body)}", *([f"mcp-name: {name}"] if name else []),
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def until(sock: socket.socket, text: bytes) -> bytes:
    data = b""
    while text not in data:
        chunk = sock.recv(65536)
        assert chunk, data[-500:]
        data += chunk
    return data


def resident_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def test_a_thousand_listen_streams(tmp_path: Path) -> None:
    """They cost less than 100 MB; each is told of a change; calls are answered; past the bound one is refused; all end with a result."""
    (tmp_path / "agentmesh.yaml").write_text("name: listened\n")
    (tmp_path / "servers").mkdir()
    (tmp_path / "servers" / "change.yaml").write_text(SERVER)
    wanted: dict[str, object] = {"notifications": {"toolsListChanged": True}}
    with Served(tmp_path) as served, ExitStack() as open_:
        served.start()
        host, port = served.http.base_url.host, served.http.base_url.port
        assert port is not None

        def connect() -> socket.socket:
            sock = open_.enter_context(socket.create_connection((host, port), timeout=30))
            return sock

        def listen(ident: int) -> socket.socket:
            sock = connect()
            sock.sendall(request(port, ident, "subscriptions/listen", wanted))
            return sock

        def call() -> float:
            began = time.perf_counter()
            with socket.create_connection((host, port), timeout=30) as sock:
                params: dict[str, object] = {"name": "change", "arguments": {}}
                sock.sendall(request(port, 1, "tools/call", params, "change"))
                until(sock, b'"result"')
            return time.perf_counter() - began

        until(listen(0), b"acknowledged")
        call()
        before = resident_mb(served.process.pid)
        streams = []
        for n in range(IDLE):
            streams.append(listen(n + 1))
            until(streams[-1], b"acknowledged")
        added = resident_mb(served.process.pid) - before
        assert added < MEGABYTES, f"{IDLE} idle streams took {added:.0f} MB"
        assert call() < 5
        for sock in streams:
            until(sock, b"notifications/tools/list_changed")
        for n in range(STREAMS_OF_ONE - IDLE - 1):
            until(listen(n), b"acknowledged")
        assert b"listen streams" in until(listen(9999), b'"error"')
        for sock in streams[:200]:
            sock.close()
        assert call() < 5
        assert served.kill(signal.SIGTERM) == 0
        for sock in streams[200:]:
            until(sock, b'"resultType":"complete"')
