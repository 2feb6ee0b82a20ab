"""Delivering: the rows of push deliveries. A reader finds what is due; the writer takes and keeps it, a few rows at a time.

When nothing is due the writer, which every event goes through, is not asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Engine, Select, bindparam, delete, func, select, tuple_, update

from agentmesh.adapters.sql.batch import Batch
from agentmesh.adapters.sql.tables import deliveries, runs
from agentmesh.core.push import Delivery, succeeding
from agentmesh.errors import Conflict, NotFound

PAGE = 200
_OWN = (deliveries.c.run_id == bindparam("of")) & (deliveries.c.id == bindparam("named"))
_HELD = (
    deliveries.c.lease_owner.is_not(None)
    & (deliveries.c.epoch == bindparam("under"))
    & deliveries.c.due_at.is_not(None)
)
_OF_RUN = (
    select(deliveries).where(deliveries.c.run_id == bindparam("of")).order_by(deliveries.c.created_at, deliveries.c.id)
)
_DUE: Select[Any] = (
    select(deliveries.c.run_id, deliveries.c.id, deliveries.c.host)
    .join(runs, runs.c.id == deliveries.c.run_id)
    .where(deliveries.c.due_at <= bindparam("now"), runs.c.seq > deliveries.c.cursor)
    .where(deliveries.c.host.not_in(bindparam("full", expanding=True)))
    .order_by(deliveries.c.due_at, deliveries.c.run_id, deliveries.c.id)
    .limit(PAGE)
)
_DUE_OF = _DUE.where(deliveries.c.run_id.in_(bindparam("ids", expanding=True)))
_STILL_DUE = (
    select(deliveries)
    .where(tuple_(deliveries.c.run_id, deliveries.c.id).in_(bindparam("pairs", expanding=True)))
    .where(deliveries.c.due_at <= bindparam("now"))
    .order_by(deliveries.c.run_id, deliveries.c.id)
)
_TAKE = (
    update(deliveries)
    .where(_OWN)
    .values(epoch=bindparam("next"), lease_owner=bindparam("worker"), due_at=bindparam("until"))
)
_KEEP = (
    update(deliveries)
    .where(_OWN, _HELD)
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "cursor", "part", "attempts", "error", "failing_since", "dead_at", "ended", "due_at",
            )
        }
        | {"lease_owner": bindparam("worker")}
    )
)  # fmt: skip
_REVIVE = (
    update(deliveries)
    .where(_OWN, deliveries.c.ended.is_(False), deliveries.c.lease_owner.is_(None))
    .values(attempts=0, failing_since=None, dead_at=None, due_at=bindparam("now"))
)


def add(batch: Batch, new: Delivery, most: int) -> None:
    """NotFound, Conflict; see `Store.add_delivery`."""
    batch.flush()
    execute = batch.connection.execute
    locked = select(runs.c.id).where(runs.c.id == bindparam("of"))
    if batch.shared:
        # So that two servers that add at the same moment count each other's, and nobody prunes the run meanwhile.
        locked = locked.with_for_update()
    if execute(locked, {"of": new.run_id}).first() is None:
        raise NotFound(f"There is no run {new.run_id}.")
    known = {row.id: read(row) for row in execute(_OF_RUN, {"of": new.run_id})}
    old = known.pop(new.id, None)
    if len(known) >= most:
        raise Conflict(f"Run {new.run_id} has {most} push configurations already; delete one.")
    new = replace(
        new, part=0, attempts=0, error="", failing_since=None, dead_at=None, ended=False, created_at=batch.now, epoch=0
    )
    if old is not None:
        new = succeeding(old, new)
        execute(delete(deliveries).where(_OWN), {"of": new.run_id, "named": new.id})
    execute(
        deliveries.insert(), {name: getattr(new, name) for name in Delivery.__slots__} | {"due_at": batch.now}
    )  # fmt: skip


def remove(batch: Batch, run_id: str, delivery_id: str) -> None:
    batch.connection.execute(delete(deliveries).where(_OWN), {"of": run_id, "named": delivery_id})


def of_run(engine: Engine, run_id: str) -> list[Delivery]:
    with engine.begin() as connection:
        return [read(row) for row in connection.execute(_OF_RUN, {"of": run_id})]


def due(
    engine: Engine, now: float, limit: int, per_host: int, busy: Mapping[str, int], only: Sequence[str] | None
) -> list[tuple[str, str]]:
    """(run, id) of what may be taken now, the longest due first. `now` by the database's clock."""
    held = Counter(busy)
    chosen: dict[tuple[str, str], None] = {}
    given: dict[str, Any] = {"now": now} if only is None else {"now": now, "ids": list(only)}
    with engine.begin() as connection:
        while True:
            full = [host for host, count in held.items() if count >= per_host]
            rows = connection.execute(_DUE if only is None else _DUE_OF, {**given, "full": full}).all()
            found = len(chosen)
            for row in rows:
                if len(chosen) < limit and held[row.host] < per_host and (row.run_id, row.id) not in chosen:
                    held[row.host] += 1
                    chosen[row.run_id, row.id] = None
            # A page may be of one host that is full by now: what stands behind it is found without it.
            if len(rows) < PAGE or len(chosen) >= limit or len(chosen) == found:
                return list(chosen)


