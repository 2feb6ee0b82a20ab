"""Few tools in sight: `search_tools` and `call_tool` in place of the tools that project files put behind them.

A model that is shown five hundred tools reads a hundred thousand tokens before its first thought. Where agentmesh.yaml or a server file
says `offer: search`, tools/list shows the tools that `pin` names, and these two. Nothing is dropped: what is hidden can be called by its
own name too, `search_tools` says how many tools of which servers stand behind it, and each answer how many matched.

The two are ways to list and to call and no tools of the mesh: policies speak of the tools behind them (`tools.list`, `tools.call`), and
a caller who may list none of those is not shown the two. A call through `call_tool` is the call of the tool itself from here on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from agentmesh.core.tool import Tool, ToolResult
from agentmesh.engine.search import ToolSearch
from agentmesh.engine.tools import text_of
from agentmesh.engine.validators import require_input
from agentmesh.errors import InvalidInput

if TYPE_CHECKING:
    from agentmesh.engine import Engine

log = logging.getLogger("agentmesh.mcp")

SEARCH: Final = "search_tools"
CALL: Final = "call_tool"
SHOWN: Final = 5
"""Matches in one answer, unless the caller wants more."""
MOST: Final = 50
"""Matches in one answer, whatever the caller wants: each comes with its schema."""
ALSO: Final = 15
"""Further matches that are named, without their schemas."""
SERVERS: Final = 60
"""Servers that are named one by one."""
WORKFLOWS: Final = "workflows"
"""What stands for a server's name with the tools that are workflows."""
OWN: Final = "mesh"
"""`Tool.source` of AgentMesh's own tools, by which people answer runs: they are always listed."""

_SEARCH_INPUT: Final = {
    "type": "object",
    "properties": {
        "query": {
            "type": "string",
            "minLength": 1,
            "maxLength": 1000,
            "description": "What you want done, a tool's name, or a pattern of names such as github.*",
        },
        "limit": {"type": "integer", "minimum": 1, "maximum": MOST, "description": f"Matches to show; {SHOWN} when left out."},
        "server": {"type": "string", "maxLength": 200, "description": "Only this server's tools."},
    },
    "required": ["query"],
    "additionalProperties": False,
}  # fmt: skip
_CALL_INPUT: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "description": f"The tool's name, as {SEARCH} gives it."},
        "arguments": {"type": "object", "description": "Its arguments, by its own inputSchema."},
    },
    "required": ["name"],
    "additionalProperties": False,
}
_CALL_TOOL: Final = Tool(
    CALL,
    f"Calls a tool by its name, also one that is not listed here. Find it, and how it is called, with {SEARCH}.",
    _CALL_INPUT,
    source=OWN,
)


