"""Registry: agents elsewhere that operators registered while the mesh was served, beside those that its file declares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

from agentmesh.core.mesh import Mesh, Peer
from agentmesh.core.trigger import no_agent_name
from agentmesh.core.workflow import NAME


class Registry(Protocol):
    """Kept in the store: every server of it sees the same ones, within seconds."""

    async def all(self) -> Mapping[str, Peer]:
        """By name. One whose secrets cannot be opened any more is not among them."""

    async def put(self, name: str, peer: Peer) -> None:
        """Registers one, in the place of the one of that name."""

    async def remove(self, name: str) -> None:
        """Forgets one, and all that was agreed to of it."""


def no_peer_name(name: str, mesh: Mesh) -> str | None:
    """Why an agent elsewhere cannot be registered under a name; None when it can: names are unique among agents and servers."""
    if not re.fullmatch(NAME, name):
        return f"{name!r} is no name; use a to z, 0 to 9, _ and -, up to 63 characters, the first a letter"
    if name in mesh.file.agents:
        return f"{name!r} is declared in `agents` of agentmesh.yaml; change it there"
    if name in mesh.servers:
        return f"{name!r} is a server of this mesh, declared in servers/; take another name"
    if any(skill.agent == name for skill in mesh.skills.values()):
        return f"{name!r} is an agent of this mesh, by `on.a2a.agent` of its workflows; take another name"
    return no_agent_name(name, mesh)


def no_address(url: str) -> str | None:
    """Why nothing can be fetched from an address; None when it can."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        fits = False
    if not fits or len(url) > 2048 or not url.isprintable() or " " in url:
        return "it is no address; give one such as https://HOST/.well-known/agent-card.json"
    return None
