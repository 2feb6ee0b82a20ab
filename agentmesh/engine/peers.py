"""Peers: the operator's side of agents elsewhere: what there is, how it is, and registering more while the mesh is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agentmesh.core.agent import PEER, Agent, AgentHealth, Inspected, Json
from agentmesh.core.mesh import Mesh, Peer
from agentmesh.core.policy import Action, Principal
from agentmesh.core.registry import Registry, no_address, no_peer_name
from agentmesh.engine.agents import Agents
from agentmesh.engine.guard import Guard
from agentmesh.engine.sources import Sources
from agentmesh.errors import Conflict, InvalidInput, NotBuilt, NotFound

Where = Literal["mesh", "declared", "registered"]


@dataclass(frozen=True, slots=True)
class Known:
    """An agent as its callers may see it, with where it is from and how it is."""

    name: str
    where: Where
    agent: Agent | None
    """None: its card was never read."""
    health: AgentHealth


class Peers:
    """Looking at one needs what listing its skills needs; its facts need `admin.read`, a change `admin.write`, on `agent:NAME`."""

    def __init__(self, mesh: Mesh, agents: Agents, sources: Sources, guard: Guard) -> None:
        self._mesh, self._agents, self._sources, self._guard = mesh, agents, sources, guard
        self.registry: Registry | None = None
        """Where registered ones are kept; None: none can be."""
        self.renew: Callable[[], Awaitable[None]] | None = None
        """Has this server take over what is registered now, without waiting for its next look."""

    def list(self, principal: Principal) -> Sequence[Known]:
        """The mesh's own agents, then those elsewhere; one whose card was never read is for operators."""
        found = [
            Known(agent.name, self._where(agent.name) if agent.peer else "mesh", agent, self._health(agent))
            for agent in self._agents.agents(principal)
        ]
        unread = [
            Known(name, self._where(name), None, peer.health())
            for name, peer in self._sources.peers().items()
            if peer.agent() is None and self._allows(principal, "admin.read", name)
        ]
        return [*found, *sorted(unread, key=lambda one: one.name)]

    def get(self, principal: Principal, name: str) -> Known:
        """One of them. NotFound."""
        for one in self.list(principal):
            if one.name == name:
                return one
        raise NotFound(f"there is no agent {name!r}; `agentmesh agents list` shows those that there are")

    def facts(self, principal: Principal, name: str) -> Json | None:
        """What an operator may know of an agent elsewhere (Inspected.facts); None for another, or for who is no operator."""
        peer = self._sources.peers().get(name)
        if not isinstance(peer, Inspected) or not self._allows(principal, "admin.read", name):
            return None
        return peer.facts()

    async def register(self, principal: Principal, name: str, peer: Peer) -> None:
        """Has it open on every server of this store within seconds. InvalidInput, Conflict when the name is taken, PolicyDenied."""
        self._guard.authorize(
            principal, Action("admin.write", f"{PEER}{name}", dict(peer.model_dump(exclude={"token"})))
        )
        registry = self._kept()
        for field, value in (("card", peer.card), ("jwks", peer.jwks)):
            if value is not None and (why := no_address(value)):
                raise InvalidInput(f"{field}: {why}")
        if peer.token is not None and (not peer.token or "${{" in peer.token or not peer.token.isprintable()):
            raise InvalidInput(
                "token: give the token itself; `${{ secrets.X }}` is for agents that agentmesh.yaml declares, and secrets stay here"
            )
        why = no_peer_name(name, self._mesh)
        if why is not None:
            raise Conflict(why) if name in self._taken() else InvalidInput(why)
        registered = await registry.all()
        if name in registered and registered[name] != peer:
            raise Conflict(f"{name!r} is registered already; remove it first with `agentmesh agents remove {name}`")
        if name not in registered:
            await registry.put(name, peer)
        if self.renew is not None:
            await self.renew()

    async def remove(self, principal: Principal, name: str) -> None:
        """Forgets a registered one. NotFound; Conflict says where it is declared when it is not registered, but declared."""
        self._guard.authorize(principal, Action("admin.write", f"{PEER}{name}"))
        registry = self._kept()
        if name not in await registry.all():
            why = no_peer_name(name, self._mesh) if name in self._taken() else None
            if why is not None:
                raise Conflict(f"{why.partition(';')[0]}; it goes when it is taken out there")
            raise NotFound(f"no agent {name!r} is registered; `agentmesh agents list` shows those that are")
        await registry.remove(name)
        if self.renew is not None:
            await self.renew()

    def _kept(self) -> Registry:
        if self.registry is None:
            raise NotBuilt("agents cannot be registered with this server; declare them in `agents` of agentmesh.yaml")
        return self.registry

    def _taken(self) -> Mapping[str, object]:
        """Names that files of this mesh have taken."""
        own = {skill.agent: skill for skill in self._mesh.skills.values() if skill.agent is not None}
        return {**self._mesh.file.agents, **self._mesh.servers, **own, self._mesh.name: self._mesh}

    def _where(self, name: str) -> Where:
        return "declared" if name in self._mesh.file.agents else "registered"

    def _health(self, agent: Agent) -> AgentHealth:
        return self._agents.health(agent.name) if agent.peer else AgentHealth()

    def _allows(self, principal: Principal, verb: str, name: str) -> bool:
        return self._guard.allows(principal, Action(verb, f"{PEER}{name}"))
