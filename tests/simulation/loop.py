"""Loop: an event loop whose time passes only when nothing is left to do, and then at once.

An hour of waiting costs nothing, and the order of everything that happens depends on the seed alone.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

STEPS = 400_000
"""Turns of the loop after which a schedule counts as one that does not end."""


class Stuck(Exception):
    """Nothing can happen any more, or things happen without an end."""


class _Selector:
    """Looks at real sockets (the loop's own pipe), and never waits for them."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.pass_time: Callable[[float | None], None] = lambda _: None

    def select(self, timeout: float | None = None) -> list[Any]:
        found = self._real.select(0)
        if not found and (timeout is None or timeout > 0):
            self.pass_time(timeout)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """`at_turn(n, call)` calls it between two turns: nothing awaits anything but its own step at that moment."""

    def __init__(self) -> None:
        self._now = 0.0
        self.turns = 0
        self._due: list[tuple[int, Callable[[], None]]] = []
        selector = _Selector()
        super().__init__(selector)  # type: ignore[arg-type]
        selector.pass_time = self._pass_time

    def time(self) -> float:
        return self._now

    def at_turn(self, turn: int, call: Callable[[], None]) -> None:
        self._due.append((turn, call))
        self._due.sort(key=lambda due: -due[0])

    def _pass_time(self, seconds: float | None) -> None:
        if seconds is None:
            raise Stuck("everybody waits and nothing is due")
        self._now += seconds

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns > STEPS:
            raise Stuck(f"no end after {STEPS} turns of the event loop")
        while self._due and self._due[-1][0] <= self.turns:
            self._due.pop()[1]()
        super()._run_once()  # type: ignore[misc]
