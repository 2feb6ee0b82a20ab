"""Routing: which agent takes a message."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentmesh.core.agent import Agent, AgentHealth, Route, Sending, Skill
from agentmesh.errors import CallerError


class NoAgent(CallerError):
    """No agent fits the message. `data.nearest`: {agent, skill} of those that come nearest."""

    code = "no_agent"


class Router:
    """Chooses among agents."""

    async def choose(
        self, sending: Sending, agents: Sequence[Agent], *, health: Callable[[str], AgentHealth],
        allowed: Callable[[Skill], bool],
    ) -> Route:  # fmt: skip
        for agent in agents:
            for skill in agent.skills:
                if skill.id == sending.skill and allowed(skill):
                    return Route(skill.agent, skill.id, f"skill {skill.id!r} was named", 1.0)
        raise NoAgent("no agent fits the message", nearest=[])
