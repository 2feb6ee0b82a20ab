"""Engine: the verbs that all edges stand on. A tool call, an A2A message, a cron tick and a command end in the same few of them.

Every verb takes the Principal first and asks `engine.guard`. What is recorded goes through `core.store.Store`; what a model says
comes through `core.model.ModelBackend`. Nothing here knows a protocol.
"""

from __future__ import annotations

import os
import random as random_
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import anyio

from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ModelBackend
from agentmesh.core.outside import Cluster, Databases, Files, HttpClient
from agentmesh.core.source import Source
from agentmesh.core.store import Store
from agentmesh.engine.agents import Agents
from agentmesh.engine.bus import Bus
from agentmesh.engine.changes import Changes
from agentmesh.engine.definitions import Definitions
from agentmesh.engine.functions import resolve_function
from agentmesh.engine.guard import Guard
from agentmesh.engine.history import History
from agentmesh.engine.meaning import Meanings
from agentmesh.engine.meter import Meter
from agentmesh.engine.models import Models
from agentmesh.engine.own_resources import OwnResources
from agentmesh.engine.peers import Peers
from agentmesh.engine.prompts import Prompts
from agentmesh.engine.push import Push, PushPorts
from agentmesh.engine.reload import Reload
from agentmesh.engine.resources import Resources
from agentmesh.engine.routing import Router
from agentmesh.engine.runs import Runs
from agentmesh.engine.scheduler import Scheduler
from agentmesh.engine.shown import Shown
from agentmesh.engine.sources import Sources
from agentmesh.engine.tools import Tools
from agentmesh.engine.watching import Watching
from agentmesh.engine.worker import Worker

__all__ = [
    "Agents", "Engine", "History", "Models", "Prompts", "Resources", "Runs", "Scheduler", "Tools", "Worker",
    "build_engine",
]  # fmt: skip


@dataclass(frozen=True)
class Engine:
    """The collaborators of one server process. Lives as long as the application; has no methods of its own."""

    mesh: Mesh
    store: Store
    tools: Tools
    agents: Agents
    """`await tg.start(engine.agents.run)`: before, nothing is known of what skills mean, and the first message waits for their words."""
    models: Models
    runs: Runs
    worker: Worker
    """`await tg.start(engine.worker.run)`: nothing runs, and no watcher hears anything, before."""
    scheduler: Scheduler
    history: History
    sources: Sources
    changes: Changes
    meter: Meter
    resources: Resources
    """`await tg.start(engine.resources.run)`: before, nobody hears that a run or a file has changed."""
    prompts: Prompts
    peers: Peers
    push: Push
    """`await tg.start(engine.push.run)`: nobody is told anything before."""
    reload: Reload
    clock: Callable[[], float]
    random: random_.Random


def build_engine(
    mesh: Mesh,
    store: Store,
    backend: ModelBackend,
    *,
    clock: Callable[[], float] = time.time,
    random: random_.Random | None = None,
    functions: Callable[[str], Callable[..., Any]] = resolve_function,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    worker_name: str | None = None,
    concurrency: int = 512,
    lease: float = 30.0,
    heartbeat: float = 10.0,
    http: HttpClient | None = None,
    databases: Databases | None = None,
    cluster: Cluster | None = None,
    sources: Sequence[Source] = (),
    files: Files | None = None,
    secrets: Mapping[str, str] = MappingProxyType({}),
    push: PushPorts | None = None,
) -> Engine:
    """Puts an engine together. Opens and starts nothing: the store's, the worker's and the scheduler's lifetimes are the caller's.

    `functions` turns `package.module:function` into a callable (tests hand in a dict's `__getitem__`); `sleep` is what retries and
    the scheduler wait with; `concurrency` bounds the runs at once that no step started; `http`, `databases` and `cluster` are what
    steps of those kinds reach, `sources` what others serve and this mesh offers (their lifetimes are the caller's), `files` what
    resources and prompts show of the mesh's folder, `secrets` what stands behind `${{ secrets.X }}` in their headers, and `push` what
    notifications are sent by (None: none are).
    """
    random = random or random_.Random(os.urandom(16))
    bus = Bus()
    meter = Meter()
    guard = Guard(mesh)
    models = Models(mesh, backend, guard)
    changes = Changes()
    upstreams = Sources(sources, changes)
    definitions = Definitions(mesh, backend, store, upstreams)
    runs = Runs(mesh, store, definitions, guard, bus, clock=clock, random=random)
    tools = Tools(
        mesh, store, runs, definitions, guard, bus, sources=upstreams, changes=changes, functions=functions, http=http,
        secrets=secrets, clock=clock, meter=meter,
    )  # fmt: skip
    agents = Agents(mesh, store, runs, definitions, guard, upstreams, Router(Meanings(mesh, backend)))
    worker = Worker(
        store, definitions, runs, tools, models, guard, bus, clock=clock, random=random, sleep=sleep,
        name=worker_name or f"worker-{os.getpid()}-{random.getrandbits(32):08x}",
        concurrency=concurrency, lease=lease, heartbeat=heartbeat,
        http=http, databases=databases, cluster=cluster, secrets=secrets, sources=upstreams,
        at_once=_limits_of(mesh),
    )  # fmt: skip
    scheduler = Scheduler(mesh, store, runs, bus, clock=clock, sleep=sleep)
    history = History(mesh, store, runs, definitions, models, guard, bus, clock=clock)
    shown = Shown(mesh, store, changes, functions, files)
    prompts = Prompts(mesh, shown, upstreams, guard)
    resources = Resources(
        mesh, shown, OwnResources(mesh, runs), prompts, upstreams, guard, Watching(changes, store, files, sleep)
    )
    prompts.read = resources.read
    notifying = Push(mesh, store, guard, bus, push, clock=clock, random=random, meter=meter)
    worker.push_address = notifying.receive_url
    return Engine(
        mesh, store, tools, agents, models, runs, worker, scheduler, history, upstreams, changes, meter, resources, prompts,
        Peers(mesh, agents, upstreams, guard), notifying, Reload(mesh, upstreams, scheduler, changes, clock), clock, random,
    )  # fmt: skip


def _limits_of(mesh: Mesh) -> Callable[[], Mapping[str, int]]:
    """How many runs of a workflow may be executed at once, for those that say so; as the files say when it is asked."""
    known: dict[str, int] = {}
    seen = -1

    def limits() -> Mapping[str, int]:
        nonlocal known, seen
        if seen != mesh.revision:
            known = {name: flow.concurrency for name, flow in mesh.workflows.items() if flow.concurrency is not None}
            seen = mesh.revision
        return known

    return limits
