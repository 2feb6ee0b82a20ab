"""History: what can be done with runs after the fact: replay, fork, compare, export, import, prune."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import anyio.to_thread

from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Action, Principal
from agentmesh.core.run import JSON, Kind, Run
from agentmesh.core.store import Store
from agentmesh.core.workflow import seconds
from agentmesh.engine import export, fork
from agentmesh.engine.bus import Bus
from agentmesh.engine.definitions import Definition, Definitions, steps_of
from agentmesh.engine.difference import Side, compare
from agentmesh.engine.export import Exported
from agentmesh.engine.guard import Guard, owns, resource_of
from agentmesh.engine.journal import COPIED
from agentmesh.engine.models import Models
from agentmesh.engine.replay import Replayed, replay
from agentmesh.engine.runs import Runs
from agentmesh.engine.validators import require_input
from agentmesh.errors import Conflict, Fail, InvalidInput, MeshError, NotFound, TooLarge

log = logging.getLogger("agentmesh.engine")
MOST_RUNS = 10_000
"""Children, grandchildren and so on that one export or replay takes in."""
PRUNED_AT_ONCE = 500
HOUR = 3600.0
"""Seconds between two looks for runs that have been kept long enough."""


class History:
    """Runs of somebody else are NotFound, as are those that never were."""

    def __init__(
        self, mesh: Mesh, store: Store, runs: Runs, definitions: Definitions, models: Models, guard: Guard,
        bus: Bus, *, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._mesh = mesh
        self._store = store
        self._runs = runs
        self._definitions = definitions
        self._models = models
        self._guard = guard
        self._bus = bus
        self._clock = clock

    async def replay(self, principal: Principal, run_id: str, *, children: bool = False) -> Replayed:
        """Walks the run again from its journal; see `engine.replay`. `children`: those of its steps too."""
        run = await self._runs.get(principal, run_id)
        found = await replay(run, await self._store.entries(run_id), await self._definition(run))
        if not children:
            return found
        below = [one for one in await self._family(run) if one.run.id != run_id]
        return replace(found, children=tuple([await self._again(one) for one in below]))

    async def _again(self, one: Exported) -> Replayed:
        return await replay(one.run, one.entries, await self._definition(one.run))

    async def fork(
        self,
        principal: Principal,
        run_id: str,
        *,
        from_step: str | None = None,
        input: JSON = None,
        changes: Mapping[str, Mapping[str, JSON]] | None = None,
        today: bool = False,
        key: str | None = None,
        source: str = "api",
    ) -> Run:
        """A new run that begins after copies of the steps before `from_step` (None: at the first), with what is given changed.

        `input` None: the same. `changes`: of `llm` steps, {step: {prompt, system, model, temperature, max_tokens, seed}}. `today`: by the
        mesh's files as they are now, else by the definition the run was pinned to. The run is durable when this returns; it has an id and
        idempotency keys of its own, and does nothing again that was kept. Needs runs.start, and models.chat where a prompt or model is
        changed. Conflict when a kept step has not ended, or was undone.
        """
        run = await self._runs.get(principal, run_id)
        given = run.input if input is None else input
        self._guard.authorize(principal, Action("runs.start", resource_of(run.workflow), given))
        definition = self._definitions.pin(run.workflow) if today else await self._definition(run)
        if changes:
            states = self._models.status()
            revisions = {name: states[name].revision if name in states else "" for name in self._mesh.file.models}
            definition = fork.changed(definition, changes, revisions)
            for step in steps_of(definition.workflow):
                if step.id in changes and step.llm is not None:  # who words a prompt asks the model
                    model = self._models.name(step.llm.model or definition.default_model)
                    self._guard.authorize(principal, Action("models.chat", f"model:{model}"))
        require_input(definition.workflow.input, given)
        keep = fork.kept_steps(definition.workflow, from_step)
        fork.same_steps(definition.workflow, keep)
        entries = fork.kept_entries(run_id, await self._store.entries(run_id), keep)
        asked = Run(
            id=self._runs.new_id(), workflow=run.workflow, definition=definition.digest, input=given,
            owner=principal.subject, tenant=principal.tenant, source=source, key=key, forked_from=run_id,
            context_id=run.context_id, message=run.message, created_at=self._clock(),
        )  # fmt: skip
        started, new = await self._store.start_run(asked, definition.document, entries=entries)
        if not new and (not owns(principal, started) or _what(started) != _what(asked)):
            raise Conflict(
                f"the key {key!r} was used for another run; use a new key, or fork the same run in the same way"
            )
        self._bus.started()
        return started

    async def diff(self, principal: Principal, a: str, b: str) -> dict[str, JSON]:
        """What changed from run `a` to run `b`; see `engine.difference`."""
        sides: list[Side] = []
        for run_id in (a, b):
            run = await self._runs.get(principal, run_id)
            sides.append(Side(run, await self._store.get_definition(run.definition)))
        one, other = sides
        return await anyio.to_thread.run_sync(compare, one, other)

    async def export(self, principal: Principal, run_id: str) -> bytes:
        """The run, its journal and definition and those of its children as one file; see `engine.export`."""
        run = await self._runs.get(principal, run_id)
        family = await self._family(run)
        return await anyio.to_thread.run_sync(lambda: export.pack(export.to_document(family)))

    async def import_(self, principal: Principal, content: bytes) -> Run:
        """Records the runs of an exported file as they were. Conflict when one is there already, or has not ended.

        Needs `admin.write`: what a file says of owners is taken as it stands.
        """
        self._guard.authorize(principal, Action("admin.write", "run:*"))
        runs = await anyio.to_thread.run_sync(lambda: export.read(export.unpack(content)))
        for one in runs:
            if not one.run.state.terminal:
                raise Conflict(
                    f"run {one.run.id} had not ended when it was exported; `agentmesh runs replay FILE` shows where it stood"
                )
            if await self._store.get_head(one.run.id) is not None:
                raise Conflict(f"run {one.run.id} is in this mesh already")
        for one in runs:  # the parent first: a child's end looks for it
            rest = [entry for entry in one.entries if entry.kind is not Kind.RUN_SUBMITTED]
            await self._store.start_run(
                replace(one.run, key=None, tenant=principal.tenant), one.definition, entries=rest
            )
        return (await self._store.get_run(runs[0].run.id)) or runs[0].run

    async def prune(self, principal: Principal, older_than: float) -> int:
        """Removes runs of the principal's tenant that ended more than so many seconds ago; how many. Needs `admin.write`."""
        self._guard.authorize(principal, Action("admin.write", "run:*"))
        if older_than < 0:
            raise InvalidInput("runs that end in the future cannot be pruned; give an age such as 30d")
        return await self._prune(older_than, principal.tenant)

    async def keep_pruned(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Removes what `retention` of agentmesh.yaml says has been kept long enough, every hour; returns at once when it says nothing.

        Several servers on one store may all do it.
        """
        retention = self._mesh.file.retention
        if retention is None:
            return
        age = seconds(retention)
        while True:
            try:
                if removed := await self._prune(age, None):
                    log.info("%d runs that ended more than %s ago were removed", removed, retention)
            except MeshError as error:
                log.warning("old runs could not be removed: %s; trying again in an hour", error)
            await sleep(HOUR)

    async def _prune(self, age: float, tenant: str | None) -> int:
        before, removed = self._clock() - age, 0
        while count := await self._store.prune(before, tenant=tenant, limit=PRUNED_AT_ONCE):
            removed += count
            await anyio.lowlevel.checkpoint()  # others write between two batches
        return removed

    async def _definition(self, run: Run) -> Definition:
        try:
            return await self._definitions.load(run.definition)
        except Fail as error:
            raise NotFound(error.message) from None

    async def _family(self, run: Run) -> list[Exported]:
        """The run and every run that its steps started, breadth first."""
        found: list[Exported] = []
        waiting, seen = deque([run]), {run.id}
        while waiting:
            one = waiting.popleft()
            document: Mapping[str, Any] | None = await self._store.get_definition(one.definition)
            if document is None:
                raise NotFound(
                    f"the definition {one.definition[:12]} that run {one.id} is pinned to is not in the store"
                )
            entries = await self._store.entries(one.id)
            found.append(Exported(one, tuple(entries), document))
            for entry in entries:
                if entry.kind is not Kind.STEP_CHILD or COPIED in entry.payload:
                    continue
                child_id = entry.payload["run"]
                if child_id not in seen and (child := await self._store.get_run(child_id)) is not None:
                    seen.add(child_id)
                    waiting.append(child)
            if len(found) + len(waiting) > MOST_RUNS:
                raise TooLarge(f"run {run.id} has more than {MOST_RUNS:,} runs below it; export them one by one")
        return found


def _what(run: Run) -> tuple[JSON, ...]:
    """What a key stands for."""
    return run.forked_from, run.definition, run.input
