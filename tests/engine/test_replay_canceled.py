"""Replaying what was canceled before anybody took it."""

from __future__ import annotations

import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.run import RunState
from agentmesh.engine import build_engine
from tests.engine.meshes import LOCAL, Clock, mesh, workflow

pytestmark = pytest.mark.anyio


async def test_a_run_that_nobody_claimed_replays() -> None:
    """The store ended it, and there was nothing to undo."""
    clock = Clock()
    of = mesh(workflow("trip", {"id": "book", "python": "t:book", "compensate": {"python": "t:unbook"}}))
    async with MemoryStore(clock=clock) as store:
        engine = build_engine(of, store, ScriptedModel([]), clock=clock)
        run = await engine.runs.start(LOCAL, "trip", {"text": "x"})
        ended = await engine.runs.cancel(LOCAL, run.id)
        assert ended.state is RunState.CANCELED
        assert (await engine.history.replay(LOCAL, run.id)).same
