"""Quick: whether a value fits a JSON Schema, for the schemas that most tools have, many times faster than `jsonschema` says why not.

A schema is compiled once into closures. Only words whose meaning is plain are taken; a schema with any other is not quick, and
`core.schema` alone applies it. Quick only ever says yes: what it does not accept is looked through again, and explained, there.
tests/core/test_quick.py holds both to the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Check = Callable[[Any], bool]
DEEPEST: Final = 32
"""Levels of a schema that is taken; each is a call within a call."""
_NOTES: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$comment", "format",
     "x-mcp-header", "$defs", "definitions"}
)  # fmt: skip
"""Words that decide nothing: `format` is a note in 2020-12 unless somebody asks for more, and nothing here refers to `$defs`."""
_TAKEN: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "enum", "const", "minLength", "maxLength", "minItems",
     "maxItems", "minimum", "maximum", "minProperties", "maxProperties", "anyOf", "allOf"}
)  # fmt: skip


def quick(schema: Any) -> Check | None:
    """A check that says yes only to what fits; None for a schema that is not so plain."""
    try:
        return _compile(schema, 0)
    except (_NotPlain, TypeError):  # a schema of somebody else's may be anything
        return None


class _NotPlain(Exception):
    """Stays in this module."""


def _compile(schema: Any, level: int) -> Check:
    if schema is True or schema == {}:
        return _anything
    if not isinstance(schema, Mapping) or level > DEEPEST or not schema.keys() <= _TAKEN | _NOTES:
        raise _NotPlain
    checks = [make(schema, level) for words, make in _MAKERS if not words.isdisjoint(schema)]
    if not checks:
        return _anything
    if len(checks) == 1:
        return checks[0]
    if len(checks) == 2:
        first, second = checks
        return lambda value: first(value) and second(value)
    return lambda value: all(check(value) for check in checks)


def _anything(value: Any) -> bool:
    return True


def _is_string(value: Any) -> bool:
    return type(value) is str


def _is_integer(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value.is_integer())


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


_TYPES: Final[Mapping[str, Check]] = {
    "string": _is_string,
    "integer": _is_integer,
    "number": _is_number,
    "boolean": lambda value: type(value) is bool,
    "null": lambda value: value is None,
    "object": lambda value: type(value) is dict,
    "array": lambda value: type(value) is list,
}


def _type(schema: Mapping[str, Any], level: int) -> Check:
    wanted = schema["type"]
    names = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    if not all(isinstance(name, str) and name in _TYPES for name in names):
        raise _NotPlain
    checks = [_TYPES[name] for name in names]
    return checks[0] if len(checks) == 1 else lambda value: any(check(value) for check in checks)


def _object(schema: Mapping[str, Any], level: int) -> Check:
    """`properties`, `required`, `additionalProperties` and their counts: said of objects only."""
    properties, required, more = (
        schema.get("properties", {}),
        schema.get("required", ()),
        schema.get("additionalProperties"),
    )
    if not isinstance(properties, Mapping) or not isinstance(required, (list, tuple)):
        raise _NotPlain
    named = {name: _compile(inner, level + 1) for name, inner in properties.items()}
    wanted = frozenset(required)
    closed = more is False
    others = None if more is None or isinstance(more, bool) else _compile(more, level + 1)
    least, most = _bounds(schema, "minProperties", "maxProperties")

    def check(value: Any) -> bool:
        if type(value) is not dict:
            return not isinstance(value, Mapping)
        if not wanted <= value.keys() or not least <= len(value) <= most:
            return False
        for name, inner in value.items():
            fits = named.get(name, others)
            if fits is None:
                if closed:
                    return False
            elif not fits(inner):
                return False
        return True

    return check


def _array(schema: Mapping[str, Any], level: int) -> Check:
    fits = _compile(schema.get("items", True), level + 1)
    least, most = _bounds(schema, "minItems", "maxItems")

    def check(value: Any) -> bool:
        if type(value) is not list:
            return not isinstance(value, (list, tuple))
        return least <= len(value) <= most and (fits is _anything or all(map(fits, value)))

    return check


def _text(schema: Mapping[str, Any], level: int) -> Check:
    least, most = _bounds(schema, "minLength", "maxLength")
    return lambda value: not isinstance(value, str) or least <= len(value) <= most


def _number(schema: Mapping[str, Any], level: int) -> Check:
    least, most = _bounds(schema, "minimum", "maximum", lowest=float("-inf"))
    return lambda value: least <= value <= most if _is_number(value) else value is None or type(value) in _NO_NUMBERS


_NO_NUMBERS: Final = frozenset({str, bool, dict, list})


def _one_of(schema: Mapping[str, Any], level: int) -> Check:
    """`enum` and `const` of texts: 1 is 1.0 and is not true there, which is left to those who know."""
    values = schema.get("enum", [schema.get("const")])
    if not isinstance(values, (list, tuple)) or not all(type(value) is str for value in values):
        raise _NotPlain
    if "enum" in schema and "const" in schema:
        raise _NotPlain
    known = frozenset(values)
    return lambda value: type(value) is str and value in known


def _any_of(schema: Mapping[str, Any], level: int) -> Check:
    checks = _all_compiled(schema["anyOf"], level)
    return lambda value: any(check(value) for check in checks)


def _all_of(schema: Mapping[str, Any], level: int) -> Check:
    checks = _all_compiled(schema["allOf"], level)
    return lambda value: all(check(value) for check in checks)


def _all_compiled(schemas: Any, level: int) -> list[Check]:
    if not isinstance(schemas, (list, tuple)):
        raise _NotPlain
    return [_compile(schema, level + 1) for schema in schemas]


def _bounds(schema: Mapping[str, Any], least: str, most: str, lowest: float = 0) -> tuple[float, float]:
    found = schema.get(least, lowest), schema.get(most, float("inf"))
    if not all(_is_number(bound) for bound in found):
        raise _NotPlain
    return found


_MAKERS: Final[tuple[tuple[frozenset[str], Callable[[Mapping[str, Any], int], Check]], ...]] = (
    (frozenset({"type"}), _type),
    (frozenset({"enum", "const"}), _one_of),
    (frozenset({"properties", "required", "additionalProperties", "minProperties", "maxProperties"}), _object),
    (frozenset({"items", "minItems", "maxItems"}), _array),
    (frozenset({"minLength", "maxLength"}), _text),
    (frozenset({"minimum", "maximum"}), _number),
    (frozenset({"anyOf"}), _any_of),
    (frozenset({"allOf"}), _all_of),
)
"""The words of each check, and what makes it; the first says no to most of what does not fit."""
