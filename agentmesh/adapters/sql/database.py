"""Database: opens connections, and brings the tables to the version this release knows.

SQLite is opened in WAL mode with synchronous=FULL: a commit that returned survives a crash of the machine. Both
settings are read back, since SQLite answers a pragma it cannot honour with silence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.pool import NullPool

from agentmesh.adapters.sql import tables
from agentmesh.errors import StoreError, StoreTooNew

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 5.0
"""How long a statement waits for another process that holds SQLite's own lock (a backup, a shell)."""
OLDEST_SQLITE = (3, 35, 0)
"""The first that drops a column, and that keeps what a common table expression found."""
KEPT_LOG = 64 * 1024 * 1024
"""Bytes that SQLite's log keeps after it was larger, as it becomes while a backup reads."""

_POSTGRES: dict[str, Any] = {
    "connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "application_name": "agentmesh",
}  # fmt: skip
_READS = (
    "-c jit=off -c plan_cache_mode=force_custom_plan -c enable_seqscan=off -c enable_bitmapscan=off -c enable_sort=off"
)
"""A list walks an index in its order; else a table that was not analyzed yet is read from end to end, and sorted."""
_WRITES = "-c jit=off -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
"""The writer finds every row by an index. Said so, its plans, and those of foreign keys, are right from the first and can be kept."""
_HASTY = "-c statement_timeout=8s -c lock_timeout=5s -c idle_in_transaction_session_timeout=15s"
"""A server that was stopped in the middle of a transaction holds its rows no longer than the last of these."""


def resolve(url: str, folder: Path) -> URL:
    """The database's address; a relative SQLite path counts from `folder`. StoreError when we know no such database."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is not None and parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise StoreError("The store must be a file to be durable; write `store: sqlite:///agentmesh.db`.")
        return URL.create("sqlite+pysqlite", database=str(folder / parsed.database))
    if parsed is not None and parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise StoreError(f"The store {url!r} is no database we know; write `sqlite:///agentmesh.db` or `postgresql://…`.")


def name(url: URL) -> str:
    """The database in words, without its password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def connect(url: URL, *, reader: bool = False, pool: int = 1, hasty: bool = True, busy: float = BUSY_SECONDS) -> Engine:
    """An engine with explicit transactions. Nothing is opened yet. `pool` 0: each connection is closed after its use.

    `busy`: seconds to wait for another process that has SQLite's file. `hasty`: PostgreSQL is to give up on a statement that takes
    longer than any of ours should; not for migrations.
    """
    try:
        if url.get_backend_name() != "sqlite":
            plans = _READS if reader else _WRITES
            options = f"{plans} {_HASTY}" if hasty else "-c jit=off"
            arguments = _POSTGRES if "options" in url.query else {**_POSTGRES, "options": options}
            if pool == 0:
                return create_engine(url, poolclass=NullPool, connect_args=arguments)
            return create_engine(url, pool_size=pool, max_overflow=0, connect_args=arguments)
        arguments = {"timeout": busy, "check_same_thread": False}
        engine = create_engine(url, pool_size=pool, max_overflow=0, connect_args=arguments)
    except (ImportError, NoSuchModuleError):
        raise StoreError(
            "PostgreSQL needs its driver, which is not installed; run `pip install 'agentmesh[postgres]'`."
        ) from None

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN comes late and only before writes: a read of head and journal would see two moments.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA journal_size_limit={KEPT_LOG}")
        if reader:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if reader else "BEGIN IMMEDIATE")

    return engine


def prepare(engine: Engine, *, schema: int = tables.SCHEMA, migrations: Path = MIGRATIONS) -> None:
    """Creates or upgrades the tables; refuses a database that is newer, or somebody else's.

    `schema` and `migrations` are arguments so that a test can play the next release.
    """
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            _verify(connection)
        else:
            one_at_a_time(connection)
        found = version(connection)
        if found is None:
            create(connection)
            found = tables.SCHEMA
    if found > schema:
        raise StoreTooNew(
            f"The database {name(engine.url)} has schema {found}, newer than the {schema} this release knows; "
            "upgrade AgentMesh, or name another database in `store:`."
        )
    if found < schema:
        # Alembic costs half a second to import, and a start rarely needs it.
        from agentmesh.adapters.sql.migrate import upgrade

        upgrade(engine, migrations)


