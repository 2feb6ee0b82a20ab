"""Runs: start, look at, watch, cancel. Each change of state is one call of the store."""

from __future__ import annotations

import random as random_
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Principal
from agentmesh.core.run import JSON, Entry, Run, RunEvent
from agentmesh.core.store import RunFilter, RunPage, Store
from agentmesh.engine.bus import Bus
from agentmesh.engine.definitions import Definitions
from agentmesh.engine.guard import Guard


class Runs:
    """Runs of somebody else are NotFound, as are those that never were."""

    def __init__(
        self, mesh: Mesh, store: Store, definitions: Definitions, guard: Guard, bus: Bus,
        *, clock: Callable[[], float], random: random_.Random,
    ) -> None:  # fmt: skip
        ...

    async def start(
        self,
        principal: Principal,
        workflow: str,
        input: JSON,
        *,
        key: str | None = None,
        source: str = "api",
        context_id: str | None = None,
        message: Mapping[str, Any] | None = None,
        parent: str | None = None,
        parent_path: str | None = None,
    ) -> Run:
        """Records a run of a workflow; it is durable when this returns. The same key gives the same run again.

        NotFound, PolicyDenied (runs.start), InvalidInput before anything is recorded, Conflict for a key used with another
        workflow or input.
        """
        raise NotImplementedError

    async def get(self, principal: Principal, run_id: str) -> Run:
        raise NotImplementedError

    async def list(self, principal: Principal, where: RunFilter) -> RunPage:
        """Heads of the principal's runs, newest first; tenant and owner of `where` are overruled by who asks."""
        raise NotImplementedError

    async def journal(self, principal: Principal, run_id: str, after: int = 0) -> Sequence[Entry]:
        raise NotImplementedError

    async def cancel(self, principal: Principal, run_id: str) -> Run:
        """Asks the run to end, its children too; work in flight here stops at once. Conflict when it has ended already."""
        raise NotImplementedError

    def watch(self, principal: Principal, run_id: str, *, after: int = 0) -> AsyncIterator[RunEvent]:
        """Entries past `after`, then live ones and notices; ends after the terminal entry. No gap, no repetition."""
        raise NotImplementedError

    async def wait(self, principal: Principal, run_id: str) -> Run:
        """The run when it has ended."""
        raise NotImplementedError
