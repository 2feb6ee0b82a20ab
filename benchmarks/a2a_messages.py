"""How many durable messages a second does a trivial agent take, beside the A2A SDK's own server?

SendMessage of a short text, answered with a completed task and its artifact, by `wrk` with one thread, over JSON-RPC and over
HTTP+JSON, at 1 and at 32 at once. AgentMesh is `agentmesh serve` as users start it, its agent a workflow of one `set` step, on SQLite (WAL,
synchronous=FULL) and on PostgreSQL. The SDK's is DefaultRequestHandler with its DatabaseTaskStore on the same kind of database: SQLite
by aiosqlite as it comes, and once more in WAL mode with synchronous=FULL; PostgreSQL by asyncpg. All listen at the same time, a round
goes through all of them for each binding and number at once, and the medians of the rounds stand; a ratio is to the SDK's of the same
round, the faster of its two on SQLite. Afterwards each is asked how many completed tasks it has: none that was answered may be missing.

    python benchmarks/a2a_messages.py [--rounds 3] [--seconds 3]
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import environments, postgres
from benchmarks.a2a_served import PATHS, agent, check, machine, medians, mesh, write, wrk
from benchmarks.mcp_calls import Failed, Server

AT_ONCE = (1, 32)
WARM = 1
"""Seconds before the first round."""
GOAL = 1.5
OURS = "AgentMesh"
FEW = 1
"""Messages of a round that a peer is taken to have answered when it answered none."""


@dataclass(frozen=True)
class Contestant:
    """One that listens. `path`: where its JSON-RPC is; `rest`: what its REST paths begin with."""

    server: Server
    path: str
    rest: str


def contestants(stack: ExitStack, folder: Path, database: postgres.Server | None) -> dict[str, dict[str, Contestant]]:
    """By database, then by name."""

    def sdk(*options: str) -> Contestant:
        return Contestant(stack.enter_context(agent(*options)), "/", "")

    def ours(store: str) -> Contestant:
        return Contestant(stack.enter_context(mesh({}, store=store)), "/a2a", "/a2a")

    found = {
        "SQLite": {
            OURS: ours(f"sqlite:///{folder / 'mesh.db'}"),
            "SDK": sdk("--store", str(folder / "sdk.db")),
            "SDK, WAL": sdk("--store", str(folder / "sdk-wal.db"), "--synchronous", "FULL", "--wal"),
        }
    }
    if database is not None:
        found["PostgreSQL"] = {OURS: ours(database.create("mesh")), "SDK": sdk("--store", database.create("sdk"))}
    return found


def legs(rivals: Mapping[str, Contestant], label: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Every cell of every contestant on one database."""
    kept: dict[str, int] = dict.fromkeys(rivals, 0)
    cells: dict[str, Any] = {}
    for rival in rivals.values():
        check(rival.server.ports[0], rival.path)
    for binding in PATHS:
        for at_once in AT_ONCE:
            each: dict[str, list[dict[str, float]]] = {name: [] for name in rivals}
            names = list(rivals)
            for name in names:
                kept[name] += _good(_leg(rivals[name], binding, at_once, WARM))
            for number in range(rounds):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    one = _leg(rivals[name], binding, at_once, seconds)
                    kept[name] += _good(one)
                    each[name].append(one)
                    said = f"{one['per_second']:.0f}/s, p50 {one['p50_ms']:.1f} ms, {one['failed']:.0f} failed"
                    print(
                        f"  {label}, {binding}, {at_once} at once, round {number + 1}: {name}: {said}", file=sys.stderr
                    )
            if any(one["failed"] or not _good(one) for one in each[OURS]):
                raise Failed(f"messages to {OURS} failed: {label}, {binding}, {at_once} at once")
            cells[f"{binding} {at_once}"] = cell(each)
    for name, rival in rivals.items():
        if (there := stored(rival)) < kept[name]:
            raise Failed(f"{name} on {label} answered {kept[name]} messages, and has {there} completed tasks")
    return cells


def _leg(rival: Contestant, binding: str, at_once: int, seconds: float) -> dict[str, float]:
    return wrk(rival.server, rival.path if binding == "rpc" else rival.rest, binding, at_once, seconds)


def _good(one: Mapping[str, float]) -> int:
    return int(one["requests"] - one["failed"])


def cell(each: Mapping[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians, and the ratio of ours to the best other of the same round."""
    found: dict[str, Any] = {
        name: {**medians(rounds, "per_second", "p50_ms", "p99_ms", "cpu_us"), "failed": sum(one["failed"] for one in rounds)}
        for name, rounds in each.items()
    }  # fmt: skip
    others = [rounds for name, rounds in each.items() if name != OURS]
    ratios = [
        one["per_second"] / max(*(rounds[number]["per_second"] for rounds in others), FEW / one["seconds"])
        for number, one in enumerate(each[OURS])
    ]
    return {**found, "ratio": round(statistics.median(ratios), 2), "ratios": [round(one, 2) for one in ratios]}


def stored(rival: Contestant) -> int:
    """Completed tasks, as ListTasks counts them."""
    connection = http.client.HTTPConnection("127.0.0.1", rival.server.ports[0], timeout=60)
    query = "/tasks?pageSize=1&status=TASK_STATE_COMPLETED"
    connection.request("GET", rival.rest + query, headers={"A2A-Version": "1.0"})
    said = connection.getresponse().read()
    connection.close()
    return int(json.loads(said).get("totalSize", 0))


def table(found: Mapping[str, Mapping[str, Any]]) -> None:
    print(
        f"\n{'SendMessage, durable':36}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'failed':>8}{'ratio':>8}"
    )
    for label, cells in found.items():
        for leg, one in cells.items():
            for name, row in one.items():
                if isinstance(row, dict):
                    ratio = f"{one['ratio']:.2f}" if name == OURS else ""
                    print(
                        f"{f'{label}, {leg}: {name}':36}{row['per_second']:>12.0f}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.1f}"
                        f"{row['cpu_us']:>9.0f}{row['failed']:>8.0f}{ratio:>8}"
                    )


def line(found: Mapping[str, Mapping[str, Any]]) -> str:
    parts = []
    for label, cells in found.items():
        each = ", ".join(f"{leg} {one['ratio']:.1f} ({one[OURS]['per_second']:.0f}/s)" for leg, one in cells.items())
        parts.append(f"on {label} {each}")
    worst = min(one["ratio"] for cells in found.values() for one in cells.values())
    return f"durable SendMessage, as a multiple of the A2A SDK's own server: {'; '.join(parts)}; {worst:.1f} at worst (goal {GOAL:g})"


def main() -> int:
    """Prints a table and one line; writes the result beside this script. 1 when something is missing or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--no-postgres", action="store_true")
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        print("wrk is not installed; install it (Debian: apt-get install wrk)")
        return 1
    missing = ""
    try:
        with ExitStack() as stack:
            database = None
            if not asked.no_postgres:
                try:
                    database = stack.enter_context(postgres.server())
                except postgres.NoPostgres as error:
                    missing = f"; PostgreSQL was left out: {error}"
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-a2a-")))
            found = {
                label: legs(rivals, label, asked.rounds, asked.seconds)
                for label, rivals in contestants(stack, folder, database).items()
            }
    except (Failed, environments.CannotInstall) as failed:
        print(failed)
        return 1
    write("a2a_messages", {
        "databases": found, "goal": GOAL, "rounds": asked.rounds, "seconds": asked.seconds,
        "packages": {"sdk": environments.installed(environments.environment("a2a"))}, "machine": machine(),
    })  # fmt: skip
    table(found)
    print()
    print(line(found) + missing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
