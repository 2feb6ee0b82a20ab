"""Condition: how an agent elsewhere is, by what calls and looks at its card have met."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

from agentmesh.core.agent import AgentHealth

SHARE: Final = 0.2
"""Of the newest measurement in the moving average."""
MISSES: Final = 3
"""Answers in a row that did not come, after which it counts as down."""
TASKS: Final = 10_000
FORGET: Final = 3600.0
"""Seconds without a word after which a task is not counted any more; another process may have followed it to its end."""


class Condition:
    """Of one agent. Knows nothing of its own accord: it is told."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._state: Literal["up", "down", "unknown"] = "unknown"
        self._detail = "its card has not been read yet"
        self._latency = 0.0
        self._misses = 0
        self._tasks: OrderedDict[str, float] = OrderedDict()

    @property
    def down(self) -> bool:
        return self._state == "down"

    def answered(self, seconds: float | None = None) -> None:
        """It answered, whatever it said; after so long."""
        self._state, self._detail, self._misses = "up", "", 0
        if seconds is not None:
            self._latency = seconds if not self._latency else self._latency + SHARE * (seconds - self._latency)

    def missed(self, detail: str) -> None:
        """It gave no answer, and may yet be well."""
        self._misses += 1
        if self._misses >= MISSES:
            self.fell(detail)

    def fell(self, detail: str) -> None:
        """It cannot be reached, or cannot be used."""
        self._state, self._detail = "down", detail

    def works_on(self, task: str) -> None:
        now = self._clock()
        self._tasks[task] = now
        self._tasks.move_to_end(task)
        while self._tasks and (len(self._tasks) > TASKS or next(iter(self._tasks.values())) < now - FORGET):
            self._tasks.popitem(last=False)

    def ended(self, task: str) -> None:
        self._tasks.pop(task, None)

    def now(self, sending: int) -> AgentHealth:
        """`sending`: messages that it has not said a word to yet."""
        return AgentHealth(self._state, self._detail, self._latency, len(self._tasks) + sending)
