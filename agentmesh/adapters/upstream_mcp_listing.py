"""Listing: what an upstream says it has, looked at before anybody believes it; and the names that the mesh gives it.

What does not fit is left out and said so, and the rest is offered: one bad tool does not take the others with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, TypeVar

import mcp_types as types
from mcp.shared.inbound import X_MCP_HEADER_KEY, find_invalid_x_mcp_header
from pydantic import BaseModel, TypeAdapter, ValidationError

from agentmesh.adapters.upstream_mcp_session import RpcError, Session
from agentmesh.core import cel
from agentmesh.core.resource import Prompt, PromptArgument, Resource, ResourceTemplate
from agentmesh.core.schema import schema_faults, subschemas
from agentmesh.core.server_file import ServerFile
from agentmesh.core.tool import Tool
from agentmesh.errors import Fail

PAGES: Final = 200
ITEMS: Final = 10_000
"""Of one list; a server with more is one that never ends its list."""
SCHEMA_LIMIT: Final = 128 * 1024
"""Bytes of one schema as JSON. Every client that lists tools gets it."""
DEPTH: Final = 40
TEXT_LIMIT: Final = 64 * 1024
"""Characters of a description."""
NAME_LIMIT: Final = 64
LEGAL: Final = re.compile(rf"[A-Za-z0-9_.-]{{1,{NAME_LIMIT}}}")
_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_.-]")

M = TypeVar("M", bound=BaseModel)


async def pages(session: Session, method: str, member: str, *, timeout: float) -> list[dict[str, Any]]:
    """Every item of a list, of all its pages. Fail when it does not end, or is no list."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    seen: set[str] = set()
    for _ in range(PAGES):
        result = await session.request(method, {} if cursor is None else {"cursor": cursor}, timeout=timeout)
        items = result.get(member)
        if not isinstance(items, list):
            raise Fail(f"{session.name} answered {method} without a list of {member}")
        found += [item for item in items if isinstance(item, dict)]
        if len(found) > ITEMS:
            break
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str):
            return found
        if cursor in seen:
            break
        seen.add(cursor)
    raise Fail(f"{session.name} does not end its {member}: {len(found)} of them, and it gives another page")


async def optional(session: Session, method: str, member: str, *, timeout: float) -> list[dict[str, Any]]:
    """The same; nothing where the upstream does not know the method."""
    try:
        return await pages(session, method, member, timeout=timeout)
    except RpcError as error:
        if error.code == types.METHOD_NOT_FOUND:
            return []
        raise


