"""Meshes and engines for the tests of the engine."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import PurePath
from typing import Any

import anyio

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.run import Entry, Kind, Run
from agentmesh.core.server_file import ServerFile
from agentmesh.core.store import Store
from agentmesh.core.workflow import Workflow
from agentmesh.engine import Engine, build_engine

LOCAL = Principal()
_SEEDS = itertools.count()
TEXT = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}


ON_LEAVING: list[Callable[[Engine], Awaitable[None]]] = []
"""What is done with every engine of `serving` before it goes: conftest.py has each run replayed."""


class Clock:
    """A clock that moves when it is told to. As `sleep` it moves by itself and lets the others run."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await anyio.lowlevel.checkpoint()


def workflow(name: str, *steps: Mapping[str, Any], **more: Any) -> Workflow:
    """A workflow as a file would say it; its input is one text unless told otherwise."""
    return Workflow.model_validate({"name": name, "input": TEXT, "steps": list(steps)} | more)


def mesh(
    *workflows: Workflow,
    tools: Mapping[str, Mapping[str, Any]] | None = None,
    policies: tuple[PolicyFile, ...] = (),
    default_skill: str | None = None,
) -> Mesh:
    """A mesh of workflows and of server `desk` with tools, put together as the loader does."""
    file = MeshFile.model_validate(
        {
            "name": "test",
            "models": {name: {"url": "http://127.0.0.1:1/v1", "model": name} for name in ("tiny", "large")},
            "default_model": "tiny",
            "a2a": {"default": default_skill},
        }
    )
    server = ServerFile.model_validate({"name": "desk", "tools": tools or {}})
    return assemble(PurePath("mesh"), file, [server], workflows, policies)


@asynccontextmanager
async def serving(
    of: Mesh,
    *,
    model: ScriptedModel | None = None,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    store: Store | None = None,
    clock: Clock | None = None,
    **more: Any,
) -> AsyncIterator[Engine]:
    """An engine whose worker runs, for at most 30 seconds. Leaving cancels it, as the end of a process would."""
    clock = clock or Clock()
    async with store if store is not None else MemoryStore(clock=clock) as opened:
        engine = build_engine(
            of, opened, model or ScriptedModel([]), clock=clock, random=random.Random(next(_SEEDS)), sleep=clock.sleep,
            functions=(functions or {}).__getitem__, **more,
        )  # fmt: skip
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                await group.start(engine.worker.run)
                yield engine
                for look in ON_LEAVING:
                    await look(engine)
                group.cancel_scope.cancel()


async def finished(engine: Engine, name: str, input: Any = None, **more: Any) -> Run:
    """Starts a workflow and waits for its end."""
    run = await engine.runs.start(LOCAL, name, {"text": "hello"} if input is None else input, **more)
    return await ended(engine, run)


async def ended(engine: Engine, run: Run) -> Run:
    """The run with its steps when it has ended."""
    await engine.runs.wait(LOCAL, run.id)
    return await engine.runs.get(LOCAL, run.id)


async def journal(engine: Engine, run: Run, *kinds: Kind, path: str | None = None) -> list[Entry]:
    """A run's entries, of these kinds and this path only when given."""
    entries = await engine.runs.journal(LOCAL, run.id)
    return [e for e in entries if (not kinds or e.kind in kinds) and (path is None or e.path == path)]
