"""What an own skill is sent and gives: files, replies by message, conversations, artifacts as they come."""

from __future__ import annotations

from typing import Any

import pytest

from agentmesh.core.agent import ROUTE
from tests.a2a.calling import BINDINGS, call, events_of, sent
from tests.a2a.conftest import serving_mesh, skills_mesh
from tests.engine.meshes import mesh, workflow
from tests.requirements import covers

pytestmark = pytest.mark.anyio

ANY = {"type": "object"}


def talking_mesh() -> Any:
    """Skills: reply (a message), maybe (a message when asked for one), fails and asks (meant to reply), files, before."""
    ask = {"id": "a", "approve": {"ask": "Really?"}}
    parts = {"id": "a", "set": {"parts": "${{ context.message.parts }}"}}
    before = {"id": "a", "set": {"before": "${{ context.messages.map(m, m.role + ': ' + m.text) }}"}}
    text = {"id": "a", "set": "${{ 'you said ' + input.text }}"}
    return mesh(
        workflow("reply", text, on={"a2a": {"reply": True}}),
        workflow("maybe", text, on={"a2a": {"reply": "${{ input.text.startsWith('quick') }}"}}),
        workflow("asks", ask, on={"a2a": {"reply": True}}),
        workflow("fails", {"id": "a", "python": "x:broken", "with": {"text": "x"}, "effect": "read"}, on={"a2a": {"reply": True}}),
        workflow("files", parts, input=ANY, on={"a2a": {"input_modes": ["text/plain", "image/*", "application/json"]}}),
        workflow("before", before, on={"a2a": {}}),
    )  # fmt: skip


def to(skill: str, text: str = "hi", **message: Any) -> dict[str, Any]:
    return sent(text, metadata={"skill": skill}, **message)


