"""Budget: tokens and seconds that one run may spend in models and tools."""

from __future__ import annotations

from types import TracebackType

from agentmesh.core.workflow import Budget as Limits
from agentmesh.errors import BudgetExceeded

UNSTATED = 256
"""Tokens reserved for an answer without `max_tokens`."""


class Reservation:
    """What one call may spend. A context manager around the call: what it spent is settled at its end."""

    __slots__ = ("_budget", "seconds", "seconds_spent", "tokens", "tokens_spent")

    def __init__(self, budget: Budget, tokens: int, seconds: float | None) -> None:
        self._budget = budget
        self.tokens = tokens
        self.seconds = seconds
        """At most, or None."""
        self.tokens_spent = 0
        self.seconds_spent = 0.0

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._budget.settle(self)


class Budget:
    """Reserved before each call, settled after it. What a call spends past its reservation counts against the next."""

    def __init__(self, limits: Limits, tokens: int = 0, seconds: float = 0.0) -> None:
        """`tokens`, `seconds`: spent before, by what the journal says."""
        self._limits = limits
        self._tokens = tokens
        self._seconds = seconds
        self._reserved = 0

    def reserve(self, tokens: int | None = 0) -> Reservation:
        """For one call; `tokens` None when the call does not say. BudgetExceeded when there is not enough left."""
        limits = self._limits
        if limits.tokens is not None:
            left = limits.tokens - self._tokens - self._reserved
            tokens = min(UNSTATED, max(left, 1)) if tokens is None else tokens
            if tokens and tokens > left:
                raise BudgetExceeded(
                    f"the run's budget of {limits.tokens} tokens has {max(left, 0)} left and the next answer may take "
                    f"{tokens}; raise `budget.tokens` or lower `max_tokens`"
                )
        tokens = tokens or 0
        seconds = None
        if limits.seconds is not None:
            seconds = limits.seconds - self._seconds
            if seconds <= 0:
                raise BudgetExceeded(f"the run's budget of {limits.seconds:g} seconds is spent; raise `budget.seconds`")
        self._reserved += tokens
        return Reservation(self, tokens, seconds)

    def settle(self, reservation: Reservation) -> None:
        """What was reserved is free again, what was spent is gone."""
        self._reserved -= reservation.tokens
        self._tokens += reservation.tokens_spent
        self._seconds += reservation.seconds_spent

    def exceeded_seconds(self) -> BudgetExceeded:
        return BudgetExceeded(
            f"the run's budget of {self._limits.seconds:g} seconds ran out during this step; raise `budget.seconds`"
        )
