"""HTTP+JSON (A2A 1.0.1 section 11): both versions below one address, 0.3 under `/v1`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import A2AError, InvalidParamsError, InvalidRequestError, VersionNotSupportedError
from google.protobuf.json_format import ParseDict
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh.a2a.answer import A2A_TYPE, JSON_TYPE, Answer, activated, headers_for, streamed
from agentmesh.a2a.errors import (
    MethodNotAllowedError,
    UnsupportedMediaTypeError,
    details_of,
    mapping_of,
    rest_error,
    to_a2a_error,
)
from agentmesh.a2a.operations import Operations
from agentmesh.a2a.request import (
    V03,
    V1,
    at_leisure,
    check_status,
    context_of,
    media_type,
    plainly,
    read_json,
    read_params,
    version_of,
    version_said,
)
from agentmesh.a2a.stream import Streams
from agentmesh.a2a.v03_rest import Rest03
from agentmesh.core.run import JSON
from agentmesh.errors import InvalidInput

MEDIA_TYPES: Final = frozenset({JSON_TYPE, A2A_TYPE})
OF_03: Final = "/v1/"
"""Where version 0.3 begins."""
Operation = Callable[[Operations], Callable[..., Any]]
Row = tuple[str, tuple[str, ...], str, type[Any], Operation]

ROUTES: Final[tuple[Row, ...]] = (
    ("POST", (), r"/message:send", pb.SendMessageRequest, lambda o: o.send),
    ("POST", (), r"/message:stream", pb.SendMessageRequest, lambda o: o.stream),
    ("GET", (), r"/tasks", pb.ListTasksRequest, lambda o: o.list_tasks),
    ("POST", ("id",), r"/tasks/([^/]+):cancel", pb.CancelTaskRequest, lambda o: o.cancel_task),
    ("GET", ("id",), r"/tasks/([^/]+):subscribe", pb.SubscribeToTaskRequest, lambda o: o.subscribe),
    ("POST", ("id",), r"/tasks/([^/]+):subscribe", pb.SubscribeToTaskRequest, lambda o: o.subscribe),
    ("GET", ("id",), r"/tasks/([^/]+)", pb.GetTaskRequest, lambda o: o.get_task),
    (
        "POST", ("task_id",), r"/tasks/([^/]+)/pushNotificationConfigs", pb.TaskPushNotificationConfig,
        lambda o: o.create_push_config,
    ),
    (
        "GET", ("task_id",), r"/tasks/([^/]+)/pushNotificationConfigs", pb.ListTaskPushNotificationConfigsRequest,
        lambda o: o.list_push_configs,
    ),
    (
        "GET", ("task_id", "id"), r"/tasks/([^/]+)/pushNotificationConfigs/([^/]+)",
        pb.GetTaskPushNotificationConfigRequest, lambda o: o.get_push_config,
    ),
    (
        "DELETE", ("task_id", "id"), r"/tasks/([^/]+)/pushNotificationConfigs/([^/]+)",
        pb.DeleteTaskPushNotificationConfigRequest, lambda o: o.delete_push_config,
    ),
    ("GET", (), r"/extendedAgentCard", pb.GetExtendedAgentCardRequest, lambda o: o.extended_card),
)  # fmt: skip
"""Method, what the path's groups are, path, message, operation (section 11.3; a2a.proto has SubscribeToTask as GET, 5.3 as POST)."""
NEEDS_BODY: Final = frozenset({pb.SendMessageRequest, pb.TaskPushNotificationConfig})


