"""Batch: what the Store's operations mean, inside one transaction of the writer.

An operation checks first and raises before it changes anything, so that one caller's LeaseLost leaves the others of the
same transaction alone. What it changes goes to the heads in memory and to lists; `flush` writes the lists with one
statement per table. On SQLite this process is the only writer and heads are kept from batch to batch; elsewhere they
are read, and locked, in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from agentmesh.adapters.sql import heads as heads_
from agentmesh.adapters.sql.documents import Blob, Text
from agentmesh.adapters.sql.heads import Ending, Failure, Head, Heads
from agentmesh.adapters.sql.tables import blobs, definitions, posts, runs, state
from agentmesh.core.model import Usage
from agentmesh.core.run import STATE_AFTER, Entry, Kind, RunState, usage_from_json
from agentmesh.core.store import head_state
from agentmesh.errors import Conflict, LeaseLost, NotFound


@dataclass(slots=True)
class Start:
    """A run on its way in: its row without what changes, what its journal begins with, and its definition."""

    row: Mapping[str, Any]
    """`created_at` 0: now."""
    blobs: Sequence[Blob]
    definition: Callable[[], str] | None
    """Its document as JSON; called when the database may not have it."""
    entries: Sequence[Entry] = ()
    payloads: Sequence[Text] = ()
    ending: Ending | None = None
    due_at: float | None = None


@dataclass(slots=True)
class Append:
    """Entries on their way in, already JSON."""

    run_id: str
    epoch: int
    entries: Sequence[Entry]
    payloads: Sequence[Text]
    stated: RunState | None = None
    ending: Ending | None = None
    put: Sequence[tuple[str, str, str]] = ()


_BY_KEYS = select(runs.c.key, runs.c.id).where(
    runs.c.tenant == bindparam("of"), runs.c.key.in_(bindparam("keys", expanding=True))
)
_POSTED = select(posts.c.key).where(posts.c.run_id == bindparam("of"), posts.c.key == bindparam("named"))
_HAS_DEFINITION = select(definitions.c.digest).where(definitions.c.digest == bindparam("digest"))
_STATE_AFTER = {kind.value: state for kind, state in STATE_AFTER.items()}
"""By plain text, since an enumeration's own hash is slow."""


@cache
def _upserts(*, shared: bool) -> tuple[Executable, Executable, Executable]:
    """For blobs, definitions and values. Made once: to build them takes longer than many a batch."""
    insert = postgresql.insert if shared else sqlite.insert
    value = insert(state)
    return (
        insert(blobs).on_conflict_do_nothing(),
        insert(definitions).on_conflict_do_nothing(),
        value.on_conflict_do_update(index_elements=["scope", "key"], set_={"value": value.excluded.value}),
    )


