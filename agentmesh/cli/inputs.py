"""What `--input` says, as JSON: each value is parsed by the schema of what it is for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentmesh.errors import InvalidInput
from agentmesh.settings import Limits

MAX_BYTES = Limits().body
"""Most that is read of a file: the server refuses a request larger than this, and /dev/zero has no end."""

TYPES: dict[str, type | tuple[type, ...]] = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}


def parse(given: Sequence[str], schema: Mapping[str, Any], *, option: str = "--input") -> dict[str, Any]:
    """`k=v` pairs as an object. `k=@file` reads a file, `k=@-` stdin, `k=@@x` is the text `@x`.

    `@file` alone is a file with the whole object. InvalidInput when a pair has no `=`, a name comes twice, a file
    cannot be read or a value does not fit its type.
    """
    result: dict[str, Any] = {}
    properties = schema.get("properties") if isinstance(schema.get("properties"), Mapping) else {}
    for pair in given:
        if pair.startswith("@") and "=" not in pair:
            whole = _whole(pair, option)
            if again := whole.keys() & result.keys():
                raise InvalidInput(f"{option} {pair} gives {_quoted(again)} a second time")
            result |= whole
            continue
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InvalidInput(f"{option} takes NAME=VALUE or @FILE, not {pair!r}{_known(properties)}")
        if name in result:
            raise InvalidInput(f"{option} gives {name!r} twice")
        flag = _flag(name, option)
        result[name] = value(flag, text_of(flag, text), (properties or {}).get(name, {}))
    return result


def value(flag: str, text: str, schema: Any) -> Any:
    """One value by its schema, called `flag` where it does not fit: text where text is allowed, else JSON of an allowed type."""
    allowed = _types(schema)
    if allowed is None:
        return text
    found: Any = text
    parsed = True
    try:
        found = json.loads(text)
    except ValueError:
        parsed = False
    if parsed and any(_is(found, kind) for kind in allowed if kind != "string"):
        return found
    if "string" in allowed:
        return text
    raise InvalidInput(f"{flag} must be {' or '.join(sorted(allowed))}, and {_short(text)} is not")


def _types(schema: Any) -> frozenset[str] | None:
    """JSON types a schema allows as far as its first level tells; None when it does not."""
    if not isinstance(schema, Mapping):
        return None
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(kind)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return frozenset(_type_of(v) for v in values) or None
    return None


def _type_of(found: Any) -> str:
    return next((name for name, kind in TYPES.items() if _is(found, name) and kind), "string")


def _is(found: Any, kind: str) -> bool:
    if kind in {"integer", "number"} and isinstance(found, bool):
        return False
    if kind == "integer" and isinstance(found, float):
        return found.is_integer()
    return kind in TYPES and isinstance(found, TYPES[kind])


def text_of(flag: str, text: str) -> str:
    """The text that an argument is: itself, a file's with `@`, stdin with `@-`; `@@x` is the text `@x`."""
    if text.startswith("@@"):
        return text[1:]
    return _read(flag, text[1:]) if text.startswith("@") else text


def _read(flag: str, path: str) -> str:
    """A file's text. Logs are not always UTF-8: what is not becomes the replacement character."""
    try:
        if path == "-":
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise InvalidInput(f"{flag}: cannot read {path!r}: {reason} (text that begins with @ is written @@)") from e
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"{flag}: {path!r} has more than {MAX_BYTES:,} bytes, the most that a server takes")
    return content.decode("utf-8", "replace")


def _whole(pair: str, option: str) -> dict[str, Any]:
    try:
        found = json.loads(_read(f"{option} {pair}", pair[1:]))
    except ValueError as e:
        raise InvalidInput(f"{option} {pair}: the file is not JSON: {e}") from e
    if not isinstance(found, dict):
        raise InvalidInput(f"{option} {pair}: the file must hold a JSON object")
    return found


def _flag(name: str, option: str) -> str:
    """How a value is called on the command line: an input by its option, TEXT and --data as they are."""
    return name if name in ("TEXT", "--data") else f"{option} {name}"


def _known(properties: Any) -> str:
    return f"; the inputs are {', '.join(properties)}" if properties else ""


def _quoted(names: Any) -> str:
    return ", ".join(repr(n) for n in sorted(names))


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
