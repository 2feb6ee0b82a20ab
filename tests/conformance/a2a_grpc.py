"""The A2A probe over gRPC: its checks on the stubs of the A2A SDK, and those that only this binding can fail.

    python -m tests.conformance.a2a_grpc --url http://127.0.0.1:8080 [--webhook-host 127.0.0.1]

The probe calls a binding by method and JSON; `Grpc` below is one, as its own two are. What gRPC cannot say is said in the nearest way: a
status that nobody has named is a number without a name, an unknown field is an unknown number of a field, and of JSON-RPC's and HTTP's
codes the one stands for the status that the specification puts beside it (A2A 1.0.1 section 5.4).
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import grpc
import httpx
from a2a.compat.v0_3 import a2a_v0_3_pb2 as pb03
from a2a.compat.v0_3 import a2a_v0_3_pb2_grpc as grpc03
from a2a.types import a2a_pb2 as pb
from a2a.types import a2a_pb2_grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from tests.conformance import a2a_probe as probe

HTTP: Final = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "RESOURCE_EXHAUSTED": 400}
REQUESTS: Final[Mapping[str, Any]] = {
    "SendMessage": pb.SendMessageRequest, "SendStreamingMessage": pb.SendMessageRequest, "GetTask": pb.GetTaskRequest,
    "ListTasks": pb.ListTasksRequest, "CancelTask": pb.CancelTaskRequest, "SubscribeToTask": pb.SubscribeToTaskRequest,
    "CreateTaskPushNotificationConfig": pb.TaskPushNotificationConfig,
    "GetTaskPushNotificationConfig": pb.GetTaskPushNotificationConfigRequest,
    "ListTaskPushNotificationConfigs": pb.ListTaskPushNotificationConfigsRequest,
    "DeleteTaskPushNotificationConfig": pb.DeleteTaskPushNotificationConfigRequest,
    "GetExtendedAgentCard": pb.GetExtendedAgentCardRequest,
}  # fmt: skip
UNKNOWN_FIELD: Final = b"\xf8\x7f\x01"
"""Field 2047, which no message has."""
NAMELESS: Final = 42
"""A status that nobody has named."""
SERVICE: Final = "/lf.a2a.v1.A2AService/"


class Grpc:
    """A binding as the probe calls one."""

    kind = "grpc"

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self.stub = a2a_pb2_grpc.A2AServiceStub(self.channel)
        self.stub03 = grpc03.A2AServiceStub(self.channel)

    def call(self, method: str, params: Any = None, headers: Mapping[str, Any] | None = None) -> Any:
        try:
            answer = getattr(self.stub, method)(request(method, params), metadata=metadata(headers), timeout=20)
        except grpc.RpcError as error:
            raise fault(error) from None
        said = _stamped(MessageToDict(answer))
        if method == "ListTasks":  # gRPC leaves out what is empty, and a reader has it all the same
            said = {"tasks": [], "nextPageToken": "", "totalSize": 0, **said}
        return said

    def stream(self, method: str, params: Any, limit: float = 30) -> Iterator[Any]:
        events = getattr(self.stub, method)(request(method, params), metadata=metadata(), timeout=limit)
        try:
            for event in events:
                yield _stamped(MessageToDict(event))
        except grpc.RpcError as error:
            raise fault(error) from None
        finally:
            events.cancel()

    def raw(self, path: str, body: bytes, headers: Mapping[str, Any] | None = None) -> bytes:
        """A call by bytes."""
        try:
            answer: bytes = self.channel.unary_unary(path)(body, metadata=metadata(headers), timeout=20)
        except grpc.RpcError as error:
            raise fault(error) from None
        return answer


def request(method: str, params: Any) -> Any:
    """JSON as the method's message, what JSON alone can say in the nearest way."""
    given, model = dict(params or {}), REQUESTS[method]
    nameless = given.get("status") == "NOPE" and given.pop("status")
    outside = given.get("statusTimestampAfter") == "yesterday" and given.pop("statusTimestampAfter")
    wire = ParseDict(given, model(), ignore_unknown_fields=True)
    if nameless:
        wire.status = NAMELESS
    if outside:
        wire.status_timestamp_after.seconds = 10**15
    if "futureField" in given.get("message", {}):
        wire.message.MergeFromString(UNKNOWN_FIELD)
        wire.MergeFromString(UNKNOWN_FIELD)
    return wire


