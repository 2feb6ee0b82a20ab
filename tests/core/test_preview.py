"""Schedules: what is no cron line, and what clock changes do to one, said before it happens."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agentmesh.core.preview import preview
from agentmesh.core.schedule import FORMS
from tests.core.test_check import faults

BERLIN = ZoneInfo("Europe/Berlin")
SPRING = datetime(2026, 3, 28, tzinfo=UTC)
"""The day before the clock leaves out the hour from two to three."""
AUTUMN = datetime(2026, 10, 24, tzinfo=UTC)
"""The day before the clock shows that hour twice."""


def told(folder: Path, entry: str) -> list[str]:
    text = f"name: w\non: {{cron: [{entry}]}}\nsteps: [{{id: a, set: 1}}]\n"
    found = faults(folder, {"workflows/w.yaml": text})
    assert all(f.line == 2 and f.column > 10 for f in found)
    return [f.message for f in found]


@pytest.mark.parametrize("form", sorted(FORMS))
def test_named_forms_are_schedules(tmp_path: Path, form: str) -> None:
    """As in cron(5)."""
    assert told(tmp_path, f"{{schedule: '{form}'}}") == []
    assert len(preview(form, BERLIN, SPRING)) == 10


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{schedule: '@reboot'}", "a server that starts again is not a time"),
        ("{schedule: '@dayly'}", "did you mean '@daily'?"),
        ("{schedule: '0 0 8 * * 1'}", "it has six fields; seconds are not counted here: write '0 8 * * 1'"),
        ("{schedule: '8 * * *'}", "a cron line has five fields"),
        ("{schedule: '61 * * * *'}", "is not a cron line"),
        ("{schedule: '0 0 31 2 *'}", "is not a cron line"),
        ("{schedule: ''}", "a cron line has five fields"),
        ("{schedule: '0 8 * * *', timezone: Europe/Berln}", "did you mean 'Europe/Berlin'?"),
        ("{schedule: '0 8 * * *', jitter: 1d}", "must be less than the time between two firings, which is 1d"),
        ("{schedule: '*/5 8 * * *', jitter: 5m}", "which is 5m"),
        ("{schedule: '0 8 * * *', jitter: 5y}", "is not a duration"),
        ("{schedule: '0 8 * * *', jitter: -1}", "must not be negative"),
        ("{schedule: '0 8 * * *', catch_up_window: soon}", "is not a duration"),
        ("{schedule: '0 8 * * *', overlap: skipp}", "did you mean 'skip'?"),
        ("{schedule: '0 8 * * *', catch_up: lst}", "did you mean 'last'?"),
    ],
)
def test_what_is_no_schedule_is_told(tmp_path: Path, entry: str, says: str) -> None:
    """In words that say what would be right."""
    found = told(tmp_path, entry)
    assert [m for m in found if says in m], found


def test_a_jitter_within_the_period_loads(tmp_path: Path) -> None:
    """It may be all but as long as the shortest time between two firings."""
    assert told(tmp_path, "{schedule: '*/5 8 * * *', jitter: 299s}") == []


def shown(line: str, after: datetime, count: int = 3) -> list[tuple[str, str]]:
    return [(firing.local, firing.note) for firing in preview(line, BERLIN, after, count)]


def test_a_time_that_the_clock_leaves_out_is_moved() -> None:
    """A fixed time fires once that day, at the first moment that there is."""
    assert shown("30 2 * * *", SPRING) == [
        ("2026-03-28 02:30 +01:00", ""),
        ("2026-03-29 03:00 +02:00", "moved from 02:30, which the clock leaves out"),
        ("2026-03-30 02:30 +02:00", ""),
    ]
    assert shown("15,45 2 29 3 *", SPRING, 1) == [
        ("2026-03-29 03:00 +02:00", "moved from 02:15 and 02:45, which the clock leaves out")
    ]


def test_times_that_the_clock_leaves_out_are_skipped() -> None:
    """A line that fires through the day fires by the hours that there are."""
    assert shown("*/30 * * * *", datetime(2026, 3, 29, 0, 15, tzinfo=UTC)) == [
        ("2026-03-29 01:30 +01:00", ""),
        ("2026-03-29 03:00 +02:00", "02:00 and 02:30 skipped: the clock leaves them out"),
        ("2026-03-29 03:30 +02:00", ""),
    ]


def test_a_time_that_comes_twice_fires_once_or_repeats() -> None:
    """Once where it is fixed, twice where the line fires through the day."""
    assert shown("30 2 * * *", AUTUMN) == [
        ("2026-10-24 02:30 +02:00", ""),
        ("2026-10-25 02:30 +02:00", "fires once, though the clock shows 02:30 twice"),
        ("2026-10-26 02:30 +01:00", ""),
    ]
    assert shown("0 * * * *", datetime(2026, 10, 24, 23, 30, tzinfo=UTC)) == [
        ("2026-10-25 02:00 +02:00", ""),
        ("2026-10-25 02:00 +01:00", "repeats: the clock shows 02:00 a second time"),
        ("2026-10-25 03:00 +01:00", ""),
    ]


def test_most_firings_need_no_word() -> None:
    """Neither on the day of a change at another hour, nor in a zone without changes."""
    assert {note for _, note in shown("0 8 * * *", SPRING, 10)} == {""}
    assert {firing.note for firing in preview("30 2 * * *", ZoneInfo("UTC"), SPRING, 10)} == {""}