class Batch:
    """One transaction. `changed` are the runs whose watchers are told after the commit."""

    def __init__(
        self, connection: Connection, heads: Heads, now: float, broken: dict[str, Failure], *, ahead: float = 0.0
    ) -> None:
        """`ahead`: seconds that the clock of `now` is ahead of the callers' clock."""
        self.connection = connection
        self.heads = heads
        self.now = now
        self.ahead = ahead
        self.shared = connection.dialect.name != "sqlite"
        self._broken = broken
        """Runs with an append that failed."""
        self._new_blob, self._new_definition, self._new_value = _upserts(shared=self.shared)
        self.changed: dict[str, None] = {}
        self.taken: list[str] = []
        """Runs with a new epoch."""
        self.written: list[tuple[Any, ...]] = []
        """Rows of the journal."""
        self._keys: dict[tuple[str, str], str | None] = {}
        """The runs of keys; None: nobody has it."""
        self._posts: dict[tuple[str, str], None] = {}
        self._blobs: dict[str, Blob] = {}
        self._definitions: dict[str, str] = {}
        self._runs: list[tuple[Any, ...]] = []
        self._grown: dict[str, Head] = {}
        self._moved: dict[str, Head] = {}
        self._ended: dict[str, Ending] = {}
        self._entries: list[tuple[Any, ...]] = []
        self._values: dict[tuple[str, str], str] = {}

    def load(self, run_ids: Iterable[str]) -> None:
        """Reads the heads of these runs in one statement, where they are not known."""
        missing = sorted({run_id for run_id in run_ids if run_id not in self.heads})
        for begin in range(0, len(missing), 500):
            query = heads_.BY_ID.with_for_update() if self.shared else heads_.BY_ID
            for row in self.connection.execute(query, {"ids": missing[begin : begin + 500]}):
                self.heads.keep(heads_.read(row))

    def look_up(self, keys: Sequence[tuple[str, str]]) -> None:
        """Reads which runs have these (tenant, key), in one statement for each tenant."""
        self._keys.update(dict.fromkeys(keys))
        for tenant in {tenant for tenant, _ in keys}:
            named = [key for of, key in keys if of == tenant]
            for begin in range(0, len(named), 500):
                for row in self.connection.execute(_BY_KEYS, {"of": tenant, "keys": named[begin : begin + 500]}):
                    self._keys[tenant, row.key] = row.id

    def start(self, new: Start) -> tuple[str | None, float]:
        """Adds a run. The id of the run that has its key already; and when this one was made."""
        tenant, key, run_id = new.row["tenant"], new.row["key"], new.row["id"]
        at = float(new.row["created_at"]) or self.now
        if key is not None:
            if (tenant, key) not in self._keys:
                self.look_up([(tenant, key)])
            if (earlier := self._keys[tenant, key]) is not None:
                return earlier, at
            self._keys[tenant, key] = run_id
        # `created_at` may come from a clock that is ahead of this one: new means due.
        due_at = min(at, self.now) if new.due_at is None else float(new.due_at) + self.ahead
        head = Head(run_id, new.row["parent"], RunState.SUBMITTED, 0, at, Usage(), False, 0, None, due_at, 0)
        self._define(new.row["definition"], new.definition)
        self._blobs.update({blob.sha256: blob for blob in new.blobs})
        self._add(head, Entry(Kind.RUN_SUBMITTED), "{}", at)
        for entry, payload in zip(new.entries, new.payloads, strict=True):
            self._add(head, entry, payload, float(entry.at) or at)
        if new.ending is not None:
            self._keep_output(new.ending)
        self._runs.append(heads_.begun(head, {**new.row, "created_at": at}, new.ending))
        self._grown.pop(run_id, None)
        self._moved.pop(run_id, None)
        self.heads.keep(head)
        self.changed[run_id] = None
        return None, at

    def append(self, new: Append) -> None:
        head = self._held(new.run_id, new.epoch)
        head_state(head.state, new.entries, new.stated)
        for entry, payload in zip(new.entries, new.payloads, strict=True):
            self._add(head, entry, payload, self.now)
        if new.ending is not None:
            self._ended[head.id] = new.ending
            self._keep_output(new.ending)
        for scope, key, text in new.put:
            self._values[scope, key] = text
        self.changed[head.id] = None

    def park(self, new: Append, wake_at: float | None, mail: int) -> int | None:
        """The newer count when something arrived since `mail`; None when it is parked."""
        head = self._held(new.run_id, new.epoch)
        if head.mail != mail:
            return head.mail
        self.append(new)
        if head.due_at is not None:
            head.worker, head.due_at = None, heads_.PARKED if wake_at is None else float(wake_at) + self.ahead
            self._moved[head.id] = head
        return None

    def post(self, run_id: str, entry: Entry, payload: Text, key: str | None) -> bool:
        """Whether it was added; False when the key was there."""
        head = self._known(run_id)
        if key is not None:
            posted = (run_id, key) in self._posts
            if posted or self.connection.scalar(_POSTED, {"of": run_id, "named": key}) is not None:
                return False
        if head.state.terminal:
            raise Conflict(f"Run {run_id} has ended ({head.state}); nothing can be sent to it any more.")
        if key is not None:
            self._posts[run_id, key] = None
        self._add(head, entry, payload, self.now)
        self._wake(head)
        return True

    def request_cancel(self, run_id: str, payload: str) -> None:
        head = self._known(run_id)
        if head.state.terminal or head.cancel_requested:
            return
        self._add(head, Entry(Kind.RUN_CANCEL_REQUESTED), payload, self.now)
        if head.epoch == 0:
            self._add(head, Entry(Kind.RUN_CANCELED), payload, self.now)
            self.changed[run_id] = None
        else:
            self._wake(head)

    def take(self, head: Head, worker: str, payload: str, lease: float) -> None:
        """Gives a run whose time has come to a worker; see `claiming`."""
        head.epoch += 1
        head.worker = worker
        head.due_at = self.now + lease
        self.taken.append(head.id)
        self._add(head, Entry(Kind.RUN_WORKING), payload, self.now)
        self._moved[head.id] = head
        self.changed[head.id] = None

    def heartbeat(self, worker: str, epochs: Mapping[str, int], lease: float) -> list[str]:
        self.load(epochs)
        lost: list[str] = []
        for run_id, epoch in epochs.items():
            head = self.heads.get(run_id)
            failed = self._broken.get(run_id)
            if head is None or head.worker != worker or head.epoch != epoch:
                lost.append(run_id)
            elif failed is not None and failed.epoch == epoch:
                # It takes no more entries under this epoch, and its worker hears of it now: the next claim goes on.
                lost.append(run_id)
                if failed.passing:
                    self._give_back(head)
            else:
                head.due_at = self.now + lease
                self._moved[run_id] = head
        return lost

    def release(self, run_id: str, epoch: int) -> None:
        head = self._head(run_id)
        if head is not None and head.holds(epoch):
            self._give_back(head)

    def put(self, scope: str, key: str, text: str) -> None:
        self._values[scope, key] = text

    def flush(self) -> None:
        """Writes what was collected; what is referred to goes first."""
        execute = self.connection.execute
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
        heads_.START(self.connection, self._runs)
        heads_.JOURNAL(self.connection, self._entries)
        self.written += self._entries
        if self._posts:
            execute(posts.insert(), [{"run_id": run_id, "key": key} for run_id, key in self._posts])
        # Each run once, by the statement that names least.
        ended, moved = self._ended, self._moved
        heads_.END(self.connection, [heads_.ended(self.heads[run_id], ending) for run_id, ending in ended.items()])
        heads_.MOVE(self.connection, [heads_.moving(head) for run_id, head in moved.items() if run_id not in ended])
        grown = [head for run_id, head in self._grown.items() if run_id not in moved and run_id not in ended]
        heads_.GROW(self.connection, [heads_.growing(head) for head in grown])
        if self._values:
            execute(
                self._new_value,
                [{"scope": scope, "key": key, "value": text} for (scope, key), text in self._values.items()],
            )
        for written in (
            self._blobs, self._definitions, self._runs, self._entries, self._posts, self._ended, self._moved, self._grown,
            self._values,
        ):  # fmt: skip
            written.clear()

    def _head(self, run_id: str) -> Head | None:
        if run_id not in self.heads:
            self.load([run_id])
        return self.heads.get(run_id)

    def _known(self, run_id: str) -> Head:
        head = self._head(run_id)
        if head is None:
            raise NotFound(f"There is no run {run_id}.")
        return head

    def _held(self, run_id: str, epoch: int) -> Head:
        """The run, when it takes entries under this epoch."""
        head = self._head(run_id)
        failed = self._broken.get(run_id)
        if failed is not None and failed.epoch == epoch:
            if failed.passing and head is not None and head.holds(epoch):
                self._give_back(head)
            raise failed.error
        if head is None or not head.holds(epoch):
            raise LeaseLost(f"Run {run_id} is not held under epoch {epoch} any more; stop working on it.")
        return head

    def _give_back(self, head: Head) -> None:
        # Due since its last entry, so that it stays due when the clock is set back; see `committing.SET_BACK`.
        head.worker, head.due_at = None, min(self.now, head.updated_at)
        self._moved[head.id] = head
        self.changed[head.id] = None

    def _wake(self, head: Head) -> None:
        head.wake(self.now)
        self._moved[head.id] = head
        self.changed[head.id] = None

    def _define(self, digest: str, document: Callable[[], str] | None) -> None:
        known = self.heads.definitions
        if document is None or digest in known:
            return
        # Locked where others write too, so that nobody prunes it before this run is there.
        query = _HAS_DEFINITION.with_for_update(read=True, key_share=True) if self.shared else _HAS_DEFINITION
        if self.connection.scalar(query, {"digest": digest}) is None:
            self._definitions[digest] = document()
        known.add(digest)

    def _keep_output(self, ending: Ending) -> None:
        if ending.output is not None and ending.output.blob is not None:
            self._blobs[ending.output.blob.sha256] = ending.output.blob

    def _add(self, head: Head, entry: Entry, payload: Text, at: float) -> None:
        kind: str = entry.kind._value_
        head.seq += 1
        head.updated_at = max(head.updated_at, at)
        state = _STATE_AFTER.get(kind)
        if state is not None and state is not head.state:
            head.state = state
            self._moved[head.id] = head
            if state.terminal:
                self._end(head)
        if kind == "step.attempt":
            head.usage += usage_from_json(entry.payload.get("usage"))
        elif kind == "run.cancel_requested":
            head.cancel_requested = True
        text: str | None = None
        sha256: str | None = None
        if isinstance(payload, str):
            text = payload
        else:
            sha256 = payload.sha256
            self._blobs[sha256] = payload
        self._entries.append((head.id, head.seq, entry.path, entry.attempt, kind, text, sha256, at))
        self._grown[head.id] = head

    def _end(self, head: Head) -> None:
        head.worker = head.due_at = None
        parent = None if head.parent is None else self._head(head.parent)
        if parent is not None and not parent.state.terminal:
            self._wake(parent)
