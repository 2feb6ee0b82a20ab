"""Cron: one `on.cron` entry, where it stands, and which of its instants are to be run. Decides without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any
from zoneinfo import ZoneInfo

from agentmesh.core.schedule import delay, instants, newest
from agentmesh.core.workflow import Schedule, seconds

ON_TIME = 60.0
"""Seconds after which an instant counts as missed, and `catch_up` decides."""
QUEUE = 1000
"""Instants of one entry that may wait for their turn; past it the oldest are dropped."""


@dataclass(slots=True, eq=False)
class Entry:
    """One `cron` entry and where it stands."""

    workflow: str
    index: int
    schedule: Schedule
    zone: ZoneInfo
    last: datetime | None = None
    """The last instant handled, or the moment from which on instants count, in UTC."""
    next: datetime | None = None
    """The first instant after `last`; None when there never is another."""
    due: datetime | None = None
    """When `next` is to be run: its jitter later."""
    run: str | None = None
    """The run started last."""
    ended: bool = True
    """`run` is known to have ended."""
    queue: list[datetime] = field(default_factory=list)
    """Instants that wait for their turn, oldest first."""
    paused: bool = False
    error: str | None = None

    @property
    def name(self) -> str:
        return f"{self.workflow}:{self.index}"

    def key(self, instant: datetime) -> str:
        """The key of the instant's run, by which it is started once, whoever starts it."""
        return f"cron:{self.workflow}:{self.index}:{iso(instant)}"

    def to_json(self) -> dict[str, Any]:
        """What is kept."""
        return {
            "schedule": self.schedule.schedule,
            "timezone": self.schedule.timezone,
            "last": None if self.last is None else iso(self.last),
            "run": self.run,
            "queue": [iso(instant) for instant in self.queue],
        }

    def adopt(self, kept: Any) -> bool:
        """Takes what `to_json` said once; False when that was said of another line, or never."""
        ours = self.schedule.schedule, self.schedule.timezone
        if not isinstance(kept, Mapping) or (kept["schedule"], kept["timezone"]) != ours:
            return False
        self.last = datetime.fromisoformat(kept["last"])
        self.queue = [datetime.fromisoformat(instant) for instant in kept["queue"]]
        if kept["run"] != self.run:
            self.run, self.ended = kept["run"], kept["run"] is None
        return True

    def plan(self, now: datetime) -> None:
        """Looks for the next instant. What was handled by a clock that went ahead is not waited for."""
        self.last = now if self.last is None else min(self.last, now)
        self.next = next(instants(self.schedule.schedule, self.zone, self.last), None)
        self.due = None if self.next is None else self.ripe_at(self.next)

    def ripe_at(self, instant: datetime) -> datetime:
        late = delay(seconds(self.schedule.jitter), self.workflow, self.index, instant)
        return instant + timedelta(seconds=late)

    def take(self, now: datetime) -> list[tuple[datetime, bool]]:
        """Instants that are to be run by now, oldest first, and whether each was missed. All up to now count as handled.

        After a stop: `catch_up` none takes those that are on time, last the newest alone, all those of the window.
        """
        assert self.last is not None
        since = self.last
        if (now - since).total_seconds() >= ON_TIME:
            since = max(since, now - timedelta(seconds=seconds(self.schedule.catch_up_window)))
        coming = instants(self.schedule.schedule, self.zone, since)
        first = next(coming, None)
        if first is None or self.ripe_at(first) > now:
            if since != self.last:  # what lies before the window is not looked at again
                self.last = since
            return []
        missed = self._missed(first, now)
        second = next(coming, None)
        found = [first] if second is None or second > now else self._ripe(since, now, first, newest_only=missed)
        self.last = found[-1]
        taken = [(instant, self._missed(instant, now)) for instant in found]
        if missed and self.schedule.catch_up == "none":
            return [item for item in taken if not item[1]]
        return taken

    def _ripe(self, since: datetime, now: datetime, first: datetime, *, newest_only: bool) -> list[datetime]:
        """Of several instants those that may be run; one that is put off longer than the next holds it up."""
        line, zone = self.schedule.schedule, self.zone
        most = 1 if newest_only and self.schedule.catch_up == "last" else QUEUE
        found = newest(line, zone, since, now, most)
        if self.ripe_at(found[-1]) > now:
            found = newest(line, zone, since, now, QUEUE)
            found = list(takewhile(lambda instant: self.ripe_at(instant) <= now, found))[-most:]
        return found or [first]

    def _missed(self, instant: datetime, now: datetime) -> bool:
        return (now - self.ripe_at(instant)).total_seconds() >= ON_TIME

    def wait(self, instant: datetime) -> int:
        """Puts an instant at the end of the queue; how many were dropped for it."""
        self.queue.append(instant)
        dropped = max(0, len(self.queue) - QUEUE)
        del self.queue[:dropped]
        return dropped


def iso(instant: datetime) -> str:
    """`2026-11-22T16:45:00Z`."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
