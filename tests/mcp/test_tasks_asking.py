"""What a run asks, of a client with tasks, of one without, and of one of the older era."""

from __future__ import annotations

from typing import Any

import anyio
import mcp_types
import pytest
from mcp import Client as SdkClient
from mcp_types import _v2026_07_28 as wire

from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.run import Kind, RunState
from agentmesh.core.store import RunFilter
from agentmesh.engine import Engine
from tests.engine import meshes
from tests.mcp.tasks import EXTENSION, KNOWS, accept, client_of, mesh, tasks_of
from tests.requirements import covers

pytestmark = pytest.mark.anyio

FORMS: dict[str, Any] = {"elicitation": {}}
"""Capabilities of a client that can show a form and knows no tasks."""


async def only_run(engine: Engine) -> Any:
    (run,) = (await engine.runs.list(meshes.LOCAL, RunFilter())).runs
    return run


async def answers(engine: Engine, run_id: str) -> list[Any]:
    entries = await engine.runs.journal(meshes.LOCAL, run_id)
    return [entry.payload for entry in entries if entry.kind is Kind.RUN_ANSWERED]


@covers("MCP-EXT-TASKS-draft tasks#task-polling", "MCP-EXT-TASKS-draft tasks#task-update-requests")
async def test_an_approval_is_a_form_without_fields() -> None:
    """The task waits for it with what is shown; accept goes on, and the key does not come again."""
    async with tasks_of() as (engine, client, _):
        task = await client.task("review", {"text": "hello"})
        found = await client.until(task, "input_required")
        ((key, request),) = found["inputRequests"].items()
        wire.ElicitRequest.model_validate(request)
        assert request["method"] == "elicitation/create"
        assert request["params"]["message"].startswith("Send it?\n\ntext: hello\n")
        assert request["params"]["requestedSchema"] == {"type": "object", "properties": {}}
        assert (await client.get(task))["inputRequests"] == found["inputRequests"]
        assert await client.update(task, {key: {"action": "accept"}}) == {"resultType": "complete"}
        after = await client.get(task)
        assert key not in after.get("inputRequests", {})
        done = await client.until(task, "completed")
        assert done["result"]["structuredContent"] == {"sent": True}
        assert [payload["yes"] for payload in await answers(engine, task)] == [True]
        assert await client.update(task, {key: {"action": "decline"}}) == {"resultType": "complete"}
        assert len(await answers(engine, task)) == 1


async def test_a_declined_approval_is_the_tools_error() -> None:
    """The run was told no: completed with isError, not failed."""
    async with tasks_of() as (_, client, _):
        task = await client.task("review", {"text": "hello"})
        (key,) = (await client.until(task, "input_required"))["inputRequests"]
        await client.update(task, {key: {"action": "decline"}})
        found = await client.until(task, "completed", "failed")
    assert (found["status"], found["result"]["isError"]) == ("completed", True)


@covers("MCP-EXT-TASKS-draft tasks#task-update-requests")
@pytest.mark.parametrize(
    "response",
    [None, 1, [], {}, {"action": "ok"}, accept(), accept(why=1), {"action": "accept", "content": "why"}, {"why": "so"}],
)
async def test_a_malformed_answer_leaves_the_question_open(response: Any) -> None:
    """-32602 for what does not fit; nothing is recorded, and a good answer comes through."""
    async with tasks_of() as (engine, client, _):
        task = await client.task("fill", {"text": "hello"})
        found = await client.until(task, "input_required")
        (key,) = found["inputRequests"]
        error = await client.error("tasks/update", {"taskId": task, "inputResponses": {key: response}})
        assert error["code"] == -32602
        assert (await client.get(task))["inputRequests"] == found["inputRequests"]
        assert await answers(engine, task) == []
        await client.update(task, {key: accept(why="it is right")})
        await client.until(task, "completed")
        assert [payload["value"] for payload in await answers(engine, task)] == [{"why": "it is right"}]


