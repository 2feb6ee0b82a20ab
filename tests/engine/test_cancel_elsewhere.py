"""A run is canceled at a server that does not execute it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.core.run import RunState
from tests.engine.meshes import LOCAL, Clock, mesh, serving, workflow

pytestmark = pytest.mark.anyio


async def test_the_executing_server_hears_of_it() -> None:
    """The work in flight is cut off within seconds, and the run ends as canceled by whoever asked."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    begun, cut_off = anyio.Event(), anyio.Event()

    async def hold() -> Any:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cut_off.set()

    of = mesh(workflow("long", {"id": "hold", "python": "t:hold"}))
    async with (
        serving(of, store=store, clock=clock, functions={"t:hold": hold}) as executing,
        serving(of, store=store, clock=clock, functions={"t:hold": hold}) as other,
    ):
        run = await executing.runs.start(LOCAL, "long", {"text": "x"})
        with anyio.fail_after(10):
            await begun.wait()
            # As another process would: nobody here tells the one that executes it.
            await store.request_cancel(run.id, "ann")
            await cut_off.wait()
            ended = await other.runs.wait(LOCAL, run.id)
        assert ended.state is RunState.CANCELED
        assert (await store.entries(run.id))[-1].payload == {"by": "ann"}
