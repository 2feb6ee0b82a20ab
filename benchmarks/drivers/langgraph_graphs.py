"""LangGraph's driver: a graph of ten async nodes in a row, with its own savers.

--mode sync: a checkpoint is committed before the next node begins. --mode async (LangGraph's default): it is committed while the next
node runs, and before the caller hears of the end.
"""

from __future__ import annotations

import argparse
import operator
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

import timing
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph

POOL = 16
"""Connections to PostgreSQL: the saver's own default is a single one."""


class State(TypedDict):
    n: int
    done: Annotated[int, operator.add]


async def step(state: State) -> dict[str, int]:
    return {"n": state["n"], "done": 1}


def graph(count: int, saver: BaseCheckpointSaver[Any]) -> Any:
    builder = StateGraph(State)
    names = [f"s{i}" for i in range(count)]
    for name in names:
        builder.add_node(name, step)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=saver)


@asynccontextmanager
async def opened(asked: argparse.Namespace) -> AsyncIterator[timing.System]:
    async with saver_of(asked.store) as (saver, settings):
        graphs = {count: graph(count, saver) for count in (1, timing.STEPS)}

        async def run(count: int, n: int) -> None:
            config = {"configurable": {"thread_id": str(uuid.uuid4())}}
            found = await graphs[count].ainvoke({"n": n, "done": 0}, config, durability=asked.mode)
            if found != {"n": n, "done": count}:
                raise SystemExit("a graph did not complete")

        yield timing.System(lambda n: run(timing.STEPS, n), lambda n: run(1, n), settings)


@asynccontextmanager
async def saver_of(store: str) -> AsyncIterator[tuple[BaseCheckpointSaver[Any], dict[str, Any]]]:
    settings: dict[str, Any] = {}
    if "://" not in store:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        async with AsyncSqliteSaver.from_conn_string(store) as saver:
            await saver.setup()
            for name in ("journal_mode", "synchronous"):
                async with saver.conn.execute(f"PRAGMA {name}") as cursor:
                    (settings[name],) = await cursor.fetchone() or (None,)
            yield saver, settings
        return
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    kwargs = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(store, min_size=POOL, max_size=POOL, kwargs=kwargs, timeout=120) as pool:
        async with pool.connection() as connection:
            for name in ("fsync", "synchronous_commit"):
                cursor = await connection.execute(f"SHOW {name}")
                settings[name] = (await cursor.fetchone() or {}).get(name)
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        yield saver, settings


if __name__ == "__main__":
    timing.main(opened)
