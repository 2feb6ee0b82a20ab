"""Tool: something a caller can call by name with JSON, as MCP has it; and the files in servers/ that declare them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentmesh.core.content import Block
from agentmesh.core.workflow import HttpSpec, LlmSpec, Validator

if TYPE_CHECKING:
    from agentmesh.core.caller import Caller


TaskSupport = Literal["forbidden", "optional", "required"]


class Annotations(BaseModel):
    """MCP ToolAnnotations (specification 2025-11-25, schema `ToolAnnotations`). Hints, except in the operator's own files."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str | None = None
    readOnlyHint: bool | None = None  # noqa: N815 - the standard's spelling
    destructiveHint: bool | None = None  # noqa: N815
    idempotentHint: bool | None = None  # noqa: N815
    openWorldHint: bool | None = None  # noqa: N815


class Execution(BaseModel):
    """MCP ToolExecution (specification 2025-11-25, schema `ToolExecution`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    taskSupport: TaskSupport = "forbidden"  # noqa: N815 - the standard's spelling
    """`optional` and `required`: a call is a run, and a task for clients that know tasks; `required` serves only those."""


class Elicit(BaseModel):
    """What the caller's user is asked before the tool is called; the answer becomes the argument of that name."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    message: str = Field(min_length=1)
    form: dict[str, Any] = {"type": "object", "properties": {}}
    """JSON Schema of a flat object (MCP `ElicitRequestFormParams.requestedSchema`)."""


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
    execution: Execution = Execution()
    """Of a `python` or `http` tool; one that asks a model, or is a workflow, is a run and `optional` always."""
    elicit: dict[str, Elicit] = {}
    """By the name of the argument, which callers cannot give themselves."""


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
    """`server:desk`, `workflow:triage`; of somebody else's: `upstream:github`, `openapi:petstore`, `peer:billing`."""
    server: str | None = None
    """Name of the file in servers/ that declares it; None for a workflow and a peer's skill."""
    task: TaskSupport = "forbidden"
    """Whether a call may, or must, be a task."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """MCP `_meta` of the tool, as an upstream has it."""

    @property
    def foreign(self) -> bool:
        """Whether somebody else serves it: then what is said of it is not the operator's word."""
        return self.source.partition(":")[0] in FOREIGN

    @property
    def by_agent(self) -> bool:
        """Whether an agent elsewhere answers: then what it says is as good as what a model says."""
        return self.source.startswith("peer:")


FOREIGN = ("upstream", "openapi", "peer")
"""What `Tool.source` begins with when a `core.source.Source` has the tool."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One `tools/call`. `key`: the idempotency key the tool receives, when the caller has one."""

    name: str
    arguments: Mapping[str, Any]
    key: str | None = None
    caller: Caller | None = None
    """The client that made it; None: nobody who could be asked."""
    run_id: str | None = None
    """The run that an earlier round of this call started, and which this one goes on with."""


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
    content: tuple[Block, ...] | None = None
    """MCP content blocks, where there is more to it than text; then `text` is theirs."""
    meta: Mapping[str, Any] | None = None
    """MCP `_meta` of the result, as an upstream gave it."""
    error: Mapping[str, Any] | None = None
    """{code, message} of a run that failed."""
