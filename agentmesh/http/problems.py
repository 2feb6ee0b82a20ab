"""Problems: every error over plain HTTP as RFC 9457 problem details, decided in one place: `to_problem`."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from agentmesh.core.json_text import write_json
from agentmesh.errors import (
    CallerError,
    Conflict,
    InvalidInput,
    MeshError,
    ModelError,
    ModelUnavailable,
    NotBuilt,
    NotFound,
    PolicyDenied,
    StepError,
    StoreError,
    TooLarge,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:agentmesh:problem:"
"""Prefix of a problem's `type`; what follows is the error's `code`."""
DETAIL = 2000
"""Longest `detail` of our own errors, in characters: they may quote what the caller sent."""

RETRY_AFTER = "2"
"""Seconds after which a caller may look whether the store answers again."""

JSON_RPC = ("/mcp", "/a2a")
OPENAI = "/v1/chat/"

STATUS: tuple[tuple[type[MeshError], int], ...] = (
    (InvalidInput, 422),
    (NotFound, 404),
    (PolicyDenied, 403),
    (TooLarge, 413),
    (Conflict, 409),
    (NotBuilt, 422),
    (CallerError, 400),
    (StepError, 422),
    (ModelError, 503),
    (StoreError, 503),
    (MeshError, 500),
)
"""The first class that fits decides."""


def to_problem(error: Exception) -> dict[str, Any]:
    """The problem details of an error. What is not ours is logged with an id, and the caller is shown the id only."""
    if isinstance(error, MeshError):
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("answered %d: %s", status, error.message)
        said = error.message if len(error.message) <= DETAIL else error.message[: DETAIL - 1] + "…"
        return problem(status, said, code=error.code, **error.data)
    if isinstance(error, HTTPException):
        return problem(error.status_code, error.detail)
    incident = str(uuid.uuid4())
    log.error("request failed, id %s", incident, exc_info=error)
    detail = f"the server failed at this; its log says why under id {incident}"
    return problem(500, detail, code="internal", id=incident)


def retry_headers(error: Exception) -> dict[str, str]:
    """`Retry-After` (RFC 9110 section 10.2.3) where trying again may help: the store or a model cannot be had now."""
    return {"Retry-After": RETRY_AFTER} if isinstance(error, StoreError | ModelUnavailable) else {}


def problem(status: int, detail: str, *, code: str | None = None, **data: Any) -> dict[str, Any]:
    """Problem details: the members of RFC 9457 section 3.1, our `code`, and `data` beside them."""
    title = HTTPStatus(status).phrase
    code = code or title.lower().replace(" ", "_").replace("-", "_")
    fixed = {"type": TYPE + code, "title": title, "status": status, "detail": detail, "code": code}
    return {**data, **fixed}


def refusal_response(path: str, refused: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """A refusal from before the edges, in the form of the protocol that is spoken at `path`.

    JSON-RPC at `/mcp` and `/a2a`: -32600, from 500 on what each has for a server that cannot; without the id that was not read (MCP
    leaves it out, JSON-RPC 2.0 section 5 says null).
    A `google.rpc.Status` under `/a2a/` (A2A 1.0.1 section 11.6). OpenAI's form at `/v1/chat/completions`. Problem details elsewhere. The
    HTTP status is the same in all.
    """
    where = path.rstrip("/")
    data = {k: v for k, v in refused.items() if k not in ("type", "title", "detail")}
    status = int(refused["status"])
    if where in JSON_RPC:
        id_ = {} if where == "/mcp" else {"id": None}
        code = -32600
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:  # not the request's fault
            code = -32004 if where == "/mcp" else -32603
        body: dict[str, Any] = {
            "jsonrpc": "2.0",
            **id_,
            "error": {"code": code, "message": refused["detail"], "data": data},
        }
    elif path.startswith("/a2a/"):
        word = "PERMISSION_DENIED" if status == HTTPStatus.FORBIDDEN else "INVALID_ARGUMENT"
        word = "UNAVAILABLE" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else word
        body = {"error": {"code": status, "status": word, "message": refused["detail"]}}
    elif path.startswith(OPENAI):
        body = openai_error(status, str(refused["detail"]), str(refused["code"]))
    else:
        return problem_response(refused, headers)
    return Response(write_json(body), status_code=status, headers=dict(headers or {}), media_type="application/json")


def openai_error(
    status: int, message: str, code: str, *, kind: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """The body of an error as OpenAI's API has it. `param`: the member of the request that it is about."""
    kind = kind or ("invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def problem_response(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(write_json(body), status_code=body["status"], headers=headers, media_type=MEDIA_TYPE)


async def on_error(request: Request, error: Exception) -> Response:
    """Exception handler for a Starlette or FastAPI application: `exception_handlers=HANDLERS`."""
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else retry_headers(error)
    if isinstance(error, HTTPException) and error.detail == HTTPStatus(error.status_code).phrase:
        if error.status_code == HTTPStatus.NOT_FOUND:
            error = HTTPException(404, f"there is nothing at {request.url.path}")
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(sorted(_methods(request))) or headers.get("Allow", "")
            detail = f"{request.url.path} does not take {request.method}; it takes {headers['Allow']}"
            error = HTTPException(405, detail)
    return problem_response(to_problem(error), headers)


def _methods(request: Request) -> set[str]:
    """What the path takes, by all routes of the application: the router tells the first one's methods only."""
    routes = [route for route in request.scope["app"].routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is Match.PARTIAL]
    return {method for route in matching for method in route.methods or ()}


HANDLERS: dict[Any, Any] = {MeshError: on_error, HTTPException: on_error, Exception: on_error}
"""For the root application and every sub-application, so that no path answers in another form."""
