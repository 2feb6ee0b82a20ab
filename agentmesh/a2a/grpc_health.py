"""grpc.health.v1: whether the services are there, for balancers and orchestrators that ask every gRPC server so.

Its two messages have one field each, a string and an enumeration, and are written with the well-known types that have the same bytes;
the package that holds them by name would be one more dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import anyio
import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

NAME: Final = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
"""grpc.health.v1.HealthCheckResponse.ServingStatus."""


class Health:
    """Serving from the first moment that anybody can ask until `leave`."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = {"", *services}
        self._left = anyio.Event()

    def leave(self) -> None:
        self._left.set()

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    async def _check(self, body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        status = await self._status(body, context)
        if status == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return _answer(status)

    async def _watch(self, body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        status = await self._status(body, context)
        await context.write(_answer(status))
        await self._left.wait()
        if status == SERVING:
            await context.write(_answer(NOT_SERVING))

    async def _status(self, body: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> int:
        try:
            service = StringValue.FromString(body).value
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no HealthCheckRequest")
        if service not in self._services:
            return SERVICE_UNKNOWN
        return NOT_SERVING if self._left.is_set() else SERVING


def _answer(status: int) -> bytes:
    body: bytes = Int32Value(value=status).SerializeToString()
    return body
