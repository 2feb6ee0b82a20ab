"""Agents under /v1: who there is and how, messages to them, and what operators register."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_outside import ScriptedHttp
from agentmesh.adapters.peer_registry import PeerRegistry
from agentmesh.adapters.sources import SourceSet
from agentmesh.adapters.vault import Vault
from agentmesh.core.policy import PolicyFile
from tests.a2a.conftest import Serving, serving_mesh, skills_mesh
from tests.adapters.a2a_agents import WELL_KNOWN, sdk_agent

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def registering(*policies: dict[str, Any]) -> AsyncIterator[Serving]:
    """A served mesh whose operators may register agents."""
    async with MemoryStore() as store:
        registry = PeerRegistry(store, Vault(store, [b"k" * 32]))
        async with SourceSet(Path(), store, ScriptedHttp([]), registry=registry) as sources:
            of = skills_mesh(policies=tuple(PolicyFile.model_validate(one) for one in policies))
            async with serving_mesh(of, store=store) as on:
                on.engine.reload.sources = sources.replace
                on.engine.peers.registry, on.engine.peers.renew = registry, on.engine.reload.renew
                yield on


async def known(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """The agent, once its card was read."""
    with anyio.fail_after(10):
        while True:
            found: dict[str, Any] = (await http.get(f"/v1/agents/{name}")).json()
            if found.get("state") == "up":
                return found
            await anyio.lowlevel.checkpoint()


async def test_an_agent_is_registered_used_and_removed() -> None:
    """No restart; its skills are there as soon as its card was read; a message reaches it."""
    async with sdk_agent(("JSONRPC", "1.0")) as (url, agent), registering() as on:
        made = await on.http.post("/v1/agents", json={"name": "echo", "card": url + WELL_KNOWN, "price": 2})
        assert (made.status_code, made.headers["location"]) == (201, "/v1/agents/echo")
        again = await on.http.post("/v1/agents", json={"name": "echo", "card": url + WELL_KNOWN, "price": 2})
        assert again.status_code == 201
        found = await known(on.http, "echo")
        assert (found["where"], found["price"], [s["id"] for s in found["skills"]]) == ("registered", 2.0, ["echo"])
        [interface] = found["facts"]["interfaces"]
        assert (interface["used"], interface["binding"]) == (True, "JSONRPC")
        assert {one["name"] for one in (await on.http.get("/v1/agents")).json()["agents"]} == {"test", "echo"}
        sent = await on.http.post(
            "/v1/agents/send", json={"agent": "echo", "text": "hi", "files": [{"name": "a.txt", "data": "aGk="}]}
        )
        assert sent.status_code == 201, sent.text
        with anyio.fail_after(10):
            run = await on.engine.runs.end_of(sent.json()["id"])
        assert run.state.value == "completed"
        assert [part.filename for part in agent.seen[0].parts] == ["", "a.txt"]
        other = await on.http.post("/v1/agents", json={"name": "echo", "card": "https://other.example/card"})
        assert (other.status_code, "registered already" in other.json()["detail"]) == (409, True)
        assert (await on.http.delete("/v1/agents/echo")).status_code == 204
        assert (await on.http.get("/v1/agents/echo")).status_code == 404
        assert (await on.http.delete("/v1/agents/echo")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"name": "Not A Name"}, 422, "no name"),
        ({"name": "tasks"}, 422, "something else"),
        ({"name": "test"}, 409, "the mesh itself"),
        ({"name": "desk"}, 409, "a server of this mesh"),
        ({"card": "file:///etc/passwd"}, 422, "no address"),
        ({"card": "http://u:p@x.example/"}, 422, "no address"),
        ({"jwks": "gopher://x"}, 422, "jwks"),
        ({"token": "${{ secrets.TOP }}"}, 422, "the token itself"),
        ({"price": -1}, 422, "price"),
        ({"colour": "red"}, 422, "colour"),
    ],
)  # fmt: skip
async def test_what_cannot_be_registered_is_said(body: dict[str, Any], status: int, words: str) -> None:
    """In one sentence, and nothing is kept."""
    async with registering() as on:
        refused = await on.http.post("/v1/agents", json={"name": "echo", "card": "https://x.example/card", **body})
        assert (refused.status_code, words in refused.text) == (status, True), refused.text
        assert len((await on.http.get("/v1/agents")).json()["agents"]) == 1


async def test_a_declared_name_says_where_it_is_declared() -> None:
    """It is not removed here."""
    async with registering() as on:
        refused = await on.http.delete("/v1/agents/desk")
        assert (refused.status_code, "declared in servers/" in refused.json()["detail"]) == (409, True)


async def test_registering_is_for_operators() -> None:
    """Others may neither change agents nor see their facts."""
    policy = {
        "roles": {"operator": {"subjects": ["ops"]}},
        "rules": [{"allow": "*", "to": ["operator"]}, {"allow": "agents.*"}],
    }
    async with registering(policy) as on:
        body = {"name": "echo", "card": "http://127.0.0.1:9/card"}
        ops, bob = {"X-Who": "local/ops"}, {"X-Who": "local/bob"}
        assert (await on.http.post("/v1/agents", json=body, headers=bob)).status_code == 403
        assert (await on.http.post("/v1/agents", json=body, headers=ops)).status_code == 201
        assert (await on.http.get("/v1/agents/echo", headers=bob)).status_code == 404
        shown = (await on.http.get("/v1/agents/echo", headers=ops)).json()
        assert shown["facts"]["card"] == body["card"]
        assert (await on.http.delete("/v1/agents/echo", headers=bob)).status_code == 403


async def test_a_message_to_a_task_answers_it() -> None:
    """By the task's id; files have to have one content."""
    async with serving_mesh() as on:
        gone = await on.http.post("/v1/agents/send", json={"text": "x", "task_id": "nobody"})
        assert gone.status_code == 404
        both = await on.http.post(
            "/v1/agents/send", json={"text": "x", "files": [{"data": "aGk=", "url": "https://x"}]}
        )
        assert (both.status_code, "files[0]" in both.json()["detail"]) == (422, True)
        nobody = await on.http.post("/v1/agents/send", json={"text": "x", "agent": "nobody"})
        assert nobody.status_code == 404


async def test_a_message_is_routed_without_being_sent() -> None:
    """Who would take it, or what is nearest; no run begins."""
    async with sdk_agent(("JSONRPC", "1.0")) as (url, agent), registering() as on:
        await on.http.post("/v1/agents", json={"name": "echo", "card": url + WELL_KNOWN})
        await known(on.http, "echo")
        named = await on.http.post("/v1/agents/route", json={"skill": "echo", "text": "hi"})
        assert named.status_code == 200, named.text
        assert (named.json()["fits"], named.json()["agent"], named.json()["skill"]) == (True, "echo", "echo")
        nobody = (await on.http.post("/v1/agents/route", json={"text": "hi", "tags": ["cooking"]})).json()
        assert (nobody["fits"], nobody["agent"], nobody["score"]) == (False, None, 0.0)
        assert "no skill has the tags cooking" in nobody["reason"]
        assert nobody["others"]
        assert (await on.http.post("/v1/agents/route", json={})).status_code == 422
        assert agent.seen == []
        assert (await on.http.get("/v1/runs")).json()["runs"] == []
