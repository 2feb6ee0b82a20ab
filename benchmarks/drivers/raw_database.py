"""The raw database: a row for each step, one commit each, and nothing else. What a program does that has no engine at all.

SQLite has one writer, so that all clients share a connection; PostgreSQL gets as many connections as there are clients, POOL at most.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import timing

POOL = 16
CREATE = "CREATE TABLE steps (run TEXT NOT NULL, seq INTEGER NOT NULL, output TEXT NOT NULL, PRIMARY KEY (run, seq))"


async def step(n: int) -> dict[str, int]:
    return {"n": n}


@asynccontextmanager
async def opened(asked: argparse.Namespace) -> AsyncIterator[timing.System]:
    opener = postgres if "://" in asked.store else sqlite
    async with opener(asked.store) as (write, settings):

        async def run(count: int, n: int) -> None:
            name = str(uuid.uuid4())
            for seq in range(count):
                await write(name, seq, json.dumps(await step(n)))

        yield timing.System(lambda n: run(timing.STEPS, n), lambda n: run(1, n), settings)


@asynccontextmanager
async def sqlite(store: str) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    connection = sqlite3.connect(store, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(CREATE)
    settings = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    }  # fmt: skip

    async def write(run: str, seq: int, output: str) -> None:
        # On the loop itself: a thread would cost more than the commit.
        connection.execute("INSERT INTO steps VALUES (?, ?, ?)", (run, seq, output))
        await asyncio.sleep(0)

    yield write, settings
    connection.close()


@asynccontextmanager
async def postgres(store: str) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
    import psycopg

    idle: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
    pool = [await psycopg.AsyncConnection.connect(store, autocommit=True) for _ in range(POOL)]
    await pool[0].execute(CREATE)  # type: ignore[arg-type]
    settings: dict[str, Any] = {}
    for name in ("fsync", "synchronous_commit"):
        cursor = await pool[0].execute(f"SHOW {name}")  # type: ignore[arg-type]
        (settings[name],) = await cursor.fetchone() or (None,)
    for connection in pool:
        idle.put_nowait(connection)

    async def write(run: str, seq: int, output: str) -> None:
        connection = await idle.get()
        try:
            await connection.execute("INSERT INTO steps VALUES (%s, %s, %s)", (run, seq, output))
        finally:
            idle.put_nowait(connection)

    yield write, settings
    for connection in pool:
        await connection.close()


if __name__ == "__main__":
    timing.main(opened)
