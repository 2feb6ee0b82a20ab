"""Worker: claims runs, executes them, and says that it is alive."""

from __future__ import annotations

import logging
import random as random_
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from types import MappingProxyType

import anyio
from anyio.abc import TaskGroup, TaskStatus

from agentmesh.core.outside import Cluster, Databases, HttpClient
from agentmesh.core.run import Kind
from agentmesh.core.store import Claim, Store
from agentmesh.engine.bus import Bus
from agentmesh.engine.changes import Changes
from agentmesh.engine.definitions import Definitions
from agentmesh.engine.execution import Bench, Execution
from agentmesh.engine.guard import Guard
from agentmesh.engine.journal import Journal
from agentmesh.engine.models import Models
from agentmesh.engine.perform import perform
from agentmesh.engine.runs import Runs
from agentmesh.engine.sources import Sources
from agentmesh.engine.tools import Tools
from agentmesh.errors import StoreError

log = logging.getLogger("agentmesh.engine")
POLL = 1.0
"""Seconds between claims when nobody in this process started a run: for runs whose worker died, or of another process."""
AGAIN = 0.05
"""Seconds at least between claims that nobody asked for."""
QUICK = 4
"""Runs at once up to which each is claimed as it is recorded, one commit sooner. Past it, claiming many together costs half as much."""
PROBE_EVERY = 1.0
PROBE_TIMEOUT = 2.0
"""Seconds between the writes by which `ready` finds out whether the store works, and what each may take."""
PATIENCE = 0.005
"""Seconds for which rows that nobody here waits for may be held back: an agent elsewhere tells a short task in several events."""
GRACE = 5.0
"""Seconds that steps in flight get when the worker stops."""


