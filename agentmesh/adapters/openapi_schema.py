"""Schemas of an OpenAPI document as JSON Schema 2020-12 that stands by itself: what a tool's input and output are made of.

OpenAPI 3.0 has a dialect of its own (`nullable`, boolean `exclusiveMinimum`, `example`), 3.1 is 2020-12 with a few words more. Whatever is
referred to within the document comes along under `$defs`, once, so that a schema that contains itself stays finite. Nothing is fetched: a
reference that leads out of the document, or nowhere, is a value that may be anything. So is what stands past the limits below, and
what no validator of this mesh could apply (a pattern with look-around, a `required` that is no list): what comes out is always sound.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from agentmesh.core import cel

MAX_DEFINITIONS: Final = 60
"""Referred schemas in one tool's."""
MAX_BYTES: Final[Mapping[str, int]] = {"input": 24 * 1024, "output": 12 * 1024}
"""Of one argument's, or the output's, schema as JSON: a model has to read it. What is further away than that may be anything."""
MAX_DEPTH: Final = 40
_TEXTS: Final = 1000
"""Characters of one description inside a schema."""
REFERENCES: Final = 16
"""How many references in a row are followed."""

Side = Literal["input", "output"]
"""What a caller sends has no `readOnly` properties, what comes back no `writeOnly` ones."""

_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_NUMBERS: Final = ("minimum", "maximum", "multipleOf")
_COUNTS: Final = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains",
)  # fmt: skip
_AS_IT_IS: Final = ("const", "default", "contentEncoding", "contentMediaType", "deprecated", "uniqueItems")
_ONE: Final = ("not", "if", "then", "else", "contains", "propertyNames", "additionalProperties", "items")
_MANY: Final = ("allOf", "anyOf", "oneOf", "prefixItems")


class Schemas:
    """Turns the schemas of one document. `dialect` is its version: `3.0`, or what is newer.

    What is referred to is turned once, and shared by all that refer to it.
    """

    def __init__(self, document: Mapping[str, Any], dialect: str) -> None:
        self._document = document
        self.old = dialect == "3.0"
        self._names: dict[str, str] = {}
        self._references: dict[str, str] = {}
        self._turned: dict[tuple[Side, str], tuple[dict[str, Any], tuple[str, ...], int]] = {}

    def whole(self, schema: Any, side: Side) -> dict[str, Any]:
        """The schema with everything it refers to. Never raises: what cannot be said is left open."""
        turned = _Turning(self, side)
        found = turned.root(schema)
        left = MAX_BYTES[side] - _size(found)
        if left < 0:
            return {"type": "object"} if found.get("type") == "object" else {}
        definitions: dict[str, Any] = {}
        waiting = list(turned.named)
        while waiting:
            name = waiting.pop(0)
            if name in definitions:
                continue
            definition, named, size = self._definition(name, side)
            if size > left or len(definitions) >= MAX_DEFINITIONS:
                definition, named, size = {}, (), 0
            definitions[name] = definition
            waiting += named
            left -= size
        if definitions:
            found["$defs"] = definitions
        return found

    def _definition(self, name: str, side: Side) -> tuple[dict[str, Any], tuple[str, ...], int]:
        """A referred schema, the names that it refers to, and its bytes."""
        known = self._turned.get((side, name))
        if known is None:
            turned = _Turning(self, side)
            found = turned.turn(self.target(self._references[name]), 0)
            known = self._turned[side, name] = (found, tuple(turned.named), _size(found))
        return known

    def name(self, reference: str) -> str | None:
        """What a reference is called among `$defs`, the same in every schema of the document; None when it leads nowhere."""
        name = self._names.get(reference)
        if name is None:
            if self.target(reference) is None:
                return None
            base = re.sub(r"[^A-Za-z0-9_.-]", "_", _unescaped(reference.rpartition("/")[2]))[:80] or "schema"
            name, count = base, 2
            while name in self._references:
                name, count = f"{base}_{count}", count + 1
            self._names[reference], self._references[name] = name, reference
        return name

    def resolve(self, value: Any) -> Any:
        """What a value means that may be a reference (a parameter, a body, a response); None when it leads out or nowhere."""
        for _ in range(REFERENCES):
            if not (isinstance(value, Mapping) and isinstance(value.get("$ref"), str)):
                return value
            value = self.target(value["$ref"])
        return None

    def target(self, reference: str) -> Any:
        """What stands in the document at a reference into it."""
        if not reference.startswith("#/"):
            return None
        found: Any = self._document
        for part in reference[2:].split("/"):
            name = _unescaped(part)
            if isinstance(found, Mapping) and name in found:
                found = found[name]
            elif isinstance(found, list) and name.isdigit() and len(name) < 7 and int(name) < len(found):
                found = found[int(name)]
            else:
                return None
        return found


def _unescaped(part: str) -> str:
    if "%" in part:
        part = re.sub(r"%([0-7][0-9A-Fa-f])", lambda m: chr(int(m[1], 16)), part)
    return part.replace("~1", "/").replace("~0", "~")


def _size(schema: Any) -> int:
    return len(json.dumps(schema, default=str))


