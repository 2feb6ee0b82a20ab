"""Tool: something a caller can call by name with JSON, as MCP has it; and the files in servers/ that declare them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentmesh.core.workflow import HttpSpec, LlmSpec, Validator


class Annotations(BaseModel):
    """MCP ToolAnnotations (specification 2025-11-25, schema `ToolAnnotations`). Hints, except in the operator's own files."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str | None = None
    readOnlyHint: bool | None = None  # noqa: N815 - the standard's spelling
    destructiveHint: bool | None = None  # noqa: N815
    idempotentHint: bool | None = None  # noqa: N815
    openWorldHint: bool | None = None  # noqa: N815


class ToolSpec(BaseModel):
    """One entry of `tools:`; exactly one of `llm`, `python`, `http`, `workflow`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str | None = None
    description: str = Field(min_length=1)
    input: dict[str, Any] = {"type": "object"}
    llm: LlmSpec | None = None
    python: str | None = None
    """`package.module:function`."""
    http: HttpSpec | None = None
    workflow: str | None = None
    output: dict[str, Any] | None = None
    """Output schema of a `python` tool, or of an `http` tool's body; an `llm` tool has its own, a `workflow` tool its workflow's."""
    validate_: tuple[Validator, ...] = Field((), alias="validate")
    on_invalid: tuple[Any, ...] = ()
    timeout: str | float | None = None
    annotations: Annotations = Annotations()


class ServerFile(BaseModel):
    """A file in servers/: tools offered as `name.tool`, or bare with `prefix: false`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    description: str = ""
    prefix: bool = True
    tools: dict[str, ToolSpec] = {}
    resources: dict[str, Any] | None = None
    prompts: dict[str, Any] | None = None
    upstream: dict[str, Any] | None = None
    openapi: Any = None
    expose: list[str] | None = None
    approve: str | None = None


def matching_tools(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that `tools:` of a model means, in their own order; `*` stands for any part of a name."""
    parts = [".*".join(re.escape(part) for part in pattern.split("*")) for pattern in patterns]
    meant = re.compile("|".join(parts))
    return [name for name in names if meant.fullmatch(name)] if parts else []


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as callers see it. `name` is unique in the mesh; `source` says what stands behind it."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None = None
    title: str | None = None
    annotations: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    """`server:desk`, `workflow:triage`."""
    server: str | None = None
    """Name of the file in servers/ that declares it; None for a workflow."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One `tools/call`. `key`: the idempotency key the tool receives, when the caller has one."""

    name: str
    arguments: Mapping[str, Any]
    key: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answers. A tool that fails is a result with `is_error`, not an exception.

    `structured` is the JSON value (MCP `structuredContent`); `text` the same as text, or the error's sentence.
    """

    structured: Any = None
    text: str = ""
    is_error: bool = False
    run_id: str | None = None
    """The run behind it, when there is one."""
