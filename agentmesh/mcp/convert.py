"""Core nouns to MCP's wire form and back. Above it stands the SDK, below it only core.

Results are plain dicts in the wire's spelling: the SDK validates and sieves them once for the version spoken, so
building its models first would only add a second pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, MISSING_REQUIRED_CLIENT_CAPABILITY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentmesh.core.question import ASKING
from agentmesh.core.run import Kind, RunEvent
from agentmesh.core.tool import Tool, ToolResult
from agentmesh.errors import (
    CallerError,
    Conflict,
    InvalidInput,
    MeshError,
    MissingCapability,
    ModelError,
    NotBuilt,
    NotFound,
    PolicyDenied,
    StepError,
    TooLarge,
)
from agentmesh.mcp.blocks import HINTS_SINCE, TITLES_SINCE, clean, foreign_meta, to_blocks, trim

FORBIDDEN: Final = -32003
"""A policy says no. From -32000..-32019, which MCP 2026-07-28 leaves to implementations; -32002 is retired there."""
UNAVAILABLE: Final = -32004
"""The mesh cannot serve anybody now (its store, for one); not this caller's fault."""

CODES: Final[tuple[tuple[type[MeshError], int], ...]] = (
    (PolicyDenied, FORBIDDEN),
    (NotFound, INVALID_PARAMS),  # 2026-07-28 server/tools, Error Handling: an unknown tool is -32602
    (InvalidInput, INVALID_PARAMS),
    (TooLarge, INVALID_PARAMS),
    (Conflict, INVALID_PARAMS),
    (NotBuilt, INVALID_REQUEST),
    (MissingCapability, MISSING_REQUIRED_CLIENT_CAPABILITY),
    (CallerError, INVALID_REQUEST),
    (MeshError, UNAVAILABLE),
)
"""First match wins."""

SAID: Final = 1000
"""Characters of a text in an error: what was wrong may be a name of megabytes, which nobody wants to have back."""

RUN_META: Final = "io.agentmesh/run"
KEY_META: Final = "io.agentmesh/idempotency-key"

_INPUT_ERRORS_ARE_RESULTS: Final = "2025-11-25"
_STRUCTURED_IS_OBJECT_UNTIL: Final = "2025-11-25"


def to_mcp_error(error: Exception) -> MCPError:
    """The JSON-RPC error for what a handler raised; what we did not raise on purpose shows nothing of our insides."""
    if isinstance(error, MCPError):
        return error
    for kind, code in CODES:
        if isinstance(error, kind):
            return MCPError(code, cut(error.message), {"code": error.code, **cut(error.data)})
    return MCPError(INTERNAL_ERROR, "The server failed on this request; its log says why.")


def cut(said: Any) -> Any:
    """What an error says, its long texts cut."""
    if isinstance(said, str):
        return said if len(said) <= SAID else f"{said[: SAID // 2]} ... {said[-SAID // 2 :]}"
    if isinstance(said, Mapping):
        return {name: cut(value) for name, value in said.items()}
    return said


def is_tool_failure(error: MeshError, version: str) -> bool:
    """Whether an error is the tool's result (`isError`), which a model reads, rather than a protocol error, which it
    does not.

    A model or step that failed is. Arguments that do not fit the input schema are since 2025-11-25 (SEP-1303;
    server/tools, Error Handling: "Input validation errors" are tool execution errors, so that the model can correct
    itself); 2025-06-18 and older list "Invalid arguments" under protocol errors. An unknown tool is a protocol error
    in every revision, and so is a denial: nothing ran, and other arguments than the caller's own are not for the
    model to try.
    """
    if isinstance(error, InvalidInput):
        return version >= _INPUT_ERRORS_ARE_RESULTS
    if isinstance(error, MissingCapability):
        return version not in MODERN_PROTOCOL_VERSIONS
    return isinstance(error, (StepError, ModelError))


def to_mcp_failure(error: MeshError) -> dict[str, Any]:
    """CallToolResult for a tool that failed."""
    return {"content": [{"type": "text", "text": clean(error.message)}], "isError": True, "resultType": "complete"}


