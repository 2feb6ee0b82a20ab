"""An agent elsewhere is spoken to in its own version and binding, and what it says is A2A 1.0's JSON: against the SDK's own servers."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import anyio
import pytest

from agentmesh.adapters.upstream_a2a import PeerSource
from agentmesh.core.agent import IDEMPOTENCY, AgentPeer, PeerCall
from agentmesh.core.policy import Principal
from agentmesh.core.trace import traced
from agentmesh.errors import Conflict, Fail, InvalidInput, NotFound, Unanswered
from tests.adapters.a2a_agents import CALL, message, peer_at, sdk_agent

pytestmark = pytest.mark.anyio
WAYS = [(binding, version) for version in ("1.0", "0.3") for binding in ("JSONRPC", "HTTP+JSON", "GRPC")]
every_way = pytest.mark.parametrize(("binding", "version"), WAYS)


async def all_of(source: PeerSource, text: str, call: PeerCall = CALL, **more: Any) -> list[Any]:
    with anyio.fail_after(10):
        async with aclosing(source.send(message(text, **more), call)) as events:
            return [event async for event in events]


@every_way
async def test_a_message_is_a_task_that_is_streamed(binding: str, version: str) -> None:
    """The task, what it says, its artifact in pieces, and its end; then it can be asked for."""
    async with sdk_agent((binding, version)) as (url, echo), peer_at(url) as source:
        assert isinstance(source, AgentPeer)
        agent = source.agent()
        assert agent is not None
        assert (agent.speaks, agent.streaming, source.health().state) == ((f"{binding} {version}",), True, "up")
        events = await all_of(source, "hello")
        assert "task" in events[0]
        assert events[0]["task"]["status"]["state"] == "TASK_STATE_SUBMITTED"
        pieces = [event["artifactUpdate"] for event in events if "artifactUpdate" in event]
        assert [piece["artifact"]["parts"][0]["text"] for piece in pieces] == ["one ", "two hello"]
        assert [bool(piece.get("append")) for piece in pieces] == [False, True]
        assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
        task = await source.get(events[0]["task"]["id"], CALL)
        assert task["status"]["state"] == "TASK_STATE_COMPLETED"
        assert "".join(part["text"] for part in task["artifacts"][0]["parts"]) == "one two hello"
        assert [part.text for part in echo.seen[0].parts] == ["hello"]
        assert source.health().busy == 0
        assert source.health().latency > 0


@every_way
async def test_a_message_may_be_answered_by_one(binding: str, version: str) -> None:
    """Data comes back as it went: whole numbers stay whole."""
    data = {"data": {"n": 7, "x": 0.5, "deep": [1, {"a": None}]}}
    async with sdk_agent((binding, version)) as (url, _), peer_at(url) as source:
        events = await all_of(source, "say", parts=[{"text": "say"}, data])
        assert [part.get("text") for part in events[0]["message"]["parts"]] == ["said", None]
        assert events[0]["message"]["parts"][1]["data"] == data["data"]
        assert len(events) == 1


@every_way
async def test_a_question_is_answered_on_its_task(binding: str, version: str) -> None:
    """A second message that names the task goes to the same one."""
    async with sdk_agent((binding, version)) as (url, _), peer_at(url) as source:
        first = await all_of(source, "ask")
        task = first[0]["task"]
        assert first[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        assert first[-1]["statusUpdate"]["status"]["message"]["parts"][0]["text"] == "Which one?"
        second = await all_of(source, "this", taskId=task["id"], contextId=task["contextId"])
        assert second[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


@every_way
async def test_a_task_is_subscribed_to_and_cancelled(binding: str, version: str) -> None:
    """Whoever left comes back to the task as it is now; a task that has ended can be neither followed nor cancelled."""
    async with sdk_agent((binding, version)) as (url, echo), peer_at(url) as source:
        with anyio.fail_after(10):
            async with aclosing(source.send(message("hold"), CALL)) as events:
                async for event in events:
                    task = event["task"]["id"]
                    break
            await echo.held.wait()
            assert source.health().busy == 1
            async with aclosing(source.follow(task, CALL)) as events:
                seen = await anext(events)
                assert seen["task"]["id"] == task
                cancelled = await source.cancel(task, CALL)
                assert cancelled["status"]["state"] == "TASK_STATE_CANCELED"
        assert source.health().busy == 0
        with pytest.raises(Conflict):
            await source.cancel(task, CALL)
        # The SDK's server of 0.3 over HTTP+JSON ends the stream without a word.
        with pytest.raises((Conflict, InvalidInput, Unanswered)):
            await all_of(source, "more", taskId=task)


@every_way
async def test_what_an_agent_does_not_know_is_not_found(binding: str, version: str) -> None:
    """Not an error of the connection: the agent is up."""
    async with sdk_agent((binding, version)) as (url, _), peer_at(url) as source:
        with pytest.raises(NotFound, match=r"^echo: the agent refused"):
            await source.get("nobody", CALL)
        with pytest.raises(NotFound):
            await source.cancel("nobody", CALL)
        assert source.health().state == "up"


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON", "GRPC"])
async def test_the_task_of_a_message_is_found_again(binding: str) -> None:
    """By the history of the tasks that changed since; 0.3 has no list of tasks."""
    async with sdk_agent((binding, "1.0")) as (url, _), peer_at(url) as source:
        for text in ("a", "b", "c"):
            await all_of(source, text)
        found = await source.find("m-b", 1_700_000_000.0, CALL)
        assert found is not None
        assert any(said["messageId"] == "m-b" for said in found["history"])
        assert await source.find("m-nobody", 1_700_000_000.0, CALL) is None
    async with sdk_agent((binding, "0.3")) as (url, _), peer_at(url) as source:
        await all_of(source, "a")
        assert await source.find("m-a", 1_700_000_000.0, CALL) is None


@every_way
async def test_a_request_carries_token_trace_and_extensions(binding: str, version: str) -> None:
    """The extensions that the card declares and the caller activates; the rest stay here."""
    declared = [{"uri": "urn:x:one"}, {"uri": IDEMPOTENCY}]
    given = PeerCall(Principal(), extensions=("urn:x:one", "urn:x:two"))
    parent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    can = {"streaming": True, "extensions": declared}
    async with sdk_agent((binding, version), capabilities=can) as (url, echo), peer_at(url, token="s3cret") as source:
        agent = source.agent()
        assert agent is not None
        assert agent.idempotent
        with traced(parent):
            await all_of(source, "say", given)
        assert echo.asked_extensions == [{"urn:x:one", IDEMPOTENCY}]
        if binding != "GRPC":
            assert echo.headers[0]["authorization"] == "Bearer s3cret"
            assert echo.headers[0]["traceparent"] == parent["traceparent"]
            assert echo.headers[0]["a2a-version"] == version


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON", "GRPC"])
async def test_the_tenant_of_the_interface_goes_with_every_request(binding: str) -> None:
    """As the agent's card says it."""
    async with sdk_agent((binding, "1.0"), tenant="acme") as (url, echo), peer_at(url) as source:
        events = await all_of(source, "hello")
        assert (await source.get(events[0]["task"]["id"], CALL))["id"] == events[0]["task"]["id"]
        assert echo.tenants == ["acme"]


@every_way
async def test_an_agent_that_does_not_stream_answers_at_once(binding: str, version: str) -> None:
    """With the task as it is; subscribing is refused before anything is sent."""
    async with sdk_agent((binding, version), capabilities={}) as (url, echo), peer_at(url) as source:
        [event] = await all_of(source, "hold")
        with anyio.fail_after(10):
            await echo.held.wait()
        assert event["task"]["status"]["state"] in {"TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"}
        with pytest.raises(Fail, match="does not stream"):
            await anext(source.follow(event["task"]["id"], CALL))
        await source.cancel(event["task"]["id"], CALL)


async def test_the_extended_card_says_what_a_token_is_shown() -> None:
    """Without a token the public one is all there is."""
    can = {"streaming": True, "extendedAgentCard": True}
    async with sdk_agent(("JSONRPC", "1.0"), capabilities=can) as (url, _):
        async with peer_at(url) as source:
            assert set(source.tools()) == {"echo.echo"}
        async with peer_at(url, token="s3cret") as source:
            agent = source.agent()
            assert agent is not None
            assert [skill.id for skill in agent.skills] == ["echo", "secret"]
            assert agent.skills[0].tool == "echo.echo"
