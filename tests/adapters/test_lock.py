"""One server per mesh: the lock says who holds it, and ends with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentmesh.adapters.lock import MeshLock
from agentmesh.errors import StoreError, StoreLocked

HOLD = """
import sys, pathlib
from agentmesh.adapters.lock import MeshLock
lock = MeshLock.of_folder(pathlib.Path(sys.argv[1])).acquire()
lock.announce("http://127.0.0.1:8123")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_holder_is_told_who_holds_it(tmp_path: Path) -> None:
    """The refusal names the process and its address, for people and as data."""
    with MeshLock.of_folder(tmp_path) as lock:
        lock.announce("http://127.0.0.1:8080")
        with pytest.raises(StoreLocked, match=rf"process {os.getpid()} at http://127.0.0.1:8080") as refused:
            MeshLock.of_folder(tmp_path).acquire()
        assert refused.value.data == {"pid": os.getpid(), "url": "http://127.0.0.1:8080"}
        assert str(tmp_path) in refused.value.message
    MeshLock.of_folder(tmp_path).acquire().release()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    """After kill -9 the lock is free at once, though its file still names the dead process."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lock = MeshLock.of_folder(tmp_path)
        with pytest.raises(StoreLocked, match=f"process {holder.pid} at http://127.0.0.1:8123"):
            lock.acquire()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=10)
    assert lock.holder()["pid"] == holder.pid
    with lock:
        assert lock.holder() == {"pid": os.getpid(), "url": None}


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """Where no lock can be made, one sentence says so."""
    (tmp_path / ".agentmesh").write_text("a file in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        MeshLock.of_folder(tmp_path).acquire()


def test_giving_back_twice_is_harmless(tmp_path: Path) -> None:
    """A lock that is not held can be released; one that is not held cannot be announced."""
    lock = MeshLock.of_folder(tmp_path)
    lock.release()
    with pytest.raises(RuntimeError):
        lock.announce("http://127.0.0.1:1")


def test_servers_that_share_a_store_have_a_place_each(tmp_path: Path) -> None:
    """The first has the mesh's own, further ones the first that is free; what one gives back the next one takes."""
    first, second, third = (MeshLock.of_server(tmp_path) for _ in range(3))
    places = [str(lock.file.parent.relative_to(tmp_path)) for lock in (first, second, third)]
    assert places == [".agentmesh", ".agentmesh/servers/2", ".agentmesh/servers/3"]
    with pytest.raises(StoreLocked):
        MeshLock.of_folder(tmp_path).acquire()
    second.release()
    again = MeshLock.of_server(tmp_path)
    assert again.file == second.file
    for lock in (first, third, again):
        lock.release()
