"""One PostgreSQL of `databases:`. A few connections are kept; each statement has a transaction of its own.

The extended protocol carries a statement with its values beside it, and takes only one: no text of a value is ever read as SQL.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

from agentmesh.adapters.sql.databases import EFFECT, STORE_REFUSED, STORE_TABLES, Job, Table
from agentmesh.core.outside import Rows
from agentmesh.core.statement import rewritten
from agentmesh.errors import Fail, Retry, ServeError, StepError, Unanswered

try:
    import psycopg
except ImportError:
    raise ServeError(
        "a PostgreSQL of `databases:` needs its driver, which is not installed; run `pip install 'agentmesh[postgres]'`"
    ) from None

KEPT = 4
"""Idle connections."""
IDLE = 60.0
"""Seconds after which an idle connection is not used again."""
CONNECT_TIME = 10
SLACK = 2.0
"""Seconds that the server is given beyond the job's own time, after which it ends the statement without us."""
_CHUNK = 100
_IS_STORE = (
    "SELECT 1 FROM pg_catalog.pg_class WHERE relkind = 'r' AND relname = ANY(%s) "
    "GROUP BY relnamespace HAVING count(*) = %s LIMIT 1"
)
_TEMPORARY = ("08", "53", "57P", "40001", "40P01", "55P03")
"""Beginnings of SQLSTATEs: the connection, too many of them, a server that stops or starts, and what was rolled back for others."""

Connection = psycopg.Connection[tuple[Any, ...]]


class PostgresDatabase:
    def __init__(self, name: str, url: str, password: str) -> None:
        self._name, self._url, self._password = name, url, password
        self._idle: list[tuple[Connection, float]] = []
        self._lock = threading.Lock()
        self._running: dict[int, Connection] = {}
        self._closed = False

    def run(self, job: Job) -> Rows:
        connection = self._begun(job)
        committing = False
        try:
            with self._lock:
                self._running[id(job)] = connection
            if job.over:
                raise job.too_slow()
            found = self._ask(connection, job)
            if job.write:
                committing = True
                connection.commit()
            else:
                connection.rollback()
        except (psycopg.Error, UnicodeEncodeError) as error:
            raise self._error(error, job, committing=committing and connection.broken) from None
        finally:
            with self._lock:
                self._running.pop(id(job), None)
            self._give_back(connection)
        return found

    def interrupt(self, job: Job) -> None:
        """Asks the server to end the job's statement."""
        with self._lock:
            connection = self._running.get(id(job))
        if connection is not None:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=SLACK)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    # A connection

    def _begun(self, job: Job) -> Connection:
        """A connection in a transaction. One that was kept may have ended meanwhile; a new one says what is wrong."""
        while (connection := self._kept()) is not None:
            try:
                self._begin(connection, job)
                return connection
            except psycopg.Error:
                connection.close()
        try:
            connection = psycopg.connect(
                self._url, connect_timeout=CONNECT_TIME, prepare_threshold=None, keepalives_idle=10,
                tcp_user_timeout=30_000, application_name="agentmesh",
            )  # fmt: skip
            if connection.execute(_IS_STORE, (list(STORE_TABLES), len(STORE_TABLES))).fetchone():
                connection.close()
                raise Fail(f"the database {self._name} {STORE_REFUSED}")
            connection.rollback()
            self._begin(connection, job)
        except psycopg.Error as error:
            raise self._error(error, job, committing=False) from None
        return connection

    def _begin(self, connection: Connection, job: Job) -> None:
        connection.read_only = not job.write
        milliseconds = str(int((max(job.deadline - time.monotonic(), 0.0) + SLACK) * 1000))
        connection.execute("SELECT set_config('statement_timeout', %s, true)", (milliseconds,))

    def _kept(self) -> Connection | None:
        with self._lock:
            while self._idle:
                connection, since = self._idle.pop()
                if not connection.closed and time.monotonic() - since < IDLE:
                    return connection
                connection.close()
        return None

    def _give_back(self, connection: Connection) -> None:
        """Keeps it for the next statement, without anything that this one left behind."""
        with suppress(psycopg.Error):
            connection.rollback()
            connection.read_only = None
            connection.autocommit = True
            connection.execute("DISCARD ALL")
            connection.autocommit = False
            with self._lock:
                if not self._closed and len(self._idle) < KEPT:
                    self._idle.append((connection, time.monotonic()))
                    return
        connection.close()

    # A statement

    def _ask(self, connection: Connection, job: Job) -> Rows:
        text = rewritten(job.text, lambda name: f"%({name})s", lambda plain: plain.replace("%", "%%")).encode()
        values = dict(job.parameters)
        with connection.cursor() as cursor:
            if job.write:
                cursor.execute(text, values)
                if cursor.description is None:
                    return Rows([], max(cursor.rowcount, 0))
                table = Table([column.name for column in cursor.description], job)
                for row in cursor:
                    if not table.add(row):
                        break
                return table.whole()
            table_: Table | None = None
            for row in cursor.stream(text, values, size=_CHUNK if psycopg.capabilities.has_stream_chunked() else 1):
                if table_ is None:
                    table_ = Table([column.name for column in cursor.description or ()], job)
                if not table_.add(row):
                    break
            return table_.whole() if table_ is not None else Rows([], 0)

    def _error(self, error: Exception, job: Job, *, committing: bool) -> StepError:
        if isinstance(error, UnicodeEncodeError):
            return Fail("a parameter holds half of a surrogate pair, which no database takes")
        state = getattr(error, "sqlstate", None) or ""
        said = " ".join(str(error).split())[:500]
        if self._password:
            said = said.replace(self._password, "***")
        if committing:
            return Unanswered(f"the database {self._name} ended the connection while a write was committed: {said}")
        if state == "57014":
            return job.too_slow()
        if state == "25006":
            return Fail(EFFECT)
        if state.startswith(_TEMPORARY) or (not state and isinstance(error, psycopg.OperationalError)):
            return Retry(f"the database {self._name} cannot be asked now: {said}")
        return Fail(f"the database {self._name} refuses the statement: {said}")
