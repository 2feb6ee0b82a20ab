"""ToolsOnly: the part of a source that serves tools and nothing else: it has no resources, no prompts, and completes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentmesh.core.caller import NOBODY, Caller
from agentmesh.core.policy import Principal
from agentmesh.core.resource import Completion, Prompt, PromptResult, Resource, ResourceTemplate
from agentmesh.errors import NotFound


class ToolsOnly:
    """To be inherited. `title` is what errors call it: `the API petstore`."""

    title: str = "this source"

    def resources(self) -> Sequence[Resource]:
        return ()

    def templates(self) -> Sequence[ResourceTemplate]:
        return ()

    def prompts(self) -> Mapping[str, Prompt]:
        return {}

    async def read(self, uri: str, *, principal: Principal, caller: Caller = NOBODY) -> Sequence[Mapping[str, Any]]:
        raise NotFound(f"{self.title} has no resource {uri!r}")

    async def prompt(
        self, name: str, arguments: Mapping[str, str], *, principal: Principal, caller: Caller = NOBODY
    ) -> PromptResult:
        raise NotFound(f"{self.title} has no prompt {name!r}")

    async def complete(
        self, ref: Mapping[str, Any], argument: Mapping[str, str], context: Mapping[str, str], *, principal: Principal
    ) -> Completion:
        return Completion()

    async def subscribe(self, uri: str) -> None:
        raise NotFound(f"{self.title} has no resource {uri!r}")

    async def unsubscribe(self, uri: str) -> None:
        """There is nothing to end."""
