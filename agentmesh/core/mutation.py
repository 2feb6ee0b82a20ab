"""Mutation: small, typed faults put into a value, to see which validators notice."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FOREIGN = "Zyxq 7719 of Quorvale"
"""Text that stands in nobody's input."""
MOST = 60
"""Mutations of one value."""
OTHERS = 3
"""Other values of one `enum`."""
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mutation:
    """`kind`: another value, flipped, changed number, truncated text, foreign text, dropped field, dropped item, swapped items, null."""

    kind: str
    path: str
    value: Any
    """The whole value with the fault in it."""
    detail: str


def mutations(value: Any, schema: Mapping[str, Any] | None) -> Iterator[Mutation]:
    """Faults of every part of a value, at most MOST, those of the outermost parts first. `schema`: tells other values of an `enum`."""
    for count, (kind, path, part) in enumerate(_faults(value, schema or {})):
        if count == MOST:
            return
        yield Mutation(kind, _dotted(path), _put(value, path, part), _shown(part))


_DROP = object()


def _faults(value: Any, schema: Any) -> Iterator[tuple[str, Path, Any]]:
    waiting: list[tuple[Path, Any, Any]] = [((), value, schema)]
    while waiting:
        path, part, known = waiting.pop(0)
        known = known if isinstance(known, Mapping) else {}
        yield from ((kind, path, changed) for kind, changed in _of(part, known))
        if path and isinstance(path[-1], str):
            yield "dropped field", path, _DROP
        if isinstance(part, Mapping):
            properties = known.get("properties")
            inner = properties if isinstance(properties, Mapping) else {}
            waiting += [((*path, key), item, inner.get(key)) for key, item in part.items()]
        elif isinstance(part, list):
            waiting += [((*path, i), item, known.get("items")) for i, item in enumerate(part[:3])]


def _of(part: Any, schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The faults of one part itself."""
    allowed = schema.get("enum")
    if isinstance(allowed, list):
        others = [item for item in allowed if item != part or isinstance(item, bool) is not isinstance(part, bool)]
        yield from (("another value", item) for item in others[:OTHERS])
    match part:
        case bool():
            yield "flipped", not part
        case int() | float():
            yield "changed number", part + 1
            yield "changed number", -part - 7
        case str():
            if len(part) > 1:
                yield "truncated text", part[: len(part) // 2]
            yield "foreign text", FOREIGN
        case list():
            if part:
                yield "dropped item", part[1:]
            if len(part) > 1 and part[0] != part[1]:
                yield "swapped items", [part[1], part[0], *part[2:]]
    if part is not None:
        yield "null", None


def _put(value: Any, path: Path, part: Any) -> Any:
    if not path:
        return part
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    if part is _DROP:
        del place[path[-1]]
    else:
        place[path[-1]] = part
    return changed


def _dotted(path: Path) -> str:
    return "output" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


def _shown(part: Any) -> str:
    if part is _DROP:
        return "not there"
    text = json.dumps(part, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
