"""Every error as A2A's, decided in one place, `to_a2a_error`; and A2A's errors as each binding over HTTP has them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from a2a.utils.errors import (
    A2A_ERROR_MAPPING,
    JSON_RPC_ERROR_CODE_MAP,
    A2AError,
    ContentTypeNotSupportedError,
    ErrorMapping,
    InternalError,
    InvalidParamsError,
    JSONParseError,
    MethodNotFoundError,
    TaskNotFoundError,
    UnsupportedOperationError,
)

from agentmesh.core.json_text import write_json
from agentmesh.errors import (
    CallerError,
    Conflict,
    InvalidInput,
    MeshError,
    NotBuilt,
    NotFound,
    PolicyDenied,
    StoreError,
    TooLarge,
    UnsupportedMedia,
)

log = logging.getLogger(__name__)

DOMAIN = "a2a-protocol.org"
MESSAGE = 2000
"""Longest error message, in characters."""
RETRY_AFTER = "1"
"""Seconds after which a caller may try again when the mesh is unavailable."""


class PermissionDeniedError(A2AError):
    """A policy says no. A2A names no error for it; HTTP and gRPC do, and JSON-RPC leaves -32000 to servers."""

    message = "Permission denied"


class UnavailableError(A2AError):
    """The mesh cannot serve anybody now; its store fails, for one. A2A names no error for it; HTTP and gRPC do."""

    message = "Unavailable"


class AgentNotFoundError(A2AError):
    """There is no such agent at this address (or not theirs to see). To JSON-RPC it is a wrong parameter, which `tenant` is there."""

    message = "Agent not found"


class MethodNotAllowedError(A2AError):
    """The path is there, and does not take that method of HTTP."""

    message = "Method not allowed"


class UnsupportedMediaTypeError(A2AError):
    """The body is of another media type than the binding has. HTTP's 415; A2A's error for the types of parts is the next one to it."""

    message = "Unsupported media type"


OWN: Mapping[type[A2AError], tuple[int, ErrorMapping]] = {
    UnavailableError: (-32050, ErrorMapping(503, "UNAVAILABLE", "UNAVAILABLE")),
    PermissionDeniedError: (-32000, ErrorMapping(403, "PERMISSION_DENIED", "PERMISSION_DENIED")),
    AgentNotFoundError: (-32602, ErrorMapping(404, "NOT_FOUND", "AGENT_NOT_FOUND")),
    MethodNotAllowedError: (-32600, ErrorMapping(405, "UNIMPLEMENTED", "METHOD_NOT_ALLOWED")),
    UnsupportedMediaTypeError: (-32005, ErrorMapping(415, "INVALID_ARGUMENT", "CONTENT_TYPE_NOT_SUPPORTED")),
    JSONParseError: (-32700, ErrorMapping(400, "INVALID_ARGUMENT", "INVALID_JSON")),
}
"""What the SDK has no row for. Its own tables stay as they are: its clients, which this process has too, read them backwards."""

ERRORS: tuple[tuple[type[MeshError], type[A2AError]], ...] = (
    (InvalidInput, InvalidParamsError),
    (NotFound, InvalidParamsError),
    (PolicyDenied, PermissionDeniedError),
    (TooLarge, InvalidParamsError),
    (UnsupportedMedia, ContentTypeNotSupportedError),
    (Conflict, UnsupportedOperationError),
    (NotBuilt, UnsupportedOperationError),
    (CallerError, InvalidParamsError),
)
"""The first class that fits decides; what is not the caller's fault is an InternalError."""
TASK_ERRORS: Mapping[type[MeshError], type[A2AError]] = {NotFound: TaskNotFoundError}
"""The same where the request named a task."""


def to_a2a_error(error: Exception, *, task: bool = False) -> A2AError:
    """An error as A2A has it. `task`: the request named one.

    What is not the caller's is logged with an id, and only that goes out.
    """
    if isinstance(error, A2AError):
        return error
    if isinstance(error, CallerError):
        kind = TASK_ERRORS.get(type(error)) if task else None
        kind = kind or next(wire for ours, wire in ERRORS if isinstance(error, ours))
        return kind(message=cut(error.message), data={"code": error.code, **_strings(error.data)})
    if isinstance(error, StoreError):
        log.warning("answered that the mesh is unavailable: %s", error.message)
        return UnavailableError(message=f"{cut(error.message)}; try again in a moment", data={"code": error.code})
    incident = str(uuid.uuid4())
    log.error("A2A request failed, id %s", incident, exc_info=error)
    said = error.message if isinstance(error, MeshError) else "the server failed at this"
    return InternalError(message=f"{said}; its log says more under id {incident}", data={"id": incident})


def code_of(error: A2AError) -> int:
    """JSON-RPC's code (A2A 1.0.1 section 5.4)."""
    own = OWN.get(type(error))
    return JSON_RPC_ERROR_CODE_MAP.get(type(error), -32603) if own is None else own[0]


def rpc_error(error: A2AError) -> dict[str, Any]:
    """The `error` member of a JSON-RPC response (section 9.5)."""
    return {"code": code_of(error), "message": str(error), "data": details_of(error)}


def rest_error(error: A2AError) -> dict[str, Any]:
    """google.rpc.Status, whose code is the HTTP status (section 11.6)."""
    mapping = mapping_of(error)
    said = {"code": mapping.http_code, "status": mapping.grpc_status, "message": str(error)}
    return {"error": {**said, "details": details_of(error)}}


def mapping_of(error: A2AError) -> ErrorMapping:
    own = OWN.get(type(error))
    return A2A_ERROR_MAPPING.get(type(error), A2A_ERROR_MAPPING[InternalError]) if own is None else own[1]


def headers_of(error: A2AError) -> dict[str, str]:
    """What HTTP says beside the body."""
    return {"Retry-After": RETRY_AFTER} if isinstance(error, UnavailableError) else {}


def details_of(error: A2AError) -> list[dict[str, Any]]:
    """google.rpc.ErrorInfo, and BadRequest where fields are known (section 3.3.2)."""
    data = error.data if isinstance(error.data, dict) else {}
    violations = data.get("errors") or ()
    metadata = {key: value for key, value in data.items() if isinstance(value, str)}
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": mapping_of(error).reason, "domain": DOMAIN}
    found: list[dict[str, Any]] = [{**info, "metadata": metadata} if metadata else {**info}]
    if violations:
        fields = [{"field": one["field"], "description": one["message"]} for one in violations]
        found.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": fields})
    return found


def missing(*fields: str) -> InvalidParamsError:
    """Fields that the specification requires (section 5.7), by their names in JSON."""
    errors = [{"field": field, "message": "is required"} for field in fields]
    return InvalidParamsError(f"these fields are missing or empty: {', '.join(fields)}", {"errors": errors})


def no_method(name: str, version: str) -> MethodNotFoundError:
    return MethodNotFoundError(f"A2A {version} has no method {name[:100]!r}")


def cut(message: str) -> str:
    """A sentence that quotes what the caller sent does not send it all back."""
    return message if len(message) <= MESSAGE else message[: MESSAGE - 1] + "…"


def _strings(data: Mapping[str, Any]) -> dict[str, Any]:
    """ErrorInfo metadata is a map of strings (google.rpc.ErrorInfo)."""
    return {key: item if isinstance(item, str) else write_json(item).decode() for key, item in data.items()}
