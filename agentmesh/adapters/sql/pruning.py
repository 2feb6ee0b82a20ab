"""Pruning: finds families of runs that ended long ago, and removes them a little at a time.

A reader finds them; the writer gets chunks of a size that others hardly notice, children before their parents. What a chunk needs
alone goes with it: long values and definitions that no other run refers to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, delete, exists, select, tuple_

from agentmesh.adapters.sql.batch import Batch
from agentmesh.adapters.sql.tables import blobs, definitions, deliveries, journal, posts, runs

CHUNK = 2_000
"""Journal rows that one transaction removes, or one run's if those are more: some ten milliseconds."""
_PAGE = 200
_parent = runs.alias("parent_of")
_TOPS = (
    select(runs.c.id, runs.c.updated_at, runs.c.seq)
    .where(runs.c.due_at.is_(None), runs.c.updated_at < bindparam("before"))
    .where(tuple_(runs.c.updated_at, runs.c.id) > tuple_(bindparam("past"), bindparam("past_id")))
    .where(runs.c.parent.is_(None) | ~exists().where(_parent.c.id == runs.c.parent))
    .order_by(runs.c.updated_at, runs.c.id)
    .limit(_PAGE)
)
_TOPS_OF = _TOPS.where(runs.c.tenant == bindparam("of"))
_CHILDREN = select(runs.c.id, runs.c.seq, runs.c.due_at).where(runs.c.parent.in_(bindparam("ids", expanding=True)))
_OWN: Any = bindparam("ids", expanding=True)
_REFERRED = (runs.c.input_blob, runs.c.message_blob, runs.c.output_blob)


def find(engine: Engine, before: float, tenant: str | None, limit: int) -> list[list[str]]:
    """Runs to remove, in chunks; children stand before their parents. One family may go past `limit`."""
    chunks: list[list[str]] = []
    found = rows = 0
    with engine.begin() as connection:
        for family in _families(connection, before, tenant):
            for run_id, entries in family:
                if not chunks or rows >= CHUNK:
                    chunks.append([])
                    rows = 0
                chunks[-1].append(run_id)
                rows += entries
            found += len(family)
            if found >= limit:
                break
    return chunks


def _families(connection: Connection, before: float, tenant: str | None) -> Iterator[list[tuple[str, int]]]:
    """(id, rows) of a run that ended, after those of its descendants; only when all of them have ended."""
    past, past_id = float("-inf"), ""
    while True:
        given = {"before": before, "past": past, "past_id": past_id}
        query = _TOPS if tenant is None else _TOPS_OF
        tops = connection.execute(query, given if tenant is None else {**given, "of": tenant}).all()
        for top in tops:
            family = [(top.id, top.seq)]
            level = [top.id]
            while level:
                children = connection.execute(_CHILDREN, {"ids": level}).all()
                if any(child.due_at is not None for child in children):
                    break
                family += [(child.id, child.seq) for child in children]
                level = [child.id for child in children]
            else:
                yield family[::-1]
        if len(tops) < _PAGE:
            return
        past, past_id = tops[-1].updated_at, tops[-1].id


def remove(batch: Batch, run_ids: Sequence[str]) -> int:
    """Removes these runs, which have ended, and what only they needed; how many were still there."""
    batch.flush()
    execute = batch.connection.execute
    given: dict[str, Any] = {"ids": list(run_ids)}
    kept = execute(
        select(runs.c.definition, *_REFERRED).where(runs.c.id.in_(_OWN), runs.c.due_at.is_(None)), given
    ).all()
    long = execute(
        select(journal.c.payload_blob).where(journal.c.run_id.in_(_OWN), journal.c.payload_blob.is_not(None)), given
    ).scalars()
    digests = sorted({row.definition for row in kept})
    hashes = sorted({sha for row in kept for sha in row[1:] if sha is not None} | set(long))
    for table in (journal, posts, deliveries):
        execute(delete(table).where(table.c.run_id.in_(_OWN)), given)
    execute(delete(runs).where(runs.c.id.in_(_OWN)), given)
    for run_id in run_ids:
        batch.heads.pop(run_id, None)
    unneeded = ~exists().where(journal.c.payload_blob == blobs.c.sha256)
    for column in _REFERRED:
        unneeded &= ~exists().where(column == blobs.c.sha256)
    _remove_unneeded(batch, blobs, blobs.c.sha256, hashes, unneeded)
    unpinned = ~exists().where(runs.c.definition == definitions.c.digest)
    _remove_unneeded(batch, definitions, definitions.c.digest, digests, unpinned)
    batch.heads.definitions.difference_update(digests)
    return len(kept)


def _remove_unneeded(batch: Batch, table: Any, key: Any, values: list[str], unneeded: Any) -> None:
    for begin in range(0, len(values), 500):
        given = {"ids": values[begin : begin + 500]}
        if batch.shared:
            # Whoever is about to refer to one has a lock on it: wait for them here, and look afterwards.
            batch.connection.execute(select(key).where(key.in_(_OWN)).order_by(key).with_for_update(), given)
        batch.connection.execute(delete(table).where(key.in_(_OWN), unneeded), given)
