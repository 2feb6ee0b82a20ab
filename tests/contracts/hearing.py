"""Hearing: changes reach whoever subscribed."""

from __future__ import annotations

import anyio
import pytest

from tests.contracts.bench import Bench, claimed, done


async def changes_are_heard(bench: Bench) -> None:
    """A subscription hears what is committed after it was made, of its own run or of all, however late it listens."""
    a, b = bench.run(), bench.run()
    async with bench.open() as store:
        everything, only_b = store.changes(), store.changes(b.id)
        with anyio.fail_after(5):
            await store.start_run(a)
            await store.start_run(b)
            assert {await anext(everything), await anext(everything)} == {a.id, b.id}
            assert await anext(only_b) == b.id
            (claim,) = await store.claim("w1", limit=1, only=[b.id])
            assert await anext(only_b) == b.id
            heard: list[str] = []
            async with anyio.create_task_group() as group:

                async def listen() -> None:
                    heard.append(await anext(only_b))

                group.start_soon(listen)
                await anyio.lowlevel.checkpoint()
                await store.append(b.id, claim.epoch, [done()])
            assert heard == [b.id]
            assert (await store.entries(b.id))[-1].path == "cut"
            await store.request_cancel(b.id, "ann")
            assert await anext(only_b) == b.id


async def changes_are_told_once(bench: Bench) -> None:
    """A run that changed many times before anybody listened is told once: a slow listener costs one entry per run."""
    async with bench.open() as store:
        changes = store.changes()
        claim = await claimed(store, bench.run())
        for i in range(20):
            await store.append(claim.run.id, claim.epoch, [done(f"s{i}")])
        with anyio.fail_after(5):
            assert await anext(changes) == claim.run.id
        with anyio.move_on_after(0.05):
            pytest.fail(f"told again: {await anext(changes)}")
