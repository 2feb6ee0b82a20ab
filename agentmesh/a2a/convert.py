"""Core nouns as A2A 1.0 and back.

What goes out is JSON in the protocol's spelling (ProtoJSON, A2A 1.0.1 section 5.5), since that is what JSON-RPC, HTTP+JSON and
push notifications send and what journals keep; `handler.py` makes SDK messages of it for the bindings that need them. What comes
in is SDK messages, which have checked every type.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import InvalidParamsError
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh.a2a.blocks import blocks_of, part_of
from agentmesh.a2a.errors import cut
from agentmesh.core.agent import JSON_TYPE, PEER, ROUTE, TEXT, Message, Part
from agentmesh.core.json_text import MAX_EXACT, write_json
from agentmesh.core.question import Question, questions
from agentmesh.core.run import JSON, Run, RunState, StepState
from agentmesh.engine.conversation import text_of_parts
from agentmesh.engine.replies import hint

log = logging.getLogger(__name__)

EXTENSION: Final = "urn:agentmesh:a2a:skill:1"
"""URI of the extension by which a message names its skill: its key in `metadata`. The bare key `skill` is read too."""
ANSWER_EXTENSION: Final = "urn:agentmesh:a2a:answer:1"
"""URI of the extension by which a message to a task names the question it answers, {question, digest}."""
SIGNAL_EXTENSION: Final = "urn:agentmesh:a2a:signal:1"
"""URI of the extension by which a message to a task is a signal, {name, value, key}."""
ARTIFACT: Final = "output"
"""artifactId of the one artifact of a task whose result is a value."""
CONTEXT: Final = 512
"""Longest contextId, messageId or signal's key of a client's own, in characters: runs are kept and found by them."""
LEVELS: Final = 30
"""Deepest nesting of a value that goes out as data: protobuf's readers stop at a hundred messages, three for each object."""

STATES: Final[Mapping[RunState, str]] = {state: f"TASK_STATE_{state.name}" for state in RunState}
RUN_STATES: Final[Mapping[int, RunState]] = {pb.TaskState.Value(wire): state for state, wire in STATES.items()}
_ROLES: Final = {"agent": "ROLE_AGENT", "ROLE_AGENT": "ROLE_AGENT"}
_HUGE: Final = re.compile(rb"\d{300}")
_INNERMOST: Final = re.compile(rb"\[\]|\{\}")
_ALL_BUT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}|[A-Za-z0-9_-]*={0,2}")


# Out


def to_task(
    run: Run, *, history_length: int | None = None, accepted: Sequence[str] = (), artifacts: bool = True
) -> dict[str, Any]:
    """A run as a task. `accepted`: the media types that the client takes, all when empty."""
    task: dict[str, Any] = {"id": run.id, "contextId": context_of(run), "status": to_status(run)}
    if artifacts and (made := artifacts_of(run, accepted)):
        task["artifacts"] = made
    if history_length != 0:
        said = [run.message, *run.messages] if run.message is not None else [*run.messages]
        history = [to_message(run, one) for one in (said if history_length is None else said[-history_length:])]
        if history:
            task["history"] = history
    if run.route is not None:
        task["metadata"] = {ROUTE: to_route(run.route)}
    return task


def to_route(route: Mapping[str, Any]) -> dict[str, Any]:
    """Who took the message, and why. Who else there is stays unsaid: the caller may not see them all."""
    return {key: route.get(key) for key in ("agent", "skill", "reason", "score")}


def context_of(run: Run) -> str:
    """Its contextId; a run that no message started is a context of its own."""
    return run.context_id or run.id


def to_status(run: Run, line: str | None = None, ident: str | None = None) -> dict[str, Any]:
    """The status of a task: with the message of whoever does it where it gave one, else with `line`, or what its state means."""
    message = said_of(run)
    if message is None:
        message = {
            "messageId": ident or f"{run.id}.{run.seq}", "contextId": context_of(run), "taskId": run.id,
            "role": "ROLE_AGENT", "parts": _words_of(run, line),
        }  # fmt: skip
    stamp = to_timestamp(run.updated_at or run.created_at)
    return {"state": STATES[run.state], "message": message, "timestamp": stamp}


