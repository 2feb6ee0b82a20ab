"""The application: builds the graph of adapters, engine and edges, and serves it.

The only module, with cli/, that sees every layer. `serve` owns a mesh: it holds the lock of `.agentmesh/`, the store and
the models' child, and writes its address there. `open_app` is the one place where lifetimes begin: what opens first
closes last (store, models, engine, edges), and its task groups hold everything that runs.

A start imports only what answering needs: the MCP and A2A SDKs and FastAPI cost more than a second together, so they
are imported in a thread while the socket already listens (`Late`); requests that come earlier wait.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import random
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence, Sized
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import anyio
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh import telemetry
from agentmesh.adapters.cluster import RayTasks, runs_on_ray
from agentmesh.adapters.files import load_mesh
from agentmesh.adapters.http_outside import OutsideHttp
from agentmesh.adapters.keyring import derive, load_keys
from agentmesh.adapters.lock import MeshLock
from agentmesh.adapters.logins import Logins
from agentmesh.adapters.mesh_files import FolderFiles
from agentmesh.adapters.model_child import ModelChild
from agentmesh.adapters.openai_http import OpenAiHttp
from agentmesh.adapters.outbound import Guard as OutboundGuard
from agentmesh.adapters.outbound import Outbound
from agentmesh.adapters.peer_registry import PeerRegistry
from agentmesh.adapters.sources import SourceSet
from agentmesh.adapters.sql.databases import SqlDatabases
from agentmesh.adapters.sql.store import open_store
from agentmesh.adapters.vault import Seals, Vault
from agentmesh.adapters.watch import FolderWatch, on_hangup
from agentmesh.core.check import same_database
from agentmesh.core.mesh import Mesh
from agentmesh.core.store import Store
from agentmesh.engine import Engine, build_engine
from agentmesh.engine.push import PushPorts
from agentmesh.errors import MeshError, ServeError
from agentmesh.http.auth import Guard, check_bind
from agentmesh.http.connection import bounded
from agentmesh.http.health import health_routes
from agentmesh.http.metrics import metrics_routes
from agentmesh.http.oauth import oauth_routes
from agentmesh.http.problems import HANDLERS
from agentmesh.http.pushes import push_routes
from agentmesh.http.webhooks import webhook_routes, webhooks_of
from agentmesh.settings import Settings

log = logging.getLogger("agentmesh")

BACKLOG = 1024
GRACE = 3
"""Seconds that open answers get when the server stops; runs do not need them, they go on at the next start."""


class Late:
    """An ASGI app that is given after the server listens; requests wait for it."""

    def __init__(self) -> None:
        self._given = anyio.Event()
        self._app: ASGIApp | None = None

    def give(self, app: ASGIApp) -> None:
        self._app = app
        self._given.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while self._app is None:
            await self._given.wait()
        await self._app(scope, receive, send)


class Shortcut:
    """Sends one exact path straight to its app, past the router, which costs as much as a small call takes."""

    def __init__(self, path: str, app: ASGIApp, others: ASGIApp) -> None:
        self._path = path
        self._app = app
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._app if scope["path"] == self._path else self._others)(scope, receive, send)


@asynccontextmanager
async def open_app(
    settings: Settings, mesh: Mesh, *,
    token: str | None = None, shutdown: Callable[[], None] | None = None, watch: FolderWatch | None = None,
    clock: Callable[[], float] = time.time, rng: random.Random | None = None,
    leaving: list[Callable[[], None]] | None = None, grpc: socket.socket | None = None,
) -> AsyncIterator[ASGIApp]:  # fmt: skip
    """The whole mesh, running: yields the ASGI application. Leaving gives unfinished runs back and stops the models.

    `settings.port` is the port that clients see. `watch`: tells when the files are to be read again; None: nobody does.
    `leaving` is given what ends the streams that clients listen on, for a server that stops. `grpc`: holds the port of A2A over gRPC until
    it is listened on; None: there is none. MeshError when the store cannot be opened.
    """
    url = mesh.file.url or address(settings)
    mcp, a2a, api = Late(), Late(), Late()
    engine: Engine | None = None
    keys = load_keys(settings, store_url=settings.store or mesh.file.store)
    logins: Logins | None = None

    async def edges(engine: Engine) -> None:
        """Imports the protocols' libraries, the one that clients ask first, first; then holds MCP's sessions open."""
        mcp_server = await _import("agentmesh.mcp.server")
        mcp_edge = mcp_server.build_mcp(engine, settings, keys=[derive(key, "mcp") for key in keys])
        async with mcp_edge.run():
            if leaving is not None:
                leaving.append(mcp_edge.close_streams)
            mcp.give(mcp_edge.app)
            api.give(
                (await _import("agentmesh.http.api")).build_api(
                    engine, settings, base_url=url, token=token, shutdown=shutdown
                )
            )
            a2a_server = await _import("agentmesh.a2a.server")
            card_keys = (await _import("agentmesh.adapters.card_keys")).DerivedKeys(keys, clock=clock)
            await anyio.to_thread.run_sync(card_keys.published)  # a key is made in a millisecond or two
            cards = (await _import("agentmesh.a2a.cards")).Cards(engine, url, keys=card_keys)
            async with _grpc_edge(settings, mesh, a2a_server.operations_of(engine, cards), grpc, leaving) as known:
                cards.grpc_address = known.grpc_address
                routes = a2a_server.build_a2a(engine, known, url, leaving, cards)
                a2a.give(Starlette(routes=routes, exception_handlers=HANDLERS))
                engine.resources.own.card = cards.shown
                engine.changes.publish("resources")
                push = await _import("agentmesh.a2a.push")
                engine.push.render, engine.push.render_v03 = push.notifications, push.notifications_of_v03
                # Not earlier: what cannot be put into the protocol's words would count as nobody's news.
                await engine.push.run()

    root = Starlette(
        routes=[
            *health_routes(settings, lambda: engine),
            *metrics_routes(lambda: engine),
            *webhook_routes(settings, mesh, lambda: engine),
            *oauth_routes(lambda: logins),
            *push_routes(lambda: engine),
            Route("/mcp", mcp),
            Route("/.well-known/agent-card.json", a2a),
            Route("/.well-known/jwks.json", a2a),
            Route("/a2a", a2a),
            Route("/a2a/{path:path}", a2a),
            Mount("/v1", api),
        ],
        exception_handlers=HANDLERS,
    )
    deployed = mesh.file.models if settings.models else {}
    on_ray = settings.models and runs_on_ray(mesh.workflows.values())
    async with (
        store_of(settings, mesh, clock) as store,
        ModelChild(
            settings.folder, deployed, keep_models=settings.keep_models, grace=settings.child_grace,
            ray_address=settings.ray_address, clock=clock,
            tasks=on_ray,
            guest=settings.state_folder != settings.folder / ".agentmesh",
        ) as child,
        OpenAiHttp(mesh.file.models, child, model_wait=settings.limits.model_wait) as endpoints,
        OutsideHttp() as http,
        Outbound(OutboundGuard(lambda: mesh.file.a2a.webhooks), proxy=settings.outbound_proxy) as webhooks,
        SqlDatabases(mesh.file.databases, settings.folder) as databases,
        SourceSet(
            settings.folder, store, http, state=settings.state_folder, secrets=settings.secrets.values,
            logins=(logins := Logins(store, keys, base_url=url, clock=clock)), rng=rng,
            registry=(registry := PeerRegistry(store, Vault(store, keys))),
        ) as sources,
        anyio.create_task_group() as work,
        anyio.create_task_group() as tasks,
    ):  # fmt: skip
        engine = build_engine(
            mesh, store, endpoints, clock=clock, random=rng,
            lease=settings.lease.seconds, heartbeat=settings.lease.heartbeat,
            concurrency=settings.concurrency,
            http=http, databases=databases, cluster=RayTasks(child, str(settings.folder)) if settings.models else None,
            sources=await sources.replace(mesh),
            secrets=settings.secrets.values, files=FolderFiles(settings.folder, settings.secrets_folder),
            push=PushPorts(webhooks, Seals(keys), [derive(key, "push/received/1") for key in keys]),
        )  # fmt: skip
        engine.reload.load = lambda: load_mesh(settings.folder, settings.secrets)
        engine.reload.sources = sources.replace
        engine.peers.registry, engine.peers.renew = registry, engine.reload.renew
        engine.reload.look = lambda new: _trouble(new, settings, on_ray=on_ray)
        await work.start(engine.worker.run)
        await tasks.start(engine.scheduler.run)
        await tasks.start(engine.agents.run)
        tasks.start_soon(edges, engine)
        await tasks.start(engine.resources.run)
        tasks.start_soon(engine.history.keep_pruned, anyio.sleep)
        tasks.start_soon(engine.reload.follow, sources.changed)
        if watch is not None:
            tasks.start_soon(engine.reload.run, watch.changed)
        if shutdown is not None:
            tasks.start_soon(on_hangup, engine.reload.now, shutdown)
        try:
            yield Guard(
                Shortcut("/mcp", mcp, root),
                host=settings.host,
                url=mesh.file.url,
                limits=settings.limits,
                meter=engine.meter,
            )
        finally:
            # The edges and the scheduler have nothing to lose; steps in flight get their moment while `work` is left.
            engine.worker.stop()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _grpc_edge(
    settings: Settings,
    mesh: Mesh,
    operations: Any,
    held: socket.socket | None,
    leaving: list[Callable[[], None]] | None,
) -> AsyncIterator[Settings]:
    """Serves A2A over gRPC where the port is held for it, and yields the settings as they are then: agent cards name the address."""
    async with AsyncExitStack() as stack:
        if held is not None:
            grpc = await _import("agentmesh.a2a.grpc")
            edge = grpc.GrpcEdge(operations, settings.limits, grace=GRACE, versions=lambda: mesh.file.a2a.versions)
            held.close()
            try:
                await stack.enter_async_context(edge.run(settings.grpc_address))
                if leaving is not None:
                    leaving.append(edge.leave)
            except ServeError as error:  # somebody was there in the moment between
                log.warning("A2A is served without gRPC: %s", error.message)
                held = None
        yield settings if held is not None else replace(settings, grpc_port=0)


def _trouble(mesh: Mesh, settings: Settings, *, on_ray: bool) -> list[str]:
    """Why this process cannot serve other files than it began with. `on_ray`: whether its child takes steps `on: ray`."""
    found = []
    try:
        webhooks_of(mesh, settings.secrets.values)
    except MeshError as error:
        found.append(error.message)
    if settings.models and not on_ray and runs_on_ray(mesh.workflows.values()):
        found.append(
            "a step says `on: ray`, and there is no Ray for steps before the next start: restart to serve these files"
        )
    return found


def store_of(settings: Settings, mesh: Mesh, clock: Callable[[], float] = time.time) -> Store:
    """The mesh's store, not opened yet; with `settings.crash_at` one that kills this process at that boundary.

    ServeError when a database that `sql` steps may reach is that very store, which AGENTMESH_STORE may make it.
    """
    url = settings.store or mesh.file.store
    for name, other in mesh.file.databases.items():
        if same_database(other, url, settings.folder):
            raise ServeError(f"databases.{name} is the mesh's own store, where runs live; steps may not reach it")
    store: Store = open_store(url, settings.folder, clock=clock)
    if settings.crash_at is None:
        return store
    from agentmesh.adapters.crash import crashing

    return crashing(store, settings.crash_at)


async def _import(name: str) -> ModuleType:
    return await anyio.to_thread.run_sync(importlib.import_module, name)


def address(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def collect_rarely() -> None:
    """Has the collector of cycles look at 10,000 new objects at a time, not at 700: a tenth of the time of a busy engine was its.

    Nearly everything a run makes is freed without it; what is not waits a little longer.
    """
    gc.set_threshold(10_000, 20, 50)


def serve(settings: Settings) -> None:
    """Serves the mesh of `settings.folder` until SIGTERM or SIGINT. Blocks; call it from the main thread.

    ProjectError when its files have faults, ServeError when the address cannot be had, StoreLocked when it is served
    already.
    """
    collect_rarely()
    check_bind(settings.host)
    watch = FolderWatch(settings.folder) if settings.reload else None
    mesh = load_mesh(settings.folder, settings.secrets)
    telemetry.set_up(settings.log_level, settings.secrets.values.values())
    # One SQLite file has one server. A store that several may share lets them serve one folder, each with a state of its own.
    alone = (settings.store or mesh.file.store).startswith("sqlite")
    lock = MeshLock.of_folder(settings.folder) if alone else MeshLock.of_server(settings.folder)
    with lock, listen(settings.host, settings.port) as listener, hold(settings, listener) as grpc:
        settings = replace(
            settings,
            port=listener.getsockname()[1],
            grpc_port=grpc.getsockname()[1] if grpc else 0,
            state=lock.file.parent,
        )
        lock.announce(address(settings))
        # uvicorn raises the signal that stopped it once more when it is done: the closing below must survive that.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        anyio.run(_serve, settings, mesh, listener, grpc, watch, backend_options={"use_uvloop": True})


async def _serve(
    settings: Settings, mesh: Mesh, listener: socket.socket, grpc: socket.socket | None, watch: FolderWatch | None
) -> None:
    token = secrets.token_urlsafe(24)
    server: Announcing | None = None
    leaving: list[Callable[[], None]] = []

    def shutdown() -> None:
        if server is not None:
            server.should_exit = True

    async with open_app(settings, mesh, token=token, shutdown=shutdown, watch=watch, leaving=leaving, grpc=grpc) as app:
        config = uvicorn.Config(
            app, http=bounded(settings.limits.headers), proxy_headers=False, ws="none", lifespan="off", access_log=False, log_config=None,
            server_header=False, backlog=BACKLOG, timeout_graceful_shutdown=GRACE, h11_max_incomplete_event_size=settings.limits.headers,
        )  # fmt: skip
        server = Announcing(config, lambda: _announce(settings, mesh, token), leaving)
        await server.serve(sockets=[listener])
        _withdraw(settings)
        log.info("stopping: %s", "models stay warm" if settings.keep_models else "runs are kept, models end")


def _announce(settings: Settings, mesh: Mesh, token: str) -> None:
    """Writes `.agentmesh/server.json`, by which commands find this server, and says on stderr where it listens."""
    file = settings.state_folder / "server.json"
    text = json.dumps({"pid": os.getpid(), "url": address(settings), "token": token, "started_at": time.time()})
    draft = file.with_suffix(".new")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(text)
    draft.replace(file)
    url = address(settings)
    grpc = f"  gRPC   {settings.grpc_address} (A2A)\n" if settings.grpc_address else ""
    sys.stderr.write(
        f"{mesh.name} is served at {url}\n"
        f"  MCP    {url}/mcp ({_count(mesh.tools, 'tool')})\n"
        f"  A2A    {url}/.well-known/agent-card.json ({_count(mesh.skills, 'skill')})\n"
        f"{grpc}"
        f"  API    {url}/v1\n"
        "Open to every program on this machine: no identity is configured. Ctrl-C stops it.\n"
    )
    sys.stderr.flush()


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _withdraw(settings: Settings) -> None:
    (settings.state_folder / "server.json").unlink(missing_ok=True)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ServeError says what to do when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named asyncio sets TCP_NODELAY on what it accepts; else a head waits for its body's acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise ServeError(
            f"port {port} of {host} cannot be used ({error.strerror}); "
            "stop what listens there, or choose another with --port"
        ) from None
    listener.listen(BACKLOG)
    listener.set_inheritable(False)
    return listener


@contextmanager
def hold(settings: Settings, listener: socket.socket) -> Iterator[socket.socket | None]:
    """A socket that holds the port for gRPC, which is imported after the server listens. None: A2A is served without gRPC.

    ServeError when a port was asked for and is taken; the one after the server's own is left to whoever has it, and the log says so.
    """
    asked, family = settings.grpc_port, listener.family
    own: int = listener.getsockname()[1]
    if asked == 0:
        yield None
        return
    wanted = asked if asked is not None else own + 1 if settings.port else 0
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((settings.host.strip("[]"), wanted))
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "there is none"
            if asked is not None:
                raise ServeError(
                    f"port {asked} of {settings.host} cannot be used for gRPC ({why}); "
                    "stop what listens there, choose another with --grpc-port, or none with --grpc-port 0"
                ) from None
            log.warning(
                "A2A is served without gRPC: port %s cannot be used (%s); give one with --grpc-port, or 0 for none",
                wanted, why,
            )  # fmt: skip
        else:
            yield holder
            return
    yield None


class Announcing(uvicorn.Server):
    """Says where it listens once it does, and that it leaves before it waits for whoever listens."""

    def __init__(
        self, config: uvicorn.Config, announce: Callable[[], None], leaving: Sequence[Callable[[], None]]
    ) -> None:
        super().__init__(config)
        self._announce = announce
        self._leaving = leaving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for leave in self._leaving:
            leave()
        await super().shutdown(sockets=sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._announce()
