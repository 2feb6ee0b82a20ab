"""Environments: each peer in a virtual environment of its own, made once and kept under a cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PEERS: dict[str, tuple[str, ...]] = {
    "dbos": ("dbos==3.4.0", "psycopg[binary]==3.3.9", "sqlalchemy==2.1.9", "uvloop==0.23.0"),
    "langgraph": (
        "langgraph==1.2.22", "langgraph-checkpoint==4.3.2", "langgraph-checkpoint-sqlite==3.1.2",
        "langgraph-checkpoint-postgres==3.2.0", "psycopg[binary]==3.3.9", "psycopg-pool==3.3.3", "uvloop==0.23.0",
    ),
    "mcp-atlassian": ("mcp-atlassian==0.23.1",),
    "mcp-server-git": ("mcp-server-git==2026.10.19",),
    "excel-mcp-server": ("excel-mcp-server==2.2.2",),
    "workspace-mcp": ("workspace-mcp==2.2.1",),
    "office-word-mcp-server": ("office-word-mcp-server==1.1.11",),
}  # fmt: skip
"""What each peer is measured with; the packages below these are pip's choice and stand in the result."""
MCP_PEERS: dict[str, tuple[str, ...]] = {
    "fastmcp": (
        "fastmcp==4.1.0", "mcp==2.3.0", "starlette==1.10.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0",
    ),
}  # fmt: skip
"""The same for `mcp_calls.py`; MCP's own SDK is a package of ours, and measured as it stands in this environment."""
A2A_PEERS: dict[str, tuple[str, ...]] = {
    "a2a": (
        "a2a-sdk[http-server,sqlite,postgresql]==1.3.0", "aiosqlite==0.22.1", "asyncpg==0.32.0", "sqlalchemy==2.1.9",
        "protobuf==7.36.2", "starlette==1.10.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0",
    ),
}  # fmt: skip
"""The same for the `a2a_*.py` scripts: A2A's own SDK with its own task store, which needs drivers that are no packages of ours."""
ROUTING_PEERS: dict[str, tuple[str, ...]] = {"rank-bm25": ("rank-bm25==0.2.2", "numpy==2.3.5")}
"""The same for `routing.py`."""
NODE_PEERS: dict[str, dict[str, str]] = {
    "typescript": {
        "@modelcontextprotocol/server": "2.4.0", "@modelcontextprotocol/node": "2.1.2", "zod": "4.6.7",
    },
}  # fmt: skip


class CannotInstall(Exception):
    """A peer cannot be installed here."""


def cache() -> Path:
    """Where environments are kept: $XDG_CACHE_HOME, or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "agentmesh-benchmarks"


def environment(name: str) -> Path:
    """The Python of a peer's environment. CannotInstall, in plain words, where pip cannot have the packages."""
    packages = (PEERS | MCP_PEERS | A2A_PEERS | ROUTING_PEERS)[name]
    digest = hashlib.sha256("\n".join((sys.version, *packages)).encode()).hexdigest()[:12]
    folder = cache() / f"{name}-{digest}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if done.exists():
        return python
    print(f"installing {', '.join(packages)} into {folder} (once)", file=sys.stderr)
    try:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True, timeout=900,
            capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        last = next((line for line in reversed(said) if "ERROR" in line), said[-1] if said else "no reason given")
        raise CannotInstall(
            f"{name} could not be installed; this benchmark needs the network once, to fetch {packages[0]}: {last}"
        ) from None
    done.touch()
    return python


def node_environment(name: str) -> Path:
    """The folder of a peer's npm packages. CannotInstall where there is no Node, or npm cannot have them."""
    packages = NODE_PEERS[name]
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        raise CannotInstall(f"{name} needs Node 20 or newer with npm; install it (Debian: apt-get install nodejs npm)")
    text = json.dumps({"private": True, "dependencies": packages}, indent=2)
    folder = cache() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    done = folder / "installed"
    if done.exists():
        return folder
    print(f"installing {', '.join(f'{k}@{v}' for k, v in packages.items())} into {folder} (once)", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(text)
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True, timeout=600,
            capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise CannotInstall(
            f"{name} could not be installed; this benchmark needs the network once: {said[-1] if said else 'no reason'}"
        ) from None
    done.touch()
    return folder


def installed(python: Path) -> dict[str, str]:
    """Every package of an environment with its version."""
    listing = subprocess.run(
        [python, "-c", "import importlib.metadata as m; print('\\n'.join(f'{d.name}=={d.version}' for d in m.distributions()))"],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return dict(line.split("==", 1) for line in sorted(listing.stdout.split()))
