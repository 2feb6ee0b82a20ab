"""A PostgreSQL of the benchmark's own: durable as it is delivered, on a port of loopback, gone when the benchmark is.

Unlike the one the tests start it keeps `fsync`, `synchronous_commit` and `full_page_writes` on.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START = 60.0
"""Most seconds for the server to answer."""
SETTINGS = {"max_connections": "100", "shared_buffers": "256MB", "listen_addresses": "127.0.0.1"}
"""Everything else is PostgreSQL's default."""
_PRCTL = ctypes.CDLL(None).prctl


class NoPostgres(Exception):
    """PostgreSQL is not installed, or did not start."""


def programs() -> Path:
    """The folder of PostgreSQL's programs, the newest version first."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: float(p.parts[-3]))
    on_path = shutil.which("postgres")
    if not found and on_path is None:
        raise NoPostgres("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).resolve().parent


@contextmanager
def server(parent: Path | None = None) -> Iterator[Server]:
    """A started server; it is stopped and its data removed at the end."""
    binaries = programs()
    folder = Path(tempfile.mkdtemp(prefix="bench-pg-", dir=parent))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root; Debian's package brings the user
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres", "postgres")
    process: subprocess.Popen[bytes] | None = None
    try:
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--locale=C", "--encoding=UTF8"],
            check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=120, **user,
        )  # fmt: skip
        port = _free_port()
        options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", preexec_fn=_die_with_parent, **user,  # noqa: PLW1509
            )  # fmt: skip
        found = Server(port, process)
        found.wait(folder / "log")
        yield found
    except subprocess.SubprocessError as error:
        raise NoPostgres(f"PostgreSQL could not be started: {error}") from error
    finally:
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)  # ends the sessions, then itself
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """Makes and drops databases, and answers questions."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self._process = process

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def ask(self, statement: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """One statement outside any transaction."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def create(self, database: str) -> str:
        """A new, empty database; its address."""
        self.ask(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        self.ask(f"CREATE DATABASE {database} TEMPLATE template0")
        self.ask("CHECKPOINT")  # so that no system pays for the one before it
        return self.url(database)

    def drop(self, database: str) -> None:
        self.ask(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def cpu_seconds(self) -> float:
        """What the postmaster and its children, living and gone, have used so far."""
        ticks = os.sysconf("SC_CLK_TCK")
        pids = [self._process.pid, *_children(self._process.pid)]
        total = 0
        for pid in pids:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += int(fields[11]) + int(fields[12])
            if pid == self._process.pid:
                total += int(fields[13]) + int(fields[14])
        return total / ticks

    def wait(self, log: Path) -> None:
        """Returns when it answers; NoPostgres with its last words when it does not."""
        end = time.monotonic() + START
        while True:
            try:
                self.ask("SELECT 1")
                return
            except Exception as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    said = log.read_text(errors="replace")[-1000:]
                    raise NoPostgres(f"PostgreSQL did not start: {error}\n{said}") from error
            time.sleep(0.05)


def _die_with_parent() -> None:
    """In the new process: SIGQUIT (an immediate stop) when whoever started it is gone, however it went."""
    _PRCTL(1, signal.SIGQUIT)


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
