"""MeshLock: one server per mesh, held by the kernel, so that it ends with the process however that dies."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentmesh.errors import StoreError, StoreLocked

SERVERS = 64
"""Servers of one mesh folder at once, with a store that they can share."""


class MeshLock:
    """An exclusive `flock` on a file that says who holds it; a second one in the same process is refused too.

    The file stays when the lock is given back: removing it would let two processes lock two files of one name.
    """

    def __init__(self, file: Path, *, what: str = "mesh") -> None:
        """`what` is named in the refusal: `mesh` or `database`."""
        self.file = file
        self._what = what
        self._fd: int | None = None

    @classmethod
    def of_folder(cls, folder: Path) -> MeshLock:
        """The lock of a mesh: `.agentmesh/lock` in its folder."""
        return cls(folder / ".agentmesh" / "lock")

    @classmethod
    def of_server(cls, folder: Path) -> MeshLock:
        """The lock, taken, of one of several servers of a mesh: `.agentmesh/lock`, or the first free `.agentmesh/servers/N/lock`."""
        state = folder / ".agentmesh"
        held = [cls.of_folder(folder), *(cls(state / "servers" / str(n) / "lock") for n in range(2, SERVERS + 1))]
        for lock in held[:-1]:
            with suppress(StoreLocked):
                return lock.acquire()
        return held[-1].acquire()

    def acquire(self, *, url: str | None = None) -> Self:
        """Takes the lock at once or raises StoreLocked, naming the process and the address that hold it. Nothing when it is held here."""
        if self._fd is not None:
            return self
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"The lock {self.file} cannot be written ({error.strerror}); "
                "give this user the right to write its folder, or serve another."
            ) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _read(fd)
            os.close(fd)
            raise StoreLocked(self._refusal(holder), **holder) from None
        self._fd = fd
        self.announce(url)
        return self

    def announce(self, url: str | None) -> None:
        """Writes who holds the lock; call again when the address is known."""
        if self._fd is None:
            raise RuntimeError("announce() needs the lock; call acquire() first")
        text = json.dumps({"pid": os.getpid(), "url": url}).encode()
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    def holder(self) -> dict[str, Any]:
        """{pid, url} of the last process that took the lock; empty when nobody did. It may be gone by now."""
        try:
            fd = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return {}
        try:
            return _read(fd)
        finally:
            os.close(fd)

    def release(self) -> None:
        """Gives the lock back; does nothing when it is not held."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def _refusal(self, holder: dict[str, Any]) -> str:
        who = f"process {holder['pid']}" if holder.get("pid") else "another process"
        where = f" at {holder['url']}" if holder.get("url") else ""
        place = self.file.parent.parent if self._what == "mesh" else self.file.with_suffix("")
        return f"The {self._what} {place} is in use by {who}{where}; stop that one first, or use it as it is."


def _read(fd: int) -> dict[str, Any]:
    try:
        value = json.loads(os.pread(fd, 4096, 0))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
