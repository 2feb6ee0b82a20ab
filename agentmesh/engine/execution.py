"""Execution: one claimed run, taken from its last durable step to its end, and what is recorded of the end."""

from __future__ import annotations

import logging
import random as random_
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import anyio

from agentmesh.core.outside import Cluster, Databases, HttpClient
from agentmesh.core.policy import Action
from agentmesh.core.run import JSON, Entry, Kind, Run, RunState
from agentmesh.core.store import Claim, Store
from agentmesh.core.workflow import Step, seconds
from agentmesh.engine.budget import Budget
from agentmesh.engine.bus import Bus, Subscription
from agentmesh.engine.definitions import Definition, Definitions
from agentmesh.engine.faults import Leaving, StepFailed, error_of
from agentmesh.engine.guard import Guard
from agentmesh.engine.identity import principal_of
from agentmesh.engine.journal import Journal, Recorded
from agentmesh.engine.limit import UNLIMITED, Limit
from agentmesh.engine.models import Models
from agentmesh.engine.runs import LOOK_AGAIN, Runs
from agentmesh.engine.tools import Tools
from agentmesh.engine.walk import Walk
from agentmesh.errors import LeaseLost, MeshError, StoreError

log = logging.getLogger("agentmesh.engine")


@dataclass(frozen=True)
class Bench:
    """What every execution of one worker works with."""

    store: Store
    definitions: Definitions
    runs: Runs
    tools: Tools
    models: Models
    guard: Guard
    bus: Bus
    random: random_.Random
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    adopt: Callable[[str], Awaitable[None]]
    """Claims a child run and executes it beside its parent, whatever the worker's limit."""
    stopping: Callable[[], bool]
    perform: Callable[[Execution, Budget, Step, str, dict[str, JSON], Recorded], Awaitable[JSON]]
    """`engine.perform.perform`; a replay puts what the journal says in its place."""
    http: HttpClient | None = None
    databases: Databases | None = None
    cluster: Cluster | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


class Execution:
    """Executes one run under one epoch. Its `execute` is called once; `cancel` may be called at any time."""

    def __init__(self, bench: Bench, claim: Claim) -> None:
        self.bench = bench
        self.run = claim.run
        self.epoch = claim.epoch
        self.principal = principal_of(claim.run)
        self.journal = Journal(bench.store, claim.run.id, claim.epoch)
        self.definition: Definition
        self._children = {
            path: step.child for path, step in claim.run.steps.items() if step.child and not step.state.ended
        }
        self._scope = anyio.CancelScope()
        self._canceled_by: str | None = None

    def cancel(self, by: str) -> None:
        """Ends the run as canceled, in-flight work at once."""
        self._canceled_by = self._canceled_by or by
        self._scope.cancel()

    def lose(self) -> None:
        """Stops without a word: another worker owns the run."""
        self._scope.cancel()

    def notice(self, line: str) -> None:
        self.bench.bus.notice(self.run.id, line)

    def authorize(self, action: Action) -> None:
        self.bench.guard.authorize(self.principal, action)

    async def execute(self) -> None:
        """Returns when the run has ended, was given back or was lost. Cancelled: gives the run back first."""
        try:
            with self._scope:
                ending = await self._ending()
                await self._end(ending)
                return
            if self._canceled_by is not None:
                await self.cancel_children()
                await self._end(Entry(Kind.RUN_CANCELED, payload={"by": self._canceled_by}))
        except (Leaving, anyio.get_cancelled_exc_class()) as leaving:
            with anyio.CancelScope(shield=True):
                await self._give_back()
            if not isinstance(leaving, Leaving):
                raise
        except LeaseLost:
            log.info("run %s is another worker's now", self.run.id)
        except StoreError:
            log.exception("run %s stops here: the store failed; it goes on when its lease is over", self.run.id)

    async def _give_back(self) -> None:
        try:
            await self.journal.flush(wait=True)
            await self.bench.store.release(self.run.id, self.epoch)
        except StoreError as error:
            log.warning("run %s could not be given back: %s", self.run.id, error)

    async def _end(self, ending: Entry) -> None:
        state = _STATES[ending.kind]
        # Once the terminal entry is on its way nothing may cut in: it might be committed, and nobody told.
        with anyio.CancelScope(shield=True):
            await self.journal.write(ending, wait=True)
        payload = ending.payload
        self.bench.bus.ended(
            replace(self.run, state=state, output=payload.get("output"), error=payload.get("error"), steps={})
        )

    async def _ending(self) -> Entry:
        """Walks the run; the terminal entry."""
        if self.run.cancel_requested:
            await self.cancel_children()
            return Entry(Kind.RUN_CANCELED, payload={"by": self.run.owner})
        path = ""
        try:
            self.definition = await self.bench.definitions.load(self.run.definition)
            workflow = self.definition.workflow
            entries = await self.bench.store.entries(self.run.id) if self.run.steps else ()
            left = None
            if workflow.deadline is not None:
                left = self.run.created_at + seconds(workflow.deadline) - self.bench.clock()
            limit = UNLIMITED if left is None else Limit(left)
            with limit:
                output = await Walk(self, entries).to_the_end()
                return Entry(Kind.RUN_COMPLETED, payload={"output": output})
            assert limit.reached
            error: dict[str, JSON] = {
                "code": "deadline", "message": f"the run did not end within its deadline of {workflow.deadline}"
            }  # fmt: skip
        except StepFailed as failed:
            path = failed.path
            error = dict(failed.error)
        except (StoreError, Leaving):
            raise
        except MeshError as fault:
            error = error_of(fault)
        except Exception as fault:
            log.exception("run %s failed", self.run.id)
            error = error_of(fault)
        await self.cancel_children()
        return Entry(Kind.RUN_FAILED, payload={"error": {**error, "path": error.get("path") or path}})

    # Children

    async def wait_for_child(self, path: str, run_id: str, subscription: Subscription | None) -> Run:
        """The head of a child run when it has ended; executes it in this worker when nobody else does.

        `subscription`: made before the child was recorded, when this very attempt recorded it.
        """
        self._children[path] = run_id
        while True:
            if not self.bench.bus.owns(run_id) and (subscription is None or subscription.ended is None):
                if self.bench.stopping():
                    raise Leaving
                await self.bench.adopt(run_id)
            with anyio.move_on_after(LOOK_AGAIN):
                head = await self.bench.runs.end_of(run_id, subscription)
                del self._children[path]
                return head
            subscription = None  # from now on the store is asked as well

    async def cancel_children(self, *prefixes: str) -> None:
        """Cancels the child runs of steps whose path begins so; all when no prefix is given."""
        for path, child in list(self._children.items()):
            if not prefixes or path.startswith(prefixes):
                del self._children[path]
                with anyio.CancelScope(shield=True):
                    await self.bench.runs.request_cancel(child, f"run:{self.run.id}")


_STATES = {
    Kind.RUN_COMPLETED: RunState.COMPLETED,
    Kind.RUN_FAILED: RunState.FAILED,
    Kind.RUN_CANCELED: RunState.CANCELED,
}