class Worker:
    """Executes runs of this process. Also carries the store's changes to watchers, so it must run for watch() to hear them."""

    def __init__(
        self, store: Store, definitions: Definitions, runs: Runs, tools: Tools, models: Models, guard: Guard, bus: Bus,
        *, clock: Callable[[], float], random: random_.Random, sleep: Callable[[float], Awaitable[None]],
        name: str, concurrency: int, lease: float, heartbeat: float,
        http: HttpClient | None = None, databases: Databases | None = None, cluster: Cluster | None = None,
        secrets: Mapping[str, str] = MappingProxyType({}), sources: Sources | None = None, at_once: Callable[[], Mapping[str, int]] = dict,
    ) -> None:  # fmt: skip
        self.name = name
        self._store = store
        self._bus = bus
        self._concurrency = concurrency
        self._lease = lease
        self._heartbeat = heartbeat
        self._active: dict[str, Execution] = {}
        self._clock = clock
        self._limits = at_once
        self._extended = clock()
        """When the leases were extended last, by the clock."""
        self._trouble: str | None = None
        self._unwritten: str | None = None
        """Why the last probe could not be written."""
        self._probed = -PROBE_EVERY
        self._roots = 0
        """Places taken, by runs that no step started."""
        self._full = False
        """Somebody may be waiting in the store for a place."""
        self._unsent: dict[Journal, None] = {}
        self._something_unsent = anyio.Event()
        self._patient: dict[Journal, None] = {}
        self._something_patient = anyio.Event()
        self.push_address: Callable[[str], tuple[str, str] | None] = lambda _: None
        """Where an agent elsewhere may send word of a run's task: (URL, token)."""
        self._stopping = anyio.Event()
        self._idle = anyio.Event()
        self._tasks: TaskGroup
        self._bench = Bench(
            store, definitions, runs, tools, models, guard, bus, random, clock, sleep,
            adopt=self._adopt, stopping=self._stopping.is_set, perform=perform,
            later=self._send_later, unhurried=self._send_unhurried, http=http, databases=databases, cluster=cluster,
            secrets=secrets, sources=sources or Sources((), Changes()), push_address=self._push_address,
        )  # fmt: skip

    def _push_address(self, run_id: str) -> tuple[str, str] | None:
        return self.push_address(run_id)

    @property
    def _at_once(self) -> Mapping[str, int] | None:
        """How many runs of a workflow may be executed at once, for those that have a limit by now."""
        return self._limits() or None

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """The loop. Returns after `stop`; when cancelled, gives its runs back to the store first."""
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._carry, self._store.changes())
            self._tasks.start_soon(self._look_for_cancels)
            self._tasks.start_soon(self._say_alive)
            self._tasks.start_soon(self._send)
            self._tasks.start_soon(self._send_patient)
            self._bus.claimer = self._place_for
            task_status.started()
            try:
                await self._claim_until_stopped()
            finally:
                self._bus.claimer = None
            with anyio.move_on_after(GRACE):
                while self._active:
                    self._idle = anyio.Event()
                    await self._idle.wait()
            self._tasks.cancel_scope.cancel()

    def stop(self) -> None:
        """Claims nothing more, gives steps in flight a moment, then lets `run` return. May be called twice, or before `run`."""
        self._stopping.set()
        self._bus.started()

    def nudge(self) -> None:
        """Looks at once for runs whose time has come: the clock was moved, or another process said so."""
        self._bus.started()

    def trouble(self) -> str | None:
        """What the store said when it failed last; None when it has done its work since."""
        return self._trouble

    async def ready(self) -> str | None:
        """What keeps the store from its work; None when it took a write within the last second. Answers within two seconds.

        A full disk is noticed by writing only, and nobody may be writing now.
        """
        now = anyio.current_time()
        if now - self._probed >= PROBE_EVERY:
            self._probed = now
            try:
                with anyio.fail_after(PROBE_TIMEOUT):
                    await self._store.put("health", "probe", self._clock())
                self._unwritten = None
            except StoreError as error:
                self._unwritten = error.message
            except TimeoutError:
                self._unwritten = f"it did not take a write within {PROBE_TIMEOUT:g} s"
        return self._trouble or self._unwritten

    @property
    def active(self) -> int:
        """Runs that are executed now, children counted in."""
        return len(self._active)

    async def _claim_until_stopped(self) -> None:
        while not self._stopping.is_set():
            self._bus.take_started()
            free = self._concurrency - self._roots
            pause = POLL
            if free > 0:
                try:
                    if self._clock() - self._extended > self._heartbeat:
                        # The clock was set forward, or this process stood still: what it works on must not look given up to itself.
                        await self._extend_leases()
                    claims = await self._store.claim(self.name, limit=free, lease=self._lease, at_once=self._at_once)
                    for claim in claims:
                        free -= claim.run.parent is None
                        self._begin(claim)
                    if claims:
                        pause = AGAIN  # more may be due by then; when nothing was, the next timer is asked for
                    elif (due := await self._store.next_due()) is not None:
                        # What is due and was not to be had is another worker's, or waits for a place of its workflow.
                        pause = min(max(due - self._clock(), AGAIN), POLL)
                    self._trouble = None
                except StoreError as error:
                    if self._trouble is None:
                        log.exception("no run could be claimed; trying again every %s s", POLL)
                    self._trouble = error.message
            self._full = free <= 0
            with anyio.move_on_after(pause):
                await self._bus.wait_started()

    async def _adopt(self, run_id: str) -> None:
        """Claims a child run, if its time has come and nobody holds it."""
        if run_id not in self._active:
            for claim in await self._store.claim(
                self.name, limit=1, lease=self._lease, only=[run_id], at_once=self._at_once
            ):
                self._begin(claim)

    def _place_for(self, run_id: str, child: bool, workflow: str) -> Awaitable[None] | None:
        """See `Bus.claimer`."""
        if workflow in self._limits():
            return None  # the store counts them; the claim of all that is due asks it
        if child:
            return self._adopt_new(run_id, 0)
        if self._roots >= min(QUICK, self._concurrency):
            self._full = self._full or self._roots >= self._concurrency
            return None
        self._roots += 1  # the place is kept until the claim is in
        return self._adopt_new(run_id, 1)

    async def _adopt_new(self, run_id: str, kept: int) -> None:
        try:
            for claim in await self._store.claim(self.name, limit=1, lease=self._lease, only=[run_id]):
                if self._bus.claimer is not None:
                    self._begin(claim)
                else:  # the worker stopped meanwhile
                    await self._store.release(run_id, claim.epoch)
        except StoreError:
            log.exception("run %s could not be claimed; it is when the store answers again", run_id)
        finally:
            self._free_places(kept)

    def _free_places(self, count: int) -> None:
        self._roots -= count
        if self._full and self._roots < self._concurrency:
            self._full = False
            self._bus.started()

    def _begin(self, claim: Claim) -> None:
        execution = Execution(self._bench, claim)
        run = claim.run
        if (before := self._active.get(run.id)) is not None:
            before.lose()  # its lease was over before it could be extended: it holds an old epoch
        self._active[run.id] = execution
        self._roots += run.parent is None
        self._bus.own(run.id, run.parent, execution)
        self._tasks.start_soon(self._execute, execution, name=f"run {run.id}")

    async def _execute(self, execution: Execution) -> None:
        run = execution.run
        try:
            await execution.execute()
        except Exception:
            # The run's own failure is recorded by `execute`; what arrives here is ours, and must not take the worker down.
            log.exception("the execution of run %s broke; it goes on when its lease is over", run.id)
        finally:
            if self._active.get(run.id) is execution:
                del self._active[run.id]
                self._bus.disown(run.id)
            self._free_places(int(run.parent is None))
            if run.workflow in self._limits():
                self._bus.started()  # another of its kind may be waiting for the place
            if not self._active:
                self._idle.set()

    async def _carry(self, changes: AsyncIterator[str]) -> None:
        async for run_id in changes:
            self._bus.changed(run_id)
            execution = self._active.get(run_id)
            if execution is not None and execution.waits.any:
                with suppress(StoreError):  # whoever executes the run meets it, too
                    await execution.look()

    async def _look_for_cancels(self) -> None:
        """Stops what another process was asked to cancel. Here that is heard at once; there nobody knows who executes the run."""
        known: list[Execution] = []
        while True:
            await anyio.sleep(POLL)
            here = list(self._active.values())
            for execution in here:
                if execution in known:  # most runs end sooner, and are never asked about
                    with suppress(StoreError):
                        await self._cancel_if_asked(execution)
            known = here

    async def _cancel_if_asked(self, execution: Execution) -> None:
        run_id = execution.run.id
        head = await self._store.get_head(run_id)
        if head is None or not head.cancel_requested or head.state.terminal:
            return
        asked = (e for e in await self._store.entries(run_id) if e.kind is Kind.RUN_CANCEL_REQUESTED)
        by = next((str(e.payload.get("by")) for e in asked), head.owner)
        if self._active.get(run_id) is execution:
            execution.cancel(by)

    def _send_later(self, journal: Journal) -> None:
        self._unsent[journal] = None
        self._something_unsent.set()

    async def _send(self) -> None:
        """Sends what journals hold each time the loop comes round. What fails is told by the journal's next write that waits."""
        while True:
            await self._something_unsent.wait()
            self._something_unsent = anyio.Event()
            unsent, self._unsent = self._unsent, {}
            for journal in unsent:
                with suppress(StoreError):
                    await journal.flush()

    def _send_unhurried(self, journal: Journal) -> None:
        self._patient[journal] = None
        self._something_patient.set()

    async def _send_patient(self) -> None:
        """Sends a moment later what nobody here waits for: more of it is likely to come, or the end, which is written at once."""
        while True:
            await self._something_patient.wait()
            await anyio.sleep(PATIENCE)
            self._something_patient = anyio.Event()
            patient, self._patient = self._patient, {}
            for journal in patient:
                with suppress(StoreError):
                    await journal.flush()

    async def _say_alive(self) -> None:
        while True:
            await anyio.sleep(self._heartbeat)
            await self._extend_leases()

    async def _extend_leases(self) -> None:
        self._extended = self._clock()
        epochs = {run_id: execution.epoch for run_id, execution in self._active.items()}
        if not epochs:
            return
        try:
            lost = await self._store.heartbeat(self.name, epochs, lease=self._lease)
        except StoreError:
            log.exception("the leases of %d runs could not be extended", len(epochs))
            return
        for run_id in lost:
            execution = self._active.get(run_id)
            if execution is not None and execution.epoch == epochs[run_id]:
                execution.lose()
