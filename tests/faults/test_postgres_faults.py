"""PostgreSQL is restarted, ends our connections, or stops answering."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.mesh import write_mesh
from tests.faults.served import PATIENCE, Served, check_journal, expect_alive, expect_recovery, expect_trouble
from tests.faults.upstream import Upstream
from tests.postgres import Postgres

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def server(tmp_path: Path, upstream: Upstream, postgres_url: str) -> Iterator[Served]:
    """A server on a PostgreSQL of its own."""
    with Served(write_mesh(tmp_path / "mesh", upstream.url, store=postgres_url), AGENTMESH_LEASE="3") as served:
        yield served.start()


def _all_end(server: Served, upstream: Upstream, runs: list[str]) -> None:
    for run_id in runs:
        assert server.ended(run_id)["state"] == "completed"
        entries = server.journal(run_id)
        check_journal(entries)
        done = upstream.keys(run_id)
        assert set(done) == {"one", "two", "three"}
        for path, count in done.items():
            assert count <= sum(e["kind"] == "step.started" and e["path"] == path for e in entries)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "crash"])
def test_restarted(server: Served, postgres: Postgres, upstream: Upstream, how: signal.Signals) -> None:
    """While it is down the API says 503; when it is back all goes on, without a restart of ours, and nothing accepted is lost."""
    runs = [server.run("steady")["id"] for _ in range(10)]
    postgres.stop(how)
    try:
        expect_trouble(server)
    finally:
        postgres.start()
    expect_recovery(server)
    _all_end(server, upstream, runs)


def test_connections_killed(server: Served, postgres: Postgres, postgres_database: str, upstream: Upstream) -> None:
    """Connections that the server's side ends, over and over, cost nobody a run: what was accepted ends."""
    runs = []
    for _ in range(10):
        answer = server.http.post("/v1/runs", json={"workflow": "steady", "input": {}})
        assert answer.status_code in (201, 503), answer.text
        if answer.status_code == 201:
            runs.append(answer.json()["id"])
        else:
            assert int(answer.headers["retry-after"]) >= 1
        assert postgres.kill_connections(postgres_database) > 0 or answer.status_code == 503
        time.sleep(0.2)
    assert runs
    expect_recovery(server)
    _all_end(server, upstream, runs)


def test_stalled(server: Served, postgres: Postgres, upstream: Upstream) -> None:
    """A database that accepts and never answers is trouble, too: callers are told within seconds, and it passes by itself."""
    runs = [server.run("steady")["id"] for _ in range(5)]
    with postgres.stalled():
        begun = time.monotonic()
        expect_trouble(server)
        assert time.monotonic() - begun < 2 * PATIENCE
        expect_alive(server)
    expect_recovery(server)
    _all_end(server, upstream, runs)
