"""The two services: each method with its request, and what answers it.

Version 1.0's are the operations themselves, as messages. Version 0.3's go through the SDK's conversions (`CompatGrpcHandler`), whose
mistakes with what a caller sent are the caller's here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from a2a.compat.v0_3 import a2a_v0_3_pb2 as pb03
from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3 import types as types03
from a2a.compat.v0_3.grpc_handler import CompatGrpcHandler
from a2a.compat.v0_3.proto_utils import FromProto, ToProto
from a2a.server.context import ServerCallContext
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError, InvalidParamsError, VersionNotSupportedError
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError

from agentmesh.a2a.handler import Handler
from agentmesh.a2a.operations import Operations
from agentmesh.a2a.request import V03, V1, version_of
from agentmesh.core.json_text import write_json

SHALLOW: Final = 20
"""Levels of JSON that every reader of protobuf takes, which take a hundred of their own, wherever in a response they stand."""

Answer = Callable[[Any, ServerCallContext], Awaitable[Any]]
Stream = Callable[[Any, ServerCallContext], AsyncGenerator[Any]]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service: one of `answer` and `stream` is there. What they give are messages."""

    request: Any
    answer: Answer | None = None
    stream: Stream | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """One version."""

    name: str
    version: str
    methods: Mapping[str, Method]

    def check_version(self, said: str | None, offered: Sequence[str]) -> None:
        """The service's name says which version is meant; metadata that says another, or for 1.0 nothing, which means 0.3, is refused."""
        version = version_of(said, offered)
        if version != self.version:
            other = "lf.a2a.v1.A2AService" if version == V1 else "a2a.v1.A2AService"
            raise VersionNotSupportedError(
                f"the call says A2A {version}{'' if said else ' (by naming no version)'}, and {self.name} is A2A {self.version}; "
                f"send a2a-version: {self.version}, or call {other}"
            )


def services(operations: Operations) -> tuple[Service, Service]:
    """Both, over the same operations."""
    return _v1(operations), _v03(operations)


def _v1(operations: Operations) -> Service:
    def unary(request: Any, operation: Answer, response: Any) -> Method:
        async def answer(params: Any, call: ServerCallContext) -> Any:
            return message(await operation(params, call), response)

        return Method(request, answer=answer)

    def streaming(request: Any, operation: Stream) -> Method:
        async def stream(params: Any, call: ServerCallContext) -> AsyncGenerator[Any]:
            async with aclosing(operation(params, call)) as events:
                async for event in events:
                    yield message(event, pb.StreamResponse)

        return Method(request, stream=stream)

    async def delete(params: Any, call: ServerCallContext) -> Any:
        await operations.delete_push_config(params, call)
        return Empty()

    listed = pb.ListTaskPushNotificationConfigsResponse
    config = pb.TaskPushNotificationConfig
    return Service(
        "lf.a2a.v1.A2AService", V1,
        {
            "SendMessage": unary(pb.SendMessageRequest, operations.send, pb.SendMessageResponse),
            "SendStreamingMessage": streaming(pb.SendMessageRequest, operations.stream),
            "GetTask": unary(pb.GetTaskRequest, operations.get_task, pb.Task),
            "ListTasks": unary(pb.ListTasksRequest, operations.list_tasks, pb.ListTasksResponse),
            "CancelTask": unary(pb.CancelTaskRequest, operations.cancel_task, pb.Task),
            "SubscribeToTask": streaming(pb.SubscribeToTaskRequest, operations.subscribe),
            "CreateTaskPushNotificationConfig": unary(config, operations.create_push_config, config),
            "GetTaskPushNotificationConfig": unary(
                pb.GetTaskPushNotificationConfigRequest, operations.get_push_config, config
            ),
            "ListTaskPushNotificationConfigs": unary(
                pb.ListTaskPushNotificationConfigsRequest, operations.list_push_configs, listed
            ),
            "DeleteTaskPushNotificationConfig": Method(pb.DeleteTaskPushNotificationConfigRequest, answer=delete),
            "GetExtendedAgentCard": unary(pb.GetExtendedAgentCardRequest, operations.extended_card, pb.AgentCard),
        },
    )  # fmt: skip


def message(value: Mapping[str, Any], model: Any) -> Any:
    """JSON of ours as a message that every reader of protobuf takes. What the protocol does not know is left out."""
    if _depth_over(value, SHALLOW):
        value = _shallow(value, 0)
    try:
        return ParseDict(value, model(), ignore_unknown_fields=True)
    except ParseError as error:
        raise RuntimeError(f"an answer is no {model.DESCRIPTOR.name}: {error}") from error


