"""The world outside hangs, floods, answers late, or loses the answer after doing the work."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.mesh import write_mesh
from tests.faults.served import Served, check_journal, expect_alive
from tests.faults.upstream import Upstream

POST = '{{method: POST, url: "{upstream}/%s"}}'
FLOWS = {
    "hangs": "hang/x", "floods": "flood/x", "late": "late/x?s=1.5", "loses": "lose/x", "loses_again": "lose/x", "down": "down/x",
}  # fmt: skip
AROUND = {
    "hangs": "timeout: 1s, ",
    "late": "timeout: 10s, ",
    "loses_again": "idempotent: true, retry: {{attempts: 3, backoff: 100ms}}, ",
    "down": "idempotent: true, retry: {{attempts: 4, backoff: 100ms}}, ",
}


@pytest.fixture
def mesh(tmp_path: Path, upstream: Upstream) -> Served:
    """A served mesh with one workflow for each fault, of a single step and what follows it."""
    flows = {
        name: f"name: {name}\nsteps:\n  - {{{{id: x, {AROUND.get(name, '')}http: {POST % path}}}}}\n"
        f"  - {{{{id: after, http: {POST % 'effect/after'}}}}}\n"
        for name, path in FLOWS.items()
    }
    return Served(write_mesh(tmp_path / "mesh", upstream.url, **flows))


def test_hangs(mesh: Served, upstream: Upstream) -> None:
    """The step's timeout ends it; what follows is not done, and nothing else waits for it."""
    with mesh.start() as server:
        begun = time.monotonic()
        run = server.ended(server.run("hangs")["id"])
        assert time.monotonic() - begun < 15
        assert (run["state"], run["error"]["code"]) == ("failed", "timeout")
        assert upstream.keys(run["id"]) == {"x": 1}


def test_many_hang_and_others_go_on(mesh: Served, upstream: Upstream) -> None:
    """Ten runs that wait for a dead service leave the others alone."""
    with mesh.start() as server:
        held = [server.run("held")["id"] for _ in range(10)]
        assert server.ended(server.run("steady")["id"], within=20)["state"] == "completed"
        expect_alive(server)
        upstream.released.set()
        for run_id in held:
            assert server.ended(run_id)["state"] == "completed"


def test_floods(mesh: Served, upstream: Upstream) -> None:
    """An answer without an end is given up in bounded memory, and the step says so."""
    with mesh.start() as server:
        before = _memory(server)
        run = server.ended(server.run("floods")["id"])
        assert run["state"] == "failed"
        assert "larger than" in run["error"]["message"], run["error"]
        assert _memory(server) - before < 200, "megabytes"
        assert upstream.keys(run["id"]) == {"x": 1}
        expect_alive(server)


def test_late(mesh: Served, upstream: Upstream) -> None:
    """An answer within the timeout is used, and asked for once."""
    with mesh.start() as server:
        run = server.ended(server.run("late")["id"])
        assert run["state"] == "completed"
        assert upstream.keys(run["id"]) == {"x": 1, "after": 1}


def test_late_and_killed_meanwhile(mesh: Served, upstream: Upstream) -> None:
    """The server dies while it waits for a late answer: the step is asked for again under the same key, and counts once."""
    with mesh.start() as server:
        run_id = server.run("late")["id"]
        while not upstream.keys(run_id):
            time.sleep(0.01)
        server.kill()
        server.start()
        assert server.ended(run_id)["state"] == "completed"
        check_journal(server.journal(run_id))
        assert upstream.keys(run_id) == {"x": 2, "after": 1}


def test_loses_the_answer(mesh: Served, upstream: Upstream) -> None:
    """Work that may have been done is not done again by itself: the step fails, and says that nobody knows."""
    with mesh.start() as server:
        run = server.ended(server.run("loses")["id"])
        assert (run["state"], run["error"]["code"]) == ("failed", "unanswered")
        assert upstream.keys(run["id"]) == {"x": 1}


def test_loses_the_answer_of_idempotent_work(mesh: Served, upstream: Upstream) -> None:
    """Where doing it twice is doing it once, it is tried again with the same key."""
    with mesh.start() as server:
        run = server.ended(server.run("loses_again")["id"])
        assert run["state"] == "completed"
        assert upstream.keys(run["id"]) == {"x": 2, "after": 1}


def test_down_for_a_while(mesh: Served, upstream: Upstream) -> None:
    """A service that says 503 is asked again, as often as the step says."""
    with mesh.start() as server:
        run = server.ended(server.run("down")["id"])
        assert run["state"] == "completed", run["error"]
        assert upstream.keys(run["id"]) == {"x": 1, "after": 1}
        assert upstream.refused.total() == 3


def _memory(server: Served) -> float:
    """Resident megabytes."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")
