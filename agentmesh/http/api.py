"""The API under `/v1`: how the command line and programs start runs, look at them, and ask what the mesh offers.

An edge like the others: a request becomes core nouns, the engine decides, the answer is written by `shapes`. Every
error is a problem (`problems`). `http/auth.py` has been there before: the body is whole, and `request.state.principal`
says who asks.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Annotated, Any

import anyio
import anyio.to_thread
from anyio.abc import ObjectReceiveStream
from anyio.streams.memory import MemoryObjectSendStream
from fastapi import FastAPI, Header, Query
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from agentmesh import __version__
from agentmesh.core.json_text import parse_json, write_json
from agentmesh.core.policy import Principal
from agentmesh.core.run import RunEvent, RunState
from agentmesh.core.store import RunFilter
from agentmesh.core.tool import ToolCall
from agentmesh.engine import Engine
from agentmesh.errors import InvalidInput, NotFound, PolicyDenied
from agentmesh.http import shapes
from agentmesh.http.api_agents import agent_routes
from agentmesh.http.api_history import history_routes
from agentmesh.http.api_push import push_routes
from agentmesh.http.api_sources import source_routes
from agentmesh.http.api_waiting import waiting_routes
from agentmesh.http.asker import Asker, answer, ok
from agentmesh.http.events import HEARTBEAT, SEND_TIMEOUT, run_events
from agentmesh.http.openai import models_to_json, openai_routes
from agentmesh.http.problems import HANDLERS, problem, problem_response, to_problem
from agentmesh.settings import Settings

PAGE = 200
LARGE = 64 * 1024
"""Bodies over this are parsed in a thread."""
NOTICES = 64
"""Progress lines that wait for a slow client; further ones are dropped."""


class _StrictRequest(Request):
    """A request whose JSON is read by `parse_json`."""

    depth = 64

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            read = partial(parse_json, body, depth=self.depth)
            try:
                self._json = await anyio.to_thread.run_sync(read) if len(body) > LARGE else read()
            except InvalidInput as error:
                raise HTTPException(400, error.message) from None
        return self._json


class _StrictRoute(APIRoute):
    """Reads bodies strictly, and only those that say they are JSON: a form in a browser page cannot say that."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            request = _StrictRequest(request.scope, request.receive)
            media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if self.body_field is not None and media_type != "application/json" and await request.body():
                raise HTTPException(415, "send the body with Content-Type: application/json")
            return await handle(request)

        return strict


Limit = Annotated[int, Query(ge=1, le=PAGE)]


def build_api(
    engine: Engine,
    settings: Settings,
    *,
    base_url: str,
    token: str | None = None,
    shutdown: Callable[[], None] | None = None,
) -> FastAPI:
    """The application to mount at `/v1`. `base_url`: where clients reach this server.

    `shutdown` begins a soft stop; it is called by whoever holds `token`, the one in `.agentmesh/server.json`.
    """
    refused = {"model": shapes.ProblemShape, "description": "A problem (RFC 9457)"}
    app = FastAPI(
        title=f"AgentMesh: {engine.mesh.name}",
        version=__version__,
        docs_url=None,  # the page loads its script from elsewhere
        redoc_url=None,
        responses={"4XX": refused},
        exception_handlers={**HANDLERS, RequestValidationError: _invalid},
        redirect_slashes=False,
    )
    app.router.route_class = _StrictRoute
    _mesh_routes(app, engine, base_url)
    _run_routes(app, engine, token)
    _tool_routes(app, engine)
    agent_routes(app, engine)
    openai_routes(app, engine)
    waiting_routes(app, engine)
    history_routes(app, engine)
    source_routes(app, engine)
    push_routes(app, engine)

    if shutdown is not None and token:
        stop = shutdown

        @app.post("/shutdown", status_code=202, include_in_schema=False)
        async def shut_down(authorization: Annotated[str, Header()] = "") -> Response:
            if not _holds(authorization, token):
                raise PolicyDenied("only who can read .agentmesh/server.json may stop the server")
            stop()
            return answer({"stopping": True}, 202)

    return app


def _mesh_routes(app: FastAPI, engine: Engine, base_url: str) -> None:
    mesh = engine.mesh

    @app.get("/mesh", responses=ok(shapes.MeshShape))
    async def show_mesh(principal: Asker) -> Response:
        """The mesh that this server serves."""
        return answer({
            "name": mesh.name, "description": mesh.file.description, "version": __version__, "url": base_url,
            "pid": os.getpid(), "folder": str(mesh.folder), "files": engine.reload.state.to_json(),
        })  # fmt: skip

    @app.get("/workflows", responses=ok(shapes.WorkflowsShape))
    async def list_workflows(principal: Asker) -> Response:
        found = [shapes.workflow_to_json(workflow) for _, workflow in sorted(mesh.workflows.items())]
        return answer({"workflows": found})

    @app.get("/workflows/{name}", responses=ok(shapes.WorkflowShape))
    async def show_workflow(principal: Asker, name: str) -> Response:
        workflow = mesh.workflows.get(name)
        if workflow is None:
            raise NotFound(f"there is no workflow {name!r}; there are: {', '.join(sorted(mesh.workflows)) or 'none'}")
        return answer(shapes.workflow_to_json(workflow))

    @app.get("/models", responses=ok(shapes.ModelsShape))
    async def list_models(principal: Asker) -> Response:
        """Where each model stands now."""
        status = engine.models.status()
        found = [status[name].to_json() for name in sorted(status)]
        return answer({**models_to_json(engine, principal), "models": found, "default": mesh.file.default_model})


