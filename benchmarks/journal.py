"""How many journal rows a second does the store make durable, and how long does one caller wait?

Callers append one step after another to runs of their own, each waiting for its commit at synchronous=FULL, in a file
on the disk of `--folder`. Beside it: what SQLite alone gives with a commit for every row, which is what a store without
group commit could not pass. CPU microseconds per row tell what a busy machine hides.

    python -m benchmarks.journal [--folder DIR] [--seconds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

from agentmesh.adapters.sql.store import open_store
from agentmesh.core.run import Entry, Kind, Run

RESULT = Path(__file__).parent / "results" / "journal.json"
CALLERS = (1, 8, 64, 256)
OUTPUT = {
    "cause": "import",
    "file": "src/app/main.py",
    "line": 12,
    "quotes": ["ModuleNotFoundError: No module named 'x'"],
}


def _pair(i: int) -> list[Entry]:
    """What a small step leaves: its start and its end."""
    path = f"step{i}"
    return [
        Entry(Kind.STEP_STARTED, path, 1, {"verb": "python", "why": "first"}),
        Entry(Kind.STEP_COMPLETED, path, 1, {"verb": "python", "output": OUTPUT}),
    ]


async def _measure(folder: Path, callers: int, seconds: float, rows_per_append: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        async with open_store("sqlite:///mesh.db", Path(place)) as store:
            for i in range(callers):
                await store.start_run(Run(f"run-{i}", "bench", "d", {}))
            claims = await store.claim("bench", limit=callers)
            waits: list[float] = []
            end = time.perf_counter() + seconds

            async def work(run_id: str, epoch: int) -> None:
                i = 0
                while (begin := time.perf_counter()) < end:
                    await store.append(run_id, epoch, _pair(i)[2 - rows_per_append :])
                    waits.append(time.perf_counter() - begin)
                    i += 1

            begin, cpu = time.perf_counter(), time.process_time()
            async with anyio.create_task_group() as group:
                for claim in claims:
                    group.start_soon(work, claim.run.id, claim.epoch)
            took, cpu = time.perf_counter() - begin, time.process_time() - cpu
            waits.sort()
            return {
                "rows_per_second": round(len(waits) * rows_per_append / took),
                "cpu_us_per_row": round(cpu / len(waits) / rows_per_append * 1e6, 1),
                "p50_ms": round(waits[len(waits) // 2] * 1000, 2),
                "p99_ms": round(waits[int(len(waits) * 0.99)] * 1000, 2),
            }


def _disk(folder: Path, seconds: float) -> int:
    """Rows a second with a commit for each, by sqlite3 alone."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        connection = sqlite3.connect(Path(place) / "x.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE t (a)")
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            connection.execute("INSERT INTO t VALUES (?)", ("x" * 200,))
            count += 1
        took = time.perf_counter() - begin
        connection.close()
    return round(count / took)


def main() -> None:
    """Measures, writes results/journal.json, prints one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path.cwd())
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    disk = _disk(given.folder, min(given.seconds, 2.0))
    result: dict[str, Any] = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "sqlite": sqlite3.sqlite_version},
        "load_before": round(load, 1),
        "synchronous": "FULL",
        "commit_per_row": disk,
        "callers": {
            str(callers): {
                f"rows_{rows}": anyio.run(_measure, given.folder, callers, given.seconds / 2, rows) for rows in (1, 2)
            }
            for callers in CALLERS
        },
    }
    best = max(one["rows_per_second"] for several in result["callers"].values() for one in several.values())
    result["rows_per_second"] = best
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    alone = result["callers"]["1"]["rows_1"]
    print(
        f"journal: {best} durable rows/s at synchronous=FULL (a commit per row: {disk}); "
        f"one caller waits {alone['p50_ms']} ms, p99 {alone['p99_ms']} ms; load {load:.1f}"
    )


if __name__ == "__main__":
    main()
