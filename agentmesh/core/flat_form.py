"""Flat form: what a client can show a user to fill in (MCP `ElicitRequestFormParams.requestedSchema`, 2026-07-28 client/elicitation).

An object whose properties are texts, numbers, booleans, or choices out of a list; nothing inside of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentmesh.core.document import Path

_COMMON = frozenset({"type", "title", "description", "default"})
_KEYS: Mapping[str, frozenset[str]] = {
    "string": _COMMON | {"minLength", "maxLength", "pattern", "format", "enum", "oneOf"},
    "number": _COMMON | {"minimum", "maximum"},
    "integer": _COMMON | {"minimum", "maximum"},
    "boolean": _COMMON,
    "array": _COMMON | {"minItems", "maxItems", "uniqueItems", "items"},
}
_FORMATS = ("email", "uri", "date", "date-time")
_TOP = frozenset({"$schema", "type", "properties", "required", "title", "description", "additionalProperties"})


def flat_form_faults(form: Any) -> Iterator[tuple[Path, str]]:
    """What keeps a schema from being such a form: where in it, and why. It is a sound JSON Schema already."""
    if not isinstance(form, Mapping):
        yield (), "must be an object (key: value)"
        return
    for key in form:
        if key not in _TOP:
            yield (
                (key,),
                f"`{key}` has no place in a form that a client shows: here stand type, properties and required",
            )
    if form.get("type") != "object":
        yield (), "must be of `type: object`: a form with a field for each property"
    properties = form.get("properties", {})
    for name, field in properties.items() if isinstance(properties, Mapping) else ():
        yield from _field(field, ("properties", name))
    for i, name in enumerate(form.get("required", ())):
        if name not in properties:
            yield ("required", i), f"{name!r} is none of the properties: nobody could fill it in"


def _field(field: Any, path: Path) -> Iterator[tuple[Path, str]]:
    kind = field.get("type") if isinstance(field, Mapping) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        what = f"this is {kind!r}" if kind is not None else "this names no type"
        yield path, f"a field of a form is a string, number, integer, boolean, or an array of choices; {what}"
        return
    for key in field:
        if key not in _KEYS[kind]:
            yield (*path, key), f"`{key}` has no place in a form's field of type {kind}; a client would not show it"
    if kind == "string" and "format" in field and field["format"] not in _FORMATS:
        yield (*path, "format"), f"a form knows the formats {', '.join(_FORMATS)}"
    if kind == "string":
        yield from _choices(field, path, "oneOf")
    if kind == "array":
        items = field.get("items")
        if not isinstance(items, Mapping) or not ({"enum", "anyOf"} & items.keys()):
            yield path, "an array in a form is a choice of several: `items` has `enum`, or `anyOf` with const and title"
        else:
            yield from _choices(items, (*path, "items"), "anyOf")


def _choices(field: Mapping[str, Any], path: Path, key: str) -> Iterator[tuple[Path, str]]:
    for i, choice in enumerate(field.get(key, ())):
        if not isinstance(choice, Mapping) or not isinstance(choice.get("const"), str) or "title" not in choice:
            yield (*path, key, i), "a choice is {const: VALUE, title: WHAT IS SHOWN}"
