"""Timing: the same clients for every system. Needs the standard library alone, for it runs in each peer's own environment.

A driver opens its system and hands over two coroutine functions: `ten(n)` starts a run of ten steps and returns when its caller knows
that it has ended, `one(n)` the same with a single step. What a driver prints last is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

STEPS = 10
WARM = 32
"""Runs of ten steps before the clock starts: imports, pools and plans are made once in a server's life."""
AT_REST, PAUSE = 40, 0.02
"""Runs of one step, one after the other, and the seconds of rest before each."""


@dataclass(frozen=True)
class System:
    """A system that is open. `settings`: what its own connection to the database says of itself."""

    ten: Callable[[int], Awaitable[Any]]
    one: Callable[[int], Awaitable[Any]]
    settings: dict[str, Any] = field(default_factory=dict)


Opener = Callable[[argparse.Namespace], AbstractAsyncContextManager[System]]


async def rate(start: Callable[[int], Awaitable[Any]], runs: int, at_once: int) -> float:
    """Seconds for so many runs by so many clients."""
    left = iter(range(runs))

    async def client() -> None:
        for n in left:
            await start(n)

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    return time.perf_counter() - begun


async def at_rest(start: Callable[[int], Awaitable[Any]]) -> list[float]:
    """Milliseconds of each of AT_REST runs."""
    took = []
    for n in range(AT_REST):
        await asyncio.sleep(PAUSE)
        begun = time.perf_counter()
        await start(n)
        took.append((time.perf_counter() - begun) * 1000)
    return took


async def measure(opener: Opener, asked: argparse.Namespace) -> dict[str, Any]:
    async with opener(asked) as system:
        await rate(system.ten, WARM, 8)
        seconds = {at_once: await rate(system.ten, asked.runs, at_once) for at_once in asked.at_once}
        for _ in range(5):
            await system.one(0)
        return {"seconds": seconds, "at_rest_ms": await at_rest(system.one), "settings": system.settings}


def expected_steps(runs: int, at_once: list[int]) -> int:
    """Steps that must be in the database after a driver's whole life."""
    return (WARM + runs * len(at_once)) * STEPS + 5 + AT_REST


def main(opener: Opener) -> None:
    """Runs the driver: its `opener` gets the command line's options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True, help="path of a SQLite file, or a postgresql:// address")
    parser.add_argument("--mode", default="", help="what the driver calls its ways of working")
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--at-once", type=int, nargs="+", required=True)
    asked = parser.parse_args()
    try:
        import uvloop
    except ImportError:
        result = asyncio.run(measure(opener, asked))
    else:
        result = uvloop.run(measure(opener, asked))
    print(json.dumps(result))
