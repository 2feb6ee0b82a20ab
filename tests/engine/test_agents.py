"""Agents: messages in, runs out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from agentmesh.core.agent import Message, Part, Sending
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.run import RunState
from agentmesh.core.store import RunFilter
from agentmesh.errors import Conflict, InvalidInput, NotFound, PolicyDenied
from tests.engine.meshes import LOCAL, mesh, serving, workflow

pytestmark = pytest.mark.anyio

A2A: dict[str, Any] = {"a2a": {}}
ECHO = workflow("echo", {"id": "a", "set": "${{ input }}"}, on=A2A)
TWO = workflow(
    "two", {"id": "a", "set": "${{ input }}"}, on=A2A,
    input={"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "string"}}, "required": ["x", "y"]},
)  # fmt: skip
FREE = workflow("free", {"id": "a", "set": "${{ input }}"}, on=A2A, input={"type": "object"})


def message(*parts: Part, **more: Any) -> Message:
    return Message("m1", "user", parts, **more)


@pytest.mark.parametrize(
    ("skill", "parts", "given"),
    [
        ("echo", [Part(text="hi")], {"text": "hi"}),
        ("echo", [Part(text="hi"), Part(text="there")], {"text": "hi\nthere"}),
        ("echo", [Part(text="see below"), Part(data={"text": "data wins"})], {"text": "data wins"}),
        ("two", [Part(data={"x": "1", "y": "2"})], {"x": "1", "y": "2"}),
        ("free", [], {}),
    ],
)
async def test_a_messages_parts_are_the_input(skill: str, parts: list[Part], given: Mapping[str, Any]) -> None:
    """An object is the input; text fills the only required text."""
    async with serving(mesh(ECHO, TWO, FREE)) as engine:
        run = await engine.agents.send(LOCAL, Sending(message(*parts, context_id="c"), skill=skill))
        assert (run.state, run.context_id, run.source) == (RunState.SUBMITTED, "c", "a2a")
        run = await engine.runs.wait(LOCAL, run.id)
        assert run.output == given
        assert run.message is not None
        assert run.message["messageId"] == "m1"


@pytest.mark.parametrize(
    ("skill", "parts", "why"),
    [
        ("two", [Part(text="hi")], "required: x, y"),
        ("echo", [], "required: text"),
        ("echo", [Part(data={"text": 1})], r"input\.text: must be string"),
        ("echo", [Part(data={}), Part(data={})], "2 data parts"),
        ("echo", [Part(data=[1])], "required: text"),
        ("free", [Part(text="what is this")], "needs a data part"),
    ],
)
async def test_a_message_that_is_no_input_is_refused(skill: str, parts: list[Part], why: str) -> None:
    """InvalidInput names what is missing, and nothing is recorded."""
    async with serving(mesh(ECHO, TWO, FREE)) as engine:
        with pytest.raises(InvalidInput, match=why):
            await engine.agents.send(LOCAL, Sending(message(*parts), skill=skill))
        assert (await engine.runs.list(LOCAL, RunFilter())).total == 0


async def test_the_skill_is_the_one_named_else_the_default() -> None:
    """Else the only one."""
    async with serving(mesh(ECHO, TWO, default_skill="echo")) as engine:
        assert (await engine.agents.send(LOCAL, Sending(message(Part(text="hi"))))).workflow == "echo"
        with pytest.raises(NotFound, match="did you mean 'echo'"):
            await engine.agents.send(LOCAL, Sending(message(Part(text="hi")), skill="ecko"))
    async with serving(mesh(ECHO)) as engine:
        assert (await engine.agents.send(LOCAL, Sending(message(Part(text="hi"))))).workflow == "echo"
    async with serving(mesh(ECHO, TWO)) as engine:
        with pytest.raises(InvalidInput, match="required: x, y"):
            await engine.agents.send(LOCAL, Sending(message(Part(text="two two two")), skill="two"))


async def test_cancelling_a_task_waits_for_its_end() -> None:
    """The task that comes back is canceled; a second time it is a conflict."""

    async def f() -> None:
        await anyio.sleep_forever()

    slow = workflow("slow", {"id": "f", "python": "t:f"}, on=A2A)
    async with serving(mesh(slow), functions={"t:f": f}) as engine:
        run = await engine.agents.send(LOCAL, Sending(message(Part(text="x"))))
        run = await engine.agents.cancel_task(LOCAL, run.id)
        assert run.state is RunState.CANCELED
        assert await engine.agents.get_task(LOCAL, run.id) == run
        with pytest.raises(Conflict):
            await engine.agents.cancel_task(LOCAL, run.id)


async def test_policies_decide_who_may_send() -> None:
    """And which skills are listed."""
    policy = PolicyFile.model_validate(
        {
            "roles": {"peer": {"subjects": ["token:*"]}},
            "rules": [{"allow": ["agents.list", "agents.send"], "on": ["agent:echo"], "to": ["peer"]}],
        }
    )
    peer = Principal("token:x")
    async with serving(mesh(ECHO, TWO, policies=(policy,))) as engine:
        assert [skill.id for skill in engine.agents.skills(peer)] == ["echo"]
        assert engine.agents.skills(LOCAL) == []
        await engine.agents.send(peer, Sending(message(Part(text="hi")), skill="echo"))
        with pytest.raises(PolicyDenied, match=r"agents\.send on agent:two"):
            await engine.agents.send(peer, Sending(message(Part(data={"x": "", "y": ""})), skill="two"))
