# ruff: noqa: ASYNC110  what a server still does can only be looked at, again and again
"""Statements of sql steps on SQLite and on a real PostgreSQL: the same promises on both."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest

from agentmesh.adapters.sql import databases
from agentmesh.adapters.sql.databases import SqlDatabases
from agentmesh.adapters.sql.store import open_store
from agentmesh.core.outside import Rows
from agentmesh.errors import Fail, Retry, ServeError, StepTimeout
from tests.postgres import Postgres

pytestmark = pytest.mark.anyio

TABLE = "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, total NUMERIC(10, 2))"
ROWS = "INSERT INTO orders VALUES (1, 'ann', 10.50), (2, 'bob', 20.25), (3, 'ann', NULL)"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database with three orders."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        name: str = request.getfixturevalue("postgres_database")
        for statement in (TABLE, ROWS):
            server.execute(statement, database=name)
        return server.url(name)
    with closing(sqlite3.connect(tmp_path / "orders.db")) as connection:
        connection.execute(TABLE)
        connection.execute(ROWS)
        connection.commit()
    return "sqlite:///orders.db"


@asynccontextmanager
async def opened(url: str, folder: Path):
    with anyio.fail_after(30):
        async with SqlDatabases({"orders": url}, folder) as found:
            yield found


async def ask(
    of: SqlDatabases, text: str, *, write: bool = False, rows: int = 1000, timeout: float | None = None, **given
):
    found = await of.query("orders", text, given, write=write, rows=rows, timeout=timeout)
    assert isinstance(found, Rows)
    return found


async def test_values_go_in_by_name_and_rows_come_out_by_column(url, tmp_path):
    """Also where the same value stands twice, and where a text looks like a parameter or holds a percent sign."""
    text = (
        "SELECT id, customer, ':none 100%' AS odd FROM orders WHERE customer = :who OR :who = 'all' ORDER BY id -- :no"
    )
    async with opened(url, tmp_path) as of:
        found = await ask(of, text, who="ann")
        assert found.rows == [{"id": i, "customer": "ann", "odd": ":none 100%"} for i in (1, 3)]
        assert (found.count, found.truncated) == (2, False)
        assert (await ask(of, text, who="all")).count == 3
        assert (await ask(of, text, who="'; DROP TABLE orders; --")).rows == []
        assert (await ask(of, "SELECT count(*) AS n FROM orders;")).rows == [{"n": 3}]


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO orders VALUES (4, 'eve', 1)",
        "DELETE FROM orders",
        "WITH gone AS (SELECT 1) UPDATE orders SET total = 0",
        "CREATE TABLE more (id INTEGER)",
        "DROP TABLE orders",
    ],
)
async def test_a_statement_only_reads_unless_it_may_write(url, tmp_path, text):
    """The database itself refuses, whatever the text; with leave it is done, and stays."""
    async with opened(url, tmp_path) as of:
        with pytest.raises(Fail, match="effect: write"):
            await ask(of, text)
        assert (await ask(of, "SELECT count(*) AS n FROM orders")).rows == [{"n": 3}]
        await ask(of, text, write=True)


async def test_a_write_says_how_many_rows_it_changed(url, tmp_path):
    """`count` without rows; with RETURNING the rows, and all are changed though few are handed on."""
    async with opened(url, tmp_path) as of:
        found = await ask(of, "UPDATE orders SET total = :t", write=True, t=5)
        assert (found.rows, found.count) == ([], 3)
        found = await ask(of, "UPDATE orders SET customer = 'x' RETURNING id", write=True, rows=1)
        assert (len(found.rows), found.truncated) == (1, True)
        assert (await ask(of, "SELECT count(*) AS n FROM orders WHERE customer = 'x'")).rows == [{"n": 3}]


async def test_a_write_that_fails_changes_nothing(url, tmp_path):
    """Its transaction is undone."""
    async with opened(url, tmp_path) as of:
        with pytest.raises(Fail):
            await ask(of, "INSERT INTO orders VALUES (9, 'x', 1), (1, 'twice', 1)", write=True)
        assert (await ask(of, "SELECT count(*) AS n FROM orders")).rows == [{"n": 3}]


async def test_rows_past_the_cap_are_not_handed_on(url, tmp_path):
    """`truncated` says that there were more, also of an endless statement, which is not waited for."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    async with opened(url, tmp_path) as of:
        found = await ask(of, "SELECT id FROM orders ORDER BY id", rows=2)
        assert (found.count, found.truncated) == (2, True)
        assert not (await ask(of, "SELECT id FROM orders ORDER BY id", rows=3)).truncated
        if url.startswith("sqlite"):  # PostgreSQL computes the whole of it first
            assert (await ask(of, endless, rows=5)).rows[-1] == {"i": 5}
        assert (await ask(of, "SELECT 1 AS n")).count == 1


