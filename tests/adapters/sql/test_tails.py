"""The journals of runs that began in this process are what the database has, and are read from there when they cannot be kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentmesh.adapters.sql.store import SqlStore, open_store
from agentmesh.adapters.sql.tails import ALL, ENDED, RUNS, SIZE, Row, Tails
from agentmesh.core.run import Entry, Kind, Run
from agentmesh.errors import LeaseLost

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with open_store("sqlite:///mesh.db", tmp_path) as opened:
        yield opened


async def begin(store: SqlStore, ident: str) -> int:
    """A run that is claimed; its epoch."""
    await store.start_run(Run(ident, "work", "d", {"a": 1}, message={"messageId": "m"}), {"format": 1})
    (claim,) = await store.claim("worker", limit=1, only=[ident])
    return claim.epoch


async def same(store: SqlStore, ident: str, after: int = 0) -> tuple[Entry, ...]:
    """What the store says, which must be what stands in its database."""
    said = await store.entries(ident, after)
    read = await store._read(store._reader.entries, ident, after)
    assert tuple(said) == tuple(read)
    return tuple(said)


def row(run_id: str, seq: int, payload: str | None = "{}") -> Row:
    return (run_id, seq, "", 0, Kind.RUN_SUBMITTED.value, payload, None if payload else "sha", 1.5)


async def test_what_is_kept_is_what_was_committed(store: SqlStore) -> None:
    """Entries of every kind of write, as they would be read, from any place on; and each reader has values of its own."""
    epoch = await begin(store, "r1")
    entries = [Entry(Kind.STEP_STARTED, "a", 1, {"verb": "set", "deep": [{"x": 1.5, "y": None}]})]
    await store.append("r1", epoch, entries)
    await store.post("r1", Entry(Kind.RUN_SIGNALED, payload={"name": "go", "value": (1, 2)}))
    await store.append(
        "r1", epoch, [Entry(Kind.STEP_COMPLETED, "a", 1, {"output": "ü"}), Entry(Kind.RUN_COMPLETED, payload={})]
    )
    whole = await same(store, "r1")
    assert [entry.seq for entry in whole] == list(range(1, len(whole) + 1))
    assert store._tails is not None
    assert store._tails.entries("r1", 0) is not None
    assert await same(store, "r1", 3) == whole[3:]
    assert await same(store, "r1", 99) == ()
    whole[2].payload["deep"][0]["x"] = "changed"  # type: ignore[index]
    await same(store, "r1")


async def test_what_cannot_be_kept_is_read(store: SqlStore) -> None:
    """A payload that stands in a table of its own, and a long journal."""
    epoch = await begin(store, "r1")
    await store.append("r1", epoch, [Entry(Kind.STEP_COMPLETED, "a", 1, {"output": "x" * 100_000})])
    await store.append("r1", epoch, [Entry(Kind.STEP_COMPLETED, "b", 1, {"output": 1})])
    assert len(await same(store, "r1")) == 4
    epoch = await begin(store, "r2")
    for number in range(1000):
        await store.append("r2", epoch, [Entry(Kind.STEP_STARTED, f"s{number}", 1)], wait=number == 999)
    assert len(await same(store, "r2")) == 1002


async def test_a_refused_write_leaves_nothing(store: SqlStore) -> None:
    """An append under an old epoch is in neither place."""
    epoch = await begin(store, "r1")
    with pytest.raises(LeaseLost):
        await store.append("r1", epoch - 1, [Entry(Kind.STEP_STARTED, "a", 1)])
    assert len(await same(store, "r1")) == 2


async def test_what_was_pruned_is_gone(store: SqlStore) -> None:
    epoch = await begin(store, "r1")
    await store.append("r1", epoch, [Entry(Kind.RUN_COMPLETED, payload={"output": 1})])
    assert await store.prune(float("inf")) == 1
    assert await same(store, "r1") == ()


async def test_a_run_of_before_is_read(tmp_path: Path) -> None:
    """What another process began is not kept, however it goes on here."""
    async with open_store("sqlite:///mesh.db", tmp_path) as first:
        await begin(first, "r1")
    async with open_store("sqlite:///mesh.db", tmp_path) as second:
        (claim,) = await second.claim("worker", limit=1, only=["r1"])
        await second.append("r1", claim.epoch, [Entry(Kind.STEP_STARTED, "a", 1)])
        assert len(await same(second, "r1")) == 4


def test_no_more_is_kept_than_there_is_room() -> None:
    """The oldest runs go first; a run whose rows have a gap, or are too long, goes at once."""
    tails = Tails()
    tails.add([row(f"r{number}", 1) for number in range(RUNS + 1)])
    assert tails.entries("r0", 0) is None
    assert tails.entries("r1", 0) is not None
    tails.add([row("r1", 3)])
    assert tails.entries("r1", 0) is None
    tails.add([row("r2", 2, "x" * SIZE)])
    assert tails.entries("r2", 0) is None
    tails.add([row("r3", 2, None)])
    assert tails.entries("r3", 0) is None
    tails.forget()
    assert tails.entries("r4", 0) is None


def test_runs_that_have_ended_go_first() -> None:
    """A run that is at work is kept while many others come and go; all together they stay below the bound."""
    tails = Tails()
    tails.add([row("long", 1)])
    for number in range(RUNS * 2):
        ended = ("", 0, Kind.RUN_COMPLETED.value, "{}", None, 2.0)
        tails.add([row(f"r{number}", 1), (f"r{number}", 2, *ended)])
    assert tails.entries("long", 0) is not None
    assert tails.entries(f"r{RUNS * 2 - 1}", 1) is not None
    assert tails.entries(f"r{RUNS * 2 - ENDED - 1}", 0) is None
    for number in range(RUNS // 2):
        tails.add([row(f"big{number}", 1, f'"{"x" * (SIZE - 1000)}"')])
        assert tails._size <= ALL
    assert tails.entries(f"big{RUNS // 2 - 1}", 0) is not None
    assert tails.entries("long", 0) is None


def test_rows_of_somebody_else_end_what_is_kept() -> None:
    """Told of them, or by the gap that they leave; what is kept before that is the journal without its end."""
    tails = Tails()
    tails.add([row("told", 1), row("gap", 1), row("gap", 2)])
    assert [entry.seq for entry in tails.entries("gap", 1) or ()] == [2]
    tails.drop(["told", "never"])
    tails.add([row("told", 3), row("gap", 4)])
    assert tails.entries("told", 0) is None
    assert tails.entries("gap", 0) is None
