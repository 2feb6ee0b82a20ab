"""MemoryStore: the Store in this process's memory, for tests and for trying things out.

It keeps every rule of the Store but one: what it holds ends with the process. Values go through JSON text on their way
in, so that a test sees what a database would give back, and nobody can change what was recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from agentmesh.adapters.changes import Changes, Subscription
from agentmesh.adapters.json_text import decode, encode
from agentmesh.core.run import Entry, Folder, Kind, Run, RunState
from agentmesh.core.store import Claim, RunFilter, RunPage, check_names, head_state, page_cursor, page_key
from agentmesh.errors import LeaseLost, NotFound, StoreError


@dataclass(slots=True)
class _Row:
    folder: Folder
    entries: list[Entry] = field(default_factory=list)
    epoch: int = 0
    worker: str | None = None
    lease_until: float = 0.0

    @property
    def run(self) -> Run:
        return self.folder.run


def _copy(value: Any) -> Any:
    return decode(encode(value))


class MemoryStore:
    """Runs, journal, definitions and values in dictionaries. Use it as the context manager it is, like any Store."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._open: dict[str, None] = {}
        """Runs that are not terminal."""
        self._keys: dict[tuple[str, str], str] = {}
        self._definitions: dict[str, Mapping[str, Any]] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._changes = Changes()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._changes.close()

    async def start_run(self, run: Run, definition: Mapping[str, Any] | None = None) -> tuple[Run, bool]:
        check_names(run.id, run.key, run.owner, run.tenant, run.context_id, run.parent, run.parent_path)
        if run.key is not None and (earlier := self._keys.get((run.tenant, run.key))) is not None:
            return self._rows[earlier].run, False
        if run.id in self._rows:
            raise StoreError(f"Run {run.id} exists already; every run needs an id of its own.")
        now = run.created_at or self._clock()
        fresh = Run(
            id=run.id,
            workflow=run.workflow,
            definition=run.definition,
            input=_copy(run.input),
            owner=run.owner,
            tenant=run.tenant,
            source=run.source,
            key=run.key,
            parent=run.parent,
            parent_path=run.parent_path,
            context_id=run.context_id,
            message=_copy(run.message),
            created_at=now,
        )
        if definition is not None:
            self._definitions.setdefault(run.definition, _copy(definition))
        self._rows[run.id] = row = _Row(Folder(fresh))
        self._open[run.id] = None
        if run.key is not None:
            self._keys[run.tenant, run.key] = run.id
        self._add(row, Entry(Kind.RUN_SUBMITTED), at=now)
        self._changes.publish([run.id])
        return row.run, True

    async def append(
        self,
        run_id: str,
        epoch: int,
        entries: Sequence[Entry],
        *,
        state: RunState | None = None,
        put: Mapping[tuple[str, str], Any] | None = None,
        wait: bool = True,
    ) -> None:
        check_names(*(entry.path for entry in entries), *(name for names in put or () for name in names))
        row = self._rows.get(run_id)
        if row is None or row.worker is None or row.epoch != epoch:
            if wait:
                raise LeaseLost(f"Run {run_id} is not held under epoch {epoch} any more; stop working on it.")
            return  # said at the next append that waits, as by a store that commits later
        head_state(row.folder.state, entries, state)
        copies = [replace(entry, payload=_copy(entry.payload)) for entry in entries]
        values = _copy([[*key, value] for key, value in (put or {}).items()])
        for entry in copies:
            self._add(row, entry)
        for scope, key, value in values:
            self._values.setdefault(scope, {})[key] = value
        self._changes.publish([run_id])

    async def request_cancel(self, run_id: str, by: str) -> Run:
        row = self._rows.get(run_id)
        if row is None:
            raise NotFound(f"There is no run {run_id}.")
        if not row.folder.state.terminal and not row.run.cancel_requested:
            self._add(row, Entry(Kind.RUN_CANCEL_REQUESTED, payload={"by": by}))
            if row.epoch == 0:
                self._add(row, Entry(Kind.RUN_CANCELED, payload={"by": by}))
            self._changes.publish([run_id])
        return row.run

    async def claim(
        self, worker: str, *, limit: int, lease: float = 30.0, only: Sequence[str] | None = None
    ) -> Sequence[Claim]:
        now = self._clock()
        claims: list[Claim] = []
        open_rows = (self._rows[run_id] for run_id in self._open)
        for row in sorted(open_rows, key=lambda row: (row.run.created_at, row.run.id)):
            if len(claims) >= limit:
                break
            if row.lease_until > now or (only is not None and row.run.id not in only):
                continue
            row.epoch += 1
            row.worker = worker
            row.lease_until = now + lease
            self._add(row, Entry(Kind.RUN_WORKING, payload={"worker": worker}))
            claims.append(Claim(row.run, row.epoch))
        self._changes.publish([claim.run.id for claim in claims])
        return claims

    async def heartbeat(self, worker: str, epochs: Mapping[str, int], *, lease: float = 30.0) -> Sequence[str]:
        until = self._clock() + lease
        lost: list[str] = []
        for run_id, epoch in epochs.items():
            row = self._rows.get(run_id)
            if row is None or row.worker != worker or row.epoch != epoch:
                lost.append(run_id)
            else:
                row.lease_until = until
        return lost

    async def release(self, run_id: str, epoch: int) -> None:
        row = self._rows.get(run_id)
        if row is not None and row.worker is not None and row.epoch == epoch:
            row.worker, row.lease_until = None, 0.0
            self._changes.publish([run_id])

    async def get_run(self, run_id: str) -> Run | None:
        row = self._rows.get(run_id)
        return None if row is None else row.run

    async def list_runs(self, where: RunFilter) -> RunPage:
        before = page_key(where.cursor)
        runs = sorted(
            (row.run for row in self._rows.values() if _matches(row.run, where)),
            key=lambda run: (run.created_at, run.id),
            reverse=True,
        )
        rest = [run for run in runs if before is None or (run.created_at, run.id) < before]
        page = tuple(replace(run, steps={}) for run in rest[: where.limit])
        return RunPage(page, page_cursor(page[-1]) if len(rest) > len(page) else None, len(runs))

    async def entries(self, run_id: str, after: int = 0) -> Sequence[Entry]:
        row = self._rows.get(run_id)
        return () if row is None else tuple(row.entries[max(after, 0) :])

    def changes(self, run_id: str | None = None) -> Subscription:
        return self._changes.subscribe(run_id)

    async def get_definition(self, digest: str) -> Mapping[str, Any] | None:
        return self._definitions.get(digest)

    async def get(self, scope: str, key: str) -> Any:
        return _copy(self._values.get(scope, {}).get(key))

    async def scan(self, scope: str) -> Mapping[str, Any]:
        return dict(_copy(self._values.get(scope, {})))

    async def put(self, scope: str, key: str, value: Any) -> None:
        check_names(scope, key)
        self._values.setdefault(scope, {})[key] = _copy(value)

    def _add(self, row: _Row, entry: Entry, *, at: float | None = None) -> None:
        numbered = replace(entry, seq=row.folder.seq + 1, at=self._clock() if at is None else at)
        row.entries.append(numbered)
        row.folder.add(numbered)
        if row.folder.state.terminal:
            row.worker, row.lease_until = None, 0.0
            self._open.pop(row.folder.run.id, None)


def _matches(run: Run, where: RunFilter) -> bool:
    return (
        run.tenant == where.tenant
        and (where.owner is None or run.owner == where.owner)
        and (where.workflow is None or run.workflow == where.workflow)
        and (not where.states or run.state in where.states)
        and (where.context_id is None or run.context_id == where.context_id)
        and (where.parent is None or run.parent == where.parent)
        and (not where.roots or run.parent is None)
        and (where.updated_after is None or run.updated_at > where.updated_after)
    )
