"""A real PostgreSQL for the tests: found, started in a temporary folder, broken on purpose, stopped.

The server is a child of the process that started it and dies with it. Where PostgreSQL is not installed the tests that
need it are skipped and say so; in continuous integration (`CI=true`, root, a Debian) it is installed first.

    python -m tests.postgres        installs PostgreSQL where that is allowed, and says what was found
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

MISSING = "PostgreSQL is not installed: apt-get install postgresql"
START = 60.0
"""Most seconds for a server to answer after it was started."""


def find() -> Path | None:
    """The folder of PostgreSQL's programs, the newest version first; None where there are none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda found: float(found.parent.name))
    on_path = shutil.which("initdb")
    folders = [*reversed(versions), *([Path(on_path).resolve().parent] if on_path else [])]
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def install() -> bool:
    """Installs Debian's package where nobody minds: in continuous integration, as root. Whether it is there now."""
    if find() is not None:
        return True
    if os.environ.get("CI", "").lower() not in ("1", "true") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    # Without this the package starts a server of its own, which nothing here uses.
    defaults = Path("/etc/postgresql-common/createcluster.conf")
    if not defaults.exists():
        defaults.parent.mkdir(parents=True, exist_ok=True)
        defaults.write_text("create_main_cluster = false\n")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "postgresql"]):
        command = ["apt-get", "-o", "Dpkg::Options::=--force-confold", *arguments]
        subprocess.run(command, env=quiet, stdout=sys.stderr, check=False, timeout=600)
    return find() is not None


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Postgres:
    """A server on a port of loopback, its data in a folder of its own under the system's temporary folder."""

    def __init__(self, programs: Path) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="agentmesh-pg-"))
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        # PostgreSQL refuses to run as root; Debian's package brings the user.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(self.folder, "postgres", "postgres")
        subprocess.run(
            [programs / "initdb", "-D", self.folder / "data", "-U", "postgres", "-A", "trust", "-N",
             "--locale=C", "--encoding=UTF8"],
            check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=120, **self._user,
        )  # fmt: skip

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The postmaster."""
        assert self._process is not None, "the server is not started"
        return self._process

    def start(self) -> None:
        """Starts the server and waits until it answers. It dies with the calling thread."""
        assert self._process is None
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", "-p", str(self.port), "-k", self.folder,
                 "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=60", "-c", "shared_buffers=64MB",
                 # Nothing here survives the machine, so nothing need reach its disk.
                 "-c", "fsync=off", "-c", "full_page_writes=off"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                preexec_fn=_die_with_parent, **self._user,  # noqa: PLW1509 - one system call, and no lock
            )  # fmt: skip
        self._wait_ready()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: ends sessions, then itself (`fast`); SIGQUIT: like a crash. Does nothing when it is stopped."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def remove(self) -> None:
        """Stops the server and removes its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self, how: signal.Signals = signal.SIGINT, *, down: float = 0.0) -> None:
        """Stops it, leaves it down for so many seconds, and starts it on the same port."""
        self.stop(how)
        time.sleep(down)
        self.start()

    def url(self, database: str = "postgres") -> str:
        """What `store:` would say."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, *values: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Runs one statement outside any transaction; its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement, values or None)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def create(self) -> str:
        """A new, empty database; its name."""
        name = f"mesh_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return name

    def drop(self, database: str) -> None:
        """Removes a database, whoever is connected."""
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def kill_connections(self, database: str) -> int:
        """Ends every session of a database from the server's side; how many there were."""
        found = self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            database,
        )
        return len(found)

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Every process of the server is stopped: connections stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        # The postmaster first when stopping, so that it starts no session in between.
        own = self.process.pid
        for pid in (own, *_children(own)):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _wait_ready(self) -> None:
        import psycopg

        end = time.monotonic() + START
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    said = (self.folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"PostgreSQL did not start: {error}\n{said}") from error
            time.sleep(0.05)


def _die_with_parent() -> None:
    """In the new process: SIGQUIT (an immediate stop) when whoever started it is gone, however it went."""
    _PRCTL(1, signal.SIGQUIT)


_PRCTL: Callable[[int, int], int] = ctypes.CDLL(None).prctl


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server for the whole session. A test that stops it must start it again."""
    install()
    programs = find()
    if programs is None:
        pytest.skip(MISSING)
    pytest.importorskip("psycopg", reason="the driver is not installed: pip install 'agentmesh[postgres]'")
    server = Postgres(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_database(postgres: Postgres) -> Iterator[str]:
    """The name of an empty database of this test's own."""
    name = postgres.create()
    yield name
    postgres.drop(name)


@pytest.fixture
def postgres_url(postgres: Postgres, postgres_database: str) -> str:
    """The address of an empty database of this test's own, as `store:` would say it."""
    return postgres.url(postgres_database)


if __name__ == "__main__":
    install()
    print(find() or MISSING)
