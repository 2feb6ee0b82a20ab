"""The official MCP conformance suite against this release, as server and as client: `make conformance-mcp`.

Each leg ends in one line, and its counts are part of the check: a server that is not there passes some of the suite too. The suite
holds every JSON-RPC message that it gets against the published schema of its revision (its check `wire-schema-valid`, one for each
scenario), so the counts cover that. Needs npm; the suite and the Node that it runs on are installed here, as the lock file says.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
BIN: Final = HERE / "node_modules/.bin"
AGENTMESH: Final = Path(sys.executable).parent / "agentmesh"
START_SECONDS: Final = 60
LEG_SECONDS: Final = 900
PATIENCE: Final = "180000"
"""Milliseconds for a scenario: the suite begins all of a client's at once, each a process, on however few cores there are."""

SERVER: Final[Mapping[str, int]] = {"2026-07-28": 120, "2025-11-25": 70}
"""Scored checks that have to pass, by revision."""
UNSCORED: Final[Mapping[str, int]] = {"2026-07-28": 32, "2025-11-25": 11}
"""Checks of scenarios that no set asks for yet, beside those of the tasks extension."""
TASKS: Final = 44
CLIENT: Final[Mapping[str, int]] = {"2026-07-28": 396, "2025-11-25": 238}

_LINE: Final = re.compile(r"^\S ([\w/-]+): (\d+) passed, (\d+) failed", re.MULTILINE)
_UNSCORED: Final = re.compile(r"^ +\S ([\w/-]+) \((?:[a-z-]+)\)", re.MULTILINE)


@dataclass
class Count:
    passed: int = 0
    failed: int = 0

    def add(self, passed: int, failed: int) -> None:
        self.passed += passed
        self.failed += failed


def main() -> int:
    install()
    faults: list[str] = []
    with served() as url:
        for revision, wanted in SERVER.items():
            output = harness(["server", "--url", url, "--requirements", revision, "--timeout", PATIENCE])
            scored, tasks, others = counted(output)
            faults += told(f"server {revision}", scored, wanted, output)
            if revision == "2026-07-28":
                faults += told("server, tasks extension", tasks, TASKS, output)
            faults += told(f"server {revision}, not scored", others, UNSCORED[revision], output)
    faults += client_legs()
    for fault in faults:
        print(f"conformance: {fault}", file=sys.stderr)
    return 1 if faults else 0


def install() -> None:
    """The suite, when it is not here as the lock file has it."""
    marker, lock = HERE / "node_modules/.lock", (HERE / "package-lock.json").read_bytes()
    if marker.is_file() and marker.read_bytes() == lock:
        return
    subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--silent"],
        cwd=HERE, check=True, timeout=LEG_SECONDS,
    )  # fmt: skip
    marker.write_bytes(lock)


@contextmanager
def served() -> Iterator[str]:
    """The mesh of this folder, served on a free port as a user serves it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(AGENTMESH), "serve", "--no-models", "--port", str(port), "--grpc-port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # the functions behind the fixtures are in tests/
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, cwd=HERE, env=environment, stderr=log, stdout=log) as server,
    ):
        try:
            wait_for(server, f"http://127.0.0.1:{port}/healthz")
            yield f"http://localhost:{port}/mcp"
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-4000:])
            raise
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for(server: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the server did not answer at {url} within {START_SECONDS} s")


def harness(arguments: list[str]) -> str:
    """What the suite prints. It exits 1 when a scenario fails; the counts say more."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as results:
        done = subprocess.run(
            [str(BIN / "conformance"), *arguments], cwd=results, env=environment, timeout=LEG_SECONDS, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    return done.stdout


def counted(output: str) -> tuple[Count, Count, Count]:
    """Scored checks, those of the tasks extension, and those of other scenarios that are not scored."""
    scored, tasks, others = Count(), Count(), Count()
    unscored = set(_UNSCORED.findall(output.partition("Not scored")[2]))
    for name, passed, failed in _LINE.findall(output.partition("SUMMARY ===")[2]):
        count = scored if name not in unscored else tasks if name.startswith("tasks-") else others
        count.add(int(passed), int(failed))
    return scored, tasks, others


def told(leg: str, count: Count, wanted: int, output: str) -> list[str]:
    """Prints the leg's line; what is wrong with it."""
    print(f"conformance {leg}: {count.passed} passed, {count.failed} failed ({wanted} wanted)", flush=True)
    if count.passed >= wanted and not count.failed:
        return []
    sys.stderr.write(output[-8000:])
    return [f"{leg}: {count.passed} passed and {count.failed} failed; {wanted} have to pass and none may fail"]


def client_legs() -> list[str]:
    """This mesh as a client of other servers."""
    faults: list[str] = []
    command = f"{sys.executable} -m tests.conformance.client"
    for revision, wanted in CLIENT.items():
        # It plays all scenarios at once: on a few cores each of them starts slowly.
        output = harness(["client", "--command", command, "--requirements", revision, "--timeout", "120000"])
        scored, _, others = counted(output)
        faults += told(f"client {revision}", scored, wanted, output)
        print(f"conformance client {revision}, not scored: {others.passed} passed, {others.failed} failed", flush=True)
    return faults


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
