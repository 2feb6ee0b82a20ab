"""What does a call through the gateway cost over calling the upstream directly?

The upstream is the SDK's MCPServer in a process of its own; the gateway is `agentmesh serve` as users start it, of a mesh with a file in
servers/ that names it. `wrk` calls its echo tool (MCP 2026-07-28), at 1 and at 32 at once, directly and through the gateway in turn; the
medians of the rounds stand. Once the upstream answers at once, and once after 50 ms, as one does that asks somebody else. With the first,
32 at once keep every core busy all the time: on few cores the gateway, the upstream and `wrk` take turns, and p50 is 32 times the processor
time of a call, whoever uses it; that time stands beside it.

    python benchmarks/gateway.py [--rounds 5] [--seconds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.mcp_calls import DRIVERS, HERE, Failed, Server, _announced, _printed, driver, started

RESULT = HERE / "results" / "gateway.json"
AT_ONCE = (1, 32)
WAITS = 50
"""Milliseconds that the second upstream takes."""
GOAL = 2.0
"""Milliseconds of p50 that a call through the gateway may take longer."""


@contextmanager
def gateway(upstream: int) -> Iterator[Server]:
    """`agentmesh serve` of a mesh that offers the server at this port, once its tools are known."""
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as name:
        folder = Path(name)
        (folder / "servers").mkdir()
        (folder / "agentmesh.yaml").write_text("name: bench\n")
        (folder / "servers" / "up.yaml").write_text(
            f"name: up\nupstream:\n  url: http://127.0.0.1:{upstream}/mcp\n  at_once: 64\n"
        )
        command = [sys.executable, "-m", "agentmesh", "serve", "--no-models", "--port", "0", "--mesh", name]
        path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"PYTHONPATH": path, "AGENTMESH_LOG": "error"}
        with started(command, _announced, cwd=folder, env=env) as server:
            until = time.monotonic() + 30
            while "up.echo" not in _tools(server.ports[0]):
                if time.monotonic() > until:
                    raise Failed("the gateway does not offer the upstream's tool")
                time.sleep(0.1)
            yield server


def _tools(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/tools", timeout=10) as answer:
        return [tool["name"] for tool in json.load(answer)["tools"]]


def measure(port: int, tool: str, at_once: int, seconds: int) -> dict[str, float]:
    command = [
        "wrk", "-t1", f"-c{at_once}", f"-d{seconds}s", "--timeout", "30s", "-s", str(DRIVERS / "mcp_call.lua"),
        f"http://127.0.0.1:{port}/mcp",
    ]  # fmt: skip
    env = os.environ | {"BENCH_HOST": f"127.0.0.1:{port}", "BENCH_TOOL": tool}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise Failed(f"wrk failed: {done.stderr or done.stdout}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    if found["failed"]:
        raise Failed(f"{found['failed']} requests failed")
    return found


def compare(direct: Server, through: Server, at_once: int, rounds: int, seconds: int) -> dict[str, Any]:
    """Medians of both ways, and of the difference within a round."""
    each: dict[str, list[dict[str, float]]] = {"direct": [], "gateway": []}
    ways = {"direct": (direct.ports[0], "echo"), "gateway": (through.ports[0], "up.echo")}
    for number in range(rounds):
        for way in sorted(ways, reverse=bool(number % 2)):
            port, tool = ways[way]
            cpu = {"upstream": direct.cpu, "gateway": through.cpu}
            one = measure(port, tool, at_once, seconds)
            one["upstream_cpu_us"] = 1e6 * (direct.cpu - cpu["upstream"]) / one["requests"]
            one["gateway_cpu_us"] = 1e6 * (through.cpu - cpu["gateway"]) / one["requests"]
            one["per_second"] = one["requests"] / one["seconds"]
            each[way].append(one)
            print(f"  {at_once} at once, round {number + 1}: {way}: p50 {one['p50_ms']:.2f} ms", file=sys.stderr)
    keys = ("p50_ms", "p99_ms", "per_second", "upstream_cpu_us", "gateway_cpu_us")
    result: dict[str, Any] = {
        way: {key: round(statistics.median(one[key] for one in found), 3) for key in keys}
        for way, found in each.items()
    }
    differences = [g["p50_ms"] - d["p50_ms"] for g, d in zip(each["gateway"], each["direct"], strict=True)]
    result["added_p50_ms"] = round(statistics.median(differences), 3)
    result["added_p50_ms_rounds"] = [round(one, 3) for one in differences]
    return result


def slow() -> AbstractContextManager[Server]:
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return started([sys.executable, DRIVERS / "slow_upstream.py", str(WAITS)], _printed, env=kept)


def line(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    parts = [
        f"{row['added_p50_ms']:.2f} ms at {at_once} at once ({row['direct']['p50_ms']:.2f} -> {row['gateway']['p50_ms']:.2f})"
        for rows in found.values()
        for at_once, row in rows.items()
    ]
    half = len(AT_ONCE)
    cpu = found["busy"][str(AT_ONCE[-1])]["gateway"]["gateway_cpu_us"]
    return (
        f"a call through the gateway adds to p50: {', '.join(parts[:half])}; of an upstream that takes {WAITS} ms: "
        f"{', '.join(parts[half:])}; {cpu:.0f} us of processor a call (goal {GOAL:g} ms)"
    )


def both(direct: Server, rounds: int, seconds: int) -> dict[str, dict[str, Any]]:
    with gateway(direct.ports[0]) as through:
        measure(direct.ports[0], "echo", 8, 1)
        measure(through.ports[0], "up.echo", 8, 1)
        return {str(at_once): compare(direct, through, at_once, rounds, seconds) for at_once in AT_ONCE}


def main() -> int:
    """Prints one line; writes the result beside this script. 1 when something is missing or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed; install it (Debian: apt-get install wrk)")
        return 1
    try:
        with driver("mcpserver")() as direct:
            found = {"busy": both(direct, asked.rounds, asked.seconds)}
        with slow() as direct:
            found["waiting"] = both(direct, asked.rounds, asked.seconds)
    except Failed as failed:
        print(failed)
        return 1
    result = {
        "upstreams": found, "waiting_ms": WAITS, "goal_ms": GOAL, "rounds": asked.rounds, "seconds": asked.seconds,
        "machine": {
            "cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release(),
            "load_average_15_minutes": os.getloadavg()[2],
        },
    }  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(line(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
