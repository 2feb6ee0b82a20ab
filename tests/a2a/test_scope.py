"""Tasks of another caller or tenant: in every operation and both bindings they answer exactly like those that never were."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agentmesh.core.policy import PolicyFile
from agentmesh.engine.push import PushPorts
from tests.a2a.calling import BINDINGS, call, request, sent
from tests.a2a.conftest import Serving, serving_mesh, skills_mesh
from tests.a2a.test_waiting import asking_mesh
from tests.requirements import covers

pytestmark = pytest.mark.anyio

OWNER, NEIGHBOUR, STRANGER = "acme/ann", "acme/bob", "other/ann"
NEVER = "00000000-0000-7000-8000-000000000000"


class Hooks:
    """Webhooks that take every address and are sent nothing."""

    def check(self, url: str) -> None:
        """Every url will do."""

    async def post(self, url: str, headers: Any, body: bytes) -> tuple[int, str | None]:
        return 204, None


class Open:
    """A seal that hides nothing."""

    def seal(self, scope: str, key: str, value: Any) -> str:
        import json

        return json.dumps(dict(value))

    def open(self, scope: str, key: str, box: str) -> Any:
        import json

        return json.loads(box)


PORTS = PushPorts(Hooks(), Open(), (b"k" * 32,))


def about(task: str) -> list[tuple[str, dict[str, Any]]]:
    """Every operation that names a task."""
    config = {"taskId": task, "id": "c1"}
    return [
        ("GetTask", {"id": task}),
        ("GetTask", {"id": task, "historyLength": 3}),
        ("CancelTask", {"id": task}),
        ("SubscribeToTask", {"id": task}),
        ("SendMessage", sent("yes", taskId=task)),
        ("SendMessage", sent("yes", taskId=task, contextId="ctx")),
        ("SendMessage", sent("yes", taskId=task, contextId="wrong")),
        ("SendMessage", sent("yes", taskId=task, metadata={"urn:agentmesh:a2a:answer:1": {"question": "ok#1"}})),
        ("SendMessage", sent("go", taskId=task, metadata={"urn:agentmesh:a2a:signal:1": {"name": "go"}})),
        ("SendStreamingMessage", sent("yes", taskId=task)),
        ("CreateTaskPushNotificationConfig", {"taskId": task, "url": "https://example.org/x"}),
        ("GetTaskPushNotificationConfig", config),
        ("ListTaskPushNotificationConfigs", {"taskId": task}),
        ("DeleteTaskPushNotificationConfig", config),
    ]


async def bytes_of(
    on: Serving, binding: str, method: str, params: dict[str, Any], who: str, task: str
) -> tuple[Any, ...]:
    answer = await on.http.send(request(on, binding, method, params, None, {"X-Who": who}))
    kept = {k: v for k, v in answer.headers.items() if k not in ("date", "content-length")}
    return answer.status_code, kept, answer.content.replace(task.encode(), b"ID")


@covers("A2A-1.0.1 13.1#scope")
@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("who", [NEIGHBOUR, STRANGER])
async def test_what_is_somebody_elses_is_like_what_never_was(binding: str, who: str) -> None:
    """Byte for byte but for the id: the status, the headers, the body."""
    async with serving_mesh(asking_mesh(), push=PORTS) as on:
        mine = {"X-Who": OWNER}
        started = await call(
            on, binding, "SendMessage", sent(contextId="ctx", metadata={"skill": "review"}), headers=mine
        )
        task = started.result["task"]["id"]
        hook = {"taskId": task, "id": "c1", "url": "https://example.org/hook"}
        assert (await call(on, binding, "CreateTaskPushNotificationConfig", hook, headers=mine)).result["id"] == "c1"
        for (method, params), (_, absent) in zip(about(task), about(NEVER), strict=True):
            theirs = await bytes_of(on, binding, method, params, who, task)
            nobodys = await bytes_of(on, binding, method, absent, who, NEVER)
            assert theirs == nobodys, method
            assert b"TASK_NOT_FOUND" in theirs[2], method
        for params in ({}, {"contextId": "ctx"}, {"status": "TASK_STATE_INPUT_REQUIRED"}, {"includeArtifacts": True}):
            listed = await call(on, binding, "ListTasks", params, headers={"X-Who": who})
            assert (listed.result["tasks"], listed.result["totalSize"]) == ([], 0)
        still = await call(on, binding, "GetTask", {"id": task}, headers=mine)
        assert still.result["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        configs = await call(on, binding, "ListTaskPushNotificationConfigs", {"taskId": task}, headers=mine)
        assert [one["id"] for one in configs.result["configs"]] == ["c1"]


@covers("A2A-1.0.1 13.1#scope")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_context_of_somebody_else_is_like_a_new_one(binding: str) -> None:
    """It may be named; nothing of what was said in it is there, and the owner does not see the new task."""
    async with serving_mesh(skills_mesh()) as on:
        await call(on, binding, "SendMessage", sent(contextId="ctx"), headers={"X-Who": OWNER})
        shapes = []
        for context in ("ctx", "new"):
            answer = await call(on, binding, "SendMessage", sent(contextId=context), headers={"X-Who": NEIGHBOUR})
            shapes.append(
                re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[\d:.]+Z", "X", str(answer.result)).replace(
                    context, "C"
                )
            )
        assert shapes[0] == shapes[1]
        listed = await call(on, binding, "ListTasks", {"contextId": "ctx"}, headers={"X-Who": OWNER})
        assert listed.result["totalSize"] == 1


@covers("A2A-1.0.1 3.3.2#authorization")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_what_a_policy_denies(binding: str) -> None:
    """-32000 and 403 with PERMISSION_DENIED, before anything is started."""
    rules = PolicyFile.model_validate({"rules": [{"allow": "*"}, {"deny": "agents.send", "on": ["agent:shout"]}]})
    async with serving_mesh(skills_mesh(policies=(rules,))) as on:
        denied = await call(on, binding, "SendMessage", sent(metadata={"skill": "shout"}))
        assert (denied.reason, denied.code) == ("PERMISSION_DENIED", -32000 if binding == "JSONRPC" else 403)
        assert (await call(on, binding, "ListTasks")).result["totalSize"] == 0
