"""Core nouns as A2A 1.0 types and back, and every error as A2A's, decided in one place: `to_a2a_error`."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from a2a.server.jsonrpc_models import JSONRPCError
from a2a.server.request_handlers.response_helpers import EXCEPTION_MAP
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import (
    A2A_ERROR_MAPPING,
    JSON_RPC_ERROR_CODE_MAP,
    A2AError,
    ContentTypeNotSupportedError,
    ErrorMapping,
    InternalError,
    InvalidParamsError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.core.agent import Message, Part
from agentmesh.core.json_text import MAX_EXACT, write_json
from agentmesh.core.question import Question, questions
from agentmesh.core.run import JSON, Run, RunState, StepState
from agentmesh.engine.replies import hint
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
)

log = logging.getLogger(__name__)

EXTENSION = "urn:agentmesh:a2a:skill:1"
"""URI of the extension by which a message names its skill: its key in `metadata`. The bare key `skill` is read too."""
ANSWER_EXTENSION = "urn:agentmesh:a2a:answer:1"
"""URI of the extension by which a message to a task names the question it answers, {question, digest}."""
SIGNAL_EXTENSION = "urn:agentmesh:a2a:signal:1"
"""URI of the extension by which a message to a task is a signal, {name, value, key}."""
ARTIFACT = "output"
"""artifactId of a task's one artifact."""
MESSAGE = 2000
"""Longest error message, in characters."""
CONTEXT = 512
"""Longest contextId of a client's own, in characters: every run of the conversation is kept and found by it."""
TEXT, JSON_TYPE = "text/plain", "application/json"

STATES: Mapping[RunState, pb.TaskState] = {
    RunState.SUBMITTED: pb.TASK_STATE_SUBMITTED,
    RunState.WORKING: pb.TASK_STATE_WORKING,
    RunState.INPUT_REQUIRED: pb.TASK_STATE_INPUT_REQUIRED,
    RunState.AUTH_REQUIRED: pb.TASK_STATE_AUTH_REQUIRED,
    RunState.COMPLETED: pb.TASK_STATE_COMPLETED,
    RunState.FAILED: pb.TASK_STATE_FAILED,
    RunState.CANCELED: pb.TASK_STATE_CANCELED,
    RunState.REJECTED: pb.TASK_STATE_REJECTED,
}
RUN_STATES: Mapping[int, RunState] = {wire: state for state, wire in STATES.items()}


class PermissionDeniedError(A2AError):
    """A policy says no. A2A names no error for it; HTTP and gRPC do, and JSON-RPC leaves -32000 to servers."""

    message = "Permission denied"


class UnavailableError(A2AError):
    """The mesh cannot serve anybody now; its store fails, for one. A2A names no error for it; HTTP and gRPC do."""

    message = "Unavailable"


A2A_ERROR_MAPPING[UnavailableError] = ErrorMapping(503, "UNAVAILABLE", "UNAVAILABLE")
JSON_RPC_ERROR_CODE_MAP[UnavailableError] = -32050
EXCEPTION_MAP[UnavailableError] = JSONRPCError
A2A_ERROR_MAPPING[PermissionDeniedError] = ErrorMapping(403, "PERMISSION_DENIED", "PERMISSION_DENIED")
JSON_RPC_ERROR_CODE_MAP[PermissionDeniedError] = -32000
EXCEPTION_MAP[PermissionDeniedError] = JSONRPCError

ERRORS: tuple[tuple[type[MeshError], type[A2AError]], ...] = (
    (InvalidInput, InvalidParamsError),
    (NotFound, InvalidParamsError),
    (PolicyDenied, PermissionDeniedError),
    (TooLarge, InvalidParamsError),
    (Conflict, UnsupportedOperationError),
    (NotBuilt, UnsupportedOperationError),
    (CallerError, InvalidParamsError),
)
"""The first class that fits decides; what is not the caller's fault is an InternalError."""
TASK_ERRORS: Mapping[type[MeshError], type[A2AError]] = {NotFound: TaskNotFoundError, Conflict: TaskNotCancelableError}
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


def to_task(
    run: Run, *, history_length: int | None = None, accepted: Sequence[str] = (), artifacts: bool = True
) -> pb.Task:
    """A run as a task. `accepted`: the media types that the client takes, all when empty."""
    task = pb.Task(id=run.id, context_id=context_of(run), status=to_status(run))
    if run.message is not None and history_length != 0:
        task.history.append(to_message(run, run.message))
    if artifacts and run.state is RunState.COMPLETED:
        task.artifacts.append(to_artifact(run.output, accepted))
    return task


