"""The A2A server: JSON-RPC at `/a2a`, HTTP+JSON under it, the card at its well-known path.

The SDK's bindings lie behind a front that settles beforehand what they get wrong, so that a caller's mistake is
answered as A2A has it, in our words: the version is compared exactly and may stand in the query, the media type is
checked, JSON is read strictly, ids and methods and parameters have their types, and an unknown `status` is not taken
for "all".

Importing this costs half a second and 50 MB, nearly all of it the SDK: app.py does it in a thread.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import anyio.to_thread
from a2a.server.jsonrpc_models import JSONParseError
from a2a.server.request_handlers.response_helpers import build_error_response
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.server.routes.jsonrpc_routes import create_jsonrpc_routes
from a2a.server.routes.rest_routes import create_rest_routes
from a2a.types import a2a_pb2 as pb
from a2a.utils.error_handlers import build_rest_error_payload
from a2a.utils.errors import (
    A2AError,
    ContentTypeNotSupportedError,
    InvalidParamsError,
    InvalidRequestError,
    MethodNotFoundError,
    VersionNotSupportedError,
)
from a2a.utils.proto_utils import parse_params
from google.protobuf.json_format import ParseDict, ParseError
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentmesh.a2a.card import PROTOCOL, card_route
from agentmesh.a2a.handler import ContextBuilder, Handler
from agentmesh.core.json_text import inexact, parse_json, write_json
from agentmesh.core.run import JSON
from agentmesh.engine import Engine
from agentmesh.errors import InvalidInput
from agentmesh.settings import Settings

PREFIX = "/a2a"
VERSION_HEADER = "a2a-version"
MEDIA_TYPES = frozenset({"application/json", "application/a2a+json"})
LARGE = 64 * 1024
"""Bodies over this are parsed in a thread."""
REST_BODIES: tuple[tuple[str, type[Any]], ...] = (
    ("/message:send", pb.SendMessageRequest),
    ("/message:stream", pb.SendMessageRequest),
    ("/tasks/[^/]+/pushNotificationConfigs", pb.TaskPushNotificationConfig),
)
REST_QUERIES: tuple[tuple[str, type[Any]], ...] = (
    ("/tasks", pb.ListTasksRequest),
    ("/tasks/[^/:]+", pb.GetTaskRequest),
)
"""What the SDK reads from which path; the first pattern that fits."""
_FIELD = re.compile(r"Failed to parse (\w+) field")


def build_a2a(engine: Engine, settings: Settings, base_url: str) -> list[BaseRoute]:
    """The routes of the A2A edge, for the root application. `base_url`: where clients reach it, for the card."""
    # Whatever goes wrong is answered, and logged by us when it is our fault; the SDK would log each caller's mistake.
    logging.getLogger("a2a").setLevel(logging.CRITICAL)
    handler, contexts = Handler(engine), ContextBuilder()
    rpc = create_jsonrpc_routes(handler, PREFIX, contexts)
    # Without the SDK's root Mount("/{tenant}"): there are no tenants, and it would swallow every other path.
    rest = [r for r in create_rest_routes(handler, contexts, path_prefix=PREFIX) if not isinstance(r, Mount)]
    depth = settings.limits.json_depth
    rpc_front = RpcFront(Router(rpc, redirect_slashes=False), depth)
    rest_front = RestFront(Router(rest, redirect_slashes=False, default=_no_route), depth)
    return [
        Route(PREFIX, rpc_front),
        Route(PREFIX + "/", rpc_front),
        Route(PREFIX + "/{rest:path}", rest_front),
        card_route(engine, base_url.rstrip("/")),
    ]


class RpcFront:
    """JSON-RPC 2.0 over HTTP (A2A 1.0.1 section 9)."""

    def __init__(self, app: ASGIApp, depth: int) -> None:
        self._app = app
        self._depth = depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.method != "POST":
            refused = build_error_response(None, InvalidRequestError(f"A2A's JSON-RPC at {PREFIX} takes POST"))
            await _json(refused, 405, {"Allow": "POST"})(scope, receive, send)
            return
        ident: JSON = None
        try:
            if _media_type(request) != "application/json":
                raise ContentTypeNotSupportedError("send JSON-RPC with Content-Type: application/json")
            body = await request.body()
            try:
                call = await _parse(body, self._depth)
            except InvalidInput as error:
                unread = JSONParseError(message=error.message)
                await _json(build_error_response(None, unread), 200)(scope, receive, send)
                return
            ident = _ident(call)
            _check_envelope(call)
            _check_version(scope)
            self._check_params(call)
        except A2AError as error:
            status = 415 if isinstance(error, ContentTypeNotSupportedError) else 200
            response: ASGIApp = _json(build_error_response(ident, error), status)
            await response(scope, receive, send)
            return
        path_scope = {**scope, "path": PREFIX, "raw_path": PREFIX.encode()}
        await self._app(_with_version(path_scope), _replay(body, receive), send)

    def _check_params(self, call: Mapping[str, Any]) -> None:
        model = JsonRpcDispatcher.METHOD_TO_MODEL.get(call["method"])
        if model is None:
            raise MethodNotFoundError(f"A2A {PROTOCOL} has no method {call['method'][:100]!r}")
        params = call.get("params", {})
        if not isinstance(params, dict):
            raise InvalidParamsError("params must be an object")
        _check_fields(params, model)


class RestFront:
    """HTTP+JSON (A2A 1.0.1 section 11)."""

    def __init__(self, app: ASGIApp, depth: int) -> None:
        self._app = app
        self._depth = depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = scope["path"].removeprefix(PREFIX)
        body = await request.body()
        try:
            _check_version(scope)
            if body:
                if _media_type(request) not in MEDIA_TYPES:
                    raise ContentTypeNotSupportedError("send bodies as application/a2a+json")
                try:
                    value = await _parse(body, self._depth)
                except InvalidInput as error:
                    raise InvalidRequestError(error.message) from None
                if not isinstance(value, dict):
                    raise InvalidRequestError("the body must be a JSON object")
                if model := _model(REST_BODIES, path):
                    _check_fields(value, model)
            elif request.method == "POST" and _model(REST_BODIES, path):
                raise InvalidRequestError("the body is empty; send a JSON object")
            if request.method == "GET" and (model := _model(REST_QUERIES, path)):
                _check_query(request.query_params, model)
        except A2AError as error:
            payload = build_rest_error_payload(error)
            if isinstance(error, ContentTypeNotSupportedError):
                payload["error"]["code"] = 415
            await _json(payload, payload["error"]["code"])(scope, receive, send)
            return
        try:
            await self._app(_with_version(scope), _replay(body, receive), send)
        except HTTPException as error:  # the router's: a method that the path does not take
            said = f"{scope['path'][:200]} does not take {request.method}"
            await _status(error.status_code, "UNIMPLEMENTED", said, error.headers)(scope, receive, send)


def _ident(call: JSON) -> str | int | None:
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


def _check_version(scope: Scope) -> None:
    """Major.Minor must be ours (A2A 1.0.1 section 3.6.2); no version at all means 0.3, which is not offered."""
    version = _version(scope)
    if version is None:
        raise VersionNotSupportedError(f"no A2A-Version means 0.3; this agent speaks {PROTOCOL}: send A2A-Version: 1.0")
    if not re.fullmatch(rf"{re.escape(PROTOCOL)}(\.\d{{1,4}})?", version):
        raise VersionNotSupportedError(f"A2A version {version[:40]!r} is not offered; this agent speaks {PROTOCOL}")


def _version(scope: Scope) -> str | None:
    """The header, else the query parameter of the same name."""
    header: str | None = Headers(scope=scope).get(VERSION_HEADER)
    if header is not None:
        return header.strip() or None
    for name, value in parse_qsl(scope["query_string"].decode("latin-1")):
        if name.lower() == VERSION_HEADER:
            return value.strip() or None
    return None


def _with_version(scope: Scope) -> Scope:
    """The request with its version where the SDK looks for it, in the form that it knows."""
    headers = [(k, v) for k, v in scope["headers"] if k != VERSION_HEADER.encode()]
    return {**scope, "headers": [*headers, (VERSION_HEADER.encode(), PROTOCOL.encode())]}


def _check_fields(params: Mapping[str, Any], model: type[Any]) -> None:
    """Parameters that fit their message, in words without Python's; unknown fields are let pass (section 5.7)."""
    if (large := inexact(dict(params))) is not None:
        raise InvalidParamsError(f"A2A's numbers cannot keep the integer {str(large)[:40]}; send it as a string")
    if model is pb.ListTasksRequest:
        _check_status(params.get("status"))
    with _plainly():
        ParseDict(params, model(), ignore_unknown_fields=True)


