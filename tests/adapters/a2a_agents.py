"""Real agents of the A2A SDK, of both versions over all three bindings, on loopback sockets; and one that says whatever a test wants."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import grpc
from a2a.compat.v0_3 import a2a_v0_3_pb2_grpc
from a2a.compat.v0_3.grpc_handler import CompatGrpcHandler
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers.default_request_handler_v2 import DefaultRequestHandlerV2
from a2a.server.request_handlers.grpc_handler import GrpcHandler
from a2a.server.routes.agent_card_routes import create_agent_card_routes
from a2a.server.routes.jsonrpc_routes import create_jsonrpc_routes
from a2a.server.routes.rest_routes import create_rest_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as pb
from a2a.types import a2a_pb2_grpc
from google.protobuf.json_format import ParseDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.upstream_a2a import PeerSource
from agentmesh.core.agent import PeerCall
from agentmesh.core.mesh import Peer
from agentmesh.core.policy import Principal
from tests.http.serving import served

CALL = PeerCall(Principal())
WELL_KNOWN = "/.well-known/agent-card.json"


class Echo(AgentExecutor):
    """`say` answers by a message; `ask` asks once; `hold` waits until it is cancelled; else a task with an artifact in two pieces."""

    def __init__(self) -> None:
        self.seen: list[pb.Message] = []
        self.headers: list[Mapping[str, str]] = []
        self.tenants: list[str] = []
        self.asked_extensions: list[set[str]] = []
        self.held = anyio.Event()
        self.go = anyio.Event()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        message = context.message
        assert message is not None
        self.seen.append(message)
        call = context.call_context
        if call is not None:
            self.headers.append({k.lower(): v for k, v in dict(call.state.get("headers") or {}).items()})
            self.tenants.append(call.tenant)
            self.asked_extensions.append(set(call.requested_extensions))
        text = "".join(part.text for part in message.parts)
        if text == "say":
            parts = [pb.Part(text="said"), *(part for part in message.parts if not part.text)]
            await event_queue.enqueue_event(pb.Message(message_id="reply", role=pb.ROLE_AGENT, parts=parts))
            return
        updater = TaskUpdater(event_queue, context.task_id or "", context.context_id or "")
        if context.current_task is None:
            await event_queue.enqueue_event(
                pb.Task(
                    id=context.task_id, context_id=context.context_id, history=[message],
                    status=pb.TaskStatus(state=pb.TASK_STATE_SUBMITTED),
                )
            )  # fmt: skip
        await updater.start_work(updater.new_agent_message([pb.Part(text="working on it")]))
        if text == "ask":
            await updater.requires_input(updater.new_agent_message([pb.Part(text="Which one?")]))
            return
        if text == "hold":
            self.held.set()
            await self.go.wait()
        await updater.add_artifact([pb.Part(text="one ")], artifact_id="a", name="answer")
        await updater.add_artifact([pb.Part(text=f"two {text}")], artifact_id="a", append=True, last_chunk=True)
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        self.go.set()
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()


def interface(url: str, binding: str, version: str = "1.0", tenant: str = "") -> dict[str, str]:
    return {"url": url, "protocolBinding": binding, "protocolVersion": version} | ({"tenant": tenant} if tenant else {})


def card(*interfaces: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """A card of 1.0 with one skill."""
    skill = {"id": "echo", "name": "Echo", "description": "Says it again.", "tags": ["test"], "examples": ["say it"]}
    return {
        "name": "Echo", "description": "An agent for tests.", "version": "1", "supportedInterfaces": list(interfaces),
        "capabilities": {"streaming": True}, "defaultInputModes": ["text/plain"], "defaultOutputModes": ["text/plain"],
        "skills": [skill], **more,
    }  # fmt: skip


@asynccontextmanager
async def sdk_agent(*bindings: tuple[str, str], tenant: str = "", **more: Any) -> AsyncIterator[tuple[str, Echo]]:
    """An agent of the SDK's own server, whose card names these (binding, version); its address."""
    executor = Echo()
    app = Starlette()
    # The SDK's server expects a tenant before any prefix, its client after it.
    prefix = "" if tenant else "/rest"
    async with served(app) as url:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        where = {"JSONRPC": f"{url}/rpc", "HTTP+JSON": f"{url}{prefix}", "GRPC": f"127.0.0.1:{port}"}
        said = card(*(interface(where[binding], binding, version, tenant) for binding, version in bindings), **more)
        made = ParseDict(said, pb.AgentCard())
        handler = DefaultRequestHandlerV2(executor, InMemoryTaskStore(), made, extended_agent_card=_extended(made))
        app.router.routes += [
            *create_agent_card_routes(made),
            *create_jsonrpc_routes(handler, "/rpc", enable_v0_3_compat=True),
            *create_rest_routes(handler, enable_v0_3_compat=True, path_prefix=prefix),
        ]
        a2a_pb2_grpc.add_A2AServiceServicer_to_server(GrpcHandler(handler), server)  # type: ignore[no-untyped-call]
        a2a_v0_3_pb2_grpc.add_A2AServiceServicer_to_server(CompatGrpcHandler(handler), server)  # type: ignore[no-untyped-call]
        await server.start()
        try:
            yield url, executor
        finally:
            executor.go.set()
            await server.stop(0)


