"""One SQLite file of `databases:`, opened for each statement: read-only by the file's mode and by a pragma, unless it may write."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from agentmesh.adapters.sql.databases import EFFECT, STORE_REFUSED, STORE_TABLES, Job, Table
from agentmesh.core.outside import Rows
from agentmesh.errors import Fail, Retry, StepError

BUSY = 5.0
"""Seconds to wait for another program that holds the file."""
_STEPS = 10_000
"""Of SQLite's machine between two looks at the time: about a millisecond."""


class SqliteDatabase:
    def __init__(self, name: str, file: Path) -> None:
        self._name, self._file = name, file

    def run(self, job: Job) -> Rows:
        if not self._file.is_file():
            raise Fail(f"the file {self._file} of the database {self._name} is missing")
        try:
            with closing(self._open(job)) as connection:
                return self._ask(connection, job)
        except sqlite3.Error as error:
            raise self._error(error, job) from None
        except UnicodeEncodeError:
            raise Fail("a parameter holds half of a surrogate pair, which no database takes") from None
        except OverflowError:
            raise Fail("a parameter is an integer past 64 bits, which SQLite does not have") from None

    def interrupt(self, job: Job) -> None:
        """Nothing to do: the statement looks at its job often enough."""

    def close(self) -> None:
        """Nothing is kept open."""

    def _open(self, job: Job) -> sqlite3.Connection:
        mode = "rw" if job.write else "ro"
        connection = sqlite3.connect(
            f"file:{quote(str(self._file))}?mode={mode}", uri=True, timeout=min(BUSY, job.seconds), isolation_level=None
        )
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        connection.set_progress_handler(lambda: job.over, _STEPS)
        connection.execute("PRAGMA foreign_keys=ON")
        if not job.write:
            connection.execute("PRAGMA query_only=ON")
        return connection

    def _ask(self, connection: sqlite3.Connection, job: Job) -> Rows:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        if {name for (name,) in tables}.issuperset(STORE_TABLES):
            raise Fail(f"the database {self._name} {STORE_REFUSED}")
        connection.execute("BEGIN IMMEDIATE" if job.write else "BEGIN")
        cursor = connection.execute(job.text, dict(job.parameters))
        if cursor.description is None:
            found = Rows([], max(cursor.rowcount, 0))
        else:
            table = Table([column for column, *_ in cursor.description], job)
            if job.write:
                # A row that is not fetched may be one that is not changed.
                rows = cursor.fetchall()
                for row in rows:
                    if not table.add(row):
                        break
            else:
                for row in cursor:
                    if job.over or not table.add(row):
                        break
            found = table.whole()
        cursor.close()
        if job.over:
            raise job.too_slow()
        if connection.in_transaction:
            connection.execute("COMMIT" if job.write else "ROLLBACK")
        return found

    def _error(self, error: sqlite3.Error, job: Job) -> StepError:
        said = str(error)
        match said.lower():
            case "interrupted":
                return job.too_slow()
            case text if "readonly" in text and not job.write:
                return Fail(EFFECT)
            case text if "locked" in text or "busy" in text:
                return Retry(f"the database {self._name} is held by another program")
            case text if "one statement" in text:
                return Fail("a sql step runs one statement")
        return Fail(f"the database {self._name} refuses the statement: {said[:500]}")
