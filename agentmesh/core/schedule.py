"""Schedule: what a cron line means. One reading of it, for the loader that checks, the scheduler that fires and who shows it.

A line has five fields, or is one of `@hourly`, `@daily` (`@midnight`), `@weekly`, `@monthly`, `@yearly` (`@annually`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

FORMS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""What the named forms stand for, as in cron(5)."""
_FIRST_LOOK = timedelta(minutes=2)
_WIDER = 64


def five_fields(line: str) -> str:
    """The line as five fields. ValueError says what is wrong with it."""
    text = line.strip()
    if text.startswith("@"):
        found = FORMS.get(text.lower())
        if found is None:
            raise ValueError(f"{text!r} is no form of a schedule; there are {', '.join(sorted(FORMS))}")
        return found
    if len(text.split()) != 5:
        raise ValueError("a cron line has five fields: minute hour day month weekday")
    try:
        CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ValueError(f"{text!r}: {str(error)[:1].lower()}{str(error)[1:]}") from None
    return text


def instants(line: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The instants of a line after `after`, oldest first, in UTC.

    A line that fires at a wall time fires once when clocks go back, and once when its time is left out.
    """
    for local in CronSim(five_fields(line), after.astimezone(zone)):
        instant = local.astimezone(UTC)
        if instant > after:  # in the hour that comes twice, cronsim begins with its first turn
            yield instant


def walls(line: str, since: datetime) -> Iterator[datetime]:
    """The wall times that a line names after one, as if no clock ever changed; without a time zone."""
    yield from CronSim(five_fields(line), since)


def newest(line: str, zone: ZoneInfo, after: datetime, until: datetime, most: int = 1) -> list[datetime]:
    """The last `most` instants after `after` and not past `until`, oldest first.

    In few steps however long ago `after` is: looks back over ever wider spans.
    """
    span = _FIRST_LOOK
    while True:
        since = max(after, until - span) if span < until - after else after
        found: deque[datetime] = deque(maxlen=most)
        for instant in instants(line, zone, since):
            if instant > until:
                break
            found.append(instant)
        if len(found) == most or since == after:
            return list(found)
        span *= _WIDER


def delay(jitter: float, workflow: str, index: int, instant: datetime) -> float:
    """Seconds by which an instant is put off: from 0 up to `jitter`, always the same for the same entry and instant."""
    if jitter <= 0:
        return 0.0
    text = f"{workflow}:{index}:{instant.astimezone(UTC).isoformat()}"
    return jitter * int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
