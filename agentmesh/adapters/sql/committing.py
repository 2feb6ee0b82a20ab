"""Committing: one batch of requests becomes one transaction, whatever the database does meanwhile.

What was rolled back for certain is tried again for a moment (a deadlock, a connection that was lost before the commit). When a
connection is lost *during* the commit, PostgreSQL is asked what became of the transaction; only when it cannot be asked the callers
are told that it is unknown. Nothing is ever written twice. Everything here runs on the writer's thread.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, RootTransaction, bindparam, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from agentmesh.adapters.sql.batch import Batch
from agentmesh.adapters.sql.database import BUSY_SECONDS, name, passing, repeatable, store_error
from agentmesh.adapters.sql.heads import Failure, Heads
from agentmesh.adapters.sql.tables import runs
from agentmesh.errors import LeaseLost, MeshError, StoreError

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("agentmesh.store")
PATIENCE = 3.0
"""Seconds for which a batch is tried again when the database went away under it. While it stays away, others fail at once."""
HURRY = 0.25
"""Seconds to wait for SQLite's file after it was waited for in vain."""
PAUSE = 0.05
"""Seconds before the second try; each later one waits so much longer."""
SAME = 0.5
"""Seconds by which two clocks may differ and still count as one."""
SET_BACK = 1.0
"""Seconds: when the clock is seen so much earlier than before, what was due by it is due by the new one."""
_STILL_DUE = (
    runs.update()
    .where(runs.c.due_at > bindparam("now"), runs.c.due_at <= runs.c.updated_at, runs.c.lease_owner.is_(None))
    .values(due_at=bindparam("now"))
)
_MOMENT = text("SELECT extract(epoch FROM clock_timestamp())::float8, pg_current_xact_id()::text")
_STATUS = text("SELECT pg_xact_status(CAST(:xact AS xid8))").bindparams(bindparam("xact"))


@dataclass(slots=True)
class Request:
    """One operation. `epoch`: of an append to `run_id`, whose later ones must fail when this one does."""

    operation: Callable[[Batch], Any]
    rows: int
    future: asyncio.Future[Any] | None
    touches: Sequence[str] = ()
    """Runs it reads or changes, to be read together."""
    run_id: str | None = None
    epoch: int = 0
    key: tuple[str, str] | None = None
    """(tenant, key) of a start, to be looked up together."""


@dataclass(slots=True)
class Outcome:
    """What became of a request."""

    request: Request
    value: Any = None
    error: BaseException | None = None


@dataclass(slots=True)
class Committed:
    """What became of a batch."""

    outcomes: list[Outcome]
    changed: Sequence[str] = ()
    """Runs whose watchers are to be told."""
    rows: Sequence[tuple[Any, ...]] = ()
    """Of the journal, that were added."""


@dataclass(slots=True)
class _Try:
    """One transaction, and how far it came."""

    committing: bool = False
    xact: str | None = None
    outcomes: list[Outcome] | None = None
    changed: tuple[str, ...] = ()
    taken: Sequence[str] = ()
    rows: Sequence[tuple[Any, ...]] = ()