def context_of(run: Run) -> str:
    """Its contextId; a run that no message started is a context of its own."""
    return run.context_id or run.id


def to_status(run: Run, line: str | None = None, ident: str | None = None) -> pb.TaskStatus:
    """The status of a task, with `line` (else what the run's state means) as its message."""
    return pb.TaskStatus(
        state=STATES[run.state],
        timestamp=to_timestamp(run.updated_at or run.created_at),
        message=pb.Message(
            message_id=ident or f"{run.id}.{run.seq}",
            role=pb.ROLE_AGENT,
            task_id=run.id,
            context_id=context_of(run),
            parts=_parts(run, line),
        ),
    )


def _parts(run: Run, line: str | None) -> list[pb.Part]:
    """The status in words; of a task that waits for its client, what it asks, as text and as data."""
    asked = questions(run) if run.state is RunState.INPUT_REQUIRED else []
    if not asked:
        return [pb.Part(text=line or say(run), media_type=TEXT)]
    parts = [pb.Part(text="\n\n".join(_words(question) for question in asked), media_type=TEXT)]
    for question in asked:
        data = {name: value for name, value in question.to_json().items() if name != "run"}
        try:
            parts.append(pb.Part(data=ParseDict(_doubles({"question": data}), Value()), media_type=JSON_TYPE))
        except (ParseError, RecursionError):
            log.warning("a question that shows what is nested deeper than protobuf reads goes out as text only")
    return parts


def _words(question: Question) -> str:
    """A question with what it shows and how it is answered."""
    show = question.show
    shown = "" if show is None else f"\n{show if isinstance(show, str) else write_json(show).decode()}"
    return f"{question.ask}{cut(shown)}\n({question.id}: {hint(question)})"


def say(run: Run) -> str:
    """What the state of a run means, in plain words."""
    match run.state:
        case RunState.SUBMITTED:
            return "accepted, waiting for a worker"
        case RunState.WORKING:
            busy = [step.path for step in run.steps.values() if step.state is StepState.RUNNING]
            return f"working on {', '.join(busy[:5])}" if busy else "working"
        case RunState.FAILED | RunState.REJECTED:
            error = run.error or {}
            where = f" at {error['path']}" if error.get("path") else ""
            return f"{run.state.value}{where}: {error.get('message') or 'no reason was recorded'}"
        case _:
            return run.state.value.replace("_", " ")


def to_artifact(output: JSON, accepted: Sequence[str] = ()) -> pb.Artifact:
    """A run's output: the same JSON as text and as data."""
    parts = []
    if accepts(accepted, TEXT):
        parts.append(pb.Part(text=write_json(output).decode(), media_type=TEXT))
    if accepts(accepted, JSON_TYPE):
        try:
            data = ParseDict(_doubles(output), Value())
        except (ParseError, RecursionError):
            log.warning("an output nested deeper than protobuf reads goes out as text only")
        else:
            parts.append(pb.Part(data=data, media_type=JSON_TYPE))
    return pb.Artifact(artifact_id=ARTIFACT, name=ARTIFACT, parts=parts)


def accepts(accepted: Sequence[str], media_type: str) -> bool:
    """Whether a client that named these media types (none: any) takes this one."""
    ranges = {mode.partition(";")[0].strip().lower() for mode in accepted}
    return not ranges or bool(ranges & {media_type, f"{media_type.partition('/')[0]}/*", "*/*"})


def to_message(run: Run, message: Mapping[str, Any]) -> pb.Message:
    """The message that started a run, as it stands in the task's history."""
    wire = pb.Message(
        message_id=str(message.get("messageId", "")),
        role=pb.ROLE_AGENT if message.get("role") == "agent" else pb.ROLE_USER,
        task_id=run.id,
        context_id=context_of(run),
    )
    for part in message.get("parts") or ():
        if part.get("text") is not None:
            wire.parts.append(pb.Part(text=part["text"]))
        else:
            wire.parts.append(pb.Part())
            ParseDict(_doubles(part.get("data")), wire.parts[-1].data)
    if message.get("metadata"):
        ParseDict(_doubles(dict(message["metadata"])), wire.metadata)
    return wire


