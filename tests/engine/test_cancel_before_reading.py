"""A run is canceled at the moment in which it is claimed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.core.run import RunState
from tests.engine.meshes import LOCAL, Clock, mesh, serving, workflow

pytestmark = pytest.mark.anyio


class Slow(MemoryStore):
    """Gives definitions when it is told to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.asked, self.give = anyio.Event(), anyio.Event()
        self.give.set()

    async def get_definition(self, digest: str) -> Mapping[str, Any] | None:
        self.asked.set()
        await self.give.wait()
        return await super().get_definition(digest)


async def test_what_an_earlier_claim_did_is_undone() -> None:
    """Though the walk is cut off before it has read what the run is to do."""
    clock = Clock()
    store = Slow(clock)
    done: list[str] = []
    begun = anyio.Event()

    async def book() -> None:
        done.append("book")

    async def unbook() -> None:
        done.append("unbook")

    async def hold() -> None:
        begun.set()
        await anyio.sleep_forever()

    functions = {"t:book": book, "t:unbook": unbook, "t:hold": hold}
    of = mesh(
        workflow(
            "trip",
            {"id": "book", "python": "t:book", "compensate": {"python": "t:unbook"}},
            {"id": "hold", "python": "t:hold"},
        )
    )
    async with serving(of, store=store, clock=clock, functions=functions) as engine:
        run = await engine.runs.start(LOCAL, "trip", {"text": "x"})
        await begun.wait()
    store.asked, store.give = anyio.Event(), anyio.Event()
    async with serving(of, store=store, clock=clock, functions=functions) as engine:
        await store.asked.wait()
        await engine.runs.cancel(LOCAL, run.id)
        store.give.set()
        ended = await engine.runs.wait(LOCAL, run.id)
    assert ended.state is RunState.CANCELED
    assert done == ["book", "unbook"]
