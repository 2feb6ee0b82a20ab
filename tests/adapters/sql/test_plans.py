"""What must not grow with the journal: each question is answered by an index, and removal by little transactions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from agentmesh.adapters.sql import pruning
from agentmesh.adapters.sql.store import SqlStore, open_store
from agentmesh.core.run import Entry, Kind, Run, RunState
from agentmesh.core.store import RunFilter

pytestmark = pytest.mark.anyio
URL = "sqlite:///mesh.db"


def _plans(store: SqlStore, engine: int) -> list[tuple[str, str]]:
    """Collects what SQLite means to do for each statement that looks at runs: (statement, plan)."""
    plans: list[tuple[str, str]] = []

    @event.listens_for(store._engines[engine], "before_cursor_execute")
    def _explain(_c: Any, cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
        if ("runs" in statement or "posts" in statement) and statement.lstrip().startswith(
            ("SELECT", "WITH", "UPDATE")
        ):
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            plans.append((statement, " | ".join(str(row[3]) for row in rows)))

    return plans


@pytest.mark.parametrize(
    ("where", "index"),
    [
        (RunFilter(), "runs_by_time"),
        (RunFilter(workflow="w"), "runs_by_workflow"),
        (RunFilter(states=(RunState.FAILED,)), "runs_by_state"),
        (RunFilter(states=(RunState.FAILED, RunState.WORKING)), "runs_by_state"),
        (RunFilter(owner="ann"), "runs_by_owner"),
        (RunFilter(parent="r"), "runs_by_parent"),
        (RunFilter(context_id="c"), "runs_by_context"),
        (RunFilter(cursor="5.0_x"), "runs_by_time"),
    ],
)
async def test_lists_walk_an_index(where: RunFilter, index: str, tmp_path: Path) -> None:
    """In its order, so that nothing is sorted and nothing is read past the page."""
    async with open_store(URL, tmp_path) as store:
        plans = _plans(store, 1)
        await store.list_runs(where)
        plan = plans[0][1]
        assert f"INDEX {index} " in plan
        assert "SCAN runs" not in plan
        several = len(where.states) > 1  # a few sorted lists are merged
        assert several or "TEMP B-TREE" not in plan.replace("SCAN hits | USE TEMP B-TREE FOR ORDER BY", "")


async def test_a_claim_looks_at_what_is_due(tmp_path: Path) -> None:
    """However many runs are parked or have ended: the index of due times is walked from its beginning."""
    async with open_store(URL, tmp_path) as store:
        await store.put("s", "k", 1)  # the first transaction also looks whether the clock was set back
        writing, reading = _plans(store, 0), _plans(store, 1)
        await store.claim("w", limit=16)
        await store.claim("w", limit=16, at_once={"w": 2})
        await store.next_due()
        assert len(writing) == 2
        for _, plan in (*writing, *reading):
            assert "INDEX runs_due " in plan
            assert "TEMP B-TREE" not in plan


async def test_nothing_the_writer_does_reads_a_whole_table(tmp_path: Path) -> None:
    """Starts with keys, posts, appends, parking, cancellation: each finds its rows by a key."""
    async with open_store(URL, tmp_path) as store:
        plans = _plans(store, 0)
        for run_id in ("a", "b"):
            await store.start_run(Run(run_id, "w", "d", {}, key=run_id, parent="a"), {"name": "w"})
        for claim in await store.claim("w", limit=2, only=["a", "b"]):
            await store.post(claim.run.id, Entry(Kind.RUN_SIGNALED, payload={}), key="once")
            await store.heartbeat("w", {claim.run.id: claim.epoch})
            await store.park(claim.run.id, claim.epoch, [], wake_at=None, mail=1)
            await store.request_cancel(claim.run.id, "ann")
        assert plans
        assert not [plan for _, plan in plans if "SCAN runs" in plan or "SCAN posts" in plan or "SCAN journal" in plan]


async def test_pruning_takes_little_at_a_time(tmp_path: Path) -> None:
    """Thousands of rows go in several transactions, so that others write in between; what is to go is found by an index."""
    rows = [Entry(Kind.STEP_COMPLETED, f"s{i}", 1, {}, at=50.0) for i in range(500)]
    async with open_store(URL, tmp_path, clock=lambda: 100.0) as store:
        for i in range(20):
            await store.start_run(Run(f"r{i:02}", "w", "d", {}), entries=[*rows, Entry(Kind.RUN_COMPLETED, at=60.0)])
        plans = _plans(store, 1)
        commits: list[object] = []
        event.listen(store._engines[0], "commit", commits.append)
        assert await store.prune(1_000.0) == 20
        assert len(commits) >= 20 * 502 / (pruning.CHUNK + 502)
        assert "INDEX runs_ended " in plans[0][1]
        assert (await store.list_runs(RunFilter())).total == 0