def from_message(wire: pb.Message, context_id: str) -> Message:
    """A message from the wire. `context_id`: for a message that names none."""
    if len(wire.context_id) > CONTEXT or "\0" in wire.context_id:
        raise InvalidParamsError(f"message.contextId may have {CONTEXT} characters, and no NUL")
    return Message(
        message_id=wire.message_id,
        role="agent" if wire.role == pb.ROLE_AGENT else "user",
        parts=[_from_part(part, index) for index, part in enumerate(wire.parts)],
        context_id=wire.context_id or context_id,
        task_id=wire.task_id or None,
        metadata=_integers(MessageToDict(wire.metadata)),
    )


def _from_part(part: pb.Part, index: int) -> Part:
    media_type = part.media_type.partition(";")[0].strip().lower()
    match part.WhichOneof("content"):
        case "text" if media_type in ("", JSON_TYPE) or media_type.startswith("text/"):
            return Part(text=part.text, media_type=part.media_type or None)
        case "data" if media_type in ("", JSON_TYPE) or media_type.endswith("+json"):
            return Part(data=_integers(MessageToDict(part.data)), media_type=part.media_type or None)
        case None:
            raise InvalidParamsError(f"message.parts[{index}] is empty; give it `text` or `data`")
        case content:
            what = part.media_type or content
            raise ContentTypeNotSupportedError(
                f"message.parts[{index}] is {what}; this agent takes `text` parts of text and `data` parts of JSON"
            )


def skill_of(sources: Iterable[Mapping[str, Any]]) -> str | None:
    """The skill that the metadata of a message or its request names."""
    for metadata in sources:
        for key in (EXTENSION, "skill"):
            named = metadata.get(key)
            if isinstance(named, Mapping):
                named = named.get("skill")
            if isinstance(named, str) and named:
                return named
            if named is not None:
                raise InvalidParamsError(f"metadata[{key!r}] must be the id of a skill as a string")
    return None


def answer_of(metadata: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(question, digest) that a message names."""
    named = metadata.get(ANSWER_EXTENSION, {})
    if not isinstance(named, Mapping) or not all(isinstance(named.get(k, ""), str) for k in ("question", "digest")):
        raise InvalidParamsError(
            f"metadata[{ANSWER_EXTENSION!r}] must be an object with the strings question and digest"
        )
    return named.get("question"), named.get("digest")


def signal_of(metadata: Mapping[str, Any]) -> tuple[str, JSON, str | None] | None:
    """(name, value, key) of the signal that a message is; None when it is none."""
    if SIGNAL_EXTENSION not in metadata:
        return None
    given = metadata[SIGNAL_EXTENSION]
    name = given.get("name") if isinstance(given, Mapping) else None
    key = given.get("key") if isinstance(given, Mapping) else None
    if not isinstance(name, str) or not name or not isinstance(key, str | None) or len(key or "") > CONTEXT:
        raise InvalidParamsError(
            f"metadata[{SIGNAL_EXTENSION!r}] must be an object with a name, and with a value and a key if need be"
        )
    if "\0" in name + (key or ""):
        raise InvalidParamsError(f"metadata[{SIGNAL_EXTENSION!r}] holds a NUL; leave it out")
    return name, given.get("value"), key


def to_timestamp(seconds: float) -> Timestamp:
    """Microseconds, as far as a double keeps them."""
    micros = int(seconds * 1e6)
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def from_timestamp(stamp: Timestamp) -> float:
    return float(stamp.seconds + stamp.nanos / 1e9)


def _integers(value: JSON) -> JSON:
    """JSON as it was before protobuf made every number a double. Larger ones than a double keeps never get here."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= MAX_EXACT else value
    if isinstance(value, dict):
        return {key: _integers(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_integers(member) for member in value]
    return value


def _doubles(value: JSON) -> JSON:
    """JSON that protobuf can hold. An integer past every double becomes text; the text part has it exactly."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**1023 else str(value)
    if isinstance(value, Mapping):
        return {key: _doubles(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_doubles(member) for member in value]
    return value


def cut(message: str) -> str:
    """A sentence that quotes what the caller sent does not send it all back."""
    return message if len(message) <= MESSAGE else message[: MESSAGE - 1] + "…"


def _strings(data: Mapping[str, Any]) -> dict[str, Any]:
    """ErrorInfo metadata is a map of strings (google.rpc.ErrorInfo)."""
    return {key: item if isinstance(item, str) else write_json(item).decode() for key, item in data.items()}
