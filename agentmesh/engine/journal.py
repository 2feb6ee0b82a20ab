"""Journal: what one claimed run has recorded so far, and the pen that records more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from agentmesh.core.model import Usage
from agentmesh.core.run import JSON, Entry, Kind, StepState, usage_from_json
from agentmesh.core.store import Store

UNSET = object()
COPIED = "copied_from"
"""Member of the rows that a fork begins with: the run that did the step. What that run did is not this one's to undo."""


@dataclass(slots=True)
class Recorded:
    """What the journal says of one path."""

    state: StepState | None = None
    """Set when the step has ended."""
    output: JSON = None
    error: Mapping[str, JSON] | None = None
    attempt: int = 0
    """Highest begun."""
    begun: bool = False
    open: bool = False
    """The last attempt begun was cut off: nothing says how it ended."""
    attempts: list[Entry] = field(default_factory=list)
    """STEP_ATTEMPT entries, oldest first."""
    choice: Any = UNSET
    """The branch that a `switch` took."""
    waiting: Entry | None = None
    """The last STEP_WAITING entry."""
    task: Mapping[str, JSON] | None = None
    """{peer, task, context} of the last STEP_TASK entry: the task elsewhere that does the attempt's work."""
    begun_at: float = 0.0
    """Unix seconds of the first attempt's start, by the store's clock."""
    ended_seq: int = 0
    copied: bool = False
    """Another run did it, of which this one is a fork."""


_ENDS = {
    Kind.STEP_COMPLETED: StepState.COMPLETED,
    Kind.STEP_FAILED: StepState.FAILED,
    Kind.STEP_SKIPPED: StepState.SKIPPED,
}
NOTHING = Recorded()


def recall(entries: Iterable[Entry]) -> dict[str, Recorded]:
    """What a run's journal says, by path."""
    paths: dict[str, Recorded] = {}
    for entry in entries:
        if not entry.path:
            continue
        recorded = paths.get(entry.path)
        if recorded is None:
            recorded = paths[entry.path] = Recorded()
        if entry.kind is Kind.STEP_STARTED:
            recorded.attempt = max(recorded.attempt, entry.attempt)
            if not recorded.begun:
                recorded.begun_at = entry.at
            recorded.begun = recorded.open = True
            recorded.choice = entry.payload.get("choice", recorded.choice)
        elif entry.kind is Kind.STEP_WAITING:
            recorded.begun = True
            recorded.waiting = entry
        elif entry.kind is Kind.STEP_TASK:
            recorded.task = entry.payload
        elif entry.kind is Kind.STEP_ATTEMPT:
            recorded.open = False
            recorded.task = None  # a further attempt sends its own message
            recorded.attempts.append(entry)
        elif entry.kind in _ENDS:
            recorded.open = False
            recorded.state = _ENDS[entry.kind]
            recorded.copied = COPIED in entry.payload
            recorded.ended_seq = entry.seq
            recorded.output = entry.payload.get("output")
            recorded.error = entry.payload.get("error")
    return paths


class Journal:
    """Appends to one run under one epoch.

    Rows are sent when the event loop comes round, so that a step that never waited is one append. Those held back go with the next
    write, so that the end of a step and what follows it are one transaction. They are facts: `flush` them before waiting for anything
    long and before giving the run back.
    """

    def __init__(
        self, store: Store, run_id: str, epoch: int, later: Callable[[Journal], None] | None = None,
        unhurried: Callable[[Journal], None] | None = None,
    ) -> None:  # fmt: skip
        """`later`: has `flush` called soon; None: what is written is sent at once. `unhurried`: the same within some milliseconds."""
        self._store = store
        self._run_id = run_id
        self._epoch = epoch
        self._later = later
        self._unhurried = unhurried or later
        self._turn = anyio.Lock(fast_acquire=True)
        self._held: list[Entry] = []
        self._held_puts: dict[tuple[str, str], Any] = {}
        self.usage = Usage()
        """What the attempts written here cost."""

    def hold(self, *entries: Entry, put: Mapping[tuple[str, str], Any] | None = None) -> None:
        """Records entries with the next write."""
        self._held += entries
        if put:
            self._held_puts.update(put)

    async def write(
        self, *entries: Entry, wait: bool = False, hold: bool = False, put: Mapping[tuple[str, str], Any] | None = None,
        patient: bool = False,
    ) -> None:  # fmt: skip
        """Records entries in order. `wait`: durable when it returns. `hold`: with the next write. `patient`: that, or a moment later."""
        self._held += entries
        if put:
            self._held_puts.update(put)
        if hold:
            return
        if wait or self._later is None:
            await self.flush(wait=wait)
        elif patient and self._unhurried is not None:
            self._unhurried(self)
        else:
            self._later(self)

    def put_soon(self, *entries: Entry) -> None:
        """Records entries when the event loop comes round; may be called where nothing can be waited for."""
        self._held += entries
        if self._later is not None:
            self._later(self)

    async def flush(self, *, wait: bool = False) -> None:
        if not self._held and not self._held_puts and not wait:
            return
        async with self._turn:  # a store may take long over one batch, and must not be given the next one first
            entries, self._held = self._held, []
            for entry in entries:
                if entry.kind is Kind.STEP_ATTEMPT:
                    self.usage += usage_from_json(entry.payload.get("usage"))
            puts, self._held_puts = self._held_puts, {}
            await self._store.append(self._run_id, self._epoch, entries, put=puts or None, wait=wait)


def spent(entries: Iterable[Entry]) -> tuple[int, float]:
    """Tokens and seconds of every attempt so far."""
    tokens, time = 0, 0.0
    for entry in entries:
        if entry.kind is Kind.STEP_ATTEMPT:
            usage = usage_from_json(entry.payload.get("usage"))
            tokens += usage.tokens
            time += usage.seconds
    return tokens, time
