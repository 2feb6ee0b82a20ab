"""The PostgreSQL of the tests starts, breaks on purpose and leaves nothing behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.postgres import Postgres, find


def test_a_database_of_its_own(postgres: Postgres, postgres_url: str, postgres_database: str) -> None:
    """Each test gets an empty database on a server that listens on loopback only."""
    assert postgres_url.endswith(postgres_database)
    (row,) = postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", database=postgres_database)
    assert row == (0,)
    assert postgres.execute("SHOW listen_addresses") == [("127.0.0.1",)]


def test_faults(postgres: Postgres, postgres_database: str) -> None:
    """Sessions can be ended, the server stalled and restarted; what was committed is there afterwards."""
    psycopg = pytest.importorskip("psycopg")
    postgres.execute("CREATE TABLE kept (n int)", database=postgres_database)
    postgres.execute("INSERT INTO kept VALUES (7)", database=postgres_database)
    with psycopg.connect(postgres.url(postgres_database), autocommit=True) as connection:
        assert postgres.kill_connections(postgres_database) == 1
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with postgres.stalled(), pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(postgres.url(), connect_timeout=2)
    postgres.restart(signal.SIGQUIT)
    assert postgres.execute("SELECT n FROM kept", database=postgres_database) == [(7,)]


def test_nothing_is_left() -> None:
    """A removed server leaves no process and no folder."""
    programs = find()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    server = Postgres(programs)
    server.start()
    pid = server.process.pid
    server.remove()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not Path(server.folder).exists()
