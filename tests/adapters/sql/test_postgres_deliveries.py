"""PostgreSQL: push deliveries and pokes of several servers."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from agentmesh.adapters.sql.store import open_store
from agentmesh.core.push import Delivery
from agentmesh.core.run import Run

pytestmark = pytest.mark.anyio


async def test_two_servers_never_hold_one_delivery(postgres_url: str) -> None:
    """Claiming at the same moments they take all of them, each under one epoch after the other."""
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_store(postgres_url, Path())) for _ in range(2)]
        for number in range(40):
            await stores[0].start_run(Run(f"r{number}", "w", "d", {}))
            await stores[number % 2].add_delivery(
                Delivery(f"r{number}", "c", "local", "local", "hooks.example", "sealed"), most=1
            )
        taken: list[tuple[str, int]] = []

        async def work(number: int) -> None:
            while True:
                found = await stores[number % 2].claim_deliveries(f"w{number}", limit=3, per_host=100)
                if not found:
                    return
                taken.extend((one.run_id, one.epoch) for one in found)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for number in range(6):
                    group.start_soon(work, number)
            # A page that another server took whole looks like nothing to do.
            await work(0)
        assert sorted(run_id for run_id, _ in taken) == sorted(f"r{number}" for number in range(40))
        assert {epoch for _, epoch in taken} == {1}


async def test_a_poke_reaches_the_other_servers(postgres_url: str) -> None:
    """Whichever of them works on the run; it is no change of the run there."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(open_store(postgres_url, Path())) for _ in range(2)]
        heard, changed = second.pokes(), second.changes()
        with anyio.fail_after(30):
            while True:  # until the other server listens
                await first.poke("r1")
                with anyio.move_on_after(0.2):
                    assert await anext(heard) == "r1"
                    break
        with anyio.move_on_after(0.1) as waited:
            await anext(changed)
        assert waited.cancelled_caught
