"""What a client learns when it opens: who serves, what can be asked of it, and what a model should know.

The SDK takes these from its server's construction. Files change while a mesh is served, revisions differ in what may be said of a
server, and notices of changes go to older sessions too: a middleware says the truth for each client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from agentmesh.core.mesh import Mesh
from agentmesh.mcp.blocks import ICONS_SINCE, TITLES_SINCE
from agentmesh.mcp.exchange import reported

if TYPE_CHECKING:
    from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext

    from agentmesh.core.policy import Principal
    from agentmesh.mcp.listen import Hub

_TOLD: Final = ("tools", "prompts", "resources")
_COMPLETIONS_SINCE: Final = "2025-03-26"
_OF_SERVER: Final = (
    ("title", TITLES_SINCE), ("description", ICONS_SINCE), ("websiteUrl", ICONS_SINCE), ("icons", ICONS_SINCE),
)  # fmt: skip
"""What a revision lets a server say of itself beside name and version."""


def greeting(
    mesh: Mesh, hub: Hub, principal_of: Callable[[ServerRequestContext[Any]], Principal]
) -> ServerMiddleware[Any]:
    """The middleware: completes `initialize` and `server/discover`, and keeps the session that the former opens."""

    async def greet(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method not in ("initialize", "server/discover") or ctx.request_id is None:
            return await call_next(ctx)
        try:
            principal = principal_of(ctx) if ctx.method == "initialize" else None
        except Exception as error:
            raise reported(error, ctx.method) from error
        result = await call_next(ctx)
        if not isinstance(result, dict):
            return result
        said = instructions(mesh)
        result = {**result, **({"instructions": said} if said else {})}
        if principal is not None:
            result = _older(result)
            hub.open(ctx, principal)
        return result

    return greet


def _older(result: dict[str, Any]) -> dict[str, Any]:
    """InitializeResult as its revision has it; lists that change are told of in every era."""
    version = result["protocolVersion"]
    capabilities = {**result["capabilities"]}
    for name in _TOLD:
        if name in capabilities:
            capabilities[name] = {**capabilities[name], "listChanged": True}
    if version < _COMPLETIONS_SINCE:
        capabilities.pop("completions", None)
    server = {**result["serverInfo"]}
    for name, since in _OF_SERVER:
        if version < since:
            server.pop(name, None)
    return {**result, "capabilities": capabilities, "serverInfo": server}


def instructions(mesh: Mesh) -> str | None:
    """What a model should know before it picks a tool: the mesh's description, then a line per server that has one."""
    lines = [mesh.file.description] if mesh.file.description else []
    for name, server in sorted(mesh.servers.items()):
        if server.description:
            lines.append(f"{name}.*: {server.description}" if server.prefix else server.description)
    return "\n".join(lines) or None
