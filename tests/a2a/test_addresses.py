"""One mesh, many agents: each at its own address, and by its name as tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentmesh.adapters.memory_peer import MemoryPeer, MemoryTask
from agentmesh.core.policy import PolicyFile
from tests.a2a.calling import BINDINGS, V, call, events_of, sent
from tests.a2a.conftest import Serving, serving_mesh
from tests.engine.meshes import mesh, workflow
from tests.requirements import covers

pytestmark = pytest.mark.anyio


def agents_mesh(**more: Any) -> Any:
    """The mesh's own skill `hello`, and agents `desk` (skills tidy, dust) and `shop` (skill sell)."""

    def skill(name: str, agent: str | None) -> Any:
        trigger = {"a2a": {"agent": agent} if agent else {}}
        return workflow(name, {"id": "a", "set": {"by": name}}, on=trigger, description=f"Does {name}.")

    own = [skill("hello", None), skill("tidy", "desk"), skill("dust", "desk"), skill("sell", "shop")]
    return mesh(*own, **more)


async def echo(task: MemoryTask) -> None:
    task.artifact("answer", {"text": f"you said {task.text}"})


@pytest.fixture
async def on() -> AsyncIterator[Serving]:
    async with serving_mesh(agents_mesh(), peers=[MemoryPeer("billing", echo)]) as serving:
        yield serving


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("where", ["address", "tenant", "both"])
async def test_an_agent_is_reached_at_its_address_and_by_tenant(on: Serving, binding: str, where: str) -> None:
    """The same task, seen at the mesh's address and at its own agent's; elsewhere it is absent."""
    agent = None if where == "tenant" else "shop"
    tenant = {} if where == "address" else {"tenant": "shop"}
    done = await call(on, binding, "SendMessage", {**sent(), **tenant}, agent=agent)
    task = done.result["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert task["artifacts"][0]["parts"][1]["data"] == {"by": "sell"}
    for seen in (None, "shop"):
        assert (await call(on, binding, "GetTask", {"id": task["id"]}, agent=seen)).result == task
        listed = await call(on, binding, "ListTasks", {}, agent=seen)
        assert [one["id"] for one in listed.result["tasks"]] == [task["id"]]
    for hidden in ("desk", "billing"):
        absent = await call(on, binding, "GetTask", {"id": task["id"]}, agent=hidden)
        assert absent.reason == "TASK_NOT_FOUND"
        assert (await call(on, binding, "ListTasks", {}, agent=hidden)).result["tasks"] == []
        for method in ("CancelTask", "SubscribeToTask"):
            assert (await call(on, binding, method, {"id": task["id"]}, agent=hidden)).reason == "TASK_NOT_FOUND"
        follow = await call(on, binding, "SendMessage", sent(taskId=task["id"]), agent=hidden)
        assert follow.reason == "TASK_NOT_FOUND"


@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_agent_elsewhere_has_an_address_too(on: Serving, binding: str) -> None:
    """Its answer comes back as a task of this mesh."""
    done = await call(on, binding, "SendMessage", sent("hello"), agent="billing")
    task = done.result["task"]
    assert task["artifacts"] == [{"artifactId": "answer", "parts": [{"text": "you said hello"}]}]
    events = await events_of(on, binding, "SendStreamingMessage", sent("again"), agent="billing")
    assert [next(iter(event)) for event in events[:1]] == ["task"]
    assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert {e["artifactUpdate"]["taskId"] for e in events if "artifactUpdate" in e} == {events[0]["task"]["id"]}


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_name_said_twice_in_the_path_is_the_name(on: Serving, binding: str) -> None:
    """A client that takes `tenant` beside the agent's own address builds such paths; two names are a mistake."""
    for path in ("/a2a/shop/tasks", "/a2a/shop/shop/tasks", "/a2a/tasks?tenant=shop", "/a2a/shop/tasks?tenant=shop"):
        assert (await on.http.get(path, headers=V)).status_code == 200, path
    wrong = await call(on, binding, "ListTasks", {"tenant": "desk"}, agent="shop")
    assert (wrong.reason, "desk" in wrong.message) == ("INVALID_PARAMS", True)


@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_agent_that_is_not_there(on: Serving, binding: str) -> None:
    """Not found, in the binding's form: at its address, and as tenant."""
    for params, agent in (({}, "nobody"), ({"tenant": "nobody"}, None)):
        for method, more in (("ListTasks", {}), ("SendMessage", sent()), ("GetTask", {"id": "x"})):
            gone = await call(on, binding, method, {**more, **params}, agent=agent)
            assert (gone.reason, gone.code) == ("AGENT_NOT_FOUND", -32602 if binding == "JSONRPC" else 404)
            assert gone.status == (404 if binding == "HTTP+JSON" or agent else 200)
    assert (await on.http.get("/v1/runs")).json()["total"] == 0


@covers("A2A-1.0.1 13.1#scope")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_agent_one_may_not_see_is_like_none(binding: str) -> None:
    """The same words but for its name."""
    rules = PolicyFile.model_validate({"rules": [{"allow": "*"}, {"deny": "agents.*", "on": ["agent:sell"]}]})
    async with serving_mesh(agents_mesh(policies=(rules,))) as on:
        hidden = await call(on, binding, "ListTasks", {}, agent="shop")
        absent = await call(on, binding, "ListTasks", {}, agent="nobo")
        assert hidden.message.replace("shop", "nobo") == absent.message
        assert (hidden.status, hidden.code, hidden.details) == (absent.status, absent.code, absent.details)


async def test_paths_below_an_address(on: Serving) -> None:
    """What follows no address is nobody's name."""
    for path, status in (("/a2a/shop/nope", 404), ("/a2a/shop/tasks/a/b", 404), ("/a2a/shop/extendedAgentCard", 200)):
        assert (await on.http.get(path, headers=V)).status_code == status, path
    assert (await on.http.get("/a2a/shop", headers=V)).status_code == 405
