"""Servers of this user's meshes: find the one of a folder, start one in the background, stop it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from agentmesh.cli.client import Client, Unreachable, announced, find
from agentmesh.cli.options import WRONG, WrongUsage
from agentmesh.cli.output import note
from agentmesh.errors import MeshError

START = 60.0
"""Seconds a server may take to answer; models load after that."""
STOP = 90.0
"""Seconds a server may take to stop itself and its models."""
POLL = 0.05
_started: list[subprocess.Popen[bytes]] = []
"""Servers that outlive this command. Held: Python warns of a process that is forgotten while it runs."""


def connect(folder: Path, *, start: bool = False) -> Client:
    """The client of the mesh's server. With `start`, one is started when none runs; else Unreachable says how."""
    client = find(folder)
    if client is None and start:
        note("no server runs for this mesh: starting one in the background (stop it with `agentmesh stop`)")
        client = _start(folder)
        note(f"serving {folder} at {client.url}")
    if client is None:
        raise Unreachable(f"no server runs for {folder}; start it with `agentmesh serve`")
    return client


def stop(folder: Path) -> list[int]:
    """Stops every server of the mesh and waits until they are gone. Their process ids."""
    pids = _pids(folder)
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + STOP
    while left := [pid for pid in pids if _alive(pid)]:
        if time.monotonic() > until:
            raise MeshError(f"the server (process {left[0]}) has not stopped in {STOP:.0f} s; see {_log(folder)}")
        time.sleep(POLL)
    return pids


def _start(folder: Path) -> Client:
    state = folder / ".agentmesh"
    state.mkdir(exist_ok=True)
    with _log(folder).open("ab") as log:
        begin = log.tell()
        # -P: a mesh folder must not hide installed packages from the server.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "agentmesh", "serve", "--mesh", str(folder), "--port", str(_port(state))],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    _started.append(process)
    until = time.monotonic() + START
    while time.monotonic() < until:
        if client := find(folder):
            (state / "port").write_text(client.url.rpartition(":")[2])
            return client
        if process.poll() is not None:
            # Another command may have been quicker: then that server holds the lock, and ours has left.
            if client := find(folder):
                return client
            if not _pids(folder):
                said = _said(_log(folder), begin)
                error = WrongUsage if process.returncode == WRONG else Unreachable
                raise error(said or f"the server ended with status {process.returncode}; see {_log(folder)}")
        time.sleep(POLL)
    raise Unreachable(f"the server has not answered in {START:.0f} s; see {_log(folder)}")


def _port(state: Path) -> int:
    """The port of the mesh's last background server, so that clients find it again; 0 (any) when it is taken."""
    try:
        port = int((state / "port").read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, ValueError, OverflowError):
        return 0
    return port


def _log(folder: Path) -> Path:
    return folder / ".agentmesh" / "server.log"


def _said(log: Path, begin: int) -> str:
    """What the server wrote before it left, without the program's name in front."""
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read(64 * 1024).decode("utf-8", "replace").strip()
    _, marker, last = text.rpartition("agentmesh: ")
    return last if marker else text[-2000:]


def _pids(folder: Path) -> list[int]:
    """The process ids of the mesh's servers, as they wrote them, if those processes still are ones."""
    found = []
    for file in announced(folder):
        try:
            pid = int(json.loads(file.read_text())["pid"])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, KeyError, TypeError):
            continue
        # Process ids are given again: something else may have this one by now.
        if b"agentmesh" in command and _alive(pid):
            found.append(pid)
    return found


def _alive(pid: int) -> bool:
    try:
        # A child of ours that has ended stays a zombie until it is asked for.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"
