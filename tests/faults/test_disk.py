"""The disk is full, or reports errors: nothing accepted is lost, the caller is told to come back, and the server recovers by itself."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.mesh import write_mesh
from tests.faults.served import Served, check_journal, expect_recovery, expect_trouble, until
from tests.faults.upstream import Upstream

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk: this user may not mount one ({mounted.stderr.decode().strip()})")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_disk_full(small_disk: Path, upstream: Upstream, tmp_path: Path) -> None:
    """While the disk is full new runs are refused with 503 and Retry-After; when there is space again all goes on, without a restart."""
    folder = write_mesh(tmp_path / "mesh", upstream.url, store=f"sqlite:///{small_disk}/mesh.db")
    with Served(folder).start() as server:
        before = server.ended(server.run("steady")["id"])
        waiting = server.run("signaled")["id"]
        filler = small_disk / "filler"
        _fill(filler)
        expect_trouble(server)
        filler.unlink()
        expect_recovery(server)
        assert server.get(f"/v1/runs/{before['id']}") == before
        _finish_signaled(server, upstream, waiting)


def test_io_error(tmp_path: Path, upstream: Upstream) -> None:
    """While writes fail new runs are refused with 503; when they work again all goes on, without a restart."""
    folder = write_mesh(tmp_path / "mesh", upstream.url)
    with Served(folder).start() as server:
        waiting = server.run("signaled")["id"]
        pid = server.process.pid
        # No file may grow: SQLite's writes fail with EFBIG, as they would with EIO.
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        expect_trouble(server)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        expect_recovery(server)
        _finish_signaled(server, upstream, waiting)


def test_io_error_in_the_middle_of_runs(tmp_path: Path, upstream: Upstream) -> None:
    """Runs that were in flight when writes failed end after all, each completed step done as often as it was begun at most."""
    folder = write_mesh(tmp_path / "mesh", upstream.url)
    with Served(folder, AGENTMESH_LEASE="3").start() as server:
        runs = [server.run("steady")["id"] for _ in range(20)]
        pid = server.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        expect_trouble(server)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        for run_id in runs:
            assert server.ended(run_id)["state"] == "completed"
            entries = server.journal(run_id)
            check_journal(entries)
            for path, count in upstream.keys(run_id).items():
                assert count <= sum(e["kind"] == "step.started" and e["path"] == path for e in entries)


def test_start_on_a_full_disk(small_disk: Path, upstream: Upstream, tmp_path: Path) -> None:
    """A server that cannot open its database says what to do, in one sentence, and ends."""
    folder = write_mesh(tmp_path / "mesh", upstream.url, store=f"sqlite:///{small_disk}/mesh.db")
    _fill(small_disk / "filler")
    with Served(folder) as server:
        with pytest.raises(RuntimeError):
            server.start()
        assert re.search("disk is full|no space left", server.said())
        assert "Traceback" not in server.said()


def _fill(file: Path) -> None:
    with file.open("wb") as out:
        try:
            while True:
                out.write(os.urandom(65536))
                out.flush()
        except OSError:
            pass
        while True:
            try:
                os.write(out.fileno(), b"x" * 512)
            except OSError:
                break


def _finish_signaled(server: Served, upstream: Upstream, run_id: str) -> None:
    server.post(f"/v1/runs/{run_id}/signals", {"name": "go", "value": {}, "key": "go"})
    question = until(
        lambda: next(iter(server.get(f"/v1/runs/{run_id}/questions")["questions"]), None), 60, "nothing is asked"
    )
    server.post(f"/v1/runs/{run_id}/answers", {"question": question["id"], "yes": True})
    assert server.ended(run_id)["state"] == "completed"
    assert upstream.keys(run_id) == {"act": 1, "again": 1}
