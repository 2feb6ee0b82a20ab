"""The SDK's RequestHandler over `operations.py`, for the bindings that speak in the SDK's messages: gRPC, and version 0.3."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

from a2a.server.context import ServerCallContext
from a2a.server.events.event_queue import Event
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseDict

from agentmesh.a2a.operations import Json, Operations

Wire = TypeVar("Wire", bound=Any)


class Handler(RequestHandler):
    """What the operations answer, as messages. Nothing but A2AError leaves a method.

    Who asks, and with which headers, stands in the context's state: `principal` and `headers`; the agent that is addressed in `tenant`,
    of the context or the request; the extensions that are asked for in `requested_extensions`. What was activated comes back in the
    state under `operations.ACTIVATED`.
    """

    def __init__(self, operations: Operations) -> None:
        self.operations = operations

    async def on_message_send(self, params: pb.SendMessageRequest, context: ServerCallContext) -> pb.Task | pb.Message:
        answer = _wire(await self.operations.send(params, context), pb.SendMessageResponse())
        return answer.task if answer.HasField("task") else answer.message

    async def on_message_send_stream(
        self, params: pb.SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        async with aclosing(self.operations.stream(params, context)) as responses:
            async for response in responses:
                yield _event(response)

    async def on_subscribe_to_task(
        self, params: pb.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        async with aclosing(self.operations.subscribe(params, context)) as responses:
            async for response in responses:
                yield _event(response)

    async def on_get_task(self, params: pb.GetTaskRequest, context: ServerCallContext) -> pb.Task:
        return _wire(await self.operations.get_task(params, context), pb.Task())

    async def on_cancel_task(self, params: pb.CancelTaskRequest, context: ServerCallContext) -> pb.Task:
        return _wire(await self.operations.cancel_task(params, context), pb.Task())

    async def on_list_tasks(self, params: pb.ListTasksRequest, context: ServerCallContext) -> pb.ListTasksResponse:
        return _wire(await self.operations.list_tasks(params, context), pb.ListTasksResponse())

    async def on_create_task_push_notification_config(
        self, params: pb.TaskPushNotificationConfig, context: ServerCallContext
    ) -> pb.TaskPushNotificationConfig:
        return _wire(await self.operations.create_push_config(params, context), pb.TaskPushNotificationConfig())

    async def on_get_task_push_notification_config(
        self, params: pb.GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> pb.TaskPushNotificationConfig:
        return _wire(await self.operations.get_push_config(params, context), pb.TaskPushNotificationConfig())

    async def on_list_task_push_notification_configs(
        self, params: pb.ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> pb.ListTaskPushNotificationConfigsResponse:
        listed = await self.operations.list_push_configs(params, context)
        return _wire(listed, pb.ListTaskPushNotificationConfigsResponse())

    async def on_delete_task_push_notification_config(
        self, params: pb.DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        await self.operations.delete_push_config(params, context)

    async def on_get_extended_agent_card(
        self, params: pb.GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> pb.AgentCard:
        return _wire(await self.operations.extended_card(params, context), pb.AgentCard())


def _wire(value: Json, message: Wire) -> Wire:
    """JSON of ours as a message. What a peer's artifact says that the protocol does not know is left out."""
    return ParseDict(value, message, ignore_unknown_fields=True)  # type: ignore[no-any-return]


def _event(response: Json) -> Event:
    wire = _wire(response, pb.StreamResponse())
    event: Event = getattr(wire, wire.WhichOneof("payload"))
    return event
