"""The wires of A2A 0.3 over HTTP: JSON-RPC and HTTP+JSON in its words, made into those of 1.0 by the SDK's own conversions."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from a2a.compat.v0_3 import a2a_v0_3_pb2, conversions, proto_utils
from a2a.compat.v0_3 import types as v03
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from pydantic import ValidationError

from agentmesh.adapters.upstream_a2a_errors import NotOffered
from agentmesh.adapters.upstream_a2a_http import PeerHttp
from agentmesh.adapters.upstream_a2a_pb import from_pb, sending
from agentmesh.adapters.upstream_a2a_wire import Ask, JsonRpc, Method, Rest
from agentmesh.core.agent import Json
from agentmesh.core.json_text import write_json
from agentmesh.errors import Fail

METHODS: Final = {
    "SendMessage": "message/send", "SendStreamingMessage": "message/stream", "GetTask": "tasks/get",
    "CancelTask": "tasks/cancel", "SubscribeToTask": "tasks/resubscribe",
    "GetExtendedAgentCard": "agent/getAuthenticatedExtendedCard",
}  # fmt: skip
_BROKEN = (ParseError, ValidationError, ValueError, TypeError, AttributeError, KeyError, RecursionError)
_KINDS: Final[dict[str, Any]] = {
    "task": v03.Task, "message": v03.Message, "status-update": v03.TaskStatusUpdateEvent,
    "artifact-update": v03.TaskArtifactUpdateEvent,
}  # fmt: skip


def legacy(headers: dict[str, str]) -> dict[str, str]:
    """Headers of 0.3: extensions were named in another one."""
    if "a2a-extensions" in headers:
        headers["x-a2a-extensions"] = headers["a2a-extensions"]
    return headers


class JsonRpc03(JsonRpc):
    """JSON-RPC of 0.3."""

    version = "0.3"

    def _plain(self, ask: Ask) -> dict[str, str]:
        return legacy(super()._plain(ask))

    def _streamed(self, ask: Ask) -> dict[str, str]:
        return legacy(super()._streamed(ask))

    def _request(self, method: str, params: Json) -> tuple[str, bytes]:
        ident = str(next(self._numbers))
        if method not in METHODS:
            raise NotOffered(f"the agent speaks A2A 0.3, which has no {method}")
        given = dict(params) if method not in {"SendMessage", "SendStreamingMessage"} else _request_of(params)
        return ident, write_json({"jsonrpc": "2.0", "id": ident, "method": METHODS[method], "params": given})

    def _read(self, method: Method, result: Any) -> Any:
        if method == "GetExtendedAgentCard":
            return result
        try:
            if method == "SendMessage":
                return from_pb(_event(result))
            return from_pb(conversions.to_core_task(v03.Task.model_validate(result)))
        except _BROKEN as error:
            raise _unreadable(error) from None

    def _read_event(self, result: Any) -> Json:
        try:
            found: Json = from_pb(_event(result))
        except _BROKEN as error:
            raise _unreadable(error) from None
        return found


class Rest03(Rest):
    """HTTP+JSON of 0.3."""

    version = "0.3"

    def __init__(self, http: PeerHttp, url: str, tenant: str) -> None:
        super().__init__(http, url, "")  # 0.3 knows no tenant

    def _plain(self, ask: Ask) -> dict[str, str]:
        return legacy(super()._plain(ask))

    def _streamed(self, ask: Ask) -> dict[str, str]:
        return legacy(super()._streamed(ask))

    def _request(self, method: str, params: Json) -> tuple[str, str, bytes | None]:
        if method in {"SendMessage", "SendStreamingMessage"}:
            asked = conversions.to_compat_send_message_request(sending(params), request_id=0).params
            request = a2a_v0_3_pb2.SendMessageRequest(
                request=proto_utils.ToProto.message(asked.message),
                configuration=proto_utils.ToProto.message_send_configuration(asked.configuration),
                metadata=proto_utils.ToProto.metadata(asked.metadata),
            )
            body = write_json(MessageToDict(request))
            return "POST", "/v1/message:send" if method == "SendMessage" else "/v1/message:stream", body
        if method == "GetExtendedAgentCard":
            return "GET", "/v1/card", None
        if method == "ListTasks":
            raise NotOffered("the agent speaks A2A 0.3, which has no ListTasks")
        path = f"/v1/tasks/{quote(str(params['id']), safe='')}"
        if method == "GetTask":
            length = params.get("historyLength")
            return "GET", path + (f"?historyLength={length}" if length is not None else ""), None
        return ("POST", f"{path}:subscribe", None) if method == "SubscribeToTask" else ("POST", f"{path}:cancel", b"{}")

    def _read(self, method: Method, result: Any) -> Any:
        if method == "GetExtendedAgentCard":
            return result
        try:
            if method == "SendMessage":
                answer = ParseDict(result, a2a_v0_3_pb2.SendMessageResponse(), ignore_unknown_fields=True)
                if answer.WhichOneof("payload") == "task":
                    return {"task": from_pb(conversions.to_core_task(proto_utils.FromProto.task(answer.task)))}
                return {"message": from_pb(conversions.to_core_message(proto_utils.FromProto.message(answer.msg)))}
            task = ParseDict(result, a2a_v0_3_pb2.Task(), ignore_unknown_fields=True)
            return from_pb(conversions.to_core_task(proto_utils.FromProto.task(task)))
        except _BROKEN as error:
            raise _unreadable(error) from None

    def _read_event(self, result: Any) -> Json:
        try:
            event = ParseDict(result, a2a_v0_3_pb2.StreamResponse(), ignore_unknown_fields=True)
            found = v03.SendStreamingMessageSuccessResponse(result=proto_utils.FromProto.stream_response(event))
            read: Json = from_pb(conversions.to_core_stream_response(found))
        except _BROKEN as error:
            raise _unreadable(error) from None
        return read


def _request_of(params: Json) -> Any:
    """What a message is sent with."""
    asked = conversions.to_compat_send_message_request(sending(params), request_id=0)
    return asked.params.model_dump(by_alias=True, exclude_none=True, mode="json")


def _event(result: Any) -> pb.StreamResponse:
    """A result of 0.3, told by its `kind`, or by what it has where an agent leaves that out."""
    kind = result.get("kind")
    if kind is None:
        has = result.keys()
        kind = (
            "status-update" if "taskId" in has and "status" in has else "artifact-update" if "artifact" in has
            else "message" if "messageId" in has else "task"
        )  # fmt: skip
    found: Any = _KINDS[kind].model_validate(result)
    return conversions.to_core_stream_response(v03.SendStreamingMessageSuccessResponse(result=found))


def _unreadable(error: Exception) -> Fail:
    if isinstance(error, Fail):
        return error
    return Fail(f"the agent answered with what cannot be read: {' '.join(str(error).split())[:300]}")