def take(batch: Batch, worker: str, lease: float, pairs: Sequence[tuple[str, str]]) -> list[Delivery]:
    """Those of these that are due still and nobody else takes at this moment, in the order given."""
    query = _STILL_DUE.with_for_update(skip_locked=True) if batch.shared else _STILL_DUE
    rows = batch.connection.execute(query, {"pairs": list(pairs), "now": batch.now}).all()
    found = {(row.run_id, row.id): replace(read(row), epoch=row.epoch + 1) for row in rows}
    until = batch.now + lease
    if found:
        batch.connection.execute(
            _TAKE,
            [
                {"of": run_id, "named": name, "next": one.epoch, "worker": worker, "until": until}
                for (run_id, name), one in found.items()
            ],
        )
    return [found[pair] for pair in pairs if pair in found]


def keep(batch: Batch, one: Delivery, after: float | None, worker: str | None) -> bool:
    """`worker`: who holds it further; None: it is given back."""
    values = {
        f"new_{name}": getattr(one, name)
        for name in ("cursor", "part", "attempts", "error", "failing_since", "dead_at")
    }
    done = batch.connection.execute(
        _KEEP,
        {
            **values, "new_ended": after is None and one.dead_at is None,
            "new_due_at": None if after is None else batch.now + after,
            "worker": worker, "of": one.run_id, "named": one.id, "under": one.epoch,
        },
    )  # fmt: skip
    return bool(done.rowcount)


def find(engine: Engine, tenant: str | None, limit: int, *, dead: bool) -> list[Delivery]:
    since = deliveries.c.failing_since
    query = select(deliveries).where(since.is_not(None))
    query = query.where(deliveries.c.dead_at.is_not(None) if dead else deliveries.c.dead_at.is_(None))
    if tenant is not None:
        query = query.where(deliveries.c.tenant == tenant)
    latest = func.coalesce(deliveries.c.dead_at, since)
    with engine.begin() as connection:
        rows = connection.execute(
            query.order_by(latest.desc(), deliveries.c.run_id.desc(), deliveries.c.id.desc()).limit(limit)
        )
        return [read(row) for row in rows]


def revive(batch: Batch, run_id: str, delivery_id: str) -> bool:
    given = {"of": run_id, "named": delivery_id}
    batch.connection.execute(_REVIVE, {**given, "now": batch.now})
    return batch.connection.execute(select(deliveries.c.id).where(_OWN), given).first() is not None


def read(row: Any) -> Delivery:
    return Delivery(**{name: getattr(row, name) for name in Delivery.__slots__})
