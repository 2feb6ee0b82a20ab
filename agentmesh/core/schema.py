"""JSON Schema 2020-12 as the mesh uses it: checked when a file is loaded, applied without surprises.

Nothing is fetched: a `$ref` stays inside its own schema. Regular expressions are RE2's, whose time is linear, because a
caller's 26 characters hold Python's `re` for seconds under a pattern such as `^(a+)+$`; look-around and back-references
do not exist in it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry

from agentmesh.core import cel
from agentmesh.core.document import Path
from agentmesh.core.inference import closest
from agentmesh.core.quick import quick

SHOWN = 5
"""Faults told of one schema."""

# Applying a schema


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not cel.matches(pattern, str(instance)):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, subschema in patterns.items():
            for name, value in instance.items():
                if cel.matches(pattern, name):
                    yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, more: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    known, patterns = schema.get("properties", {}), list(schema.get("patternProperties", {}))
    extra = [name for name in instance if name not in known and not any(cel.matches(p, name) for p in patterns)]
    if validator.is_type(more, "object"):
        for name in extra:
            yield from validator.descend(instance[name], more, path=name)
    elif not more and extra:
        shown = ", ".join(repr(name[:80]) for name in extra[:SHOWN])
        yield ValidationError(f"unknown: {shown}{closest(extra[0], known)}")


def _unique_items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """By a set: jsonschema compares each item with each, and a caller's megabyte of `{}` would take hours."""
    if wanted and validator.is_type(instance, "array"):
        seen: set[Any] = set()
        for i, item in enumerate(instance):
            known = _key(item)
            if known in seen:
                yield ValidationError(f"items must differ, item {i} stands there twice")
                return
            seen.add(known)


def _key(value: Any) -> Any:
    """Equal for values that are equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, list):
        return ("list", tuple(map(_key, value)))
    if isinstance(value, Mapping):
        return ("object", frozenset((name, _key(inner)) for name, inner in value.items()))
    return value


class _Steps(threading.local):
    """References that the validation now going on may still follow."""

    left = 0


_steps = _Steps()


class _TooLong(Exception):
    """Stays in this module."""


def _reference(validator: Any, reference: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """Counted: where two branches of an `anyOf` go on by the same reference, each level of a value doubles the work."""
    _steps.left -= 1
    if _steps.left < 0:
        raise _TooLong
    yield from Draft202012Validator.VALIDATORS["$ref"](validator, reference, instance, schema)


_Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
        "$ref": _reference,
    },
)


MAX_VALUES = 100_000
"""Values in what a schema is applied to: each costs microseconds, and nothing else runs meanwhile."""
MAX_STEPS = 10_000
"""References that one validation follows, besides some for each value."""
_PER_VALUE = 4
MOST_STEPS = 20_000
"""References that any validation follows: they take a second."""


class Validator:
    """A schema, ready to be applied. May be shared by threads."""

    __slots__ = ("_inner", "_quick")

    def __init__(self, schema: Any) -> None:
        self._quick = quick(schema)
        self._inner = _Validator(schema, registry=Registry())

    def iter_errors(self, value: Any) -> Iterator[ValidationError]:
        held = _count(value, MAX_VALUES)
        if held > MAX_VALUES:
            yield ValidationError(f"has more than {MAX_VALUES:,} values; hand on less, or text")
            return
        if self._quick is not None and self._quick(value):
            return
        if isinstance(value, (str, list, dict)):
            value = _told_briefly(value)
        _steps.left = min(MAX_STEPS + _PER_VALUE * held, MOST_STEPS)
        try:
            yield from self._inner.iter_errors(value)
        except _TooLong:
            yield ValidationError("takes too long to check: too many branches of its schema go on by one reference")
        except RecursionError:
            yield ValidationError("cannot be checked: its schema refers to itself without an end")

    def is_valid(self, value: Any) -> bool:
        return next(self.iter_errors(value), None) is None


class _Text(str):
    """A long text. jsonschema writes what it looks at into each error, also of the branches of an `anyOf` that nobody hears of:
    ten thousand branches and a megabyte would fill the memory.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{str.__repr__(self[:_BRIEF])}..."


class _List(list[Any]):
    __slots__ = ()

    def __repr__(self) -> str:
        return f"[... {len(self):,} items]"


class _Object(dict[str, Any]):
    __slots__ = ()

    def __repr__(self) -> str:
        return f"{{... {len(self):,} members}}"


_BRIEF = 200
"""Characters of a text, and items of a list, that errors show whole."""


def _told_briefly(value: Any) -> Any:
    """The same value for every rule, with little to say of itself in errors; small ones are left alone."""
    if isinstance(value, str):
        return _Text(value) if len(value) > _BRIEF else value
    if isinstance(value, dict):
        members = {
            name: _told_briefly(inner) if isinstance(inner, (str, list, dict)) else inner
            for name, inner in value.items()
        }
        return _Object(members) if len(members) > _BRIEF else members
    if isinstance(value, list):
        items = [_told_briefly(inner) if isinstance(inner, (str, list, dict)) else inner for inner in value]
        return _List(items) if len(items) > _BRIEF else items
    return value


def _count(value: Any, most: int) -> int:
    """Values in lists and objects in a value; stops counting past `most`."""
    waiting, found = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            inner: Any = one.values()
        elif isinstance(one, list):
            inner = one
        else:
            continue
        found += len(one)
        if found > most:
            break
        waiting += [v for v in inner if isinstance(v, (dict, list))]
    return found


def validator(schema: Any) -> Validator:
    """The schema, ready to be applied; building it takes longer than applying it."""
    return Validator(schema)


