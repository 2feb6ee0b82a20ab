"""Replay, fork, diff, export, import and prune under /v1, over a real socket and a real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.mesh import Mesh
from agentmesh.engine import Engine
from agentmesh.engine.export import read, replay_all, unpack
from agentmesh.http.auth import Guard
from tests.a2a.conftest import Late, build
from tests.engine.meshes import LOCAL, Clock, mesh, serving, workflow
from tests.http.serving import served

pytestmark = pytest.mark.anyio

ASK = workflow(
    "ask",
    {"id": "first", "set": "${{ input.text }}!"},
    {"id": "say", "llm": {"prompt": "Say ${{ steps.first.output }}"}},
)


def echo(request: Any) -> str:
    return f"{request.model} heard {request.messages[-1]['content']}"


@dataclass(frozen=True)
class Serving:
    engine: Engine
    http: httpx.AsyncClient
    clock: Clock


@asynccontextmanager
async def serve(of: Mesh) -> AsyncIterator[Serving]:
    clock, edge = Clock(), Late()
    async with (
        serving(of, model=ScriptedModel(echo), clock=clock) as engine,
        served(Guard(edge)) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as client,
    ):
        edge.app = build(engine, url)
        yield Serving(engine, client, clock)


@pytest.fixture
async def on() -> AsyncIterator[Serving]:
    async with serve(mesh(ASK)) as serving_:
        yield serving_


async def ended(on: Serving, run_id: str) -> dict[str, Any]:
    with anyio.fail_after(5):
        await on.engine.runs.wait(LOCAL, run_id)
    found: dict[str, Any] = (await on.http.get(f"/v1/runs/{run_id}")).json()
    return found


async def started(on: Serving) -> dict[str, Any]:
    run = (await on.http.post("/v1/runs", json={"workflow": "ask", "input": {"text": "hi"}})).json()
    return await ended(on, run["id"])


async def test_replay_fork_and_diff(on: Serving) -> None:
    """A fork answers 201 with the new run; what a fork may not change is 422."""
    run = await started(on)
    replayed = (await on.http.get(f"/v1/runs/{run['id']}/replay", params={"children": "true"})).json()
    assert (replayed["same"], replayed["difference"], replayed["digest"]) == (True, None, replayed["replayed"])
    body = {"from_step": "say", "steps": {"say": {"prompt": "Whisper ${{ steps.first.output }}", "model": "large"}}}
    answer = await on.http.post(f"/v1/runs/{run['id']}/fork", json=body)
    assert answer.status_code == 201
    fork = await ended(on, answer.json()["id"])
    assert answer.headers["location"] == f"/v1/runs/{fork['id']}"
    assert fork["output"] == "large heard Whisper hi!"
    diff = (await on.http.get(f"/v1/runs/{run['id']}/diff/{fork['id']}")).json()
    assert diff["forked"] is True
    assert {change["path"].rpartition(".")[2] for change in diff["definition"]["changes"]} >= {"prompt", "model"}
    assert [step["path"] for step in diff["steps"]] == ["say"]
    for wrong in (
        {"from_step": "nope"},
        {"steps": {"say": {"output": {}}}},
        {"input": {"txt": 1}},
        {"form_step": "say"},
    ):
        refused = await on.http.post(f"/v1/runs/{run['id']}/fork", json=wrong)
        assert (refused.status_code, refused.json()["status"]) == (422, 422), wrong
    assert (await on.http.get("/v1/runs/none/replay")).status_code == 404
    assert (await on.http.post("/v1/runs/none/fork", json={})).status_code == 404


async def test_an_exported_file_is_imported_by_another_server(on: Serving) -> None:
    """The body is the file itself; a second import is a conflict, and no file is 422."""
    run = await started(on)
    answer = await on.http.get(f"/v1/runs/{run['id']}/export")
    assert answer.headers["content-type"] == "application/gzip"
    assert (await replay_all(read(unpack(answer.content)))).same
    async with serve(mesh()) as other:
        imported = await other.http.post(
            "/v1/runs/import", content=answer.content, headers={"content-type": "application/gzip"}
        )
        assert imported.status_code == 201, imported.text
        assert imported.json()["output"] == run["output"]
        assert (await other.http.get(f"/v1/runs/{run['id']}/replay")).json()["same"]
        assert (await other.http.post("/v1/runs/import", content=answer.content)).status_code == 409
        assert (await other.http.post("/v1/runs/import", content=b"no")).status_code == 422


async def test_prune(on: Serving) -> None:
    """By an age in words; what is no age is 422."""
    run = await started(on)
    assert (await on.http.post("/v1/runs/prune", json={"older_than": "1d"})).json() == {"removed": 0}
    assert (await on.http.post("/v1/runs/prune", json={"older_than": "soon"})).status_code == 422
    on.clock.now += 10
    assert (await on.http.post("/v1/runs/prune", json={"older_than": 5})).json() == {"removed": 1}
    assert (await on.http.get(f"/v1/runs/{run['id']}")).status_code == 404
