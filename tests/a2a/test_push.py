"""What webhooks are told, in each version of the protocol."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from agentmesh.a2a.push import notifications, notifications_of_v03
from agentmesh.adapters.memory_outside import ScriptedWebhooks
from agentmesh.adapters.vault import Seals
from agentmesh.core.agent import Message, Part, Sending
from agentmesh.core.push import PushConfig
from agentmesh.engine.push import PushPorts
from tests.engine.meshes import LOCAL, ended, mesh, serving, workflow

pytestmark = pytest.mark.anyio


async def told(version: str) -> list[Any]:
    """What a webhook gets of a task that takes two steps and makes an output."""
    of = mesh(
        workflow(
            "greet",
            {"id": "a", "set": "x"},
            {"id": "b", "set": {"n": 1}},
            on={"a2a": {}},
            output="${{ steps.b.output }}",
        )
    )
    hooks = ScriptedWebhooks()
    async with serving(of, push=PushPorts(hooks, Seals([b"k" * 32]))) as engine:
        engine.push.render, engine.push.render_v03 = notifications, notifications_of_v03
        async with anyio.create_task_group() as group:
            await group.start(engine.push.run)
            run = await engine.agents.send(LOCAL, Sending(Message("m1", "user", [Part("hi")]), skill="greet"))
            await engine.push.create(LOCAL, run, PushConfig("c", "", "https://hooks.example/", version=version))
            await ended(engine, run)
            while not (await engine.store.deliveries(run.id))[0].ended:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    return [one.body for one in hooks.got]


async def test_version_1_has_the_events_of_a_stream() -> None:
    """Each object is one event; the terminal status comes last, after what the task made."""
    bodies = await told("1.0")
    assert all(len(body) == 1 for body in bodies)
    assert next(iter(bodies[-2])) == "artifactUpdate"
    assert bodies[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert bodies[0]["statusUpdate"]["status"]["state"] == "TASK_STATE_WORKING"


async def test_version_0_3_has_the_task_each_time() -> None:
    """As that version spells it, with what it made by then."""
    bodies = await told("0.3")
    assert {body["kind"] for body in bodies} == {"task"}
    assert bodies[0]["status"]["state"] == "working"
    assert bodies[-1]["status"]["state"] == "completed"
    assert {"kind": "data", "data": {"n": 1}} in bodies[-1]["artifacts"][0]["parts"]
    assert all("history" not in body or body["history"] == [] for body in bodies)