class Committer:
    """Keeps what is known between batches: heads, and which runs take no more entries under their epoch."""

    def __init__(
        self, engine: Engine, clock: Callable[[], float], *, own_clock: bool, busy: float = BUSY_SECONDS
    ) -> None:
        """`own_clock`: `clock` rules. Else the database's does, and `clock` only tells how far callers are off.

        `busy`: seconds that the engine's connections wait for another program that holds SQLite's file.
        """
        self._engine = engine
        self._clock = clock
        self._own_clock = own_clock
        self._only_writer = engine.dialect.name == "sqlite"
        self._heads = Heads()
        self._broken: dict[str, Failure] = {}
        self._down = False
        self._busy = busy
        self._hurried = False
        """Whether the connection waits only HURRY."""
        self._latest: float | None = None
        """The latest time that was seen; None before the first transaction, since the clock may have been set back before it."""
        self.ahead = 0.0
        """Seconds that the database's clock is ahead of `clock`, as of the last transaction."""

    def commit(self, batch: Sequence[Request]) -> Committed:
        """What became of each request."""
        patience = 0.0 if self._down or self._only_writer else PATIENCE
        until = time.monotonic() + patience
        for again in itertools.count(1):
            current = _Try()
            try:
                self._transact(batch, current)
            except DBAPIError as failed:
                self._heads.forget()
                error = store_error(failed, self._engine.url)
                if isinstance(failed, IntegrityError | DataError) and not passing(failed):
                    if again == 1:
                        continue  # two servers may have met over one key: the second try finds what the other wrote
                    return self._one_by_one(batch, error)
                self._down = True
                if not self._only_writer or "i/o error" in str(failed.orig).lower():
                    # Another address may lead now. What SQLite holds in memory of a file with errors is not to be trusted.
                    self._hurried = False
                    self._engine.dispose()
                if current.committing and not self._only_writer:  # SQLite rolls back a commit that failed
                    written = self._written(current, until)
                    if written is None:
                        error = StoreError(f"{error} Whether the last entries were recorded is unknown.", **error.data)
                        return Committed(self._fail(batch, error))
                    if written:
                        return self._done(current)
                pause = again * PAUSE
                if not repeatable(failed) or time.monotonic() + pause > until:
                    return Committed(self._fail(batch, error))
                time.sleep(pause)
            except Exception as failed:  # the thread must outlive any one batch, and callers must hear of it
                log.exception("a batch of %d requests could not be written", len(batch))
                self._heads.forget()
                said = f"The database {name(self._engine.url)} cannot take what it was given ({failed!r})."
                return self._one_by_one(batch, StoreError(said))
            else:
                return self._done(current)
        raise AssertionError("the count has no end")

    def _transact(self, batch: Sequence[Request], current: _Try) -> None:
        if self._only_writer:
            self._heads.trim()
        else:
            self._heads.forget()  # other processes write too
        outcomes: list[Outcome] = []
        with self._engine.connect() as connection, self._begin(connection) as transaction:
            now = self._moment(connection, current)
            latest = self._latest
            if latest is None or now < latest - SET_BACK:
                self._heads.forget()
                connection.execute(_STILL_DUE, {"now": now})
                latest = now
            work = Batch(connection, self._heads, now, self._broken, ahead=self.ahead)
            work.load(run_id for request in batch for run_id in request.touches)
            if keys := [request.key for request in batch if request.key is not None]:
                work.look_up(keys)
            for request in batch:
                try:
                    outcomes.append(Outcome(request, request.operation(work)))
                except (MeshError, ValueError) as error:
                    outcomes.append(Outcome(request, error=error))
            work.flush()
            current.outcomes, current.changed, current.taken = outcomes, tuple(work.changed), work.taken
            current.rows = work.written
            current.committing = True
            transaction.commit()
        self._latest = max(latest, now)

    def _begin(self, connection: Connection) -> RootTransaction:
        """While SQLite's file is another program's, callers wait for it once, and then each only a moment."""
        if self._only_writer and self._down != self._hurried:
            self._hurried = self._down
            driver: Any = connection.connection.driver_connection
            driver.execute(f"PRAGMA busy_timeout = {int((HURRY if self._down else self._busy) * 1000)}")
        return connection.begin()

    def _moment(self, connection: Connection, current: _Try) -> float:
        """The time that rules, in Unix seconds."""
        if self._only_writer:
            return self._clock()
        now, current.xact = connection.execute(_MOMENT).one()
        if self._own_clock:
            return self._clock()
        ahead = float(now) - self._clock()
        self.ahead = ahead if abs(ahead) > SAME else 0.0
        return float(now)

    def _done(self, current: _Try) -> Committed:
        self._down = False
        for run_id in current.taken:
            self._broken.pop(run_id, None)  # not before the commit: until then the old epoch is the run's
        outcomes = current.outcomes or []
        for outcome in outcomes:
            if outcome.error is not None:
                self._remember(outcome.request, outcome.error)
        return Committed(outcomes, current.changed, current.rows)

    def _written(self, current: _Try, until: float) -> bool | None:
        """Whether a transaction was committed whose connection was lost meanwhile; None when nobody can tell."""
        if current.xact is None:
            return None
        for again in itertools.count(1):
            try:
                with self._engine.connect() as connection:
                    status = connection.scalar(_STATUS, {"xact": current.xact})
                if status in ("committed", "aborted"):
                    return bool(status == "committed")
            except DBAPIError:
                pass  # still away
            if time.monotonic() + again * PAUSE > until:
                return None
            time.sleep(again * PAUSE)
        return None

    def _one_by_one(self, batch: Sequence[Request], error: MeshError) -> Committed:
        """Somebody's rows are at fault; alone, they fail alone."""
        if len(batch) == 1:
            return Committed(self._fail(batch, error, passing=False))
        each = [self.commit([request]) for request in batch]
        return Committed(
            [outcome for one in each for outcome in one.outcomes], [run_id for one in each for run_id in one.changed],
            [row for one in each for row in one.rows],
        )  # fmt: skip

    def _fail(self, batch: Sequence[Request], error: MeshError, *, passing: bool = True) -> list[Outcome]:
        for request in batch:
            self._remember(request, error, passing=passing)
        return [Outcome(request, error=error) for request in batch]

    def _remember(self, request: Request, error: BaseException, *, passing: bool = False) -> None:
        # LeaseLost repeats by itself. A contradiction that its author hears of changes nothing either.
        run_id, epoch = request.run_id, request.epoch
        if (
            run_id is None
            or isinstance(error, LeaseLost)
            or (isinstance(error, ValueError) and request.future is not None)
        ):
            return
        earlier = self._broken.get(run_id)
        if earlier is not None and earlier.epoch >= epoch:
            return
        kept = (
            error if isinstance(error, StoreError) else StoreError(f"An earlier entry could not be written: {error}.")
        )
        self._broken[run_id] = Failure(epoch, kept, passing)
