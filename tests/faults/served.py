"""Served: `agentmesh serve` as a process of its own, which a test may kill, stop and start again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

ROOT = Path(__file__).parents[2]
START = 60.0
"""Most seconds until a server answers; it takes two on a machine at rest."""
ENDED = ("completed", "failed", "canceled", "rejected")
T = TypeVar("T")


class Served:
    """A server on a mesh folder. `start` and `kill` as often as a test likes; leaving ends it."""

    def __init__(self, folder: Path, *, store: str | None = None, port: int = 0, **environ: str) -> None:
        """`store`: overrides the folder's. Two servers on one folder need a PostgreSQL and a folder each. `port`: 0: any."""
        self.folder = folder
        self._port = port
        self._environ = {**os.environ, "PYTHONPATH": str(ROOT), "AGENTMESH_LOG": "warning", **environ}
        if store is not None:
            self._environ["AGENTMESH_STORE"] = store
        self._process: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(timeout=30, trust_env=False)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self.http.close()

    @property
    def log(self) -> Path:
        return self.folder / "serve.log"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server is not started"
        return self._process

    def start(
        self, *, crash_at: str | None = None, wait: bool = True, before: Callable[[], None] | None = None
    ) -> Served:
        """Starts the process; with `wait` returns when it answers. `before` is called in it first (limits)."""
        environ = dict(self._environ)
        if crash_at is not None:
            environ["AGENTMESH_CRASH_AT"] = crash_at
        state = self.folder / ".agentmesh" / "server.json"
        state.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agentmesh", "serve", "--no-models", "--port", str(self._port)],
                cwd=self.folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=before,  # noqa: PLW1509 - a system call, when a test asks for it
            )  # fmt: skip
        if wait:
            self.wait_up()
        return self

    def wait_up(self) -> None:
        state = self.folder / ".agentmesh" / "server.json"
        end = time.monotonic() + START
        while True:
            with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
                told = json.loads(state.read_text())
                if told["pid"] == self.process.pid:
                    self.http.base_url = told["url"]
                    # The API is imported while the socket listens already; its first answer says that all is there.
                    if self.http.get("/v1/mesh").status_code in (200, 503):
                        return
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start:\n{self.said()}")
            time.sleep(0.02)

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int | None:
        """Ends it, by default without a moment to say goodbye; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(how)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(10)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP while the block runs."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    # The API, as a client sees it

    def run(self, workflow: str, input: Any = None, *, key: str | None = None) -> dict[str, Any]:
        """Starts a run."""
        body = {"workflow": workflow, "input": {} if input is None else input}
        return self.post("/v1/runs", {**body, **({"key": key} if key else {})})

    def get(self, path: str) -> dict[str, Any]:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def post(self, path: str, body: Any = None, *, ok: tuple[int, ...] = (200, 201, 202), **headers: str) -> Any:
        answer = self.http.post(path, json={} if body is None else body, headers=headers)
        assert answer.status_code in ok, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def journal(self, run_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(f"/v1/runs/{run_id}/journal")["entries"]
        return found

    def ended(self, run_id: str, within: float = 60.0) -> dict[str, Any]:
        """The run when it has ended; fails after so many seconds."""
        return until(
            lambda: found if (found := self.get(f"/v1/runs/{run_id}"))["state"] in ENDED else None, within,
            lambda: f"run {run_id} did not end: {self.http.get(f'/v1/runs/{run_id}').text[:2000]}\n{self.said()}",
        )  # fmt: skip

    def ready(self) -> httpx.Response:
        return self.http.get("/readyz")


def until(look: Callable[[], T | None], within: float, why: Callable[[], str] | str = "nothing happened") -> T:
    """What `look` gives when it is not None, looked for every few milliseconds. A process elsewhere has no event to wait for."""
    end = time.monotonic() + within
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > end:
            raise AssertionError(why if isinstance(why, str) else why())
        time.sleep(0.02)


def check_journal(entries: list[Mapping[str, Any]]) -> None:
    """What holds of every journal, whatever happened: numbered without gaps, and no step begins or ends after its completion."""
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    over: set[str] = set()
    for entry in entries:
        path = entry.get("path") or ""
        if path and entry["kind"].startswith("step."):
            assert path not in over, f"{path} was completed, and then came {entry['kind']}"
        if entry["kind"] == "step.completed":
            over.add(path)
    ends = [e["kind"] for e in entries if e["kind"] in ("run.completed", "run.failed", "run.canceled")]
    assert len(ends) <= 1


HEALTHY = 1.0
"""Most seconds that `/healthz` may take, whatever the matter is."""
PATIENCE = 20.0
"""Most seconds that a caller waits for a refusal, and a server for noticing that all is well again."""


def expect_trouble(server: Served, workflow: str = "quick") -> None:
    """The server says that it cannot do its work, and when to come back; the process itself is well."""

    def refused() -> httpx.Response | None:
        begun = time.monotonic()
        answer = server.http.post("/v1/runs", json={"workflow": workflow, "input": {}}, timeout=PATIENCE)
        if answer.status_code == 201:
            return None
        assert time.monotonic() - begun < PATIENCE
        return answer

    answer = until(refused, PATIENCE, "runs are accepted all the same")
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"].startswith("application/problem+json")
    ready = until(
        lambda: found if (found := server.ready()).status_code == 503 else None, PATIENCE, "readyz says ready"
    )
    assert int(ready.headers["retry-after"]) >= 1
    # Reads may go on; where they cannot, they say the same.
    for path in ("/v1/runs", "/v1/questions", "/v1/schedules"):
        read = server.http.get(path, timeout=PATIENCE)
        assert read.status_code in (200, 503), read.text
        assert read.status_code == 200 or int(read.headers["retry-after"]) >= 1
    expect_alive(server)


def expect_alive(server: Served) -> None:
    """`/healthz` answers at once."""
    begun = time.monotonic()
    assert server.http.get("/healthz", timeout=PATIENCE).status_code == 200
    assert time.monotonic() - begun < HEALTHY


def expect_recovery(server: Served) -> None:
    """Without anybody's help the server is ready again, and runs end."""
    until(
        lambda: True if server.ready().status_code == 200 else None,
        PATIENCE,
        lambda: f"not ready: {server.ready().text}",
    )
    run = until(lambda: _started(server), PATIENCE, "no run is accepted")
    assert server.ended(run)["state"] == "completed"


def _started(server: Served) -> str | None:
    answer = server.http.post("/v1/runs", json={"workflow": "quick", "input": {}}, timeout=PATIENCE)
    return answer.json()["id"] if answer.status_code == 201 else None
