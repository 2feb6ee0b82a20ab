"""What every request over HTTP is looked at for, whichever its binding: version, extensions, media type, JSON, the types of its fields.

All of it is settled here, before any operation, in words of ours, since what the SDK and protobuf say of a caller's mistake is Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import anyio.to_thread
from a2a.auth.user import UnauthenticatedUser
from a2a.server.context import ServerCallContext
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import InvalidParamsError, VersionNotSupportedError
from google.protobuf.json_format import ParseDict, ParseError
from starlette.datastructures import Headers
from starlette.types import Scope

from agentmesh.a2a.convert import is_base64
from agentmesh.core.json_text import VALUES, inexact, parse_json, too_many_values
from agentmesh.core.policy import Principal
from agentmesh.core.run import JSON
from agentmesh.errors import InvalidInput

VERSION_HEADER: Final = "a2a-version"
EXTENSIONS_HEADER: Final = "a2a-extensions"
LEGACY_EXTENSIONS_HEADER: Final = "x-a2a-extensions"
"""What version 0.3 calls it."""
V1, V03 = "1.0", "0.3"
VERSIONS: Final = (V1, V03)
LARGE: Final = 64 * 1024
"""Bodies and messages over this are read in a thread."""
MOST_EXTENSIONS: Final = 100
"""URIs in one request that are looked at."""
OBJECTS: Final = ("message", "configuration", "metadata", "authentication")
_FIELD = re.compile(r"Failed to parse (\w+) field")
_VERSION = re.compile(r"(\d{1,4}\.\d{1,4})(\.\d{1,4})?")
_NOBODY: Final = UnauthenticatedUser()
"""Given, since pydantic inspects the class anew for each request when it has to make one; who asks stands in the state."""

Wire = TypeVar("Wire", bound=Any)
Result = TypeVar("Result")


def version_of(given: str | None, offered: Sequence[str] = VERSIONS) -> str:
    """The version that a request is in: Major.Minor of one that is offered (A2A 1.0.1 section 3.6.2). None or empty means 0.3."""
    said = (given or "").strip()
    match = _VERSION.fullmatch(said or V03)
    if match is None or match[1] not in offered:
        named = f"A2A version {said[:40]!r}" if said else f"no A2A-Version means {V03}, which"
        raise VersionNotSupportedError(
            f"{named} is not offered; this agent speaks {' and '.join(offered)}: send A2A-Version: {offered[0]}"
        )
    return match[1]


def version_said(scope: Scope) -> str | None:
    """What the header says, else the query parameter of the same name."""
    wanted = VERSION_HEADER.encode()
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value.decode("latin-1"))
    if scope["query_string"]:
        for name, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
            if name.lower() == VERSION_HEADER:
                return str(value)
    return None


def extensions_of(values: Iterable[str]) -> set[str]:
    """The URIs of lists, as headers and metadata have them."""
    found: set[str] = set()
    for value in values:
        for uri in value.split(","):
            if (bare := uri.strip()) and len(found) < MOST_EXTENSIONS:
                found.add(bare)
    return found


def context_of(scope: Scope, agent: str | None, version: str) -> ServerCallContext:
    """Who asks, by http/auth.py, and what beside the body."""
    principal = scope.get("state", {}).get("principal")
    if not isinstance(principal, Principal):
        raise RuntimeError("a request reached /a2a without a principal; mount it behind http/auth.py")  # noqa: TRY004
    headers = Headers(scope=scope)
    lists = headers.getlist(EXTENSIONS_HEADER)
    if version == V03:
        lists = [*lists, *headers.getlist(LEGACY_EXTENSIONS_HEADER)]
    return ServerCallContext.model_construct(
        state={"headers": dict(headers), "principal": principal, "version": version},
        user=_NOBODY,
        tenant=agent or "",
        requested_extensions=extensions_of(lists),
    )


def media_type(scope: Scope) -> str:
    wanted = b"content-type"
    said = next((value for name, value in scope["headers"] if name == wanted), b"")
    return str(said.decode("latin-1")).partition(";")[0].strip().lower()


async def read_json(body: bytes, depth: int) -> JSON:
    """InvalidInput says what is wrong with it."""
    if too_many_values(body):
        raise InvalidInput(f"the JSON holds more than {VALUES:,} values; send less at a time, or as text")
    return await at_leisure(len(body), partial(parse_json, body, depth=depth))


async def at_leisure(size: int, read: Callable[[], Result]) -> Result:
    """What a function makes of so many bytes: at once, or in a thread where that would keep others waiting."""
    return await anyio.to_thread.run_sync(read) if size > LARGE else read()


def read_params(params: Mapping[str, Any], model: type[Wire]) -> Wire:
    """Parameters as their message, in words without Python's; unknown fields are let pass (section 5.7)."""
    if (large := inexact(dict(params))) is not None:
        raise InvalidParamsError(f"A2A's numbers cannot keep the integer {str(large)[:40]}; send it as a string")
    if model is pb.ListTasksRequest:
        check_status(params.get("status"))
    for name in OBJECTS:
        # A reader of protobuf takes an empty list for an empty object.
        if not isinstance(params.get(name), dict | None):
            raise InvalidParamsError(f"{name} must be an object")
    if model is pb.SendMessageRequest:
        _check_raw(params.get("message"))
    with plainly():
        return ParseDict(params, model(), ignore_unknown_fields=True)  # type: ignore[no-any-return]


def _check_raw(message: object) -> None:
    """Bytes that are base64: a reader of protobuf leaves out what is none."""
    parts = message.get("parts") if isinstance(message, dict) else None
    for index, part in enumerate(parts if isinstance(parts, list) else ()):
        raw = part.get("raw") if isinstance(part, dict) else None
        if isinstance(raw, str) and not is_base64(raw):
            raise InvalidParamsError(f"message.parts[{index}].raw is not base64")


def check_status(status: object) -> None:
    """An unknown status means all of them to a reader of protobuf."""
    if status is not None and status not in pb.TaskState.keys():  # noqa: SIM118 - an enum wrapper, not a dict
        there_are = ", ".join(pb.TaskState.keys()[1:])
        raise InvalidParamsError(f"there is no status {str(status)[:60]!r}; there are: {there_are}")


@contextmanager
def plainly() -> Iterator[None]:
    """What protobuf says of a value that does not fit, without Python's words."""
    try:
        yield
    except (ParseError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        path = ".".join(_FIELD.findall(str(error))) or "params"
        deep = isinstance(error, RecursionError) or "too deep" in str(error)
        several = "oneof" in str(error)
        wrong = "is nested too deep" if deep else "has more than one content" if several else "has a wrong type or form"
        raise InvalidParamsError(f"{path} {wrong}") from None
