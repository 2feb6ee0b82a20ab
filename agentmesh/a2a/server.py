"""The A2A server over HTTP: JSON-RPC at `/a2a` and HTTP+JSON below it for the mesh, the same at `/a2a/NAME` for each of its agents.

Both versions of the protocol answer at the same addresses: 1.0 where a request says so, 0.3 where it says that or nothing. The SDK
gives the messages, and what turns them into 0.3 and back; who asks for what is read here (`request.py`), since the SDK's own bindings
answer many a caller's mistake as a fault of the server, read each body twice and cannot answer with headers of ours.

Importing this costs half a second and 50 MB, nearly all of it the SDK: app.py does it in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from agentmesh.a2a.cards import Cards
from agentmesh.a2a.operations import Operations
from agentmesh.a2a.rest import Rest
from agentmesh.a2a.rpc import Rpc
from agentmesh.a2a.stream import Streams
from agentmesh.a2a.v03_rest import Rest03
from agentmesh.a2a.v03_rpc import Rpc03
from agentmesh.core.policy import Principal
from agentmesh.engine import Engine
from agentmesh.settings import Settings

PREFIX = "/a2a"
OWN = ("tasks", "extendedAgentCard", "v1", ".well-known")
"""What follows an address in HTTP+JSON, and is no agent's name."""


def build_a2a(
    engine: Engine, settings: Settings, base_url: str, leaving: list[Callable[[], None]] | None = None,
    cards: Cards | None = None,
) -> list[BaseRoute]:  # fmt: skip
    """The routes of the A2A edge, for the root application.

    `base_url`: where clients reach it, for the cards. `leaving` is given what ends the open streams, for a server that stops.
    `cards`: those that other bindings show, too; None: cards of its own, without signatures.
    """
    cards = cards or Cards(engine, base_url, settings.grpc_address)
    logging.getLogger("a2a").setLevel(
        logging.CRITICAL
    )  # whatever goes wrong is answered, and logged by us when it is our fault
    streams = Streams()
    if leaving is not None:
        leaving.append(streams.close)
    operations = operations_of(engine, cards)
    depth = settings.limits.json_depth
    front = Front(
        Rpc(operations, Rpc03(operations, streams), streams, depth),
        Rest(operations, Rest03(operations), streams, depth),
    )
    return [*cards.routes(), Route(PREFIX, front), Route(PREFIX + "/{path:path}", front)]


def operations_of(engine: Engine, cards: Cards) -> Operations:
    """What every binding ends in."""

    async def extended(principal: Principal, agent: str | None) -> Mapping[str, Any]:
        return (await cards.of(principal, agent, more=True)).json

    return Operations(engine, extended)


class Front:
    """Which agent is addressed, and in which binding."""

    def __init__(self, rpc: Rpc, rest: Rest) -> None:
        self._rpc = rpc
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        agent, below = address_of(scope["path"].removeprefix(PREFIX))
        if not below:
            await self._rpc(scope, receive, send, agent)
        else:
            await self._rest(scope, receive, send, agent, below)


def address_of(path: str) -> tuple[str | None, str]:
    """The agent that a path names, None for the mesh; and what of the path is below its address.

    A client that finds the agent's name as `tenant` beside its address says it once more, as the first part of its paths.
    """
    agent: str | None = None
    parts = path.strip("/").split("/") if path != "/" else [""]
    if parts[0] and not _is_own(parts[0]):
        agent, *parts = parts
        if len(parts) > 1 and parts[0] == agent:
            parts = parts[1:]
    below = "/".join(parts)
    return agent, f"/{below}" if below else ""


def _is_own(part: str) -> bool:
    return part in OWN or part.startswith("message:")
