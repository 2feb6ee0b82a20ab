"""Limit: at most so many seconds for what stands inside."""

from __future__ import annotations

import math
from types import TracebackType

import anyio


class Limit:
    """At most so many seconds for what stands inside. None costs nothing: a cancel scope costs more than many a step."""

    __slots__ = ("_scope", "_seconds")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._scope: anyio.CancelScope | None = None

    def __enter__(self) -> Limit:
        if self._seconds is not None:
            self._scope = anyio.CancelScope(deadline=anyio.current_time() + self._seconds)
            self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return None if self._scope is None else self._scope.__exit__(kind, error, traceback)

    @property
    def reached(self) -> bool:
        """Whether the time was over, and what stood inside was cancelled for it."""
        return self._scope is not None and self._scope.cancelled_caught

    def run_out(self) -> None:
        """The time is over now, whatever the clock says: a replay takes it from the journal."""
        if self._scope is not None:
            self._scope.cancel()

    def suspend(self) -> None:
        """From now on the time does not run: somebody else keeps it."""
        if self._scope is not None:
            self._scope.deadline = math.inf


UNLIMITED = Limit(None)