@covers("MCP-EXT-TASKS-draft tasks#task-update-requests")
async def test_keys_that_are_not_open_are_ignored() -> None:
    """Never issued, of another task, or with something else shown: an acknowledgement, and the question stays. Nor does a cancel answer."""
    async with tasks_of() as (engine, client, _):
        task, other = [await client.task("review", {"text": text}) for text in ("one", "two")]
        (key,) = (await client.until(task, "input_required"))["inputRequests"]
        (others,) = (await client.until(other, "input_required"))["inputRequests"]
        ignored = {"nothing": {"ignored": True}, others: {"action": "accept"}, key[:-1]: {"action": "accept"}}
        assert await client.update(task, ignored) == {"resultType": "complete"}
        assert await client.update(task, {key: {"action": "cancel"}}) == {"resultType": "complete"}
        assert list((await client.get(task))["inputRequests"]) == [key]
        assert list((await client.get(other))["inputRequests"]) == [others]
        assert await answers(engine, task) == []


@covers("MCP-EXT-TASKS-draft tasks#task-update-requests")
async def test_answers_may_come_one_by_one() -> None:
    """The other stays open, the answered key is gone at once, and the function sees both in the end."""
    async with tasks_of() as (_, client, _):
        task = await client.task("two")
        found = await client.until(task, "input_required")
        while len(found["inputRequests"]) < 2:
            found = await client.get(task)
        name, confirm = found["inputRequests"]
        await client.update(task, {name: accept(name="Ann")})
        left = await client.get(task)
        assert (left["status"], list(left["inputRequests"])) == ("input_required", [confirm])
        await client.update(task, {confirm: {"action": "decline"}, name: accept(name="Bob")})
        done = await client.until(task, "completed")
    assert done["result"]["content"][0]["text"] == "name: accept, confirm: decline"


async def test_one_bad_answer_of_two_records_none() -> None:
    """A request is taken whole or not at all."""
    async with tasks_of() as (engine, client, _):
        task = await client.task("two")
        found = await client.until(task, "input_required")
        while len(found["inputRequests"]) < 2:
            found = await client.get(task)
        name, confirm = found["inputRequests"]
        both = {name: accept(name="Ann"), confirm: accept(confirm="yes")}
        assert (await client.error("tasks/update", {"taskId": task, "inputResponses": both}))["code"] == -32602
        assert await answers(engine, task) == []


async def test_what_a_function_asks_is_answered_in_its_own_words() -> None:
    """`ctx.elicit` in a task gives accept with the content, or decline."""
    async with tasks_of() as (_, client, _):
        for response in (accept(why="me"), {"action": "decline"}):
            task = await client.task("asks")
            (key,) = (await client.until(task, "input_required"))["inputRequests"]
            await client.update(task, {key: response})
            assert (await client.until(task, "completed"))["result"]["structuredContent"] == response


@covers("MCP-EXT-TASKS-draft tasks#task-creation")
async def test_what_is_asked_before_a_task_is_asked_of_the_call() -> None:
    """The first answer is input_required without a task; the second call makes the task, with the answer in it."""
    async with tasks_of() as (engine, client, _):
        first = await client.call("greet")
        assert (first["resultType"], "taskId" in first) == ("input_required", False)
        assert (await engine.runs.list(meshes.LOCAL, RunFilter())).total == 0
        again = {"inputResponses": {"user_name": accept(name="Ann")}, "requestState": first["requestState"]}
        second = await client.result("tools/call", {"name": "greet", "arguments": {}, **again})
        if second["resultType"] == "task":
            assert not {"requestState", "inputRequests"} & set(second)
            second = (await client.until(second["taskId"], "completed"))["result"]
        assert second["content"][0]["text"] == "Hello, Ann!"


async def test_a_client_that_shows_no_forms_is_not_asked() -> None:
    """The task works on, and says that it waits for somebody; who can, answers."""
    async with tasks_of() as (engine, client, _):
        can: dict[str, Any] = {"extensions": {EXTENSION: {}}}
        task = await client.task("review", {"text": "hello"}, can=can)
        found = await client.get(task, can=can)
        while "waits for a person" not in found.get("statusMessage", ""):
            found = await client.get(task, can=can)
        assert found["status"] == "working"
        assert "inputRequests" not in found
        assert (await client.get(task, can={**can, "elicitation": {"url": {}}}))["status"] == "working"
        assert (await client.get(task))["status"] == "input_required"
        await engine.runs.answer(meshes.LOCAL, task)
        assert (await client.until(task, "completed", can=can))["status"] == "completed"


