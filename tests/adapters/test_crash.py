"""A store that crashes does so at the boundary that was named, and nowhere else."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from agentmesh.adapters.crash import crashing
from agentmesh.adapters.memory import MemoryStore
from agentmesh.core.run import Entry, Kind, Run
from agentmesh.core.store import Store
from agentmesh.errors import InvalidInput

pytestmark = pytest.mark.anyio


class Died(BaseException):
    """Stands for the end of the process."""


def _die() -> None:
    raise Died


async def _work(store: Store, upto: list[str]) -> None:
    """Five writes with entries around a claim; `upto` gets what the caller heard of."""
    await store.start_run(Run("r", "w", "d", {}))
    upto.append("submitted")
    (claim,) = await store.claim("w1", limit=1)
    upto.append("claimed")
    for path in ("a", "b"):
        await store.append("r", claim.epoch, [Entry(Kind.STEP_STARTED, path, 1)], wait=False)
        upto.append(f"started {path}")
        await store.append("r", claim.epoch, [Entry(Kind.STEP_COMPLETED, path, 1, {"output": path})])
        upto.append(f"completed {path}")


@pytest.mark.parametrize(
    ("spec", "durable", "told"),
    [
        ("before:1", [], []),
        ("after:1", ["run.submitted"], []),
        ("after:run.working", ["run.submitted", "run.working"], ["submitted"]),
        ("before:2", ["run.submitted", "run.working"], ["submitted", "claimed"]),
        ("after:2", ["run.submitted", "run.working", "step.started"], ["submitted", "claimed"]),
        ("before:step_completed:2", 5, 5),
        ("after:step.completed:2", 6, 5),
        ("after:5", 6, 5),
        ("after:6", 6, 6),
        ("before:step.failed", 6, 6),
    ],
)
async def test_boundary(spec: str, durable: list[str] | int, told: list[str] | int) -> None:
    """What is written is what stood before the boundary; what was acknowledged is never more than that."""
    async with MemoryStore(clock=lambda: 1.0) as kept:
        heard: list[str] = []
        try:
            await _work(crashing(kept, spec, die=_die), heard)
        except Died:
            assert spec not in ("after:6", "before:step.failed")
        found = [entry.kind.value for entry in await kept.entries("r")]
    assert (len(found) if isinstance(durable, int) else found) == durable
    assert (len(heard) if isinstance(told, int) else heard) == told


async def test_random_is_repeatable() -> None:
    """The same seed crashes at the same write; some seeds crash early, some late."""

    async def length(seed: int) -> int:
        async with MemoryStore(clock=lambda: 1.0) as kept:
            store = crashing(kept, f"random:{seed}", die=_die)
            try:
                await store.start_run(Run("r", "w", "d", {}))
                await store.claim("w1", limit=1)
                for _ in range(200):
                    await store.append("r", 1, [Entry(Kind.STEP_STARTED, "a", 1)])
            except Died:
                pass
            return len(await kept.entries("r"))

    found = [await length(seed) for seed in range(12)]
    assert found == [await length(seed) for seed in range(12)]
    assert len(set(found)) > 6


@pytest.mark.parametrize(
    "spec", ["", "before", "after:0", "before:nothing", "random:x", "during:3", "after:step.started:0"]
)
async def test_no_boundary(spec: str) -> None:
    """What names no boundary is refused, with what would be right."""
    with pytest.raises(InvalidInput, match="before:N"):
        crashing(MemoryStore(), spec)


def test_the_process_dies() -> None:
    """Without `die` the process is killed: nothing is closed, nothing is said."""
    program = (
        "import anyio\n"
        "from agentmesh.adapters.crash import crashing\n"
        "from agentmesh.adapters.memory import MemoryStore\n"
        "from agentmesh.core.run import Run\n"
        "async def main():\n"
        "    try:\n"
        "        async with crashing(MemoryStore(), 'after:1') as store:\n"
        "            await store.start_run(Run('r', 'w', 'd', {}))\n"
        "    finally:\n"
        "        print('closed')\n"
        "anyio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")