def _depth_over(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            member
            for item in level
            if isinstance(item, (dict, list))
            for member in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return any(isinstance(item, (dict, list)) for item in level)


def _shallow(value: Any, depth: int) -> Any:
    """The same, where what a part holds and is nested too deep for protobuf stands as JSON text, and such metadata is left out."""
    if isinstance(value, list):
        return [_shallow(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, member in value.items():
        if key == "data" and _depth_over(member, SHALLOW - 8):
            found["text"] = write_json(member).decode()
        elif key == "metadata" and _depth_over(member, SHALLOW - 8):
            continue
        elif key in {"data", "metadata"}:
            found[key] = member
        else:
            found[key] = _shallow(member, depth + 1)
    return found


class _Conversions(CompatGrpcHandler):
    """The SDK's methods of version 0.3, called with what the operations want to know in place of gRPC's context."""

    async def _handle_unary(self, context: Any, handler_func: Any, default_response: Any) -> Any:
        return await handler_func(context)


def _v03(operations: Operations) -> Service:
    handler = Handler(operations)
    compat = _Conversions(handler)

    async def send(params: Any, call: ServerCallContext) -> Any:
        answer = await handler.on_message_send(_sent(params), call)
        if isinstance(answer, pb.Task):
            return pb03.SendMessageResponse(task=ToProto.task(conversions.to_compat_task(answer)))
        return pb03.SendMessageResponse(msg=ToProto.message(conversions.to_compat_message(answer)))

    async def send_streaming(params: Any, call: ServerCallContext) -> AsyncGenerator[Any]:
        async with aclosing(operations.stream(_sent(params), call)) as events:
            async for event in events:
                yield _event(event)

    async def subscribe(params: Any, call: ServerCallContext) -> AsyncGenerator[Any]:
        with _callers():
            asked = types03.TaskResubscriptionRequest(id=0, params=FromProto.task_id_params(params))
            request = conversions.to_core_subscribe_to_task_request(asked)
        async with aclosing(operations.subscribe(request, call)) as events:
            async for event in events:
                yield _event(event)

    return Service(
        "a2a.v1.A2AService", V03,
        {
            "SendMessage": Method(pb03.SendMessageRequest, answer=send),
            "SendStreamingMessage": Method(pb03.SendMessageRequest, stream=send_streaming),
            "GetTask": Method(pb03.GetTaskRequest, answer=compat.GetTask),
            "CancelTask": Method(pb03.CancelTaskRequest, answer=compat.CancelTask),
            "TaskSubscription": Method(pb03.TaskSubscriptionRequest, stream=subscribe),
            "CreateTaskPushNotificationConfig": Method(
                pb03.CreateTaskPushNotificationConfigRequest, answer=compat.CreateTaskPushNotificationConfig
            ),
            "GetTaskPushNotificationConfig": Method(
                pb03.GetTaskPushNotificationConfigRequest, answer=compat.GetTaskPushNotificationConfig
            ),
            "ListTaskPushNotificationConfig": Method(
                pb03.ListTaskPushNotificationConfigRequest, answer=compat.ListTaskPushNotificationConfig
            ),
            "DeleteTaskPushNotificationConfig": Method(
                pb03.DeleteTaskPushNotificationConfigRequest, answer=compat.DeleteTaskPushNotificationConfig
            ),
            "GetAgentCard": Method(pb03.GetAgentCardRequest, answer=compat.GetAgentCard),
        },
    )  # fmt: skip


def _sent(params: Any) -> pb.SendMessageRequest:
    """A message of version 0.3 as one of 1.0."""
    if not params.HasField("request"):
        raise InvalidParamsError("these fields are missing or empty: request")
    with _callers():
        asked = types03.SendMessageRequest(id=0, params=FromProto.message_send_params(params))
        return conversions.to_core_send_message_request(asked)


def _event(response: Mapping[str, Any]) -> Any:
    core = message(response, pb.StreamResponse)
    return ToProto.stream_response(conversions.to_compat_stream_response(core, 0).result)


@contextmanager
def _callers() -> Iterator[None]:
    """What the SDK cannot convert is a request that does not fit; it says so in Python's words."""
    try:
        yield
    except A2AError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, DecodeError) as error:
        raise InvalidParamsError(f"the request does not fit A2A {V03} ({type(error).__name__})") from None
