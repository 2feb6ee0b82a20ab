"""The link between the server and the models' child: where they meet on disk, and lines of JSON on a UNIX socket.

One side imports no Ray, the other no server: this is all they share. Under `.agentmesh/models/` lie `state.json` (which
run folder and process), `token`, `ports.json` and `logs/`. The run folder is a short one under /tmp, since a UNIX
socket's path may have 107 bytes and Ray appends seventy of its own; only its owner can enter it, and it goes when the
models stop.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agentmesh.adapters.processes import Process
from agentmesh.core.model import ModelState, ModelStatus

PROTOCOL = 2
"""Raised when the lines change meaning; a child of another number is ended and started anew."""
LINE_LIMIT = 8 * 1024 * 1024
_RUNS = Path("/tmp")  # noqa: S108  short by need; what lies in it is made 0700 by mkdtemp


@dataclass(frozen=True, slots=True)
class Spec:
    """One model as the child is told to deploy it. Two equal specs are the same deployment."""

    source: str
    """A folder's absolute path, or a Hugging Face id."""
    local: bool
    revision: str
    device: str = "cpu"
    gpus: float = 0
    min_replicas: int = 1
    max_replicas: int = 1
    max_model_len: int | None = None
    tool_parser: str | None = None
    concurrency: int = 64
    small: bool = False
    """Weights of a few megabytes: a small cache is enough, and starts faster."""


def specs_to_json(specs: Mapping[str, Spec]) -> dict[str, Any]:
    return {name: asdict(spec) for name, spec in specs.items()}


def specs_from_json(document: Mapping[str, Any]) -> dict[str, Spec]:
    return {name: Spec(**fields) for name, fields in document.items()}


def status_from_json(fields: Mapping[str, Any]) -> ModelStatus:
    return ModelStatus(**{**fields, "state": ModelState(fields["state"]), "urls": tuple(fields["urls"])})


@dataclass(frozen=True, slots=True)
class Home:
    """`.agentmesh/models/` of one mesh."""

    folder: Path

    @property
    def mesh_id(self) -> str:
        """The mark its processes carry: the same for the same folder, even when `.agentmesh/` was deleted meanwhile."""
        return hashlib.sha256(f"{os.getuid()}:{self.folder.resolve()}".encode()).hexdigest()[:20]

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def ports(self) -> Path:
        return self.folder / "ports.json"

    def prepare(self) -> None:
        """Make the folders; readable by their owner alone."""
        for folder in (self.folder, self.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def token(self) -> str:
        """The secret that both ends of the link show; made on first use, in a file of mode 0600."""
        file = self.folder / "token"
        if not file.exists():
            write_private(file, secrets.token_hex(32))
        return file.read_text().strip()

    def load(self) -> State | None:
        """What the last server wrote down, or None."""
        try:
            return State(**json.loads((self.folder / "state.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, state: State | None) -> None:
        file = self.folder / "state.json"
        if state is None:
            file.unlink(missing_ok=True)
        else:
            write_private(file, json.dumps(asdict(state)))

    def new_run(self) -> Path:
        """An empty run folder."""
        return Path(tempfile.mkdtemp(prefix=self._prefix, dir=_RUNS))

    def remove_runs(self) -> None:
        """Remove every run folder of this mesh; only when none of its processes is left."""
        for folder in _RUNS.glob(f"{self._prefix}*"):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _prefix(self) -> str:
        return f"agentmesh-{self.mesh_id[:8]}-"


@dataclass(frozen=True, slots=True)
class State:
    """Which child runs, for the server that comes after this one."""

    run: str
    pid: int = 0
    started: int = 0

    @property
    def socket(self) -> Path:
        return Path(self.run) / "link.sock"

    @property
    def process(self) -> Process:
        return Process(self.pid, self.started)

    def with_process(self, process: Process) -> State:
        return replace(self, pid=process.pid, started=process.started)


def write_private(file: Path, text: str) -> None:
    """Replace a file as one step; nobody else can read it at any moment."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    draft.replace(file)


def to_line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
