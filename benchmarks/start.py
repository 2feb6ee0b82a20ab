"""How soon a mesh answers: from exec of `agentmesh serve` to the first tools/list answer and to the first answer of a model, and the
resident memory of the server process.

Serves a copy of the example mesh in an empty folder, so the models are cold. Goals on 2 cores without a GPU: 2.5 s, 60 s, 150 MB.
Ends in one line and benchmarks/results/start.json.

    python benchmarks/start.py [--times 3]
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOG = """Traceback (most recent call last):
  File "/app/ship.py", line 9, in <module>
    main()
  File "/app/ship.py", line 6, in main
    print(weigh({"kg": None}))
  File "/app/ship.py", line 2, in weigh
    return parcel["kg"] * 1000
TypeError: unsupported operand type(s) for *: 'NoneType' and 'int'
"""
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
}


def call(url: str, method: str, params: dict[str, object], timeout: float) -> str:
    """One MCP request of the 2026-07-28 revision; the raw answer."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
    headers = {
        "content-type": "application/json", "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28", "mcp-method": method,
    }  # fmt: skip
    if "name" in params:
        headers["mcp-name"] = str(params["name"])
    request = urllib.request.Request(url + "/mcp", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read().decode()


def resident(pid: int) -> float:
    """Megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def once() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        mesh = Path(folder)
        shutil.copy(ROOT / "agentmesh.yaml", mesh)
        for part in ("servers", "workflows", "policies"):
            shutil.copytree(ROOT / part, mesh / part)
        program = Path(sys.executable).parent / "agentmesh"
        began = time.perf_counter()
        server = subprocess.Popen([program, "serve", "--port", "0"], cwd=mesh, stderr=subprocess.DEVNULL)
        try:
            url = ""
            while True:
                try:
                    url = url or json.loads((mesh / ".agentmesh/server.json").read_text())["url"]
                    assert '"triage"' in call(url, "tools/list", {}, 10)
                    break
                except (OSError, ValueError, urllib.error.URLError):
                    if server.poll() is not None:
                        raise SystemExit(f"the server ended with status {server.returncode}") from None
                    time.sleep(0.01)
            listed = time.perf_counter() - began
            answer = call(url, "tools/call", {"name": "triage", "arguments": {"log": LOG}}, 600)
            answered = time.perf_counter() - began
            assert '"structuredContent"' in answer, answer
            return {"tools_list_s": listed, "model_answer_s": answered, "resident_mb": resident(server.pid)}
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=3)
    runs = [once() for _ in range(parser.parse_args().times)]
    result = {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
    (ROOT / "benchmarks/results/start.json").write_text(json.dumps({"median": result, "runs": runs}, indent=2) + "\n")
    print(
        f"start: first tools/list {result['tools_list_s']} s (goal 2.5), first model answer {result['model_answer_s']} s"
        f" (goal 60), server {result['resident_mb']} MB (goal 150); medians of {len(runs)}"
    )


if __name__ == "__main__":
    main()
