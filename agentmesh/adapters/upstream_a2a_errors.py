"""What an agent elsewhere refuses, as this project's errors: by code (JSON-RPC), reason (REST, gRPC), or the bare status of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from agentmesh.errors import Conflict, Fail, InvalidInput, MeshError, NotFound, Retry, Unanswered, UnsupportedMedia

Asked = Literal["send", "follow_up", "subscribe", "get", "list", "cancel", "card"]
"""What was asked of it: the same refusal means different things."""
WHAT: Final[Mapping[Asked, str]] = {
    "send": "the message", "follow_up": "the message", "subscribe": "the subscription", "get": "the task",
    "list": "the list of tasks", "cancel": "the cancellation", "card": "the extended card",
}  # fmt: skip
REASONS: Final[Mapping[int, str]] = {
    -32001: "TASK_NOT_FOUND", -32002: "TASK_NOT_CANCELABLE", -32003: "PUSH_NOTIFICATION_NOT_SUPPORTED",
    -32004: "UNSUPPORTED_OPERATION", -32005: "CONTENT_TYPE_NOT_SUPPORTED", -32006: "INVALID_AGENT_RESPONSE",
    -32007: "EXTENDED_AGENT_CARD_NOT_CONFIGURED", -32008: "EXTENSION_SUPPORT_REQUIRED", -32009: "VERSION_NOT_SUPPORTED",
    -32600: "INVALID_REQUEST", -32601: "METHOD_NOT_FOUND", -32602: "INVALID_PARAMS", -32603: "INTERNAL_ERROR",
    -32700: "PARSE_ERROR",
}  # fmt: skip
"""A2A 1.0.1 section 5.4."""
_WORDS: Final = 1000


class Unusable(Fail):
    """An interface that does not speak as its card says. What was sent has not been looked at; another interface may do."""


class NotOffered(Unusable):
    """The agent does not have that method at all."""


def refusal(reason: str, words: str, asked: Asked) -> MeshError:
    """The error for a reason (A2A 1.0.1 section 5.4)."""
    said = f"the agent refused {WHAT[asked]}: {words[:_WORDS] or reason.lower().replace('_', ' ')}"
    match reason:
        case "TASK_NOT_FOUND":
            return NotFound(said)
        case "TASK_NOT_CANCELABLE":
            return Conflict(said)
        case "UNSUPPORTED_OPERATION":
            return Conflict(said) if asked in {"follow_up", "subscribe", "cancel"} else Fail(said)
        case "CONTENT_TYPE_NOT_SUPPORTED":
            return UnsupportedMedia(said)
        case "INVALID_PARAMS" | "INVALID_REQUEST":
            return InvalidInput(said)
        case "VERSION_NOT_SUPPORTED":
            return Unusable(said)
        case "METHOD_NOT_FOUND":
            return NotOffered(said)
        case "UNAUTHENTICATED" | "PERMISSION_DENIED":
            return Fail(f"{said}; check its `token`")
    return Fail(said)


def of_jsonrpc(error: Any, asked: Asked) -> MeshError:
    """For the `error` of a JSON-RPC answer."""
    if not isinstance(error, dict):
        return Fail(f"the agent answered {WHAT[asked]} with what cannot be read: its error is no object")
    code = error.get("code")
    reason = _reason_in(error.get("data")) or (REASONS.get(code, "") if isinstance(code, int) else "")
    return refusal(reason, str(error.get("message") or f"error {code}"), asked)


def of_rest(payload: Any, status: int, asked: Asked) -> MeshError | None:
    """For the body of an answer over HTTP+JSON that is no success (AIP-193; `type` is how 0.3 named it); None when it says nothing."""
    if not isinstance(payload, dict):
        return None
    error = payload.get("error")
    if isinstance(error, dict):
        reason = _reason_in(error.get("details"))
        words = str(error.get("message") or "")
        if reason:
            return refusal(reason, words, asked)
        return refusal("INVALID_PARAMS", words, asked) if status == 400 and words else None
    kind = payload.get("type")
    if isinstance(kind, str) and kind.endswith("Error"):
        return refusal(_upper(kind.removesuffix("Error")), str(payload.get("message") or ""), asked)
    return None


def of_status(status: int, headers: Mapping[str, str], words: str, asked: Asked) -> MeshError:
    """For an answer of HTTP that says no more than its status."""
    said = f"the agent answered {status}{': ' if words else ''}{words[:300]}"
    if status in {401, 403}:
        return Fail(f"{said}; check its `token`")
    if status in {408, 425, 429, 503}:
        after = headers.get("retry-after", "")
        return Retry(said, after=float(after) if after.isdigit() and len(after) < 6 else None)
    if status in {404, 405, 501}:
        return NotOffered(f"{said} to {WHAT[asked]}; the interface that its card names is not there")
    if 300 <= status < 400:
        where = headers.get("location", "")[:200]
        return Unusable(
            f"the agent redirects to {where!r}, and redirects are not followed; its card has to name that place"
        )
    if status == 415:
        return UnsupportedMedia(said)
    return Unanswered(said) if status >= 500 else Fail(said)


def _reason_in(details: Any) -> str:
    """The reason in a list of details (`google.rpc.ErrorInfo`); empty when there is none."""
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type", "")).endswith("google.rpc.ErrorInfo"):
            reason = detail.get("reason")
            if isinstance(reason, str) and reason in REASONS.values():
                return reason
    return ""


def _upper(name: str) -> str:
    """TaskNotFound as TASK_NOT_FOUND."""
    return "".join(f"_{letter}" if letter.isupper() and i else letter.upper() for i, letter in enumerate(name))
