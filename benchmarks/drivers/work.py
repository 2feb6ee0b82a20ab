"""Work: the functions that the steps of `two_workers.py` call."""

from __future__ import annotations

import time

import anyio

WAITS = 0.02
"""Seconds that a step waits for somebody else."""
COMPUTES = 0.005
"""Seconds of processor time that a step needs."""


async def nothing(n: int) -> dict[str, int]:
    return {"n": n}


async def waits(n: int) -> dict[str, int]:
    await anyio.sleep(WAITS)
    return {"n": n}


async def computes(n: int) -> dict[str, int]:
    """On the event loop, in plain Python: it leaves this process nothing else to do meanwhile."""
    until = time.thread_time() + COMPUTES
    while time.thread_time() < until:
        pass
    return {"n": n}
