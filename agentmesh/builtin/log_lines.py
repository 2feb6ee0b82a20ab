"""A log as lines to read: without terminal colours and without what a CI system or a container puts before each line."""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_CHARACTERS = 1_000_000
_LONGEST = 1_000  # of one line that is looked at: minified code and base64 hold nothing a person would quote
_MOST_LINES = 2_500  # that are looked at closely; a log of more is thinned out first
_FAULTY = re.compile(
    r"rror|ERR|FAIL|ail(?:ed|ure)|xception|raceback|panic|atal|FATAL|illed|fault|bort|imed out|denied|refused|not found|CRITICAL"
)
_AROUND = 12
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[()][0-9A-B])")
_PREFIX = re.compile(
    r"^(?:"
    r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]?[ |]"  # 2026-03-04T10:11:12.123Z
    r"|\[?\d\d:\d\d:\d\d(?:[.,]\d{1,6})?\]? "  # [10:11:12]
    r"|\[\d{1,6}(?:\.\d{1,6})?s?\] "  # [12.345]
    r"|#\d{1,4} (?:\d{1,6}\.\d{1,4} )?"  # docker build: #12 3.456
    r"|[a-z][\w.-]{0,40}(?:-\d{1,3})? {0,20}\| "  # docker compose: web-1  |
    r"|(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d \d\d:\d\d:\d\d [\w.-]{1,60} [\w./-]{1,60}(?:\[\d{1,8}\])?: "  # syslog
    r"|\d\d [A-Za-z]{3} \d{4} \d\d:\d\d:\d\d "
    r"|##\[[a-z]{1,20}\]|::[a-z]{1,20}(?: [^:]{0,200})?::"  # GitHub and Azure commands
    r")"
)


@dataclass(frozen=True)
class Line:
    """One line; `number` counts from 0 in the log as it came."""

    number: int
    raw: str
    text: str


def clean(raw: str) -> str:
    """The line as a person reads it; at most two prefixes (a container's inside a CI system's) are taken off."""
    text = _ANSI.sub("", raw) if "\x1b" in raw else raw
    for _ in range(2):
        found = _PREFIX.match(text)
        if not found:
            break
        text = text[found.end() :]
    return text.rstrip()


def read(log: str) -> list[Line]:
    """The lines that are not blank. A log over the limit keeps its first and last parts, where causes and ends stand."""
    if len(log) > MOST_CHARACTERS:
        log = log[: MOST_CHARACTERS // 2] + "\n" + log[-MOST_CHARACTERS // 2 :]
    lines = []
    rows = log.split("\n")
    for number in _worth_reading(rows):
        raw = rows[number]
        raw = raw.rstrip("\r")
        if "\r" in raw:  # a progress bar: what stood on the screen last
            raw = raw.rsplit("\r", 1)[1]
        text = clean(raw[:_LONGEST])
        if text.strip():
            lines.append(Line(number, raw, text))
    return lines


def _worth_reading(rows: list[str]) -> list[int]:
    """The indices of all rows, or of a long log those around words of failure, first ones first, and its ends."""
    if len(rows) <= _MOST_LINES:
        return list(range(len(rows)))
    kept = {*range(100), *range(len(rows) - 400, len(rows))}
    for number, row in enumerate(rows):
        if _FAULTY.search(row, 0, 400):
            kept.update(range(max(0, number - _AROUND), min(len(rows), number + _AROUND + 1)))
            if len(kept) >= _MOST_LINES:
                break
    return sorted(kept)


def verbatim(line: Line, most: int = 400) -> str:
    """A part of the log, character for character, that shows the line: without colours if they do not cut it to pieces."""
    if "\x1b" not in line.raw:
        return line.raw.strip()[:most].strip()
    longest = max(_ANSI.split(line.raw), key=len).strip()
    if len(longest) >= 0.6 * len(line.text.strip()):
        return longest[:most].strip()
    return line.raw.strip()[:most].strip()
