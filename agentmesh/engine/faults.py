"""Faults: an exception of a step as what the journal keeps of it, and JSON as what a function may return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agentmesh.core.run import JSON
from agentmesh.errors import Fail, MeshError, ModelUnavailable, Retry, StepTimeout

LONGEST = 1000
"""Characters of a message."""
LARGEST = 16 * 1024 * 1024
"""Characters of what a function may give, as JSON: it is recorded, and everybody who looks at the run gets it."""
DEPTH = 100


class StepFailed(Exception):
    """A step failed and nothing tolerates it; ends the run unless a block around it does. Never leaves the engine."""

    def __init__(self, path: str, error: Mapping[str, JSON]) -> None:
        super().__init__(path)
        self.path = path
        self.error = error


class GaveUp(Exception):
    """A step's plan is at its end. Never leaves the engine."""

    def __init__(self, error: Mapping[str, JSON]) -> None:
        super().__init__(error.get("code"))
        self.error = error


class Leaving(Exception):
    """The worker stops: the run goes back to the store between two steps. Never leaves the engine."""


def error_of(error: BaseException) -> dict[str, JSON]:
    """{code, message} of an exception, for journal and callers: one sentence, no traceback.

    `unexpected`: nobody raised it on purpose.
    `retry`: `always` when whoever raised it says that trying again may help, `declared` when only the file can say so.
    """
    if not isinstance(error, MeshError):
        text = str(error)
        said = _cut(f"{type(error).__name__}: {text}" if text else type(error).__name__)
        return {"code": "failed", "message": said, "unexpected": True}
    found: dict[str, JSON] = {"code": error.code, "message": _cut(error.message)}
    if error.data:
        found["data"] = error.data
    if isinstance(error, Retry):
        found["retry"] = "always"
        if error.after is not None:
            found["after"] = error.after
    elif isinstance(error, (ModelUnavailable, StepTimeout)):
        found["retry"] = "declared"
    return found


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _check_size(value: Any, what: str) -> None:
    """Fail when the value's JSON is longer than LARGEST characters, about; found out without writing it."""
    left = LARGEST
    waiting: list[Any] = [[value]]
    while waiting:
        items: Any = waiting.pop()
        if type(items) is dict or isinstance(items, Mapping):
            left -= sum(len(key) for key in items if isinstance(key, str)) + 2 * len(items)
            items = items.values()
        left -= 2 * len(items)
        if left >= 0:
            for item in items:
                kind = type(item)
                if kind is str:
                    left -= len(item)
                elif kind not in _LEAVES and isinstance(item, (Mapping, list, tuple)):
                    left -= _LOOKED_INTO
                    waiting.append(item)
        if left < 0:
            raise Fail(f"{what} is larger than {LARGEST // 1024 // 1024} MB; keep it elsewhere, and return where it is")


_LOOKED_INTO = 30
"""What an object or a list counts besides what stands in it: each takes microseconds wherever it goes, and nothing else runs meanwhile."""
_LEAVES = frozenset({str, int, bool, type(None)})
"""Most of what stands in a value: it is what it is, and its place need not be put in words."""


def as_json(value: Any, what: str, depth: int = 0) -> JSON:
    """The value as JSON keeps it (a tuple becomes a list); Fail says where something else stands, or that it is too large."""
    if depth == 0 and isinstance(value, (str, Mapping, list, tuple)):
        _check_size(value, what)
    if value is None or isinstance(value, bool) or type(value) in (str, int):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Fail(f"{what} is {value}, which JSON does not have; return null instead")
        return float(value)
    if depth >= DEPTH:
        raise Fail(f"{what} is nested deeper than {DEPTH} levels")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise Fail(f"{what} has a key {key!r} that is not a string; JSON objects have string keys only")
        return {
            str(key): item if type(item) in _LEAVES else as_json(item, f"{what}.{key}", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [
            item if type(item) in _LEAVES else as_json(item, f"{what}[{i}]", depth + 1) for i, item in enumerate(value)
        ]
    raise Fail(
        f"{what} is a {type(value).__name__}, which is not JSON; return dicts, lists, strings, numbers, booleans or null"
    )
