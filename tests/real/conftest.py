"""A copy of the example mesh, served by the real program on real Ray and vLLM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).parent / "agentmesh"


@dataclass
class Served:
    """A mesh folder and the server process that serves it."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    options: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Starts the server and waits until it answers; models may still be loading."""
        log = (self.folder / "serve.log").open("ab")
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--port", "0", *self.options],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.folder / "serve.log").read_text()
            try:
                known = json.loads((self.folder / ".agentmesh/server.json").read_text())
                if known["pid"] == self.process.pid:
                    self.url = known["url"]
                    self.get("/healthz")
                    return
            except (OSError, ValueError):
                pass
            time.sleep(0.05)
        raise AssertionError("the server did not answer in 60 s: " + (self.folder / "serve.log").read_text())

    def wait_ready(self, seconds: float = 240) -> None:
        """Waits until every model answers."""
        until = time.monotonic() + seconds
        said = ""
        while time.monotonic() < until:
            try:
                self.get("/readyz")
                return
            except urllib.error.HTTPError as error:
                said = error.read().decode()
            time.sleep(0.2)
        raise AssertionError(f"not ready in {seconds} s: {said}\n" + (self.folder / "serve.log").read_text()[-4000:])

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: object) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.loads(answer.read())

    def command(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """The program itself, as typed in the mesh's folder."""
        return subprocess.run(
            [PROGRAM, *arguments], cwd=self.folder, capture_output=True, text=True, check=False, timeout=timeout
        )

    def wait_for_run(self, run_id: str, seconds: float = 240) -> dict[str, Any]:
        """The run once it is terminal."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            run: dict[str, Any] = self.get(f"/v1/runs/{run_id}")
            if run["state"] in {"completed", "failed", "canceled", "rejected"}:
                return run
            time.sleep(0.2)
        raise AssertionError(f"run {run_id} is still {run['state']} after {seconds} s: {json.dumps(run)[:2000]}")


def copy_mesh(folder: Path) -> Path:
    """The shipped example mesh, without the state of whoever serves it here."""
    shutil.copy(ROOT / "agentmesh.yaml", folder)
    for part in ("servers", "workflows", "policies"):
        shutil.copytree(ROOT / part, folder / part)
    return folder


def left_of(folder: Path) -> list[str]:
    """Processes whose environment or command names the mesh's folder or its models' run folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            known = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if str(folder).encode() in known and state != "Z":
            found.append(f"{entry.name} " + (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100])
    return found


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One mesh for the module, its model ready. Afterwards nothing of it may be left."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as name:
        mesh = Served(copy_mesh(Path(name)))
        mesh.start()
        try:
            mesh.wait_ready()
            yield mesh
        finally:
            mesh.stop()
        assert left_of(mesh.folder) == []
