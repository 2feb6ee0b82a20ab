"""JSON-RPC of version 0.3: its methods, at the address of 1.0's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3 import types as v03
from a2a.server.context import ServerCallContext
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError, InvalidParamsError
from starlette.types import ASGIApp

from agentmesh.a2a.answer import Answer, activated, streamed
from agentmesh.a2a.errors import no_method, rpc_error
from agentmesh.a2a.operations import Operations
from agentmesh.a2a.request import V03, at_leisure
from agentmesh.a2a.stream import Streams
from agentmesh.a2a.v03 import dump, read_model, to_answer, to_card, to_core, to_events, to_push_config, to_task

Row = tuple[Any, Callable[[Any], Any], Callable[[Operations], Callable[..., Any]], Callable[[Any], Any]]

METHODS: Final[Mapping[str, Row]] = {
    "message/send": (v03.SendMessageRequest, conversions.to_core_send_message_request, lambda o: o.send, to_answer),
    "message/stream": (
        v03.SendStreamingMessageRequest, conversions.to_core_send_message_request, lambda o: o.stream, to_events,
    ),
    "tasks/get": (v03.GetTaskRequest, conversions.to_core_get_task_request, lambda o: o.get_task, to_task),
    "tasks/cancel": (v03.CancelTaskRequest, conversions.to_core_cancel_task_request, lambda o: o.cancel_task, to_task),
    "tasks/resubscribe": (
        v03.TaskResubscriptionRequest, conversions.to_core_subscribe_to_task_request, lambda o: o.subscribe, to_events,
    ),
    "tasks/pushNotificationConfig/set": (
        v03.SetTaskPushNotificationConfigRequest, conversions.to_core_create_task_push_notification_config_request,
        lambda o: o.create_push_config, to_push_config,
    ),
    "tasks/pushNotificationConfig/get": (
        v03.GetTaskPushNotificationConfigRequest, conversions.to_core_get_task_push_notification_config_request,
        lambda o: o.get_push_config, to_push_config,
    ),
    "tasks/pushNotificationConfig/list": (
        v03.ListTaskPushNotificationConfigRequest, conversions.to_core_list_task_push_notification_config_request,
        lambda o: o.list_push_configs, lambda listed: [to_push_config(one) for one in listed["configs"]],
    ),
    "tasks/pushNotificationConfig/delete": (
        v03.DeleteTaskPushNotificationConfigRequest, conversions.to_core_delete_task_push_notification_config_request,
        lambda o: o.delete_push_config, lambda _: None,
    ),
    "agent/getAuthenticatedExtendedCard": (
        v03.GetAuthenticatedExtendedCardRequest, lambda _: pb.GetExtendedAgentCardRequest(),
        lambda o: o.extended_card, to_card,
    ),
}  # fmt: skip
STREAMING: Final = frozenset({"message/stream", "tasks/resubscribe"})


class Rpc03:
    """The methods, over the same operations."""

    def __init__(self, operations: Operations, streams: Streams) -> None:
        self._operations = operations
        self._streams = streams

    async def answer(
        self, ident: str | int | None, method: str, params: Any, context: ServerCallContext, size: int
    ) -> ASGIApp:
        """The response to a call whose envelope has been checked. `size`: of its body. A2AError."""
        row = METHODS.get(method)
        if row is None:
            raise no_method(method, V03)
        model, convert, operation_of, show = row
        if not isinstance(params, dict):
            raise InvalidParamsError("params must be an object")
        call = {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}
        request = await at_leisure(size, lambda: to_core(read_model(call, model), convert))
        operation = operation_of(self._operations)
        if method in STREAMING:
            return await streamed(
                show(operation(request, context)), context, self._streams, lambda event: _result(ident, dump(event)),
                lambda error: _error(ident, error),
            )  # fmt: skip
        found = show(await operation(request, context))
        shown = [dump(one) for one in found] if isinstance(found, list) else None if found is None else dump(found)
        return Answer(_result(ident, shown), headers=activated(context))


def _result(ident: str | int | None, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "result": result}


def _error(ident: str | int | None, error: A2AError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "error": rpc_error(error)}
