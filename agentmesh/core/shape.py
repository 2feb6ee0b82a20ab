"""Shape: does a document fit its typed model; every fault in plain words, at its place.

When it does not fit, the faulty parts are taken out so that the rest can still be checked: one reading tells all.
"""

from __future__ import annotations

import copy
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from agentmesh.core.document import Document, Path
from agentmesh.core.inference import closest
from agentmesh.errors import Fault

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Source(Generic[T]):
    """A file that was read. `removed`: parts of it that did not fit and are not in `value`."""

    document: Document
    value: T
    removed: frozenset[Path] = frozenset()

    @property
    def whole(self) -> bool:
        return not self.removed


def read_shape(document: Document, model: type[T], name: str) -> tuple[Source[T] | None, list[Fault]]:
    """The typed value of a document. `name` stands in for a missing name, so that the rest can be checked."""
    if not isinstance(document.value, Mapping):
        what = "the file is empty" if document.value is None else "the file must be an object (key: value)"
        return None, [document.fault((), what)]
    value = copy.deepcopy(dict(document.value))
    faults: list[Fault] = []
    removed: set[Path] = set()
    for round_ in range(8):
        try:
            return Source(
                document, model.model_validate_json(json.dumps(value), strict=True), frozenset(removed)
            ), faults
        except ValidationError as error:
            details = [d for d in error.errors(include_url=False, include_input=False) if not _emptied(value, d)]
        if round_ == 0:
            faults = _faults(document, model, details)
        for detail in details:
            _remove(value, _in_document(value, detail["loc"]), detail["type"], removed, name)
    return None, faults


def _in_document(value: Any, loc: tuple[int | str, ...]) -> Path:
    """The part of pydantic's location that is a path in the file: it adds the members of unions."""
    path: list[int | str] = []
    for part in loc:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(part)
    return tuple(path)


def _faults(document: Document, model: type[BaseModel], details: list[Any]) -> list[Fault]:
    grouped: dict[tuple[Path, str], list[Any]] = {}
    details = [detail for detail in details if not _beside(document.value, detail, details)]
    for detail in details:
        path = _in_document(document.value, detail["loc"])
        kind = (
            "missing" if detail["type"] == "missing" else "unknown" if detail["type"] == "extra_forbidden" else "wrong"
        )
        grouped.setdefault((path, f"{kind} {detail['loc'][-1]}" if kind == "missing" else kind), []).append(detail)
    found = []
    for (path, kind), group in grouped.items():
        if kind.startswith("missing"):
            found.append(document.fault(path, f"{group[0]['loc'][-1]!r} is missing", key=bool(path)))
        elif kind == "unknown":
            known = _keys(model, path[:-1])
            hint = closest(str(path[-1]), known) or (f"; here may stand {_some(known)}" if known else "")
            found.append(document.fault(path, f"unknown key {path[-1]!r}{hint}", key=True))
        else:
            messages = list(dict.fromkeys(_message(detail, document.get(path)) for detail in group))
            found.append(document.fault(path, _join(messages)))
    return found


def _emptied(value: Any, detail: Any) -> bool:
    """Whether a list only counts as too short because its items have faults of their own."""
    if detail["type"] != "too_short":
        return False
    for part in detail["loc"]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return False
    return bool(value)


