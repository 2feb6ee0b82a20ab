"""Push notification configurations over the wire; their delivery is tests/engine's and tests/faults'."""

from __future__ import annotations

import pytest

from tests.a2a.calling import BINDINGS, call, sent
from tests.a2a.conftest import serving_mesh
from tests.a2a.test_scope import PORTS
from tests.a2a.test_waiting import asking_mesh
from tests.requirements import covers

pytestmark = pytest.mark.anyio

HOOK = "https://hooks.example.org/a"


@covers("A2A-1.0.1 3.1.7#push-config", "A2A-1.0.1 3.1.8#absent")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_made_read_listed_and_deleted(binding: str) -> None:
    """An id is made where none is given; credentials are not shown; deleting twice is deleting once."""
    async with serving_mesh(asking_mesh(), push=PORTS) as on:
        task = (await call(on, binding, "SendMessage", sent(metadata={"skill": "review"}))).result["task"]["id"]
        secret = {"authentication": {"scheme": "Bearer", "credentials": "s3cret"}, "token": "tok"}
        asked = {"taskId": task, "id": "c1", "url": HOOK, **secret}
        made = await call(on, binding, "CreateTaskPushNotificationConfig", asked)
        assert made.result == {
            "id": "c1",
            "taskId": task,
            "url": HOOK,
            "token": "tok",
            "authentication": {"scheme": "Bearer"},
        }
        other = await call(on, binding, "CreateTaskPushNotificationConfig", {"taskId": task, "url": HOOK + "2"})
        assert other.result["id"]
        one = await call(on, binding, "GetTaskPushNotificationConfig", {"taskId": task, "id": "c1"})
        assert one.result == made.result
        listed = await call(on, binding, "ListTaskPushNotificationConfigs", {"taskId": task})
        assert {config["id"] for config in listed.result["configs"]} == {"c1", other.result["id"]}
        for _ in range(2):
            gone = await call(on, binding, "DeleteTaskPushNotificationConfig", {"taskId": task, "id": "c1"})
            assert gone.result == (None if binding == "JSONRPC" else {})
        absent = await call(on, binding, "GetTaskPushNotificationConfig", {"taskId": task, "id": "c1"})
        assert absent.reason == "TASK_NOT_FOUND"
        for wrong in (
            {"taskId": task},
            {"taskId": task, "url": HOOK, "authentication": {"credentials": "x"}},
            {"taskId": task, "url": 5},
        ):
            assert (await call(on, binding, "CreateTaskPushNotificationConfig", wrong)).reason == "INVALID_PARAMS", (
                wrong
            )
        unknown = await call(on, binding, "CreateTaskPushNotificationConfig", {"taskId": "no-such", "url": HOOK})
        assert unknown.reason == "TASK_NOT_FOUND"


@covers("A2A-1.0.1 3.1.7#push-config")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_one_that_comes_with_its_message(binding: str) -> None:
    """It is the task's from the start; a wrong one is refused before anything is started."""
    async with serving_mesh(asking_mesh(), push=PORTS) as on:
        hook = {"url": HOOK, "id": "mine"}
        params = {**sent(metadata={"skill": "review"}), "configuration": {"taskPushNotificationConfig": hook}}
        task = (await call(on, binding, "SendMessage", params)).result["task"]["id"]
        listed = await call(on, binding, "ListTaskPushNotificationConfigs", {"taskId": task})
        assert [(c["id"], c["url"]) for c in listed.result["configs"]] == [("mine", HOOK)]
        bad = {
            **sent(metadata={"skill": "review"}),
            "configuration": {"taskPushNotificationConfig": {**hook, "id": "a/b"}},
        }
        assert (await call(on, binding, "SendMessage", bad)).reason == "INVALID_PARAMS"
        assert (await call(on, binding, "ListTasks")).result["totalSize"] == 1


@covers("A2A-1.0.1 3.3.4#capabilities")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_where_none_are_sent_each_operation_says_so(binding: str) -> None:
    """Before it is looked whether the task is there."""
    async with serving_mesh(asking_mesh()) as on:
        config = {"taskId": "x", "id": "c"}
        for method, params in (
            ("CreateTaskPushNotificationConfig", {"taskId": "x", "url": HOOK}),
            ("GetTaskPushNotificationConfig", config),
            ("ListTaskPushNotificationConfigs", {"taskId": "x"}),
            ("DeleteTaskPushNotificationConfig", config),
            ("SendMessage", {**sent(), "configuration": {"taskPushNotificationConfig": {"url": HOOK}}}),
        ):
            refused = await call(on, binding, method, params)
            assert refused.reason == "PUSH_NOTIFICATION_NOT_SUPPORTED", method
            assert refused.code == (-32003 if binding == "JSONRPC" else 400)
        assert (await call(on, binding, "ListTasks")).result["totalSize"] == 0