def said_of(run: Run) -> dict[str, Any] | None:
    """The message that an agent elsewhere gave the state that the run is in; what it asks can be answered by name."""
    said: Mapping[str, Any] | None = run.said
    if said is None or not said.get("message") or said.get("state") != run.state.value or not is_relayed(run):
        return None
    message = to_message(run, {**said["message"], "role": "agent"})
    if not message["parts"]:
        return None
    asked = questions(run) if run.state is RunState.INPUT_REQUIRED else []
    if len(asked) == 1:
        bound = {ANSWER_EXTENSION: {"question": asked[0].id, "digest": asked[0].digest}}
        message["metadata"] = {**message.get("metadata", {}), **bound}
    return message


def is_relayed(run: Run) -> bool:
    """Whether the task is one of an agent elsewhere."""
    return run.workflow.startswith(PEER)


def _words_of(run: Run, line: str | None) -> list[dict[str, Any]]:
    """The status in words; of a task that waits for its client, what it asks, as text and as data."""
    asked = questions(run) if run.state is RunState.INPUT_REQUIRED else []
    if not asked:
        return [{"text": line or say(run), "mediaType": TEXT}]
    parts: list[dict[str, Any]] = [{"text": "\n\n".join(_words(one) for one in asked), "mediaType": TEXT}]
    for question in asked:
        data = {name: value for name, value in question.to_json().items() if name != "run"}
        if (held := _holdable({"question": data})) is not None:
            parts.append({"data": held, "mediaType": JSON_TYPE})
        else:
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
            busy = [] if is_relayed(run) else [s.path for s in run.steps.values() if s.state is StepState.RUNNING]
            return f"working on {', '.join(busy[:5])}" if busy else "working"
        case RunState.FAILED | RunState.REJECTED:
            error = run.error or {}
            where = f" at {error['path']}" if error.get("path") and not is_relayed(run) else ""
            return f"{run.state.value}{where}: {error.get('message') or 'no reason was recorded'}"
        case RunState.AUTH_REQUIRED:
            said = text_of_parts(((run.said or {}).get("message") or {}).get("parts") or ())
            return "waits for somebody to log in with the agent that does it" + (f": {said}" if said else "")
        case _:
            return run.state.value.replace("_", " ")


