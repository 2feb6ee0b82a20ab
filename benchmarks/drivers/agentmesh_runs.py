"""AgentMesh's driver: `runs.start` and `runs.wait` of the engine, as every edge calls them.

--mode read: steps that say `effect: read`. A run's rows are handed to the store's thread whenever the run waits for anything, and are
committed with whatever waits there: before any step that writes, and before the caller hears of the run's end. Steps that never
wait, as these, are therefore handed over together. --mode yield: the same, but each step gives way once (`asyncio.sleep(0)`), so that
each is handed over by itself.
--mode write: steps that may change the world, the default of a `python` step. An intent is committed before each, together with the
end of the step before it: every step is durable before the next begins.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path, PurePath
from typing import Any

import anyio
import timing

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.adapters.sql import database
from agentmesh.adapters.sql.store import open_store
from agentmesh.app import collect_rarely
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import Principal
from agentmesh.core.run import RunState
from agentmesh.core.workflow import Workflow
from agentmesh.engine import build_engine

CONCURRENCY = 256
"""Runs that the worker takes at once; `agentmesh serve` takes 32 unless told otherwise."""


async def step(n: int) -> dict[str, int]:
    """The work of a step: none, so that what is measured is the engine."""
    return {"n": n}


async def yielding(n: int) -> dict[str, int]:
    """The same, but others come first."""
    await asyncio.sleep(0)
    return {"n": n}


MODES: dict[str, tuple[str, Callable[[int], Awaitable[dict[str, int]]]]] = {
    "read": ("read", step), "yield": ("read", yielding), "write": ("write", step),
}  # fmt: skip
"""What the steps say of their effect, and what they call."""


def mesh(mode: str) -> Mesh:
    """`ten` and `one`, workflows of so many steps."""
    verb: dict[str, Any] = {"python": "bench:step", "with": {"n": "${{ input.n }}"}, "effect": MODES[mode][0]}
    workflows = [
        Workflow.model_validate(
            {"name": name, "input": {"type": "object"}, "steps": [{"id": f"s{i}", **verb} for i in range(count)]}
        )
        for name, count in (("ten", timing.STEPS), ("one", 1))
    ]
    return assemble(PurePath(), MeshFile(name="bench"), workflows=workflows)


@asynccontextmanager
async def opened(asked: argparse.Namespace) -> AsyncIterator[timing.System]:
    url = asked.store if "://" in asked.store else f"sqlite:///{asked.store}"
    principal = Principal()
    async with open_store(url, Path("/")) as store:
        engine = build_engine(
            mesh(asked.mode), store, ScriptedModel([]), functions={"bench:step": MODES[asked.mode][1]}.__getitem__,
            concurrency=CONCURRENCY,
        )  # fmt: skip

        async def run(workflow: str, n: int) -> None:
            started = await engine.runs.start(principal, workflow, {"n": n})
            ended = await engine.runs.wait(principal, started.id)
            if ended.state is not RunState.COMPLETED or ended.output != {"n": n}:
                raise SystemExit(f"a run did not complete: {ended}")

        async with anyio.create_task_group() as group:
            await group.start(engine.worker.run)
            yield timing.System(lambda n: run("ten", n), lambda n: run("one", n), settings(url))
            group.cancel_scope.cancel()


def settings(url: str) -> dict[str, Any]:
    """What a connection, opened as the store opens its own, says."""
    engine = database.connect(database.resolve(url, Path("/")))
    try:
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                return {
                    name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                    for name in ("journal_mode", "synchronous")
                }
            return {
                name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("fsync", "synchronous_commit")
            }
    finally:
        engine.dispose()


if __name__ == "__main__":
    collect_rarely()  # as the server does
    timing.main(opened)
