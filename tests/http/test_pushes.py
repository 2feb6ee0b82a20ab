"""Notifications that arrive from agents elsewhere, and what operators see of those that do not arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from agentmesh.adapters.memory_outside import ScriptedWebhooks
from agentmesh.adapters.vault import Seals
from agentmesh.core.push import Delivery
from agentmesh.engine import Engine
from agentmesh.engine.push import PushPorts
from agentmesh.http.api import build_api
from agentmesh.http.auth import Guard
from agentmesh.http.problems import HANDLERS
from agentmesh.http.pushes import push_routes
from agentmesh.settings import Limits, Settings
from tests.engine.meshes import LOCAL, finished, mesh, serving, workflow
from tests.http.serving import served

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[httpx.AsyncClient, Engine]]:
    of = mesh(workflow("greet", {"id": "a", "set": "${{ input.text }}"}))
    of.file = of.file.model_copy(update={"url": "https://mesh.example"})
    ports = PushPorts(ScriptedWebhooks(), Seals([b"k" * 32]), [b"p" * 32])
    async with serving(of, push=ports) as engine:
        settings = Settings(folder=Path("mesh"), limits=Limits(body=10_000))
        api = build_api(engine, settings, base_url="http://127.0.0.1")
        app = Starlette(routes=[*push_routes(lambda: engine), Mount("/v1", api)], exception_handlers=HANDLERS)
        async with served(Guard(app, limits=settings.limits)) as url, httpx.AsyncClient(base_url=url) as client:
            yield client, engine


async def test_an_agent_elsewhere_is_let_in_by_its_runs_token() -> None:
    """Whatever it sends; without the token there is no such run."""
    async with listening() as (client, engine):
        url, token = engine.push.receive_url("r1")
        path = httpx.URL(url).path
        pokes = engine.store.pokes()
        for body in (b"{}", b"\xff\x00 not JSON", b""):
            answer = await client.post(path, content=body, headers={"X-A2A-Notification-Token": token})
            assert (answer.status_code, answer.content) == (204, b"")
        assert await anext(pokes) == "r1"
        for given in ({}, {"X-A2A-Notification-Token": token[:-1] + "g"}, {"Authorization": f"Bearer {token}"}):
            answer = await client.post(path, headers=given)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert (await client.post("/a2a-push/r2", headers={"X-A2A-Notification-Token": token})).status_code == 404
        large = await client.post(path, content=b"x" * 20_000, headers={"X-A2A-Notification-Token": token})
        assert large.status_code == 413
        assert (await client.get(path)).status_code == 405


async def test_before_the_mesh_is_open_agents_are_asked_to_come_again() -> None:
    """Their notification is not lost on them."""
    app = Starlette(routes=push_routes(lambda: None), exception_handlers=HANDLERS)
    async with served(Guard(app)) as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/a2a-push/r1")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_operators_see_what_was_given_up_and_have_it_tried_again() -> None:
    """Of the url they see the host."""
    async with listening() as (client, engine):
        run = await finished(engine, "greet")
        await engine.store.add_delivery(Delivery(run.id, "c1", "local", "local", "hooks.example", "sealed"), most=5)
        assert (await client.get("/v1/push")).json() == {"deliveries": []}
        (one,) = await engine.store.claim_deliveries("w", limit=1, per_host=1)
        await engine.store.keep_delivery(one.failed("hooks.example answers 410", 5.0, refused=True), after=None)
        (shown,) = (await client.get("/v1/push")).json()["deliveries"]
        assert shown == {
            "run": run.id, "id": "c1", "owner": "local", "host": "hooks.example", "delivered": 0, "attempts": 1,
            "error": "hooks.example answers 410", "failing_since": 5.0, "dead_at": 5.0,
        }  # fmt: skip
        assert (await client.get("/v1/push", params={"dead": "false"})).json() == {"deliveries": []}
        assert (await client.post(f"/v1/push/{run.id}/c2/retry")).status_code == 404
        assert (await client.post(f"/v1/push/{run.id}/c1/retry")).json() == {"run": run.id, "id": "c1"}
        assert await engine.push.troubled(LOCAL, dead=True) == []