def to_mcp_result(result: ToolResult, version: str) -> dict[str, Any]:
    """CallToolResult: the content, or `structuredContent` and the same JSON as text for clients that read only text."""
    text = result.text
    if result.content is not None:
        content = to_blocks(result.content, version)
        if not content and result.structured is not None and version < TITLES_SINCE:
            content = [{"type": "text", "text": clean(json.dumps(result.structured, ensure_ascii=False))}]
    else:
        if not text and result.structured is not None:
            text = json.dumps(result.structured, ensure_ascii=False)
        content = [{"type": "text", "text": clean(text)}]
    wire: dict[str, Any] = {"content": content, "isError": result.is_error, "resultType": "complete"}
    structured = result.structured
    if structured is not None and version >= TITLES_SINCE:
        if isinstance(structured, dict) or version > _STRUCTURED_IS_OBJECT_UNTIL:
            wire["structuredContent"] = structured if result.content is None and text.isascii() else _clean(structured)
    meta = {} if result.meta is None else foreign_meta(result.meta)
    if result.run_id is not None:
        meta[RUN_META] = result.run_id
    if meta:
        wire["_meta"] = meta
    return wire


def to_mcp_tool(tool: Tool, version: str) -> dict[str, Any]:
    """Tool. Before 2026-07-28 an output schema has to describe an object, so another one is left out there."""
    wire: dict[str, Any] = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "inputSchema": {"type": "object", **tool.input_schema},
        "_meta": dict(tool.meta) or None,
    }
    output = tool.output_schema
    if output is not None and version >= TITLES_SINCE:
        if output.get("type") == "object" or version > _STRUCTURED_IS_OBJECT_UNTIL:
            wire["outputSchema"] = _published(output)
    annotations = {name: value for name, value in tool.annotations.items() if value is not None}
    if annotations and version >= HINTS_SINCE:
        wire["annotations"] = annotations
    return trim(wire, version)


def to_line(event: RunEvent | str) -> str:
    """What a progress notification says: the engine's own words, else which step began or ended; empty for the rest."""
    if isinstance(event, str):
        return event
    entry = event.entry
    if entry is not None and entry.kind is Kind.STEP_WAITING and entry.payload.get("for") in ASKING:
        # The call stays open meanwhile; whoever is asked has another way in.
        how = f"answer with the tool runs.answer: run {event.run.id}, question {entry.path}#{entry.attempt}"
        return f"{entry.path} asks: {entry.payload.get('ask')} ({how})"
    if event.message:
        return event.message
    word = _WORDS.get(event.entry.kind) if event.entry is not None else None
    return f"{event.entry.path} {word}" if event.entry is not None and word is not None else ""


_WORDS: Final = {
    Kind.STEP_STARTED: "started",
    Kind.STEP_COMPLETED: "completed",
    Kind.STEP_FAILED: "failed",
    Kind.STEP_SKIPPED: "skipped",
}


def check_arguments(arguments: Mapping[str, Any], depth: int) -> None:
    """Refuses JSON that is JSON only to Python: NaN, infinities, half a surrogate pair, nesting past `depth`.

    Neither SQL nor UTF-8 can carry these, so they would come back as our failure instead of the caller's.
    """
    pending: list[tuple[Any, int]] = [(arguments, 1)]
    while pending:
        value, level = pending.pop()
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise InvalidInput(f"The arguments hold {value}, which JSON does not have; send a finite number.")
        elif isinstance(value, (dict, list)):
            if level > depth:
                raise InvalidInput(f"The arguments are nested deeper than {depth} levels; send flatter ones.")
            if isinstance(value, dict):
                for key in value:
                    _check_text(key)
            pending.extend((item, level + 1) for item in (value.values() if isinstance(value, dict) else value))


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = "The arguments hold half of a surrogate pair, which is no character; send valid Unicode."
        raise InvalidInput(message) from error


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def _published(schema: Any) -> Any:
    """An output schema as clients may see it: an `enum` that an expression fills at run time is left out."""
    if isinstance(schema, Mapping):
        return {k: _published(v) for k, v in schema.items() if not (k == "enum" and isinstance(v, str))}
    return [_published(item) for item in schema] if isinstance(schema, (list, tuple)) else schema