async def test_nobody_approves_what_they_asked_for() -> None:
    """The caller's own approval is no input of the caller's, and its answer is ignored; somebody else's goes on."""
    policy = PolicyFile.model_validate({"name": "all", "rules": [{"allow": "*"}]})
    async with tasks_of(mesh((policy,))) as (engine, _, url), client_of(url, "ann") as ann:
        task = await ann.task("review", {"text": "hello"})
        found = await ann.get(task)
        while "waits for a person" not in found.get("statusMessage", ""):
            found = await ann.get(task)
        assert (found["status"], "inputRequests" in found) == ("working", False)
        (question,) = await engine.runs.questions(Principal("ann"), task)
        guessed = f"{task}/{question.id}/{question.digest[:16]}"
        await ann.update(task, {guessed: {"action": "accept"}})
        assert await answers(engine, task) == []
        await engine.runs.answer(meshes.LOCAL, task)
        assert (await ann.until(task, "completed"))["result"]["structuredContent"] == {"sent": True}


async def test_a_run_within_a_run_asks_too() -> None:
    """Its question is the outer task's input."""
    async with tasks_of() as (_, client, _):
        task = await client.task("outer", {"text": "hello"})
        found = await client.until(task, "input_required", "completed")
        (key,) = found["inputRequests"]
        await client.update(task, {key: {"action": "accept"}})
        done = await client.until(task, "completed")
        assert "inputRequests" not in done
        assert done["result"]["structuredContent"] == {"sent": True}


async def test_a_signal_is_nobodys_input() -> None:
    """A run that waits for a signal works, as far as its client goes."""
    async with tasks_of() as (engine, client, _):
        task = await client.task("hear", {"text": "hello"})
        assert (await client.get(task))["status"] == "working"
        await engine.runs.signal(meshes.LOCAL, task, "go")
        await client.until(task, "completed")


async def test_a_client_without_tasks_comes_again() -> None:
    """input_required with a sealed state; the next round goes on with the same run."""
    async with tasks_of() as (engine, client, _):
        params = {"name": "review", "arguments": {"text": "hello"}}
        first = await client.result("tools/call", params, can=FORMS)
        assert first["resultType"] == "input_required"
        ((key, request),) = first["inputRequests"].items()
        assert request["params"]["message"].startswith("Send it?\n\ntext: hello\n")
        run = await only_run(engine)
        assert run.id not in first["requestState"]
        again = {**params, "requestState": first["requestState"]}
        second = await client.result("tools/call", again, can=FORMS)
        assert second["resultType"] == "input_required"
        last = await client.result(
            "tools/call",
            {**again, "requestState": second["requestState"], "inputResponses": {key: {"action": "accept"}}},
            can=FORMS,
        )
        assert last["structuredContent"] == {"sent": True}
        assert (await only_run(engine)).state is RunState.COMPLETED


async def test_a_client_without_tasks_that_cannot_be_asked_waits() -> None:
    """The call stays open until somebody else answers."""
    async with tasks_of() as (engine, client, _), anyio.create_task_group() as group:
        found: list[Any] = []

        async def call() -> None:
            found.append(await client.call("review", {"text": "hello"}, can={}))

        group.start_soon(call)
        with anyio.fail_after(5):
            while not (await engine.runs.list(meshes.LOCAL, RunFilter(states=(RunState.INPUT_REQUIRED,)))).runs:
                await anyio.lowlevel.checkpoint()
        await engine.runs.answer(meshes.LOCAL, (await only_run(engine)).id)
    assert found[0]["structuredContent"] == {"sent": True}


