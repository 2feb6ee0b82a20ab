"""A2A over gRPC: versions, what comes in, errors, streams, stopping; the operations themselves are tested over HTTP."""

from __future__ import annotations

import gc
import json
import math
from contextlib import aclosing
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2 as pb03
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict

from agentmesh.a2a.cards import Cards
from agentmesh.a2a.grpc import GrpcEdge
from agentmesh.a2a.operations import Operations
from agentmesh.a2a.server import operations_of
from agentmesh.core.run import RunState
from agentmesh.errors import ServeError
from agentmesh.settings import Limits
from tests.a2a.conftest import serving_mesh
from tests.a2a.grpc_calling import (
    SERVICE,
    V1,
    Calling,
    calling,
    failure,
    message,
    outcome,
    served_over_grpc,
    wire_of,
)
from tests.engine.meshes import LOCAL, mesh, workflow
from tests.requirements import covers

pytestmark = pytest.mark.anyio

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def settled(made: Calling, calls: int = 0) -> None:
    """Until so many calls are open."""
    with anyio.fail_after(5):
        while made.edge.calls != calls:
            await anyio.lowlevel.checkpoint()


async def drained(stream: Any) -> None:
    """Reads to its end."""
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_a_message_is_answered_by_its_skills_output() -> None:
    """The task is complete, and it is a run."""
    async with served_over_grpc() as made:
        done = (await made.call("SendMessage", message("hello", contextId="ctx-1"))).result["task"]
        run = await made.on.engine.runs.get(LOCAL, done["id"])
    assert (done["status"]["state"], done["contextId"]) == ("TASK_STATE_COMPLETED", "ctx-1")
    assert done["artifacts"][0]["parts"][1]["data"] == {"said": "HELLO", "length": 5}
    assert (run.workflow, run.source, run.output) == ("shout", "a2a", {"said": "HELLO", "length": 5})


@covers("A2A-1.0.1 10.2#metadata")
@pytest.mark.parametrize(
    ("said", "right"),
    [("1.0", True), ("1.0.3", True), (None, False), ("", False), ("0.3", False), ("1.1", False), ("1.99", False), ("banana", False)],
)  # fmt: skip
async def test_the_service_of_1_0_is_for_1_0(said: str | None, right: bool) -> None:
    """By Major.Minor; nothing said means 0.3, whose service has another name."""
    metadata = () if said is None else (("a2a-version", said),)
    async with served_over_grpc() as made:
        seen = await made.raw(pb.ListTasksRequest().SerializeToString(), "ListTasks", metadata)
    if right:
        assert seen.status == 0
        return
    assert (seen.details["status"], seen.reason) == ("FAILED_PRECONDITION", "VERSION_NOT_SUPPORTED")


