"""An awaitable whose first step was taken goes on as if nothing had been."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from agentmesh.http.first_step import FirstStep

pytestmark = pytest.mark.anyio


async def test_what_does_not_wait_is_done() -> None:
    """The result is there without an await, and an await gives it too."""

    async def now() -> int:
        return 7

    step = FirstStep(now())
    assert step.done
    assert step.result == 7
    assert await step == 7


async def test_what_waits_goes_on_when_awaited() -> None:
    """Every step after the first is the event loop's, however many there are."""
    event = anyio.Event()
    seen: list[int] = []

    async def later() -> int:
        seen.append(1)
        await event.wait()
        seen.append(2)
        await asyncio.sleep(0)
        return 7

    step = FirstStep(later())
    assert not step.done
    assert seen == [1]
    asyncio.get_running_loop().call_soon(event.set)
    with anyio.fail_after(5):
        assert await step == 7
    assert seen == [1, 2]


async def test_errors_come_through() -> None:
    """At once, or when it is awaited."""

    async def fails(wait: bool) -> None:
        if wait:
            await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        FirstStep(fails(False))
    step = FirstStep(fails(True))
    with pytest.raises(ZeroDivisionError):
        await step


async def test_a_cancellation_reaches_it() -> None:
    """It may clean up, and may even answer."""
    cleaned = anyio.Event()

    async def waits() -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cleaned.set()
            raise

    step = FirstStep(waits())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await step
    assert cleaned.is_set()

    async def answers() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return "late"
        return "never"

    step = FirstStep(answers())
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)
    assert await step == "late"
    task.uncancel()
