"""Whatever run a test of the engine makes, its replay comes to the same digest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentmesh.core.store import RunFilter
from agentmesh.engine import Engine
from agentmesh.engine.definitions import FORMAT, load
from agentmesh.engine.replay import replay
from agentmesh.errors import StoreError
from tests.engine.meshes import ON_LEAVING

AT_MOST = 20
"""Runs of one engine that are replayed, the newest first."""
OTHERWISE = {
    "test_a_choice_once_made_stays_made": "the definition is another one after the branch was taken",
}
"""Tests that make the journal and its definition disagree, and why."""


async def everything_replays(engine: Engine) -> None:
    try:
        runs = (await engine.store.list_runs(RunFilter(limit=AT_MOST))).runs
        for head in runs:
            entries = await engine.store.entries(head.id)
            run = await engine.store.get_run(head.id)
            document = await engine.store.get_definition(head.definition)
            if run is None or document is None or document.get("format") != FORMAT:
                continue
            found = await replay(run, entries, load(head.definition, document))
            assert found.same, (found.difference, [(e.seq, e.kind.value, e.path, dict(e.payload)) for e in entries])
    except StoreError:
        return  # the test has broken it


@pytest.fixture(autouse=True)
def _replays(request: pytest.FixtureRequest) -> Iterator[None]:
    if getattr(request.node, "originalname", "") in OTHERWISE:
        yield
        return
    ON_LEAVING.append(everything_replays)
    yield
    ON_LEAVING.remove(everything_replays)
