"""Changes: tells whoever waits in this process that a run changed, after the commit."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary, finalize

import anyio

PENDING = 65_536
"""Run ids one subscriber may have waiting; past it the oldest are forgotten, as the Store's contract allows."""


class Subscription:
    """An async iterator of run ids. A run that changes five times before it is read is told once.

    It lives as long as somebody holds it; `aclose` ends it, also for a task that waits on it.
    """

    def __init__(self) -> None:
        self._dirty: dict[str, None] = {}
        self._event = anyio.Event()
        self._closed = False

    def tell(self, run_id: str) -> None:
        self._dirty[run_id] = None
        if len(self._dirty) > PENDING:
            del self._dirty[next(iter(self._dirty))]
        self._event.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> str:
        while not self._dirty:
            if self._closed:
                raise StopAsyncIteration
            self._event = anyio.Event()
            await self._event.wait()
        run_id = next(iter(self._dirty))
        del self._dirty[run_id]
        return run_id

    def close(self) -> None:
        self._closed = True
        self._event.set()

    async def aclose(self) -> None:
        self.close()


class Changes:
    """Who waits for which runs. Belongs to the event loop: call it from there only."""

    def __init__(self) -> None:
        # Dictionaries, not sets: who subscribed first is told first, in every process alike.
        self._all: WeakKeyDictionary[Subscription, None] = WeakKeyDictionary()
        self._of: dict[str, WeakKeyDictionary[Subscription, None]] = {}

    def subscribe(self, run_id: str | None = None) -> Subscription:
        """Live when it returns. None: every run."""
        subscription = Subscription()
        if run_id is None:
            self._all[subscription] = None
        else:
            # Before `add`: callbacks run newest first, so that the set is empty by the time `_forget` looks.
            finalize(subscription, self._forget, run_id).atexit = False
            self._of.setdefault(run_id, WeakKeyDictionary())[subscription] = None
        return subscription

    def publish(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            for subscription in self._all:
                subscription.tell(run_id)
            for subscription in self._of.get(run_id, ()):
                subscription.tell(run_id)

    def close(self) -> None:
        """Ends every subscription."""
        for waiting in (self._all, *self._of.values()):
            for subscription in list(waiting):
                subscription.close()

    def _forget(self, run_id: str) -> None:
        if not self._of.get(run_id):
            self._of.pop(run_id, None)
