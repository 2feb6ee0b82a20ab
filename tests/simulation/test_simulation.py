"""Thousands of schedules keep every promise; a broken store or engine would be noticed; a seed plays the same way twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.core.run import Entry, Kind
from agentmesh.core.store import Claim
from agentmesh.errors import LeaseLost
from tests.simulation.__main__ import play
from tests.simulation.schedule import simulate

SECONDS = 20
SEEDS = 7_000_000
"""Far from those that people draw; each day's run is another."""


def test_promises_hold() -> None:
    """Some hundred schedules of today's seeds break no promise; `python -m tests.simulation --seed N` plays one again."""
    first = SEEDS + int(time.time() // 86_400) * 100_000
    played, kinds, broken = play(SECONDS, first)
    print(f"{played} schedules from seed {first}, {played / SECONDS * 60:.0f} a minute, {dict(kinds)}")
    assert not broken, "\n".join(f"python -m tests.simulation --seed {r.seed}: {'; '.join(r.faults)}" for r in broken)
    assert played > 50
    assert all(kinds[kind] for kind in ("crash", "freeze", "outage", "completed", "failed"))


@pytest.mark.parametrize("seed", [3, 1008, 1113])
def test_a_seed_plays_the_same_way(seed: int) -> None:
    """Two plays of one seed record the same entries at the same times."""
    first, second = simulate(seed), simulate(seed)
    assert first.digest == second.digest
    assert first.trace == second.trace
    assert simulate(seed + 1).digest != first.digest


class _Lossy(MemoryStore):
    """Acknowledges completions that it forgets."""

    async def append(self, run_id: str, epoch: int, entries: Sequence[Entry], **more: Any) -> None:
        kept = [entry for entry in entries if entry.kind is not Kind.STEP_COMPLETED or "wait" not in entry.payload]
        self._number = getattr(self, "_number", 0) + 1
        if self._number % 3 == 0:
            kept = [
                entry for entry in kept if entry.kind is not Kind.STEP_INTENT and entry.kind is not Kind.STEP_STARTED
            ]
        await super().append(run_id, epoch, kept, **more)


class _Unfenced(MemoryStore):
    """Lets a worker that lost its lease go on writing."""

    async def append(self, run_id: str, epoch: int, entries: Sequence[Entry], **more: Any) -> None:
        try:
            await super().append(run_id, epoch, entries, **more)
        except LeaseLost:
            row = self._rows[run_id]
            if row.worker is None:
                raise
            await super().append(run_id, row.epoch, entries, **more)


class _Generous(MemoryStore):
    """Gives a run away before its lease is over."""

    async def claim(self, worker: str, *, limit: int, lease: float = 30.0, **more: Any) -> Sequence[Claim]:
        return await super().claim(worker, limit=limit, lease=min(lease, 0.5), **more)


class _Repeating(MemoryStore):
    """Takes the same signal as often as it is posted."""

    async def post(self, run_id: str, entry: Entry, *, key: str | None = None) -> Any:
        return await super().post(run_id, entry, key=None)


class _Sleepy(MemoryStore):
    """Does not wake a parked run when something arrives."""

    def _wake(self, row: Any) -> None:
        row.mail += 1


@pytest.mark.parametrize("broken", [_Lossy, _Unfenced, _Sleepy])
def test_a_broken_store_is_noticed(broken: Callable[..., MemoryStore]) -> None:
    """Of some hundred schedules on a store that breaks a rule, one at least says so."""
    assert any(simulate(seed, database=broken).faults for seed in range(400))


@pytest.mark.parametrize("allowed", [_Generous, _Repeating])
def test_what_is_only_slow_is_no_fault(allowed: Callable[..., MemoryStore]) -> None:
    """Leases that end early, and signals more than enough, cost time and break no promise."""
    assert not any(simulate(seed, database=allowed).faults for seed in range(30))
