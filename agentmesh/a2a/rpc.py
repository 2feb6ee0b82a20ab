"""JSON-RPC 2.0 over HTTP (A2A 1.0.1 section 9), both versions at one address."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError, InvalidParamsError, InvalidRequestError, JSONParseError
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh.a2a.answer import Answer, activated, headers_for, streamed
from agentmesh.a2a.errors import (
    AgentNotFoundError,
    MethodNotAllowedError,
    UnsupportedMediaTypeError,
    code_of,
    no_method,
    rpc_error,
    to_a2a_error,
)
from agentmesh.a2a.operations import Operations
from agentmesh.a2a.request import (
    V03,
    V1,
    at_leisure,
    context_of,
    media_type,
    read_json,
    read_params,
    version_of,
    version_said,
)
from agentmesh.a2a.stream import Streams
from agentmesh.a2a.v03_rpc import Rpc03
from agentmesh.core.run import JSON
from agentmesh.errors import InvalidInput

Ident = str | int | None

METHODS: Final[Mapping[str, tuple[type[Any], Callable[[Operations], Callable[..., Any]]]]] = {
    "SendMessage": (pb.SendMessageRequest, lambda o: o.send),
    "SendStreamingMessage": (pb.SendMessageRequest, lambda o: o.stream),
    "GetTask": (pb.GetTaskRequest, lambda o: o.get_task),
    "ListTasks": (pb.ListTasksRequest, lambda o: o.list_tasks),
    "CancelTask": (pb.CancelTaskRequest, lambda o: o.cancel_task),
    "SubscribeToTask": (pb.SubscribeToTaskRequest, lambda o: o.subscribe),
    "CreateTaskPushNotificationConfig": (pb.TaskPushNotificationConfig, lambda o: o.create_push_config),
    "GetTaskPushNotificationConfig": (pb.GetTaskPushNotificationConfigRequest, lambda o: o.get_push_config),
    "ListTaskPushNotificationConfigs": (pb.ListTaskPushNotificationConfigsRequest, lambda o: o.list_push_configs),
    "DeleteTaskPushNotificationConfig": (pb.DeleteTaskPushNotificationConfigRequest, lambda o: o.delete_push_config),
    "GetExtendedAgentCard": (pb.GetExtendedAgentCardRequest, lambda o: o.extended_card),
}
STREAMING: Final = frozenset({"SendStreamingMessage", "SubscribeToTask"})


class Rpc:
    """The binding, at the address of the mesh or of one agent."""

    def __init__(self, operations: Operations, v03: Rpc03, streams: Streams, depth: int) -> None:
        self._operations = {name: (model, of(operations)) for name, (model, of) in METHODS.items()}
        self._v03 = v03
        self._streams = streams
        self._depth = depth
        self._versions = operations.versions

    async def __call__(self, scope: Scope, receive: Receive, send: Send, agent: str | None) -> None:
        ident: Ident = None
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowedError("A2A's JSON-RPC takes POST at this address")
            if media_type(scope) != "application/json":
                raise UnsupportedMediaTypeError("send JSON-RPC with Content-Type: application/json")
            body = await Request(scope, receive).body()
            try:
                call = await read_json(body, self._depth)
            except InvalidInput as error:
                raise JSONParseError(error.message) from None
            ident = _ident(call)
            _check_envelope(call)
            answer = await self._answer(scope, ident, call, agent, len(body))
        except Exception as raised:
            answer = _refusal(ident, to_a2a_error(raised), agent)
        await answer(scope, receive, send)

    async def _answer(
        self, scope: Scope, ident: Ident, call: Mapping[str, Any], agent: str | None, size: int
    ) -> ASGIApp:
        version = version_of(version_said(scope), self._versions())
        context = context_of(scope, agent, version)
        method, params = call["method"], call.get("params", {})
        if version == V03:
            return await self._v03.answer(ident, method, params, context, size)
        known = self._operations.get(method)
        if known is None:
            raise no_method(method, V1)
        model, operation = known
        if not isinstance(params, dict):
            raise InvalidParamsError("params must be an object")
        request = await at_leisure(size, lambda: read_params(params, model))
        if method in STREAMING:
            return await streamed(
                operation(request, context), context, self._streams, lambda event: _result(ident, event),
                lambda error: _error(ident, error),
            )  # fmt: skip
        return Answer(_result(ident, await operation(request, context)), headers=activated(context))


def _result(ident: Ident, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "result": result}


def _error(ident: Ident, error: A2AError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "error": rpc_error(error)}


def _refusal(ident: Ident, error: A2AError, agent: str | None) -> Answer:
    """HTTP says 200 to what JSON-RPC has an error for; but not where there is no such address, method or media type."""
    status = 200
    if isinstance(error, MethodNotAllowedError):
        return Answer(_error(ident, error), 405, headers_for(error, allow="POST"))
    if isinstance(error, UnsupportedMediaTypeError):
        status = 415
    elif isinstance(error, AgentNotFoundError) and agent is not None:
        status = 404
    assert code_of(error)
    return Answer(_error(ident, error), status, headers_for(error))


def _ident(call: JSON) -> Ident:
    """The id to answer under; None where there is none that can be one."""
    ident = call.get("id") if isinstance(call, dict) else None
    return ident if isinstance(ident, (str, int)) and not isinstance(ident, bool) else None


def _check_envelope(call: JSON) -> None:
    """One JSON-RPC 2.0 request (section 4)."""
    if isinstance(call, list):
        raise InvalidRequestError("batches are not part of A2A; send one request object")
    if not isinstance(call, dict):
        raise InvalidRequestError("the body must be one JSON-RPC request object")
    if call.get("jsonrpc") != "2.0":
        raise InvalidRequestError('`jsonrpc` must be "2.0"')
    if _ident(call) is None:
        raise InvalidRequestError("`id` must be a string or an integer; A2A has no notifications")
    if not isinstance(call.get("method"), str):
        raise InvalidRequestError("`method` must be a string")
