"""A tool that asks a model, called over MCP: beside Ray's direct streaming and the bare vLLM server in the same run.

16-token answers, 1 and 32 at once. The MCP leg is a served mesh as `agentmesh serve` makes it: every call is a run in the
journal (SQLite, synchronous=FULL), its arguments and its answer checked. Goal: 0.9 of direct streaming. The legs go round
`--rounds` times, so that a machine that drifts is seen. Ends in one line and benchmarks/results/model_call.json.

    python benchmarks/model_call.py [--seconds 10] [--rounds 2] [--model DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# ruff: noqa: E402, ASYNC220  the path comes first; starting a server is what is measured
from benchmarks.load import RawChat, drive
from benchmarks.model_stack import AT_ONCE, MESSAGES, bare, stock

GOAL = 0.9
SERVER = """
name: bench
tools:
  say:
    description: Says what went wrong.
    input: {type: object, properties: {text: {type: string}}, required: [text], additionalProperties: false}
    llm: {model: tiny, prompt: "${{ input.text }}", max_tokens: 16, temperature: 0}
    annotations: {readOnlyHint: true}
"""
BODY = {
    "jsonrpc": "2.0", "id": 1, "method": "tools/call",
    "params": {
        "name": "bench.say", "arguments": {"text": MESSAGES[0]["content"]},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
        },
    },
}  # fmt: skip
HEADERS = {
    "accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call",
    "mcp-name": "bench.say",
}  # fmt: skip


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


@asynccontextmanager
async def mesh(model: str) -> AsyncIterator[tuple[RawChat, float]]:
    """`agentmesh serve` on a mesh with one tool; asked over MCP 2026-07-28."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "servers").mkdir()
        source = json.dumps(model)
        (folder / "agentmesh.yaml").write_text(
            f"name: bench\nmodels: {{tiny: {{source: {source}, deploy: {{device: cpu}}}}}}\ndefault_model: tiny\n"
        )
        (folder / "servers/bench.yaml").write_text(SERVER)
        began = time.monotonic()
        with (folder / "log").open("wb") as log:
            program = Path(sys.executable).parent / "agentmesh"
            server = subprocess.Popen([program, "serve", "--port", "0"], cwd=folder, stdout=log, stderr=log)
        try:
            while not (url := await asyncio.to_thread(ready, folder)):
                if server.poll() is not None or time.monotonic() - began > 300:
                    raise SystemExit("the mesh did not get ready:\n" + (folder / "log").read_text()[-3000:])
                await asyncio.sleep(0.2)
            yield RawChat(f"{url}/mcp", BODY, HEADERS), time.monotonic() - began
        finally:
            server.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.wait, 120)


def ready(folder: Path) -> str:
    try:
        url = str(json.loads((folder / ".agentmesh/server.json").read_text())["url"])
        fetch(f"{url}/readyz")
    except (OSError, ValueError, urllib.error.URLError):
        return ""
    return url


def tokens(call: RawChat) -> int:
    """Completion tokens of the last answer, by the endpoint's or the run's own count."""
    text = call.last.decode()
    answer = json.loads(text.rpartition("\ndata:")[2])
    if "usage" in answer:
        return int(answer["usage"]["completion_tokens"])
    if answer.get("result", {}).get("isError") is not False:
        raise SystemExit(f"the mesh answered {text[:500]}")
    run = answer["result"]["_meta"]["io.agentmesh/run"]
    return int(fetch(f"{call.origin}/v1/runs/{run}")["usage"]["completion_tokens"])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default=str(ROOT / "agentmesh" / "builtin" / "tiny"))
    given = parser.parse_args()
    legs = {"bare": bare, "direct": lambda model: stock("direct", model), "mesh": mesh}
    rates: dict[tuple[str, int], list[float]] = {}
    loads: list[dict[str, Any]] = []
    for turn in range(given.rounds):
        for name, leg in legs.items():
            async with leg(given.model) as (call, started):
                for at_once in AT_ONCE:
                    load = await drive(call, at_once, given.seconds)
                    rates.setdefault((name, at_once), []).append(load.per_second)
                    loads.append({"round": turn, "leg": name, "ready_s": round(started, 1), **load.to_json()})
                    print(
                        f"{name:7} {at_once:3} at once {load.per_second:7.1f}/s  p50 {load.p50_ms:6.1f} ms", flush=True
                    )
                used = await asyncio.to_thread(tokens, call)
                if used != 16:
                    raise SystemExit(f"{name} answered {used} tokens, not 16: the legs would not compare")
                call.close()
    median = {key: statistics.median(values) for key, values in rates.items()}
    ratios = {
        f"mesh/{other}@{n}": round(median["mesh", n] / median[other, n], 2)
        for other in ("direct", "bare")
        for n in AT_ONCE
    }
    about = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "goal": GOAL, "ratios": ratios, "loads": loads}
    (ROOT / "benchmarks/results/model_call.json").write_text(json.dumps(about, indent=2) + "\n")
    print(
        "model_call: " + "  ".join(f"{name} {ratio}" for name, ratio in ratios.items()) + f"  (goal {GOAL} of direct)"
    )


if __name__ == "__main__":
    asyncio.run(main())
