"""tools/list and tools/call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentmesh.core.policy import Principal
from agentmesh.core.run import RunEvent
from agentmesh.core.tool import Tool, ToolCall
from agentmesh.errors import MeshError
from agentmesh.mcp.convert import (
    KEY_META,
    check_arguments,
    is_tool_failure,
    to_line,
    to_mcp_error,
    to_mcp_failure,
    to_mcp_result,
    to_mcp_tool,
)
from agentmesh.mcp.exchange import Exchange, reported
from agentmesh.mcp.people import People
from agentmesh.mcp.search import Searched
from agentmesh.mcp.tasks import Tasks

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp_types import CallToolRequestParams, PaginatedRequestParams

    from agentmesh.engine import Engine
    from agentmesh.mcp.caller import ModernCaller, OlderCaller
    from agentmesh.mcp.state import Carried


class Calls:
    """The handlers."""

    def __init__(self, engine: Engine, exchange: Exchange) -> None:
        self._engine = engine
        self._exchange = exchange
        self._people = People(engine)
        self._searched = Searched(engine, lambda: self._people.tools)
        self.tasks = Tasks(engine, exchange.principal, depth=exchange.depth)

    async def list_tools(self, ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> Any:
        try:
            principal = self._exchange.principal(ctx)
            offered = self._searched.offered(self._of(principal))
            return self._exchange.page(ctx, params, offered, lambda tool: tool.name, to_mcp_tool, "tools")
        except Exception as error:
            raise reported(error, "tools/list") from error

    def _of(self, principal: Principal) -> list[Tool]:
        """Every tool that the principal may list."""
        return [*self._engine.tools.list(principal), *self._people.list(principal)]

    async def call_tool(self, ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> Any:
        try:
            principal = self._exchange.principal(ctx)
            name: str = params.name
            arguments: Mapping[str, Any] = params.arguments or {}
            check_arguments(arguments, self._exchange.depth)
            name, arguments = self._searched.inner(name, arguments) or (name, arguments)
            if self._searched.is_search(name):
                found = await self._searched.search(self._of(principal), arguments)
                return to_mcp_result(found, ctx.protocol_version)
            key = (ctx.meta or {}).get(KEY_META)

            async def call(caller: ModernCaller | OlderCaller, carried: Carried) -> dict[str, Any]:
                made = ToolCall(
                    name, arguments, key if isinstance(key, str) else None, caller=caller, run_id=carried.run_id
                )
                if name in self._people.tools:
                    return to_mcp_result(await self._people.call(principal, made), ctx.protocol_version)
                tool = self._engine.tools.find(name)
                if tool is not None and made.run_id is None and self.tasks.takes(ctx, tool):
                    return await self.tasks.call(ctx, principal, made, tool)

                def on_progress(event: RunEvent | str) -> None:
                    if line := to_line(event):
                        caller.line(line)

                result = await self._engine.tools.call(
                    principal, made, source="mcp", on_progress=on_progress if caller.wants_progress else None
                )
                if tool is not None:
                    self.tasks.check(tool, result)
                return to_mcp_result(result, ctx.protocol_version)

            return await self._exchange.serve(ctx, principal, name, arguments, call)
        except MeshError as error:
            if is_tool_failure(error, ctx.protocol_version):
                return to_mcp_failure(error)
            raise to_mcp_error(error) from error
        except Exception as error:
            raise reported(error, f"tools/call of {params.name!r}") from error
