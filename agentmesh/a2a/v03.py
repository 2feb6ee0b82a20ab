"""Version 0.3 of the protocol, by the SDK's conversions: requests to 1.0's messages, answers back.

What is converted has been checked before, so that a caller's mistake is answered as one, and not in Python's words.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from a2a.compat.v0_3 import conversions
from a2a.compat.v0_3 import types as v03
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import InvalidParamsError
from google.protobuf.json_format import ParseDict
from pydantic import ValidationError

from agentmesh.a2a.convert import is_base64
from agentmesh.a2a.errors import cut, missing
from agentmesh.a2a.request import plainly
from agentmesh.core.json_text import inexact

Model = TypeVar("Model", bound=Any)
Wire = TypeVar("Wire")


def read_model(value: Mapping[str, Any], model: type[Model]) -> Model:
    """Parameters as 0.3 has them. InvalidParamsError says which of them is wrong."""
    if (large := inexact(dict(value))) is not None:
        raise InvalidParamsError(f"A2A's numbers cannot keep the integer {str(large)[:40]}; send it as a string")
    try:
        return model.model_validate(value)  # type: ignore[no-any-return]
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
    except RecursionError:
        raise InvalidParamsError("params is nested too deep") from None
    first = faults[0]
    # A union tells of every kind that it might have been; the path up to there is what the caller wrote.
    where = ".".join(str(step) for step in first["loc"] if not str(step)[:1].isupper()) or "params"
    if first["type"] == "missing":
        raise missing(cut(where))
    raise InvalidParamsError(f"{cut(where)} has a wrong type or form")


def to_core(request: Any, convert: Callable[[Any], Wire]) -> Wire:
    """A checked request as 1.0's message."""
    _check_files(request)
    with plainly():
        return convert(request)


def _check_files(request: Any) -> None:
    message = getattr(getattr(request, "params", None), "message", None)
    for index, part in enumerate(message.parts if message is not None else ()):
        file = getattr(part.root, "file", None)
        if isinstance(file, v03.FileWithBytes) and not is_base64(file.bytes):
            raise InvalidParamsError(f"message.parts[{index}].file.bytes is not base64")
        metadata = getattr(part.root, "metadata", None) or {}
        if metadata.get("data_part_compat") and "value" not in getattr(part.root, "data", {}):
            raise InvalidParamsError(f"message.parts[{index}].data has no value")


def to_task(task: Mapping[str, Any]) -> v03.Task:
    return conversions.to_compat_task(ParseDict(task, pb.Task(), ignore_unknown_fields=True))


def to_answer(answer: Mapping[str, Any]) -> v03.Task | v03.Message:
    """What SendMessage answers."""
    if "task" in answer:
        return to_task(answer["task"])
    return conversions.to_compat_message(ParseDict(answer["message"], pb.Message(), ignore_unknown_fields=True))


def to_event(response: Mapping[str, Any]) -> Any:
    """A StreamResponse as the event that it is in 0.3."""
    wire = ParseDict(response, pb.StreamResponse(), ignore_unknown_fields=True)
    event: Any = conversions.to_compat_stream_response(wire, 0).result
    if isinstance(event, v03.TaskStatusUpdateEvent) and event.status.state is v03.TaskState.input_required:
        event.final = True  # the stream closes here, too, and 0.3 says so
    return event


async def to_events(responses: AsyncGenerator[Mapping[str, Any]]) -> AsyncGenerator[Any]:
    async with aclosing(responses):
        async for response in responses:
            yield to_event(response)


def to_push_config(config: Mapping[str, Any]) -> v03.TaskPushNotificationConfig:
    wire = ParseDict(config, pb.TaskPushNotificationConfig(), ignore_unknown_fields=True)
    return conversions.to_compat_task_push_notification_config(wire)


def to_card(card: Mapping[str, Any]) -> v03.AgentCard:
    """Without signatures: they are over the words of 1.0. VersionNotSupportedError where the card names no interface of 0.3."""
    unsigned = {name: value for name, value in card.items() if name != "signatures"}
    return conversions.to_compat_agent_card(ParseDict(unsigned, pb.AgentCard(), ignore_unknown_fields=True))


def dump(model: Any) -> Any:
    """A model as JSON."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