class _Turning:
    """One schema being turned."""

    def __init__(self, schemas: Schemas, side: Side) -> None:
        self._schemas = schemas
        self._old = schemas.old
        self._side = side
        self.named: dict[str, None] = {}
        """What it refers to, in the order in which it is read."""

    def root(self, schema: Any) -> dict[str, Any]:
        """With the words themselves at the top, not a reference: some readers look for `type` there."""
        seen = 0
        while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str) and seen < REFERENCES:
            beside = {} if self._old else {k: v for k, v in schema.items() if k != "$ref"}
            target = self._schemas.target(schema["$ref"])
            schema = {**target, **beside} if isinstance(target, Mapping) else {}
            seen += 1
        return self.turn(schema, 0)

    def turn(self, schema: Any, depth: int) -> dict[str, Any]:
        if schema is False:
            return {"not": {}}
        if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
            return {}
        if isinstance(schema.get("$ref"), str):
            found = self._reference(schema["$ref"])
            if self._old or len(schema) == 1:
                return found
            beside = self._words({k: v for k, v in schema.items() if k != "$ref"}, depth)
            return {**beside, "allOf": [*beside.get("allOf", []), found]} if found else beside
        return self._words(schema, depth)

    def _reference(self, reference: str) -> dict[str, Any]:
        name = self._schemas.name(reference)
        if name is None:
            return {}
        self.named[name] = None
        return {"$ref": f"#/$defs/{name}"}

    def _words(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if (kind := _type(schema.get("type"))) is not None:
            found["type"] = kind
        for word in ("title", "description", "format", "$comment"):
            if isinstance(schema.get(word), str) and word != "$comment":
                found[word] = schema[word][:_TEXTS]
        found |= {word: schema[word] for word in _AS_IT_IS if word in schema}
        found |= {w: schema[w] for w in _NUMBERS if _is_number(schema.get(w)) and (w != "multipleOf" or schema[w] > 0)}
        found |= {word: schema[word] for word in _COUNTS if _is_count(schema.get(word))}
        for flag in ("deprecated", "uniqueItems"):
            if not isinstance(found.get(flag, True), bool):
                del found[flag]
        for flag in ("contentEncoding", "contentMediaType"):
            if not isinstance(found.get(flag, ""), str):
                del found[flag]
        self._exclusive(schema, found)
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            found["enum"] = schema["enum"]
        if isinstance(schema.get("pattern"), str) and _is_pattern(schema["pattern"]):
            found["pattern"] = schema["pattern"]
        self._examples(schema, found)
        self._inner(schema, found, depth)
        if self._old and schema.get("nullable") is True:
            _allow_null(found)
        return found

    def _exclusive(self, schema: Mapping[str, Any], found: dict[str, Any]) -> None:
        for word, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            value = schema.get(word)
            if value is True and bound in found:
                found[word] = found.pop(bound)
            elif _is_number(value):
                found[word] = value

    def _examples(self, schema: Mapping[str, Any], found: dict[str, Any]) -> None:
        if isinstance(schema.get("examples"), list):
            found["examples"] = schema["examples"][:3]
        elif "example" in schema:
            found["examples"] = [schema["example"]]
        if len(json.dumps(found.get("examples"), default=str)) > _TEXTS:
            del found["examples"]

    def _inner(self, schema: Mapping[str, Any], found: dict[str, Any], depth: int) -> None:
        for word in _ONE:
            value = schema.get(word)
            if isinstance(value, bool):
                found[word] = value
            elif isinstance(value, Mapping):
                found[word] = self.turn(value, depth + 1)
        if self._side == "output" and found.get("additionalProperties") is False:
            del found["additionalProperties"]  # an API that learns to say more must not become unusable
        for word in _MANY:
            value = schema.get(word)
            if isinstance(value, list) and value:
                turned = [self.turn(item, depth + 1) for item in value]
                # Of what comes back, several forms may fit at once: documents seldom mean the exclusion.
                found["anyOf" if word == "oneOf" and self._side == "output" and "anyOf" not in schema else word] = (
                    turned
                )
        hidden: set[str] = set()
        if isinstance(schema.get("properties"), Mapping):
            away = "readOnly" if self._side == "input" else "writeOnly"
            hidden = {
                str(name)
                for name, value in schema["properties"].items()
                if isinstance(resolved := self._schemas.resolve(value), Mapping) and resolved.get(away) is True
            }
            found["properties"] = {
                str(name): self.turn(value, depth + 1)
                for name, value in schema["properties"].items()
                if str(name) not in hidden
            }
        for word in ("patternProperties", "dependentSchemas"):
            if isinstance(schema.get(word), Mapping):
                found[word] = {
                    str(name): self.turn(value, depth + 1)
                    for name, value in schema[word].items()
                    if word != "patternProperties" or _is_pattern(str(name))
                }
        if isinstance(schema.get("required"), list):
            required = [n for n in schema["required"] if isinstance(n, str) and n not in hidden]
            if required:
                found["required"] = list(dict.fromkeys(required))
        if "properties" in found and "type" not in found and not any(w in found for w in _MANY):
            found["type"] = "object"


def _type(given: Any) -> str | list[str] | None:
    if isinstance(given, str) and given in _TYPES:
        return given
    if isinstance(given, list):
        kinds = list(dict.fromkeys(kind for kind in given if isinstance(kind, str) and kind in _TYPES))
        return None if not kinds else kinds[0] if len(kinds) == 1 else kinds
    return None


def _allow_null(found: dict[str, Any]) -> None:
    if isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    if "enum" in found and None not in found["enum"]:
        found["enum"] = [*found["enum"], None]
    if "type" not in found:
        for word in ("allOf", "oneOf", "anyOf"):
            if word in found:
                branches = found.pop(word)
                inner = {word: branches}
                found["anyOf"] = [inner if word != "anyOf" else {"anyOf": branches}, {"type": "null"}]
                break


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_pattern(text: str) -> bool:
    if len(text) > _TEXTS:
        return False
    try:
        cel.matches(text, "")
    except ValueError:
        return False
    return True
