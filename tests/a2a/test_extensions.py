"""Extensions and versions: what a client declares, what is required, what is in use."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_peer import MemoryPeer
from agentmesh.core.agent import IDEMPOTENCY, Agent, Extension
from agentmesh.core.mesh import Mesh
from tests.a2a.calling import BINDINGS, V, call, events_of, sent
from tests.a2a.conftest import Serving, serving_mesh, skills_mesh
from tests.a2a.test_addresses import echo
from tests.a2a.test_waiting import asking_mesh
from tests.requirements import covers

pytestmark = pytest.mark.anyio

SKILL, ANSWER = "urn:agentmesh:a2a:skill:1", "urn:agentmesh:a2a:answer:1"


def configured(**a2a: Any) -> Mesh:
    """The mesh of `skills_mesh` with this under `a2a:`."""
    found = skills_mesh()
    found.file = found.file.model_copy(update={"a2a": found.file.a2a.model_copy(update=a2a)})
    return found


def declare(*lists: str) -> dict[str, str]:
    return {"A2A-Extensions": ", ".join(lists)}


@covers("A2A-1.0.1 4.6.1#activation", "A2A-1.0.1 4.6.3#unsupported")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_extensions_in_use_are_named_in_the_response(binding: str) -> None:
    """Of those that were asked for; unknown ones are ignored, and nothing is said where none is in use."""
    async with serving_mesh() as on:
        asked = declare("urn:nobody:1", SKILL, f"{ANSWER},urn:other:2")
        for method, params in (("SendMessage", sent()), ("ListTasks", {})):
            answer = await call(on, binding, method, params, headers=asked)
            assert answer.reason is None
            assert answer.headers["a2a-extensions"].split(", ") == sorted([SKILL, ANSWER])
        plain = await call(on, binding, "SendMessage", sent(), headers=declare("urn:nobody:1"))
        assert "a2a-extensions" not in plain.headers
        path = "/a2a" if binding == "JSONRPC" else "/a2a/message:stream"
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": sent()}
        async with on.http.stream(
            "POST", path, json=body if binding == "JSONRPC" else sent(), headers={**V, **asked}
        ) as got:
            assert got.headers["a2a-extensions"].split(", ") == sorted([SKILL, ANSWER])


@covers("A2A-1.0.1 3.2.6#service-parameters")
async def test_lists_of_extensions_may_be_one_header_or_several(on: Serving) -> None:
    """Names of headers in any case, spaces and empty entries between."""
    several = [*V.items(), ("a2a-extensions", f"{SKILL} ,,"), ("A2A-EXTENSIONS", ANSWER)]
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": sent()}
    answer = await on.http.post("/a2a", json=body, headers=several)
    assert answer.headers["a2a-extensions"] == ", ".join(sorted([SKILL, ANSWER]))


@covers("A2A-1.0.1 3.3.4#extensions")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_required_extension_has_to_be_declared(binding: str) -> None:
    """On sends, before anything is started; reading needs none. One that this agent does not know cannot be required."""
    async with serving_mesh(configured(required_extensions=[IDEMPOTENCY, "urn:nobody:1"])) as on:
        for lists in ((), ("urn:nobody:1",), (SKILL,), (IDEMPOTENCY.upper(),)):
            for method in ("SendMessage", "SendStreamingMessage"):
                refused = await call(on, binding, method, sent(), headers=declare(*lists))
                assert refused.reason == "EXTENSION_SUPPORT_REQUIRED"
                assert refused.code == (-32008 if binding == "JSONRPC" else 400)
                assert IDEMPOTENCY in refused.message
        assert (await call(on, binding, "ListTasks")).result["tasks"] == []
        done = await call(on, binding, "SendMessage", sent(), headers=declare(IDEMPOTENCY))
        assert done.headers["a2a-extensions"] == IDEMPOTENCY
        follow = await call(on, binding, "SendMessage", sent(taskId=done.result["task"]["id"]))
        assert follow.reason == "EXTENSION_SUPPORT_REQUIRED"


@pytest.mark.parametrize("binding", BINDINGS)
async def test_what_an_agent_elsewhere_requires_is_required_at_its_address(binding: str) -> None:
    """And in use when it is declared."""

    class Strict(MemoryPeer):
        def agent(self) -> Agent | None:
            known = super().agent()
            assert known is not None
            return Agent(
                known.name, known.title, known.description, known.skills, peer=True,
                extensions=(Extension("urn:theirs:1", required=True), Extension("urn:theirs:2")),
            )  # fmt: skip

    peer = Strict("billing", echo)
    async with serving_mesh(peers=[peer]) as on:
        refused = await call(on, binding, "SendMessage", sent(), agent="billing")
        assert (refused.reason, "urn:theirs:1" in refused.message) == ("EXTENSION_SUPPORT_REQUIRED", True)
        asked = declare("urn:theirs:1", "urn:theirs:2", "urn:theirs:3")
        done = await call(on, binding, "SendMessage", sent(), agent="billing", headers=asked)
        assert done.result["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
        assert done.headers["a2a-extensions"] == "urn:theirs:1, urn:theirs:2"
        assert set(peer.calls[0].extensions) == {"urn:theirs:1", "urn:theirs:2", "urn:theirs:3"}


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_message_sent_twice_is_one_task_where_the_client_says_so(binding: str) -> None:
    """Twenty at once are one task; another body under the same id is an error; without the extension each is a task of its own."""
    async with serving_mesh() as on:
        ids: list[str] = []

        async def send() -> None:
            answer = await call(on, binding, "SendMessage", sent("once"), headers=declare(IDEMPOTENCY))
            ids.append(answer.result["task"]["id"])

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(send)
        assert len(set(ids)) == 1
        other = await call(on, binding, "SendMessage", sent("twice"), headers=declare(IDEMPOTENCY))
        assert (other.reason, "messageId" in other.message) == ("UNSUPPORTED_OPERATION", True)
        plain = [(await call(on, binding, "SendMessage", sent("once"))).result["task"]["id"] for _ in range(2)]
        assert len({*plain, ids[0]}) == 3
        again = await events_of(on, binding, "SendStreamingMessage", sent("once"), headers=declare(IDEMPOTENCY))
        assert again[0]["task"]["id"] == ids[0]
        theirs = await call(
            on, binding, "SendMessage", sent("other"), headers={**declare(IDEMPOTENCY), "X-Who": "a/eve"}
        )
        assert theirs.result["task"]["id"] != ids[0]


@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_answer_sent_twice_is_one_answer_where_the_client_says_so(binding: str) -> None:
    """The task as it stands by then; another body under the same id is an error. Without the extension the task asks nothing any more."""
    async with serving_mesh(asking_mesh()) as on:
        task = (await call(on, binding, "SendMessage", sent(metadata={"skill": "review"}))).result["task"]["id"]
        answer = sent("yes", taskId=task, messageId="answer")
        for _ in range(3):
            done = await call(on, binding, "SendMessage", answer, headers=declare(IDEMPOTENCY))
            assert done.result["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
            assert [m["messageId"] for m in done.result["task"]["history"]] == ["m", "answer"]
        other = await call(
            on,
            binding,
            "SendMessage",
            {"message": {**answer["message"], "parts": [{"text": "no"}]}},
            headers=declare(IDEMPOTENCY),
        )
        assert (other.reason, "another message" in other.message) == ("UNSUPPORTED_OPERATION", True)
        plain = await call(on, binding, "SendMessage", answer)
        assert (plain.reason, "completed" in plain.message) == ("UNSUPPORTED_OPERATION", True)


@covers("A2A-1.0.1 3.6.2#no-version")
async def test_an_operator_may_leave_0_3_out() -> None:
    """Then no version at all is one that is not offered, in both bindings."""
    async with serving_mesh(configured(versions=["1.0"])) as on:
        for headers in ({}, {"A2A-Version": ""}, {"A2A-Version": "0.3"}):
            rpc = await on.http.post("/a2a", json={"jsonrpc": "2.0", "id": 1, "method": "tasks/get"}, headers=headers)
            assert rpc.json()["error"]["code"] == -32009
            for path in ("/a2a/tasks", "/a2a/v1/tasks/x"):
                rest = await on.http.get(path, headers=headers)
                assert (rest.status_code, rest.json()["error"]["details"][0]["reason"]) == (
                    400,
                    "VERSION_NOT_SUPPORTED",
                )
        assert (await call(on, "HTTP+JSON", "ListTasks")).result["tasks"] == []
