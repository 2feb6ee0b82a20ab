"""FirstStep: an awaitable of which one step is taken at once, to see whether it has to wait at all."""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any


class FirstStep:
    """Runs an awaitable up to where it first waits. `done`: it did not, and `result` is there; else await this for the rest.

    What costs more than the awaitable itself (a clock, a watch) can so be set up for those alone that wait. It has to be awaited
    before anything else is, in the task that made it: what it waits for is promised to the event loop next.
    """

    __slots__ = ("_rest", "_waits_for", "done", "result")

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        """Raises what the awaitable raises in its first step."""
        self.result: Any = None
        self._waits_for: Any = None
        self._rest: Generator[Any, Any, Any] = awaitable.__await__()
        try:
            self._waits_for = next(self._rest)
        except StopIteration as end:
            self.done = True
            self.result = end.value
        else:
            self.done = False

    def __await__(self) -> Generator[Any, Any, Any]:
        while not self.done:
            try:
                try:
                    given = yield self._waits_for
                except GeneratorExit:
                    self._rest.close()
                    raise
                except BaseException as error:  # a cancellation, for the awaitable to know
                    self._waits_for = self._rest.throw(error)
                else:
                    self._waits_for = self._rest.send(given)
            except StopIteration as end:
                self.done = True
                self.result = end.value
        return self.result
