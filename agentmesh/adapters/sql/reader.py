"""Reader: the queries. Each method is one read transaction and blocks; the store calls them in threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, Integer, Select, bindparam, case, select

from agentmesh.adapters.json_text import decode
from agentmesh.adapters.sql import listing
from agentmesh.adapters.sql.documents import value
from agentmesh.adapters.sql.tables import blobs, definitions, journal, runs, state
from agentmesh.core.model import Usage
from agentmesh.core.run import Entry, Kind, Run, RunState, fold
from agentmesh.core.store import RunFilter, RunPage, page_cursor

_VALUES = {name: blobs.alias(f"{name}_of") for name in ("input", "message", "output")}


def _heads(*, most: ColumnElement[int] | None = None) -> Select[Any]:
    """Rows of runs with their long values; `most`: only of values of so many bytes."""
    columns = [
        column
        for name, blob in _VALUES.items()
        for column in (
            blob.c.packed.label(f"{name}_packed"),
            (blob.c.data if most is None else case((blob.c.size <= most, blob.c.data))).label(f"{name}_data"),
        )
    ]
    tables: FromClause = runs
    for name, blob in _VALUES.items():
        tables = tables.outerjoin(blob, runs.c[f"{name}_blob"] == blob.c.sha256)
    return select(runs, *columns).select_from(tables).where(runs.c.id.in_(bindparam("ids", expanding=True)))


_HEADS_BY_ID = _heads()
_SHORT_HEADS_BY_ID = _heads(most=bindparam("longest", type_=Integer))
_ENTRIES = (
    select(
        journal.c.run_id, journal.c.seq, journal.c.path, journal.c.attempt, journal.c.kind, journal.c.payload,
        journal.c.at, blobs.c.packed, blobs.c.data,
    )
    .select_from(journal.outerjoin(blobs, journal.c.payload_blob == blobs.c.sha256))
    .where(journal.c.run_id.in_(bindparam("ids", expanding=True)), journal.c.seq > bindparam("past"))
    .order_by(journal.c.run_id, journal.c.seq)
)  # fmt: skip
_NEXT_DUE = (
    select(runs.c.due_at)
    .where(runs.c.due_at.is_not(None), runs.c.lease_owner.is_(None))
    .order_by(runs.c.due_at)
    .limit(1)
)
_DEFINITION = select(definitions.c.document).where(definitions.c.digest == bindparam("digest"))
_VALUE = select(state.c.value).where(state.c.scope == bindparam("scope"), state.c.key == bindparam("key"))
_SCOPE = select(state.c.key, state.c.value).where(state.c.scope == bindparam("scope")).order_by(state.c.key)


class Reader:
    """Safe to call from several threads at once, as many as the engine's pool has connections."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def load(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """Runs folded from their journals, by id; without those that are not there."""
        found: dict[str, Run] = {}
        with self._engine.begin() as connection:
            for begin in range(0, len(run_ids), 500):
                ids = list(run_ids[begin : begin + 500])
                rows = connection.execute(_HEADS_BY_ID, {"ids": ids}).all()
                entries = self._entries(connection, ids, 0)
                found |= {row.id: fold(_begun(row), entries.get(row.id, ())) for row in rows}
        return found

    def head(self, run_id: str) -> Run | None:
        with self._engine.begin() as connection:
            row = connection.execute(_HEADS_BY_ID, {"ids": [run_id]}).one_or_none()
        return None if row is None else _listed(row)

    def next_due(self) -> float | None:
        with self._engine.begin() as connection:
            due_at: float | None = connection.scalar(_NEXT_DUE)
        return None if due_at is None or due_at == inf else due_at

    def entries(self, run_id: str, after: int) -> tuple[Entry, ...]:
        with self._engine.begin() as connection:
            return tuple(self._entries(connection, [run_id], after).get(run_id, ()))

    def list_runs(self, where: RunFilter) -> RunPage:
        with self._engine.begin() as connection:
            ids, total = listing.page(connection, where)
            given: dict[str, Any] = {"ids": ids[: where.limit]}
            if where.longest is None:
                found = connection.execute(_HEADS_BY_ID, given)
            else:
                found = connection.execute(_SHORT_HEADS_BY_ID, {**given, "longest": where.longest})
            rows = {row.id: row for row in found}
        page = tuple(_listed(rows[run_id], where.longest) for run_id in ids[: where.limit])
        omitted = {run_id: names for run_id in ids[: where.limit] if (names := _omitted(rows[run_id], where.longest))}
        # One more than asked for tells whether there is a next page.
        return RunPage(page, page_cursor(page[-1]) if page and len(ids) > len(page) else None, total, omitted)

    def definition(self, digest: str) -> Any:
        with self._engine.begin() as connection:
            text = connection.scalar(_DEFINITION, {"digest": digest})
        return None if text is None else decode(text)

    def get(self, scope: str, key: str) -> Any:
        with self._engine.begin() as connection:
            text = connection.scalar(_VALUE, {"scope": scope, "key": key})
        return None if text is None else decode(text)

    def scan(self, scope: str) -> dict[str, Any]:
        with self._engine.begin() as connection:
            rows = connection.execute(_SCOPE, {"scope": scope}).all()
        return {row.key: decode(row.value) for row in rows}

    def _entries(self, connection: Connection, run_ids: list[str], after: int) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for row in connection.execute(_ENTRIES, {"ids": run_ids, "past": after}):
            payload = value(row.payload, row.packed, row.data)
            entry = Entry(Kind(row.kind), row.path, row.attempt, payload, row.seq, row.at)
            found.setdefault(row.run_id, []).append(entry)
        return found


def _begun(row: Any) -> Run:
    """The run before its first entry."""
    return Run(
        id=row.id,
        workflow=row.workflow,
        definition=row.definition,
        input=value(row.input, row.input_packed, row.input_data),
        owner=row.owner,
        tenant=row.tenant,
        source=row.source,
        key=row.key,
        parent=row.parent,
        parent_path=row.parent_path,
        forked_from=row.forked_from,
        context_id=row.context_id,
        message=value(row.message, row.message_packed, row.message_data),
        created_at=row.created_at,
    )


def _listed(row: Any, longest: int | None = None) -> Run:
    """The run as its row says, without steps."""
    run = replace(
        _begun(row),
        state=RunState(row.state),
        output=value(row.output, row.output_packed, row.output_data),
        error=None if row.error is None else decode(row.error),
        updated_at=row.updated_at,
        usage=Usage(row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.model_seconds),
        cancel_requested=bool(row.cancel_requested),
        seq=row.seq,
    )
    return replace(run, **dict.fromkeys(_omitted(row, longest)))  # type: ignore[arg-type]


def _omitted(row: Any, longest: int | None) -> tuple[str, ...]:
    if longest is None:
        return ()
    names: list[str] = []
    for name in _VALUES:
        text = getattr(row, name)
        left = getattr(row, f"{name}_blob") is not None and getattr(row, f"{name}_data") is None
        if left or (text is not None and len(text.encode()) > longest):
            names.append(name)
    return tuple(names)
