"""Whether a worker's store does its work, as `/readyz` asks."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.engine import worker
from agentmesh.errors import StoreError
from tests.engine.meshes import mesh, serving, workflow

pytestmark = pytest.mark.anyio


class Failing(MemoryStore):
    """Reads, and cannot write while `why` says why; waits for ever while it is empty."""

    why: str | None = None

    async def put(self, scope: str, key: str, value: Any) -> None:
        if self.why == "":
            await anyio.sleep_forever()
        if self.why is not None:
            raise StoreError(self.why)
        await super().put(scope, key, value)


async def test_a_store_that_cannot_write_is_noticed_though_nobody_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe says what the store said, and that all is well as soon as it is."""
    monkeypatch.setattr(worker, "PROBE_EVERY", 0.0)
    store = Failing(clock=lambda: 1.0)
    async with serving(mesh(workflow("w", {"id": "a", "set": 1})), store=store) as engine:
        assert await engine.worker.ready() is None
        store.why = "the disk is full"
        assert await engine.worker.ready() == "the disk is full"
        store.why = None
        assert await engine.worker.ready() is None


async def test_a_store_that_does_not_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes in time though the store's never does; between two probes the last one's answer counts."""
    monkeypatch.setattr(worker, "PROBE_TIMEOUT", 0.01)
    store = Failing(clock=lambda: 1.0)
    store.why = ""
    async with serving(mesh(workflow("w", {"id": "a", "set": 1})), store=store) as engine:
        said = await engine.worker.ready()
        assert said is not None
        assert "did not take a write" in said
        store.why = None
        assert await engine.worker.ready() == said
