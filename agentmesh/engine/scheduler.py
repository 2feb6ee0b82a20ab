"""Scheduler: starts workflows when their `cron` entries fall due, once for each instant.

What is kept, in the store under `schedule`: the last instant handled, the run it started, and the instants that wait for their turn.
A run is started under the key `cron:WORKFLOW:INDEX:INSTANT` before that is written, so that a crash between the two, a clock set back
or a second server finds the run that is there instead of starting another.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import anyio
from anyio.abc import TaskStatus
from cronsim import CronSim

from agentmesh.core.mesh import Mesh
from agentmesh.core.store import Store
from agentmesh.core.workflow import Schedule, seconds
from agentmesh.engine.bus import Bus
from agentmesh.engine.identity import principal_for_cron
from agentmesh.engine.runs import Runs
from agentmesh.errors import MeshError, StoreError

log = logging.getLogger("agentmesh.engine")
SCOPE = "schedule"
ON_TIME = 60.0
"""Seconds after which an instant counts as missed, and `catch_up` decides."""
LONGEST_SLEEP = 60.0
"""Seconds: a clock that is set forward, or a machine that slept, is noticed so late at most."""
QUEUE = 1000
"""Instants of one entry that may wait for their turn; past it the oldest are dropped."""


@dataclass(slots=True)
class _Entry:
    """One `cron` entry and where it stands."""

    workflow: str
    index: int
    schedule: Schedule
    zone: ZoneInfo
    last: datetime | None = None
    """The last instant handled, in UTC."""
    next: datetime | None = None
    """The first instant after the clock's last reading; None: to be computed."""
    run: str | None = None
    queue: list[datetime] = field(default_factory=list)
    error: str | None = None

    @property
    def name(self) -> str:
        return f"{self.workflow}:{self.index}"

    def to_json(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule.schedule,
            "timezone": self.schedule.timezone,
            "last": None if self.last is None else iso(self.last),
            "run": self.run,
            "queue": [iso(instant) for instant in self.queue],
        }


