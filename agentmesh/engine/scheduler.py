"""Scheduler: starts workflows when their `cron` entries fall due, once for each instant, however many servers look.

What is kept, in the store under `schedule`: the last instant handled, the run it started, and the instants that wait for their turn.
A run is started under the key `cron:WORKFLOW:INDEX:INSTANT` before that is written, so that a crash between the two, a clock set back
or another server finds the run that is there instead of starting another. Before it decides, a scheduler reads what is kept: who
comes second finds the instant handled, and goes on from there. Pauses are kept too, and looked at every second.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Action, Principal
from agentmesh.core.run import Run
from agentmesh.core.schedule import instants
from agentmesh.core.store import Store
from agentmesh.engine.bus import Bus
from agentmesh.engine.cron import ON_TIME, QUEUE, Entry, iso
from agentmesh.engine.guard import Guard
from agentmesh.engine.identity import principal_for_cron
from agentmesh.engine.runs import Runs
from agentmesh.errors import InvalidInput, MeshError, NotFound, StoreError

log = logging.getLogger("agentmesh.engine")
SCOPE = "schedule"
PAUSED = "schedule.paused"
"""Scope of who paused which entry and when; a null says that it goes on."""
POLL = 1.0
"""Seconds: a pause, a clock set anew or a machine that slept is noticed so late at most."""
LONGEST_SLEEP = 60.0
"""Seconds that `tick` asks for at most."""
AT_ONCE = 64
"""Entries in hand at once when many fall due together: enough to share commits, few enough to leave the loop to others."""
LOOK_AGAIN = timedelta(seconds=10)
"""How often many queues are looked at when nobody says that a run has ended."""
SET_BACK = 1.0
"""Seconds by which a clock must go back to be taken for set back."""
BACKFILL = 1000
"""Runs that one backfill starts at most."""


class Scheduler:
    """Reads `on.cron` of the mesh's workflows."""

    def __init__(
        self,
        mesh: Mesh,
        store: Store,
        runs: Runs,
        bus: Bus,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._mesh = mesh
        self._store = store
        self._runs = runs
        self._bus = bus
        self._clock = clock
        self._sleep = sleep
        self._guard = Guard(mesh)
        self._entries = _entries_of(mesh)
        self._revision = mesh.revision
        self._heap: list[tuple[datetime, str]] = []
        """When which entry is due. An item that is not its entry's `due` any more is passed over."""
        self._running: dict[str, Entry] = {}
        """By the id of the run that an entry started last and that is not known to have ended."""
        self._ready: set[str] = set()
        """Entries whose queue may move."""
        self._queued: set[str] = set()
        """Entries that had a queue when they were handled last."""
        self._look_again = datetime.min.replace(tzinfo=UTC)
        self._paused: set[str] = set()
        self._seen = datetime.min.replace(tzinfo=UTC)
        self._loaded = False
        self._woken = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """The loop; ends only by cancellation."""
        with self._bus.on_end(self._on_end):
            task_status.started()
            trouble = False
            while True:
                self._woken = anyio.Event()
                if not self._entries and self._revision == self._mesh.revision:
                    await self._woken.wait()
                    continue
                try:
                    delay = await self.tick()
                except StoreError as error:
                    delay = POLL
                    if not trouble:
                        log.warning("the schedules cannot be read or kept (%s); trying again", error.message)
                    trouble = True
                else:
                    if trouble:
                        log.info("the schedules are read and kept again")
                    trouble = False
                await self._sleep_or_wake(min(delay, POLL))

    def wake(self) -> None:
        """Looks at once: the files may say something else."""
        self._woken.set()

    async def _sleep_or_wake(self, delay: float) -> None:
        async def nap() -> None:
            await self._sleep(delay)
            self._woken.set()

        async with anyio.create_task_group() as group:
            group.start_soon(nap)
            await self._woken.wait()
            group.cancel_scope.cancel()

    def _on_end(self, run_id: str) -> None:
        entry = self._running.pop(run_id, None)
        if entry is not None and entry.run == run_id:
            entry.ended = True
            if entry.queue:
                self._ready.add(entry.name)
                self._woken.set()

    async def tick(self) -> float:
        """Starts what is due by the clock; seconds until it wants to be called again."""
        now = self._now()
        if not self._loaded:
            await self._load(now)
        if self._revision != self._mesh.revision:
            await self._follow_files(now)
        await self._look_at_pauses(now)
        if self._seen - now > timedelta(seconds=SET_BACK):
            log.warning("the clock was set back by %s; schedules go on from there", self._seen - now)
            await self._plan(self._entries.values(), now)
        self._seen = now
        ready = [self._entries[name] for name in sorted(self._ready) if name in self._entries]
        self._ready.clear()
        while self._heap and self._heap[0][0] <= now:
            at, name = heapq.heappop(self._heap)
            if name in self._entries and self._entries[name].due == at:
                ready.append(self._entries[name])
        if ready:
            try:
                await self._handle_all(ready, now)
            finally:  # what the store refused is due still
                await self._plan(ready, now)
        wake = min(self._heap[0][0] if self._heap else now + timedelta(days=1), now + timedelta(seconds=LONGEST_SLEEP))
        # The run before may go on elsewhere, where nobody tells this process of its end.
        self._queued = {entry.name for entry in ready if entry.queue} | (self._queued - {e.name for e in ready})
        if len(self._queued) <= AT_ONCE or now >= self._look_again:
            self._ready |= self._queued
            self._look_again = now + LOOK_AGAIN
        return max((wake - now).total_seconds(), 0.0)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    async def _load(self, now: datetime) -> None:
        kept = await self._store.scan(SCOPE)
        fresh = []
        for entry in self._entries.values():
            if not entry.adopt(kept.get(entry.name)):
                entry.last = now  # a new entry, or another line: nothing before now is meant
                fresh.append(entry)
            elif entry.queue:
                self._ready.add(entry.name)
        await self._plan(self._entries.values(), now)
        await self._each(fresh, self._keep)
        self._loaded = True

    async def _follow_files(self, now: datetime) -> None:
        """Takes the entries that the files have by now; one whose words are the same goes on as it was."""
        revision, found, new = self._mesh.revision, _entries_of(self._mesh), []
        for name, entry in found.items():
            known = self._entries.get(name)
            if known is not None and known.schedule == entry.schedule:
                found[name] = known
            else:
                new.append(entry)
        kept = await self._store.scan(SCOPE) if new else {}
        fresh = []
        for entry in new:
            if not entry.adopt(kept.get(entry.name)):
                entry.last = now  # as in `_load`: nothing before now is meant
                fresh.append(entry)
        await self._each(fresh, self._keep)
        same = {entry.name for entry in found.values()} - {entry.name for entry in new}
        self._entries = found
        self._running = {run: entry for run, entry in self._running.items() if entry.name in same}
        for names in (self._ready, self._queued, self._paused):
            names &= same
        self._ready |= {entry.name for entry in new if entry.queue}
        await self._plan(new, now)
        self._revision = revision

    async def _plan(self, entries: Iterable[Entry], now: datetime) -> None:
        for n, entry in enumerate(entries):
            entry.plan(now)
            if entry.due is not None:
                heapq.heappush(self._heap, (entry.due, entry.name))
            if n % AT_ONCE == AT_ONCE - 1:
                await anyio.lowlevel.checkpoint()

    async def _look_at_pauses(self, now: datetime) -> None:
        kept = await self._store.scan(PAUSED)
        paused = {name for name, by in kept.items() if by is not None and name in self._entries}
        for name in self._paused ^ paused:
            entry = self._entries[name]
            entry.paused = name in paused
            if not entry.paused:
                entry.last = now  # what fell into the pause is not caught up
                await self._plan([entry], now)
                if entry.queue:
                    self._ready.add(name)
        self._paused = paused

    async def _each(self, entries: Sequence[Entry], act: Callable[[Entry], Awaitable[None]]) -> None:
        """`act` on every entry, several at once. A StoreError is raised when all have been tried."""
        todo = iter(entries)
        failure: StoreError | None = None

        async def some() -> None:
            nonlocal failure
            for entry in todo:
                try:
                    await act(entry)
                except StoreError as error:
                    failure = error

        async with anyio.create_task_group() as group:
            for _ in range(min(AT_ONCE, len(entries))):
                group.start_soon(some)
        if failure is not None:
            raise failure

    async def _handle_all(self, entries: Sequence[Entry], now: datetime) -> None:
        known = await self._store.scan(SCOPE) if len(entries) > AT_ONCE else None

        async def handle(entry: Entry) -> None:
            kept = await self._store.get(SCOPE, entry.name) if known is None else known.get(entry.name)
            await self._handle(entry, kept, now)

        await self._each(list(dict.fromkeys(entries)), handle)

    async def _handle(self, entry: Entry, kept: Any, now: datetime) -> None:
        if entry.paused:
            entry.last = now
            return
        self._catch_up_with(entry, kept, now)
        before, last = entry.to_json(), entry.last
        skipped = False
        try:
            busy = running = await self._busy(entry)
            for instant, missed in entry.take(now):
                behind = (
                    entry.schedule.catch_up == "all" and not running
                )  # it is queued behind those that were missed, like them
                if missed or behind or entry.schedule.overlap != "skip" or not busy:
                    if dropped := entry.wait(instant):
                        log.warning("%s: %d instants are dropped, more than %d wait", entry.name, dropped, QUEUE)
                    busy = busy or entry.schedule.overlap == "skip"
                else:
                    skipped = True
                    log.info("%s: %s is skipped, the run before goes on", entry.name, iso(instant))
            while entry.queue and (entry.schedule.overlap == "allow" or not await self._busy(entry)):
                await self._start(entry, entry.queue[0])
                del entry.queue[0]
            if skipped:
                # Another server may have found the run before ended, and started one that must not be forgotten.
                self._catch_up_with(entry, await self._store.get(SCOPE, entry.name), now)
            if entry.to_json() != before:
                await self._keep(entry)
        except StoreError:  # all of it once more; what was started is found by its key
            entry.last, entry.queue = last, [datetime.fromisoformat(instant) for instant in before["queue"]]
            raise

    def _catch_up_with(self, entry: Entry, kept: Any, now: datetime) -> None:
        """Takes over what another server has kept since this one looked; not what a clock that goes ahead has."""
        if isinstance(kept, Mapping) and entry.last is not None:
            last = datetime.fromisoformat(kept["last"])
            if entry.last < last <= now + timedelta(seconds=ON_TIME) or (entry.last == last and kept["run"]):
                entry.adopt(kept)

    async def _keep(self, entry: Entry) -> None:
        await self._store.put(SCOPE, entry.name, entry.to_json())

    async def _busy(self, entry: Entry) -> bool:
        if entry.run is None or entry.ended:
            return False
        run = await self._store.get_head(entry.run)
        entry.ended = run is None or run.state.terminal
        return not entry.ended

    async def _start(self, entry: Entry, instant: datetime) -> None:
        try:
            run = await self._begin(entry, instant)
        except StoreError:
            raise
        except MeshError as error:
            entry.error = error.message
            log.warning("%s could not be started for %s: %s", entry.name, iso(instant), error.message)
        else:
            self._running.pop(entry.run or "", None)
            entry.run, entry.ended, entry.error = run.id, run.state.terminal, None
            if not entry.ended:
                self._running[run.id] = entry

    async def _begin(self, entry: Entry, instant: datetime) -> Run:
        return await self._runs.start(
            principal_for_cron(entry.workflow), entry.workflow, dict(entry.schedule.input), key=entry.key(instant),
            source="cron",
        )  # fmt: skip

    # What people ask for

    async def pause(self, principal: Principal, workflow: str, index: int) -> dict[str, Any]:
        """Nothing is started for the entry until `resume`, by no server, over restarts. Its `status`. PolicyDenied, NotFound."""
        entry = self._entry(principal, workflow, index)
        if not entry.paused:
            await self._store.put(PAUSED, entry.name, {"at": iso(self._now()), "by": principal.subject})
            entry.paused = True
            self._paused.add(entry.name)
        return self._shown(entry, self._now())

    async def resume(self, principal: Principal, workflow: str, index: int) -> dict[str, Any]:
        """Goes on with the next instant; those that fell into the pause are not caught up (see `backfill`)."""
        entry = self._entry(principal, workflow, index)
        now = self._now()
        if await self._store.get(PAUSED, entry.name) is not None:
            kept = await self._store.get(SCOPE, entry.name) or entry.to_json()
            await self._store.put(SCOPE, entry.name, {**kept, "last": iso(now)})
            await self._store.put(PAUSED, entry.name, None)
        return {**self._shown(entry, now), "paused": False}

    async def backfill(
        self,
        principal: Principal,
        workflow: str,
        index: int,
        *,
        since: float,
        until: float | None = None,
        limit: int = 100,
    ) -> dict[str, Any]:
        """Starts a run for each instant from `since` to before `until` (now when None), oldest first, at most `limit`.

        Under the keys of the schedule's own runs, so that an instant that has a run is not run twice. Whether the entry is paused or
        runs overlap does not matter; the workflow's `concurrency` does. {runs: [{instant, run, state, new}], next}: `next` is the
        first instant that `limit` left out. NotFound, PolicyDenied (runs.start), InvalidInput.
        """
        entry = self._entry(principal, workflow, index, "runs.start")
        now = self._clock()
        until = now if until is None else until
        if until > now:
            raise InvalidInput("a backfill ends now at the latest: later instants are the schedule's own")
        if since >= until:
            raise InvalidInput(f"the backfill is empty: it begins at {_said(since)} and ends at {_said(until)}")
        if not 1 <= limit <= BACKFILL:
            raise InvalidInput(f"one backfill starts from 1 to {BACKFILL} runs, not {limit}")
        # `since` itself counts when it is an instant.
        after, end = _utc(since) - timedelta(microseconds=1), _utc(until)
        found = list(islice(instants(entry.schedule.schedule, entry.zone, after), limit + 1))
        found = [instant for instant in found if instant < end]
        shown = []
        for instant in found[:limit]:
            began = self._clock()
            run = await self._begin(entry, instant)
            new = run.created_at >= began and run.seq <= 1
            shown.append({"instant": iso(instant), "run": run.id, "state": run.state.value, "new": new})
        return {"runs": shown, "next": iso(found[limit]) if len(found) > limit else None}

    def _entry(self, principal: Principal, workflow: str, index: int, verb: str = "admin.write") -> Entry:
        entry = self._entries.get(f"{workflow}:{index}")
        if entry is None:
            there = sum(other.workflow == workflow for other in self._entries.values())
            if workflow not in self._mesh.workflows:
                raise NotFound(f"there is no workflow {workflow!r} in this mesh")
            has = f"it has {there}, counted from 0" if there else "it has none"
            raise NotFound(f"workflow {workflow!r} has no schedule {index}; {has}")
        self._guard.authorize(principal, Action(verb, f"workflow:{workflow}", dict(entry.schedule.input)))
        return entry

    def status(self, principal: Principal | None = None) -> list[dict[str, Any]]:
        """For each entry: workflow, index, schedule, timezone, overlap, catch_up, next and last instant (ISO), last run's id.

        Of the workflows whose runs the principal may list; None sees all.
        """
        now = self._now()
        seen = {
            name
            for name in {entry.workflow for entry in self._entries.values()}
            if principal is None or self._guard.allows(principal, Action("runs.list", f"workflow:{name}", listing=True))
        }
        return [self._shown(entry, now) for entry in self._entries.values() if entry.workflow in seen]

    def _shown(self, entry: Entry, now: datetime) -> dict[str, Any]:
        following = entry.next
        if following is None or following <= now:
            following = next(instants(entry.schedule.schedule, entry.zone, now), None)
        return {
            "workflow": entry.workflow,
            "index": entry.index,
            "schedule": entry.schedule.schedule,
            "timezone": entry.schedule.timezone,
            "overlap": entry.schedule.overlap,
            "catch_up": entry.schedule.catch_up,
            "jitter": entry.schedule.jitter,
            "next": None if following is None else iso(following),
            # Until something was run, `last` is only the moment from which on instants count.
            "last": iso(entry.last.replace(microsecond=0)) if entry.last and (entry.run or entry.error) else None,
            "run": entry.run,
            "waiting": len(entry.queue),
            "paused": entry.paused,
            "error": entry.error,
        }


def _entries_of(mesh: Mesh) -> dict[str, Entry]:
    """An entry for each line of `on.cron`, by name."""
    return {
        entry.name: entry
        for workflow in mesh.workflows.values()
        for entry in (
            Entry(workflow.name, index, schedule, ZoneInfo(schedule.timezone))
            for index, schedule in enumerate(workflow.on.cron)
        )
    }


def _utc(at: float) -> datetime:
    try:
        return datetime.fromtimestamp(at, UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidInput(f"{at!r} is no moment in Unix seconds that a calendar has") from None


def _said(at: float) -> str:
    return iso(_utc(at))
