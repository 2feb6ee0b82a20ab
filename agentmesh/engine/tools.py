"""Tools: what the mesh offers by name, listed and called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Principal
from agentmesh.core.run import RunEvent
from agentmesh.core.store import Store
from agentmesh.core.tool import Tool, ToolCall, ToolResult
from agentmesh.engine.bus import Bus
from agentmesh.engine.functions import resolve_function
from agentmesh.engine.guard import Guard
from agentmesh.engine.models import Models
from agentmesh.engine.runs import Runs


class Tools:
    """Tools of servers/ and workflows with `on.mcp`."""

    def __init__(
        self, mesh: Mesh, store: Store, runs: Runs, models: Models, guard: Guard, bus: Bus,
        *, functions: Callable[[str], Callable[..., Any]] = resolve_function,
    ) -> None:  # fmt: skip
        ...

    def list(self, principal: Principal) -> list[Tool]:
        """The tools that the principal may list, by name. Does not wait."""
        raise NotImplementedError

    def get(self, principal: Principal, name: str) -> Tool:
        """One tool; NotFound when there is none that the principal may list."""
        raise NotImplementedError

    async def call(
        self,
        principal: Principal,
        call: ToolCall,
        *,
        source: str = "mcp",
        on_progress: Callable[[RunEvent | str], None] | None = None,
    ) -> ToolResult:
        """Calls a tool. A tool that fails is a result with `is_error`.

        NotFound, PolicyDenied, InvalidInput (before a model is asked) are raised. A cancelled call cancels the run it started.
        `on_progress` hears a RunEvent for each entry and a line for each notice; it must not block.
        """
        raise NotImplementedError
