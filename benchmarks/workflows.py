"""How many durable steps a second, beside the peers, in one run on one machine?

Runs of ten trivial async Python steps, 200 of them, by 16 and by 256 clients at once, each of which starts a run and awaits its end;
and a run of a single step, alone and at rest, from its start to when its caller knows that it is durable. AgentMesh, DBOS, LangGraph
with its own savers, and the raw database with a commit for each step, on SQLite (synchronous=FULL for all, as each one's own
connection says) and on a PostgreSQL that this script starts (fsync and synchronous_commit on). Every system runs in a process of its own,
the peers in environments of their own; each round goes through all of them in turn. Steps are counted in the database afterwards.

What each promises is not the same, and the table says it: `strict` systems have each step on the disk before the next one begins.
AgentMesh is measured in both ways, and so is LangGraph. AgentMesh commits together what belongs together, so that it matters to it
(and not to the peers) whether a step waits for anything: trivial steps do not, and one more row says what becomes of those that do. The
last line compares AgentMesh with the best peer of either kind, by the
worse of the two ratios (16 and 256 at once); the strict ratio stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import environments, postgres
from benchmarks.drivers.timing import AT_REST, STEPS, WARM, expected_steps

RUNS, AT_ONCE, ROUNDS = 200, [16, 256], 3
GOALS = {"sqlite": (10_000, 15.0), "postgres": (3_000, 10.0)}
"""Steps a second, and times the best peer."""
FIRST_GOAL_MS = 2.0
HERE = Path(__file__).parent
RESULT = HERE / "results" / "workflows.json"
NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


@dataclass(frozen=True)
class Entrant:
    """One system in one way of working."""

    name: str
    driver: str
    mode: str
    strict: bool
    """Whether each step is on the disk before the next one begins."""
    promise: str
    count: str
    """SQL: steps in the database. On PostgreSQL `count_shared` where it differs."""
    count_shared: str | None = None
    environment: str | None = None
    """None: this one's."""
    sqlite_only: bool = False

    @property
    def ours(self) -> bool:
        return self.driver == "agentmesh_runs"

    @property
    def peer(self) -> bool:
        return self.environment is not None


_OURS = "SELECT count(*) FROM journal WHERE kind = 'step.completed'"
_DBOS = "SELECT count(*) FROM operation_outputs"
_LANGGRAPH = "SELECT count(*) FROM checkpoints WHERE json_extract(CAST(metadata AS TEXT), '$.step') >= 1"
_LANGGRAPH_SHARED = "SELECT count(*) FROM checkpoints WHERE (metadata->>'step')::int >= 1"
ENTRANTS = (
    Entrant(
        "AgentMesh", "agentmesh_runs", "read", False,
        "steps that only read: a run's rows are handed to the writing thread whenever the run waits for anything, and are committed "
        "before a step that writes, and before the caller hears of the end; these steps never wait, so a run's go together", _OURS,
    ),
    Entrant(
        "AgentMesh, steps that yield", "agentmesh_runs", "yield", False,
        "the same, but each step gives way to others once, so that each is handed over by itself", _OURS,
    ),
    Entrant(
        "AgentMesh strict", "agentmesh_runs", "write", True,
        "steps that may change the world: an intent is committed before each, with the end of the step before it", _OURS,
    ),
    Entrant(
        "DBOS", "dbos_workflows", "", True, "each step's output is committed before the workflow goes on", _DBOS,
        "SELECT count(*) FROM dbos.operation_outputs", "dbos",
    ),
    Entrant(
        "DBOS, file in WAL mode", "dbos_workflows", "wal", True,
        "the same; the file was put into WAL mode beforehand, which DBOS does not do", _DBOS, None, "dbos", sqlite_only=True,
    ),
    Entrant(
        "LangGraph sync", "langgraph_graphs", "sync", True, "a checkpoint is committed before the next node begins",
        _LANGGRAPH, _LANGGRAPH_SHARED, "langgraph",
    ),
    Entrant(
        "LangGraph async", "langgraph_graphs", "async", False,
        "its default: a checkpoint is committed while the next node runs, and before the caller hears of the end",
        _LANGGRAPH, _LANGGRAPH_SHARED, "langgraph",
    ),
    Entrant(
        "raw database", "raw_database", "", True, "a row and a commit for each step, and no engine", "SELECT count(*) FROM steps"
    ),
)  # fmt: skip


class Failed(Exception):
    """A measurement that cannot stand."""