def _check_query(query: QueryParams, model: type[Any]) -> None:
    """The same for parameters in a query."""
    if model is pb.ListTasksRequest:
        _check_status(query.get("status"))
    with _plainly():
        parse_params(query, model())


def _model(patterns: Iterable[tuple[str, type[Any]]], path: str) -> type[Any] | None:
    return next((model for pattern, model in patterns if re.fullmatch(pattern, path)), None)


@contextmanager
def _plainly() -> Iterator[None]:
    """What protobuf says of a value that does not fit, without Python's words."""
    try:
        yield
    except (ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        path = ".".join(_FIELD.findall(str(error))) or "params"
        deep = isinstance(error, RecursionError) or "too deep" in str(error)
        raise InvalidParamsError(f"{path} " + ("is nested too deep" if deep else "has a wrong type or form")) from None


def _check_status(status: object) -> None:
    if status is not None and status not in pb.TaskState.keys():  # noqa: SIM118 - an enum wrapper, not a dict
        there_are = ", ".join(pb.TaskState.keys()[1:])
        raise InvalidParamsError(f"there is no status {str(status)[:60]!r}; there are: {there_are}")


async def _parse(body: bytes, depth: int) -> JSON:
    read = partial(parse_json, body, depth=depth)
    return await anyio.to_thread.run_sync(read) if len(body) > LARGE else read()


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _json(body: Mapping[str, Any], status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(write_json(body), status_code=status, headers=headers, media_type="application/json")


def _status(code: int, status: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """google.rpc.Status, as the binding's other errors are (A2A 1.0.1 section 11.6)."""
    error = {"code": code, "status": status, "message": message, "details": []}
    return _json({"error": error}, code, headers)


def _replay(body: bytes, then: Receive) -> Receive:
    """A `receive` that gives the body again, then what `then` gives."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await then()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    await _status(404, "NOT_FOUND", f"there is nothing at {scope['path'][:200]}")(scope, receive, send)
