"""Loop: an event loop whose time passes only when nothing is left to do, and then at once.

An hour of waiting costs nothing, and the order of everything that happens depends on the seed alone.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from anyio._backends._asyncio import CancelScope

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


class _Task(asyncio.Task[Any]):
    """Sets of tasks, as a cancelled group keeps them, are walked in an order that does not depend on where memory was free."""

    _numbers = itertools.count()

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(*arguments, **more)

    def __hash__(self) -> int:
        return self._number


@contextmanager
def scopes_in_order() -> Iterator[None]:
    """anyio's cancel scopes, which it keeps in sets too, are numbered like the tasks while the block runs. No loop may run outside."""
    numbers: dict[int, int] = {}
    begun = CancelScope.__init__

    def number(self: CancelScope, *arguments: Any, **more: Any) -> None:
        begun(self, *arguments, **more)
        numbers[id(self)] = next(counter)

    counter = itertools.count()
    CancelScope.__init__ = number  # type: ignore[method-assign]
    CancelScope.__hash__ = lambda self: numbers[id(self)]  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        CancelScope.__init__ = begun  # type: ignore[method-assign]
        CancelScope.__hash__ = object.__hash__  # type: ignore[method-assign]


class SimulatedLoop(asyncio.SelectorEventLoop):
    """`at_turn(n, call)` calls it between two turns: nothing awaits anything but its own step at that moment."""

    def __init__(self) -> None:
        self._now = 0.0
        self.turns = 0
        self._due: list[tuple[int, Callable[[], None]]] = []
        selector = _Selector()
        super().__init__(selector)  # type: ignore[arg-type]
        selector.pass_time = self._pass_time
        _Task._numbers = itertools.count()
        self.set_task_factory(lambda loop, coro, **more: _Task(coro, loop=loop, **more))

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
