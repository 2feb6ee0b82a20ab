"""Python functions that the fault tests' workflows call."""

from __future__ import annotations

import time
import urllib.request

import anyio

from agentmesh.core.context import Context
from agentmesh.errors import Fail


def charge(ctx: Context, *, url: str, n: int) -> dict[str, int]:
    """Does something to the outside world under the step's key, and keeps a sum with the step's completion."""
    request = urllib.request.Request(url, data=b"{}", headers={"Idempotency-Key": ctx.key}, method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()
    count = (ctx.state.get("charged") or 0) + 1
    ctx.put("charged", count)
    return {"n": n, "charged": count}


def refuse() -> None:
    """Fails for good."""
    raise Fail("this never works")


def huge() -> dict[str, str]:
    """A value of 100 MB."""
    return {"x": "x" * (100 * 1024 * 1024)}


def again(text: str, n: int = 0, sure: object = None) -> dict[str, str | int]:
    """What was said, `sure` or not."""
    return {"text": text, "n": n}


async def tick(ctx: Context, *, events: int, pause: float) -> dict[str, int]:
    """Gives so many artifacts, each of which says when it was written, some seconds apart."""
    for number in range(events):
        await anyio.sleep(pause)
        ctx.artifact(f"tick-{number}", {"text": str(time.time_ns())})
    return {"events": events}
