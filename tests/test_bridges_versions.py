"""A client of one version and binding, an agent of another, and the mesh between them: real clients, servers and sockets at each hop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentmesh.a2a.grpc import GrpcEdge
from agentmesh.a2a.server import operations_of
from agentmesh.adapters.upstream_a2a import PeerSource
from agentmesh.settings import Limits
from tests.a2a.grpc_calling import by_metadata
from tests.adapters.a2a_agents import CALL, WELL_KNOWN, Echo, card, interface, peer_at, sdk_agent
from tests.bridges import bridged
from tests.engine.meshes import mesh
from tests.http.serving import served

pytestmark = pytest.mark.anyio
SPOKEN = [(binding, version) for version in ("1.0", "0.3") for binding in ("JSONRPC", "HTTP+JSON", "GRPC")]
CROSSED = [(one, SPOKEN[(i + by) % 6]) for i, one in enumerate(SPOKEN) for by in (2, 4, 3)]
"""Each client with agents of both versions and over other bindings than its own."""
SKILL = {"metadata": {"skill": "echo"}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def between(client: tuple[str, str], agent: tuple[str, str]) -> AsyncIterator[tuple[PeerSource, Echo]]:
    """A client of the mesh that speaks just so, and the agent behind it, which does too."""
    async with (
        sdk_agent(agent) as (there, echo),
        peer_at(there) as peer,
        bridged(mesh(), given=[peer]) as on,
        GrpcEdge(operations_of(on.engine, on.url), Limits(), identify=by_metadata, grace=0.2).run(
            "127.0.0.1:0"
        ) as port,
    ):
        binding, version = client
        where = f"127.0.0.1:{port}" if binding == "GRPC" else f"{on.url}/a2a"

        async def show(request: Request) -> Response:
            return JSONResponse(card(interface(where, binding, version)))

        async with served(Starlette(routes=[Route(WELL_KNOWN, show)])) as names, peer_at(names) as made:
            yield made, echo


async def say(
    client: PeerSource, text: str, *, told: Callable[[str], object] | None = None, **more: Any
) -> dict[str, Any]:
    """A message, and the task as it stands when its stream ends. `told` hears the task's id meanwhile."""
    message = {"messageId": f"m-{text}", "role": "ROLE_USER", "parts": [{"text": text}], **SKILL, **more}
    known: list[str] = []
    async with aclosing(client.send(message, CALL)) as events:
        async for event in events:
            update = event.get("statusUpdate") or event.get("artifactUpdate") or {}
            known.append(str((event.get("task") or {}).get("id") or update.get("taskId")))
            if told is not None:
                told(known[0])
    (task,) = set(known)
    return dict(await client.get(task, CALL))


@pytest.mark.parametrize(("client", "agent"), CROSSED, ids="-".join)
async def test_every_client_and_every_agent_understand_each_other(
    client: tuple[str, str], agent: tuple[str, str]
) -> None:
    """A question comes back, its answer goes on to the same task, artifacts arrive whole; a cancellation reaches the agent."""
    with anyio.fail_after(30):
        async with between(client, agent) as (speaker, echo):
            asked = await say(speaker, "ask")
            assert asked["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
            assert asked["status"]["message"]["parts"][0]["text"].startswith("Which one?")
            done = await say(speaker, "this", taskId=asked["id"], contextId=asked["contextId"])
            assert (done["id"], done["status"]["state"]) == (asked["id"], "TASK_STATE_COMPLETED")
            assert "".join(part["text"] for one in done["artifacts"] for part in one["parts"]) == "one two this"

            there = anyio.Event()
            tasks: list[str] = []
            ended: list[dict[str, Any]] = []

            async def hold() -> None:
                ended.append(await say(speaker, "hold", told=lambda task: (tasks.append(task), there.set())))

            async with anyio.create_task_group() as group:
                group.start_soon(hold)
                await echo.held.wait()
                await there.wait()
                assert not echo.go.is_set()
                assert (await speaker.cancel(tasks[-1], CALL))["status"]["state"] == "TASK_STATE_CANCELED"
            assert ended[0]["status"]["state"] == "TASK_STATE_CANCELED"
            assert echo.go.is_set()
