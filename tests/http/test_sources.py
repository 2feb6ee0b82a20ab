"""The API of those who serve for the mesh: who may look, who may approve."""

from __future__ import annotations

from pathlib import Path

import httpx
import mcp_types as types
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.core.policy import PolicyFile
from agentmesh.http.api import build_api
from agentmesh.http.auth import Guard
from agentmesh.settings import Settings
from tests.adapters.upstreams import desk_at, until, upstream
from tests.engine.meshes import mesh, serving
from tests.http.serving import served

pytestmark = pytest.mark.anyio


def policy(*allowed: str) -> PolicyFile:
    return PolicyFile.model_validate({"rules": [{"allow": list(allowed), "on": ["tool:*"]}]})


async def held_desk(store: MemoryStore, url: str, desk: object) -> None:
    """A first look, after which a tool changes."""
    async with upstream("desk", {"url": url}, store=store):
        desk.tools["fail"] = types.Tool(name="fail", description="Other.", input_schema={"type": "object"})  # type: ignore[attr-defined]


@pytest.mark.parametrize("may", [("admin.read", "admin.write"), ("admin.read",), ("tools.list",)])
async def test_who_may_look_and_who_may_approve(may: tuple[str, ...]) -> None:
    """`admin.read` shows what waits, `admin.write` approves it; without either there is nothing to see."""
    store = MemoryStore()
    async with desk_at(modern=True) as (desk, url):
        await held_desk(store, url, desk)
        async with (
            upstream("desk", {"url": url}, store=store, ready=False) as source,
            serving(mesh(policies=(policy(*may),)), sources=[source]) as engine,
        ):
            await until(lambda: len(source.held()) == 1)
            settings = Settings(Path("mesh"))
            api = build_api(engine, settings, base_url="http://127.0.0.1")
            async with (
                served(Guard(api, host="127.0.0.1", limits=settings.limits)) as at,
                httpx.AsyncClient(base_url=at) as client,
            ):
                found = (await client.get("/sources")).json()["sources"]
                if "admin.read" not in may:
                    assert found == []
                    assert (await client.get("/sources/desk/held")).status_code == 403
                    return
                assert [(s["name"], s["kind"], s["state"], s["held"]) for s in found] == [
                    ("desk", "upstream", "ready", 1)
                ]
                (held,) = (await client.get("/sources/desk/held")).json()["held"]
                assert held["name"] == "desk.fail"
                assert (held["approved"]["description"], held["offered"]["description"]) == ("The tool fail.", "Other.")
                body = {"names": ["desk.fail"], "digests": {"desk.fail": held["digest"]}}
                if "admin.write" in may:
                    other = {**body, "digests": {"desk.fail": "what was shown before"}}
                    assert (await client.post("/sources/desk/approve", json=other)).status_code == 409
                    assert source.tools()["desk.fail"].description == "The tool fail."
                done = await client.post("/sources/desk/approve", json=body)
                if "admin.write" in may:
                    assert done.json() == {"approved": ["desk.fail"]}
                    assert source.tools()["desk.fail"].description == "Other."
                else:
                    assert done.status_code == 403
                    assert source.tools()["desk.fail"].description == "The tool fail."
                assert (await client.get("/sources/nobody/held")).status_code == 404
