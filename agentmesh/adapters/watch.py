"""Watch: notices that the files of a mesh have changed, and that an operator asks for them to be read again (SIGHUP)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import anyio.to_thread

KINDS = ("servers", "workflows", "policies")
INTERVAL = 1.0
"""Seconds between two looks. A look costs a stat for each file; what tells of changes by itself differs by system and by mount."""
PATIENCE = 10
"""Looks after which files that never come to rest are read all the same."""

Stamp = Mapping[str, tuple[int, int, int]]


class FolderWatch:
    """The project files of one mesh folder, as they were when it was made, and then when `changed` returned last."""

    def __init__(
        self, folder: Path, *, interval: float = INTERVAL, sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    ) -> None:
        self._folder = folder
        self._interval = interval
        self._sleep = sleep
        self._seen = stamp_of(folder)

    async def changed(self) -> None:
        """Returns when some file is another, new or gone, and all of them have been still for a look: no half of an update is read."""
        while True:
            await self._sleep(self._interval)
            now = await self._look()
            if now == self._seen:
                continue
            for _ in range(PATIENCE):
                await self._sleep(self._interval)
                before, now = now, await self._look()
                if now == before:
                    break
            if now != self._seen:
                self._seen = now
                return

    async def _look(self) -> Stamp:
        return await anyio.to_thread.run_sync(stamp_of, self._folder)


def stamp_of(folder: Path) -> Stamp:
    """What tells one state of the files from another: inode, size and time of each."""
    found: dict[str, tuple[int, int, int]] = {}
    paths = [folder / "agentmesh.yaml"]
    for kind in KINDS:
        try:
            with os.scandir(folder / kind) as entries:
                paths += [Path(e.path) for e in entries if e.name.endswith((".yaml", ".yml")) and e.name[0] != "."]
        except OSError:
            continue
    for path in paths:
        try:
            about = path.stat()
        except OSError:
            continue
        found[str(path)] = (about.st_ino, about.st_size, about.st_mtime_ns)
    return found


async def on_hangup(read_again: Callable[[], Awaitable[object]], stop: Callable[[], None]) -> None:
    """On SIGHUP reads the files again; where it says that the terminal of this process has gone, stops instead. Never returns.

    Under `nohup` it never stops.
    """
    had_terminal = (
        sys.stdin is not None and sys.stdin.isatty() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    )
    with anyio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _ in signals:
            if had_terminal and not _has_terminal():
                stop()
            else:
                await read_again()


def _has_terminal() -> bool:
    try:
        os.tcgetpgrp(sys.stdin.fileno())
    except (OSError, ValueError):
        return False
    return True
