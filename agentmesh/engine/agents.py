"""Agents: messages to the skills of this mesh; a task is a run."""

from __future__ import annotations

from agentmesh.core.agent import Message, Skill
from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Principal
from agentmesh.core.run import Run
from agentmesh.engine.guard import Guard
from agentmesh.engine.runs import Runs


class Agents:
    """The mesh as one agent: each workflow with `on.a2a` is a skill."""

    def __init__(self, mesh: Mesh, runs: Runs, guard: Guard) -> None: ...

    def skills(self, principal: Principal) -> list[Skill]:
        """The skills that the principal may list, by id. Does not wait."""
        raise NotImplementedError

    async def send_message(
        self, principal: Principal, message: Message, *, skill: str | None = None, key: str | None = None
    ) -> Run:
        """Starts the skill's workflow; the run is durable when this returns.

        `skill` None: `a2a.default` of agentmesh.yaml, else the only skill there is. An object data part is the input, else the
        joined text fills the only required string property, else InvalidInput names what is missing. `key`: see Runs.start.
        """
        raise NotImplementedError

    async def get_task(self, principal: Principal, run_id: str) -> Run:
        raise NotImplementedError

    async def cancel_task(self, principal: Principal, run_id: str) -> Run:
        """Cancels and waits a moment for the end. Conflict when it has ended already."""
        raise NotImplementedError
