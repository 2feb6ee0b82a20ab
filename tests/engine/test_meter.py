"""The meter counts what it is told, in bounded memory."""

from __future__ import annotations

from contextlib import suppress

import pytest

from agentmesh.core.caller import InputRequired
from agentmesh.core.tool import ToolResult
from agentmesh.engine.meter import MOST, OTHER, SECONDS, TOOL_ERROR, Meter, Timings
from agentmesh.errors import NotFound, PolicyDenied
from tests.engine.meshes import Clock


def counted(timings: Timings) -> dict[tuple[str, ...], int]:
    return {labels: sum(counts) for labels, _, counts in timings.series()}


def test_a_time_on_a_bound_is_below_it() -> None:
    """`le` means less or equal; what is past the last bound has its own place."""
    timings = Timings("t", "T.", "a")
    for seconds in (*SECONDS, SECONDS[-1] + 1):
        timings.record(("x",), seconds)
    ((_, total, counts),) = timings.series()
    assert counts == [1] * (len(SECONDS) + 1)
    assert total == pytest.approx(sum(SECONDS) + SECONDS[-1] + 1)


def test_names_without_end_are_counted_together() -> None:
    """Past MOST label sets the rest is `other`; those that are known stay themselves."""
    timings = Timings("t", "T.", "a", "b")
    for number in range(MOST + 500):
        timings.record((str(number), "x"), 0.1)
    timings.record(("0", "x"), 0.1)
    found = counted(timings)
    assert len(found) == MOST + 1
    assert found[OTHER, OTHER] == 500
    assert found["0", "x"] == 2


@pytest.mark.parametrize(
    ("error", "labels"),
    [
        (None, ("echo", "mcp", "")),
        (PolicyDenied("no"), ("echo", "mcp", "denied")),
        (NotFound("no such"), ("unknown", "mcp", "not_found")),
        (ZeroDivisionError(), ("echo", "mcp", "failed")),
        (GeneratorExit(), ("echo", "mcp", "cancelled")),
        (InputRequired({}), ("echo", "mcp", "")),
    ],
)
def test_a_call_is_counted_however_it_ends(error: BaseException | None, labels: tuple[str, ...]) -> None:
    """With the code of the error that left it; a name that is none of the mesh's is kept nowhere."""
    clock = Clock(10.0)
    meter = Meter(clock)
    with suppress(BaseException), meter.call("echo", "mcp"):
        clock.now += 2.5
        if error is not None:
            raise error
    assert [(found, total) for found, total, _ in meter.calls.series()] == [(labels, 2.5)]


def test_an_answer_that_says_error_is_one() -> None:
    """A tool that fails is a result, and counted as OpenTelemetry says."""
    meter = Meter()
    with meter.call("echo", "http") as timed:
        result = ToolResult(text="full", is_error=True)
        assert timed.answered(result) is result
    assert counted(meter.calls) == {("echo", "http", TOOL_ERROR): 1}
