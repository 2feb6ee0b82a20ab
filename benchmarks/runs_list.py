"""How long does `runs list` take on a journal of a million rows?

100,000 runs of 10 rows: 20 workflows, a run in four a child, every state, half of them with an input that stands in a blob. Each
question is asked for its first page of 50 and answered by `Store.list_runs`, total included. `claim` asks for runs that are due while
all of 100,000 are parked.

    python -m benchmarks.runs_list [--store postgresql://...] [--runs 100000]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import Engine

from agentmesh.adapters.sql import tables
from agentmesh.adapters.sql.store import SqlStore, open_store
from agentmesh.core.run import RunState
from agentmesh.core.store import RunFilter

RESULT = Path(__file__).parent / "results" / "runs_list.json"
GOAL_MS = 50.0
ROWS, REPEATS, CHUNK = 10, 15, 5_000
BEGUN = 1_700_000_000.0
STATES = ("completed",) * 16 + ("failed", "working", "canceled", "input_required")
QUESTIONS: dict[str, RunFilter] = {
    "first page": RunFilter(),
    "one workflow": RunFilter(workflow="workflow-7"),
    "failed": RunFilter(states=(RunState.FAILED,)),
    "not ended": RunFilter(states=(RunState.SUBMITTED, RunState.WORKING, RunState.INPUT_REQUIRED)),
    "in a state that none is in": RunFilter(states=(RunState.REJECTED,)),
    "failed of one workflow": RunFilter(workflow="workflow-7", states=(RunState.FAILED,)),
    "roots": RunFilter(roots=True),
    "roots of one workflow": RunFilter(roots=True, workflow="workflow-7"),
    "children of one run": RunFilter(parent="00000000-run"),
    "of one owner": RunFilter(owner="ann"),
    "of an owner without runs": RunFilter(owner="nobody"),
    "changed lately": RunFilter(updated_after=BEGUN + 99_900.0),
    "deep in the pages": RunFilter(cursor=f"{BEGUN + 500.0!r}_x"),
}


def _run(i: int, parked: bool, sha256: str) -> dict[str, Any]:
    state = "working" if parked else STATES[i * 7 % len(STATES)]
    ended = state in ("completed", "failed", "canceled")
    return {
        "id": f"{i:08}-run", "tenant": "local", "owner": "ann" if i % 500 == 3 else "local",
        "workflow": f"workflow-{i % 20}", "definition": "d", "source": "cli", "key": None,
        "parent": f"{i // 100 * 100:08}-run" if i % 4 == 1 else None, "parent_path": None, "context_id": None,
        "input": None if i % 2 else '{"n":1}', "input_blob": sha256 if i % 2 else None, "message": None, "message_blob": None,
        "output": '{"cause":"import"}', "output_blob": None, "error": None, "state": state, "seq": ROWS,
        "created_at": BEGUN + i, "updated_at": BEGUN + i + 5, "prompt_tokens": 1, "completion_tokens": 1,
        "cached_tokens": 0, "model_seconds": 0.1, "cancel_requested": False, "epoch": 1, "lease_owner": None,
        "due_at": None if ended else float("inf"), "mail": 0, "forked_from": None,
    }  # fmt: skip


def _rows(begin: int, end: int) -> Iterator[dict[str, Any]]:
    for i in range(begin, end):
        for seq in range(1, ROWS + 1):
            yield {
                "run_id": f"{i:08}-run", "seq": seq, "path": f"step{seq}", "attempt": 1, "kind": "step.completed",
                "payload": '{"verb":"set","output":{"cause":"import","line":12}}', "payload_blob": None, "at": BEGUN + i,
            }  # fmt: skip


def _fill(engine: Engine, count: int, *, parked: bool) -> None:
    """Writes the rows as the store would, without its time."""
    log = json.dumps({"log": "E   assert 1 == 2\n" * 100}).encode()
    sha256 = hashlib.sha256(log).hexdigest()
    with engine.begin() as connection:
        connection.execute(tables.blobs.insert(), {"sha256": sha256, "size": len(log), "packed": False, "data": log})
    for begin in range(0, count, CHUNK):
        end = min(begin + CHUNK, count)
        with engine.begin() as connection:
            connection.execute(tables.runs.insert(), [_run(i, parked, sha256) for i in range(begin, end)])
            if not parked:
                connection.execute(tables.journal.insert(), list(_rows(begin, end)))


async def _median(store: SqlStore, where: RunFilter) -> tuple[float, int]:
    times: list[float] = []
    total = 0
    for _ in range(REPEATS):
        begin = time.perf_counter()
        total = (await store.list_runs(where)).total
        times.append(time.perf_counter() - begin)
    return round(sorted(times)[REPEATS // 2] * 1000, 2), total


async def measure(url: str, folder: Path, count: int) -> dict[str, Any]:
    """Milliseconds of each question, the median of REPEATS; and of a claim with nothing due."""
    async with open_store(url, folder) as store:
        await anyio.to_thread.run_sync(lambda: _fill(store._engines[0], count, parked=False))
        asked = {name: await _median(store, where) for name, where in QUESTIONS.items()}
    return {name: {"ms": ms, "total": total} for name, (ms, total) in asked.items()}


async def parked(url: str, folder: Path, count: int) -> float:
    """Milliseconds of a claim while so many runs are parked and none is due."""
    async with open_store(url, folder) as store:
        await anyio.to_thread.run_sync(lambda: _fill(store._engines[0], count, parked=True))
        times: list[float] = []
        for _ in range(200):
            begin = time.perf_counter()
            if await store.claim("bench", limit=16):
                raise SystemExit("something was due")
            times.append(time.perf_counter() - begin)
    return round(sorted(times)[100] * 1000, 3)


def main() -> None:
    """Prints a line for each question and one at the end, and writes the result beside this script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--store", default="sqlite:///mesh.db", help="an empty PostgreSQL database, or a new SQLite file"
    )
    parser.add_argument("--runs", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = anyio.run(measure, given.store, Path(folder), given.runs)
    for name, answer in asked.items():
        print(f"  {name}: {answer['ms']} ms, total {answer['total']}")
    result: dict[str, Any] = {"rows": given.runs * ROWS, "goal_ms": GOAL_MS, "page": 50, "questions": asked}
    if given.store.startswith("sqlite"):
        with tempfile.TemporaryDirectory() as folder:
            result["claim_ms_with_100000_parked"] = anyio.run(parked, given.store, Path(folder), 100_000)
        print(f"  claim with 100,000 parked: {result['claim_ms_with_100000_parked']} ms")
    worst = max(answer["ms"] for answer in asked.values())
    result["worst_ms"] = worst
    if given.store.startswith("sqlite"):
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"runs_list: first page {asked['first page']['ms']} ms, worst {worst} ms of {len(asked)} questions "
        f"on {result['rows']} rows (goal {GOAL_MS:.0f})"
    )


if __name__ == "__main__":
    main()
