"""HTTP+JSON of version 0.3: its paths begin with `/v1`, its messages are those of its own proto."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from a2a.compat.v0_3 import a2a_v0_3_pb2 as pb03
from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3 import types as v03
from a2a.compat.v0_3.proto_utils import FromProto, ToProto
from a2a.server.context import ServerCallContext
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import InvalidParamsError, InvalidRequestError
from google.protobuf.json_format import MessageToDict, ParseDict
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp

from agentmesh.a2a.answer import Answer, activated, streamed
from agentmesh.a2a.errors import rest_error
from agentmesh.a2a.operations import Operations
from agentmesh.a2a.request import plainly
from agentmesh.a2a.stream import Streams
from agentmesh.a2a.v03 import dump, to_answer, to_card, to_core, to_event, to_push_config, to_task
from agentmesh.core.json_text import inexact

_TASK: Final = r"/v1/tasks/([^/]+)"
_CONFIGS: Final = _TASK + r"/pushNotificationConfigs"


class Rest03:
    """The paths, over the same operations."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._routes: tuple[tuple[str, re.Pattern[str], Callable[..., Any]], ...] = tuple(
            (method, re.compile(pattern), endpoint)
            for method, pattern, endpoint in (
                ("POST", "/v1/message:send", self._send),
                ("POST", "/v1/message:stream", self._stream),
                ("POST", _TASK + ":cancel", self._cancel),
                ("POST", _TASK + ":subscribe", self._subscribe),
                ("GET", _TASK + ":subscribe", self._subscribe),
                ("GET", _TASK, self._get),
                ("POST", _CONFIGS, self._create_config),
                ("GET", _CONFIGS, self._list_configs),
                ("GET", _CONFIGS + "/([^/]+)", self._get_config),
                ("DELETE", _CONFIGS + "/([^/]+)", self._delete_config),
                ("GET", "/v1/card", self._card),
            )
        )

    def allowed(self, path: str) -> tuple[str, ...]:
        """The methods that a path takes."""
        return tuple(method for method, pattern, _ in self._routes if pattern.fullmatch(path))

    async def answer(
        self, method: str, path: str, query: QueryParams, body: dict[str, Any] | None, context: ServerCallContext,
        streams: Streams,
    ) -> ASGIApp | None:  # fmt: skip
        """The response; None where there is no such path, or it does not take the method. A2AError."""
        for takes, pattern, endpoint in self._routes:
            match = pattern.fullmatch(path)
            if match is None or takes != method or (endpoint == self._get and path.endswith((":cancel", ":subscribe"))):
                continue
            found = endpoint(context, query, body, *match.groups())
            if isinstance(found, AsyncGenerator):
                return await streamed(found, context, streams, lambda event: event, rest_error)
            return Answer(await found, headers=activated(context))
        return None

    async def _send(self, context: ServerCallContext, query: QueryParams, body: Any) -> Any:
        answer = to_answer(await self._operations.send(_message_of(body), context))
        return MessageToDict(ToProto.task_or_message(answer))

    async def _stream(self, context: ServerCallContext, query: QueryParams, body: Any) -> AsyncGenerator[Any]:
        async with aclosing(self._operations.stream(_message_of(body), context)) as responses:
            async for response in responses:
                yield MessageToDict(ToProto.stream_response(to_event(response)))

    async def _subscribe(
        self, context: ServerCallContext, query: QueryParams, body: Any, task: str
    ) -> AsyncGenerator[Any]:
        async with aclosing(self._operations.subscribe(pb.SubscribeToTaskRequest(id=task), context)) as responses:
            async for response in responses:
                yield MessageToDict(ToProto.stream_response(to_event(response)))

    async def _cancel(self, context: ServerCallContext, query: QueryParams, body: Any, task: str) -> Any:
        found = await self._operations.cancel_task(pb.CancelTaskRequest(id=task), context)
        return MessageToDict(ToProto.task(to_task(found)))

    async def _get(self, context: ServerCallContext, query: QueryParams, body: Any, task: str) -> Any:
        request = pb.GetTaskRequest(id=task)
        if said := query.get("historyLength"):
            if not (said.isascii() and said.isdecimal()) or len(said) > 9:
                raise InvalidParamsError("historyLength must be a number, and not negative")
            if int(said):  # 0 is no limit in 0.3
                request.history_length = int(said)
        return MessageToDict(ToProto.task(to_task(await self._operations.get_task(request, context))))

    async def _create_config(self, context: ServerCallContext, query: QueryParams, body: Any, task: str) -> Any:
        wire = _read(body, pb03.CreateTaskPushNotificationConfigRequest())
        with plainly():
            config = FromProto.push_notification_config(wire.config.push_notification_config)
            asked = v03.SetTaskPushNotificationConfigRequest(
                id="", params=v03.TaskPushNotificationConfig(task_id=task, push_notification_config=config)
            )
        request = to_core(asked, conversions.to_core_create_task_push_notification_config_request)
        request.id = request.id or wire.config_id
        return _config(await self._operations.create_push_config(request, context))

    async def _list_configs(self, context: ServerCallContext, query: QueryParams, body: Any, task: str) -> Any:
        request = pb.ListTaskPushNotificationConfigsRequest(task_id=task)
        listed = await self._operations.list_push_configs(request, context)
        return {"configs": [_config(one) for one in listed["configs"]]}

    async def _get_config(
        self, context: ServerCallContext, query: QueryParams, body: Any, task: str, ident: str
    ) -> Any:
        request = pb.GetTaskPushNotificationConfigRequest(task_id=task, id=ident)
        return _config(await self._operations.get_push_config(request, context))

    async def _delete_config(
        self, context: ServerCallContext, query: QueryParams, body: Any, task: str, ident: str
    ) -> Any:
        request = pb.DeleteTaskPushNotificationConfigRequest(task_id=task, id=ident)
        await self._operations.delete_push_config(request, context)
        return {}

    async def _card(self, context: ServerCallContext, query: QueryParams, body: Any) -> Any:
        return dump(to_card(await self._operations.extended_card(pb.GetExtendedAgentCardRequest(), context)))


def _message_of(body: Any) -> pb.SendMessageRequest:
    wire = _read(body, pb03.SendMessageRequest())
    with plainly():
        params = FromProto.message_send_params(wire)
        asked = v03.SendMessageRequest(id="", params=params)
    return to_core(asked, conversions.to_core_send_message_request)


def _read(body: Any, wire: Any) -> Any:
    if body is None:
        raise InvalidRequestError("the body is empty; send a JSON object")
    if (large := inexact(body)) is not None:
        raise InvalidParamsError(f"A2A's numbers cannot keep the integer {str(large)[:40]}; send it as a string")
    with plainly():
        return ParseDict(body, wire, ignore_unknown_fields=True)


def _config(config: Any) -> Any:
    return MessageToDict(ToProto.task_push_notification_config(to_push_config(config)))