def metadata(headers: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """Headers as metadata, whose names are small; None takes one away."""
    found: dict[str, Any] = {}
    for name, value in {**probe.V, **(headers or {})}.items():
        found[name.lower()] = value
    return [(name, value) for name, value in found.items() if value is not None]


def fault(error: Any) -> Exception:
    """An error as the probe reads one."""
    code, details, name = error.code(), [], error.code().name
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = Status.FromString(value)
            probe.want(status.code == code.value[0], f"google.rpc.Status has code {status.code}, the call {code}")
            probe.want(status.message == error.details(), "google.rpc.Status has another message than the call")
            details = [_detail(packed) for packed in status.details]
    return probe.Err(HTTP.get(name, name), details, {"status": name, "message": error.details(), "details": details})


def _stamped(value: Any) -> Any:
    """Moments with six digits, as the other bindings write them: protobuf leaves zeros out, three at a time."""
    if isinstance(value, list):
        return [_stamped(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _stamped(item) for key, item in value.items()}
    if isinstance(stamp := found.get("timestamp"), str):
        whole, _, digits = stamp.removesuffix("Z").partition(".")
        found["timestamp"] = f"{whole}.{digits:0<6}Z"
    return found


def _detail(packed: Any) -> dict[str, Any]:
    model = {"ErrorInfo": error_details_pb2.ErrorInfo, "BadRequest": error_details_pb2.BadRequest}[
        packed.type_url.rpartition(".")[2]
    ]
    return {"@type": packed.type_url, **MessageToDict(model.FromString(packed.value))}


def refused(reason: str, call: Callable[[], Any], status: str | None = None) -> None:
    """The call fails for that reason, in A2A's domain and in plain words."""
    try:
        got = call()
    except probe.Err as error:
        said = error.raw["message"]
        probe.want(error.reason == reason and error.info.get("domain") == "a2a-protocol.org", f"not {reason}: {error}")
        probe.want(status is None or error.raw["status"] == status, f"not {status}: {error}")
        probe.want(not any(word in said for word in ("Traceback", "Error(", "object at", "Exception")), said)
        return
    raise AssertionError(f"no error: {got}")


def send(text: Any = "hello", kind: str = "echo") -> pb.SendMessageRequest:
    """A message to be broken."""
    part = pb.Part(text=text)
    message = pb.Message(message_id=f"probe-{kind}-{uuid.uuid4()}", role=pb.ROLE_USER, parts=[part])
    return pb.SendMessageRequest(message=message)


def own_checks(b: Grpc, card: Mapping[str, Any], limit: int) -> None:
    """What JSON cannot say, and what the binding has of its own."""
    path = SERVICE + "SendMessage"
    check = probe.check

    def raw(wire: Any, headers: Mapping[str, Any] | None = None) -> Callable[[], Any]:
        body = wire if isinstance(wire, bytes) else wire.SerializeToString()
        return lambda: b.raw(path, body, headers)

    check(
        "10", "bytes that are no message", lambda: refused("INVALID_REQUEST", raw(b"\xff\xff\xff"), "INVALID_ARGUMENT")
    )
    not_text = send().SerializeToString().replace(b"hello", b"h\xff\xfeo!")
    check("10", "text that is not UTF-8", lambda: refused("INVALID_REQUEST", raw(not_text), "INVALID_ARGUMENT"))
    for number in (float("nan"), float("inf")):
        odd = send()
        odd.message.metadata["number"] = number
        check("4.1", f"{number} in metadata", lambda odd=odd: refused("INVALID_PARAMS", raw(odd), "INVALID_ARGUMENT"))
        odd = send()
        odd.message.parts[0].data.list_value.values.add().number_value = number
        check(
            "4.1", f"{number} in a data part", lambda odd=odd: refused("INVALID_PARAMS", raw(odd), "INVALID_ARGUMENT")
        )
    odd = send()
    odd.message.role = NAMELESS
    check("4.1.5", "a role without a name", lambda: refused("INVALID_PARAMS", raw(odd), "INVALID_ARGUMENT"))
    agent = send()
    agent.message.role = pb.ROLE_AGENT
    check("4.1.5", "ROLE_AGENT from a caller", lambda: refused("INVALID_PARAMS", raw(agent), "INVALID_ARGUMENT"))
    check(
        "10",
        "nested deeper than protobuf reads",
        lambda: refused("INVALID_REQUEST", raw(deep(200)), "INVALID_ARGUMENT"),
    )
    check("10", "nested as deep as it reads", lambda: b.raw(path, deep(25)))
    check("10", "a message over the limit", lambda: too_large(raw(send("x" * limit))))
    check(
        "10",
        "a message just under the limit",
        lambda: pb.SendMessageResponse.FromString(raw(send("x" * (limit - 4096)))()),
    )
    check(
        "3.6",
        "version 0.3 on the service of 1.0",
        lambda: refused("VERSION_NOT_SUPPORTED", raw(send(), {"A2A-Version": "0.3"})),
    )
    check(
        "3.6",
        "no version on the service of 1.0",
        lambda: refused("VERSION_NOT_SUPPORTED", raw(send(), {"A2A-Version": None})),
    )
    check("3.6", "patch versions are let pass", raw(send(), {"A2A-Version": "1.0.7"}))
    check("10", "an unknown method", lambda: status_of(lambda: b.raw(SERVICE + "Nope", b""), "UNIMPLEMENTED"))
    check(
        "4.1",
        "an agent that is not there",
        lambda: refused("AGENT_NOT_FOUND", lambda: b.call("ListTasks", {"tenant": "nobody"})),
    )
    check("10", "grpc.health.v1 serves", lambda: probe.want(b.raw("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"))
    check("10", "grpc.health.v1 knows the service", lambda: probe.want(
        b.raw("/grpc.health.v1.Health/Check", b"\n\x14lf.a2a.v1.A2AService") == b"\x08\x01"))  # fmt: skip
    check(
        "10",
        "grpc.health.v1 knows no other",
        lambda: status_of(lambda: b.raw("/grpc.health.v1.Health/Check", b"\n\x01x"), "NOT_FOUND"),
    )
    sent = pb03.SendMessageRequest(
        request=pb03.Message(message_id="probe-echo", role=pb03.ROLE_USER, content=[pb03.Part(text="x")])
    )
    check("3.6", "version 1.0 on the service of 0.3", lambda: status_of(
        lambda: legacy(lambda: b.stub03.SendMessage(sent, metadata=[("a2a-version", "1.0")])), "FAILED_PRECONDITION"))  # fmt: skip
    check("3.6", "no version on the service of 0.3", lambda: probe.want(b.stub03.SendMessage(sent).task.id))

    def activated() -> None:
        uri = next(e["uri"] for e in card["capabilities"]["extensions"])
        _, call = b.stub.SendMessage.with_call(send(), metadata=metadata({"A2A-Extensions": uri}))
        said = dict(call.initial_metadata())
        probe.want(said.get("a2a-extensions") == uri, said)

    check("4.6", "an activated extension is said", activated)

    def dropped() -> None:
        events = b.stub.SendStreamingMessage(send(kind="slow"), metadata=metadata(), timeout=30)
        task = next(iter(events)).task.id
        events.cancel()
        probe.poll(b, task, {"TASK_STATE_COMPLETED"})

    check("3.5.2", "a call that is cancelled leaves its task alone", dropped)

    def late() -> None:
        try:
            b.stub.SendMessage(send(kind="slow"), metadata=metadata(), timeout=1)
        except grpc.RpcError as error:
            probe.want(error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error.code())
            return
        raise AssertionError("no error")

    check("3.2.2", "a deadline ends the call", late)


def deep(levels: int) -> bytes:
    """A message whose metadata is nested so deep, in JSON's levels."""
    inner = b"\x1a\x01x"  # Value.string_value
    for _ in range(levels):
        entry = _field(1, b"k") + _field(2, inner)
        inner = _field(5, _field(1, entry))  # Value.struct_value {fields: {k: inner}}
    metadata = _field(1, _field(1, b"k") + _field(2, inner))
    wire = send().message.SerializeToString() + _field(
        pb.Message.DESCRIPTOR.fields_by_name["metadata"].number, metadata
    )
    return _field(pb.SendMessageRequest.DESCRIPTOR.fields_by_name["message"].number, wire)


def _field(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])


def too_large(call: Callable[[], Any]) -> None:
    status_of(call, "RESOURCE_EXHAUSTED")


def status_of(call: Callable[[], Any], status: str) -> None:
    try:
        call()
    except probe.Err as error:
        probe.want(error.raw["status"] == status, str(error))
        return
    raise AssertionError("no error")


def legacy(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except grpc.RpcError as error:
        raise fault(error) from None


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--url", required=True, help="where the agent card is")
    arguments.add_argument("--grpc", help="HOST:PORT, when the card does not say it")
    arguments.add_argument("--webhook-host", default="127.0.0.1")
    arguments.add_argument("--limit", type=int, default=4 * 1024 * 1024, help="bytes of the largest message")
    given = arguments.parse_args()
    client = httpx.Client(timeout=20, trust_env=False)
    card = client.get(f"{given.url}/.well-known/agent-card.json").json()
    if required := [e["uri"] for e in card["capabilities"].get("extensions", []) if e.get("required")]:
        probe.V["A2A-Extensions"] = ",".join(required)
    found = {
        i["protocolBinding"]: i["url"] for i in reversed(card["supportedInterfaces"]) if i["protocolVersion"] == "1.0"
    }
    b = Grpc(given.grpc or found["GRPC"])
    probe.where = "[grpc] "
    probe.shared(b, card, probe.Webhook(given.webhook_host), long=True)
    own_checks(b, card, given.limit)
    for other, kind in (("JSONRPC", probe.Rpc), ("HTTP+JSON", probe.Rest)):
        probe.where = f"[grpc and {kind.kind}] "
        probe.equivalence(kind(client, found[other]), b)
    print(f"{probe.counts['WARN']} warnings, {probe.counts['SKIP']} skipped")
    print(f"{probe.counts['PASS']} passed, {probe.counts['FAIL']} failed")
    return 1 if probe.counts["FAIL"] or not probe.counts["PASS"] else 0


if __name__ == "__main__":
    sys.exit(main())
