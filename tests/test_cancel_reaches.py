# ruff: noqa: ASYNC110  the other side's record can only be looked at, again and again
"""Canceling a run ends what it does outside: the model, the service and the database notice it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentmesh.adapters.http_outside import OutsideHttp
from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.model_script import Script, ScriptFile
from agentmesh.adapters.openai_http import OpenAiHttp
from agentmesh.adapters.scripted_server import ScriptedServer, serving
from agentmesh.adapters.sql.databases import THREADS, SqlDatabases
from agentmesh.core.model import Model
from agentmesh.core.run import Kind, RunState
from agentmesh.engine import Engine, build_engine
from tests.engine.meshes import LOCAL, mesh, workflow

pytestmark = pytest.mark.anyio

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def running(folder: Path, *steps: dict[str, Any]) -> AsyncIterator[tuple[Engine, ScriptedServer]]:
    """An engine on real sockets and files, whose model says nothing, ever."""
    script = Script(ScriptFile.model_validate({"answers": [{"fault": "hang"}]}))
    sqlite3.connect(folder / "orders.db").close()
    (folder / "orders.db").touch()
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(20))
        url, app = await stack.enter_async_context(serving(script))
        steps = tuple(_with_url(step, url) for step in steps)
        models = {name: Model(url=url, model=name) for name in ("tiny", "large")}
        engine = build_engine(
            mesh(workflow("w", *steps)),
            await stack.enter_async_context(MemoryStore()),
            await stack.enter_async_context(OpenAiHttp(models)),
            random=random.Random(1),
            http=await stack.enter_async_context(OutsideHttp()),
            databases=await stack.enter_async_context(SqlDatabases({"orders": "sqlite:///orders.db"}, folder)),
        )
        group = await stack.enter_async_context(anyio.create_task_group())
        await group.start(engine.worker.run)
        yield engine, app
        group.cancel_scope.cancel()


def _with_url(step: dict[str, Any], url: str) -> dict[str, Any]:
    if "http" not in step:
        return step
    return {**step, "http": {**step["http"], "url": f"{url}/chat/completions"}}


ASK = {"id": "ask", "llm": {"prompt": "${{ input.text }}"}}
SEND = {"id": "send", "http": {"method": "POST", "url": "", "json": {"messages": [{"role": "user", "content": "x"}]}}}


@pytest.mark.parametrize("step", [ASK, SEND])
@pytest.mark.parametrize("ending", ["canceled", "timeout"])
async def test_the_other_side_sees_the_connection_end(tmp_path, step, ending):
    """At once, whether somebody canceled the run or the step took too long."""
    if ending == "timeout":
        step = {**step, "timeout": "300ms", "retry": {"attempts": 1}}
    async with running(tmp_path, step) as (engine, app):
        run = await engine.runs.start(LOCAL, "w", {"text": "hello"})
        while not app.requests:
            await anyio.sleep(0.01)
        if ending == "canceled":
            await engine.runs.cancel(LOCAL, run.id)
        ended = await engine.runs.wait(LOCAL, run.id)
        assert ended.state is (RunState.CANCELED if ending == "canceled" else RunState.FAILED)
        while app.requests[0]["fate"] is None:
            await anyio.sleep(0.01)
        assert app.requests[0]["fate"] == "disconnected"
        assert app.requests[0]["key"] == f"{run.id}/{step['id']}"


async def test_a_statement_ends_with_its_run(tmp_path):
    """The threads that ask the database are free again: another run is not kept waiting by those that were canceled."""
    endless = {"id": "count", "if": "input.text == 'endless'", "sql": {"database": "orders", "query": ENDLESS}}
    brief = {"id": "one", "sql": {"database": "orders", "query": "SELECT 1 AS n"}}
    async with running(tmp_path, endless, brief) as (engine, _):
        runs = [await engine.runs.start(LOCAL, "w", {"text": "endless"}) for _ in range(THREADS)]
        for run in runs:
            while not any(e.kind is Kind.STEP_STARTED for e in await engine.runs.journal(LOCAL, run.id)):
                await anyio.sleep(0.01)
        for run in runs:
            await engine.runs.cancel(LOCAL, run.id)
            assert (await engine.runs.wait(LOCAL, run.id)).state is RunState.CANCELED
        run = await engine.runs.start(LOCAL, "w", {"text": "brief"})
        assert (await engine.runs.wait(LOCAL, run.id)).output["rows"] == [{"n": 1}]
