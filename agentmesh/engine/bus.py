"""Bus: what happens in this process, said at once to whoever waits for it.

Durable facts are in the journal; the bus only says "look again", carries lines that are not worth recording (a model is loading),
and hands a finished run straight to the call that waits for it. What it says may be repeated, never relied on after a crash.
Everything here runs on the event loop's thread.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import anyio

from agentmesh.core.run import Run

_BEGUN = 10_000
"""Runs of this process that are remembered as they were begun."""


class Executing(Protocol):
    """A run that this process executes."""

    def cancel(self, by: str) -> None:
        """Stops it at once."""
        ...

    async def look(self) -> None:
        """Something arrived for it from outside, or may have."""
        ...

    def poke(self) -> None:
        """An agent elsewhere says that its task has changed."""
        ...


class Subscription:
    """One waiter's view of one run. Not to be shared between tasks."""

    def __init__(self, *, patient: bool = False) -> None:
        """`patient`: what happens before the end, or a question, may be told a moment later."""
        self.patient = patient
        self._event = anyio.Event()
        self._end = anyio.Event()
        self._stir = anyio.Event()
        self.changed = False
        """The journal may have grown since `wait` returned last."""
        self.notices: deque[str] = deque(maxlen=256)
        self.ended: Run | None = None
        """The run's head (no steps) after its terminal entry was committed in this process."""
        self.on_end: Callable[[], None] | None = None
        """Called when the run has ended, or was parked, in this process."""

    def wake(self) -> None:
        self._event.set()

    def end(self, run: Run) -> None:
        self.ended = run
        self.changed = True
        self._event.set()
        self._end.set()
        self.stir()

    def stir(self) -> None:
        self._stir.set()
        if self.on_end is not None:
            self.on_end()

    async def wait(self) -> None:
        """Returns when there is something new; at once when there has been since the last return."""
        await self._event.wait()
        self._event = anyio.Event()

    async def wait_end(self) -> None:
        """Returns when the run has ended in this process; what happens before does not wake it."""
        await self._end.wait()

    async def wait_end_or_park(self) -> bool:
        """Returns when the run has ended, or stopped working here because it only waits."""
        await self._stir.wait()
        self._stir = anyio.Event()
        return True


class Bus:
    """Wires Runs, Worker and watchers of one process together without their knowing each other."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._owned: dict[str, Executing] = {}
        self._parents: dict[str, str] = {}
        self._begun: OrderedDict[str, Run] = OrderedDict()
        self._started = anyio.Event()
        self._listeners: set[Callable[[str], None]] = set()
        self.claimer: Callable[[str, bool, str], Awaitable[None] | None] | None = None
        """The worker's, while it runs: given a run that is just being recorded, whether it has a parent, and its workflow, what claims
        it; None when there is no place for it now."""

    @contextmanager
    def subscribe(self, run_id: str, *, patient: bool = False) -> Iterator[Subscription]:
        subscription = Subscription(patient=patient)
        self._subscriptions.setdefault(run_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            waiting = self._subscriptions[run_id]
            waiting.discard(subscription)
            if not waiting:
                del self._subscriptions[run_id]

    def hurries(self, run_id: str) -> bool:
        """Whether somebody here wants to hear of each of its rows at once."""
        return any(not subscription.patient for subscription in self._subscriptions.get(run_id, ()))

    def changed(self, run_id: str) -> None:
        """The run's journal grew, here or elsewhere."""
        for subscription in self._subscriptions.get(run_id, ()):
            subscription.changed = True
            subscription.wake()

    def notice(self, run_id: str, line: str) -> None:
        """A line in plain words that is shown to watchers and forgotten; to those of the run's parents too."""
        at: str | None = run_id
        while at is not None:
            for subscription in self._subscriptions.get(at, ()):
                subscription.notices.append(line)
                subscription.wake()
            at = self._parents.get(at)

    def begun(self, run: Run) -> None:
        """This process recorded the run: whoever asks soon need not read the store."""
        self._begun[run.id] = run
        if len(self._begun) > _BEGUN:
            self._begun.popitem(last=False)

    def known(self, run_id: str) -> Run | None:
        """The run as it was begun in this process, while it has not ended there; None says nothing."""
        return self._begun.get(run_id)

    def ended(self, run: Run) -> None:
        """A run reached its end in this process; its terminal entry is committed."""
        self._begun.pop(run.id, None)
        for subscription in self._subscriptions.get(run.id, ()):
            subscription.end(run)
        for listener in tuple(self._listeners):
            listener(run.id)

    def parked(self, run_id: str) -> None:
        """A run of this process waits in the store now."""
        for subscription in tuple(self._subscriptions.get(run_id, ())):
            subscription.stir()

    @contextmanager
    def on_end(self, listener: Callable[[str], None]) -> Iterator[None]:
        """Calls `listener` with the id of every run that ends in this process."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def started(self) -> None:
        """There is a run to claim."""
        self._started.set()

    async def wait_started(self) -> None:
        await self._started.wait()

    def take_started(self) -> None:
        """Forgets earlier calls of `started`; call it before claiming, so that nothing falls in between."""
        if self._started.is_set():
            self._started = anyio.Event()

    def own(self, run_id: str, parent: str | None, execution: Executing) -> None:
        """This process executes the run."""
        self._owned[run_id] = execution
        if parent is not None:
            self._parents[run_id] = parent

    def disown(self, run_id: str) -> None:
        self._owned.pop(run_id, None)
        self._parents.pop(run_id, None)

    def owns(self, run_id: str) -> bool:
        return run_id in self._owned

    def poke(self, run_id: str) -> bool:
        """Has the run look at what works for it elsewhere; False when this process does not execute it."""
        execution = self._owned.get(run_id)
        if execution is None:
            return False
        execution.poke()
        return True

    def cancel(self, run_id: str, by: str) -> bool:
        """Stops the run at once if this process executes it."""
        execution = self._owned.get(run_id)
        if execution is None:
            return False
        execution.cancel(by)
        return True

    async def arrived(self, run_id: str) -> None:
        """Something from outside was recorded for the run: whoever executes it here looks, else it is there to be claimed."""
        execution = self._owned.get(run_id)
        if execution is None:
            self.started()
        else:
            await execution.look()
