"""Listing: pages and filters."""

from __future__ import annotations

import pytest

from agentmesh.core.run import Entry, Kind, RunState
from agentmesh.core.store import RunFilter
from agentmesh.errors import InvalidInput
from tests.contracts.bench import Bench, claimed, done


async def pages_meet_without_gaps(bench: Bench) -> None:
    """Pages by cursor give each run once, newest first, with runs that start meanwhile left to the first page."""
    runs = [bench.run(created_at=900.0 + i // 3) for i in range(11)]
    async with bench.open() as store:
        for run in runs:
            await store.start_run(run)
        seen: list[str] = []
        cursor = None
        for _ in range(9):
            page = await store.list_runs(RunFilter(limit=4, cursor=cursor))
            seen += [run.id for run in page.runs]
            if page.next is None:
                break
            cursor = page.next
            await store.start_run(bench.run())
        assert seen == [run.id for run in sorted(runs, key=lambda run: (run.created_at, run.id), reverse=True)]
        for cursor in ("", "x", "nan_x", "12", "_a"):
            with pytest.raises(InvalidInput):
                await store.list_runs(RunFilter(cursor=cursor))


async def filters_select(bench: Bench) -> None:
    """Each field of a filter selects by itself; `total` counts what matches, not what the page holds."""
    async with bench.open() as store:
        root = await claimed(store, bench.run(owner="ann", context_id="c1"))
        await store.start_run(bench.run(workflow="inbox", parent=root.run.id))
        await store.start_run(bench.run(tenant="acme"))
        bench.now += 10
        await store.append(root.run.id, root.epoch, [done()])

        async def total(**fields: object) -> int:
            page = await store.list_runs(RunFilter(**{"limit": 1, **fields}))  # type: ignore[arg-type]
            assert len(page.runs) == min(page.total, 1)
            return page.total

        assert await total() == 2
        assert await total(tenant="acme") == 1
        assert await total(owner="ann") == 1
        assert await total(workflow="inbox") == 1
        assert await total(states=(RunState.WORKING,)) == 1
        assert await total(states=(RunState.WORKING, RunState.SUBMITTED)) == 2
        assert await total(context_id="c1") == 1
        assert await total(parent=root.run.id) == 1
        assert await total(roots=True) == 1
        assert await total(updated_after=bench.now - 1) == 1
        assert await total(updated_after=bench.now) == 0


async def long_values_can_be_left_out(bench: Bench) -> None:
    """With `longest`, a page has values up to that many bytes, and names those that it does not have."""
    texts = {"short": "x" * 100, "middle": "x" * 10_000, "long": "x" * 100_000}
    async with bench.open() as store:
        for i, (name, text) in enumerate(texts.items()):
            claim = await claimed(store, bench.run(input={name: text}, created_at=900.0 - i))
            await store.append(claim.run.id, claim.epoch, [Entry(Kind.RUN_COMPLETED, payload={"output": text})])
        for longest, left_out in ((None, 0), (200, 2), (20_000, 1), (1, 3)):
            page = await store.list_runs(RunFilter(longest=longest))
            names = [page.omitted.get(run.id, ()) for run in page.runs]
            assert names == [()] * (3 - left_out) + [("input", "output")] * left_out
            for run, (name, text), omitted in zip(page.runs, texts.items(), names, strict=True):
                assert (run.input, run.output) == ((None, None) if omitted else ({name: text}, text))
