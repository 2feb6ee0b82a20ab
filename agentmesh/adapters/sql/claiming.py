"""Claiming: which runs a worker takes, and in what order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import bindparam, func, select, text

from agentmesh.adapters.sql import heads
from agentmesh.adapters.sql.batch import Batch
from agentmesh.adapters.sql.tables import runs

_DUE = (
    select(*heads.COLUMNS, runs.c.workflow)
    .where(runs.c.due_at <= bindparam("now"))
    .order_by(runs.c.due_at, runs.c.id)
    .limit(bindparam("most"))
)
_OTHERS = _DUE.where(runs.c.workflow.not_in(bindparam("full", expanding=True)))
_HELD = (
    select(runs.c.workflow, func.count())
    .where(runs.c.lease_owner.is_not(None), runs.c.due_at > bindparam("now"))
    .where(runs.c.workflow.in_(bindparam("bounded", expanding=True)))
    .group_by(runs.c.workflow)
)
_ANY_DUE = select(runs.c.id).where(runs.c.due_at <= bindparam("now")).limit(1)
_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtext('agentmesh claims'))")


@dataclass(slots=True)
class Taken:
    """What the Claim says of a run."""

    epoch: int
    mail: int
    seq: int
    """Of its RUN_WORKING entry."""
    at: float


def claim(
    batch: Batch, worker: str, payload: str, *, limit: int, lease: float, only: Sequence[str] | None,
    at_once: Mapping[str, int] | None,
) -> dict[str, Taken]:  # fmt: skip
    """The runs taken, the longest due first."""
    taken: dict[str, Taken] = {}
    if only is not None:
        for head in _named(batch, only)[:limit]:
            batch.take(head, worker, payload, lease)
            taken[head.id] = _taken(batch, head)
        return taken
    batch.flush()
    free: Counter[str] = Counter(at_once or {})
    if free:
        if batch.connection.scalar(_ANY_DUE, {"now": batch.now}) is None:
            return taken
        if batch.shared:
            # Two servers that count at the same moment would both find the place free.
            batch.connection.execute(_ONE_AT_A_TIME)
        for workflow, held in batch.connection.execute(_HELD, {"now": batch.now, "bounded": list(free)}):
            free[workflow] -= held
    while len(taken) < limit:
        full = [workflow for workflow, places in free.items() if places <= 0]
        query = _OTHERS if full else _DUE
        passed_over = False
        for head, workflow in _candidates(batch, query, limit - len(taken), full=full):
            if workflow in free and free[workflow] <= 0:
                passed_over = True
                continue
            if workflow in free:
                free[workflow] -= 1
            batch.take(head, worker, payload, lease)
            taken[head.id] = _taken(batch, head)
        if not passed_over:
            break
        batch.flush()  # so that what was taken is not found again
    return taken


def _taken(batch: Batch, head: heads.Head) -> Taken:
    return Taken(head.epoch, head.mail, head.seq, batch.now)


def _named(batch: Batch, run_ids: Sequence[str]) -> list[heads.Head]:
    """Those of these runs that are due, in order."""
    batch.load(run_ids)
    found = [batch.heads[run_id] for run_id in dict.fromkeys(run_ids) if run_id in batch.heads]
    due = [(head.due_at, head.id, head) for head in found if head.due_at is not None and head.due_at <= batch.now]
    return [head for _, _, head in sorted(due, key=itemgetter(0, 1))]


def _candidates(batch: Batch, query: Any, most: int, **given: Any) -> list[tuple[heads.Head, str]]:
    if batch.shared:
        query = query.with_for_update(skip_locked=True)
    used = {key: value for key, value in given.items() if value}
    rows = batch.connection.execute(query, {"now": batch.now, "most": most, **used}).all()
    return [(batch.heads.get(row.id) or batch.heads.keep(heads.read(row)), row.workflow) for row in rows]
