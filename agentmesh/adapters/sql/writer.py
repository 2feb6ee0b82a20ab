"""Writer: the one thread that writes, committing what many callers asked for in one transaction.

While a commit is on its way to the disk, the next requests gather; they share the next commit. A caller alone is
written at once; when several were waiting the time before, the thread lingers a moment for them to come back, or every
other commit would carry one row and leave the rest for the next. Acknowledgements reach the event loop in one call per
commit.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from agentmesh.adapters.sql.batch import Batch, Heads
from agentmesh.adapters.sql.database import name, store_error
from agentmesh.errors import LeaseLost, MeshError, StoreError

ROWS = 256
"""Most rows of one transaction."""
LINGER = 0.002
"""Most seconds to wait for callers that are likely to come back."""
BACKLOG = 8192
"""Rows that may wait for the thread before `crowded` asks callers to wait too."""


@dataclass(slots=True)
class Request:
    """One operation. `run_id`: whose later appends must fail when this one does."""

    operation: Callable[[Batch], Any]
    rows: int
    future: asyncio.Future[Any] | None
    run_id: str | None = None
    epoch: int = 0


@dataclass(slots=True)
class _Outcome:
    request: Request
    value: Any = None
    error: BaseException | None = None


class Writer:
    """Started and stopped by the store, on its event loop."""

    def __init__(self, engine: Engine, clock: Callable[[], float], publish: Callable[[Sequence[str]], None]) -> None:
        """`publish` gets, on the event loop, the runs that a commit changed."""
        self._engine = engine
        self._clock = clock
        self._publish = publish
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._heads = Heads()
        self._broken: dict[str, tuple[int, StoreError]] = {}
        self._backlog = 0
        self._loop = asyncio.get_running_loop()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def crowded(self) -> bool:
        """Whether so much waits that a caller should not add more without waiting."""
        return self._backlog > BACKLOG

    def submit(self, operation: Callable[[Batch], Any], *, rows: int = 1) -> asyncio.Future[Any]:
        """Runs the operation in the next transaction; the future ends after its commit.

        Cancelling the future does not take the operation back.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._enqueue(Request(operation, rows, future))
        return future

    def append(
        self, operation: Callable[[Batch], Any], *, rows: int, run_id: str, epoch: int, wait: bool
    ) -> asyncio.Future[Any] | None:
        """Like `submit`; a failure is remembered against the run, and None is given when nobody waits."""
        future: asyncio.Future[Any] | None = self._loop.create_future() if wait else None
        self._enqueue(Request(operation, rows, future, run_id, epoch))
        return future

    def stop(self) -> None:
        """Ends the thread after everything submitted so far is committed. Blocks; may be called twice."""
        self._stopped = True
        self._queue.put(None)
        self._thread.join()

    def _enqueue(self, request: Request) -> None:
        if self._stopped:
            raise StoreError("The store is closed; nothing more can be written in this process.")
        self._backlog += request.rows
        self._queue.put(request)

    def _work(self) -> None:
        came = 1
        while True:
            batch, last = self._gather(came)
            came = len(batch)
            if batch:
                self._settle(*self._commit(batch))
            if last:
                return

    def _gather(self, expected: int) -> tuple[list[Request], bool]:
        """The requests of the next transaction, and whether the writer is to stop after it."""
        first = self._queue.get()
        if first is None:
            return [], True
        batch, rows = [first], first.rows
        until = time.monotonic() + LINGER
        while rows < ROWS:
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                left = until - time.monotonic()
                if len(batch) >= expected or left <= 0:
                    break
                try:
                    request = self._queue.get(timeout=left)
                except queue.Empty:
                    break
            if request is None:
                return batch, True
            batch.append(request)
            rows += request.rows
        return batch, False

    def _commit(self, batch: list[Request]) -> tuple[list[_Outcome], list[str]]:
        try:
            return self._transact(batch)
        except DBAPIError as error:
            said = store_error(error, self._engine.url)
            # Not tried again: whether a lost connection committed is unknown, and entries must not be there twice.
            refused = isinstance(error, IntegrityError | DataError)
        except Exception as error:  # the thread must outlive any one batch, and callers must hear of it
            said = StoreError(f"The database {name(self._engine.url)} cannot take what it was given ({error!r}).")
            refused = True
        self._heads.clear()
        if not refused or len(batch) == 1:
            return self._fail(batch, said), []
        # Somebody's rows are at fault; alone, they fail alone.
        outcomes: list[_Outcome] = []
        changed: list[str] = []
        for request in batch:
            outcome, runs = self._commit([request])
            outcomes += outcome
            changed += runs
        return outcomes, changed

    def _transact(self, batch: list[Request]) -> tuple[list[_Outcome], list[str]]:
        if self._engine.dialect.name == "sqlite":
            self._heads.trim()
        else:
            self._heads.clear()  # other processes write too
        outcomes: list[_Outcome] = []
        with self._engine.begin() as connection:
            work = Batch(connection, self._heads, self._clock(), self._broken)
            work.load(request.run_id for request in batch if request.run_id is not None)
            for request in batch:
                try:
                    outcomes.append(_Outcome(request, request.operation(work)))
                except (MeshError, ValueError) as error:
                    outcomes.append(_Outcome(request, error=error))
            work.flush()
        for outcome in outcomes:
            if outcome.error is not None:
                self._remember(outcome.request, outcome.error)
        return outcomes, list(work.changed)

    def _fail(self, batch: list[Request], error: MeshError) -> list[_Outcome]:
        for request in batch:
            self._remember(request, error)
        return [_Outcome(request, error=error) for request in batch]

    def _remember(self, request: Request, error: BaseException) -> None:
        # LeaseLost repeats by itself. A contradiction that its author hears of changes nothing either.
        if request.run_id is None or isinstance(error, LeaseLost) or request.run_id in self._broken:
            return
        if isinstance(error, ValueError) and request.future is not None:
            return
        kept = (
            error if isinstance(error, StoreError) else StoreError(f"An earlier entry could not be written: {error}.")
        )
        self._broken[request.run_id] = request.epoch, kept

    def _settle(self, outcomes: list[_Outcome], changed: list[str]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._acknowledge, outcomes, changed)
        except RuntimeError:
            pass  # the loop is closed: everything is committed, and nobody is left to hear it

    def _acknowledge(self, outcomes: list[_Outcome], changed: list[str]) -> None:
        for outcome in outcomes:
            self._backlog -= outcome.request.rows
            future = outcome.request.future
            if future is None or future.done():
                continue
            if outcome.error is None:
                future.set_result(outcome.value)
            else:
                future.set_exception(outcome.error)
        self._publish(changed)