def definitions(
    items: Iterable[Mapping[str, Any]], server: ServerFile, *, modern: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """(by the mesh's names the definitions of the tools to offer, and by their own names why others are not).

    Takes milliseconds for each tool that was not seen before: call it in a thread.
    """
    good: dict[str, dict[str, Any]] = {}
    faults: dict[str, str] = {}
    for item in items:
        name = item.get("name")
        if not isinstance(name, str) or not name or len(name) > 1000 or not _encodes(name):
            faults[str(name)[:80]] = "its name is no text"
        elif name in good:
            faults[name] = "two tools have this name"
        elif (fault := _fault(item, modern=modern)) is not None:
            faults[name] = fault
        else:
            good[name] = {k: v for k, v in item.items() if k in _KEPT and v is not None}
    if server.expose is not None:
        good = {name: definition for name, definition in good.items() if matches(server.expose, name)}
        faults = {name: fault for name, fault in faults.items() if matches(server.expose, name)}
    return {mesh: good[own] for own, mesh in names(good, server).items()}, faults


_KEPT: Final = frozenset(
    {"name", "title", "description", "inputSchema", "outputSchema", "annotations", "_meta", "icons"}
)


def matches(globs: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def names(own: Iterable[str], server: ServerFile) -> dict[str, str]:
    """By an upstream's own names those of the mesh: `server.tool`, legal, at most 64 characters, and each once.

    What has to be changed gets a piece of its hash, so that the same tool has the same name whatever else there is.
    """
    prefix = f"{server.name}." if server.prefix else ""
    return {name: _name(prefix, name) for name in own}


def _name(prefix: str, own: str) -> str:
    whole = prefix + own
    if LEGAL.fullmatch(whole):
        return whole
    mark = hashlib.sha256(own.encode()).hexdigest()[:8]
    return f"{_ILLEGAL.sub('_', whole)[: NAME_LIMIT - 9]}_{mark}"


def _fault(item: Mapping[str, Any], *, modern: bool) -> str | None:
    description = item.get("description") or ""
    if not isinstance(description, str) or len(description) > TEXT_LIMIT:
        return f"its description is no text of at most {TEXT_LIMIT // 1024} kB"
    for member in ("inputSchema", "outputSchema"):
        schema = item.get(member)
        if schema is None and member == "outputSchema":
            continue
        if (fault := _schema_fault(schema)) is not None:
            return f"its {member} {fault}"
    if modern and (reason := find_invalid_x_mcp_header(item["inputSchema"])) is not None:
        return reason
    try:
        _TOOL.validate_python(item, by_name=False)
    except ValidationError as error:
        return _first(error)
    return None


_TOOL: Final = TypeAdapter(types.Tool)


def _schema_fault(schema: Any) -> str | None:
    if not isinstance(schema, dict):
        return "is no JSON Schema"
    if not _shallow(schema, DEPTH):
        return f"is nested deeper than {DEPTH} levels"
    try:
        text = json.dumps(schema)
    except (ValueError, TypeError) as error:
        return f"cannot be used: {str(error)[:200]}"
    if len(text) > SCHEMA_LIMIT:
        return f"is longer than {SCHEMA_LIMIT // 1024} kB"
    return _kept_fault(text)


def _text_fault(text: str) -> str | None:
    """What is wrong with a schema, by its text."""
    schema = json.loads(text)
    try:
        for path, fault in schema_faults(usable_schema(schema)):
            if "is no word of JSON Schema" not in fault:
                return f"is no JSON Schema that can be used: {'.'.join(map(str, path)) or 'the whole'}: {fault}"
    except (ValueError, RecursionError, TypeError) as error:
        return f"cannot be used: {str(error)[:200]}"
    return None if schema.get("type") == "object" else "is not of type object"


def _kept_fault(text: str) -> str | None:
    """The same, looked for once: it takes milliseconds, and lists are looked at again and again."""
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    if key not in _FAULTS:
        if len(_FAULTS) >= KEPT_FAULTS:
            _FAULTS.clear()
        _FAULTS[key] = _text_fault(text)
    return _FAULTS[key]


_FAULTS: Final[dict[bytes, str | None]] = {}
KEPT_FAULTS: Final = 50_000
"""Schemas of which it is remembered."""


def usable_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as the mesh offers it: without headers that are between us and the upstream, nor patterns that RE2 does not have.

    The upstream checks its arguments itself; what we leave out here only lets more through to it.
    """
    found: dict[str, Any] = json.loads(json.dumps(schema))
    found.pop("$id", None)
    for _, inner in subschemas(found):
        if isinstance(inner, dict):
            inner.pop(X_MCP_HEADER_KEY, None)
            pattern = inner.get("pattern")
            if isinstance(pattern, str) and not _is_re2(pattern):
                del inner["pattern"]
            patterns = inner.get("patternProperties")
            if isinstance(patterns, dict):
                inner["patternProperties"] = {p: s for p, s in patterns.items() if _is_re2(p)}
    return found


def _is_re2(pattern: str) -> bool:
    try:
        cel.matches(pattern, "")
    except ValueError:
        return False
    return True


def _shallow(value: Any, depth: int) -> bool:
    level: list[Any] = [value]
    for _ in range(depth):
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return True
    return not level


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def tool_of(name: str, definition: Mapping[str, Any], server: ServerFile) -> Tool:
    """A tool as callers see it. Whether it only reads is the operator's word (`reads`), never the upstream's."""
    annotations = dict(definition.get("annotations") or {})
    annotations.pop("readOnlyHint", None)
    annotations.pop("idempotentHint", None)
    own = str(definition["name"])
    if matches(server.reads, own):
        annotations["readOnlyHint"] = True
    output = definition.get("outputSchema")
    title = definition.get("title")
    return Tool(
        name=name,
        description=str(definition.get("description") or ""),
        input_schema=usable_schema(definition["inputSchema"]),
        output_schema=None if output is None else usable_schema(output),
        title=title if isinstance(title, str) else None,
        annotations=annotations,
        source=f"upstream:{server.name}",
        server=server.name,
        meta=dict(definition.get("_meta") or {}),
    )


def resources(items: Sequence[Mapping[str, Any]], server: str) -> tuple[Resource, ...]:
    return tuple(
        Resource(
            uri=str(one.uri), name=one.name, description=one.description or "", title=one.title,
            mime_type=one.mime_type, size=one.size, annotations=_plain(one.annotations), meta=dict(one.meta or {}),
            source=f"upstream:{server}",
        )
        for one in _valid(types.Resource, items)
    )  # fmt: skip


def templates(items: Sequence[Mapping[str, Any]], server: str) -> tuple[ResourceTemplate, ...]:
    return tuple(
        ResourceTemplate(
            uri_template=one.uri_template, name=one.name, description=one.description or "", title=one.title,
            mime_type=one.mime_type, annotations=_plain(one.annotations), meta=dict(one.meta or {}),
            source=f"upstream:{server}",
        )
        for one in _valid(types.ResourceTemplate, items)
    )  # fmt: skip


def prompts(items: Sequence[Mapping[str, Any]], server: ServerFile) -> tuple[dict[str, Prompt], dict[str, str]]:
    """(by the mesh's names the prompts, and by these the upstream's own names)."""
    good = {one.name: one for one in _valid(types.Prompt, items)}
    mesh = names(good, server)
    found = {
        mesh[own]: Prompt(
            name=mesh[own], description=one.description or "", title=one.title,
            arguments=tuple(
                PromptArgument(a.name, a.description or "", a.title, bool(a.required)) for a in one.arguments or ()
            ),
            meta=dict(one.meta or {}), source=f"upstream:{server.name}",
        )
        for own, one in good.items()
    }  # fmt: skip
    return found, {name: own for own, name in mesh.items()}


def _valid(model: type[M], items: Iterable[Mapping[str, Any]]) -> list[M]:
    """Those that are what they say, and not so long that every list would be: each is shown whole to whoever lists."""
    found = []
    for item in items:
        if len(json.dumps(item)) > SCHEMA_LIMIT or item.get("uri") == "":
            continue
        try:
            found.append(model.model_validate(item, by_name=False))
        except ValidationError:
            continue
    return found


def _plain(annotations: BaseModel | None) -> dict[str, Any]:
    return {} if annotations is None else annotations.model_dump(by_alias=True, mode="json", exclude_none=True)


MOST_BLOCKS: Final = 10_000
"""Pieces of content in one answer: each is looked at, and nothing else runs meanwhile."""
_CONTENT: Final = TypeAdapter(list[types.ContentBlock])
_CONTENTS: Final = TypeAdapter(list[types.TextResourceContents | types.BlobResourceContents])
_MESSAGES: Final = TypeAdapter(list[types.PromptMessage])


def blocks(value: Any, who: str) -> tuple[Mapping[str, Any], ...]:
    """Content blocks of a tool's answer. Fail when they are none."""
    if value is None:
        return ()
    if isinstance(value, list) and len(value) > MOST_BLOCKS:
        raise Fail(f"{who} answered {len(value):,} pieces of content, more than {MOST_BLOCKS:,}; ask it for less")
    if isinstance(value, list) and all(_is_text(block) for block in value):
        return tuple(value)
    return tuple(_checked(_CONTENT, value, f"{who} answered content that is none"))


def _is_text(block: Any) -> bool:
    return (
        isinstance(block, dict)
        and len(block) == 2
        and block.get("type") == "text"
        and isinstance(block.get("text"), str)
    )


def contents(value: Any, who: str) -> list[dict[str, Any]]:
    return _checked(_CONTENTS, value, f"{who} answered contents that are none")


def messages(value: Any, who: str) -> list[dict[str, Any]]:
    return _checked(_MESSAGES, value, f"{who} answered messages that are none")


def _checked(adapter: TypeAdapter[Any], value: Any, what: str) -> list[dict[str, Any]]:
    try:
        found = adapter.validate_python(value, by_name=False)
    except ValidationError as error:
        raise Fail(f"{what}: {_first(error)}") from None
    dumped: list[dict[str, Any]] = adapter.dump_python(found, by_alias=True, mode="json", exclude_none=True)
    return dumped


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"[:300]
