"""SqlStore: the Store on SQLite (one process) and PostgreSQL.

On one side the engine, on its event loop; on the other one writing thread and a few reading ones. The loop never
touches the database: it turns values into JSON, hands them over and waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio
from anyio.to_thread import run_sync
from sqlalchemy import Engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from agentmesh.adapters.changes import Changes, Subscription
from agentmesh.adapters.json_text import decode, encode
from agentmesh.adapters.lock import MeshLock
from agentmesh.adapters.sql import backup, claiming, database, delivering, pruning
from agentmesh.adapters.sql.batch import Append, Start
from agentmesh.adapters.sql.committing import Committed, Committer
from agentmesh.adapters.sql.documents import INLINE, INLINE_IN_RUN, Document, Text, document, is_slow, payload
from agentmesh.adapters.sql.heads import Ending
from agentmesh.adapters.sql.neighbours import Neighbours
from agentmesh.adapters.sql.patience import STALLED, Patience
from agentmesh.adapters.sql.reader import Reader
from agentmesh.adapters.sql.tables import deliveries, runs
from agentmesh.adapters.sql.tails import Tails
from agentmesh.adapters.sql.writer import ROWS, Writer
from agentmesh.core.push import LEASE, Delivery
from agentmesh.core.run import STATE_AFTER, Entry, Kind, Run, RunState, apply
from agentmesh.core.store import Claim, RunFilter, RunPage, check_names, head_state
from agentmesh.errors import StoreError

T = TypeVar("T")
_ENDS = frozenset(kind.value for kind, state in STATE_AFTER.items() if state.terminal)
KEPT = 1_000
"""Runs that were started here and are kept for their first claim."""
READERS = 4
"""Threads, and connections, for reading."""


def open_store(url: str, folder: Path, *, clock: Callable[[], float] = time.time, own_clock: bool = False) -> SqlStore:
    """The store at `url`; nothing is opened before it is entered. A relative SQLite path counts from `folder`.

    StoreError when the url names no database we know. `clock` gives Unix seconds for entries, leases and due times on SQLite. On
    PostgreSQL, which several machines may share, the database's clock rules, and times that callers give or get are translated by
    the difference; `own_clock` makes `clock` rule there too, for tests that move it.
    """
    return SqlStore(database.resolve(url, folder), clock=clock, own_clock=own_clock)


class SqlStore:
    """Runs in a database. Enter it once, on the event loop that uses it; leaving commits all that was accepted."""

    def __init__(
        self, url: URL, *, clock: Callable[[], float] = time.time, own_clock: bool = False, stalled: float | None = None
    ) -> None:
        """`stalled`: seconds after which a database that does not answer, or a file that another process has, is given up."""
        self._url = url
        alone = url.get_backend_name() == "sqlite"
        self._stalled = stalled or (database.BUSY_SECONDS if alone else STALLED)
        self._clock = clock
        self._own_clock = own_clock
        self._changes = Changes()
        self._pokes = Changes()
        self._lock: MeshLock | None = None
        self._engines: list[Engine] = []
        self._begun: dict[str, Run] = {}
        """Started here and not claimed yet."""
        self._starting: set[str] = set()
        """On their way into the database: there is nothing to read of them yet."""
        self._patience: Patience | None = None
        self._neighbours: Neighbours | None = None
        self._tails = Tails()
        self._alone = alone
        """Nobody else writes."""

    async def __aenter__(self) -> Self:
        """StoreLocked, StoreTooNew or StoreError when the database cannot be used."""
        self._limiter = anyio.CapacityLimiter(READERS)
        writing = await self._blocking(self._open)
        self._reader = Reader(self._engines[1])
        self._committer = Committer(writing, self._clock, own_clock=self._own_clock, busy=self._stalled)
        if self._patience is not None:
            loop = asyncio.get_running_loop()
            outside = database.connect(self._url, pool=0)
            self._neighbours = Neighbours(
                outside,
                lambda run_ids: _call(loop, self._heard, run_ids),
                lambda run_ids: _call(loop, self._pokes.publish, run_ids),
            )
            self._neighbours.start()
        self._writer = Writer(self._committer, self._publish)
        return self

    async def __aexit__(self, *exc: object) -> None:
        # Shielded: a server that is being cancelled has accepted what is still on its way to the disk.
        with anyio.CancelScope(shield=True):
            self._changes.close()
            self._pokes.close()
            await run_sync(self._close)

    async def start_run(
        self, run: Run, definition: Mapping[str, Any] | None = None, *, entries: Sequence[Entry] = (),
        due_at: float | None = None,
    ) -> tuple[Run, bool]:  # fmt: skip
        check_names(run.id, run.key, run.owner, run.tenant, run.context_id, run.parent, run.parent_path)
        check_names(run.forked_from, *(entry.path for entry in entries))
        head_state(RunState.SUBMITTED, entries, None)
        text, said = encode(run.input), None if run.message is None else encode(run.message)
        given, message = await _documents([text, said or ""], INLINE_IN_RUN)
        row = {
            "id": run.id,
            "tenant": run.tenant,
            "owner": run.owner,
            "workflow": run.workflow,
            "definition": run.definition,
            "source": run.source,
            "key": run.key,
            "parent": run.parent,
            "parent_path": run.parent_path,
            "forked_from": run.forked_from,
            "context_id": run.context_id,
            "input": given.text,
            "input_blob": given.sha256,
            "message": None if said is None else message.text,
            "message_blob": message.sha256,
            "created_at": run.created_at,
        }
        new = Start(
            row,
            [one.blob for one in (given, message) if one.blob is not None],
            None if definition is None else partial(encode, definition),
            tuple(entries),
            await _payloads(entries),
            await _ending(entries),
            due_at,
        )
        self._starting.add(run.id)
        try:
            earlier, created_at = await self._writer.submit(
                lambda batch: batch.start(new),
                rows=2 + len(entries),
                key=None if run.key is None else (run.tenant, run.key),
            )
        finally:
            self._starting.discard(run.id)
        if earlier is not None or entries:
            found = await self.get_run(earlier or run.id)
            if found is None:
                raise StoreError(f"Run {earlier} has the key {run.key!r} and cannot be read; the database is damaged.")
            return found, earlier is None
        begun = Run(
            id=run.id,
            workflow=run.workflow,
            definition=run.definition,
            input=decode(text),
            owner=run.owner,
            tenant=run.tenant,
            source=run.source,
            key=run.key,
            parent=run.parent,
            parent_path=run.parent_path,
            forked_from=run.forked_from,
            context_id=run.context_id,
            message=None if said is None else decode(said),
            created_at=created_at,
        )
        started = apply(begun, Entry(Kind.RUN_SUBMITTED, seq=1, at=created_at))
        if len(self._begun) >= KEPT:
            del self._begun[next(iter(self._begun))]
        if len(text) <= INLINE:
            # Claims get values of their own, so that no worker sees what a starter did with its.
            self._begun[run.id] = replace(started, input=decode(text), message=None if said is None else decode(said))
        return started, True

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
        texts = [encode(entry.payload) for entry in entries]
        payloads: Sequence[Text] = await _packed(texts) if any(map(is_slow, texts)) else texts
        values = () if put is None else [(scope, key, encode(value)) for (scope, key), value in put.items()]
        ending = await _ending(entries) if entries and entries[-1].kind._value_ in _ENDS else None
        new = Append(run_id, epoch, tuple(entries), payloads, state, ending, values)
        rows = len(entries) + len(values)
        wait = wait or self._writer.crowded
        future = self._writer.append(lambda batch: batch.append(new), rows=rows, run_id=run_id, epoch=epoch, wait=wait)
        if future is not None:
            await future

    async def park(
        self, run_id: str, epoch: int, entries: Sequence[Entry], *, wake_at: float | None, mail: int
    ) -> int | None:
        check_names(*(entry.path for entry in entries))
        new = Append(run_id, epoch, tuple(entries), await _payloads(entries), ending=await _ending(entries))
        future = self._writer.append(
            lambda batch: batch.park(new, wake_at, mail), rows=len(entries) + 1, run_id=run_id, epoch=epoch, wait=True
        )
        newer: int | None = None if future is None else await future
        return newer

    async def post(self, run_id: str, entry: Entry, *, key: str | None = None) -> tuple[Run, bool]:
        check_names(entry.path, key)
        (payload,) = await _payloads([entry])
        added: bool = await self._writer.submit(
            lambda batch: batch.post(run_id, entry, payload, key), touches=(run_id,)
        )
        return (await self._read(self._reader.load, [run_id]))[run_id], added

    async def request_cancel(self, run_id: str, by: str) -> Run:
        payload = encode({"by": by})
        await self._writer.submit(lambda batch: batch.request_cancel(run_id, payload), rows=2, touches=(run_id,))
        return (await self._read(self._reader.load, [run_id]))[run_id]

    async def claim(
        self, worker: str, *, limit: int, lease: float = 30.0, only: Sequence[str] | None = None,
        at_once: Mapping[str, int] | None = None,
    ) -> Sequence[Claim]:  # fmt: skip
        said, bounds = {"worker": worker}, dict(at_once or {})
        text = encode(said)
        taken: dict[str, claiming.Taken] = await self._writer.submit(
            lambda batch: claiming.claim(batch, worker, text, limit=limit, lease=lease, only=only, at_once=bounds),
            rows=limit,
            touches=[run_id for run_id in only or () if run_id not in self._starting],
        )
        found = {run_id: run for run_id, one in taken.items() if (run := self._first(run_id, one, said)) is not None}
        if missing := [run_id for run_id in taken if run_id not in found]:
            found |= await self._read(self._reader.load, missing)
        return [Claim(found[run_id], one.epoch, one.mail) for run_id, one in taken.items()]

    def _first(self, run_id: str, taken: claiming.Taken, said: Mapping[str, Any]) -> Run | None:
        """A run that was started here and claimed before anything else happened to it: it need not be read."""
        run = self._begun.pop(run_id, None)
        if run is None or taken.seq != run.seq + 1:
            return None
        return apply(run, Entry(Kind.RUN_WORKING, payload=said, seq=taken.seq, at=taken.at))

    async def heartbeat(self, worker: str, epochs: Mapping[str, int], *, lease: float = 30.0) -> Sequence[str]:
        held = dict(epochs)
        lost: list[str] = await self._writer.submit(
            lambda batch: batch.heartbeat(worker, held, lease), touches=tuple(held)
        )
        return lost

    async def release(self, run_id: str, epoch: int) -> None:
        await self._writer.submit(lambda batch: batch.release(run_id, epoch), touches=(run_id,))

    async def next_due(self) -> float | None:
        due_at = await self._read(self._reader.next_due)
        return None if due_at is None else due_at - self._committer.ahead

    async def get_run(self, run_id: str) -> Run | None:
        return (await self._read(self._reader.load, [run_id])).get(run_id)

    async def get_head(self, run_id: str) -> Run | None:
        return await self._read(self._reader.head, run_id)

    async def list_runs(self, where: RunFilter) -> RunPage:
        return await self._read(self._reader.list_runs, where)

    async def entries(self, run_id: str, after: int = 0, *, heard: bool = False) -> Sequence[Entry]:
        kept = self._tails.entries(run_id, after) if self._alone or heard else None
        return await self._read(self._reader.entries, run_id, after) if kept is None else kept

    def changes(self, run_id: str | None = None) -> Subscription:
        return self._changes.subscribe(run_id)

    async def prune(self, before: float, *, tenant: str | None = None, limit: int = 1000) -> int:
        before += self._committer.ahead
        removed = 0
        for chunk in await self._read(pruning.find, self._engines[1], before, tenant, limit):
            removed += await self._writer.submit(partial(pruning.remove, run_ids=chunk), rows=ROWS)
            self._tails.forget()
        return removed

    async def backup(self, path: Path) -> int:
        """Copies a SQLite database into a file of its own while others read and write; its bytes. See `backup.copy`."""
        return await self._blocking(backup.copy, self._url, path)

    async def get_definition(self, digest: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = await self._read(self._reader.definition, digest)
        return found

    async def get(self, scope: str, key: str) -> Any:
        return await self._read(self._reader.get, scope, key)

    async def scan(self, scope: str) -> Mapping[str, Any]:
        return await self._read(self._reader.scan, scope)

    async def put(self, scope: str, key: str, value: Any) -> None:
        check_names(scope, key)
        text = encode(value)
        await self._writer.submit(lambda batch: batch.put(scope, key, text))

    async def add_delivery(self, delivery: Delivery, *, most: int) -> None:
        check_names(delivery.id, delivery.tenant, delivery.owner, delivery.host)
        await self._writer.submit(partial(delivering.add, new=delivery, most=most))

    async def deliveries(self, run_id: str) -> Sequence[Delivery]:
        return await self._read(delivering.of_run, self._engines[1], run_id)

    async def remove_delivery(self, run_id: str, delivery_id: str) -> None:
        await self._writer.submit(partial(delivering.remove, run_id=run_id, delivery_id=delivery_id))

    async def claim_deliveries(
        self, worker: str, *, limit: int, per_host: int, busy: Mapping[str, int] | None = None, lease: float = LEASE,
        only: Sequence[str] | None = None,
    ) -> Sequence[Delivery]:  # fmt: skip
        now = self._clock() + self._committer.ahead
        pairs = await self._read(
            delivering.due, self._engines[1], now, limit, per_host, dict(busy or {}), only
        )  # fmt: skip
        if not pairs:
            return ()
        taken: list[Delivery] = await self._writer.submit(
            partial(delivering.take, worker=worker, lease=lease, pairs=pairs), rows=len(pairs)
        )
        return taken

    async def keep_delivery(self, delivery: Delivery, *, after: float | None, held: bool = False) -> bool:
        worker = "held" if held else None
        kept: bool = await self._writer.submit(
            partial(delivering.keep, one=delivery, after=after, worker=worker)
        )  # fmt: skip
        return kept

    async def find_deliveries(
        self, *, tenant: str | None = None, dead: bool = False, limit: int = 100
    ) -> Sequence[Delivery]:
        return await self._read(partial(delivering.find, self._engines[1], tenant, limit, dead=dead))

    async def revive_delivery(self, run_id: str, delivery_id: str) -> bool:
        revived: bool = await self._writer.submit(
            partial(delivering.revive, run_id=run_id, delivery_id=delivery_id)
        )  # fmt: skip
        return revived

    async def poke(self, run_id: str) -> None:
        self._pokes.publish([run_id])
        if self._neighbours is not None:
            self._neighbours.poke(run_id)

    def pokes(self) -> Subscription:
        return self._pokes.subscribe()

    def _heard(self, run_ids: Sequence[str]) -> None:
        """Another process changed these runs: what is kept of them has no end any more."""
        self._tails.drop(run_ids)
        self._changes.publish(run_ids)

    def _publish(self, committed: Committed) -> None:
        self._tails.add(committed.rows)
        self._changes.publish(committed.changed)
        if self._neighbours is not None:
            self._neighbours.tell(committed.changed)

    def _open(self) -> Engine:
        if self._url.get_backend_name() == "sqlite":
            file = Path(str(self._url.database))
            self._lock = MeshLock(file.with_name(file.name + ".lock"), what="database").acquire()
        try:
            writing = database.connect(self._url, busy=self._stalled)
            self._engines = [writing, database.connect(self._url, reader=True, pool=READERS, busy=self._stalled)]
            preparing = database.connect(self._url, hasty=False) if self._lock is None else writing
            try:
                database.prepare(preparing)
            finally:
                if preparing is not writing:
                    preparing.dispose()
            if self._lock is None:
                self._patience = Patience(self._stalled)
                for engine in self._engines:
                    self._patience.watch(engine)
            if self._lock is not None:
                _takeover(writing, self._clock())
        except BaseException:
            self._dispose()
            raise
        return writing

    def _close(self) -> None:
        self._writer.stop()
        self._dispose()

    def _dispose(self) -> None:
        if self._neighbours is not None:
            self._neighbours.stop()
        if self._patience is not None:
            self._patience.stop()
        # Readers first: the last connection to leave moves SQLite's log into the file, and readers may not write.
        for engine in reversed(self._engines):
            engine.dispose()
        if self._lock is not None:
            self._lock.release()

    async def _read(self, query: Callable[..., T], *arguments: Any) -> T:
        try:
            return await run_sync(partial(query, *arguments), limiter=self._limiter)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise database.store_error(error, self._url) from error
        # The server was restarted, or ended our connections, since they were used last; a look can be repeated.
        return await self._blocking(query, *arguments)

    async def _blocking(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await run_sync(partial(function, *arguments), limiter=self._limiter)
        except DBAPIError as error:
            raise database.store_error(error, self._url) from error


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[Sequence[str]], None], run_ids: Sequence[str]) -> None:
    try:
        loop.call_soon_threadsafe(function, run_ids)
    except RuntimeError:
        pass  # the loop is closed, and nobody is left to hear it


def _takeover(engine: Engine, now: float) -> None:
    """Ends every lease: the lock proves that whoever held them is gone, so nobody need wait for their clock."""
    with engine.begin() as connection:
        for table in (runs, deliveries):
            held = table.update().where(table.c.lease_owner.is_not(None))
            connection.execute(held.values(lease_owner=None, due_at=now))


async def _documents(texts: list[str], inline: int = INLINE) -> list[Document]:
    """The texts as they will be stored; long ones are hashed and packed in a thread."""
    if any(map(is_slow, texts)):
        return await run_sync(lambda: [document(text, inline) for text in texts])
    return [document(text, inline) for text in texts]


async def _payloads(entries: Sequence[Entry]) -> Sequence[Text]:
    texts = [encode(entry.payload) for entry in entries]
    return await _packed(texts) if any(map(is_slow, texts)) else texts


async def _packed(texts: Sequence[str]) -> Sequence[Text]:
    return await run_sync(lambda: [payload(text) for text in texts])


async def _ending(entries: Sequence[Entry]) -> Ending | None:
    """What the last entry says of the run's row, when it ends the run."""
    for entry in entries[-1:]:
        if entry.kind is Kind.RUN_COMPLETED:
            (output,) = await _documents([encode(entry.payload.get("output"))])
            return Ending(output)
        if entry.kind in (Kind.RUN_FAILED, Kind.RUN_REJECTED):
            return Ending(error=encode(entry.payload.get("error")))
        if entry.kind is Kind.RUN_CANCELED:
            return Ending()
    return None
