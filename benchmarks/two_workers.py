"""How much more do two worker processes do than one, on one PostgreSQL?

The runs are recorded first, with nobody to take them; then one worker process, or two, are let go at once, and the time is taken until
the last run has ended. A worker is a process with a store, an engine and its worker, 16 runs at once, as a server has them. Three kinds
of work, ten steps in a run: steps that wait 20 ms for somebody else (what a model or an upstream tool is to a worker), steps that compute
for 5 ms in Python, and steps that do nothing, which leaves the engine and the database themselves.

Two workers can only compute twice as much where there are processors for both, and for PostgreSQL beside them: the result says how many
there were, and how much of them the workers and the database used. One and two are measured in turn, and PostgreSQL is this
script's own, with fsync on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.adapters.sql.store import open_store
from agentmesh.core.policy import Principal
from agentmesh.engine import build_engine
from benchmarks import postgres

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "drivers"))
import mesh_worker  # noqa: E402 - it stands among the drivers, which are scripts

CONCURRENCY, ROUNDS, GOAL = 16, 3, 1.7
RUNS = {"waits": 400, "computes": 120, "nothing": 600}
PATIENCE = 300.0
RESULT = HERE / "results" / "two_workers.json"


async def record(url: str, kind: str, count: int) -> None:
    """Records runs; this process has no worker that would take them."""
    async with open_store(url, Path("/")) as store:
        engine = build_engine(mesh_worker.mesh(), store, ScriptedModel([]))
        for n in range(count):
            await engine.runs.start(Principal(), kind, {"n": n})


def measure(server: postgres.Server, kind: str, workers: int) -> dict[str, float]:
    """Steps a second, and the processors that workers and database used meanwhile."""
    url = server.create("bench")
    count = RUNS[kind]
    uvloop.run(record(url, kind, count))
    command = [sys.executable, HERE / "drivers" / "mesh_worker.py", "--store", url, "--concurrency", str(CONCURRENCY)]
    env = os.environ | {"PYTHONPATH": str(HERE.parent)}
    processes = [
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(workers)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise SystemExit("a worker did not start")
        used, begun = server.cpu_seconds(), time.time()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        wait(server, count)
        took = time.time() - begun
        database = server.cpu_seconds() - used
        told = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    (last,), (steps,), shares = (
        server.ask("SELECT max(at) FROM journal", database="bench")[0],
        server.ask("SELECT count(*) FROM journal WHERE kind = 'step.completed'", database="bench")[0],
        server.ask(
            "SELECT payload::json->>'worker', count(*) FROM journal WHERE kind = 'run.working' GROUP BY 1",
            database="bench",
        ),
    )
    server.drop("bench")
    if steps != count * mesh_worker.STEPS:
        raise SystemExit(f"{steps} steps are in the database, not {count * mesh_worker.STEPS}")
    return {
        "steps_per_second": steps / (last - begun),
        "worker_processors": sum(one["cpu_seconds"] for one in told) / took,
        "database_processors": database / took,
        "smallest_share": min(taken for _, taken in shares) / count,
    }


def wait(server: postgres.Server, count: int) -> None:
    """Returns soon after the last run has ended. Asked rarely, since the question costs the database something too."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if server.ask("SELECT count(*) FROM runs WHERE due_at IS NULL", database="bench")[0][0] >= count:
            return
        time.sleep(0.1)
    raise SystemExit(f"{count} runs did not end within {PATIENCE:g} s")


def main() -> int:
    """Prints a table and one line; writes the result beside this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    found: dict[str, dict[int, list[dict[str, float]]]] = {kind: {1: [], 2: []} for kind in RUNS}
    try:
        with postgres.server() as server:
            for number in range(1, asked.rounds + 1):
                for kind, by_workers in found.items():
                    for workers, rounds in by_workers.items():
                        one = measure(server, kind, workers)
                        rounds.append(one)
                        print(
                            f"  round {number}: {kind}, {workers}: {one['steps_per_second']:.0f} steps/s",
                            file=sys.stderr,
                        )
    except postgres.NoPostgres as missing:
        print(missing)
        return 1
    result: dict[str, Any] = {"kinds": {}}
    for kind, by_workers in found.items():
        medians = {
            workers: {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}
            for workers, rounds in by_workers.items()
        }  # fmt: skip
        times = round(medians[2]["steps_per_second"] / medians[1]["steps_per_second"], 2)
        result["kinds"][kind] = {
            "one": medians[1], "two": medians[2], "times": times,
            "rounds": {str(w): sorted(round(one["steps_per_second"]) for one in r) for w, r in by_workers.items()},
        }  # fmt: skip
        busy = medians[2]["worker_processors"] + medians[2]["database_processors"]
        print(
            f"{kind:10} one {medians[1]['steps_per_second']:6.0f} steps/s, two {medians[2]['steps_per_second']:6.0f}: {times}x; with "
            f"two the workers used {medians[2]['worker_processors']:.2f} processors, PostgreSQL {medians[2]['database_processors']:.2f} "
            f"({busy:.2f} of {os.cpu_count()})"
        )
    kinds = result["kinds"]
    result |= {
        "goal": GOAL, "met": {kind: one["times"] >= GOAL for kind, one in kinds.items()}, "concurrency": CONCURRENCY,
        "rounds": asked.rounds, "cores": os.cpu_count(), "python": platform.python_version(),
    }  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"two_workers: {kinds['waits']['times']}x one with steps that wait, {kinds['computes']['times']}x with steps "
        f"that compute, {kinds['nothing']['times']}x with empty ones, on {os.cpu_count()} cores "
        f"shared with PostgreSQL (goal {GOAL}x where there are cores)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
