"""Budget: tokens and seconds that one run may spend in models and tools, its child runs counted in."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from agentmesh.core.run import Run
from agentmesh.core.workflow import Budget as Limits
from agentmesh.errors import BudgetExceeded

UNSTATED = 256
"""Tokens reserved for an answer without `max_tokens`."""

_LEFT = "io.agentmesh/budget"
"""In the metadata of a child run's message: what its parent had left when it began."""


def within(message: dict[str, Any], left: Limits) -> dict[str, Any]:
    """A child's message that says what the child may spend at most."""
    return message | {"metadata": {**(message.get("metadata") or {}), _LEFT: left.model_dump(exclude_none=True)}}


def limits_of(run: Run, own: Limits) -> Limits:
    """What a run may spend: the budget of its workflow, and no more than its parent had left when it began.

    Children at once each may spend what is left; what they spent is known when they have ended.
    """
    left = ((run.message or {}).get("metadata") or {}).get(_LEFT) if run.parent is not None else None
    if left is None:
        return own
    return Limits(tokens=_least(own.tokens, left.get("tokens")), seconds=_least(own.seconds, left.get("seconds")))


def _least(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else min(a, b)


class Reservation:
    """Tokens that one call may spend. A context manager around the call: what it spent is settled at its end."""

    __slots__ = ("_budget", "spent", "tokens")

    def __init__(self, budget: Budget, tokens: int) -> None:
        self._budget = budget
        self.tokens = tokens
        self.spent = 0

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._budget.settle(self)


class Budget:
    """Tokens are reserved before each call and settled after it; seconds are counted when an attempt has ended.

    What a call spends past its reservation counts against the next.
    """

    def __init__(self, limits: Limits, tokens: int = 0, seconds: float = 0.0) -> None:
        """`tokens`, `seconds`: spent before, by what the journal says."""
        self._limits = limits
        self._tokens = tokens
        self._seconds = seconds
        self._reserved = 0
        self.limited = limits.tokens is not None or limits.seconds is not None

    def reserve(self, tokens: int | None) -> Reservation:
        """For one answer of a model; None when the question does not say how long it may be. BudgetExceeded when not enough is left."""
        limit = self._limits.tokens
        if limit is None:
            return Reservation(self, 0)
        left = limit - self._tokens - self._reserved
        tokens = min(UNSTATED, max(left, 1)) if tokens is None else tokens
        if tokens > left:
            raise BudgetExceeded(
                f"the run's budget of {limit} tokens has {max(left, 0)} left and the next answer may take "
                f"{tokens}; raise `budget.tokens` or lower `max_tokens`"
            )
        self._reserved += tokens
        return Reservation(self, tokens)

    def settle(self, reservation: Reservation) -> None:
        """What was reserved is free again, what was spent is gone."""
        self._reserved -= reservation.tokens
        self._tokens += reservation.spent

    def seconds_left(self) -> float | None:
        """None when there is no bound; BudgetExceeded when there are none."""
        limit = self._limits.seconds
        if limit is None:
            return None
        left = limit - self._seconds
        if left <= 0:
            raise BudgetExceeded(f"the run's budget of {limit:g} seconds is spent; raise `budget.seconds`")
        return left

    def left(self) -> Limits:
        """What a child run may spend at most; BudgetExceeded when that is nothing."""
        tokens = self._limits.tokens
        if tokens is not None:
            left = tokens - self._tokens - self._reserved
            if left <= 0:
                raise BudgetExceeded(
                    f"the run's budget of {tokens} tokens is spent, and no child run can be started; raise `budget.tokens`"
                )
            tokens = left
        return Limits(tokens=tokens, seconds=self.seconds_left())

    def spend_tokens(self, tokens: int) -> None:
        """Spent without a reservation: by a child run."""
        self._tokens += tokens

    def spend_seconds(self, seconds: float) -> None:
        self._seconds += seconds

    def exceeded_seconds(self) -> BudgetExceeded:
        return BudgetExceeded(
            f"the run's budget of {self._limits.seconds:g} seconds ran out during this step; raise `budget.seconds`"
        )
