"""A2A over gRPC in a test: the edge on a free port, its stubs, and errors in the form that `calling.py` gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from a2a.compat.v0_3 import a2a_v0_3_pb2_grpc as grpc03
from a2a.types import a2a_pb2 as pb
from a2a.types import a2a_pb2_grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from agentmesh.a2a.cards import Cards
from agentmesh.a2a.grpc import GrpcEdge
from agentmesh.a2a.operations import Operations
from agentmesh.a2a.server import operations_of
from agentmesh.core.policy import Principal
from agentmesh.settings import Limits
from tests.a2a.calling import Outcome
from tests.a2a.conftest import Serving, serving_mesh

V1 = (("a2a-version", "1.0"),)
SERVICE = "/lf.a2a.v1.A2AService/"
REQUESTS: dict[str, Any] = {
    "SendMessage": pb.SendMessageRequest, "SendStreamingMessage": pb.SendMessageRequest, "GetTask": pb.GetTaskRequest,
    "ListTasks": pb.ListTasksRequest, "CancelTask": pb.CancelTaskRequest, "SubscribeToTask": pb.SubscribeToTaskRequest,
}  # fmt: skip


@dataclass(frozen=True)
class Calling:
    """A served mesh, and its gRPC."""

    on: Serving
    edge: GrpcEdge
    channel: grpc.aio.Channel
    stub: Any
    stub03: Any

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Outcome:
        """One request of version 1.0, as JSON has it; its answer in the spelling of JSON."""
        request = ParseDict(dict(params or {}), REQUESTS[method]())
        metadata = [*V1, *(headers or {}).items()]
        return await outcome(getattr(self.stub, method)(request, metadata=metadata, timeout=10))

    async def raw(self, body: bytes, method: str = "SendMessage", metadata: Any = V1) -> Outcome:
        """A call by bytes."""
        return await outcome(self.channel.unary_unary(SERVICE + method)(body, metadata=metadata, timeout=10))


async def outcome(call: Any) -> Outcome:
    """What came of a call. `status` is gRPC's name of it, in `details` (status, ErrorInfo, fields)."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return failure(error)
    return Outcome(0, answer if isinstance(answer, bytes) else MessageToDict(answer))


def failure(error: grpc.aio.AioRpcError) -> Outcome:
    info, fields = ErrorInfo(), BadRequest()
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status = Status.FromString(value)
            assert status.code == error.code().value[0]
            assert status.message == error.details()
            for detail in status.details:
                _ = detail.Unpack(info) or detail.Unpack(fields)
            assert info.domain == "a2a-protocol.org"
    violations = [violation.field for violation in fields.field_violations]
    return Outcome(
        error.code().value[0], None, info.reason or None, 0, error.details() or "",
        {"status": error.code().name, "metadata": dict(info.metadata), "fields": violations},
    )  # fmt: skip


def by_metadata(metadata: Mapping[str, str]) -> Principal:
    """Who asks, as the test says: `x-who: TENANT/SUBJECT`."""
    tenant, _, subject = metadata.get("x-who", "local/local").partition("/")
    return Principal(subject, tenant)


@asynccontextmanager
async def calling(
    on: Serving, *, limits: Limits | None = None, grace: float = 0.2, operations: Operations | None = None,
    versions: Callable[[], list[str]] = lambda: ["1.0", "0.3"],
) -> AsyncIterator[Calling]:  # fmt: skip
    """gRPC beside a served mesh."""
    made = operations or operations_of(on.engine, Cards(on.engine, on.url))
    edge = GrpcEdge(made, limits or Limits(), identify=by_metadata, grace=grace, versions=versions)
    async with edge.run("127.0.0.1:0") as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Calling(on, edge, channel, a2a_pb2_grpc.A2AServiceStub(channel), grpc03.A2AServiceStub(channel))


@asynccontextmanager
async def served_over_grpc(**more: Any) -> AsyncIterator[Calling]:
    """The mesh of `skills_mesh`, over HTTP and gRPC."""
    async with serving_mesh() as on, calling(on, **more) as made:
        yield made


def message(text: str = "hello", *, skill: str | None = None, **more: Any) -> dict[str, Any]:
    """Params of SendMessage."""
    wire: dict[str, Any] = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": text}], **more}
    if skill:
        wire["metadata"] = {"skill": skill}
    return {"message": wire}


def wire_of(params: Mapping[str, Any]) -> pb.SendMessageRequest:
    return ParseDict(dict(params), pb.SendMessageRequest())