def iso(instant: datetime) -> str:
    """`2026-11-22T16:45:00Z`."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def instants(schedule: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The instants of a cron line after `after`, in UTC. A line that fires at a wall time fires once when clocks go back."""
    for local in CronSim(schedule, after.astimezone(zone)):
        yield local.astimezone(UTC)


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
        self._store = store
        self._runs = runs
        self._bus = bus
        self._clock = clock
        self._sleep = sleep
        self._entries = [
            _Entry(workflow.name, index, schedule, ZoneInfo(schedule.timezone))
            for workflow in mesh.workflows.values()
            for index, schedule in enumerate(workflow.on.cron)
        ]
        self._loaded = False
        self._woken = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """The loop; ends only by cancellation."""
        with self._bus.on_end(self._on_end):
            task_status.started()
            while self._entries:
                self._woken = anyio.Event()
                try:
                    delay = await self.tick()
                except StoreError:
                    log.exception("the schedules could not be read or kept; trying again")
                    delay = 1.0
                await self._sleep_or_wake(delay)

    async def _sleep_or_wake(self, delay: float) -> None:
        async def nap() -> None:
            await self._sleep(delay)
            self._woken.set()

        async with anyio.create_task_group() as group:
            group.start_soon(nap)
            await self._woken.wait()
            group.cancel_scope.cancel()

    def _on_end(self, run_id: str) -> None:
        if any(entry.queue and entry.run == run_id for entry in self._entries):
            self._woken.set()

    async def tick(self) -> float:
        """Starts what is due by the clock; seconds until it wants to be called again."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        if not self._loaded:
            kept = await self._store.scan(SCOPE)
            for entry in self._entries:
                await self._load(entry, kept.get(entry.name), now)
            self._loaded = True
        wake = now + timedelta(seconds=LONGEST_SLEEP)
        for entry in self._entries:
            assert entry.last is not None
            if entry.queue or entry.next is None or now >= entry.next or now < entry.last:
                await self._handle(entry, now)
                entry.next = next(instants(entry.schedule.schedule, entry.zone, now), None)
            if entry.next is not None:
                wake = min(wake, entry.next)
        return max((wake - now).total_seconds(), 0.0)

    async def _load(self, entry: _Entry, kept: Any, now: datetime) -> None:
        if kept is not None and (kept["schedule"], kept["timezone"]) == (
            entry.schedule.schedule, entry.schedule.timezone
        ):  # fmt: skip
            entry.last = datetime.fromisoformat(kept["last"])
            entry.queue = [datetime.fromisoformat(instant) for instant in kept["queue"]]
            entry.run = kept["run"]
        else:
            entry.last = now  # a new entry, or another line: nothing before now is meant
            await self._store.put(SCOPE, entry.name, entry.to_json())

    async def _handle(self, entry: _Entry, now: datetime) -> None:
        before = entry.to_json()
        assert entry.last is not None
        entry.last = min(entry.last, now)  # a clock set back; the keys see to it that nothing runs twice
        busy = await self._busy(entry)
        for instant, missed in self._due(entry, now):
            entry.last = instant
            if missed or entry.schedule.overlap == "queue" or not busy:
                entry.queue.append(instant)
                busy = busy or entry.schedule.overlap == "skip"
            elif entry.schedule.overlap == "allow":
                await self._start(entry, instant)
            else:
                log.info("%s: %s is skipped, the run before goes on", entry.name, iso(instant))
        if len(entry.queue) > QUEUE:
            log.warning("%s: %d instants are dropped, more than %d wait", entry.name, len(entry.queue) - QUEUE, QUEUE)
            del entry.queue[:-QUEUE]
        while entry.queue and (entry.schedule.overlap == "allow" or not await self._busy(entry)):
            await self._start(entry, entry.queue[0])
            del entry.queue[0]
        if entry.to_json() != before:
            await self._store.put(SCOPE, entry.name, entry.to_json())

    def _due(self, entry: _Entry, now: datetime) -> list[tuple[datetime, bool]]:
        """Instants up to now that are to be run, oldest first, and whether each was missed."""
        assert entry.last is not None
        window = timedelta(seconds=seconds(entry.schedule.catch_up_window))
        since = max(entry.last, now - window) if now - entry.last > timedelta(seconds=ON_TIME) else entry.last
        due: list[tuple[datetime, bool]] = []
        for instant in islice(instants(entry.schedule.schedule, entry.zone, since), 100_000):
            if instant > now:
                break
            due.append((instant, (now - instant).total_seconds() > ON_TIME))
        if entry.schedule.catch_up == "all":
            return due
        on_time = [item for item in due if not item[1]]
        if entry.schedule.catch_up == "last" and due and not on_time:
            return due[-1:]
        return on_time

    async def _busy(self, entry: _Entry) -> bool:
        if entry.run is None:
            return False
        run = await self._store.get_run(entry.run)
        return run is not None and not run.state.terminal

    async def _start(self, entry: _Entry, instant: datetime) -> None:
        principal = principal_for_cron(entry.workflow)
        key = f"cron:{entry.workflow}:{entry.index}:{iso(instant)}"
        try:
            run = await self._runs.start(principal, entry.workflow, dict(entry.schedule.input), key=key, source="cron")
        except StoreError:
            raise
        except MeshError as error:
            entry.error = error.message
            log.warning("%s could not be started for %s: %s", entry.name, iso(instant), error.message)
        else:
            entry.run, entry.error = run.id, None

    def status(self) -> list[dict[str, Any]]:
        """For each entry: workflow, index, schedule, timezone, overlap, catch_up, next and last instant (ISO), last run's id."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        shown = []
        for entry in self._entries:
            following = next(instants(entry.schedule.schedule, entry.zone, now), None)
            shown.append(
                {
                    "workflow": entry.workflow,
                    "index": entry.index,
                    "schedule": entry.schedule.schedule,
                    "timezone": entry.schedule.timezone,
                    "overlap": entry.schedule.overlap,
                    "catch_up": entry.schedule.catch_up,
                    "next": None if following is None else iso(following),
                    "last": None if entry.last is None else iso(entry.last),
                    "run": entry.run,
                    "waiting": len(entry.queue),
                    "error": entry.error,
                }
            )
        return shown