def one_at_a_time(connection: Connection) -> None:
    """Until the end of the transaction no other server creates or upgrades the tables of this PostgreSQL database."""
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('agentmesh schema'))")


def version(connection: Connection) -> int | None:
    """The schema version found; None for an empty database. StoreError when the tables are not ours."""
    found = set(inspect(connection).get_table_names())
    if "meta" not in found or "journal" not in found:
        if found:
            raise StoreError(
                f"The database {name(connection.engine.url)} belongs to something else (it has a table "
                f"{min(found)!r} and no journal); name another in `store:`."
            )
        return None
    value = connection.scalar(select(tables.meta.c.value).where(tables.meta.c.name == "schema"))
    try:
        return int(value or "")
    except ValueError:
        raise StoreError(
            f"The database {name(connection.engine.url)} does not say its schema version; restore it from a backup."
        ) from None


def create(connection: Connection) -> None:
    """The tables of this release in an empty database, stamped as if every migration had run."""
    tables.metadata.create_all(connection)
    connection.execute(tables.meta.insert(), {"name": "schema", "value": str(tables.SCHEMA)})
    connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{tables.REVISION}')")  # noqa: S608 - a constant


def _verify(connection: Connection) -> None:
    known = connection.dialect.dbapi.sqlite_version_info  # type: ignore[union-attr]
    if known < OLDEST_SQLITE:
        raise StoreError(
            f"Python's SQLite is {'.'.join(map(str, known))}, and {'.'.join(map(str, OLDEST_SQLITE))} is needed; "
            "use a Python that was built with a newer one."
        )
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    level = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    if mode != "wal" or level != 2:  # 2 is FULL
        raise StoreError(
            f"The database {name(connection.engine.url)} cannot be kept safely (journal_mode={mode}, "
            f"synchronous={level}); put it on a local disk."
        )


_SENTENCES = (
    ("disk is full", "the disk is full; free some space and start again"),
    ("no space left", "the disk is full; free some space and start again"),
    ("disk i/o error", "the disk reports an error; check it, then restore the file from a backup if it is damaged"),
    ("not a database", "the file is not a SQLite database; name another in `store:`, or restore it from a backup"),
    ("malformed", "the file is damaged; restore it from a backup"),
    ("readonly", "it cannot be written; give this user the right to write the file and its folder"),
    ("read-only", "it cannot be written; give this user the right to write the file and its folder"),
    ("unable to open", "it cannot be opened; check that its folder exists and this user may write there"),
    ("locked", "another program holds it; close that program and try again"),
    ("statement timeout", "it took too long to answer; look at its load, and try again"),
    ("lock timeout", "another connection held a row for too long; try again"),
    ("starting up", "the server is starting; try again in a moment"),
    ("shutting down", "the server is shutting down; start it again"),
    ("too many clients", "it has no connection left for us; raise `max_connections`"),
    ("server closed the connection", "the connection was lost; try again when the server answers"),
    ("terminating connection", "the connection was ended by the server; try again"),
    ("connection is lost", "the connection was lost; try again when the server answers"),
    ("connection timeout", "the server does not answer; check that it runs"),
    ("connection refused", "no server answers there; start PostgreSQL, or correct `store:`"),
    ("password authentication", "the server refuses the user or password; correct `store:`"),
)


_PASSING = ("disk is full", "no space left", "disk i/o error", "locked", "readonly", "read-only")
_ROLLED_BACK = ("40001", "40P01", "55P03")
"""SQLSTATEs: serialization failure, deadlock, a lock that took too long."""


def passing(error: DBAPIError) -> bool:
    """Whether the database is at fault, not what it was given: the same may be taken later."""
    if error.connection_invalidated or isinstance(error, OperationalError | InternalError | InterfaceError):
        return True
    return any(mark in str(error.orig).lower() for mark in _PASSING)


def repeatable(error: DBAPIError) -> bool:
    """Whether the same transaction may well succeed in a moment, given that it was rolled back."""
    if error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _ROLLED_BACK:
        return True
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", "") is None  # could not connect


def store_error(error: DBAPIError, url: URL) -> StoreError:
    """The sentence for what the driver said."""
    said = " ".join(str(error.orig).split())
    advice = next((sentence for mark, sentence in _SENTENCES if mark in said.lower()), said)
    return StoreError(f"The database {name(url)} failed: {advice}.", driver=said)
