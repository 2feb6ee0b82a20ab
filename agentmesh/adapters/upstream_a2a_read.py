"""What an agent elsewhere says, checked: JSON in A2A 1.0's spelling, of which nothing but what the protocol has is passed on.

It goes into journals and to other clients: a value of the wrong type must not be found out there. Written by hand, because a message
that is made a protobuf one and back again costs more than all the rest of a small call. Everything raises Fail for what cannot be read.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agentmesh.core.agent import Json
from agentmesh.errors import Fail

MEMBERS: Final = 10_000
"""Parts, artifacts or messages in one list."""
STATES: Final = frozenset(
    f"TASK_STATE_{state}"
    for state in (
        "SUBMITTED", "WORKING", "COMPLETED", "FAILED", "CANCELED", "INPUT_REQUIRED", "REJECTED", "AUTH_REQUIRED",
    )
)  # fmt: skip
ENDED: Final = frozenset({
    "TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED",
})  # fmt: skip
_AT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_TO_STANDARD: Final = str.maketrans("-_", "+/")


def task(value: Any) -> Json:
    """Schema `Task`."""
    found = _object(value, "the task")
    read: dict[str, Any] = {"id": _id(found, "id", "the task"), "status": status(found.get("status"))}
    if context := _text(found, "contextId"):
        read["contextId"] = context
    if artifacts := _list(found, "artifacts"):
        read["artifacts"] = [artifact(one) for one in artifacts]
    if history := _list(found, "history"):
        read["history"] = [message(one) for one in history]
    return _with_metadata(read, found)


def status(value: Any) -> Json:
    found = _object(value, "the status of the task")
    state = found.get("state")
    if not isinstance(state, str) or state not in STATES:
        raise Fail(f"the agent answered with what cannot be read: {str(state)[:60]!r} is no state of a task")
    read: dict[str, Any] = {"state": state}
    if found.get("message") is not None:
        read["message"] = message(found["message"])
    at = found.get("timestamp")
    if isinstance(at, str) and _AT.fullmatch(at):
        read["timestamp"] = at
    return read


def message(value: Any) -> Json:
    """Schema `Message`."""
    found = _object(value, "the message")
    role = found.get("role", "ROLE_AGENT")
    if role not in ("ROLE_AGENT", "ROLE_USER"):
        raise Fail(f"the agent answered with what cannot be read: {str(role)[:60]!r} is no role")
    read: dict[str, Any] = {
        "messageId": _id(found, "messageId", "the message"), "role": role, "parts": [part(one) for one in _list(found, "parts")],
    }  # fmt: skip
    for name in ("contextId", "taskId"):
        if text := _text(found, name):
            read[name] = text
    for name in ("extensions", "referenceTaskIds"):
        if texts := _texts(found, name):
            read[name] = texts
    return _with_metadata(read, found)


def artifact(value: Any) -> Json:
    """Schema `Artifact`."""
    found = _object(value, "the artifact")
    read: dict[str, Any] = {
        "artifactId": _id(found, "artifactId", "the artifact"), "parts": [part(one) for one in _list(found, "parts")],
    }  # fmt: skip
    for name in ("name", "description"):
        if text := _text(found, name):
            read[name] = text
    if extensions := _texts(found, "extensions"):
        read["extensions"] = extensions
    return _with_metadata(read, found)


def part(value: Any) -> Json:
    """Schema `Part`: exactly one of text, raw, url and data."""
    found = _object(value, "the part")
    read: dict[str, Any] = {}
    for name in ("text", "url"):
        if found.get(name) is not None:
            read[name] = _text(found, name)
    if found.get("raw") is not None:
        read["raw"] = _base64(_text(found, "raw"))
    if "data" in found and (found["data"] is not None or not read):
        read["data"] = found["data"]
    if len(read) != 1:
        raise Fail(f"the agent answered with what cannot be read: a part has {len(read)} contents, and must have one")
    for name in ("filename", "mediaType"):
        if text := _text(found, name):
            read[name] = text
    return _with_metadata(read, found)


def answer(value: Any) -> Json:
    """Schema `SendMessageResponse`: `{task}` or `{message}`."""
    return _one_of(value, {"task": task, "message": message})


def event(value: Any) -> Json:
    """Schema `StreamResponse`."""
    return _one_of(value, _EVENTS)


def tasks(value: Any) -> tuple[Sequence[Json], str]:
    """Schema `ListTasksResponse`: the tasks, and the token of the page after."""
    found = _object(value, "the list of tasks")
    return [task(one) for one in _list(found, "tasks")], _text(found, "nextPageToken")


def _status_update(value: Any) -> Json:
    found = _object(value, "the event")
    read: dict[str, Any] = {"taskId": _id(found, "taskId", "the event"), "status": status(found.get("status"))}
    if context := _text(found, "contextId"):
        read["contextId"] = context
    return _with_metadata(read, found)


def _artifact_update(value: Any) -> Json:
    found = _object(value, "the event")
    read: dict[str, Any] = {"taskId": _id(found, "taskId", "the event"), "artifact": artifact(found.get("artifact"))}
    if context := _text(found, "contextId"):
        read["contextId"] = context
    for name in ("append", "lastChunk"):
        if found.get(name) is True:
            read[name] = True
    return _with_metadata(read, found)


_EVENTS: Final[Mapping[str, Callable[[Any], Json]]] = {
    "task": task, "message": message, "statusUpdate": _status_update, "artifactUpdate": _artifact_update,
}  # fmt: skip


def _one_of(value: Any, readers: Mapping[str, Callable[[Any], Json]]) -> Json:
    found = _object(value, "the answer")
    names = [name for name in readers if found.get(name) is not None]
    if len(names) != 1:
        raise Fail(f"the agent answered with what cannot be read: it has not one of {', '.join(readers)}")
    return {names[0]: readers[names[0]](found[names[0]])}


def has_ended(event: Json) -> bool | None:
    """Whether a task has ended by an event of it; None when it does not say."""
    if "message" in event:
        return True
    status = event.get("task", event.get("statusUpdate", {})).get("status")
    return None if status is None else status["state"] in ENDED


# Values


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Fail(f"the agent answered with what cannot be read: {what} is no object")
    return value


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Fail(f"the agent answered with what cannot be read: {name} is no text")
    return value


def _id(found: Mapping[str, Any], name: str, what: str) -> str:
    value = _text(found, name)
    if not value or len(value) > 1024 or "\0" in value:
        raise Fail(f"the agent answered with what cannot be read: {what} has no {name} that can be kept")
    return value


def _texts(found: Mapping[str, Any], name: str) -> list[str]:
    values = _list(found, name)
    if not all(isinstance(value, str) for value in values):
        raise Fail(f"the agent answered with what cannot be read: {name} holds what is no text")
    return values


def _list(found: Mapping[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MEMBERS:
        raise Fail(f"the agent answered with what cannot be read: {name} is no list of up to {MEMBERS:,}")
    return value


def _with_metadata(read: dict[str, Any], found: Mapping[str, Any]) -> Json:
    metadata = found.get("metadata")
    if metadata:
        read["metadata"] = _object(metadata, "metadata")
    return read


def _base64(text: str) -> str:
    """As RFC 4648 section 4 has it; ProtoJSON lets agents write it as section 5 has it too, and without the padding."""
    if "-" in text or "_" in text:
        text = text.translate(_TO_STANDARD)
    text += "=" * (-len(text) % 4)
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise Fail("the agent answered with what cannot be read: a file is no base64") from None
    return text
