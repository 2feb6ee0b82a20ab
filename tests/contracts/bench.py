"""Bench: what every rule of the contract is given, and the few words they share."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agentmesh.core.run import Entry, Kind, Run, new_run_id
from agentmesh.core.store import Claim, Store


@dataclass
class Bench:
    """`open()` gives the store of this test; entering it twice in a row gives what a restart would find."""

    open: Callable[[], Store]
    durable: bool
    now: float = 1_000.0
    seed: random.Random = field(default_factory=lambda: random.Random(7))

    def run(self, **fields: object) -> Run:
        run_id = new_run_id(self.now, self.seed.randbytes(10))
        given = {"id": run_id, "workflow": "triage", "definition": "d1", "input": {}}
        return Run(**{**given, **fields})  # type: ignore[arg-type]


async def claimed(store: Store, run: Run, worker: str = "w1") -> Claim:
    """Starts the run and claims it."""
    await store.start_run(run)
    return await reclaimed(store, run.id, worker)


async def reclaimed(store: Store, run_id: str, worker: str = "w1") -> Claim:
    """Claims this run, which must be due."""
    (claim,) = await store.claim(worker, limit=1, only=[run_id])
    return claim


def done(path: str = "cut", output: object = None) -> Entry:
    """The end of a step."""
    return Entry(Kind.STEP_COMPLETED, path, 1, {"verb": "set", "output": output})


def seqs(entries: Sequence[Entry]) -> list[int]:
    """Their numbers."""
    return [entry.seq for entry in entries]