@pytest.mark.parametrize(
    ("said", "right"), [(None, True), ("0.3", True), ("0.3.0", True), ("1.0", False), ("0.2", False)]
)
async def test_the_service_of_0_3_is_for_0_3(said: str | None, right: bool) -> None:
    """Errors are named in the status message there, as the SDK's clients of that version read them."""
    metadata = () if said is None else (("a2a-version", said),)
    request = pb03.SendMessageRequest(
        request=pb03.Message(message_id="m", role=pb03.ROLE_USER, content=[pb03.Part(text="hey")])
    )
    async with served_over_grpc() as made:
        seen = await outcome(made.stub03.SendMessage(request, metadata=metadata, timeout=10))
    if right:
        assert seen.result["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
        return
    assert seen.message.startswith("VersionNotSupportedError: ")


async def test_a_version_that_the_operator_leaves_out_is_refused() -> None:
    """Though its service is there: it may come back while the server runs."""
    offered = ["1.0"]
    async with served_over_grpc(versions=lambda: offered) as made:
        request = pb03.GetTaskRequest(name="tasks/x")
        refused = await outcome(made.stub03.GetTask(request, timeout=10))
        offered.append("0.3")
        absent = await outcome(made.stub03.GetTask(request, timeout=10))
    assert refused.message.startswith("VersionNotSupportedError: ")
    assert absent.message.startswith("TaskNotFoundError: ")


def odd(**fields: Any) -> bytes:
    wire = wire_of(message())
    for name, value in fields.items():
        setattr(wire.message, name, value)
    return bytes(wire.SerializeToString())


def with_number(number: float) -> bytes:
    wire = wire_of(message())
    wire.message.metadata["deep"] = {"in": [1, number]}
    return bytes(wire.SerializeToString())


@covers("A2A-1.0.1 10.6#errors")
@pytest.mark.parametrize(
    ("body", "method", "reason", "says"),
    [
        (b"\xff\xff\xff", "SendMessage", "INVALID_REQUEST", "cannot be read as lf.a2a.v1.SendMessageRequest"),
        (b"\n\x02\xff\xfe", "GetTask", "INVALID_REQUEST", "UTF-8"),
        (with_number(math.nan), "SendMessage", "INVALID_PARAMS", "message.metadata holds a number that JSON has not"),
        (with_number(math.inf), "SendMessage", "INVALID_PARAMS", "infinity"),
        (odd(role=42), "SendMessage", "INVALID_PARAMS", "message.role has no value 42"),
        (odd(role=pb.ROLE_AGENT), "SendMessage", "INVALID_PARAMS", "role"),
        (odd(message_id=""), "SendMessage", "INVALID_PARAMS", "messageId"),
        (b"", "SendMessage", "INVALID_PARAMS", "message"),
        (b"", "GetTask", "INVALID_PARAMS", "id"),
        (pb.ListTasksRequest(status=42).SerializeToString(), "ListTasks", "INVALID_PARAMS", "status has no value 42"),
        (pb.ListTasksRequest(page_size=-1).SerializeToString(), "ListTasks", "INVALID_PARAMS", "pageSize"),
        (
            pb.ListTasksRequest(status_timestamp_after={"seconds": 10**15}).SerializeToString(), "ListTasks",
            "INVALID_PARAMS", "statusTimestampAfter is no moment",
        ),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_the_callers_mistake(body: bytes, method: str, reason: str, says: str) -> None:
    """INVALID_ARGUMENT with A2A's reason, in words without Python's, whatever only this binding can carry."""
    async with served_over_grpc() as made:
        seen = await made.raw(body, method)
    assert (seen.details["status"], seen.reason) == ("INVALID_ARGUMENT", reason)
    assert says in seen.message


async def test_a_request_has_a_bounded_number_of_values() -> None:
    """A megabyte of them would take seconds to look through, in each hand that they go through."""
    wire = wire_of(message())
    # true, so many times
    wire.message.parts[0].data.list_value.ParseFromString(b"\n\x02\x20\x01" * 200_001)
    async with served_over_grpc() as made:
        seen = await made.raw(wire.SerializeToString())
    assert (seen.reason, "more than 200000 values" in seen.message) == ("INVALID_PARAMS", True)


async def test_a_message_over_the_limit_is_refused() -> None:
    """The same limit as HTTP's."""
    async with served_over_grpc(limits=Limits(body=10_000)) as made:
        fits = await made.raw(wire_of(message("x" * 9_000)).SerializeToString())
        seen = await made.raw(wire_of(message("x" * 10_001)).SerializeToString())
    assert (fits.status, seen.details["status"]) == (0, "RESOURCE_EXHAUSTED")


async def test_missing_fields_are_named() -> None:
    """In a BadRequest beside the ErrorInfo."""
    async with served_over_grpc() as made:
        seen = await made.call("SendMessage", {"message": {"role": "ROLE_USER", "parts": [{"text": "x"}]}})
    assert (seen.reason, seen.details["fields"]) == ("INVALID_PARAMS", ["message.messageId"])


async def test_a_long_error_arrives_all_the_same() -> None:
    """Clients take eight kilobytes of trailers, and a sentence goes out twice in them."""
    async with served_over_grpc() as made:
        seen = await made.call("SendMessage", message(skill="ö" * 3000))
    assert (seen.details["status"], seen.reason) == ("INVALID_ARGUMENT", "INVALID_PARAMS")
    assert "öö" in seen.message


async def test_somebody_elses_task_is_absent() -> None:
    """Word for word as one that never was."""
    async with served_over_grpc() as made:
        sent = (await made.call("SendMessage", message(), {"x-who": "acme/anna"})).result["task"]["id"]
        own = await made.call("GetTask", {"id": sent}, {"x-who": "acme/anna"})
        others = [await made.call("GetTask", {"id": sent}, {"x-who": who}) for who in ("acme/bert", "globex/anna")]
        absent = await made.call("GetTask", {"id": "nobodys"}, {"x-who": "globex/anna"})
    assert own.result["id"] == sent
    for other in others:
        assert (other.reason, other.message.replace(sent, "nobodys")) == ("TASK_NOT_FOUND", absent.message)


async def test_the_tenant_is_the_agent_that_is_addressed() -> None:
    """It sees its own tasks, the mesh all of them, and an agent that is not there is not found."""
    step = {"id": "say", "set": {"said": "${{ input.text }}"}}
    own = mesh(
        workflow("greet", step, on={"a2a": {"agent": "desk"}}, description="Greets."),
        workflow("shout", step, on={"a2a": {}}, description="Shouts."),
    )
    async with serving_mesh(own) as on, calling(on) as made:
        greeted = (await made.call("SendMessage", {"tenant": "desk", **message()})).result["task"]["id"]
        shouted = (await made.call("SendMessage", message(skill="shout"))).result["task"]["id"]
        seen = [(await made.call("ListTasks", {"tenant": name})).result["tasks"] for name in ("desk", "")]
        elsewhere = await made.call("GetTask", {"tenant": "desk", "id": shouted})
        nobody = await made.call("ListTasks", {"tenant": "nobody"})
    assert [{task["id"] for task in tasks} for tasks in seen] == [{greeted}, {greeted, shouted}]
    assert elsewhere.reason == "TASK_NOT_FOUND"
    assert (nobody.details["status"], nobody.reason) == ("NOT_FOUND", "AGENT_NOT_FOUND")


class Broken(Operations):
    """Operations of which one raises what nobody expects."""

    async def get_task(self, params: Any, context: Any) -> Any:
        raise RuntimeError("the password is hunter2")


async def test_a_fault_of_ours_is_internal_and_says_nothing_of_python(caplog: pytest.LogCaptureFixture) -> None:
    """An id, which the log has too."""
    async with serving_mesh() as on, calling(on, operations=Broken(on.engine, _no_card)) as made:
        seen = await made.call("GetTask", {"id": "x"})
    assert seen.details["status"] == "INTERNAL"
    assert "hunter2" not in seen.message
    assert seen.details["metadata"]["id"] in caplog.text


async def _no_card(*_: Any) -> dict[str, Any]:
    return {}


@covers("A2A-1.0.1 10.2#metadata")
async def test_extensions_that_are_activated_are_said() -> None:
    """In the metadata that comes before the answer; of a stream, too."""
    asked = [*V1, ("a2a-extensions", "urn:agentmesh:a2a:skill:1, urn:nobody")]
    async with served_over_grpc() as made:
        unary = made.stub.SendMessage(wire_of(message()), metadata=asked, timeout=10)
        await unary
        stream = made.stub.SendStreamingMessage(wire_of(message()), metadata=asked, timeout=10)
        assert [event async for event in stream]
        said = [dict(await call.initial_metadata()).get("a2a-extensions") for call in (unary, stream)]
    assert said == ["urn:agentmesh:a2a:skill:1"] * 2


async def test_the_trace_goes_with_the_run() -> None:
    """As `traceparent` over HTTP."""
    async with served_over_grpc() as made:
        sent = (await made.call("SendMessage", message(), {"traceparent": TRACE})).result["task"]["id"]
        run = await made.on.engine.runs.get(LOCAL, sent)
    assert run.trace is not None
    assert run.trace["traceparent"] == TRACE


class Deep(Operations):
    """Operations that show what an agent elsewhere has made."""

    value: Any = "x"
    for _ in range(45):
        value = {"k": value}

    async def get_task(self, params: Any, context: Any) -> Any:
        artifact = {"artifactId": "a", "parts": [{"data": self.value}], "metadata": {"m": self.value}}
        return {"id": params.id, "status": {"state": "TASK_STATE_COMPLETED"}, "artifacts": [artifact]}


async def test_what_is_nested_too_deep_for_protobuf_goes_out_as_text() -> None:
    """Every reader takes a hundred levels of protobuf's, which are thirty of JSON's; such metadata is left out."""
    async with serving_mesh() as on, calling(on, operations=Deep(on.engine, _no_card)) as made:
        (artifact,) = (await made.call("GetTask", {"id": "x"})).result["artifacts"]
    assert json.loads(artifact["parts"][0]["text"]) == Deep.value
    assert "metadata" not in artifact


async def test_a_stream_is_the_task_its_updates_and_its_end() -> None:
    """And then it ends."""
    async with served_over_grpc() as made:
        made.on.gate.go.set()
        stream = made.stub.SendStreamingMessage(wire_of(message(skill="gate")), metadata=V1, timeout=10)
        events = [MessageToDict(event) async for event in stream]
    kinds = [next(iter(event)) for event in events]
    assert (kinds[0], kinds[-2], kinds[-1]) == ("task", "artifactUpdate", "statusUpdate")
    assert events[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"


@covers("A2A-1.0.1 10.7#streaming")
async def test_streams_that_are_dropped_leave_nothing_behind() -> None:
    """A hundred at once; their task goes on."""
    async with served_over_grpc() as made:
        first = made.stub.SendStreamingMessage(wire_of(message(skill="gate")), metadata=V1)
        ident = (await first.read()).task.id
        streams = [first]
        for _ in range(99):
            streams.append(made.stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=ident), metadata=V1))
        for stream in streams[1:]:
            assert (await stream.read()).task.id == ident
        assert made.edge.calls == 100
        for stream in streams:
            stream.cancel()
        await settled(made)
        gc.collect()
        made.on.gate.go.set()
        with anyio.fail_after(5):
            async for event in made.on.engine.runs.watch(LOCAL, ident):
                run = event.run
    assert run.state is RunState.COMPLETED


async def test_a_client_that_takes_nothing_holds_nobody_up() -> None:
    """Another stream of the same task goes on, and the first ends with its client."""
    async with served_over_grpc() as made:
        slow = made.stub.SendStreamingMessage(wire_of(message(skill="gate")), metadata=V1)
        ident = (await slow.read()).task.id
        quick = made.stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=ident), metadata=V1, timeout=10)
        events = aiter(quick)
        assert (await anext(events)).task.id == ident
        made.on.gate.go.set()
        states = [event.status_update.status.state async for event in events]
        slow.cancel()
        await settled(made)
    assert states[-1] == pb.TASK_STATE_COMPLETED


