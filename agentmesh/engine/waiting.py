"""Waiting: what the branches of one run wait for, and what has arrived for them from outside.

A wait holds no task for long. While another branch of the run works, a waiting one is a task that sleeps; when every branch only
waits, and nothing is due soon, the run is parked: its execution ends, and the store wakes it at the earliest due time or when
something arrives. Then the walk comes the same way again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from agentmesh.core.question import Answer
from agentmesh.core.run import JSON, Entry, Kind

SOON = 5.0
"""Seconds: what is due within them is slept through, since parking and walking again costs more."""

LONGEST_SLEEP = 30.0
"""Seconds: a clock that is set forward is noticed so late at most."""


class Wait:
    """One branch that waits. `due`: Unix seconds, or None."""

    __slots__ = ("_event", "due", "woken")

    def __init__(self, due: float | None) -> None:
        self.due = due
        self.woken = False
        self._event = anyio.Event()

    def set(self) -> None:
        self.woken = True
        self._event.set()

    async def over(self) -> None:
        await self._event.wait()


class Branches:
    """The branches of one block. Each calls `ended` once, whatever became of it."""

    __slots__ = ("_left", "_stopping", "_waits")

    def __init__(self, waits: Waits, count: int) -> None:
        self._waits = waits
        self._left = count
        self._stopping = False

    def stop(self) -> None:
        """The block fails and cuts its other branches off: nothing of it waits any more."""
        self._stopping = True

    def ended(self) -> None:
        self._left -= 1
        if self._left:  # the last one's place goes back to the branch that the block stands in
            self._waits.less(look=not self._stopping)


class Waits:
    """Counts the branches of one run that work; parks the run when there are none."""

    def __init__(
        self, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]], park: Callable[[], None] | None
    ) -> None:
        """`park` cuts every branch off; None: the run is never parked."""
        self._clock = clock
        self._sleep = sleep
        self._park = park
        self._parked = False
        self._working = 1
        self._waiting: dict[Wait, None] = {}
        """The oldest first: whoever waited longest is the first to look at what arrives."""
        self._deadlines: list[float] = []

    @property
    def any(self) -> bool:
        """Whether a branch waits now."""
        return bool(self._waiting)

    @property
    def wake_at(self) -> float | None:
        """When the first of them is due; None when only something from outside can help."""
        due = [wait.due for wait in self._waiting if wait.due is not None] + self._deadlines
        return min(due, default=None)

    @contextmanager
    def deadline(self, due: float) -> Iterator[None]:
        """A parked run is woken at that time, too: what stands inside must have ended by then."""
        self._deadlines.append(due)
        try:
            yield
        finally:
            self._deadlines.remove(due)

    def branches(self, count: int) -> Branches:
        """`count` branches take the place of the one that opens them."""
        self._working += count - 1
        return Branches(self, count)

    def less(self, *, look: bool = True) -> None:
        self._working -= 1
        if look:
            self._look()

    def wake(self, wait: Wait) -> None:
        if wait in self._waiting and not self._parked:  # what is parked looks again before it is given up
            del self._waiting[wait]
            self._working += 1
            wait.set()

    def wake_all(self) -> None:
        """Something arrived: each looks again whether it was meant."""
        for wait in tuple(self._waiting):
            self.wake(wait)

    async def pause(self, wait: Wait) -> bool:
        """Until the wait is due (True) or somebody wakes it (False). Does not come back when the run is parked meanwhile."""
        if wait.woken:
            return False
        if wait.due is not None and wait.due <= self._clock():
            return True
        self._waiting[wait] = None
        self.less()
        try:
            if wait.due is None:
                await wait.over()
                return False
            await anyio.lowlevel.checkpoint()  # a run that is parked now does not come past this
            over = await self._sleep_or_wake(wait, wait.due)
            if self._parked:
                await anyio.sleep_forever()  # the cut is on its way: nothing may begin now
            return over
        finally:
            if wait in self._waiting:
                del self._waiting[wait]
                self._working += 1

    async def _sleep_or_wake(self, wait: Wait, due: float) -> bool:
        async def nap(scope: anyio.CancelScope) -> None:
            while (left := due - self._clock()) > 0:
                await self._sleep(min(left, LONGEST_SLEEP))
            scope.cancel()

        if wait.woken:
            return False
        async with anyio.create_task_group() as group:
            group.start_soon(nap, group.cancel_scope)
            await wait.over()
            group.cancel_scope.cancel()
        return not wait.woken

    def _look(self) -> None:
        if self._working or not self._waiting or self._park is None:
            return
        wake_at = self.wake_at
        if wake_at is None or wake_at - self._clock() > SOON:
            self._parked = True
            self._park()


@dataclass(slots=True)
class Inbox:
    """Signals and answers of one run, as its journal has them."""

    seq: int = 0
    """Of the last entry read."""
    signals: list[Entry] = field(default_factory=list)
    """RUN_SIGNALED, oldest first, those that a step took included."""
    used: set[int] = field(default_factory=set)
    """`seq` of the signals that a step took."""
    answers: dict[str, Entry] = field(default_factory=dict)
    """RUN_ANSWERED by question."""

    def read(self, entries: Iterable[Entry]) -> bool:
        """Whether there was anything from outside among them."""
        found = False
        for entry in entries:
            self.seq = max(self.seq, entry.seq)
            if entry.kind is Kind.RUN_SIGNALED:
                self.signals.append(entry)
                found = True
            elif entry.kind is Kind.RUN_ANSWERED:
                self.answers.setdefault(entry.payload["question"], entry)
                found = True
            elif entry.kind is Kind.STEP_COMPLETED and entry.payload.get("signal"):
                self.used.add(entry.payload["signal"])
        return found

    def take(self, name: str) -> Entry | None:
        """The oldest signal of that name that no step took; it is taken now."""
        for entry in self.signals:
            if entry.payload["name"] == name and entry.seq not in self.used:
                self.used.add(entry.seq)
                return entry
        return None

    def answer(self, question: str, until: float | None) -> Answer | None:
        """What was said to a question in time."""
        entry = self.answers.get(question)
        if entry is None or (until is not None and entry.at > until):
            return None
        payload = entry.payload
        value: JSON = payload.get("value")
        return Answer(payload["yes"], value, payload["by"], entry.at)