@covers("A2A-1.0.1 3.1.1#message", "A2A-1.0.1 3.1.2#message-only")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_skill_that_replies_by_a_message(binding: str) -> None:
    """Alone or by what is asked; a string is its text. What cannot be said by one is a task all the same."""
    async with serving_mesh(talking_mesh()) as on:
        answer = (await call(on, binding, "SendMessage", to("reply"))).result
        assert answer["message"]["parts"] == [{"text": "you said hi", "mediaType": "text/plain"}]
        assert (answer["message"]["role"], bool(answer["message"]["contextId"])) == ("ROLE_AGENT", True)
        events = await events_of(on, binding, "SendStreamingMessage", to("reply"))
        assert [list(event) for event in events] == [["message"]]
        assert "message" in (await call(on, binding, "SendMessage", to("maybe", "quick one"))).result
        assert "task" in (await call(on, binding, "SendMessage", to("maybe", "slow one"))).result
        asked = (await call(on, binding, "SendMessage", to("asks"))).result["task"]
        assert asked["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        done = (await call(on, binding, "SendMessage", sent("yes", taskId=asked["id"]))).result["task"]
        assert done["status"]["state"] == "TASK_STATE_COMPLETED"
        failed = await events_of(on, binding, "SendStreamingMessage", to("fails"))
        assert failed[-1]["task"]["status"]["state"] == "TASK_STATE_FAILED"


@covers("A2A-1.0.1 4.1.6#files", "A2A-1.0.1 3.1.1#content-type")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_files_reach_the_workflow_and_are_not_fetched(binding: str) -> None:
    """With their names and types, as they were sent; a type that the skill does not take is refused."""
    parts = [
        {"text": "look"},
        {"raw": "AP8=", "filename": "a.png", "mediaType": "image/png", "metadata": {"n": 1}},
        {"url": "http://127.0.0.1:9/no-such", "filename": "b.png", "mediaType": "image/png"},
        {"data": {"k": [1, 2.5, None, True]}, "mediaType": "application/json"},
    ]
    async with serving_mesh(talking_mesh()) as on:
        task = (await call(on, binding, "SendMessage", to("files", parts=parts))).result["task"]
        assert task["history"][0]["parts"] == parts
        assert task["artifacts"][0]["parts"][1]["data"]["parts"] == parts
        again = (await call(on, binding, "GetTask", {"id": task["id"]})).result
        assert again["history"] == task["history"]
        for part in (
            {"raw": "AAAA", "mediaType": "application/x-no-such"},
            {"raw": "AAAA"},
            {"text": "x", "mediaType": "audio/x"},
        ):
            refused = await call(on, binding, "SendMessage", to("files", parts=[part]))
            assert refused.reason == "CONTENT_TYPE_NOT_SUPPORTED", part
            assert refused.code == (-32005 if binding == "JSONRPC" else 400)


@covers("A2A-1.0.1 3.4.1#context")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_messages_of_one_context_are_a_conversation(binding: str) -> None:
    """What was said before can be read; a context of its own is made where none is named."""
    async with serving_mesh(talking_mesh()) as on:
        first = (await call(on, binding, "SendMessage", to("before", "one"))).result["task"]
        assert first["contextId"]
        second = (await call(on, binding, "SendMessage", to("before", "two", contextId=first["contextId"]))).result[
            "task"
        ]
        assert (second["contextId"], second["id"] != first["id"]) == (first["contextId"], True)
        said = second["artifacts"][0]["parts"][1]["data"]["before"]
        assert said[0] == "user: one"
        other = (await call(on, binding, "SendMessage", to("before", "three"))).result["task"]
        assert other["artifacts"][0]["parts"][1]["data"]["before"] == []
        assert other["contextId"] != first["contextId"]
        own = await call(on, binding, "SendMessage", to("before", "four", contextId="mine"))
        assert own.result["task"]["contextId"] == "mine"


@covers(
    "A2A-1.0.1 3.4.3#inferred", "A2A-1.0.1 3.4.3#history", "A2A-1.0.1 3.4.2#task-id", "A2A-1.0.1 3.1.1#task-not-found"
)
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_follow_up_belongs_to_its_task(binding: str) -> None:
    """Its context is the task's; it stands in the history with all that it carried; another context is refused."""
    async with serving_mesh(talking_mesh()) as on:
        task = (await call(on, binding, "SendMessage", to("asks"))).result["task"]
        for wrong, reason in (
            ({"contextId": "other", "taskId": task["id"]}, "INVALID_PARAMS"),
            ({"taskId": "mine"}, "TASK_NOT_FOUND"),
            ({"taskId": "00000000-0000-7000-8000-000000000000"}, "TASK_NOT_FOUND"),
        ):
            assert (await call(on, binding, "SendMessage", sent("yes", **wrong))).reason == reason
        extra = {
            "messageId": "m2",
            "taskId": task["id"],
            "metadata": {"k": 1},
            "referenceTaskIds": ["x"],
            "extensions": ["urn:x"],
        }
        done = (await call(on, binding, "SendMessage", sent("yes", **extra))).result["task"]
        assert (done["id"], done["contextId"]) == (task["id"], task["contextId"])
        first, last = done["history"]
        assert first["messageId"] == "m"
        assert last == {
            "messageId": "m2", "role": "ROLE_USER", "parts": [{"text": "yes"}], "metadata": {"k": 1}, "extensions": ["urn:x"],
            "referenceTaskIds": ["x"], "taskId": task["id"], "contextId": task["contextId"],
        }  # fmt: skip


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_skill_may_be_meant_by_its_tags(binding: str) -> None:
    """Under the extension's key, or the bare one; who took the message is shown."""
    async with serving_mesh(skills_mesh(default=None)) as on:
        for key in ("urn:agentmesh:a2a:skill:1", "skill"):
            task = (await call(on, binding, "SendMessage", sent("hi", metadata={key: {"tags": ["text"]}}))).result[
                "task"
            ]
            assert task["artifacts"][0]["parts"][1]["data"] == {"said": "HI", "length": 2}
            assert task["metadata"][ROUTE]["skill"] == "shout"
        nobody = await call(on, binding, "SendMessage", sent("hi", metadata={"skill": {"tags": ["nosuch"]}}))
        assert nobody.result["task"]["status"]["state"] == "TASK_STATE_REJECTED"
