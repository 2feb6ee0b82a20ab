"""gRPC agrees with the other bindings: one request means the same over JSON-RPC, HTTP+JSON and gRPC."""

from __future__ import annotations

import re
from typing import Any

import anyio
import pytest
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.a2a.calling import BINDINGS, Outcome, call, streaming
from tests.a2a.grpc_calling import V1, Calling, message, outcome, served_over_grpc, wire_of
from tests.requirements import covers

pytestmark = pytest.mark.anyio

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
REASONS_OF_STATUS = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "PERMISSION_DENIED": 403}

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
PARTS = st.one_of(
    st.builds(lambda text: {"text": text}, TEXTS),
    st.builds(lambda data: {"data": data}, JSON),
    st.just({"raw": "aGk=", "mediaType": "image/png", "filename": "hi.png"}),
    st.builds(lambda url: {"url": url, "mediaType": "text/plain"}, TEXTS),
    st.just({}),
)
MESSAGES = st.fixed_dictionaries(
    {"parts": st.lists(PARTS, max_size=3)},
    optional={
        "messageId": TEXTS,
        "role": st.sampled_from(["ROLE_USER", "ROLE_AGENT", "ROLE_UNSPECIFIED"]),
        "contextId": TEXTS,
        "taskId": TEXTS,
        "metadata": st.dictionaries(TEXTS | st.sampled_from(["skill"]), JSON, max_size=2),
        "extensions": st.lists(TEXTS, max_size=2),
        "referenceTaskIds": st.lists(TEXTS, max_size=2),
    },
)
PARAMS = st.fixed_dictionaries(
    {"message": MESSAGES},
    optional={
        "configuration": st.fixed_dictionaries(
            {},
            optional={
                "acceptedOutputModes": st.lists(
                    st.sampled_from(["text/plain", "application/json", "image/png", "*/*"]), max_size=2
                ),
                "historyLength": st.integers(-1, 3),
                "returnImmediately": st.booleans(),
            },
        ),
        "metadata": st.dictionaries(TEXTS, JSON, max_size=1),
    },
)


