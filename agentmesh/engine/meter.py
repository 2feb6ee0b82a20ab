"""Meter: how often, how long and with what error things were done, for whoever reads `/metrics`.

Plain counters in memory: recording is two look-ups and no lock, since only the event loop's thread records. What is recorded is bounded:
label sets past MOST of one family are added to one that is called `other`, so that no caller can fill the memory with names.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final

from agentmesh.core.caller import InputRequired
from agentmesh.core.tool import ToolResult
from agentmesh.errors import MeshError, NotFound

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the buckets: those of OpenTelemetry's `mcp.server.operation.duration`, and three below for what takes less."""
MOST: Final = 2000
"""Label sets of one family."""
OTHER: Final = "other"
TOOL_ERROR: Final = "tool_error"
"""`error.type` of a call that ended in a result with `isError` (OpenTelemetry, semantic conventions for MCP)."""
CANCELLED: Final = "cancelled"
UNKNOWN: Final = "unknown"
"""The tool of a call that named none of the mesh: callers choose such names, and they are kept nowhere."""

Labels = tuple[str, ...]


class Timings:
    """One family of timings: a histogram for each label set."""

    __slots__ = ("_others", "_series", "labels", "name", "says")

    def __init__(self, name: str, says: str, *labels: str) -> None:
        """`name` and `labels` in OpenTelemetry's spelling, with dots; seconds are meant."""
        self.name = name
        self.says = says
        self.labels = labels
        self._series: dict[Labels, list[float]] = {}
        self._others: Labels = (OTHER,) * len(labels)

    def record(self, labels: Labels, seconds: float) -> None:
        """Counts one more. `labels`: a value for each of `self.labels`; `error.type` is empty when it went well."""
        found = self._series.get(labels)
        if found is None:
            found = self._opened(labels)
        found[0] += seconds
        found[bisect_left(SECONDS, seconds) + 1] += 1

    def _opened(self, labels: Labels) -> list[float]:
        if len(self._series) >= MOST:
            labels = self._others
        return self._series.setdefault(labels, [0.0] * (len(SECONDS) + 2))

    def series(self) -> Iterator[tuple[Labels, float, list[int]]]:
        """Labels, the sum of seconds, and how many fell into each bucket, the one without a bound last."""
        for labels, found in sorted(self._series.items()):
            yield labels, found[0], [int(count) for count in found[1:]]


class CallTimer:
    """Times one call of a tool: `with` it, and `answered` with what came of it."""

    __slots__ = ("_began", "_clock", "_edge", "_error", "_timings", "_tool")

    def __init__(self, timings: Timings, tool: str, edge: str, clock: Callable[[], float]) -> None:
        self._timings = timings
        self._tool = tool
        self._edge = edge
        self._clock = clock
        self._error = ""

    def answered(self, result: ToolResult) -> ToolResult:
        """The result itself, having looked whether it is an error."""
        if result.is_error:
            self._error = TOOL_ERROR
        return result

    def __enter__(self) -> CallTimer:
        self._began = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._error = _type_of(error)
            if isinstance(error, NotFound):
                self._tool = UNKNOWN
        self._timings.record((self._tool, self._edge, self._error), self._clock() - self._began)


def _type_of(error: BaseException) -> str:
    if isinstance(error, MeshError):
        return error.code
    if isinstance(
        error, InputRequired
    ):  # its client comes again with what is asked: no error, and a call of its own then
        return ""
    return "failed" if isinstance(error, Exception) else CANCELLED


@dataclass(frozen=True, slots=True)
class Meter:
    """All that is measured of one server process."""

    clock: Callable[[], float] = time.perf_counter
    calls: Timings = field(
        default_factory=lambda: Timings(
            "agentmesh.tool.call.duration", "Calls of tools, by name and by the edge they came by.",
            "gen_ai.tool.name", "agentmesh.edge", "error.type",
        )
    )  # fmt: skip
    operations: Timings = field(
        default_factory=lambda: Timings(
            "mcp.server.operation.duration", "MCP requests, as they were received until they were answered.",
            "mcp.method.name", "gen_ai.tool.name", "mcp.protocol.version", "error.type",
        )
    )  # fmt: skip
    requests: Timings = field(
        default_factory=lambda: Timings(
            "http.server.request.duration", "HTTP requests, refused ones too.",
            "http.request.method", "http.route", "http.response.status_code", "error.type",
        )
    )  # fmt: skip
    notifications: Timings = field(
        default_factory=lambda: Timings(
            "agentmesh.push.notification.duration", "Push notifications, as they were sent until they were answered.",
            "http.response.status_code", "error.type",
        )
    )  # fmt: skip

    def call(self, tool: str, edge: str) -> CallTimer:
        """For `with`: one call of a tool. `edge`: by which edge it came, `mcp` or `api`."""
        return CallTimer(self.calls, tool, edge, self.clock)

    def families(self) -> tuple[Timings, ...]:
        return (self.calls, self.operations, self.requests, self.notifications)