def _extended(made: pb.AgentCard) -> pb.AgentCard | None:
    if not made.capabilities.extended_agent_card:
        return None
    more = pb.AgentCard()
    more.CopyFrom(made)
    more.skills.append(pb.AgentSkill(id="secret", name="Secret", description="For those with a token.", tags=["x"]))
    return more


@asynccontextmanager
async def peer_at(
    url: str, *, store: MemoryStore | None = None, sleep: Any = None, path: str = WELL_KNOWN, **given: Any
) -> AsyncIterator[PeerSource]:
    """The peer `echo`, when it has looked at its card once."""
    async with store or MemoryStore() as kept:
        source = PeerSource("echo", Peer(card=url + path, **given), store=kept, sleep=sleep or anyio.sleep)
        async with source:
            with anyio.fail_after(10):
                await source.looked.wait()
            yield source


def message(text: str, **more: Any) -> dict[str, Any]:
    return {"messageId": f"m-{text}", "role": "ROLE_USER", "parts": [{"text": text}], **more}


class Liar:
    """An agent that answers every method from a script, and serves a card; both are functions of the request."""

    def __init__(self, *, binding: str = "JSONRPC", version: str = "1.0", **more: Any) -> None:
        self.binding, self.version, self.more = binding, version, more
        self.answers: dict[str, Callable[[Any], Any]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.card: dict[str, Any] = {}
        self.fetched = 0
        self.down = False
        self.app = Starlette(routes=[
            Route(WELL_KNOWN, self.show), Route("/rpc", self.answer, methods=["POST"]),
            Route("/rest/{path:path}", self.rest, methods=["POST", "GET"]),
        ])  # fmt: skip

    async def show(self, request: Request) -> Response:
        self.fetched += 1
        self.headers.append(request.headers)
        if self.down:
            return Response(status_code=503)
        return JSONResponse(self.card, headers={"etag": f'"{hash(json.dumps(self.card))}"'})

    async def answer(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append((asked["method"], asked["params"]))
        self.headers.append(request.headers)
        found = self.answers[asked["method"]](asked)
        if isinstance(found, Awaitable):
            found = await found
        if isinstance(found, Response):
            return found
        return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "result": found})

    async def rest(self, request: Request) -> Response:
        name = f"{request.method} /{request.path_params['path']}"
        self.asked.append((name, dict(request.query_params)))
        self.headers.append(request.headers)
        made = self.answers.get(name)
        if made is None:
            return Response(status_code=404)
        found = made(request)
        return found if isinstance(found, Response) else JSONResponse(found)

    @asynccontextmanager
    async def met(self, **given: Any) -> AsyncIterator[PeerSource]:
        async with served(self.app) as url:
            path = "/rpc" if self.binding == "JSONRPC" else "/rest"
            self.card = self.card or card(interface(url + path, self.binding, self.version), **self.more)
            async with peer_at(url, **given) as source:
                yield source
