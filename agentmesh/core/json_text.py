"""JSON text at the edges, read strictly: what Python's parser lets through or stumbles over is the sender's error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from pydantic_core import PydanticSerializationError, to_json

from agentmesh.core.run import JSON
from agentmesh.errors import InvalidInput, TooLarge

DEPTH = 64
CONTAINERS = 500_000
"""Arrays and objects in one text: a few bytes each on the wire, a hundred times that in memory."""
VALUES = 200_000
"""Values in one message, roughly: as many as a call may have, which takes a tenth of a second to look through."""
MAX_EXACT = 2**53 - 1
"""Largest integer that a JSON reader with doubles keeps exactly (RFC 8259 section 6)."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(body: bytes, *, depth: int = DEPTH) -> JSON:
    """The value of a JSON text; InvalidInput says what is wrong with it.

    Refused beside bad syntax: text that is not UTF-8, nesting past `depth`, NaN and infinities, numbers too large to
    keep, and half surrogate pairs, which no later encoder can write.
    """
    if _containers(body) > CONTAINERS and _containers(_bare(body)) > CONTAINERS:
        raise InvalidInput(f"the JSON holds more than {CONTAINERS} arrays and objects")
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8 at byte {error.start}; send JSON encoded as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise InvalidInput(f"the JSON is nested deeper than {depth} levels") from None
    except ValueError:
        raise InvalidInput("the JSON holds an integer of too many digits; send it as a string") from None
    halves = _SURROGATE.search(body) is not None
    for level, members in enumerate(_levels(value)):
        if level >= depth and any(isinstance(m, (dict, list)) for m in members):
            raise InvalidInput(f"the JSON is nested deeper than {depth} levels")
        if halves and not all(_encodes(m) for m in members if isinstance(m, str)):
            raise InvalidInput("the JSON holds half of a surrogate pair; send whole characters")
    return value


class RepeatedName(InvalidInput):
    """An object has a name twice."""


class NotUtf8(InvalidInput):
    """A text in another encoding, or in none."""


def parse_once(body: bytes) -> JSON:
    """The value of a JSON text, as `json.loads` has it, but RepeatedName where an object has a name twice (RFC 8259 section 4):
    readers differ in which value they take. TooLarge for more values than anybody looks through while others wait, NotUtf8.
    ValueError and RecursionError for what is no JSON, NaN and infinities among it.
    """
    if too_many_values(body):
        raise TooLarge(f"the JSON holds more than {VALUES:,} values; send less at a time, or as text")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotUtf8(f"the body is not UTF-8 at byte {error.start}; send JSON encoded as UTF-8") from None
    try:
        return _ONCE(text)
    except ValueError:
        # What is wrong with it may be nothing to a reader less strict, which must not take one of two values either.
        json.loads(body, object_pairs_hook=_once)
        raise


def too_many_values(body: bytes) -> bool:
    """Whether a text holds more than VALUES values, counted without reading it."""
    return len(body) > VALUES and _values(body) > VALUES and _values(_bare(body)) > VALUES


def _once(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise RepeatedName(f"the name {twice[:80]!r} stands twice in one object of the JSON; send it once")
    return found


def _no_number(name: str) -> JSON:
    raise ValueError(f"{name} is not JSON")


def _kept_float(digits: str) -> float:
    number = float(digits)
    if number in _INFINITE:
        raise ValueError("the number is too large")
    return number


_INFINITE = (float("inf"), float("-inf"))
_ONCE = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number, parse_float=_kept_float).decode


def inexact(value: JSON) -> int | None:
    """The first integer that a double cannot keep exactly, or None."""
    for members in _levels(value):
        for member in members:
            if isinstance(member, int) and abs(member) > MAX_EXACT:
                return member
    return None


def _containers(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


def _bare(body: bytes) -> bytes:
    """The text without its strings, in a time that grows with its length only: a pattern would look at quotes that begin none again
    and again.
    """
    return b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])


def _values(body: bytes) -> int:
    return _containers(body) + body.count(b",")


def _levels(value: JSON) -> Iterator[list[JSON]]:
    """Every value by its depth, keys of objects among them: the value, what stands in it, and so on. No recursion."""
    level = [value]
    while level:
        yield level
        level = [
            member
            for item in level
            if isinstance(item, (dict, list))
            for member in ((*item.keys(), *item.values()) if isinstance(item, dict) else item)
        ]


def _no_constant(name: str) -> JSON:
    raise InvalidInput(f"{name} is not JSON; send null or a string")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise InvalidInput(f"the number {digits[:40]} is too large")
    return number


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def write_json(value: JSON) -> bytes:
    """JSON as UTF-8 bytes, fast; infinities become null, and half surrogate pairs are written as escapes."""
    try:
        return to_json(value, inf_nan_mode="null")
    except PydanticSerializationError:
        return json.dumps(value, separators=(",", ":"), default=str).encode()
