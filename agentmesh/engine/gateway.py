"""Gateway: what operators see of those who serve for this mesh, and what they agree to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentmesh.core.policy import Action, Principal
from agentmesh.core.source import Held, SourceStatus
from agentmesh.engine.guard import Guard
from agentmesh.engine.sources import Sources
from agentmesh.errors import Conflict


class Gateway:
    """The operator's side of the sources. Reading needs `admin.read`, approving `admin.write`, on `tool:NAME.*`."""

    def __init__(self, sources: Sources, guard: Guard) -> None:
        self._sources = sources
        self._guard = guard

    def statuses(self, principal: Principal) -> Sequence[SourceStatus]:
        """Of the sources that the principal may look at, by name."""
        return [
            source.status()
            for source in self._sources.all()
            if self._guard.allows(principal, Action("admin.read", _resource(source.name)))
        ]

    def held(self, principal: Principal, name: str) -> Sequence[Held]:
        """What waits for an operator. NotFound, PolicyDenied."""
        self._guard.authorize(principal, Action("admin.read", _resource(name)))
        return self._sources.source(name).held()

    async def approve(
        self, principal: Principal, name: str, tools: Sequence[str] | None, digests: Mapping[str, str] | None = None
    ) -> Sequence[str]:
        """Takes what a source offers now for approved: of these tools, or all that wait. Which they were. NotFound, PolicyDenied.

        `digests`: of what was looked at, by tool (`Held.digest`). Conflict when one of them is another by now; then nothing is approved.
        """
        self._guard.authorize(principal, Action("admin.write", _resource(name)))
        source = self._sources.source(name)
        for held in source.held():
            if held.digest != (digests or {}).get(held.name, held.digest):
                raise Conflict(
                    f"{held.name} has changed again since you looked at it; see `agentmesh tools diff {held.name}`"
                )
        return await source.approve([one.name for one in source.held()] if tools is None else tools)


def _resource(name: str) -> str:
    return f"tool:{name}.*"
