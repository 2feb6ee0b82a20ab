"""MemoryStore: the Store in this process's memory, for tests and for trying things out.

It keeps every rule of the Store but one: what it holds ends with the process. Values go through JSON text on their way
in, so that a test sees what a database would give back, and nobody can change what was recorded.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Self

from agentmesh.adapters.changes import Changes, Subscription
from agentmesh.adapters.json_text import decode, encode
from agentmesh.core.push import LEASE, Delivery, succeeding
from agentmesh.core.run import Entry, Folder, Kind, Run, RunState
from agentmesh.core.store import COUNTED, Claim, RunFilter, RunPage, check_names, head_state, page_cursor, page_key
from agentmesh.errors import Conflict, LeaseLost, NotFound, StoreError


@dataclass(slots=True)
class _Delivery:
    said: Delivery
    due_at: float | None
    """The end of the lease, or when it may be claimed; None: it has ended or was given up."""
    held: bool = False


@dataclass(slots=True)
class _Row:
    folder: Folder
    due_at: float | None
    """The end of the lease, or when it may be claimed; None: it has ended."""
    entries: list[Entry] = field(default_factory=list)
    epoch: int = 0
    worker: str | None = None
    mail: int = 0
    keys: set[str] = field(default_factory=set)
    """Of what was posted."""
    deliveries: dict[str, _Delivery] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        return self.folder.run

    @property
    def parked(self) -> bool:
        return self.worker is None and self.folder.state is not RunState.SUBMITTED and self.due_at is not None


def _copy(value: Any) -> Any:
    return decode(encode(value))


class MemoryStore:
    """Runs, journal, definitions and values in dictionaries. Use it as the context manager it is, like any Store."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._open: dict[str, _Row] = {}
        """Runs that are not terminal."""
        self._keys: dict[tuple[str, str], str] = {}
        self._definitions: dict[str, Mapping[str, Any]] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._changes = Changes()
        self._pokes = Changes()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._changes.close()
        self._pokes.close()

    async def start_run(
        self, run: Run, definition: Mapping[str, Any] | None = None, *, entries: Sequence[Entry] = (),
        due_at: float | None = None,
    ) -> tuple[Run, bool]:  # fmt: skip
        check_names(run.id, run.key, run.owner, run.tenant, run.context_id, run.parent, run.parent_path)
        check_names(run.forked_from, *(entry.path for entry in entries))
        head_state(RunState.SUBMITTED, entries, None)
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
            forked_from=run.forked_from,
            context_id=run.context_id,
            message=_copy(run.message),
            created_at=now,
        )
        copies = [replace(entry, payload=_copy(entry.payload)) for entry in entries]
        if definition is not None and run.definition not in self._definitions:
            self._definitions[run.definition] = _copy(definition)
        self._rows[run.id] = row = _Row(Folder(fresh), min(now, self._clock()) if due_at is None else due_at)
        self._open[run.id] = row
        if run.key is not None:
            self._keys[run.tenant, run.key] = run.id
        self._add(row, Entry(Kind.RUN_SUBMITTED), at=now)
        for entry in copies:
            self._add(row, entry, at=entry.at or now)
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
                raise _lost(run_id, epoch)
            return  # said at the next append that waits, as by a store that commits later
        head_state(row.folder.state, entries, state)
        copies = [replace(entry, payload=_copy(entry.payload)) for entry in entries]
        values = _copy([[*key, value] for key, value in (put or {}).items()])
        for entry in copies:
            self._add(row, entry)
        for scope, key, value in values:
            self._values.setdefault(scope, {})[key] = value
        self._changes.publish([run_id])

    async def park(
        self, run_id: str, epoch: int, entries: Sequence[Entry], *, wake_at: float | None, mail: int
    ) -> int | None:
        check_names(*(entry.path for entry in entries))
        row = self._rows.get(run_id)
        if row is None or row.worker is None or row.epoch != epoch:
            raise _lost(run_id, epoch)
        if row.mail != mail:
            return row.mail
        head_state(row.folder.state, entries, None)
        for entry in [replace(entry, payload=_copy(entry.payload)) for entry in entries]:
            self._add(row, entry)
        if row.due_at is not None:
            row.worker, row.due_at = None, inf if wake_at is None else wake_at
        self._changes.publish([run_id])
        return None

    async def post(self, run_id: str, entry: Entry, *, key: str | None = None) -> tuple[Run, bool]:
        check_names(entry.path, key)
        row = self._rows.get(run_id)
        if row is None:
            raise NotFound(f"There is no run {run_id}.")
        if key is not None and key in row.keys:
            return row.run, False
        if row.folder.state.terminal:
            raise Conflict(f"Run {run_id} has ended ({row.folder.state}); nothing can be sent to it any more.")
        copy = replace(entry, payload=_copy(entry.payload))
        if key is not None:
            row.keys.add(key)
        self._add(row, copy)
        self._wake(row)
        self._changes.publish([run_id])
        return row.run, True

    async def request_cancel(self, run_id: str, by: str) -> Run:
        row = self._rows.get(run_id)
        if row is None:
            raise NotFound(f"There is no run {run_id}.")
        if not row.folder.state.terminal and not row.run.cancel_requested:
            self._add(row, Entry(Kind.RUN_CANCEL_REQUESTED, payload={"by": by}))
            if row.epoch == 0:
                self._add(row, Entry(Kind.RUN_CANCELED, payload={"by": by}))
            else:
                self._wake(row)
            self._changes.publish([run_id])
        return row.run

    async def claim(
        self, worker: str, *, limit: int, lease: float = 30.0, only: Sequence[str] | None = None,
        at_once: Mapping[str, int] | None = None,
    ) -> Sequence[Claim]:  # fmt: skip
        now = self._clock()
        claims: list[Claim] = []
        bounds = {} if only is not None else dict(at_once or {})
        held = Counter(row.run.workflow for row in self._open.values() if row.worker is not None and _due(row) > now)
        due = (row for row in self._open.values() if _is_due(row, now) and (only is None or row.run.id in only))
        for row in sorted(due, key=lambda row: (_due(row), row.run.id)):
            if len(claims) >= limit:
                break
            workflow = row.run.workflow
            if held[workflow] >= bounds.get(workflow, inf):
                continue
            held[workflow] += 1
            row.epoch += 1
            row.worker, row.due_at = worker, now + lease
            self._add(row, Entry(Kind.RUN_WORKING, payload={"worker": worker}))
            claims.append(Claim(row.run, row.epoch, row.mail))
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
                row.due_at = until
        return lost

    async def release(self, run_id: str, epoch: int) -> None:
        row = self._rows.get(run_id)
        if row is not None and row.worker is not None and row.epoch == epoch:
            row.worker, row.due_at = None, min(self._clock(), row.entries[-1].at)
            self._changes.publish([run_id])

    async def next_due(self) -> float | None:
        earliest = min((_due(row) for row in self._open.values() if row.worker is None), default=inf)
        return None if earliest == inf else earliest

    async def get_run(self, run_id: str) -> Run | None:
        row = self._rows.get(run_id)
        return None if row is None else row.run

    async def get_head(self, run_id: str) -> Run | None:
        row = self._rows.get(run_id)
        return None if row is None else replace(row.run, steps={})

    async def list_runs(self, where: RunFilter) -> RunPage:
        before = page_key(where.cursor)
        runs = sorted(
            (row.run for row in self._rows.values() if _matches(row.run, where)),
            key=lambda run: (run.created_at, run.id),
            reverse=True,
        )
        rest = [run for run in runs if before is None or (run.created_at, run.id) < before]
        omitted = {run.id: names for run in rest[: where.limit] if (names := _too_long(run, where.longest))}
        page = tuple(
            replace(run, steps={}, **dict.fromkeys(omitted.get(run.id, ())))  # type: ignore[arg-type]
            for run in rest[: where.limit]
        )
        return RunPage(page, page_cursor(page[-1]) if len(rest) > len(page) else None, min(len(runs), COUNTED), omitted)

    async def entries(self, run_id: str, after: int = 0, *, heard: bool = False) -> Sequence[Entry]:
        row = self._rows.get(run_id)
        return () if row is None else tuple(row.entries[max(after, 0) :])

    def changes(self, run_id: str | None = None) -> Subscription:
        return self._changes.subscribe(run_id)

    async def prune(self, before: float, *, tenant: str | None = None, limit: int = 1000) -> int:
        removed = 0
        roots = [row for row in self._rows.values() if row.run.parent is None or row.run.parent not in self._rows]
        for root in sorted(roots, key=lambda row: (row.run.updated_at, row.run.id)):
            if removed >= limit:
                break
            if tenant is not None and root.run.tenant != tenant:
                continue
            family = [root, *self._children(root.run.id)]
            if root.run.updated_at >= before or not all(row.folder.state.terminal for row in family):
                continue
            for row in family:
                del self._rows[row.run.id]
                if row.run.key is not None:
                    self._keys.pop((row.run.tenant, row.run.key), None)
            removed += len(family)
        pinned = {row.run.definition for row in self._rows.values()}
        self._definitions = {digest: said for digest, said in self._definitions.items() if digest in pinned}
        return removed

    async def get_definition(self, digest: str) -> Mapping[str, Any] | None:
        return self._definitions.get(digest)

    async def get(self, scope: str, key: str) -> Any:
        return _copy(self._values.get(scope, {}).get(key))

    async def scan(self, scope: str) -> Mapping[str, Any]:
        return dict(_copy(self._values.get(scope, {})))

    async def put(self, scope: str, key: str, value: Any) -> None:
        check_names(scope, key)
        self._values.setdefault(scope, {})[key] = _copy(value)

    async def add_delivery(self, delivery: Delivery, *, most: int) -> None:
        check_names(delivery.id, delivery.tenant, delivery.owner, delivery.host)
        row = self._rows.get(delivery.run_id)
        if row is None:
            raise NotFound(f"There is no run {delivery.run_id}.")
        others = [known for known in row.deliveries if known != delivery.id]
        if len(others) >= most:
            raise Conflict(f"Run {delivery.run_id} has {most} push configurations already; delete one.")
        now = self._clock()
        fresh = replace(
            delivery, part=0, attempts=0, error="", failing_since=None, dead_at=None, ended=False, created_at=now
        )
        if (old := row.deliveries.get(delivery.id)) is not None:
            fresh = succeeding(old.said, fresh)
        row.deliveries[delivery.id] = _Delivery(fresh, now)

    async def deliveries(self, run_id: str) -> Sequence[Delivery]:
        row = self._rows.get(run_id)
        found = [] if row is None else [one.said for one in row.deliveries.values()]
        return sorted(found, key=lambda one: (one.created_at, one.id))

    async def remove_delivery(self, run_id: str, delivery_id: str) -> None:
        if (row := self._rows.get(run_id)) is not None:
            row.deliveries.pop(delivery_id, None)

    async def claim_deliveries(
        self, worker: str, *, limit: int, per_host: int, busy: Mapping[str, int] | None = None, lease: float = LEASE,
        only: Sequence[str] | None = None,
    ) -> Sequence[Delivery]:  # fmt: skip
        now = self._clock()
        held = Counter(busy or {})
        rows = self._rows.values() if only is None else [self._rows[id_] for id_ in only if id_ in self._rows]
        due = [
            one
            for row in rows
            for one in row.deliveries.values()
            if one.due_at is not None and one.due_at <= now and row.folder.seq > one.said.cursor
        ]
        claimed: list[Delivery] = []
        for one in sorted(due, key=lambda one: (one.due_at, one.said.run_id, one.said.id)):
            if len(claimed) >= limit:
                break
            if held[one.said.host] >= per_host:
                continue
            held[one.said.host] += 1
            one.said = replace(one.said, epoch=one.said.epoch + 1)
            one.due_at, one.held = now + lease, True
            claimed.append(one.said)
        return claimed

    async def keep_delivery(self, delivery: Delivery, *, after: float | None, held: bool = False) -> bool:
        one = self._delivery(delivery.run_id, delivery.id)
        if one is None or not one.held or one.said.epoch != delivery.epoch:
            return False
        one.said, one.held = replace(delivery, ended=after is None and delivery.dead_at is None), held
        one.due_at = None if after is None else self._clock() + after
        return True

    async def find_deliveries(
        self, *, tenant: str | None = None, dead: bool = False, limit: int = 100
    ) -> Sequence[Delivery]:
        found = [one.said for row in self._rows.values() for one in row.deliveries.values()]
        chosen = [
            one
            for one in found
            if (tenant is None or one.tenant == tenant)
            and (one.dead_at is not None if dead else one.dead_at is None and one.failing_since is not None)
        ]
        return sorted(chosen, key=lambda one: (one.dead_at or one.failing_since or 0, one.run_id, one.id))[::-1][:limit]

    async def revive_delivery(self, run_id: str, delivery_id: str) -> bool:
        one = self._delivery(run_id, delivery_id)
        if one is None:
            return False
        if not one.held and not one.said.ended:
            one.said = replace(one.said, attempts=0, failing_since=None, dead_at=None)
            one.due_at = self._clock()
        return True

    async def poke(self, run_id: str) -> None:
        self._pokes.publish([run_id])

    def pokes(self) -> Subscription:
        return self._pokes.subscribe()

    def _delivery(self, run_id: str, delivery_id: str) -> _Delivery | None:
        row = self._rows.get(run_id)
        return None if row is None else row.deliveries.get(delivery_id)

    def _add(self, row: _Row, entry: Entry, *, at: float | None = None) -> None:
        numbered = replace(entry, seq=row.folder.seq + 1, at=self._clock() if at is None else at)
        row.entries.append(numbered)
        row.folder.add(numbered)
        if not row.folder.state.terminal or row.due_at is None:
            return
        row.worker = row.due_at = None
        self._open.pop(row.folder.run.id, None)
        parent = self._rows.get(row.run.parent or "")
        if parent is not None and parent.due_at is not None:
            self._wake(parent)
            self._changes.publish([parent.run.id])

    def _wake(self, row: _Row) -> None:
        """Something arrived from outside."""
        row.mail += 1
        if row.parked:
            row.due_at = min(_due(row), self._clock(), row.entries[-1].at)

    def _children(self, run_id: str) -> Iterator[_Row]:
        for row in self._rows.values():
            if row.run.parent == run_id:
                yield row
                yield from self._children(row.run.id)


def _due(row: _Row) -> float:
    return inf if row.due_at is None else row.due_at


def _is_due(row: _Row, now: float) -> bool:
    """Also when it was due by a clock that has been set back since."""
    return _due(row) <= now or (row.worker is None and _due(row) <= row.entries[-1].at)


def _lost(run_id: str, epoch: int) -> LeaseLost:
    return LeaseLost(f"Run {run_id} is not held under epoch {epoch} any more; stop working on it.")


def _too_long(run: Run, longest: int | None) -> tuple[str, ...]:
    values = {"input": run.input, "message": run.message, "output": run.output}
    if longest is None:
        return ()
    return tuple(name for name, value in values.items() if value is not None and len(encode(value).encode()) > longest)


def _matches(run: Run, where: RunFilter) -> bool:
    return (
        run.tenant == where.tenant
        and (where.owner is None or run.owner == where.owner)
        and (where.workflow is None or run.workflow == where.workflow)
        and (where.workflows is None or run.workflow in where.workflows)
        and (not where.states or run.state in where.states)
        and (where.context_id is None or run.context_id == where.context_id)
        and (where.parent is None or run.parent == where.parent)
        and (not where.roots or run.parent is None)
        and (where.updated_after is None or run.updated_at > where.updated_after)
    )
