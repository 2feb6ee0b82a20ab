"""Databases: the `databases:` of a mesh, asked one statement at a time. What stands in them is somebody else's.

A statement runs in a thread, in a transaction of its own that may only read unless the step says that it writes, and bounded in
rows, bytes and time. Cancelling interrupts it in the database. A store of AgentMesh is refused, its own or another's: what a run
reads of runs would not be what a replay reads.

Values become JSON: dates and times ISO 8601 text, intervals seconds, decimals text (a number would lose digits of money), UUIDs,
addresses and ranges text, arrays lists, json as it is. Bytes, infinities and two columns of one name fail the step.
"""

from __future__ import annotations

import enum
import math
import re
import time
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from agentmesh.core.outside import Rows
from agentmesh.core.statement import parameters_of, statement_faults
from agentmesh.errors import Fail, ServeError, StepTimeout

TIME = 60.0
"""Seconds for a statement when the step has no `timeout`."""
SIZE = 16 * 1024 * 1024
"""Bytes of values that one statement hands on, roughly."""
THREADS = 8
"""Statements at once on one database."""
STORE_TABLES = ("definitions", "journal", "meta", "runs")
"""Where all of these stand, AgentMesh keeps its runs."""
STORE_REFUSED = (
    "is a store of AgentMesh, which sql steps may not touch; use `agentmesh runs export`, or another database"
)
EFFECT = "the statement changes the database; say `effect: write` in the step if it is meant to"


class Job:
    """One statement, between the loop that asked and the thread that runs it."""

    def __init__(
        self, text: str, parameters: Mapping[str, Any], *, write: bool, rows: int, timeout: float | None
    ) -> None:
        self.text, self.parameters, self.write, self.rows = text, parameters, write, rows
        self.seconds = TIME if timeout is None else timeout
        self.deadline = time.monotonic() + self.seconds
        self.cancelled = False

    @property
    def over(self) -> bool:
        """Nobody waits for it any more, or its time is over."""
        return self.cancelled or time.monotonic() > self.deadline

    def too_slow(self) -> StepTimeout:
        return StepTimeout(f"the statement took longer than {self.seconds:g} s")


class Database(Protocol):
    """One of them. Every method blocks; `interrupt` and `close` may be called from another thread."""

    def run(self, job: Job) -> Rows: ...

    def interrupt(self, job: Job) -> None:
        """Ends the job's statement if it runs."""
        ...

    def close(self) -> None: ...


class SqlDatabases:
    """Every entry of `databases:`. `async with` it; live as long as the server. Opens nothing before the first statement."""

    def __init__(self, urls: Mapping[str, str], folder: Path) -> None:
        """A relative SQLite path counts from `folder`. ServeError for an address that is of neither kind; it shows no password."""
        self._databases = {name: _database(name, url, folder) for name, url in urls.items()}
        self._limits = {name: CapacityLimiter(THREADS) for name in urls}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(2):
            for database in self._databases.values():
                await anyio.to_thread.run_sync(database.close, abandon_on_cancel=True)

    async def query(
        self, database: str, text: str, parameters: Mapping[str, Any], *, write: bool, rows: int, timeout: float | None
    ) -> Rows:
        """See `Databases.query`. StepTimeout after `timeout` seconds; Unanswered when the end of a write was not heard."""
        found = self._databases.get(database)
        if found is None:
            raise Fail(f"agentmesh.yaml has no database {database!r}; it has {', '.join(self._databases) or 'none'}")
        _check(text, parameters)
        job = Job(text, parameters, write=write, rows=rows, timeout=timeout)
        try:
            return await anyio.to_thread.run_sync(
                found.run, job, abandon_on_cancel=True, limiter=self._limits[database]
            )
        except anyio.get_cancelled_exc_class():
            job.cancelled = True
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                await anyio.to_thread.run_sync(found.interrupt, job, abandon_on_cancel=True)
            raise


def _database(name: str, url: str, folder: Path) -> Database:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    kind = None if parsed is None else parsed.get_backend_name()
    if parsed is not None and kind == "sqlite" and parsed.database and parsed.database != ":memory:":
        from agentmesh.adapters.sql.sqlite_database import SqliteDatabase

        return SqliteDatabase(name, folder / parsed.database)
    if parsed is not None and kind == "postgresql":
        from agentmesh.adapters.sql.postgres_database import PostgresDatabase

        return PostgresDatabase(
            name, parsed.set(drivername="postgresql").render_as_string(hide_password=False), str(parsed.password or "")
        )
    raise ServeError(f"databases.{name} is no address we know; write sqlite:///FILE or postgresql://USER@HOST/NAME")


def _check(text: str, parameters: Mapping[str, Any]) -> None:
    """What can be told without the database: `check` has said it before, unless the run is older than the files."""
    for _, message in statement_faults(text):
        raise Fail(f"the statement cannot be run: {message}")
    for name in parameters_of(text):
        if name not in parameters:
            raise Fail(f"the statement's parameter :{name} is not given in the step's `with`")
    for name, value in parameters.items():
        if value is not None and not isinstance(value, (str, int, float, bool)):
            raise Fail(f"the parameter :{name} must be text, a number, true, false or null")


class Table:
    """Rows as they are taken from a cursor, until there are enough."""

    def __init__(self, columns: Sequence[str], job: Job) -> None:
        twice = next((column for i, column in enumerate(columns) if column in columns[:i]), None)
        if twice is not None:
            raise Fail(f"two columns of the statement are named {twice!r}; give each its own name with AS")
        self._columns = list(columns)
        self._limit = job.rows
        self._size = 0
        self.rows: list[dict[str, Any]] = []
        self.truncated = False

    def add(self, row: Sequence[Any]) -> bool:
        """False when the row was one too many."""
        if len(self.rows) >= self._limit:
            self.truncated = True
            return False
        values = {column: to_json(value, column) for column, value in zip(self._columns, row, strict=True)}
        self._size += _size(values)
        if self._size > SIZE:
            raise Fail(f"the rows hold more than {SIZE // 1024 // 1024} MB; ask for fewer columns or rows")
        self.rows.append(values)
        return True

    def whole(self) -> Rows:
        return Rows(self.rows, len(self.rows), self.truncated)


def to_json(value: Any, column: str) -> Any:
    """A driver's value as JSON; Fail for what has no place there."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _LONE.sub("\ufffd", value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Fail(f"the column {column!r} holds {value}, which JSON does not have; change it in the statement")
        return value
    if isinstance(value, (datetime, date, clock_time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise Fail(f"the column {column!r} holds bytes; encode them in the statement, as hex or base64")
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [to_json(item, column) for item in value]
    if isinstance(value, dict):
        return {str(key): to_json(item, column) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return to_json(value.value, column)
    return str(value)


def _size(value: Any) -> int:
    """Bytes of a value, roughly."""
    if isinstance(value, str):
        return len(value) + 16
    if isinstance(value, dict):
        return 16 + sum(_size(item) + 16 for item in value.values())
    return 16 + sum(map(_size, value)) if isinstance(value, list) else 16


_LONE = re.compile("[\ud800-\udfff]")