class Searched:
    """The two tools, for one mesh."""

    def __init__(self, engine: Engine, more: Callable[[], Mapping[str, Tool]] = lambda: MappingProxyType({})) -> None:
        """`more`: tools that are listed beside the engine's, in a mapping that is replaced when they change."""
        self._engine = engine
        self._search = ToolSearch(lambda: (engine.mesh.tools, engine.sources.tools, more()))
        self._at = -1
        self._searches = False

    def offered(self, tools: list[Tool]) -> list[Tool]:
        """What tools/list shows of the tools that its caller may list; in no order."""
        if not self._is_on():
            return tools
        hidden = [tool for tool in tools if self._is_hidden(tool)]
        if not hidden:
            return tools
        behind = {tool.name for tool in hidden}
        return [*(tool for tool in tools if tool.name not in behind), _search_tool(hidden), _CALL_TOOL]

    def is_search(self, name: str) -> bool:
        """Whether this is a call of `search_tools`."""
        return name == SEARCH and self._is_on()

    def inner(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
        """The tool that a call of `call_tool` means, and its arguments; None when the call is no such one. InvalidInput."""
        if name != CALL or not self._is_on():
            return None
        require_input(_CALL_INPUT, arguments, "arguments")
        if arguments["name"] == CALL:
            raise InvalidInput(
                f"arguments: {CALL} calls other tools than itself; give the name of the one that you mean"
            )
        given = arguments.get("arguments")
        return str(arguments["name"]), {} if given is None else given

    async def search(self, tools: Iterable[Tool], arguments: Mapping[str, Any]) -> ToolResult:
        """The answer of `search_tools` over the tools that its caller may list. InvalidInput."""
        require_input(_SEARCH_INPUT, arguments, "arguments")
        among = {tool.name: tool for tool in tools}
        servers = _servers(among.values())
        only = arguments.get("server")
        if only is not None and only not in servers:
            raise InvalidInput(f"arguments: there is no server {only!r}; there are: {_named(servers) or 'none'}")
        if only is not None:
            among = {name: tool for name, tool in among.items() if server_of(tool) == only}
        found = await self._search.find(arguments["query"], among)
        answer = _answer(found, arguments["query"], int(arguments.get("limit", SHOWN)), servers)
        return ToolResult(structured=answer, text=text_of(answer))

    def _is_on(self) -> bool:
        """Whether the mesh puts anything behind the two; worked out anew when its files have changed."""
        mesh = self._engine.mesh
        if self._at != mesh.revision:
            self._at = mesh.revision
            asked = mesh.file.mcp.offer == "search" or any(file.offer == "search" for file in mesh.servers.values())
            taken = [name for name in (SEARCH, CALL) if name in mesh.tools]
            self._searches = asked and not taken
            if asked and taken:
                log.warning("the mesh has a tool of its own named %s, so all tools are listed", " and ".join(taken))
        return self._searches

    def _is_hidden(self, tool: Tool) -> bool:
        if tool.source == OWN:
            return False
        mesh = self._engine.mesh
        file = None if tool.server is None else mesh.servers.get(tool.server)
        offer = mesh.file.mcp.offer if file is None or file.offer is None else file.offer
        if offer != "search" or any(fnmatchcase(tool.name, pin) for pin in mesh.file.mcp.pin):
            return False
        own = tool.name if file is None else tool.name.removeprefix(f"{file.name}.")
        return file is None or not any(fnmatchcase(own, pin) for pin in file.pin)


def server_of(tool: Tool) -> str:
    """What a tool is counted under: its server, its peer, or `workflows`."""
    kind, _, name = tool.source.partition(":")
    return tool.server or (WORKFLOWS if kind == "workflow" else name or kind or OWN)


def _servers(tools: Iterable[Tool]) -> dict[str, int]:
    """Servers by name, and how many of the tools each has."""
    return dict(sorted(Counter(map(server_of, tools)).items()))


def _named(servers: Mapping[str, int]) -> str:
    said = [f"{name} ({count})" for name, count in list(servers.items())[:SERVERS]]
    return ", ".join(said) + (f" and {len(servers) - SERVERS} more servers" if len(servers) > SERVERS else "")


def _search_tool(hidden: Sequence[Tool]) -> Tool:
    tools = "1 tool is" if len(hidden) == 1 else f"{len(hidden)} tools are"
    return Tool(
        SEARCH,
        f"Finds tools by what they do. {tools} not listed here and can be called with {CALL}, by server:"
        f" {_named(_servers(hidden))}.",
        _SEARCH_INPUT,
        annotations={"readOnlyHint": True, "openWorldHint": False},
        source=OWN,
    )


def _answer(found: Sequence[Tool], query: str, limit: int, servers: Mapping[str, int]) -> dict[str, Any]:
    shown = found[:limit]
    answer: dict[str, Any] = {
        "matches": [_match(tool) for tool in shown],
        "matched": len(found),
        "shown": len(shown),
    }
    rest = found[limit:]
    if rest:
        answer["also"] = [tool.name for tool in rest[:ALSO]]
    if not found:
        answer["hint"] = (
            f"Nothing matches {query!r}. Try other words for what shall be done, fewer of them, or a pattern of names such as"
            " *issue*; or see what one of the servers has, with server and the query *."
        )
        answer["servers"] = dict(list(servers.items())[:SERVERS])
    elif len(rest) > ALSO:
        answer["hint"] = f"{len(rest) - ALSO} more match; say it more closely, give a server, or a higher limit."
    return answer


def _match(tool: Tool) -> dict[str, Any]:
    match: dict[str, Any] = {"name": tool.name, "description": tool.description}
    if tool.title:
        match["title"] = tool.title
    return {**match, "inputSchema": {"type": "object", **tool.input_schema}}
