"""Source: tools, resources and prompts that somebody else serves and this mesh offers: an upstream MCP server, an API, a peer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from agentmesh.core.caller import NOBODY, Caller
from agentmesh.core.policy import Principal
from agentmesh.core.resource import Completion, Prompt, PromptResult, Resource, ResourceTemplate
from agentmesh.core.run import JSON
from agentmesh.core.tool import Tool, ToolResult

Change = Literal["tools", "prompts", "resources", "updated"]
"""What has changed: a list, or (`updated`) the contents of one resource."""
OnChange = Callable[[Change, str | None], None]
"""Hears a change; the URI with `updated`, else None. Must not block."""


@dataclass(frozen=True, slots=True)
class SourceCall:
    """One call of a source's tool, as it was let through: authorized, and its arguments fit."""

    tool: Tool
    """As the mesh offers it: `tool.name` is the mesh's name, of which the source knows its own."""
    arguments: Mapping[str, JSON]
    principal: Principal
    key: str = ""
    """Idempotency key, the same whenever this very call is made again; empty when there is none."""
    caller: Caller = NOBODY
    writes: bool = True
    """Whether it may change the outside world: then it is never sent twice by the source itself."""
    run_id: str | None = None
    timeout: float | None = None
    """Seconds; None: the source's own."""


@dataclass(frozen=True, slots=True)
class Held:
    """A definition that changed and waits for an operator, or is new since the last look."""

    name: str
    """As the mesh offers it."""
    approved: Mapping[str, Any] | None
    """The definition that callers see (MCP `Tool` as JSON); None when the tool is new."""
    offered: Mapping[str, Any] | None
    """What the upstream says now; None when it is gone."""

    @property
    def digest(self) -> str:
        """Of what is offered: whoever approves says by it what they looked at."""
        text = json.dumps(self.offered, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a source is."""

    name: str
    kind: Literal["upstream", "openapi", "peer"]
    state: Literal["connecting", "ready", "failed", "open"]
    """`open`: the circuit breaker lets nothing through for now."""
    detail: str = ""
    """One sentence: what is wrong, or the revision spoken."""
    tools: int = 0
    held: int = 0
    """Definitions that wait for an operator."""


class Source(Protocol):
    """One of them. Everything but the coroutines answers at once, from what is known."""

    @property
    def name(self) -> str:
        """The server file's name, or the peer's."""

    @property
    def busy(self) -> int:
        """Calls that somebody waits for, or will come again for: it is not closed under them."""

    def tools(self) -> Mapping[str, Tool]:
        """By the name that the mesh offers; what is known and approved, also while it cannot be reached."""

    def resources(self) -> Sequence[Resource]: ...
    def templates(self) -> Sequence[ResourceTemplate]: ...
    def prompts(self) -> Mapping[str, Prompt]: ...
    def status(self) -> SourceStatus: ...
    def held(self) -> Sequence[Held]: ...

    def on_change(self, hear: OnChange) -> None:
        """Has `hear` told of every change from now on."""

    async def call(self, call: SourceCall) -> ToolResult:
        """Calls a tool. A tool that fails is a result with `is_error`.

        NotSent when no byte can have left, Unanswered when it may have been done and no answer came, Retry when it said that
        trying again may help, Fail for an answer that is none. InputRequired when the client behind `call.caller` is needed.
        """

    async def read(self, uri: str, *, principal: Principal, caller: Caller = NOBODY) -> Sequence[Mapping[str, Any]]:
        """The contents of a resource (schema `TextResourceContents`, `BlobResourceContents`). NotFound; as `call` else."""

    async def prompt(
        self, name: str, arguments: Mapping[str, str], *, principal: Principal, caller: Caller = NOBODY
    ) -> PromptResult:
        """A prompt by the mesh's name. NotFound, InvalidInput; as `call` else."""

    async def complete(
        self, ref: Mapping[str, Any], argument: Mapping[str, str], context: Mapping[str, str], *, principal: Principal
    ) -> Completion:
        """Values for an argument: `ref` is `{type: ref/prompt, name}` or `{type: ref/resource, uri}` in the mesh's names."""

    async def subscribe(self, uri: str) -> None:
        """Has the source tell (`on_change`) when the resource changes. Counted: as many `unsubscribe` end it."""

    async def unsubscribe(self, uri: str) -> None: ...

    async def approve(self, names: Sequence[str]) -> Sequence[str]:
        """Takes what is offered now of these tools (mesh's names) for approved; which they were. NotFound."""