class NothingHere(Exception):
    """No route has that path, or none that method. `allow`: the methods that it takes."""

    def __init__(self, allow: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.allow = allow


class Rest:
    """The binding, below the address of the mesh or of one agent."""

    def __init__(self, operations: Operations, v03: Rest03, streams: Streams, depth: int) -> None:
        self._routes = [
            (method, names, re.compile(pattern), model, of(operations)) for method, names, pattern, model, of in ROUTES
        ]
        self._v03 = v03
        self._streams = streams
        self._depth = depth
        self._versions = operations.versions

    async def __call__(self, scope: Scope, receive: Receive, send: Send, agent: str | None, path: str) -> None:
        """`path`: below the address."""
        legacy = path.startswith(OF_03)
        try:
            answer = await self._answer(scope, receive, agent, path)
        except NothingHere as nothing:
            answer = _nothing(scope, nothing, legacy=legacy)
        except Exception as raised:
            answer = refusal(to_a2a_error(raised), legacy=legacy)
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, agent: str | None, path: str) -> ASGIApp:
        version = version_of(version_said(scope), self._versions())
        context = context_of(scope, agent, version)
        query = QueryParams(scope["query_string"].decode("latin-1"))
        if path.startswith(OF_03):
            if version != V03:
                raise VersionNotSupportedError(
                    f"paths below {OF_03} are A2A {V03}'s; those of {version} have none before"
                )
            body, _ = await self._body(scope, receive)
            found = await self._v03.answer(scope["method"], path, query, body, context, self._streams)
            if found is None:
                raise NothingHere(self._v03.allowed(path))
            return found
        method, match, names, model, operation = self._match(scope["method"], path)
        if version != V1:
            raise VersionNotSupportedError(
                f"no A2A-Version means {V03}, whose paths begin with {OF_03}; for this one send A2A-Version: {V1}"
            )
        given, size = await self._body(scope, receive) if method == "POST" else (None, 0)
        if given is None and model in NEEDS_BODY and method == "POST":
            raise InvalidRequestError("the body is empty; send a JSON object")
        if given is None:
            request = read_query(query, model)
        else:
            request = await at_leisure(size, partial(read_params, given, model))
        for name, value in zip(names, match.groups(), strict=True):
            setattr(request, name, value)
        if inspect.isasyncgenfunction(operation):
            return await streamed(operation(request, context), context, self._streams, _as_it_is, rest_error)
        result = await operation(request, context)
        return Answer({} if result is None else result, headers=activated(context), media=A2A_TYPE)

    def _match(
        self, method: str, path: str
    ) -> tuple[str, re.Match[str], tuple[str, ...], type[Any], Callable[..., Any]]:
        allow = []
        for takes, names, pattern, model, operation in self._routes:
            match = pattern.fullmatch(path)
            if match is None or (model is pb.GetTaskRequest and path.endswith((":cancel", ":subscribe"))):
                continue
            if takes == method:
                return takes, match, names, model, operation
            allow.append(takes)
        raise NothingHere(tuple(allow))

    async def _body(self, scope: Scope, receive: Receive) -> tuple[dict[str, Any] | None, int]:
        """The object that was sent, None when there is no body; and of how many bytes."""
        body = await Request(scope, receive).body()
        if not body:
            return None, 0
        if media_type(scope) not in MEDIA_TYPES:
            raise UnsupportedMediaTypeError(f"send bodies as {A2A_TYPE}")
        try:
            value: JSON = await read_json(body, self._depth)
        except InvalidInput as error:
            raise InvalidRequestError(error.message) from None
        if not isinstance(value, dict):
            raise InvalidRequestError("the body must be a JSON object")
        return value, len(body)


def read_query(query: QueryParams, model: type[Any]) -> Any:
    """Parameters in a query (section 11.5); those that are no field are let pass."""
    fields = {field.camelcase_name: field for field in model.DESCRIPTOR.fields}
    given: dict[str, Any] = {}
    for name in query:
        field = fields.get(name)
        if field is None:
            continue
        values = query.getlist(name)
        if len(values) > 1:
            raise InvalidParamsError(f"{name} is given {len(values)} times; send it once")
        given[name] = values[0]
        if field.type == field.TYPE_BOOL:
            if values[0].lower() not in ("true", "false"):
                raise InvalidParamsError(f"{name} must be true or false")
            given[name] = values[0].lower() == "true"
    if model is pb.ListTasksRequest:
        check_status(given.get("status"))
    with plainly():
        return ParseDict(given, model(), ignore_unknown_fields=True)


def refusal(error: A2AError, *, legacy: bool = False) -> Answer:
    """An error with its HTTP status. Clients of 0.3 read its class and words beside google.rpc.Status."""
    body = rest_error(error)
    if legacy:
        body |= {"type": type(error).__name__, "message": str(error)}
    return Answer(body, mapping_of(error).http_code, headers_for(error), media=JSON_TYPE if legacy else A2A_TYPE)


def _nothing(scope: Scope, nothing: NothingHere, *, legacy: bool) -> Answer:
    where = scope["path"][:200]
    if nothing.allow:
        error = MethodNotAllowedError(f"{where} does not take {scope['method']}")
        allow = ", ".join(dict.fromkeys(nothing.allow))
        return Answer(rest_error(error), 405, {"allow": allow}, media=JSON_TYPE if legacy else A2A_TYPE)
    said: Mapping[str, Any] = {"code": 404, "status": "NOT_FOUND", "message": f"there is nothing at {where}"}
    details = [{**details_of(MethodNotAllowedError())[0], "reason": "NOT_FOUND"}]
    return Answer({"error": {**said, "details": details}}, 404, media=JSON_TYPE if legacy else A2A_TYPE)


def _as_it_is(event: Any) -> Any:
    return event
