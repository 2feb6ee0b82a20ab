"""Functions that the tests run on a cluster, by name."""

from __future__ import annotations

import os
import time
from pathlib import Path

from agentmesh.errors import Fail, InvalidInput, Retry


def add(a: int, b: int) -> dict:
    return {"sum": a + b, "pid": os.getpid()}


def about(ctx) -> list:
    return [ctx.key, ctx.run_id, str(ctx.folder)]


async def later(n: int) -> int:
    return n


def puts(ctx) -> None:
    ctx.put("a", 1)


def retry() -> None:
    raise Retry("not yet", after=7)


def fail() -> None:
    raise Fail("never")


def refuse() -> None:
    raise InvalidInput("a is missing")


def breaks() -> None:
    raise ZeroDivisionError("by zero")


def not_json() -> object:
    return object()


def die() -> None:
    os._exit(1)


def sleep(folder: str, seconds: float) -> None:
    """Says in a file that it began, and whether it was interrupted."""
    (Path(folder) / "began").write_text(str(os.getpid()))
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.05)
    except BaseException:
        (Path(folder) / "interrupted").touch()
        raise
