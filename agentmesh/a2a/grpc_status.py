"""A2A's errors as gRPC has them: google.rpc.Status with ErrorInfo (A2A 1.0.1 section 10.6), in version 0.3 a name and a sentence."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from a2a.utils.errors import A2AError
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2 as details_pb
from google.rpc.status_pb2 import Status

from agentmesh.a2a.errors import details_of, mapping_of

DETAILS: Final = "grpc-status-details-bin"
SENTENCE: Final = 1000
"""Bytes of a message: it goes out twice, once in percents, and clients take 8 KiB of trailers."""
METADATA: Final = 1500
"""Bytes of an ErrorInfo's metadata."""


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: A2AError, *, legacy: bool) -> NoReturn:
    """Ends a call with an error. `legacy`: as version 0.3 has it, where the error's name stands before its sentence."""
    code = grpc.StatusCode[mapping_of(error).grpc_status]
    said = _cut(str(error), SENTENCE)
    if legacy:
        await context.abort(code, f"{type(error).__name__}: {said}")
    status = Status(code=code.value[0], message=said)
    for detail in details_of(error):
        status.details.append(_detail(detail))
    await context.abort(code, said, ((DETAILS, status.SerializeToString()),))
    raise AssertionError("abort raises")


def _detail(said: dict[str, Any]) -> AnyMessage:
    """One of the two that the other bindings have as JSON."""
    packed = AnyMessage()
    if said["@type"].endswith("ErrorInfo"):
        info = details_pb.ErrorInfo(reason=said["reason"], domain=said["domain"])
        left = METADATA
        for key, value in said.get("metadata", {}).items():
            info.metadata[key] = _cut(value, max(left, 1))
            left -= len(value.encode())
            if left <= 0:
                break
        packed.Pack(info)
        return packed
    request = details_pb.BadRequest()
    for fault in said["fieldViolations"][:20]:
        request.field_violations.add(field=fault["field"], description=_cut(fault["description"], 100))
    packed.Pack(request)
    return packed


def _cut(text: str, size: int) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= size else data[:size].decode(errors="ignore") + "…"
