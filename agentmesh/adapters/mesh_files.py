"""Mesh files: files under the mesh's folder that resources and prompts show, opened so that no path and no link leads out of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import anyio.to_thread

from agentmesh.errors import NotFound, TooLarge

LARGEST = 8 * 1024 * 1024
"""Bytes of one file: it is one message."""
_STATE = (".db", ".db-wal", ".db-shm", ".db-journal", ".sqlite", ".sqlite3")
"""Endings of what a store writes: never shown, whoever names it."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FolderFiles:
    """The files of one folder. Not shown: what begins with a dot, databases, links, and what lies in `secret`."""

    def __init__(self, folder: Path, secret: Path | None = None) -> None:
        self._folder = folder
        self._secret = None if secret is None else secret.resolve()

    async def read(self, path: str) -> bytes:
        """See core.outside.Files."""
        return await anyio.to_thread.run_sync(self._read, path)

    async def stamp(self, path: str) -> object:
        """See core.outside.Files."""
        return await anyio.to_thread.run_sync(self._stamp, path)

    def _read(self, path: str) -> bytes:
        fd = self._open(path)
        with os.fdopen(fd, "rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise TooLarge(f"the file {path} has more than {LARGEST:,} bytes")
        return data

    def _stamp(self, path: str) -> object:
        try:
            fd = self._open(path)
        except NotFound:
            return None
        try:
            about = os.fstat(fd)
        finally:
            os.close(fd)
        return about.st_ino, about.st_size, about.st_mtime_ns

    def _open(self, path: str) -> int:
        """Opened one name at a time, each under the folder before it: a link put there meanwhile is not followed either."""
        names = path.removeprefix("./").split("/")
        if refusal(path) or (
            self._secret is not None and self._folder.resolve().joinpath(*names).is_relative_to(self._secret)
        ):
            raise NotFound(f"there is no file {path!r} to show")
        try:
            at = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(f"the mesh's folder cannot be read now ({error.strerror})") from None
        try:
            for name in names[:-1]:
                below = os.open(name, _FOLDER, dir_fd=at)
                os.close(at)
                at = below
            fd = os.open(names[-1], _FILE, dir_fd=at)
        except (OSError, ValueError):
            raise NotFound(f"there is no file {path!r} to show") from None
        finally:
            os.close(at)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotFound(f"there is no file {path!r} to show")
        return fd


def refusal(path: str) -> str | None:
    """Why a path is never shown; None when it may be."""
    names = path.removeprefix("./").split("/")
    if path.startswith("/") or ".." in names:
        return "must lie in the mesh's folder"
    if any(not name or name.startswith(".") for name in names) or "\0" in path or "\\" in path:
        return "is hidden, or no path of a file"
    if names[-1].lower().endswith(_STATE):
        return "is a database"
    return None
