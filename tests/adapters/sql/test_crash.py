"""kill -9: what was acknowledged is there after a restart, and the journal has no gap."""

from __future__ import annotations

import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentmesh.adapters.sql.store import open_store
from agentmesh.core.run import Run, fold
from agentmesh.core.store import RunFilter

pytestmark = pytest.mark.anyio

ROUNDS = 4
WRITER = """
import sys
from pathlib import Path
import anyio
from agentmesh.adapters.sql.store import open_store
from agentmesh.core.run import Entry, Kind, Run

async def main():
    async with open_store("sqlite:///mesh.db", Path(sys.argv[1])) as store:
        for i in range(8):
            await store.start_run(Run(f"run-{i}", "w", "d", {}, key=f"key-{i}"))
        claims = await store.claim("w", limit=8)
        assert len(claims) == 8, len(claims)
        async def work(claim):
            n = len(claim.run.steps)
            while True:
                await store.append(claim.run.id, claim.epoch, [Entry(Kind.STEP_COMPLETED, f"s{n}", 1, {"output": n})],
                    put={(claim.run.id, "last"): n})
                # One write call per line: what stands in the pipe was acknowledged.
                sys.stdout.write(f"{claim.run.id} {n}\\n")
                sys.stdout.flush()
                n += 1
        async with anyio.create_task_group() as group:
            for claim in claims:
                group.start_soon(work, claim)
anyio.run(main)
"""


def _killed_writer(folder: Path, lines: int) -> list[str]:
    """What a writer acknowledged until it was killed, some time after so many lines."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
    said = b""
    try:
        assert process.stdout is not None
        end = time.monotonic() + 30
        while said.count(b"\n") < lines and time.monotonic() < end:
            if select.select([process.stdout], [], [], 1.0)[0]:
                said += process.stdout.read1(4096)  # type: ignore[attr-defined]
    finally:
        process.send_signal(signal.SIGKILL)
        said += process.communicate(timeout=10)[0]
    assert said.count(b"\n") >= lines, "the writer did not get going"
    return [line.decode() for line in said.split(b"\n")[:-1]]


async def test_killed_in_the_middle_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """Killed at random moments and started again, every acknowledged row is there once, and seq has no gap."""
    seed = random.Random(11)
    acknowledged: dict[str, int] = {}
    for _ in range(ROUNDS):
        for line in _killed_writer(tmp_path, seed.randrange(1, 400)):
            run_id, n = line.split()
            assert int(n) > acknowledged.get(run_id, -1)  # a row may have been committed, and its caller not told
            acknowledged[run_id] = int(n)
        async with open_store("sqlite:///mesh.db", tmp_path) as store:
            assert (await store.list_runs(RunFilter())).total == 8
            for run_id, last in acknowledged.items():
                entries = await store.entries(run_id)
                run = await store.get_run(run_id)
                assert run is not None
                assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
                steps = list(run.steps)
                assert steps == [f"s{n}" for n in range(len(steps))]
                assert len(steps) > last
                assert await store.get(run_id, "last") == len(steps) - 1
                assert fold(Run(run_id, "w", "d", {}), entries).steps == run.steps
    assert sum(acknowledged.values()) > 0