def bare(value: Any) -> Any:
    """Without what two runs of one request differ in, ids and moments, and with every number a double."""
    if isinstance(value, str):
        return STAMP.sub("NOW", ID.sub("ID", value))
    if isinstance(value, dict):
        return {bare(key): bare(member) for key, member in value.items() if member not in ("", [], {}) or key == "data"}
    if isinstance(value, list):
        return [bare(member) for member in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def said(outcome: Outcome) -> Any:
    """What both say in their own ways: a result, or a reason and a sentence."""
    return bare(outcome.result) if outcome.reason is None else (outcome.reason, bare(outcome.message))


def spelled(value: Any, model: Any) -> Any:
    """JSON as protobuf spells it: moments without the zeros at their end."""
    return MessageToDict(ParseDict(value, model()))


async def everywhere(made: Calling, method: str, params: dict[str, Any]) -> list[Outcome]:
    """The same request over each binding."""
    found = [await call(made.on, binding, method, params) for binding in BINDINGS]
    return [*found, await made.call(method, params)]


@pytest.mark.parametrize("skill", ["shout", "broken"])
async def test_get_task_is_the_same_task(skill: str) -> None:
    """To the last field, whichever binding it was begun in."""
    async with served_over_grpc() as made:
        sent = [
            (await call(made.on, "JSONRPC", "SendMessage", message(skill=skill))).result["task"]["id"],
            (await made.call("SendMessage", message(skill=skill))).result["task"]["id"],
        ]
        for ident in sent:
            first, *others = [spelled(one.result, pb.Task) for one in await everywhere(made, "GetTask", {"id": ident})]
            for other in others:
                assert other == first
        assert first["status"]["state"] == ("TASK_STATE_COMPLETED" if skill == "shout" else "TASK_STATE_FAILED")


async def test_list_tasks_is_the_same_page() -> None:
    """With its tokens and totals."""
    async with served_over_grpc() as made:
        for _ in range(3):
            await made.call("SendMessage", message(contextId="c"))
        params = {"contextId": "c", "pageSize": 2, "includeArtifacts": True, "historyLength": 1}
        pages = await everywhere(made, "ListTasks", params)
        first, *others = [spelled(one.result, pb.ListTasksResponse) for one in pages]
        assert (first["totalSize"], len(first["tasks"]), bool(first["nextPageToken"])) == (3, 2, True)
        for other in others:
            assert other == first


async def test_a_task_may_be_begun_in_one_binding_and_ended_in_another() -> None:
    """It is one task."""
    async with served_over_grpc() as made:
        begun = await made.call("SendMessage", message(skill="gate") | {"configuration": {"returnImmediately": True}})
        ident = begun.result["task"]["id"]
        gone = await call(made.on, "HTTP+JSON", "CancelTask", {"id": ident})
        again = await everywhere(made, "CancelTask", {"id": ident})
    assert gone.result["status"]["state"] == "TASK_STATE_CANCELED"
    assert {one.reason for one in again} == {"TASK_NOT_CANCELABLE"}
    assert len({one.message for one in again}) == 1


@covers("A2A-1.0.1 10.7#streaming")
async def test_streams_show_the_same_events() -> None:
    """In the same order, with the same ids."""
    async with served_over_grpc() as made:
        begun = await made.call("SendMessage", message(skill="gate") | {"configuration": {"returnImmediately": True}})
        ident = begun.result["task"]["id"]
        await made.on.gate.reached.wait()
        seen: dict[str, list[Any]] = {}

        async def over_http(binding: str) -> None:
            async with streaming(made.on, binding, "SubscribeToTask", {"id": ident}) as events:
                seen[binding] = []
                async for event in events:
                    seen[binding].append(spelled(event, pb.StreamResponse))

        async def over_grpc() -> None:
            stream = made.stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=ident), metadata=V1, timeout=10)
            seen["GRPC"] = []
            async for event in stream:
                seen["GRPC"].append(MessageToDict(event))

        async with anyio.create_task_group() as group:
            for binding in BINDINGS:
                group.start_soon(over_http, binding)
            group.start_soon(over_grpc)
            with anyio.fail_after(5):
                while len(seen) < 3 or not all(seen.values()):
                    await anyio.lowlevel.checkpoint()
            made.on.gate.go.set()
    first, *others = seen.values()
    assert first[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
    for other in others:
        assert other == first


@covers("A2A-1.0.1 10.4#methods")
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(many=st.lists(PARAMS, min_size=12, max_size=12))
async def test_any_message_means_the_same(many: list[dict[str, Any]]) -> None:
    """What JSON and protobuf can both say is answered alike, and is never a fault of the server."""
    async with served_over_grpc() as made:
        made.on.gate.go.set()
        for params in many:
            try:
                wire = ParseDict(params, pb.SendMessageRequest())
            except ParseError:
                continue
            first, second, third = await everywhere(made, "SendMessage", MessageToDict(wire))
            assert "INTERNAL_ERROR" not in {first.reason, second.reason, third.reason}
            assert said(first) == said(second) == said(third)
            if third.reason is not None:
                assert REASONS_OF_STATUS[third.details["status"]] == second.status


WHOLE = bytes(wire_of(message()).SerializeToString())
BODIES = st.binary(max_size=60) | st.builds(lambda cut: WHOLE[:cut] + WHOLE[cut + 1 :], st.integers(0, len(WHOLE)))
METHODS = st.sampled_from(
    [
        "SendMessage", "GetTask", "ListTasks", "CancelTask", "CreateTaskPushNotificationConfig",
        "GetTaskPushNotificationConfig", "DeleteTaskPushNotificationConfig", "GetExtendedAgentCard",
    ]
)  # fmt: skip
OF_03 = {"ListTasks": "ListTaskPushNotificationConfig", "GetExtendedAgentCard": "GetAgentCard"}


@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(many=st.lists(st.tuples(METHODS, BODIES), min_size=40, max_size=40))
async def test_any_bytes_are_the_callers(many: list[tuple[str, bytes]]) -> None:
    """Whatever comes, in either version, is answered or refused, and never INTERNAL or UNKNOWN."""
    async with served_over_grpc() as made:
        for method, body in many:
            legacy = made.channel.unary_unary(f"/a2a.v1.A2AService/{OF_03.get(method, method)}")
            for seen in (await made.raw(body, method), await outcome(legacy(body, timeout=10))):
                assert seen.status == 0 or seen.details["status"] not in {"INTERNAL", "UNKNOWN", "UNIMPLEMENTED"}, seen
