"""Two servers on one PostgreSQL: one is stopped (SIGSTOP) past its lease, or killed, and the other takes over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.mesh import write_mesh
from tests.faults.served import Served, check_journal, until
from tests.faults.upstream import Upstream

LEASE = "3"
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def servers(tmp_path: Path, upstream: Upstream, postgres_url: str) -> Iterator[tuple[Served, Served]]:
    """Two servers, a mesh folder each, on one database."""
    folders = [write_mesh(tmp_path / name, upstream.url, store=postgres_url) for name in ("a", "b")]
    with Served(folders[0], AGENTMESH_LEASE=LEASE) as one, Served(folders[1], AGENTMESH_LEASE=LEASE) as two:
        yield one.start(), two.start()


def _held(server: Served, upstream: Upstream) -> str:
    """A run that this server executes now, its second step waiting for the world."""
    run_id: str = server.run("held")["id"]
    until(lambda: upstream.keys(run_id).get("hold"), 30, "the step was not begun")
    return run_id


def test_stopped_past_its_lease_and_woken(servers: tuple[Served, Served], upstream: Upstream) -> None:
    """The other server does the step in flight again, under the same key, and ends the run. The first one, woken, writes nothing to it,
    and goes on with other work."""
    first, second = servers
    run_id = _held(first, upstream)
    with first.stopped():
        until(lambda: True if upstream.keys(run_id)["hold"] == 2 else None, 60, "nobody took the run over")
        upstream.released.set()
        assert second.ended(run_id)["state"] == "completed"
        before = second.journal(run_id)
    # Awake, it finds the answer that it waited for. What it does with it must not be seen.
    later = first.run("steady")["id"]
    assert first.ended(later)["state"] == "completed"
    assert second.journal(run_id) == before
    check_journal(before)
    assert upstream.keys(run_id) == {"first": 1, "hold": 2, "last": 1}


def test_killed(servers: tuple[Served, Served], upstream: Upstream) -> None:
    """A dead server's runs are taken over when its lease has passed, without anybody's help."""
    first, second = servers
    runs = [_held(first, upstream) for _ in range(3)]
    first.kill()
    for run_id in runs:
        until(lambda run_id=run_id: True if upstream.keys(run_id)["hold"] == 2 else None, 60, "nobody took it over")  # type: ignore[misc]
    upstream.released.set()
    for run_id in runs:
        assert second.ended(run_id)["state"] == "completed"
        check_journal(second.journal(run_id))
        assert upstream.keys(run_id) == {"first": 1, "hold": 2, "last": 1}


def test_what_one_accepts_the_other_answers_for(servers: tuple[Served, Served], upstream: Upstream) -> None:
    """A run of one server is seen, signaled, answered and canceled at the other."""
    first, second = servers
    run_id = first.run("signaled")["id"]
    second.post(f"/v1/runs/{run_id}/signals", {"name": "go", "value": {}, "key": "go"})
    question = until(
        lambda: next(iter(second.get(f"/v1/runs/{run_id}/questions")["questions"]), None), 30, "nothing is asked"
    )
    second.post(f"/v1/runs/{run_id}/answers", {"question": question["id"], "yes": True})
    assert second.ended(run_id)["state"] == "completed"
    held = _held(first, upstream)
    second.post(f"/v1/runs/{held}/cancel")
    assert first.ended(held)["state"] == "canceled"
    upstream.released.set()
    assert upstream.keys(held) == {"first": 1, "hold": 1}
