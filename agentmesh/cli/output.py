"""What commands print: results on stdout, everything said along the way on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any


def note(text: str) -> None:
    """A line for the person at the terminal."""
    print(f"agentmesh: {text}", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """The one thing `--json` prints."""
    print(json.dumps(value, indent=2, ensure_ascii=False), flush=True)


def print_value(value: Any) -> None:
    """A result for people: an object as `name  value` lines, a list of texts line by line, the rest as JSON."""
    if isinstance(value, Mapping):
        width = max((len(str(k)) for k in value), default=0)
        for name, item in value.items():
            lines = _lines(item)
            print(f"{name:<{width}}  {lines[0]}".rstrip())
            for line in lines[1:]:
                print(f"{'':<{width}}  {line}")
    elif value is not None:
        print("\n".join(_lines(value)))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]], empty: str) -> None:
    """Columns of text; `empty` is said, on stderr, when there are no rows."""
    if not rows:
        note(empty)
        return
    table = [[str(cell) if cell is not None else "" for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    for row in table:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def ago(at: float | None, now: float | None = None) -> str:
    """How long ago in words, such as `3 min ago`."""
    if not at:
        return ""
    seconds = (time.time() if now is None else now) - at
    return f"in {duration(-seconds)}" if seconds < 0 else f"{duration(seconds)} ago"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that keeps two figures."""
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def first_line(text: str, most: int = 100) -> str:
    """The first line, cut to `most` characters."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= most else line[: most - 1] + "…"


def _lines(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.splitlines() or [""]
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return [line for item in value for line in (item.splitlines() or [""])]
    return [json.dumps(value, ensure_ascii=False)]
