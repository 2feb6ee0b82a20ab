"""Backup: one file that holds the whole store as of one moment, made while a server works.

The copy is complete or not there: it is written beside its place, checked, brought to the disk and moved. To restore it, put it where
the database was while no server runs; docs/backup.md says how.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import URL

from agentmesh.adapters.sql.database import BUSY_SECONDS
from agentmesh.errors import NotBuilt, StoreError


def copy(url: URL, path: Path) -> int:
    """Copies the database to `path`, over an earlier copy; how many bytes. Blocks; needs no server, and stops none.

    StoreError when it cannot be read or written, NotBuilt on PostgreSQL, which has its own tools.
    """
    if url.get_backend_name() != "sqlite":
        raise NotBuilt("PostgreSQL is backed up by its own tools: `pg_dump --format=custom`; docs/backup.md says how.")
    source = Path(str(url.database))
    if not source.is_file():
        raise StoreError(f"There is no database {source}; start the server once, or correct `store:`.")
    if path.exists() and path.samefile(source):
        raise StoreError(f"{path} is the database itself; name another file for the copy.")
    partial = path.with_name(path.name + ".part")
    try:
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(source, timeout=BUSY_SECONDS)) as connection:
            # One read transaction: writers go on, and none of what they write meanwhile is in the copy.
            connection.execute("VACUUM INTO ?", (str(partial),))
        with closing(sqlite3.connect(partial)) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise StoreError(f"The copy of {source} is damaged ({said}); check the disk, and the database itself.")
        _to_disk(partial)
        partial.replace(path)
        _to_disk(path.parent)
        return path.stat().st_size
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{source} could not be copied to {path} ({error}); nothing there was changed.") from None
    finally:
        partial.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