async def test_a_deadline_ends_the_call_and_not_the_task() -> None:
    """Whoever asks later finds it done."""
    async with served_over_grpc() as made:
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await made.stub.SendMessage(wire_of(message(skill="gate", contextId="c")), metadata=V1, timeout=0.5)
        await settled(made)
        made.on.gate.go.set()
        (listed,) = (await made.call("ListTasks", {"contextId": "c"})).result["tasks"]
        with anyio.fail_after(5):
            async for event in made.on.engine.runs.watch(LOCAL, listed["id"]):
                run = event.run
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert run.state is RunState.COMPLETED


async def test_a_server_that_leaves_ends_its_streams_and_lets_calls_finish() -> None:
    """Streams are taken up again elsewhere; a call that is nearly done is not lost."""
    async with served_over_grpc(grace=5) as made:
        stream = made.stub.SendStreamingMessage(wire_of(message(skill="gate")), metadata=V1)
        await stream.read()
        answers: list[Any] = []

        async def send() -> None:
            answers.append(await made.call("SendMessage", message(skill="gate")))

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await settled(made, 2)
            made.edge.leave()
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await drained(stream)
            made.on.gate.go.set()
    seen = failure(ended.value)
    assert (seen.details["status"], "SubscribeToTask" in seen.message) == ("UNAVAILABLE", True)
    assert answers[0].result["task"]["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_leaving_cuts_off_what_takes_longer_than_its_moment() -> None:
    """And nothing of it is left when the engine closes."""
    with anyio.fail_after(10):
        async with serving_mesh() as on:
            async with calling(on, grace=0.1) as made:
                cut = made.stub.SendMessage(wire_of(message(skill="gate")), metadata=V1)
                await settled(made, 1)
            assert made.edge.calls == 0
            assert (await cut.code()) in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_health_is_asked_as_of_every_grpc_server() -> None:
    """grpc.health.v1: of the server and of its services; one who watches hears that it leaves."""
    path = "/grpc.health.v1.Health/"
    async with served_over_grpc() as made:
        check = made.channel.unary_unary(path + "Check")
        known = [await check(b"", timeout=5), await check(b"\n\x14lf.a2a.v1.A2AService", timeout=5)]
        unknown = await outcome(check(b"\n\x01x", timeout=5))
        watch = made.channel.unary_stream(path + "Watch")(b"", timeout=5)
        first = await watch.read()
        made.edge.leave()
        last = await watch.read()
    assert (known, first, last) == ([b"\x08\x01"] * 2, b"\x08\x01", b"\x08\x02")
    assert unknown.details["status"] == "NOT_FOUND"


async def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    """By another gRPC server, too: they would share it by themselves, and half of the calls would go astray."""
    async with serving_mesh() as on:
        first, second = (GrpcEdge(operations_of(on.engine, Cards(on.engine, on.url)), Limits()) for _ in range(2))
        async with first.run("127.0.0.1:0") as port:
            with pytest.raises(ServeError, match="--grpc-port"):
                await second.run(f"127.0.0.1:{port}").__aenter__()


async def test_an_unknown_method_is_unimplemented() -> None:
    """As gRPC says it by itself."""
    async with served_over_grpc() as made:
        call = made.channel.unary_unary(SERVICE + "Nope")
        seen = await outcome(call(b"", metadata=V1, timeout=5))
    assert seen.details["status"] == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "request_",
    [
        pb03.SendMessageRequest(),
        pb03.SendMessageRequest(request=pb03.Message(role=pb03.ROLE_USER)),
        pb03.SendMessageRequest(request=pb03.Message(message_id="m", role=pb03.ROLE_USER)),
        pb03.SendMessageRequest(request=pb03.Message(message_id="m", content=[pb03.Part(text="x")])),
        pb03.SendMessageRequest(request=pb03.Message(message_id="m", role=pb03.ROLE_USER, content=[pb03.Part()])),
        pb03.SendMessageRequest(
            request=pb03.Message(message_id="m", role=pb03.ROLE_AGENT, content=[pb03.Part(text="x")])
        ),
    ],
)
async def test_what_0_3_cannot_be_made_of_is_the_callers_mistake(request_: Any) -> None:
    """The SDK's conversions raise many a thing; none is a fault of the server."""
    async with served_over_grpc() as made:
        for method in (made.stub03.SendMessage,):
            seen = await outcome(method(request_, timeout=10))
            assert seen.details["status"] == "INVALID_ARGUMENT", seen
        async with aclosing(_events(made.stub03.SendStreamingMessage(request_, timeout=10))) as events:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                async for _ in events:
                    pass
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def _events(call: Any) -> Any:
    async for event in call:
        yield event
