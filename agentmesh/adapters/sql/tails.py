"""Tails: the journals of runs that began in this process, as they were committed, so that whoever follows a run need not ask the database.

For a store that is the only one that writes: what it has committed is all there is. A run that was here before this process, one that
has grown too long and one with a value too large to be kept in its row are not here, and are read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agentmesh.adapters.json_text import decode
from agentmesh.core.run import Entry, Kind

RUNS = 1_000
"""Runs that are kept, the newest: their followers read on at every row."""
CHARACTERS = 64 * 1024
"""Longest tail, its payloads as JSON; the tails of all runs are some megabytes at most where runs are as runs are."""
ALL = 16 * 1024 * 1024
"""Characters of all tails together."""
ROWS = 256
"""Most rows of a tail."""

Row = Sequence[Any]
"""(run_id, seq, path, attempt, kind, payload, blob, at), as the journal's table has it."""


@dataclass(slots=True)
class _Tail:
    rows: list[Row] = field(default_factory=list)
    """From seq 1, without gaps."""
    characters: int = 0


class Tails:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._characters = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Rows that were committed, in the order of their `seq` for each run."""
        for row in rows:
            run_id, seq, payload = row[0], row[1], row[5]
            tail = self._tails.get(run_id)
            if seq == 1:
                tail = self._tails[run_id] = _Tail()
            if tail is None:
                continue
            size = 0 if payload is None else len(payload)
            if payload is None or seq != len(tail.rows) + 1 or seq > ROWS or tail.characters + size > CHARACTERS:
                self._drop(run_id)
                continue
            tail.rows.append(row)
            tail.characters += size
            self._characters += size
        while len(self._tails) > RUNS or self._characters > ALL:
            self._drop(next(iter(self._tails)))

    def entries(self, run_id: str, after: int) -> tuple[Entry, ...] | None:
        """The run's entries past `after`; None when it has to be read."""
        tail = self._tails.get(run_id)
        if tail is None:
            return None
        return tuple(
            Entry(Kind(kind), path, attempt, decode(payload), seq, at)
            for _, seq, path, attempt, kind, payload, _, at in tail.rows[max(0, after) :]
        )

    def forget(self) -> None:
        """All of them: rows were removed."""
        self._tails.clear()
        self._characters = 0

    def _drop(self, run_id: str) -> None:
        self._characters -= self._tails.pop(run_id).characters
