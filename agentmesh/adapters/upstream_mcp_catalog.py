"""Catalog: what one upstream offers, as callers of the mesh see it: known from its last look, agreed to by the operator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio.to_thread
from mcp.shared.inbound import mcp_param_headers, x_mcp_header_map

from agentmesh.adapters import upstream_mcp_listing as listing
from agentmesh.adapters.approvals import Approvals
from agentmesh.adapters.upstream_mcp_link import Changed
from agentmesh.adapters.upstream_mcp_session import RpcError, Session
from agentmesh.core.resource import Prompt, Resource, ResourceTemplate
from agentmesh.core.schema import Validator, validator
from agentmesh.core.server_file import ServerFile
from agentmesh.core.tool import Tool
from agentmesh.errors import Fail

log = logging.getLogger("agentmesh.sources")

ALL: tuple[Changed, ...] = ("tools", "prompts", "resources")
SHOWN = 3


class Catalog:
    """Of one upstream. Everything but `refresh` and `approve` answers at once."""

    def __init__(
        self, server: ServerFile, approvals: Approvals, changed: Callable[[Changed], None], *, timeout: float
    ) -> None:
        self._server, self.approvals, self._changed, self._timeout = server, approvals, changed, timeout
        self.tools: Mapping[str, Tool] = {}
        self.prompts: Mapping[str, Prompt] = {}
        self.resources: Sequence[Resource] = ()
        self.templates: Sequence[ResourceTemplate] = ()
        self._own: dict[str, str] = {}
        self._own_prompts: Mapping[str, str] = {}
        self._faults: Mapping[str, str] = {}
        self._outputs: dict[str, Validator] = {}
        self._headers: dict[str, Mapping[tuple[str, ...], str]] = {}
        self._trouble: dict[str, str] = {}

    async def load(self) -> None:
        """What was approved before: it is offered also while the upstream cannot be reached."""
        await self.approvals.load()
        self._build()

    async def approve(self, names: Sequence[str]) -> Sequence[str]:
        done = await self.approvals.approve(names)
        if done:
            self._build()
            self._changed("tools")
        return done

    def own(self, name: str) -> str | None:
        """The upstream's own name of a tool."""
        return self._own.get(name)

    def own_prompt(self, name: str) -> str | None:
        return self._own_prompts.get(name)

    @property
    def detail(self) -> str:
        """What is wrong with what it says; empty when nothing is."""
        found = list(self._trouble.values())
        if self._faults:
            shown = "; ".join(f"{name}: {why}" for name, why in list(self._faults.items())[:SHOWN])
            more = "" if len(self._faults) <= SHOWN else f", and {len(self._faults) - SHOWN} more"
            found.append(f"not offered: {shown}{more}")
        return "; ".join(found)

    async def refresh(self, session: Session, what: Iterable[Changed] = ALL) -> None:
        """Looks again, and tells when anything is another. What the upstream answers wrongly is told and left as it was."""
        for one in what:
            try:
                if await self._look(session, one):
                    self._changed(one)
                self._trouble.pop(one, None)
            except (Fail, RpcError) as error:
                self._trouble[one] = f"its {one} cannot be listed: {error}"
                log.warning("upstream %s: its %s cannot be listed: %s", self._server.name, one, error)

    async def _look(self, session: Session, what: Changed) -> bool:
        if what not in session.capabilities:
            return False
        method = f"{what}/list"
        items = await listing.pages(session, method, what, timeout=self._timeout)
        if what == "tools":
            return await self._take_tools(items, modern=session.modern)
        if what == "prompts":
            prompts = self.prompts
            self.prompts, self._own_prompts = listing.prompts(items, self._server)
            return dict(self.prompts) != dict(prompts)
        before = (self.resources, self.templates)
        templates = await listing.optional(
            session, "resources/templates/list", "resourceTemplates", timeout=self._timeout
        )
        self.resources = listing.resources(items, self._server.name)
        self.templates = listing.templates(templates, self._server.name)
        return bool(before != (self.resources, self.templates))

    async def _take_tools(self, items: Sequence[Mapping[str, Any]], *, modern: bool) -> bool:
        look = partial(listing.definitions, items, self._server, modern=modern)
        offered, faults = await anyio.to_thread.run_sync(look)
        for name, fault in faults.items():
            if self._faults.get(name) != fault:
                log.warning("upstream %s: its tool %s is not offered: %s", self._server.name, name, fault)
        self._faults = faults
        before = self.tools
        await self.approvals.offer(offered)
        self._build()
        return dict(before) != dict(self.tools)

    def _build(self) -> None:
        visible = self.approvals.visible
        known = self.tools
        tools = {name: listing.tool_of(name, definition, self._server) for name, definition in visible.items()}
        # A tool that stays the same stays the same object: validators are kept by it.
        self.tools = {name: known[name] if known.get(name) == tool else tool for name, tool in tools.items()}
        self._own = {name: str(definition["name"]) for name, definition in visible.items()}
        self._headers = {name: x_mcp_header_map(definition["inputSchema"]) for name, definition in visible.items()}
        self._outputs = {name: kept for name, kept in self._outputs.items() if self.tools.get(name) is known.get(name)}

    def headers(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, str]:
        """The HTTP headers that a modern upstream wants to see some arguments in."""
        wanted = self._headers.get(name)
        return mcp_param_headers(wanted, arguments) if wanted else {}

    def check(self, tool: Tool, structured: Any) -> None:
        """Fail when an answer is not what the tool's output schema promises."""
        if tool.output_schema is None:
            return
        if structured is None:
            raise Fail(f"{tool.name} promises structured content and answered none; what it says cannot be used")
        check = self._outputs.get(tool.name)
        if check is None:
            check = self._outputs[tool.name] = validator(tool.output_schema)
        fault = next(check.iter_errors(structured), None)
        if fault is not None:
            path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in fault.absolute_path)
            raise Fail(
                f"{tool.name} answered what does not fit its own output schema: output{path}: {str(fault.message)[:300]}"
            )
