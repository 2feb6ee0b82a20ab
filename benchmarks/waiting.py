"""What do 100,000 waiting runs cost one worker, and how late are their timers?

One process with one engine on SQLite (synchronous=FULL). It starts 98,000 runs whose only step waits until tomorrow, and lets the worker
park them all; then 2,000 more, of which 1,000 are due one after the other over ten seconds and 1,000 at one instant. When all
100,000 wait, the resident memory of the whole process is read (its imports, the starter's side and the store counted in). A timer's
lateness is the time of the wait's `step.completed` row, by the store's clock, less the time that the run was told to wait until.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path, PurePath
from typing import Any

import anyio
import uvloop

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.adapters.sql.store import open_store
from agentmesh.app import collect_rarely
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import Principal
from agentmesh.core.workflow import Workflow
from agentmesh.engine import Engine, build_engine

WAITING, EACH, SPREAD, AHEAD = 100_000, 1_000, 10.0, 12.0
"""Runs in all; runs of each of the two kinds of timer; seconds over which the first kind is due; seconds until the first is."""
STARTERS = 32
GOAL_MB, GOAL_LATE = 300, 1.0
DAY = 86_400.0
PATIENCE = 1800.0
"""Most seconds for all runs to be parked."""
RESULT = Path(__file__).parent / "results" / "waiting.json"


def mesh() -> Mesh:
    workflow = Workflow.model_validate(
        {"name": "later", "input": {"type": "object"}, "steps": [{"id": "pause", "wait": {"until": "input.at"}}]}
    )
    return assemble(PurePath(), MeshFile(name="bench"), workflows=[workflow])


def memory() -> dict[str, float]:
    """Megabytes of this process that are resident now, and that were at most."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {"resident": int(fields["VmRSS"].split()[0]) / 1024, "highest": int(fields["VmHWM"].split()[0]) / 1024}


async def start(engine: Engine, times: list[float], kind: str) -> float:
    """Starts a run for each time; the seconds that took."""
    left = iter(times)
    principal = Principal()

    async def starter() -> None:
        for at in left:
            await engine.runs.start(principal, "later", {"at": at, "kind": kind})

    begun = time.perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(STARTERS):
            group.start_soon(starter)
    return time.perf_counter() - begun


PARKED = "SELECT count(*) FROM runs WHERE state = 'working' AND lease_owner IS NULL AND due_at IS NOT NULL"
ENDED = "SELECT count(*) FROM runs WHERE due_at IS NULL"


def count(file: Path, query: str) -> int:
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        found: int = database.execute(query).fetchone()[0]
    return found


async def until(file: Path, query: str, wanted: int) -> None:
    """Returns when the query counts so many runs."""
    with anyio.fail_after(PATIENCE):
        while await anyio.to_thread.run_sync(count, file, query) < wanted:  # noqa: ASYNC110 - it asks the database
            await anyio.sleep(1)


async def measure(folder: Path, waiting: int, each: int) -> dict[str, Any]:
    file = folder / "waiting.db"
    async with open_store("sqlite:///waiting.db", folder) as store:
        engine = build_engine(mesh(), store, ScriptedModel([]))
        async with anyio.create_task_group() as group:
            await group.start(engine.worker.run)
            at_rest = memory()
            begun = time.perf_counter()
            far = waiting - 2 * each
            tomorrow = time.time() + DAY
            await start(engine, [tomorrow] * far, "far")
            await until(file, PARKED, far)
            took = time.perf_counter() - begun
            print(f"  {far} runs parked after {took:.0f} s", file=sys.stderr)
            first = time.time() + AHEAD + 2 * each / 200  # time to start them, at a leisurely pace
            await start(engine, [first + i * SPREAD / each for i in range(each)], "steady")
            instant = first + SPREAD + 5
            await start(engine, [instant] * each, "instant")
            await until(file, PARKED, waiting)
            gc.collect()
            full, left = memory(), first - time.time()
            if left < 0:
                raise SystemExit("the first timer was due before all runs waited; the machine is too busy for this")
            print(f"  {waiting} runs wait: {full['resident']:.0f} MB resident", file=sys.stderr)
            cpu = time.process_time()
            await anyio.sleep(max(left - 1, 0))
            idle_cpu = (time.process_time() - cpu) / max(left - 1, 0.001)
            await until(file, ENDED, 2 * each)
            after = memory()
            group.cancel_scope.cancel()
    return {
        "memory_mb": {"before": at_rest, "all_waiting": full, "after_the_timers": after},
        "parked_per_second": round(far / took), "cpu_while_waiting": round(idle_cpu, 3),
        "late_seconds": {kind: lateness(file, kind) for kind in ("steady", "instant")},
        "database_mb": round(size(folder) / 2**20),
    }  # fmt: skip


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def lateness(file: Path, kind: str) -> dict[str, float]:
    with sqlite3.connect(file) as database:
        rows = database.execute(
            "SELECT j.at - json_extract(r.input, '$.at') FROM journal j JOIN runs r ON r.id = j.run_id "
            "WHERE j.kind = 'step.completed' AND json_extract(r.input, '$.kind') = ? ORDER BY 1",
            (kind,),
        ).fetchall()
    late = [row[0] for row in rows]
    if late[0] < 0:
        raise SystemExit(f"a timer fired {-late[0]:.3f} s early")
    return {
        "count": len(late), "median": round(statistics.median(late), 3), "p99": round(late[int(len(late) * 0.99)], 3),
        "most": round(late[-1], 3),
    }  # fmt: skip


def main() -> None:
    """Prints one line and writes the result beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=WAITING, help="fewer for a try; nothing is written then")
    asked = parser.parse_args()
    each = min(EACH, asked.waiting // 4)
    collect_rarely()  # as the server does
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result = uvloop.run(measure(Path(folder), asked.waiting, each))
    resident, late = result["memory_mb"]["all_waiting"], result["late_seconds"]
    result |= {
        "waiting": asked.waiting, "goals": {"resident_mb": GOAL_MB, "late_seconds": GOAL_LATE},
        "met": {
            "memory": resident["highest"] < GOAL_MB,
            "timers": late["steady"]["most"] < GOAL_LATE, "timers_at_one_instant": late["instant"]["most"] < GOAL_LATE,
        },
        "cores": os.cpu_count(), "python": platform.python_version(), "store": "sqlite, WAL, synchronous=FULL",
    }  # fmt: skip
    if asked.waiting == WAITING:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"waiting: {asked.waiting} waiting runs, {resident['resident']:.0f} MB resident, at most "
        f"{resident['highest']:.0f} (goal {GOAL_MB}); "
        f"timers due over {SPREAD:g} s at most {late['steady']['most']} s late, {each} at one instant {late['instant']['most']} s "
        f"(goal {GOAL_LATE:g} s)"
    )


if __name__ == "__main__":
    main()
