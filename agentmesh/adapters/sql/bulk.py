"""Bulk: one statement for many rows, run in one step of the database.

A driver's `executemany` runs a statement for each row. On SQLite it gives the interpreter's lock away and waits for it again each
time, while the event loop is busy; on PostgreSQL the server plans and answers each. Here all rows travel in one statement: as VALUES on
SQLite, as a JSON
list for each column on PostgreSQL, which the driver writes many times faster than its own arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Boolean, Column, Connection, Double, Integer, Table

MOST = 512
"""Rows of one statement on SQLite. A statement is prepared for each power of two up to here, and filled up with empty rows."""


class Insert:
    """Adds rows, each a tuple in the order of the table's columns. The first column is never NULL."""

    def __init__(self, table: Table) -> None:
        self._width = len(table.c)
        begin = f"INSERT INTO {table.name} ({', '.join(table.c.keys())}) SELECT * FROM "  # noqa: S608 - our own names
        self._sqlite = begin + "(VALUES {rows}) WHERE column1 IS NOT NULL"
        self._postgres = begin + _columns(list(table.c))

    def __call__(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        _execute(connection, self._sqlite, self._postgres, self._width, rows)


class Update:
    """Changes columns of rows found by `key`; a row is a tuple: the key, then the columns in this order."""

    def __init__(self, table: Table, key: str, columns: Sequence[str]) -> None:
        self._width = len(columns) + 1
        begin = f"UPDATE {table.name} SET "  # noqa: S608 - our own names
        by_number = ", ".join(f"{name} = v.column{i}" for i, name in enumerate(columns, start=2))
        self._sqlite = f"{begin}{by_number} FROM (VALUES {{rows}}) AS v WHERE {table.name}.{key} = v.column1"
        by_name = ", ".join(f"{name} = v.{name}" for name in columns)
        given = _columns([table.c[name] for name in (key, *columns)])
        self._postgres = f"{begin}{by_name} FROM {given} WHERE {table.name}.{key} = v.{key}"

    def __call__(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        _execute(connection, self._sqlite, self._postgres, self._width, rows)


_TEXTS: dict[tuple[str, int], str] = {}


def _execute(connection: Connection, sqlite: str, postgres: str, width: int, rows: Sequence[Sequence[Any]]) -> None:
    if not rows:
        return
    if connection.dialect.name != "sqlite":
        columns = tuple(to_json(column, inf_nan_mode="strings").decode() for column in zip(*rows, strict=True))
        connection.exec_driver_sql(postgres, columns)
        return
    for begin in range(0, len(rows), MOST):
        chunk = rows[begin : begin + MOST]
        size = 1 << (len(chunk) - 1).bit_length()
        text = _TEXTS.get((sqlite, size))
        if text is None:
            row = f"({', '.join('?' * width)})"
            text = _TEXTS[sqlite, size] = sqlite.format(rows=", ".join([row] * size))
        empty = (None,) * (width * (size - len(chunk)))
        connection.exec_driver_sql(text, (*chain.from_iterable(chunk), *empty))


def _columns(columns: Sequence[Column[Any]]) -> str:
    """A table `v` of these columns, each given as one parameter."""
    names = ", ".join(column.name for column in columns)
    lists = ", ".join(["json_array_elements_text(%s::json)"] * len(columns))
    typed = ", ".join(f"{column.name}::{_postgres_type(column)}" for column in columns)
    return f"(SELECT {typed} FROM ROWS FROM ({lists}) AS given({names})) AS v"  # noqa: S608 - our own names


def _postgres_type(column: Column[Any]) -> str:
    for kind, name in ((Double, "float8"), (Boolean, "boolean"), (Integer, "int")):
        if isinstance(column.type, kind):
            return name
    return "text"
