"""DBOS's driver: async workflows of async steps, started by `start_workflow_async` and awaited by their handle's `get_result`.

Calling them directly is no faster: about the same in WAL mode and slower without.

Its promise: each step's output is committed before the workflow goes on (`operation_outputs`); the workflow's begin and end are
commits too.
--mode wal: the SQLite file is in WAL mode before DBOS opens it (DBOS itself sets neither journal_mode nor synchronous).
"""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy
import timing
from dbos import DBOS


@DBOS.step()
async def step(n: int) -> dict[str, int]:
    return {"n": n}


@DBOS.workflow()
async def ten(n: int) -> dict[str, int]:
    result = {"n": n}
    for _ in range(timing.STEPS):
        result = await step(n)
    return result


@DBOS.workflow()
async def one(n: int) -> dict[str, int]:
    return await step(n)


@asynccontextmanager
async def opened(asked: argparse.Namespace) -> AsyncIterator[timing.System]:
    url = asked.store if "://" in asked.store else f"sqlite:///{asked.store}"
    if asked.mode == "wal":
        with sqlite3.connect(asked.store) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    dbos = DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})
    DBOS.launch()

    async def checked(start: Any, n: int) -> None:
        handle = await DBOS.start_workflow_async(start, n)
        if await handle.get_result() != {"n": n}:
            raise SystemExit("a workflow did not complete")

    try:
        yield timing.System(
            lambda n: checked(ten, n),
            lambda n: checked(one, n),
            settings(dbos._sys_db.engine),  # type: ignore[attr-defined]
        )
    finally:
        DBOS.destroy()


def settings(engine: sqlalchemy.Engine) -> dict[str, Any]:
    """What a connection of DBOS's own pool says."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            return {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
            }
        return {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("fsync", "synchronous_commit")}


if __name__ == "__main__":
    timing.main(opened)
