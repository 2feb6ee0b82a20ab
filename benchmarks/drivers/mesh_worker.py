"""One worker process: a store, an engine and its worker, as a server has them. It begins when a line comes in, and ends with its input.

Prints `ready` when its store is open, and at the end one JSON object: the processor seconds that it used.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path, PurePath
from typing import Any

import anyio
import uvloop
import work

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.adapters.sql.store import open_store
from agentmesh.app import collect_rarely
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.workflow import Workflow
from agentmesh.engine import build_engine

STEPS = 10
FUNCTIONS = {f"work:{name}": getattr(work, name) for name in ("nothing", "waits", "computes")}


def mesh() -> Mesh:
    """A workflow of ten steps for each kind of work."""
    workflows = []
    for name in FUNCTIONS:
        verb: dict[str, Any] = {"python": name, "with": {"n": "${{ input.n }}"}, "effect": "read"}
        steps = [{"id": f"s{i}", **verb} for i in range(STEPS)]
        workflows.append(
            Workflow.model_validate({"name": name.partition(":")[2], "input": {"type": "object"}, "steps": steps})
        )
    return assemble(PurePath(), MeshFile(name="bench"), workflows=workflows)


async def main(url: str, concurrency: int) -> None:
    async with open_store(url, Path("/")) as store:
        engine = build_engine(
            mesh(), store, ScriptedModel([]), functions=FUNCTIONS.__getitem__, concurrency=concurrency
        )  # fmt: skip
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        begun = time.process_time()
        async with anyio.create_task_group() as group:
            await group.start(engine.worker.run)
            await anyio.to_thread.run_sync(sys.stdin.read)
            used = time.process_time() - begun
            group.cancel_scope.cancel()
    print(json.dumps({"cpu_seconds": used}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    asked = parser.parse_args()
    collect_rarely()  # as the server does
    uvloop.run(main(asked.store, asked.concurrency))