@pytest.mark.parametrize("action", ["accept", "decline"])
async def test_an_older_client_is_asked_while_it_waits(action: Any) -> None:
    """elicitation/create on the stream of the call, whose answer is the person's: the run is no other."""
    asked: list[Any] = []

    async def elicit(context: Any, params: Any) -> mcp_types.ElicitResult:
        asked.append(params)
        return mcp_types.ElicitResult(action=action, content={} if action == "accept" else None)

    async with (
        tasks_of() as (engine, _, url),
        SdkClient(f"{url}", mode="legacy", elicitation_callback=elicit) as older,
    ):
        result = await older.call_tool("review", {"text": "hello"})
        run = await only_run(engine)
    assert asked[0].message.startswith("Send it?\n\ntext: hello\n")
    assert len(asked) == 1
    if action == "accept":
        assert result.structured_content == {"sent": True}
        assert run.state is RunState.COMPLETED
    else:
        assert result.is_error is True
        assert run.state is RunState.FAILED


async def test_two_callers_each_answer_their_own() -> None:
    """The same tool, called by two at once: each sees its own question and nothing of the other's."""
    policy = PolicyFile.model_validate({"name": "all", "rules": [{"allow": "*"}]})
    async with (
        tasks_of(mesh((policy,))) as (_, _, url),
        client_of(url, "ann") as ann,
        client_of(url, "bob") as bob,
    ):
        keys: dict[str, str] = {}
        tasks: dict[str, str] = {}
        for who, client in (("ann", ann), ("bob", bob)):
            tasks[who] = await client.task("asks")
            (keys[who],) = (await client.until(tasks[who], "input_required"))["inputRequests"]
        assert (await bob.error("tasks/update", update(tasks["ann"], keys["ann"])))["code"] == -32602
        await bob.update(tasks["bob"], {keys["ann"]: accept(why="not mine"), keys["bob"]: accept(why="mine")})
        assert (await ann.get(tasks["ann"]))["status"] == "input_required"
        await ann.update(tasks["ann"], {keys["ann"]: accept(why="Ann's")})
        for who, client, why in (("ann", ann, "Ann's"), ("bob", bob, "mine")):
            found = await client.until(tasks[who], "completed")
            assert found["result"]["structuredContent"] == accept(why=why)


def update(task: str, key: str) -> dict[str, Any]:
    return {"taskId": task, "inputResponses": {key: accept(why="stolen")}}


async def test_both_ways_of_asking_are_one_question() -> None:
    """What a client without tasks was asked can be answered by the task's id, and the waiting call goes on with it."""
    async with tasks_of() as (engine, client, _):
        params = {"name": "fill", "arguments": {"text": "hello"}}
        first = await client.result("tools/call", params, can=FORMS)
        task = (await only_run(engine)).id
        (key,) = (await client.get(task, can=KNOWS))["inputRequests"]
        await client.update(task, {key: accept(why="by the task")})
        last = await client.result("tools/call", {**params, "requestState": first["requestState"]}, can=FORMS)
        assert last["resultType"] == "complete"
        assert (await only_run(engine)).state is RunState.COMPLETED


async def test_forty_answers_at_once_are_one() -> None:
    """All are acknowledged, the first counts, and the function hears one of them, whole."""
    async with tasks_of() as (engine, client, _):
        task = await client.task("asks")
        (key,) = (await client.until(task, "input_required"))["inputRequests"]
        acknowledged: list[Any] = []

        async def one(n: int) -> None:
            acknowledged.append(await client.update(task, {key: accept(why=str(n))}))

        async with anyio.create_task_group() as group:
            for n in range(40):
                group.start_soon(one, n)
        assert acknowledged == [{"resultType": "complete"}] * 40
        done = await client.until(task, "completed")
        (given,) = await answers(engine, task)
    assert done["result"]["structuredContent"] == {"action": "accept", "content": given["value"]}


async def test_depth_and_numbers_of_answers_are_looked_at() -> None:
    """JSON that is JSON only to Python, or nested past the limit, is refused."""
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    async with tasks_of() as (_, client, _):
        task = await client.task("fill", {"text": "hello"})
        (key,) = (await client.until(task, "input_required"))["inputRequests"]
        error = await client.error("tasks/update", {"taskId": task, "inputResponses": {key: accept(why=deep)}})
        assert error["code"] == -32602
        assert "nested" in error["message"]
