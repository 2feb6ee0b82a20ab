"""Breaker: stops asking a server that fails again and again, and tries it with one call after a while."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agentmesh.errors import NotSent


@dataclass(frozen=True, slots=True)
class BreakerPace:
    """When it opens, and for how long (seconds)."""

    failures: int = 5
    """In a row."""
    rest: float = 5.0
    """Before the first probe; doubles with each probe that fails, up to `rest_limit`."""
    rest_limit: float = 60.0


class Breaker:
    """Of one server. Closed: all calls go through. Open: none. Then half open: one call does, and its end decides."""

    def __init__(
        self, name: str, *, clock: Callable[[], float], rng: random.Random, pace: BreakerPace = BreakerPace()
    ) -> None:
        """`clock`: seconds that only grow. `rng` spreads the probes of replicas that saw the same failure."""
        self._name, self._clock, self._random, self._pace = name, clock, rng, pace
        self._failures = 0
        self._rest = pace.rest
        self._until: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether nothing goes through, or only a probe."""
        return self._until is not None

    @property
    def left(self) -> float:
        """Seconds until a call may try again; 0 when one may now."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    @contextmanager
    def passing(self) -> Iterator[None]:
        """Around one call. NotSent when it may not go through. Say `failed` or `succeeded` within; neither says nothing."""
        probe = self._until is not None
        if probe:
            if self._probing or self.left > 0:
                wait = max(self.left, 0.1)
                raise NotSent(
                    f"{self._name} failed {self._failures} times in a row and is let rest; it is tried again in {wait:.1f} s",
                    after=wait,
                )
            self._probing = True
        try:
            yield
        finally:
            if probe:
                self._probing = False

    def succeeded(self) -> None:
        """It answered: whatever it said, it is there."""
        self._failures, self._until, self._rest = 0, None, self._pace.rest

    def failed(self) -> None:
        """It could not be reached, or did not answer."""
        self._failures += 1
        if self._until is not None and not self._probing:
            return  # one that was on its way when it was found to be gone: the others have said so
        if self._until is not None:
            self._rest = min(self._rest * 2, self._pace.rest_limit)
        if self._failures >= self._pace.failures:
            self._until = self._clock() + self._rest * self._random.uniform(0.8, 1.2)
