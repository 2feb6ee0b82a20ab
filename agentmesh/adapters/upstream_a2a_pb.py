"""Protobuf messages of the SDK as JSON of ours, and back: for the wires that cannot do without them (0.3, and gRPC)."""

from __future__ import annotations

from typing import Any, TypeVar

from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

from agentmesh.adapters import upstream_a2a_read as read
from agentmesh.core.agent import Json
from agentmesh.core.json_text import MAX_EXACT
from agentmesh.errors import Fail

M = TypeVar("M", bound=Message)


def sending(params: Json) -> pb.SendMessageRequest:
    """SendMessageRequest. Fail."""
    return to_pb(params, pb.SendMessageRequest())


def to_pb(value: Json, message: M) -> M:
    try:
        ParseDict(dict(value), message)
    except (ParseError, RecursionError, TypeError) as error:
        raise Fail(f"the message cannot be sent: {str(error)[:300]}") from None
    return message


def from_pb(message: Message) -> Any:
    """A Task, Message, SendMessageResponse or StreamResponse as JSON, checked. Fail."""
    found = whole(MessageToDict(message))
    match message:
        case pb.Task():
            return read.task(found)
        case pb.Message():
            return read.message(found)
        case pb.SendMessageResponse():
            return read.answer(found)
        case pb.ListTasksResponse():
            return read.tasks(found)
        case pb.StreamResponse():
            return read.event(found)
    return found


def whole(value: Any) -> Any:
    """JSON as it was before protobuf made every number a double."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= MAX_EXACT else value
    if isinstance(value, dict):
        return {key: whole(member) for key, member in value.items()}
    if isinstance(value, list):
        return [whole(member) for member in value]
    return value
