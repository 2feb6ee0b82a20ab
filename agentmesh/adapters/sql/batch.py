"""Batch: what the Store's operations mean, inside one transaction of the writer.

An operation checks first and raises before it changes anything, so that one caller's LeaseLost leaves the others of the
same transaction alone. What it changes goes to the heads in memory and to lists; `flush` writes the lists with one
statement per table. On SQLite this process is the only writer and heads are kept from batch to batch; elsewhere they
are read, and locked, in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Executable, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from agentmesh.adapters.sql.documents import Blob, Document
from agentmesh.adapters.sql.tables import CLAIMABLE, blobs, definitions, journal, runs, state
from agentmesh.core.model import Usage
from agentmesh.core.run import STATE_AFTER, Entry, Kind, RunState, usage_from_json
from agentmesh.core.store import head_state
from agentmesh.errors import LeaseLost, NotFound, StoreError

KEPT_HEADS = 20_000


@dataclass(slots=True)
class Head:
    """The part of a run's row that changes."""

    id: str
    state: RunState
    seq: int
    updated_at: float
    usage: Usage
    cancel_requested: bool
    epoch: int
    worker: str | None
    lease_until: float


@dataclass(frozen=True, slots=True)
class Ending:
    """Columns that the last entry of a run fills."""

    output: Document | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """A run on its way in: its row without what changes, and its definition when the database may not have it."""

    row: Mapping[str, Any]
    blobs: Sequence[Blob]
    definition: str | None


@dataclass(frozen=True, slots=True)
class Append:
    """Entries on their way in, already JSON."""

    run_id: str
    epoch: int
    entries: Sequence[Entry]
    documents: Sequence[Document]
    stated: RunState | None
    ending: Ending | None
    put: Sequence[tuple[str, str, str]]


_COLUMNS = (
    runs.c.id, runs.c.state, runs.c.seq, runs.c.updated_at, runs.c.prompt_tokens, runs.c.completion_tokens,
    runs.c.cached_tokens, runs.c.model_seconds, runs.c.cancel_requested, runs.c.epoch, runs.c.lease_owner,
    runs.c.lease_until,
)  # fmt: skip
_BY_ID = select(*_COLUMNS).where(runs.c.id.in_(bindparam("ids", expanding=True))).order_by(runs.c.id)
_BY_KEY = select(runs.c.id).where(runs.c.tenant == bindparam("of"), runs.c.key == bindparam("named"))
_CLAIM = (
    select(*_COLUMNS)
    .where(CLAIMABLE, runs.c.lease_until <= bindparam("now"))
    .where(runs.c.wake_at.is_(None) | (runs.c.wake_at <= bindparam("now")))
    .order_by(runs.c.created_at, runs.c.id)
    .limit(bindparam("most"))
)
_CLAIM_ONLY = _CLAIM.where(runs.c.id.in_(bindparam("ids", expanding=True)))
_GROWING = (
    "seq", "updated_at", "prompt_tokens", "completion_tokens", "cached_tokens", "model_seconds", "cancel_requested",
)  # fmt: skip
_MOVING = (*_GROWING, "state", "epoch", "lease_owner", "lease_until")
_ENDING = (*_MOVING, "output", "output_blob", "error")


def _update(columns: Sequence[str]) -> Executable:
    return runs.update().where(runs.c.id == bindparam("run")).values({name: bindparam(name) for name in columns})


