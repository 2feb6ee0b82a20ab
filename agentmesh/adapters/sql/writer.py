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
from typing import Any

from agentmesh.adapters.sql.batch import Batch
from agentmesh.adapters.sql.committing import Committed, Committer, Request
from agentmesh.errors import StoreError

ROWS = 256
"""Most rows of one transaction."""
LINGER = 0.002
"""Most seconds to wait for callers that are likely to come back."""
FEW = 4
"""Requests of a commit up to which none are lingered for: the beginning and the claim of a lone run come together, its next write alone."""
BACKLOG = 8192
"""Rows that may wait for the thread before `crowded` asks callers to wait too."""


class Writer:
    """Started and stopped by the store, on its event loop."""

    def __init__(self, committer: Committer, publish: Callable[[Committed], None]) -> None:
        """`publish` gets, on the event loop, what a commit changed, before any task goes on that asked for it."""
        self._committer = committer
        self._publish = publish
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._backlog = 0
        self._loop = asyncio.get_running_loop()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def crowded(self) -> bool:
        """Whether so much waits that a caller should not add more without waiting."""
        return self._backlog > BACKLOG

    def submit(
        self, operation: Callable[[Batch], Any], *, rows: int = 1, touches: Sequence[str] = (),
        key: tuple[str, str] | None = None,
    ) -> asyncio.Future[Any]:  # fmt: skip
        """Runs the operation in the next transaction; the future ends after its commit.

        Cancelling the future does not take the operation back.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._enqueue(Request(operation, rows, future, touches, key=key))
        return future

    def append(
        self, operation: Callable[[Batch], Any], *, rows: int, run_id: str, epoch: int, wait: bool
    ) -> asyncio.Future[Any] | None:
        """Like `submit`; a failure is remembered against the run, and None is given when nobody waits."""
        future: asyncio.Future[Any] | None = self._loop.create_future() if wait else None
        self._enqueue(Request(operation, rows, future, (run_id,), run_id, epoch))
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
                self._settle(self._committer.commit(batch))
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
                if expected <= FEW or len(batch) >= expected or left <= 0:
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

    def _settle(self, committed: Committed) -> None:
        try:
            self._loop.call_soon_threadsafe(self._acknowledge, committed)
        except RuntimeError:
            pass  # the loop is closed: everything is committed, and nobody is left to hear it

    def _acknowledge(self, committed: Committed) -> None:
        for outcome in committed.outcomes:
            self._backlog -= outcome.request.rows
            future = outcome.request.future
            if future is None or future.done():
                continue
            if outcome.error is None:
                future.set_result(outcome.value)
            else:
                future.set_exception(outcome.error)
        self._publish(committed)