def measure(
    entrant: Entrant, python: Path, store: str, count: Callable[[str], int], runs: int, *, shared: bool
) -> dict[str, Any]:
    """One driver's whole life: its seconds and settings, after its steps were found in the database."""
    command = [
        python, HERE / "drivers" / f"{entrant.driver}.py", "--store", store, "--mode", entrant.mode,
        "--runs", str(runs), "--at-once", *map(str, AT_ONCE),
    ]  # fmt: skip
    # The peers' environments have no AgentMesh; they see nothing of ours.
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env = kept | ({"PYTHONPATH": str(HERE.parent)} if not entrant.peer else {})
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise Failed(f"{entrant.name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    found, wanted = (
        count(entrant.count_shared or entrant.count if shared else entrant.count),
        expected_steps(runs, AT_ONCE),
    )
    if found != wanted:
        raise Failed(f"{entrant.name}: {found} steps are in the database, not {wanted}")
    durable = {"fsync": "on", "synchronous_commit": "on"} if shared else {"synchronous": 2}
    said = result["settings"]
    if any(said.get(name) != value for name, value in durable.items()):
        raise Failed(f"{entrant.name} does not commit durably: its connection says {said}, not {durable}")
    return result


def on_sqlite(entrant: Entrant, python: Path, runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "steps.db"

        def count(query: str) -> int:
            with sqlite3.connect(file) as connection:
                return int(connection.execute(query).fetchone()[0])

        return measure(entrant, python, str(file), count, runs, shared=False)


def on_postgres(entrant: Entrant, python: Path, runs: int, server: postgres.Server) -> dict[str, Any]:
    url = server.create("bench")
    try:
        return measure(
            entrant, python, url, lambda query: int(server.ask(query, database="bench")[0][0]), runs, shared=True
        )
    finally:
        server.drop("bench")


def summary(rounds: Sequence[dict[str, Any]], runs: int) -> dict[str, Any]:
    """Medians of the rounds, with their spread."""
    rates = {
        str(n): sorted(round(runs * STEPS / found["seconds"][str(n)]) for found in rounds) for n in AT_ONCE
    }  # fmt: skip
    return {
        "steps_per_second": {n: statistics.median(found) for n, found in rates.items()},
        "rounds": rates,
        "noise_percent": {n: round(100 * (found[-1] - found[0]) / statistics.median(found)) for n, found in rates.items()},
        "at_rest_ms": round(statistics.median(statistics.median(found["at_rest_ms"]) for found in rounds), 2),
        "settings": rounds[-1]["settings"],
    }  # fmt: skip


def compare(store: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """AgentMesh beside the best peer of all, and its strict way beside the best strict peer; the worse of both crowds."""

    def ratio(ours: str, *, strict_only: bool) -> dict[str, Any]:
        each = {}
        for n in map(str, AT_ONCE):
            peers = {
                e.name: found[e.name]["steps_per_second"][n]
                for e in ENTRANTS if e.peer and e.name in found and (e.strict or not strict_only)
            }  # fmt: skip
            best = max(peers, key=lambda name: peers[name])
            each[n] = {"best": best, "times": round(found[ours]["steps_per_second"][n] / peers[best], 1)}
        return {"times": min(e["times"] for e in each.values()), "each": each}

    steps, times = GOALS[store]
    rates = found["AgentMesh"]["steps_per_second"]
    compared = ratio("AgentMesh", strict_only=False)
    return {
        "best_peer": compared,
        "strict": ratio("AgentMesh strict", strict_only=True),
        "goals": {"steps_per_second": steps, "times_best_peer": times, "first_step_ms": FIRST_GOAL_MS},
        "met": {
            "steps_per_second": min(rates.values()) >= steps,
            "times_best_peer": compared["times"] >= times,
            "first_step": found["AgentMesh"]["at_rest_ms"] <= FIRST_GOAL_MS,
        },
    }  # fmt: skip


def table(store: str, found: dict[str, dict[str, Any]]) -> None:
    head = "".join(f"{f'{n} at once':>20}" for n in AT_ONCE)
    print(f"\n{NAMES[store] + ', durable steps/s':28}{head}{'one step at rest':>20}  strict  settings")
    for entrant in ENTRANTS:
        row = found.get(entrant.name)
        if row is None:
            continue
        rates = "".join(f"{_spread(row, n):>20}" for n in map(str, AT_ONCE))
        said = ", ".join(f"{name}={value}" for name, value in row["settings"].items())
        strict = "yes" if entrant.strict else "no"
        print(f"{entrant.name:28}{rates}{row['at_rest_ms']:>17.2f} ms  {strict:6}  {said}")


def _spread(row: dict[str, Any], n: str) -> str:
    low, high = row["rounds"][n][0], row["rounds"][n][-1]
    return f"{row['steps_per_second'][n]:.0f} ({low}-{high})"


def line(store: str, compared: dict[str, Any], found: dict[str, dict[str, Any]]) -> str:
    """What one database comes to, without the ratio that ends the output."""
    rates, strict = found["AgentMesh"]["steps_per_second"], found["AgentMesh strict"]["steps_per_second"]
    each = compared["best_peer"]["each"]
    shown = " and ".join(
        f"{rates[n]:.0f} with {n} at once ({each[n]['times']}x {each[n]['best']})" for n in map(str, AT_ONCE)
    )
    kept = " and ".join(f"{strict[n]:.0f}" for n in map(str, AT_ONCE))
    steps, times = GOALS[store]
    return (
        f"{NAMES[store]}: {shown} durable steps/s; each on the disk before the next begins: {kept}, "
        f"{compared['strict']['times']}x best strict peer; first durable step {found['AgentMesh']['at_rest_ms']} ms "
        f"(goals {steps} steps/s, {times:g}x, {FIRST_GOAL_MS:g} ms)"
    )


def rounds_of(
    stores: Sequence[str], rounds: int, runs: int, pythons: dict[str | None, Path]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Every round of every entrant, all of them in turn."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {store: {} for store in stores}
    with ExitStack() as stack:
        server = stack.enter_context(postgres.server()) if "postgres" in stores else None
        for number in range(1, rounds + 1):
            for store in stores:
                for entrant in ENTRANTS:
                    if entrant.environment not in pythons or (entrant.sqlite_only and store != "sqlite"):
                        continue
                    python = pythons[entrant.environment]
                    if store == "sqlite":
                        result = on_sqlite(entrant, python, runs)
                    else:
                        assert server is not None
                        result = on_postgres(entrant, python, runs, server)
                    found[store].setdefault(entrant.name, []).append(result)
                    rates = ", ".join(f"{runs * STEPS / s:.0f} ({n} at once)" for n, s in result["seconds"].items())
                    print(f"  round {number}: {NAMES[store]}, {entrant.name}: {rates}", file=sys.stderr)
    return found


def main() -> int:
    """Prints tables and the two lines; writes the result beside this script. 1 when a peer cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--only", choices=GOALS, help="one database alone; nothing is written")
    asked = parser.parse_args()
    stores = [asked.only] if asked.only else ["sqlite", "postgres"]
    pythons: dict[str | None, Path] = {None: Path(sys.executable)}
    try:
        pythons |= {name: environments.environment(name) for name in environments.PEERS}
    except environments.CannotInstall as missing:
        print(missing)
        return 1
    if "postgres" in stores:
        try:
            postgres.programs()
        except postgres.NoPostgres as missing:
            print(f"{missing}; SQLite alone is measured")
            stores.remove("postgres")
    try:
        raw = rounds_of(stores, asked.rounds, asked.runs, pythons)
    except (Failed, postgres.NoPostgres) as failed:
        print(failed)
        return 1
    found = {
        store: {name: summary(rounds, asked.runs) for name, rounds in systems.items()} for store, systems in raw.items()
    }  # fmt: skip
    compared = {store: compare(store, systems) for store, systems in found.items()}
    for store, systems in found.items():
        table(store, systems)
    if asked.only is None and len(stores) == len(GOALS):
        result = {
            "stores": {store: {"systems": found[store], **compared[store]} for store in stores},
            "promises": {entrant.name: {"strict": entrant.strict, "promise": entrant.promise} for entrant in ENTRANTS},
            "steps": STEPS, "runs": asked.runs, "at_once": AT_ONCE, "rounds": asked.rounds, "warm_up_runs": WARM,
            "at_rest_runs": AT_REST,
            "packages": {name: environments.installed(pythons[name]) for name in environments.PEERS},
            "machine": machine(),
        }  # fmt: skip
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print()
    for store in reversed(stores):
        print(line(store, compared[store], found[store]))
    if len(stores) > 1:
        print(f"PostgreSQL: {compared['postgres']['best_peer']['times']}x best peer")
    print(f"{compared[stores[0]]['best_peer']['times']}x best peer")
    return 0


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release(),
        "sqlite": sqlite3.sqlite_version, "postgres": _postgres_version(),
        "load_average_15_minutes": os.getloadavg()[2],
    }  # fmt: skip


def _postgres_version() -> str | None:
    try:
        binary = postgres.programs() / "postgres"
    except postgres.NoPostgres:
        return None
    return subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