class _Many:
    """A statement for many rows, compiled once.

    SQLAlchemy's own treatment of each row's parameters takes longer than SQLite takes to write the row.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, Callable[[Mapping[str, Any]], Any]]] = {}

    def __call__(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        known = self._compiled.get(connection.dialect.name)
        if known is None:
            compiled: Any = self._statement.compile(dialect=connection.dialect)  # type: ignore[attr-defined]
            order = compiled.positiontup  # None: the driver takes parameters by name
            known = str(compiled), dict if order is None else itemgetter(*order)
            self._compiled[connection.dialect.name] = known
        text, arrange = known
        connection.exec_driver_sql(text, [arrange(row) for row in rows])


_START = _Many(runs.insert())
_UNFILLED = dict.fromkeys(runs.c.keys())
_JOURNAL = _Many(journal.insert())
_GROW = _Many(_update(_GROWING))
"""Names no indexed column: SQLite rewrites an index whose column is named, and most appends change none."""
_MOVE = _Many(_update(_MOVING))
_END = _Many(_update(_ENDING))


class Heads(dict[str, Head]):
    """Heads kept between batches. `trim` them only there: within a batch they know more than the database."""

    def keep(self, head: Head) -> Head:
        self[head.id] = head
        return head

    def trim(self) -> None:
        if len(self) > KEPT_HEADS:
            self.clear()


class Batch:
    """One transaction. `changed` are the runs whose watchers are told after the commit."""

    def __init__(
        self, connection: Connection, heads: Heads, now: float, broken: dict[str, tuple[int, StoreError]]
    ) -> None:
        self._connection = connection
        self._heads = heads
        self.now = now
        self._broken = broken
        """Runs with an append that failed, with the epoch it failed under."""
        self._shared = connection.dialect.name != "sqlite"
        insert = postgresql.insert if self._shared else sqlite.insert
        self._new_blob = insert(blobs).on_conflict_do_nothing()
        self._new_definition = insert(definitions).on_conflict_do_nothing()
        upsert = insert(state)
        self._new_value = upsert.on_conflict_do_update(
            index_elements=["scope", "key"], set_={"value": upsert.excluded.value}
        )
        self.changed: dict[str, None] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._blobs: dict[str, Blob] = {}
        self._definitions: dict[str, str] = {}
        self._runs: list[Mapping[str, Any]] = []
        self._grown: dict[str, Head] = {}
        self._moved: dict[str, Head] = {}
        self._ended: dict[str, Ending] = {}
        self._entries: list[dict[str, Any]] = []
        self._values: dict[tuple[str, str], str] = {}

    def load(self, run_ids: Iterable[str]) -> None:
        """Reads the heads of these runs in one statement, where they are not known."""
        missing = sorted({run_id for run_id in run_ids if run_id not in self._heads})
        for begin in range(0, len(missing), 500):
            query = _BY_ID.with_for_update() if self._shared else _BY_ID
            for row in self._connection.execute(query, {"ids": missing[begin : begin + 500]}):
                self._heads.keep(_head(row))

    def start(self, new: Start) -> str | None:
        """Adds a run; answers the id of the run that has its key already."""
        tenant, key, run_id = new.row["tenant"], new.row["key"], new.row["id"]
        if key is not None:
            earlier = self._keys.get((tenant, key))
            if earlier is None:
                earlier = self._connection.scalar(_BY_KEY, {"of": tenant, "named": key})
            if earlier is not None:
                return earlier
            self._keys[tenant, key] = run_id
        at: float = new.row["created_at"]
        head = Head(run_id, RunState.SUBMITTED, 0, at, Usage(), False, 0, None, 0.0)
        if new.definition is not None:
            self._definitions[new.row["definition"]] = new.definition
        self._blobs.update({blob.sha256: blob for blob in new.blobs})
        self._add(head, Entry(Kind.RUN_SUBMITTED), Document("{}"), at)
        self._runs.append({**_UNFILLED, **new.row, **_moving(head)})
        self._grown.pop(run_id, None)
        self._heads.keep(head)
        self.changed[run_id] = None
        return None

    def append(self, new: Append) -> None:
        failed = self._broken.get(new.run_id)
        if failed is not None and failed[0] == new.epoch:
            raise failed[1]
        head = self._head(new.run_id)
        if head is None or head.worker is None or head.epoch != new.epoch:
            raise LeaseLost(f"Run {new.run_id} is not held under epoch {new.epoch} any more; stop working on it.")
        head_state(head.state, new.entries, new.stated)
        for entry, document in zip(new.entries, new.documents, strict=True):
            self._add(head, entry, document, self.now)
        if new.ending is not None:
            self._ended[head.id] = new.ending
            if new.ending.output is not None and new.ending.output.blob is not None:
                self._blobs[new.ending.output.blob.sha256] = new.ending.output.blob
        for scope, key, text in new.put:
            self._values[scope, key] = text
        self.changed[head.id] = None

    def request_cancel(self, run_id: str, payload: str) -> None:
        head = self._head(run_id)
        if head is None:
            raise NotFound(f"There is no run {run_id}.")
        if head.state.terminal or head.cancel_requested:
            return
        self._add(head, Entry(Kind.RUN_CANCEL_REQUESTED), Document(payload), self.now)
        if head.epoch == 0:
            self._add(head, Entry(Kind.RUN_CANCELED), Document(payload), self.now)
        self.changed[run_id] = None

    def claim(self, worker: str, payload: str, limit: int, lease: float, only: Sequence[str] | None) -> dict[str, int]:
        """The epochs of the runs taken, oldest first."""
        self.flush()
        query = _CLAIM if only is None else _CLAIM_ONLY
        if self._shared:
            query = query.with_for_update(skip_locked=True)
        given: dict[str, Any] = {"now": self.now, "most": limit}
        if only is not None:
            given["ids"] = list(only)
        taken: dict[str, int] = {}
        for row in self._connection.execute(query, given).all():
            head = self._heads.get(row.id) or self._heads.keep(_head(row))
            head.epoch += 1
            head.worker = worker
            head.lease_until = self.now + lease
            self._broken.pop(head.id, None)
            self._add(head, Entry(Kind.RUN_WORKING), Document(payload), self.now)
            self._moved[head.id] = head
            self.changed[head.id] = None
            taken[head.id] = head.epoch
        return taken

    def heartbeat(self, worker: str, epochs: Mapping[str, int], lease: float) -> list[str]:
        self.load(epochs)
        lost: list[str] = []
        for run_id, epoch in epochs.items():
            head = self._heads.get(run_id)
            failed = self._broken.get(run_id)
            if head is None or head.worker != worker or head.epoch != epoch or (failed and failed[0] == epoch):
                # A run that takes no more entries under this epoch is left to lapse, and goes on with the next claim.
                lost.append(run_id)
            else:
                head.lease_until = self.now + lease
                self._moved[run_id] = head
        return lost

    def release(self, run_id: str, epoch: int) -> None:
        head = self._head(run_id)
        if head is not None and head.worker is not None and head.epoch == epoch:
            head.worker, head.lease_until = None, 0.0
            self._moved[run_id] = head
            self.changed[run_id] = None

    def put(self, scope: str, key: str, text: str) -> None:
        self._values[scope, key] = text

    def flush(self) -> None:
        """Writes what was collected; what is referred to goes first."""
        execute = self._connection.execute
        if self._blobs:
            execute(
                self._new_blob,
                [
                    {"sha256": blob.sha256, "size": blob.size, "packed": blob.packed, "data": blob.data}
                    for blob in self._blobs.values()
                ],
            )
        if self._definitions:
            execute(self._new_definition, [{"digest": d, "document": text} for d, text in self._definitions.items()])
        if self._runs:
            _START(self._connection, self._runs)
        if self._entries:
            _JOURNAL(self._connection, self._entries)
        # Each run once, by the statement that names least.
        ended = {run_id: _ended(self._heads[run_id], ending) for run_id, ending in self._ended.items()}
        moved = [_moving(head) for run_id, head in self._moved.items() if run_id not in ended]
        grown = [_moving(head) for run_id, head in self._grown.items() if run_id not in self._moved]
        for statement, rows in ((_END, list(ended.values())), (_MOVE, moved), (_GROW, grown)):
            if rows:
                statement(self._connection, rows)
        if self._values:
            execute(
                self._new_value,
                [{"scope": scope, "key": key, "value": text} for (scope, key), text in self._values.items()],
            )
        for written in (
            self._blobs,
            self._definitions,
            self._runs,
            self._entries,
            self._ended,
            self._moved,
            self._values,
        ):
            written.clear()

    def _head(self, run_id: str) -> Head | None:
        if run_id not in self._heads:
            self.load([run_id])
        return self._heads.get(run_id)

    def _add(self, head: Head, entry: Entry, document: Document, at: float) -> None:
        head.seq += 1
        head.updated_at = max(head.updated_at, at)
        state = STATE_AFTER.get(entry.kind)
        if state is not None and state is not head.state:
            head.state = state
            self._moved[head.id] = head
        if entry.kind is Kind.STEP_ATTEMPT:
            head.usage += usage_from_json(entry.payload.get("usage"))
        elif entry.kind is Kind.RUN_CANCEL_REQUESTED:
            head.cancel_requested = True
        if head.state.terminal:
            head.worker, head.lease_until = None, 0.0
        if document.blob is not None:
            self._blobs[document.blob.sha256] = document.blob
        self._entries.append(
            {
                "run_id": head.id,
                "seq": head.seq,
                "path": entry.path,
                "attempt": entry.attempt,
                "kind": entry.kind.value,
                "payload": document.text,
                "payload_blob": document.sha256,
                "at": at,
            }
        )
        self._grown[head.id] = head


def _head(row: Any) -> Head:
    usage = Usage(row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.model_seconds)
    return Head(
        row.id, RunState(row.state), row.seq, row.updated_at, usage, row.cancel_requested, row.epoch, row.lease_owner,
        row.lease_until,
    )  # fmt: skip


def _moving(head: Head) -> dict[str, Any]:
    usage = head.usage
    return {
        "run": head.id,
        "state": head.state.value,
        "seq": head.seq,
        "updated_at": head.updated_at,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "model_seconds": usage.seconds,
        "cancel_requested": head.cancel_requested,
        "epoch": head.epoch,
        "lease_owner": head.worker,
        "lease_until": head.lease_until,
    }


def _ended(head: Head, ending: Ending) -> dict[str, Any]:
    output = ending.output or Document()
    return {
        **_moving(head), "output": output.text, "output_blob": output.sha256, "error": ending.error
    }  # fmt: skip
