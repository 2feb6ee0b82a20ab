"""How many durable steps a second does the engine do?

200 calls of a tool that is a workflow of 10 steps, 16 at once, as MCP's tools/call makes them, on SQLite (WAL, synchronous=FULL)
with the group-committing writer. A step is an installed function that only reads (`effect: read`): three rows of the journal each,
as for any tool or model step. The rows are counted in the database after it was closed and opened again, so that only what is
durable counts.

Beside it: the same by `runs.start` and `runs.wait`, as the other edges do it; `set` steps (one row each); announced writes (one waiting
commit each). `workflows.py` measures the engine beside its peers.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
import time
from pathlib import Path, PurePath
from typing import Any

import anyio
import uvloop

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.adapters.sql.store import open_store
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import Principal
from agentmesh.core.run import RunState
from agentmesh.core.tool import ToolCall
from agentmesh.core.workflow import Workflow
from agentmesh.engine import build_engine

STEPS, RUNS, AT_ONCE, ROUNDS = 10, 200, 16, 3
GOAL = 5000
RESULT = Path(__file__).parent / "results" / "engine_steps.json"
KINDS: dict[str, dict[str, Any]] = {
    "read": {"python": "bench:step", "with": {"n": "${{ input.n }}"}, "effect": "read"},
    "set": {"set": {"n": "${{ input.n }}"}},
    "write": {"python": "bench:step", "with": {"n": "${{ input.n }}"}},
}


async def step(n: int) -> dict[str, int]:
    """The work of a step: none, so that what is measured is the engine."""
    return {"n": n}


def mesh(verb: dict[str, Any]) -> Mesh:
    """A mesh of one workflow of STEPS such steps."""
    steps = [{"id": f"s{i}", **verb} for i in range(STEPS)]
    workflow = Workflow.model_validate(
        {"name": "bench", "on": {"mcp": {}}, "input": {"type": "object"}, "steps": steps}
    )
    return assemble(PurePath(), MeshFile(name="bench"), workflows=[workflow])


async def measure(folder: Path, kind: str, *, wait: bool = False) -> float:
    """Durable steps a second.

    `wait`: by `runs.start` and `runs.wait` instead of by a tool's call.
    """
    principal = Principal()
    async with open_store(f"sqlite:///{kind}.db", folder) as store:
        engine = build_engine(
            mesh(KINDS[kind]), store, ScriptedModel([]), functions={"bench:step": step}.__getitem__, concurrency=AT_ONCE
        )
        async with anyio.create_task_group() as group:
            await group.start(engine.worker.run)
            left = iter(range(RUNS))

            async def client() -> None:
                for n in left:
                    if wait:
                        run = await engine.runs.start(principal, "bench", {"n": n})
                        ended = await engine.runs.wait(principal, run.id)
                        if ended.state is not RunState.COMPLETED:
                            raise SystemExit(f"a run did not complete: {ended.error}")
                        continue
                    result = await engine.tools.call(principal, ToolCall("bench", {"n": n}))
                    if result.is_error or result.structured != {"n": n}:
                        raise SystemExit(f"a run did not complete: {result.text}")

            begun = time.perf_counter()
            async with anyio.create_task_group() as clients:
                for _ in range(AT_ONCE):
                    clients.start_soon(client)
            took = time.perf_counter() - begun
            group.cancel_scope.cancel()
    with sqlite3.connect(folder / f"{kind}.db") as database:
        (rows,) = database.execute("SELECT count(*) FROM journal WHERE kind = 'step.completed'").fetchone()
        (synchronous,) = database.execute("PRAGMA journal_mode").fetchone()
    if rows != STEPS * RUNS or synchronous != "wal":
        raise SystemExit(f"{rows} steps are in the database (journal_mode {synchronous}), not {STEPS * RUNS}")
    return float(rows / took)


def main() -> None:
    """Prints one line and writes the result beside this script."""
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                rate = uvloop.run(measure(Path(folder), kind))
            print(f"  {kind}: {rate:.0f} steps/s", file=sys.stderr)
            best[kind] = max(best.get(kind, 0.0), rate)
        with tempfile.TemporaryDirectory() as folder:
            rate = uvloop.run(measure(Path(folder), "read", wait=True))
        print(f"  read, by runs.wait: {rate:.0f} steps/s", file=sys.stderr)
        best["read_by_wait"] = max(best.get("read_by_wait", 0.0), rate)
    result = {
        "steps_per_second": {kind: round(rate) for kind, rate in best.items()},
        "goal": GOAL, "met_by_call": best["read"] >= GOAL, "met_by_wait": best["read_by_wait"] >= GOAL,
        "steps": STEPS, "runs": RUNS, "at_once": AT_ONCE, "rounds": ROUNDS,
        "store": "sqlite, WAL, synchronous=FULL",
    }  # fmt: skip
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"engine_steps: {best['read']:.0f} durable steps/s by tools.call (goal {GOAL}), "
        f"{best['read_by_wait']:.0f} by runs.wait, set {best['set']:.0f}, "
        f"announced writes {best['write']:.0f}; {RUNS} runs of {STEPS} steps, {AT_ONCE} at once, best of {ROUNDS}"
    )


if __name__ == "__main__":
    main()
