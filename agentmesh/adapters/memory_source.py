"""MemorySource: an upstream whose tools are functions of this process. For tests, and for trying things without a server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentmesh.adapters.tools_only import ToolsOnly
from agentmesh.core.source import Held, OnChange, SourceCall, SourceStatus
from agentmesh.core.tool import Tool, ToolResult
from agentmesh.errors import NotFound

Answering = Callable[[SourceCall], Awaitable[ToolResult]]


class MemorySource(ToolsOnly):
    """A `core.source.Source` of tools. Tools come and go by `offer` and `withdraw`; it serves no resources and no prompts."""

    def __init__(self, name: str, *, reads: Sequence[str] = ()) -> None:
        """`reads`: names of tools, as the source has them, that only read."""
        self.title = name
        self.name = name
        self.busy = 0
        self.calls: list[SourceCall] = []
        """What was called, in order."""
        self._reads = frozenset(reads)
        self._tools: dict[str, Tool] = {}
        self._answers: dict[str, Answering] = {}
        self._hear: list[OnChange] = []

    def offer(self, name: str, answering: Answering, input_schema: Mapping[str, Any] | None = None) -> None:
        """Has a tool from now on; `name` without the source's own."""
        offered = f"{self.name}.{name}"
        annotations = {"readOnlyHint": True} if name in self._reads else {}
        schema = input_schema or {"type": "object"}
        self._tools[offered] = Tool(
            offered, f"{name} of {self.name}", schema, annotations=annotations, source=f"upstream:{self.name}",
            server=self.name,
        )  # fmt: skip
        self._answers[offered] = answering
        self._changed()

    def withdraw(self, name: str) -> None:
        """Has the tool no more."""
        self._tools.pop(f"{self.name}.{name}", None)
        self._changed()

    def _changed(self) -> None:
        for hear in self._hear:
            hear("tools", None)

    def tools(self) -> Mapping[str, Tool]:
        return dict(self._tools)

    def status(self) -> SourceStatus:
        return SourceStatus(self.name, "upstream", "ready", tools=len(self._tools))

    def held(self) -> Sequence[Held]:
        return ()

    def on_change(self, hear: OnChange) -> None:
        self._hear.append(hear)

    async def call(self, call: SourceCall) -> ToolResult:
        self.calls.append(call)
        if call.tool.name not in self._tools:
            raise NotFound(f"{self.name} has no tool {call.tool.name!r}")
        return await self._answers[call.tool.name](replace(call, tool=self._tools[call.tool.name]))

    async def approve(self, names: Sequence[str]) -> Sequence[str]:
        raise NotFound(f"{self.name} holds nothing back: {', '.join(names)}")