def _run_routes(app: FastAPI, engine: Engine, token: str | None) -> None:
    runs = engine.runs

    @app.post("/runs", status_code=201, responses=ok(shapes.RunShape, 201))
    async def start_run(
        principal: Asker,
        body: shapes.StartRun,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=shapes.KEY_LENGTH)] = None,
        authorization: Annotated[str, Header(include_in_schema=False)] = "",
    ) -> Response:
        """Starts a run; it is durable when this answers. `key`, or the header Idempotency-Key: never twice."""
        key = body.key or idempotency_key
        source = "cli" if _holds(authorization, token) else "api"
        run = await runs.start(principal, body.workflow, body.input, key=key, source=source)
        return answer(shapes.run_to_json(run), 201, {"location": f"/v1/runs/{run.id}"})

    @app.get("/runs", responses=ok(shapes.RunsShape))
    async def list_runs(
        principal: Asker,
        workflow: str | None = None,
        state: Annotated[list[RunState] | None, Query()] = None,
        context_id: str | None = None,
        parent: str | None = None,
        roots: bool = False,
        limit: Limit = 50,
        cursor: str | None = None,
    ) -> Response:
        """Runs without their steps, newest first. `roots`: only those that no step of another run started."""
        where = RunFilter(
            tenant=principal.tenant, workflow=workflow, states=tuple(state or ()), context_id=context_id,
            parent=parent, roots=roots, limit=limit, cursor=cursor, longest=shapes.HEAD_VALUE,
        )  # fmt: skip
        page = await runs.list(principal, where)
        found = [shapes.head_to_json(run, page.omitted.get(run.id, ())) for run in page.runs]
        return answer({"runs": found, "next": page.next, "total": page.total})

    @app.get("/runs/{run_id}", responses=ok(shapes.RunShape))
    async def show_run(principal: Asker, run_id: str) -> Response:
        return answer(shapes.run_to_json(await runs.get(principal, run_id)))

    @app.get("/runs/{run_id}/journal", responses=ok(shapes.JournalShape))
    async def show_journal(principal: Asker, run_id: str, after: Annotated[int, Query(ge=0)] = 0) -> Response:
        """Every row of the run's journal past `after`."""
        entries = await runs.journal(principal, run_id, after)
        return answer({"entries": [shapes.entry_to_json(entry) for entry in entries]})

    @app.get("/runs/{run_id}/events")
    async def watch_run(
        principal: Asker, run_id: str, last_event_id: Annotated[str | None, Header()] = None
    ) -> Response:
        """Server-sent events `run`, `entry` and `notice`; `Last-Event-ID` goes on after that entry."""
        return await run_events(engine, principal, run_id, last_event_id)

    @app.post("/runs/{run_id}/cancel", responses=ok(shapes.RunShape))
    async def cancel_run(principal: Asker, run_id: str) -> Response:
        """Asks a run to end. 409 when it has ended."""
        return answer(shapes.run_to_json(await runs.cancel(principal, run_id)))


def _tool_routes(app: FastAPI, engine: Engine) -> None:
    @app.get("/tools", responses=ok(shapes.ToolsShape))
    async def list_tools(principal: Asker) -> Response:
        return answer({"tools": [shapes.tool_to_json(tool) for tool in engine.tools.list(principal)]})

    @app.post("/tools/{name}/call", responses=ok(shapes.ToolResultShape))
    async def call_tool(
        principal: Asker, name: str, body: shapes.CallTool, accept: Annotated[str, Header()] = ""
    ) -> Response:
        """Calls a tool and waits for it. With `Accept: text/event-stream`: `notice` events, then `result` or `problem`.

        A client that leaves cancels the call.
        """
        call = ToolCall(name, body.arguments)
        if "text/event-stream" not in accept:
            return answer(shapes.result_to_json(await engine.tools.call(principal, call, source="api")))
        send, receive = anyio.create_memory_object_stream[ServerSentEvent](NOTICES)
        return EventSourceResponse(
            _told(receive), ping=HEARTBEAT, send_timeout=SEND_TIMEOUT, sep="\n",
            data_sender_callable=partial(_call_into, send, receive, engine, principal, call),
        )  # fmt: skip


async def _told(receive: ObjectReceiveStream[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    async with receive:
        async for event in receive:
            yield event


async def _call_into(
    send: MemoryObjectSendStream[ServerSentEvent],
    receive: ObjectReceiveStream[ServerSentEvent],
    engine: Engine,
    principal: Principal,
    call: ToolCall,
) -> None:
    """Calls a tool, telling `send` what goes on and how it ended."""

    def on_progress(event: RunEvent | str) -> None:
        line = event if isinstance(event, str) else event.message
        try:
            send.send_nowait(_event("notice", {"message": line}))
        except (anyio.WouldBlock, anyio.BrokenResourceError):
            return  # a slow client misses a line, never the result

    async with send:
        try:
            result = await engine.tools.call(principal, call, source="api", on_progress=on_progress)
        except anyio.get_cancelled_exc_class():
            await receive.aclose()  # the client has left; nobody reads any more
            raise
        except Exception as error:
            await send.send(_event("problem", to_problem(error)))
        else:
            await send.send(_event("result", shapes.result_to_json(result)))


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """FastAPI's validation errors as a problem that names each member."""
    faults = [
        {"at": ".".join(str(part) for part in fault["loc"]), "message": str(fault["msg"]).lower()}
        for fault in error.errors()[:20]
    ]
    detail = "; ".join(f"{fault['at']}: {fault['message']}" for fault in faults)
    return problem_response(problem(422, detail, code=InvalidInput.code, errors=faults))


def _holds(authorization: str, token: str | None) -> bool:
    """Whether a request comes from who can read `.agentmesh/server.json`: this mesh's command line."""
    return token is not None and hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode())


def _event(name: str, data: Any) -> ServerSentEvent:
    return ServerSentEvent(write_json(data).decode(), event=name, sep="\n")