async def test_one_statement_at_a_time(url, tmp_path):
    """A second one is refused before the database sees either."""
    async with opened(url, tmp_path) as of:
        with pytest.raises(Fail, match="one statement"):
            await ask(of, "SELECT 1; DELETE FROM orders", write=True)
        assert (await ask(of, "SELECT count(*) AS n FROM orders")).rows == [{"n": 3}]


@pytest.mark.parametrize("given", [{}, {"n": [1]}, {"n": {"a": 1}}])
async def test_parameters_are_plain_values(url, tmp_path, given):
    """A missing one, a list and an object are told by name."""
    async with opened(url, tmp_path) as of:
        with pytest.raises(Fail, match=":n"):
            await ask(of, "SELECT :n AS n", **given)


async def test_what_has_no_place_in_json_is_told_by_its_column(url, tmp_path):
    """Bytes, two columns of one name; what is wrong with the statement is told in the database's words."""
    data = "X'00ff'" if url.startswith("sqlite") else "'\\x00ff'::bytea"
    async with opened(url, tmp_path) as of:
        with pytest.raises(Fail, match="column 'data' holds bytes"):
            await ask(of, f"SELECT {data} AS data")
        with pytest.raises(Fail, match="two columns of the statement are named 'n'"):
            await ask(of, "SELECT 1 AS n, 2 AS n")
        with pytest.raises(Fail, match="nowhere"):
            await ask(of, "SELECT * FROM nowhere")
        with pytest.raises(Fail):
            await ask(of, "SELECT :n AS n", n="\ud800")


async def test_a_statement_that_takes_too_long_is_ended(url, tmp_path):
    """By the step's time, in the database too: others are answered meanwhile and after."""
    async with opened(url, tmp_path) as of, anyio.create_task_group() as tasks:

        async def slow() -> None:
            with pytest.raises(StepTimeout, match=r"longer than 0\.5 s"):
                await ask(of, ENDLESS, timeout=0.5)

        tasks.start_soon(slow)
        assert (await ask(of, "SELECT count(*) AS n FROM orders")).rows == [{"n": 3}]


async def test_a_cancelled_statement_is_ended_in_the_database(url, tmp_path, request):
    """At once, and the database can be asked again."""
    async with opened(url, tmp_path) as of:
        with anyio.move_on_after(0.3) as scope:
            await ask(of, ENDLESS)
        assert scope.cancelled_caught
        assert (await ask(of, "SELECT count(*) AS n FROM orders")).rows == [{"n": 3}]
        if not url.startswith("sqlite"):
            server: Postgres = request.getfixturevalue("postgres")
            busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'WITH RECURSIVE%%'"
            while server.execute(busy)[0][0]:
                await anyio.sleep(0.02)


