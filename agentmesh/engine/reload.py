"""Reload: takes over the files of the mesh as they are now, while it serves, or leaves all of them as they were.

They are read and checked off the event loop. With a fault nothing changes, and the faults are shown until the files are right again.
Else the mesh is another between two awaits: what is called from then on is the new; runs in flight are pinned to what they began with.
What a process is built around (store, models, databases, address) stays as it was until the next start, and is said to.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from agentmesh.core.mesh import Mesh, MeshFile
from agentmesh.core.source import Source
from agentmesh.engine.changes import Changes
from agentmesh.engine.scheduler import Scheduler
from agentmesh.engine.sources import Sources
from agentmesh.errors import Fault, ProjectError

log = logging.getLogger("agentmesh")
MESH_FILE: Final = "agentmesh.yaml"
KEPT: Final = ("name", "store", "url", "models", "databases")
"""Keys of agentmesh.yaml that a process is built around."""


@dataclass(frozen=True, slots=True)
class FilesState:
    """How the files in the folder are to what is served."""

    revision: int = 0
    """How often other files were taken over."""
    at: float | None = None
    """When they were last; None: as they were at the start."""
    faults: tuple[Fault, ...] = ()
    """Why what lies in the folder now is not served; none when it is."""
    restart: tuple[str, ...] = ()
    """What takes effect at the next start only, in plain words."""

    def to_json(self) -> dict[str, Any]:
        return {
            "revision": self.revision, "at": self.at, "faults": [str(fault) for fault in self.faults],
            "restart": list(self.restart),
        }  # fmt: skip


class Reload:
    """One for a mesh. `load`, `sources` and `look` are given by whoever reads files and opens sources; without `load` it does nothing."""

    def __init__(
        self, mesh: Mesh, sources: Sources, scheduler: Scheduler, changes: Changes, clock: Callable[[], float]
    ) -> None:
        self._mesh = mesh
        self._sources = sources
        self._scheduler = scheduler
        self._changes = changes
        self._clock = clock
        self._lock = anyio.Lock()
        self.state = FilesState()
        self.load: Callable[[], Mesh] | None = None
        """Reads and checks the folder; ProjectError. It blocks: it is called in a thread."""
        self.look: Callable[[Mesh], Sequence[str]] = lambda _: ()
        """What else keeps a mesh from being served, in plain words."""
        self.sources: Callable[[Mesh], Awaitable[Sequence[Source]]] | None = None
        """Opens the sources of a mesh; those that stay are the same objects. Waits for no network."""

    async def run(
        self, changed: Callable[[], Awaitable[None]], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Reads the files again each time that `changed` returns. Ends only by cancellation."""
        task_status.started()
        while True:
            await changed()
            await self.now()

    async def now(self) -> bool:
        """Reads the files now; whether what lies in the folder is served when it returns. Several at once wait for each other."""
        if self.load is None:
            return True
        async with self._lock:
            try:
                return await self._read_and_take(self.load)
            except ProjectError as error:
                return self._refuse(error.faults)
            except Exception as error:  # the files must never take the server down
                log.exception("the files could not be taken over")
                return self._refuse([Fault(MESH_FILE, 0, 0, f"the files could not be taken over: {error}")])

    async def follow(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Takes other sources each time that `changed` returns: agents were registered, or are no more. Ends only by cancellation."""
        while True:
            await changed()
            try:
                await self.renew()
            except Exception:
                log.exception("the agents that are registered now could not be taken over")

    async def renew(self) -> None:
        """Takes the sources that the mesh as it is has now: others may be registered."""
        if self.sources is None:
            return
        async with self._lock:
            sources = await self.sources(self._mesh)
            if list(map(id, sources)) != list(map(id, self._sources.all())):
                self._sources.replace(sources)

    async def _read_and_take(self, load: Callable[[], Mesh]) -> bool:
        new = await anyio.to_thread.run_sync(load)
        kept = {key: getattr(self._mesh.file, key) for key in KEPT}
        restart = _restart(self._mesh.file, new.file)
        faults = [Fault(MESH_FILE, 0, 0, said) for said in (*_not_there_yet(self._mesh, new), *self.look(new))]
        if faults:
            return self._refuse(faults)
        new = replace(new, file=new.file.model_copy(update=kept))
        for said in restart:
            if said not in self.state.restart:
                log.warning("%s", said)
        self.state = replace(self.state, faults=(), restart=restart)
        return new == self._mesh or await self._take_over(new)

    async def _take_over(self, new: Mesh) -> bool:
        sources = None
        if self.sources is not None:
            sources = await self.sources(new)
        told = list(_told(self._mesh, new))
        # From here to the end nothing is awaited: nobody sees the new files with the old sources.
        self._mesh.adopt(new)
        if sources is not None and list(map(id, sources)) != list(map(id, self._sources.all())):
            self._sources.replace(sources)
        self._scheduler.wake()
        for change in told:
            self._changes.publish(change)
        self.state = replace(self.state, revision=self.state.revision + 1, at=self._clock())
        log.info("other files are served now: %s", _summary(new))
        return True

    def _refuse(self, faults: Sequence[Fault]) -> bool:
        if tuple(faults) != self.state.faults:
            shown = "\n".join(f"  {fault}" for fault in faults[:20])
            log.error("the files have changed and have faults; what was served before goes on:\n%s", shown)
        self.state = replace(self.state, faults=tuple(faults))
        return False


def _restart(old: MeshFile, new: MeshFile) -> tuple[str, ...]:
    return tuple(
        f"`{key}` of agentmesh.yaml has changed; it takes effect at the next start"
        for key in KEPT
        if getattr(old, key) != getattr(new, key)
    )


def _not_there_yet(old: Mesh, new: Mesh) -> Iterator[str]:
    """Models and databases that the new files use and that this process does not have."""
    for kind, key in (("models", "model"), ("databases", "database")):
        fresh = getattr(new.file, kind).keys() - getattr(old.file, kind).keys()
        used = fresh & set(_named(new, key)) if fresh else set()
        if kind == "models" and new.file.default_model in fresh:
            used |= {new.file.default_model}
        for name in sorted(used):
            yield f"the {key} {name!r} is new and in use, and there is none before the next start: restart to serve these files"


def _named(mesh: Mesh, key: str) -> Iterator[str]:
    """What stands under a key, anywhere in workflows and tools."""
    waiting: list[Any] = [
        part.model_dump(mode="json", by_alias=True, exclude_unset=True)
        for part in (*mesh.workflows.values(), *mesh.specs.values())
    ]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if isinstance(value.get(key), str):
                yield value[key]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _told(old: Mesh, new: Mesh) -> Iterator[Any]:
    """The lists that callers may find changed."""
    rules = old.policies != new.policies
    if rules or old.tools != new.tools or old.servers != new.servers or old.file.mcp != new.file.mcp:
        yield "tools"
    if rules or old.prompts != new.prompts:
        yield "prompts"
    if rules or old.resources != new.resources or old.workflows != new.workflows:
        yield "resources"


def _summary(mesh: Mesh) -> str:
    counts = {
        "workflows": mesh.workflows, "tools": mesh.tools, "resources": mesh.resources, "prompts": mesh.prompts,
        "policies": mesh.policies,
    }  # fmt: skip
    return ", ".join(f"{len(things)} {name}" for name, things in counts.items() if things) or "nothing"
