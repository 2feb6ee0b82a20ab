"""Sources: everything that others serve and this mesh offers, as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import cast

from agentmesh.core.agent import AgentPeer
from agentmesh.core.source import Change, Source
from agentmesh.core.tool import Tool
from agentmesh.engine.changes import Changes
from agentmesh.errors import NotFound


class Sources:
    """The sources of a mesh. Their lifetimes are app.py's; they change when a server file does (`replace`)."""

    def __init__(self, sources: Sequence[Source], changes: Changes) -> None:
        self._changes = changes
        self._sources: dict[str, Source] = {}
        self._tools: Mapping[str, Tool] | None = None
        self._peers: Mapping[str, AgentPeer] | None = None
        self.revision = 0
        """Grows whenever tools may be others than before."""
        self.replace(sources)

    def replace(self, sources: Sequence[Source]) -> None:
        """Takes these in place of those there were. One that stays is the same object."""
        known = set(map(id, self._sources.values()))
        self._sources = {source.name: source for source in sources}
        self._peers = None
        for source in sources:
            if id(source) not in known:
                source.on_change(self._hearing(source))
        self._changed("tools", None)
        for change in ("prompts", "resources"):
            self._changes.publish(change)

    def _hearing(self, source: Source) -> Callable[[Change, str | None], None]:
        def hear(change: Change, uri: str | None) -> None:
            if self._sources.get(source.name) is source:  # one that was replaced has nothing to say any more
                self._changed(change, uri)

        return hear

    def _changed(self, change: Change, uri: str | None) -> None:
        if change == "tools":
            self._tools = None
            self.revision += 1
        self._changes.publish(change, uri)

    @property
    def tools(self) -> Mapping[str, Tool]:
        """Every source's tools, by the name that the mesh offers."""
        found = self._tools
        if found is None:
            merged: dict[str, Tool] = {}
            for source in self._sources.values():
                merged |= source.tools()
            found = self._tools = MappingProxyType(merged)
        return found

    def peers(self) -> Mapping[str, AgentPeer]:
        """Those that are agents, by name; the same object until they change."""
        found = self._peers
        if found is None:
            found = self._peers = MappingProxyType(
                {
                    name: cast("AgentPeer", source)
                    for name, source in sorted(self._sources.items())
                    if isinstance(source, AgentPeer)
                }
            )
        return found

    def peer(self, name: str) -> AgentPeer:
        """One of them. NotFound."""
        found = self.peers().get(name)
        if found is None:
            there = ", ".join(self.peers()) or "none"
            raise NotFound(f"there is no agent {name!r} elsewhere that this mesh knows; there are: {there}")
        return found

    def skill_of(self, tool: Tool) -> str | None:
        """The peer's skill that a tool is; None when the peer is to find out."""
        peer = self.peers().get(tool.source.partition(":")[2])
        agent = None if peer is None else peer.agent()
        name = tool.name.partition(".")[2]
        return next((s.id for s in agent.skills if s.tool == tool.name), name) if agent is not None else name

    def all(self) -> Sequence[Source]:
        """Every source, by name."""
        return [source for _, source in sorted(self._sources.items())]

    def source(self, name: str) -> Source:
        """One by its name. NotFound."""
        found = self._sources.get(name)
        if found is None:
            there = ", ".join(sorted(self._sources)) or "none"
            raise NotFound(f"there is no upstream, API or peer {name!r}; there are: {there}")
        return found

    def of(self, tool: Tool) -> Source:
        """The one that has a foreign tool. NotFound when it is gone."""
        return self.source(tool.source.partition(":")[2])

    def unknown(self, name: str, tools: Mapping[str, Tool]) -> Tool | None:
        """A stand-in for a tool that a source with this prefix may have, but did not tell of yet; None when none can."""
        prefix, dot, _ = name.partition(".")
        source = self._sources.get(prefix) if dot else None
        if source is None or name in tools:
            return None
        return Tool(name, "", {"type": "object"}, source=f"{source.status().kind}:{prefix}", server=prefix)
