"""Processes of one mesh, found again by a mark in their environment.

Every process that the models' child starts inherits `AGENTMESH_MESH_ID`, and Linux keeps the environment a process was
started with in /proc. So what is left of a cluster can be found and ended whoever its parent is now, after any crash,
by a server that did not start it. Linux only. Blocking calls; the longest waits as long as it is told.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MARK = "AGENTMESH_MESH_ID"
PROC = Path("/proc")
_PR_SET_CHILD_SUBREAPER = 36
_EXEC_TIME = 2.0
"""Seconds after its start in which a process without an environment may be one that is only getting it."""


def become_subreaper() -> None:
    """Orphans among our descendants become our children: none can slip away to init. Survives exec, not fork."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


@dataclass(frozen=True, slots=True)
class Process:
    """A process and when it started, so that a reused pid is not taken for it."""

    pid: int
    started: int
    """Clock ticks after boot."""

    def alive(self) -> bool:
        """Running, and not a zombie."""
        stat = _stat(self.pid)
        return stat is not None and stat[1] == self.started and stat[0] not in "ZX"


def process(pid: int) -> Process | None:
    """The process that has this pid now, or None when it has gone or is a zombie."""
    stat = _stat(pid)
    return None if stat is None or stat[0] in "ZX" else Process(pid, stat[1])


def marked(mesh_id: str, spare: Iterable[int] = ()) -> list[int]:
    """Pids of the running processes that carry the mesh's mark, without `spare`.

    A process is missing for the moment in which it executes its program: it has no environment then.
    """
    return _scan(mesh_id, set(spare))[0]


def _scan(mesh_id: str, spared: set[int]) -> tuple[list[int], bool]:
    """(the marked processes, whether some process is so new that it cannot be told yet)."""
    mark = f"{MARK}={mesh_id}".encode()
    newest = (time.clock_gettime(time.CLOCK_BOOTTIME) - _EXEC_TIME) * os.sysconf("SC_CLK_TCK")
    found, unclear = [], False
    for entry in os.scandir(PROC):
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        try:
            environment = Path(entry.path, "environ").read_bytes()
        except OSError:
            continue  # another user's, or gone: not ours either way
        if not environment or mark in environment.split(b"\0"):
            stat = _stat(int(entry.name))
            if stat is not None and stat[0] not in "ZX":
                if environment:
                    found.append(int(entry.name))
                else:
                    unclear = unclear or stat[1] > newest  # older ones are the kernel's own
    return found, unclear


def end_marked(mesh_id: str, spare: Iterable[int] = (), seconds: float = 10.0) -> list[int]:
    """Kill every marked process and wait until they are gone; returns those that are not after `seconds`.

    Kill, not terminate: engines and raylets hold no state worth saving, and some of them start others on SIGTERM.
    Repeats, since a process may fork between being found and being killed.
    """
    spared, killed = set(spare), set[int]()
    deadline = time.monotonic() + seconds
    quiet = 0
    while True:
        left, unclear = _scan(mesh_id, spared)
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed.update(left)
        for pid in killed:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # ours, when we are its parent or the subreaper; never anybody else's child
        quiet = 0 if left or unclear else quiet + 1
        if quiet >= 2 or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def listeners(pids: Iterable[int]) -> list[tuple[int, str, int]]:
    """(pid, address, port) of every TCP socket that these processes listen on, and every UDP socket they bound."""
    sockets = {inode: where for table in ("tcp", "tcp6", "udp", "udp6") for inode, where in _table(table)}
    found = []
    for pid in pids:
        try:
            fds = list(os.scandir(PROC / str(pid) / "fd"))
        except OSError:
            continue
        for fd in fds:
            with contextlib.suppress(OSError):
                target = str(Path(fd.path).readlink())
                if target.startswith("socket:[") and target[8:-1] in sockets:
                    found.append((pid, *sockets[target[8:-1]]))
    return found


def free_ports(count: int, keep: Iterable[int] = ()) -> list[int]:
    """`count` different TCP ports free on loopback now; those of `keep` that still are come first."""
    held: list[socket.socket] = []
    try:
        for port in [*keep, *[0] * count]:
            if len(held) == count:
                break
            sock = socket.socket()
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                sock.close()
            else:
                held.append(sock)
        return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()


def _stat(pid: int) -> tuple[str, int] | None:
    """(state letter, start time) of a process."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def _table(name: str) -> Iterable[tuple[str, tuple[str, int]]]:
    listening = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}[name]
    try:
        lines = (PROC / "net" / name).read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if fields[3] == listening:
            address, _, port = fields[1].partition(":")
            yield fields[9], (_address(address), int(port, 16))


def _address(text: str) -> str:
    """/proc/net writes addresses as words of host byte order, in hex."""
    raw = b"".join(bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8))
    if len(raw) == 16 and raw[:12] == b"\0" * 10 + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