def artifacts_of(run: Run, accepted: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What the run has made, then its result where that is a value."""
    made = [to_artifact(artifact) for artifact in run.artifacts.values()]
    return [*made, output_artifact(run.output, accepted)] if has_output(run) else made


def has_output(run: Run) -> bool:
    """Whether the result of a run is shown as an artifact. What an agent elsewhere said or made stands for itself."""
    if run.state is not RunState.COMPLETED:
        return False
    if is_relayed(run):
        return not run.artifacts and said_of(run) is None
    return run.output is not None or not run.artifacts


def output_artifact(output: JSON, accepted: Sequence[str] = ()) -> dict[str, Any]:
    """A run's output: the same value as text and as data."""
    return {"artifactId": ARTIFACT, "name": ARTIFACT, "parts": _parts_of(output, accepted)}


def _parts_of(output: JSON, accepted: Sequence[str]) -> list[dict[str, Any]]:
    blocks = blocks_of(output)
    if blocks is not None:
        shown = [part_of(block) for block in blocks]
        return [part for part in shown if accepts(accepted, part["mediaType"])] or shown
    text = {"text": output if isinstance(output, str) else write_json(output).decode(), "mediaType": TEXT}
    parts = [text] if accepts(accepted, TEXT) else []
    if accepts(accepted, JSON_TYPE) or not parts:
        data = _holdable(output)
        if data is None and output is not None:
            log.warning("an output nested deeper than protobuf reads goes out as text only")
            return [text]
        parts.append({"data": data, "mediaType": JSON_TYPE})
    return parts


def to_artifact(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """An artifact as it stands in a journal."""
    return {
        **{key: artifact[key] for key in ("artifactId", "name", "description") if artifact.get(key)},
        "parts": [to_part(part) for part in artifact.get("parts") or ()],
        **_about(artifact),
    }


def accepts(accepted: Sequence[str], media_type: str) -> bool:
    """Whether a client that named these media types (none: any) takes this one."""
    ranges = {mode.partition(";")[0].strip().lower() for mode in accepted}
    return not ranges or bool(ranges & {media_type, f"{media_type.partition('/')[0]}/*", "*/*"})


def to_message(run: Run, message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of a task, as it is kept, in the task's own context."""
    found: dict[str, Any] = {
        "messageId": str(message.get("messageId") or f"{run.id}.{run.seq}"),
        "contextId": context_of(run),
        "taskId": run.id,
        "role": _ROLES.get(str(message.get("role")), "ROLE_USER"),
        "parts": [to_part(part) for part in message.get("parts") or ()],
        **_about(message),
    }
    if message.get("referenceTaskIds"):
        found["referenceTaskIds"] = list(message["referenceTaskIds"])
    return found


def to_reply(run: Run, accepted: Sequence[str] = ()) -> dict[str, Any]:
    """What a run was answered by that is answered by a message: there is no task to it, only a context."""
    said: Mapping[str, Any] = run.said or {}
    if is_relayed(run) and said.get("message"):
        message = to_message(run, {**said["message"], "role": "agent"})
    else:
        text = isinstance(run.output, str) and accepts(accepted, TEXT)
        parts = [{"text": run.output, "mediaType": TEXT}] if text else _parts_of(run.output, accepted)
        message = to_message(run, {"messageId": f"{run.id}.reply", "role": "agent", "parts": parts})
    del message["taskId"]
    return message


def _about(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What messages and artifacts carry beside their content."""
    found: dict[str, Any] = {}
    if kept.get("metadata"):
        found["metadata"] = _doubles(dict(kept["metadata"]))
    if kept.get("extensions"):
        found["extensions"] = list(kept["extensions"])
    return found


def to_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part as it is kept; its first content counts."""
    found: dict[str, Any] = {}
    for content in ("text", "raw", "url"):
        if part.get(content) is not None:
            found[content] = part[content]
            break
    else:
        found["data"] = _doubles(part.get("data"))
    for name in ("filename", "mediaType"):
        if part.get(name):
            found[name] = part[name]
    if part.get("metadata"):
        found["metadata"] = _doubles(dict(part["metadata"]))
    return found


def to_timestamp(seconds: float) -> str:
    """Microseconds, as far as a double keeps them (section 5.6.1)."""
    micros = int(seconds * 1e6)
    whole = datetime.fromtimestamp(micros // 1_000_000, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{micros % 1_000_000:06d}Z"


# In


def from_timestamp(stamp: Timestamp) -> float:
    return float(stamp.seconds + stamp.nanos / 1e9)


def from_message(wire: pb.Message) -> Message:
    """A message from the wire."""
    for name, ident in (("contextId", wire.context_id), ("messageId", wire.message_id)):
        if len(ident) > CONTEXT or "\0" in ident:
            raise InvalidParamsError(f"message.{name} may have {CONTEXT} characters, and no NUL")
    if wire.role != pb.ROLE_USER:
        role = "ROLE_AGENT" if wire.role == pb.ROLE_AGENT else "unknown"
        raise InvalidParamsError(f"message.role is {role}; what a client sends is of ROLE_USER")
    return Message(
        message_id=wire.message_id,
        role="user",
        parts=[_from_part(part, index) for index, part in enumerate(wire.parts)],
        context_id=wire.context_id or None,
        task_id=wire.task_id or None,
        metadata=_integers(MessageToDict(wire.metadata)) if wire.HasField("metadata") else {},
        extensions=tuple(wire.extensions),
        reference_task_ids=tuple(wire.reference_task_ids),
    )


def _from_part(part: pb.Part, index: int) -> Part:
    content = part.WhichOneof("content")
    if content is None:
        raise InvalidParamsError(f"message.parts[{index}] is empty; give it one of text, data, raw and url")
    media_type, filename = part.media_type or None, part.filename or None
    metadata = _integers(MessageToDict(part.metadata)) if part.HasField("metadata") else {}
    match content:
        case "text":
            return Part(text=part.text, media_type=media_type, filename=filename, metadata=metadata)
        case "raw":
            raw = base64.b64encode(part.raw).decode()
            return Part(raw=raw, media_type=media_type, filename=filename, metadata=metadata)
        case "url":
            return Part(url=part.url, media_type=media_type, filename=filename, metadata=metadata)
    data = _integers(MessageToDict(part.data))
    return Part(data=data, media_type=media_type, filename=filename, metadata=metadata)


def is_base64(text: str) -> bool:
    """Whether a JSON reader of protobuf can take it for bytes (either alphabet, with or without padding), and nothing stands between."""
    bare = text.rstrip("=")
    return _BASE64.fullmatch(text) is not None and len(bare) % 4 != 1 and (bare == text or len(text) % 4 == 0)


def skill_of(sources: Iterable[Mapping[str, Any]]) -> str | None:
    """The skill that the metadata of a message or its request names."""
    return next((skill for skill, _ in _named(sources) if skill is not None), None)


def tags_of(sources: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The tags of a skill that the extension's metadata names instead of one."""
    return next((tags for _, tags in _named(sources) if tags), ())


def _named(sources: Iterable[Mapping[str, Any]]) -> list[tuple[str | None, tuple[str, ...]]]:
    found = []
    for metadata in sources:
        for key in (EXTENSION, "skill"):
            named: Any = metadata.get(key)
            tags: Any = []
            if isinstance(named, Mapping):
                named, tags = named.get("skill"), named.get("tags") or []
            fits = named is None or (isinstance(named, str) and named != "")
            if not fits or not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
                raise InvalidParamsError(
                    f"metadata[{key!r}] must be the id of a skill as a string, or {{skill, tags}} with a list of strings"
                )
            found.append((named, tuple(tags)))
    return found


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
    named = metadata[SIGNAL_EXTENSION]
    given: Mapping[str, Any] = named if isinstance(named, Mapping) else {}
    name, key = given.get("name"), given.get("key")
    if not isinstance(name, str) or not name or not isinstance(key, str | None) or len(key or "") > CONTEXT:
        raise InvalidParamsError(
            f"metadata[{SIGNAL_EXTENSION!r}] must be an object with a name, and with a value and a key if need be"
        )
    if "\0" in name + (key or ""):
        raise InvalidParamsError(f"metadata[{SIGNAL_EXTENSION!r}] holds a NUL; leave it out")
    return name, given.get("value"), key


# Numbers


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
    if not isinstance(value, int | dict | list | tuple) or _HUGE.search(write_json(value)) is None:
        return value  # as nearly always, and many times quicker seen in the text than in the value
    return _with_doubles(value)


def _with_doubles(value: JSON) -> JSON:
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**1023 else str(value)
    if isinstance(value, Mapping):
        return {key: _with_doubles(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_doubles(member) for member in value]
    return value


def _holdable(value: JSON) -> JSON:
    """The same of a value that may be nested deeper than protobuf reads; None when it is."""
    return None if _levels(value) > LEVELS else _doubles(value)


def _levels(value: JSON) -> int:
    """How deep a value is nested, as far as LEVELS and one more."""
    # The brackets of its text, taken away level by level from within; brackets in a string spoil that, and are counted for levels.
    bare = write_json(value).translate(None, _ALL_BUT_BRACKETS)
    for level in range(LEVELS + 1):
        if not bare:
            return level
        bare = _INNERMOST.sub(b"", bare)
    depth, members = 0, [value]
    while depth <= LEVELS:
        around = [item for item in members if isinstance(item, (dict, list, tuple))]
        if not around:
            return depth
        members = [m for item in around for m in (item.values() if isinstance(item, dict) else item)]
        depth += 1
    return depth
