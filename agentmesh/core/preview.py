"""Preview: when a schedule fires next, and what the clock changes of its time zone do to it.

Two days a year a wall clock leaves an hour out, or shows one twice. A line with a fixed time fires once on such a day; one
that fires through the day fires by the hours that there are. Here that is said before it happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from agentmesh.core.schedule import instants, walls

COUNT = 10
_LONGEST_CHANGE = timedelta(hours=26)
"""No zone ever set its clocks by more than a day at once."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Firing:
    """One instant at which a schedule fires."""

    at: datetime
    """In the schedule's time zone, with its offset there."""
    note: str = ""
    """What a clock change does to it; empty for most."""

    @property
    def local(self) -> str:
        """`2026-11-22 16:45 +01:00`."""
        text = self.at.isoformat(sep=" ")
        return f"{text[:16]} {text[19:]}"

    def to_json(self) -> dict[str, str]:
        return {"at": self.at.isoformat(), "utc": iso(self.at), "note": self.note}


def iso(instant: datetime) -> str:
    """`2026-11-22T16:45:00Z`."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def preview(line: str, zone: ZoneInfo, after: datetime, count: int = COUNT) -> list[Firing]:
    """The next firings after an instant, oldest first. The line and the zone are right (`core.trigger`)."""
    coming = [instant.astimezone(zone) for instant in islice(instants(line, zone, after), count + 1)]
    if not coming:
        return []
    fired = {(at.replace(tzinfo=None, fold=0), at.fold) for at in coming}
    found: list[Firing] = []
    before = after.astimezone(zone)
    for at in coming[:count]:
        found.append(Firing(at, _note(line, zone, before, at, fired)))
        before = at
    return found


def _note(line: str, zone: ZoneInfo, before: datetime, at: datetime, fired: set[tuple[datetime, int]]) -> str:
    wall = at.replace(tzinfo=None, fold=0)
    if at.utcoffset() != before.utcoffset() or at - before <= _LONGEST_CHANGE:
        missing = [time for time in _walls(line, before.replace(tzinfo=None, fold=0), wall) if not _exists(time, zone)]
        if missing and not _meant(line, wall):
            return f"moved from {_times(missing)}, which the clock leaves out"
        if missing:
            return f"{_times(missing)} skipped: the clock leaves {'it' if len(missing) == 1 else 'them'} out"
    if _comes_twice(wall, zone):
        if at.fold:
            return f"repeats: the clock shows {wall:%H:%M} a second time" if (wall, 0) in fired else ""
        if (wall, 1) not in fired and not any(i.astimezone(zone).fold for i in _same_day(line, zone, at)):
            return f"fires once, though the clock shows {wall:%H:%M} twice"
    return ""


def _same_day(line: str, zone: ZoneInfo, at: datetime) -> Iterator[datetime]:
    """The firings soon after one."""
    for instant in islice(instants(line, zone, at), 200):
        if instant - at > timedelta(hours=3):
            return
        yield instant


def _walls(line: str, since: datetime, until: datetime) -> Iterator[datetime]:
    """What the line names between two wall times, as if no clock ever changed. Only around a change."""
    for time in islice(walls(line, max(since, until - _LONGEST_CHANGE)), 2000):
        if time >= until:
            return
        yield time


def _meant(line: str, wall: datetime) -> bool:
    """Whether the line itself names a wall time."""
    return next(walls(line, wall - timedelta(minutes=1)), None) == wall


def _exists(wall: datetime, zone: ZoneInfo) -> bool:
    there = wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone)
    return there.replace(tzinfo=None, fold=0) == wall


def _comes_twice(wall: datetime, zone: ZoneInfo) -> bool:
    one, other = wall.replace(tzinfo=zone), wall.replace(tzinfo=zone, fold=1)
    return one.utcoffset() != other.utcoffset() and _exists(wall, zone)


def _times(times: list[datetime]) -> str:
    shown = [f"{time:%H:%M}" for time in times]
    if len(shown) > _SHOWN:
        return f"{shown[0]} to {shown[-1]}"
    return " and ".join(shown)