# Checking a schema

_META = Draft202012Validator(Draft202012Validator.META_SCHEMA)
_KEYWORDS = frozenset(
    [
        "$id",
        "$schema",
        "$ref",
        "$anchor",
        "$dynamicRef",
        "$dynamicAnchor",
        "$vocabulary",
        "$comment",
        "$defs",
        "definitions",
        "type",
        "enum",
        "const",
        "multipleOf",
        "maximum",
        "exclusiveMaximum",
        "minimum",
        "exclusiveMinimum",
        "maxLength",
        "minLength",
        "pattern",
        "maxItems",
        "minItems",
        "uniqueItems",
        "maxContains",
        "minContains",
        "maxProperties",
        "minProperties",
        "required",
        "dependentRequired",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "dependentSchemas",
        "prefixItems",
        "items",
        "contains",
        "properties",
        "patternProperties",
        "additionalProperties",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
        "format",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "title",
        "description",
        "default",
        "deprecated",
        "readOnly",
        "writeOnly",
        "examples",
    ]
)
_ONE = ("not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems",
        "unevaluatedProperties", "contentSchema")  # fmt: skip
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def subschemas(schema: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """A schema and every schema inside it, with paths."""
    yield path, schema
    if not isinstance(schema, Mapping):
        return
    for word in _ONE:
        if word in schema:
            yield from subschemas(schema[word], (*path, word))
    for word in _MANY:
        if isinstance(schema.get(word), (list, tuple)):
            for i, inner in enumerate(schema[word]):
                yield from subschemas(inner, (*path, word, i))
    for word in _NAMED:
        if isinstance(schema.get(word), Mapping):
            for name, inner in schema[word].items():
                yield from subschemas(inner, (*path, word, name))


def template_enums(schema: Any) -> list[tuple[Path, str]]:
    """Where `enum` is an expression: its path and text."""
    return [
        ((*path, "enum"), inner["enum"])
        for path, inner in subschemas(schema)
        if isinstance(inner, Mapping) and isinstance(inner.get("enum"), str)
    ]


def schema_faults(schema: Any, *, expressions: bool = False) -> list[tuple[Path, str]]:
    """What is wrong with a schema: (path, message). `expressions`: `enum` may be `${{ }}` (an `output` schema)."""
    found: list[tuple[Path, str]] = []
    plain = _without_templates(schema) if expressions else schema
    for error in _META.iter_errors(plain):
        fault = (tuple(error.absolute_path), _explain(error))
        if fault in found:
            continue
        found.append(fault)
        if len(found) >= SHOWN:
            return found
    for path, inner in subschemas(schema):
        if isinstance(inner, Mapping):
            found += [((*path, *below), message) for below, message in _own_faults(schema, inner)]
    return found[:SHOWN]


def _without_templates(schema: Any) -> Any:
    """The same schema with every `enum` that is an expression made a list, so that the meta-schema accepts it."""
    if isinstance(schema, Mapping):
        return {
            k: [None] if k == "enum" and isinstance(v, str) and "${{" in v else _without_templates(v)
            for k, v in schema.items()
        }
    if isinstance(schema, (list, tuple)):
        return [_without_templates(v) for v in schema]
    return schema


def _own_faults(root: Any, schema: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    for word in schema:
        if word not in _KEYWORDS and (hint := closest(word, _KEYWORDS)):
            yield (word,), f"{word!r} is no word of JSON Schema{hint}"
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if not reference.startswith("#"):
            yield ("$ref",), f"a $ref stays inside its own schema (#/$defs/...): {reference!r} would be fetched"
        elif _target(root, reference) is None:
            yield ("$ref",), f"there is no {reference!r} in this schema"
    for word in ("$dynamicRef", "$id"):
        if word in schema:
            yield (word,), f"{word} is not supported; use $ref with #/$defs/..."
    for path, pattern in [(("pattern",), schema.get("pattern"))] + [
        (("patternProperties", p), p) for p in schema.get("patternProperties", ()) if isinstance(p, str)
    ]:
        if isinstance(pattern, str):
            try:
                cel.matches(pattern, "")
            except ValueError as error:
                yield path, f"not a regular expression of RE2 (no look-around, no back-references): {error}"
    if "unevaluatedProperties" in schema and any(
        isinstance(s, Mapping) and "patternProperties" in s for _, s in subschemas(root)
    ):
        yield (
            ("unevaluatedProperties",),
            "unevaluatedProperties does not go with patternProperties here; use additionalProperties",
        )


def _target(root: Any, reference: str) -> Any:
    value = root
    for part in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, (list, tuple)) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value


_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")


def _explain(error: Any) -> str:
    path = list(error.absolute_path)
    word = path[-1] if path and isinstance(path[-1], str) else ""
    if word == "type" or (len(path) > 1 and path[-2] == "type"):
        given = error.instance if isinstance(error.instance, list) else [error.instance]
        wrong = next((t for t in given if t not in _TYPES), error.instance)
        hint = closest(wrong, _TYPES) if isinstance(wrong, str) else ""
        return f"{wrong!r} is no type of JSON Schema{hint or '; it has ' + ', '.join(_TYPES)}"
    if word == "enum" and isinstance(error.instance, str) and "${{" in error.instance:
        return "an expression may stand at the enum of an output schema only"
    if error.validator == "type":
        expected = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        words: dict[Any, str] = {
            "array": "a list",
            "object": "an object",
            "string": "text",
            "boolean": "true or false",
            "integer": "a whole number",
        }
        return f"{word or 'a schema'} must be {' or '.join(words.get(k) or str(k) for k in expected)}"
    return str(error.message)[:200]
