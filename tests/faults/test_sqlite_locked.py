"""Another program holds SQLite's lock for half a minute."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from tests.faults.mesh import write_mesh
from tests.faults.served import Served, check_journal, expect_alive, expect_recovery, expect_trouble
from tests.faults.upstream import Upstream

HELD = 30.0


@pytest.mark.timeout(240)
def test_locked_for_half_a_minute(tmp_path: Path, upstream: Upstream) -> None:
    """New runs are refused with 503 and Retry-After, reads go on; when the lock is gone all goes on, without a restart."""
    folder = write_mesh(tmp_path / "mesh", upstream.url)
    with Served(folder).start() as server:
        done = server.ended(server.run("quick")["id"])
        inflight = [server.run("steady")["id"] for _ in range(5)]
        other = sqlite3.connect(folder / "mesh.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        try:
            expect_trouble(server)
            while time.monotonic() - begun < HELD:
                expect_alive(server)
                assert server.get(f"/v1/runs/{done['id']}") == done
                time.sleep(1)
        finally:
            other.execute("ROLLBACK")
            other.close()
        expect_recovery(server)
        for run_id in inflight:
            assert server.ended(run_id)["state"] == "completed"
            check_journal(server.journal(run_id))
            assert set(upstream.keys(run_id)) == {"one", "two", "three"}