async def test_a_store_of_agentmesh_is_refused(tmp_path, request):
    """By what stands in it, whatever name leads there."""
    for store, database in (
        ("sqlite:///agentmesh.db", "sqlite:///agentmesh.db"),
        (request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres_url")),
    ):
        async with open_store(store, tmp_path):
            pass
        async with opened(database, tmp_path) as of:
            with pytest.raises(Fail, match="store of AgentMesh"):
                await ask(of, "SELECT * FROM runs")


async def test_values_of_postgresql_become_json(postgres_url, tmp_path):
    """Times in ISO 8601, decimals as text, intervals in seconds, arrays and json as they are."""
    text = (
        "SELECT timestamptz '2026-01-02 03:04:05+00' AS at, date '2026-01-02' AS day, 1.10::numeric AS price, "
        "interval '90 seconds' AS span, ARRAY[1, 2] AS list, '{\"a\": [1.5]}'::jsonb AS doc, true AS flag, NULL AS none, "
        "'00000000-0000-0000-0000-000000000001'::uuid AS id, 12345678901234567890::numeric AS big"
    )
    async with opened(postgres_url, tmp_path) as of:
        (row,) = (await ask(of, text)).rows
        with pytest.raises(Fail, match="nan"):
            await ask(of, "SELECT 'NaN'::float8 AS n")
    assert row["at"].startswith("2026-01-02T")
    assert {k: v for k, v in row.items() if k != "at"} == {
        "day": "2026-01-02", "price": "1.10", "span": 90.0, "list": [1, 2], "doc": {"a": [1.5]}, "flag": True, "none": None,
        "id": "00000000-0000-0000-0000-000000000001", "big": "12345678901234567890",
    }  # fmt: skip


async def test_nothing_of_a_statement_is_left_for_the_next(postgres_url, tmp_path):
    """Neither settings nor locks: a connection is used again as if it were new."""
    async with opened(postgres_url, tmp_path) as of:
        await ask(of, "SELECT set_config('search_path', 'nowhere', false) AS x", write=True)
        await ask(of, "SELECT pg_advisory_lock(7)::text AS x")
        assert (await ask(of, "SELECT current_setting('search_path') AS x")).rows != [{"x": "nowhere"}]
        assert (await ask(of, "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory'")).rows == [{"n": 0}]


async def test_a_server_that_was_restarted_is_asked_again(postgres, postgres_url, tmp_path):
    """A connection that was kept and has died is replaced unseen."""
    async with opened(postgres_url, tmp_path) as of:
        assert (await ask(of, "SELECT 1 AS n")).count == 1
        postgres.restart()  # in this thread, with which it would end
        assert (await ask(of, "SELECT 1 AS n")).count == 1


async def test_a_server_that_is_not_there_may_be_tried_again(tmp_path):
    """Retry; its password stands nowhere."""
    async with opened("postgresql://ann:s3cret@127.0.0.1:1/orders", tmp_path) as of:
        with pytest.raises(Retry, match="cannot be asked now") as caught:
            await ask(of, "SELECT 1")
    assert "s3cret" not in caught.value.message


async def test_a_file_that_is_not_there_is_not_made(tmp_path):
    """Not even by a write."""
    async with opened("sqlite:///missing.db", tmp_path) as of:
        with pytest.raises(Fail, match=r"missing\.db"):
            await ask(of, "CREATE TABLE a (b)", write=True)
    assert not (tmp_path / "missing.db").exists()


async def test_a_file_that_another_holds_may_be_tried_again(tmp_path):
    """A write waits a little and then says Retry; a read does not wait."""
    file = tmp_path / "orders.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute(TABLE)
        other.execute("BEGIN IMMEDIATE")
        async with opened("sqlite:///orders.db", tmp_path) as of:
            assert (await ask(of, "SELECT count(*) AS n FROM orders")).rows == [{"n": 0}]
            with pytest.raises(Retry, match="another program"):
                await ask(of, "INSERT INTO orders VALUES (1, 'x', 1)", write=True, timeout=0.2)


async def test_too_much_is_not_handed_on(tmp_path, url):
    """Sixteen megabytes of text in few rows."""
    repeat = f"printf('%.*c', {databases.SIZE}, 'x')" if url.startswith("sqlite") else f"repeat('x', {databases.SIZE})"
    async with opened(url, tmp_path) as of:
        with pytest.raises(Fail, match="more than 16 MB"):
            await ask(of, f"SELECT {repeat} AS text")


@pytest.mark.parametrize(
    "address", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "nonsense", "oracle://u:s3cret@h/x"]
)
def test_an_unknown_kind_of_address_is_refused(address, tmp_path):
    """When the server starts, by the entry's name and without showing the address."""
    with pytest.raises(ServeError, match=r"databases\.orders") as caught:
        SqlDatabases({"orders": address}, tmp_path)
    assert "s3cret" not in caught.value.message
