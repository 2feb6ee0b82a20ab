"""What does sending a message through the mesh cost over sending it to the agent itself?

The agent is the SDK's own server with its tasks in memory, done at once; the mesh is `agentmesh serve` with an entry in `agents:` that
names it, where each message is a durable run that is passed on, and whose task is kept. `wrk` sends messages over JSON-RPC, directly
and through the mesh in turn, at 1 and at 32 at once, and the medians of the rounds stand. At 32 at once both processes and `wrk` keep
every core of a small machine busy: p50 is 32 times the processor time of a message then, whoever uses it; that time stands beside it.

The mesh streams the task from the agent, so that it knows whose task it is as soon as there is one. What that costs the agent itself is
measured, too: the same message streamed from it directly.

    python benchmarks/a2a_proxy.py [--rounds 5] [--seconds 3]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import environments
from benchmarks.a2a_served import agent, check, machine, medians, mesh, write, wrk
from benchmarks.mcp_calls import Failed, Server

AT_ONCE = (1, 32)
GOAL = 3.0
"""Milliseconds of p50 that a message through the mesh may take longer, at 1 at once."""
PEER = "/a2a/bench-agent"


@contextmanager
def proxy(port: int, files: dict[str, str] | None = None, more: str = "") -> Iterator[Server]:
    """A mesh in front of the agent at this port, once it knows its card. `more`: lines of its agentmesh.yaml."""
    project = (
        f"name: bench\nagents:\n  bench-agent: {{card: http://127.0.0.1:{port}/.well-known/agent-card.json}}\n{more}"
    )
    with mesh({"agentmesh.yaml": project, **(files or {})}) as server:
        until = time.monotonic() + 30
        while "bench-agent.work" not in _tools(server.ports[0]):
            if time.monotonic() > until:
                raise Failed("the mesh does not know the agent")
            time.sleep(0.1)
        yield server


def _tools(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/tools", timeout=10) as answer:
        return [tool["name"] for tool in json.load(answer)["tools"]]


def compare(direct: Server, through: Server, at_once: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Medians of both ways, and of the difference within a round."""
    ways = {
        "direct": (direct, "/", "SendMessage"), "streamed": (direct, "/", "SendStreamingMessage"),
        "mesh": (through, PEER, "SendMessage"),
    }  # fmt: skip
    each: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for server, path, method in ways.values():
        wrk(server, path, "rpc", at_once, 1, method=method)
    for number in range(rounds):
        for way in sorted(ways, reverse=bool(number % 2)):
            server, path, method = ways[way]
            before = {"agent": direct.cpu, "mesh": through.cpu}
            one = wrk(server, path, "rpc", at_once, seconds, method=method)
            if one["failed"]:
                raise Failed(f"{one['failed']:.0f} messages failed, {way}")
            one["agent_cpu_us"] = 1e6 * (direct.cpu - before["agent"]) / one["requests"]
            one["mesh_cpu_us"] = 1e6 * (through.cpu - before["mesh"]) / one["requests"]
            each[way].append(one)
            print(f"  {at_once} at once, round {number + 1}: {way}: p50 {one['p50_ms']:.2f} ms", file=sys.stderr)
    keys = ("p50_ms", "p99_ms", "per_second", "agent_cpu_us", "mesh_cpu_us")
    differences = [m["p50_ms"] - d["p50_ms"] for m, d in zip(each["mesh"], each["direct"], strict=True)]
    streamed = [m["p50_ms"] - d["p50_ms"] for m, d in zip(each["mesh"], each["streamed"], strict=True)]
    return {
        **{way: medians(found, *keys) for way, found in each.items()},
        "added_p50_ms": round(statistics.median(differences), 3),
        "added_p50_ms_rounds": [round(one, 3) for one in differences],
        "added_to_streamed_p50_ms": round(statistics.median(streamed), 3),
    }


def line(found: dict[str, dict[str, Any]]) -> str:
    parts = [
        f"{row['added_p50_ms']:.2f} ms at {at_once} at once ({row['direct']['p50_ms']:.2f} -> {row['mesh']['p50_ms']:.2f})"
        for at_once, row in found.items()
    ]
    alone, cpu = found[str(AT_ONCE[0])], found[str(AT_ONCE[-1])]["mesh"]
    return (
        f"a durable message through the mesh adds to p50: {', '.join(parts)} (goal {GOAL:g} ms at 1, where it is "
        f"{alone['added_to_streamed_p50_ms']:.2f} ms beside the agent's own stream); processor time a message: "
        f"{cpu['mesh_cpu_us']:.0f} us of the mesh, {cpu['agent_cpu_us']:.0f} us of the agent"
    )


def main() -> int:
    """Prints one line; writes the result beside this script. 1 when something is missing or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed; install it (Debian: apt-get install wrk)")
        return 1
    try:
        with agent() as direct, proxy(direct.ports[0]) as through:
            check(direct.ports[0], "/")
            check(through.ports[0], PEER)
            found = {
                str(at_once): compare(direct, through, at_once, asked.rounds, asked.seconds) for at_once in AT_ONCE
            }
    except (Failed, environments.CannotInstall) as failed:
        print(failed)
        return 1
    write("a2a_proxy", {
        "at_once": found, "goal_ms": GOAL, "rounds": asked.rounds, "seconds": asked.seconds,
        "packages": {"agent": environments.installed(environments.environment("a2a"))}, "machine": machine(),
    })  # fmt: skip
    print(line(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
