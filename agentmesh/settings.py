"""Settings: one frozen value, read once in app.py or the CLI. The only reader of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agentmesh.errors import ServeError


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    body: int = 4 * 1024 * 1024
    """Largest request body; larger is refused before it is read."""
    headers: int = 64 * 1024
    json_depth: int = 64
    model_wait: float = 600.0
    """How long a call waits for a model that is still loading."""


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a worker owns a run, and how often it says that it is alive."""

    seconds: float = 30.0
    heartbeat: float = 10.0

    @classmethod
    def of(cls, text: str) -> Lease:
        """From `AGENTMESH_LEASE`, seconds; three heartbeats fit in. ServeError when it is no number from 1 to 3600."""
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 1 <= seconds <= 3600:
            raise ServeError(f"AGENTMESH_LEASE={text!r} is no lease; give seconds from 1 to 3600, such as 30")
        return cls(seconds, seconds / 3)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Named secrets; `repr` shows names only."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"Secrets({', '.join(sorted(self.values)) or 'none'})"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one server process is told from outside its files."""

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = None
    """Where A2A is served over gRPC; 0: nowhere. None: nobody asked, and `serve` takes the one after `port` when it is free."""
    state: Path | None = None
    """Where this process keeps its address and lock; None: `.agentmesh/` in the folder. Only a further server has another."""
    store: str | None = None
    """Overrides `store:` of agentmesh.yaml (`AGENTMESH_STORE`)."""
    keep_models: bool = False
    models: bool = True
    """False: do not deploy models (`serve --no-models`); calls to them fail with what to do."""
    child_grace: float = 600.0
    """How long the models' child lives without a server."""
    ray_address: str | None = None
    """An existing Ray cluster to join (`AGENTMESH_RAY_ADDRESS`); None: start a local one."""
    crash_at: str | None = None
    """Where in the journal this process kills itself (`AGENTMESH_CRASH_AT`; see adapters.crash). For tests of what remains."""
    reload: bool = True
    """Whether changed files are taken over while the mesh is served (`serve --no-reload`: they are not, until a SIGHUP)."""
    secrets_folder: Path | None = None
    """Where secrets are mounted (`AGENTMESH_SECRETS_DIR`); no resource shows what lies there."""
    log_level: str = "info"
    limits: Limits = Limits()
    lease: Lease = Lease()
    concurrency: int = 512
    """Runs at once that no step started (`AGENTMESH_CONCURRENCY`); further ones wait. What waits for time or people takes no place."""
    secrets: Secrets = Secrets()
    keys: tuple[str, ...] = field(default=(), repr=False)
    """What tokens and states are sealed with (`AGENTMESH_KEYS`): the first seals, all open. None: the key in `.agentmesh/key`."""
    outbound_proxy: str | None = field(default=None, repr=False)
    """The proxy that push notifications go through (`AGENTMESH_OUTBOUND_PROXY`); None: they go to the address that was judged."""

    @property
    def grpc_address(self) -> str:
        """`HOST:PORT`, once `serve` has made sure of the port; empty when A2A is not served over gRPC."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.grpc_port}" if self.grpc_port else ""

    @property
    def state_folder(self) -> Path:
        """Lock, address and token of this process: `.agentmesh/`, or for a further server of the folder `.agentmesh/servers/N/`."""
        return self.state or self.folder / ".agentmesh"


SHORTEST_KEY = 32
"""Characters of a key in `AGENTMESH_KEYS` or `.agentmesh/key`."""


def read_keys(text: str) -> tuple[str, ...]:
    """Keys between commas. ServeError, which shows none of them, when one is too short to be one."""
    keys = tuple(key.strip() for key in text.split(","))
    for place, key in enumerate(keys, start=1):
        if len(key) < SHORTEST_KEY:
            raise ServeError(
                f"key {place} of AGENTMESH_KEYS is shorter than {SHORTEST_KEY} characters; make one, for example with "
                "`openssl rand -base64 32`, and separate several with commas"
            )
    return keys


def read_settings(folder: Path, environ: Mapping[str, str] = os.environ, **given: object) -> Settings:
    """Settings for a mesh folder: the environment, then what the command line gave (None means not given)."""
    secrets = {k.removeprefix("AGENTMESH_SECRET_"): v for k, v in environ.items() if k.startswith("AGENTMESH_SECRET_")}
    mounted = environ.get("AGENTMESH_SECRETS_DIR")
    if mounted and Path(mounted).is_dir():
        for file in Path(mounted).iterdir():
            if file.is_file():
                secrets.setdefault(file.name, file.read_text().rstrip("\n"))
    values: dict[str, object] = {"folder": folder.resolve(), "secrets": Secrets(secrets)}
    if mounted:
        values["secrets_folder"] = Path(mounted)
    if store := environ.get("AGENTMESH_STORE"):
        values["store"] = store
    if address := environ.get("AGENTMESH_RAY_ADDRESS"):
        values["ray_address"] = address
    if crash_at := environ.get("AGENTMESH_CRASH_AT"):
        values["crash_at"] = crash_at
    if concurrency := environ.get("AGENTMESH_CONCURRENCY"):
        if not concurrency.isdecimal() or not 1 <= int(concurrency) <= 100_000:
            raise ServeError(f"AGENTMESH_CONCURRENCY={concurrency!r} is no number of runs; give one from 1 to 100000")
        values["concurrency"] = int(concurrency)
    if keys := environ.get("AGENTMESH_KEYS"):
        values["keys"] = read_keys(keys)
    if lease := environ.get("AGENTMESH_LEASE"):
        values["lease"] = Lease.of(lease)
    if proxy := environ.get("AGENTMESH_OUTBOUND_PROXY"):
        values["outbound_proxy"] = proxy
    if level := environ.get("AGENTMESH_LOG"):
        values["log_level"] = level
    values.update({k: v for k, v in given.items() if v is not None})
    return Settings(**values)  # type: ignore[arg-type]
