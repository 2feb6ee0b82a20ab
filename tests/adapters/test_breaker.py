"""The circuit breaker: closed, open, half open."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest

from agentmesh.adapters.breaker import Breaker, BreakerPace
from agentmesh.errors import NotSent

PACE = BreakerPace(failures=3, rest=10, rest_limit=25)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock) -> Breaker:
    return Breaker("desk", clock=clock, rng=random.Random(1), pace=PACE)


def fail(one: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with one.passing():
            one.failed()


def test_it_opens_after_failures_in_a_row() -> None:
    """A success between them begins the count anew."""
    one = breaker(Clock())
    fail(one, 2)
    with one.passing():
        one.succeeded()
    fail(one, 2)
    assert not one.is_open
    fail(one)
    assert one.is_open
    with pytest.raises(NotSent, match="failed 3 times in a row") as refused, one.passing():
        pass
    assert refused.value.after == pytest.approx(one.left)


def test_one_probe_goes_through_when_it_has_rested() -> None:
    """No second one at the same time; its success closes it, its failure makes the next rest longer."""
    clock = Clock()
    one = breaker(clock)
    fail(one, 3)
    clock.now += 13
    with one.passing():
        with pytest.raises(NotSent), one.passing():
            pass
        one.failed()
    assert 15 < one.left < 25
    clock.now += one.left
    with one.passing():
        one.succeeded()
    assert not one.is_open
    with one.passing(), one.passing():
        pass


def test_a_probe_that_was_cancelled_decides_nothing() -> None:
    """The next call may try."""
    clock = Clock()
    one = breaker(clock)
    fail(one, 3)
    clock.now += 13
    with pytest.raises(KeyboardInterrupt), one.passing():
        raise KeyboardInterrupt
    with one.passing():
        one.succeeded()
    assert not one.is_open


def test_the_rest_is_bounded() -> None:
    """However often it fails, it is tried again."""
    clock = Clock()
    one = breaker(clock)
    fail(one, 3)
    for _ in range(10):
        clock.now += one.left
        fail(one)
    assert one.left <= PACE.rest_limit * 1.2


def test_calls_that_were_on_their_way_do_not_make_the_rest_longer() -> None:
    """Thirty-two at once that find the same outage are one outage."""
    clock = Clock()
    one = breaker(clock)
    with ExitStack() as calls:
        for _ in range(32):
            calls.enter_context(one.passing())
        for _ in range(32):
            one.failed()
    assert one.left <= PACE.rest * 1.2