def _beside(value: Any, detail: Any, details: list[Any]) -> bool:
    """Whether a fault only says that another form was not taken, where the form that was meant has its own faults."""
    if detail["type"] != "literal_error" and not detail["type"].endswith("_type"):
        return False
    path, loc = _in_document(value, detail["loc"]), detail["loc"]
    if len(loc) == len(path):
        return False
    return any(
        len(other["loc"]) > len(path) + 1 and other["loc"][: len(path)] == path and other["loc"] != loc
        for other in details
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")


def _join(messages: list[str]) -> str:
    """`must be text, this is a list` and `must be a number, this is a list` as one."""
    heads = [m.split(", this is ")[0].removeprefix("must be ") for m in messages]
    if len(messages) > 1 and all(m.startswith("must be ") and ", this is " in m for m in messages):
        return f"must be {' or '.join(heads)}, this is {messages[0].split(', this is ')[1]}"
    return messages[0]


_EXPECTED = {
    "string": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
    "model": "an object (key: value)",
    "dict": "an object (key: value)", "list": "a list", "tuple": "a list", "model_attributes": "an object (key: value)",
}  # fmt: skip


def kind_of(value: Any) -> str:
    """What a value is, in plain words."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return f"{value!r}" if len(value) <= 40 else "text"
        case list():
            return "a list"
    return "an object"


def _message(detail: Any, value: Any) -> str:
    kind, ctx = detail["type"], detail.get("ctx", {})
    for suffix in ("_type", "_parsing", "_from_float"):
        if kind.endswith(suffix) and kind.removesuffix(suffix) in _EXPECTED:
            return f"must be {_EXPECTED[kind.removesuffix(suffix)]}, this is {kind_of(value)}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", str(ctx.get("expected", "")))
        hint = closest(value, allowed) if isinstance(value, str) else ""
        expected = str(ctx.get("expected")).replace("True", "true")
        return f"must be {expected}, this is {kind_of(value)}{hint}"
    if kind == "string_pattern_mismatch" and "A-Z" in str(ctx.get("pattern", "")):
        return f"{value!r} is no path of a webhook: letters, digits, '_' and '-', at most 64"
    if kind == "string_pattern_mismatch":
        return f"{value!r} is not a name: a small letter, then small letters, digits, '_'" + (
            " or '-'" if "-" in str(ctx.get("pattern", "")).replace("a-z", "").replace("0-9", "") else ""
        )
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    bounds = {"greater_than_equal": ("ge", "at least"), "less_than_equal": ("le", "at most"),
              "greater_than": ("gt", "more than"), "less_than": ("lt", "less than")}  # fmt: skip
    if kind in bounds:
        name, words = bounds[kind]
        return f"must be {words} {ctx[name]}, this is {value}"
    return str(detail["msg"])


def _keys(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that may stand at a path."""
    found: Any = model
    for part in path:
        found = _step(found, part)
    return [f.alias or name for name, f in found.model_fields.items()] if _is_model(found) else []


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _step(annotation: Any, part: str | int) -> Any:
    """The type one key or index further in."""
    if _is_model(annotation):
        for name, info in annotation.model_fields.items():
            if (info.alias or name) == part:
                return _unwrap(info.annotation)
        return None
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        return _unwrap(args[1])
    if origin in (list, tuple):
        return _unwrap(args[0])
    return None


def _unwrap(annotation: Any) -> Any:
    """Without None and other members of a union that are not objects or lists."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [a for a in typing.get_args(annotation) if a is not type(None)]
        return next((m for m in members if _is_model(m) or typing.get_origin(m) in (list, tuple, dict)), members[0])
    return annotation


_STEP_LISTS = ("steps", "else")


def _in_steps(path: Path) -> bool:
    """Whether an index is that of a step, whose place is kept."""
    return len(path) > 1 and (path[-2] in _STEP_LISTS or (len(path) > 2 and path[-3] == "parallel"))


def _remove(value: dict[str, Any], path: Path, kind: str, removed: set[Path], name: str) -> None:
    """Takes the smallest part out that the shape can do without; indexes in lists of steps stay what they are."""
    if kind == "missing" and path == ():
        value.setdefault("name", name)
        value.setdefault("steps", [{"id": "missing", "set": None}])
        removed.add(())
        return
    while path and isinstance(path[-1], int) and not _in_steps(path):
        path = path[:-1]  # an item of another list goes with its list, so that no index shifts
    if not path:
        return
    owner: Any = value
    for part in path[:-1]:
        try:
            owner = owner[part]
        except (KeyError, IndexError, TypeError):
            return
    removed.add(path)
    last = path[-1]
    if isinstance(owner, list) and isinstance(last, int) and last < len(owner):
        step = owner[last] if isinstance(owner[last], dict) else {}
        known = step.get("id")
        fits = isinstance(known, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,62}", known)
        owner[last] = {"id": known if fits else f"step_{len(removed)}_{last}", "set": None}
    elif isinstance(owner, dict):
        owner.pop(last, None)
