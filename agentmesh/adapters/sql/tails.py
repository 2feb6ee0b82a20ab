"""Tails: the journals of runs that began in this process, as they were committed, so that whoever follows a run need not ask the database.

Where the store is the only one that writes, what it has committed is all there is. Where others write too, what is here may lack the
rows that they added last, until they have said so; then, and when a row shows that there is one before it which is not here, the run is
dropped. A run that was here before this process, one that has grown too long and one with a value too large to be kept in its row are not
here either. What is not here is read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agentmesh.adapters.json_text import decode
from agentmesh.core.run import STATE_AFTER, Entry, Kind

RUNS = 1_000
"""Runs that are kept."""
ENDED = 100
"""Of them those that have ended, which are read once more by each follower, and seldom later."""
SIZE = 256 * 1024
ALL = 4 * 1024 * 1024
"""Bytes of one tail and of all of them, roughly: payloads as JSON, and ROW for each row."""
ROW = 400

Row = Sequence[Any]
"""(run_id, seq, path, attempt, kind, payload, blob, at), as the journal's table has it."""
_ENDS = frozenset(kind.value for kind, state in STATE_AFTER.items() if state.terminal)


@dataclass(slots=True)
class _Tail:
    rows: list[Row] = field(default_factory=list)
    """From seq 1, without gaps."""
    size: int = 0


class Tails:
    """Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._size = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Rows that were committed, in the order of their `seq` for each run."""
        for row in rows:
            run_id, seq, payload = row[0], row[1], row[5]
            if seq == 1:
                self._tails[run_id] = _Tail()
            tail = self._tails.get(run_id)
            if tail is None:
                continue
            size = ROW + (0 if payload is None else len(payload))
            if payload is None or seq != len(tail.rows) + 1 or tail.size + size > SIZE:
                self._drop(run_id)
                continue
            tail.rows.append(row)
            tail.size += size
            self._size += size
            if row[4] in _ENDS:
                self._ended[run_id] = None
        while len(self._ended) > ENDED or len(self._tails) > RUNS or self._size > ALL:
            self._drop(next(iter(self._ended or self._tails)))

    def entries(self, run_id: str, after: int) -> tuple[Entry, ...] | None:
        """The run's entries past `after`; None when it has to be read."""
        tail = self._tails.get(run_id)
        if tail is None:
            return None
        return tuple(
            Entry(Kind(kind), path, attempt, decode(payload), seq, at)
            for _, seq, path, attempt, kind, payload, _, at in tail.rows[max(0, after) :]
        )

    def drop(self, run_ids: Sequence[str]) -> None:
        """These, where they are here: somebody else has added rows."""
        for run_id in run_ids:
            if run_id in self._tails:
                self._drop(run_id)

    def forget(self) -> None:
        """All of them: rows were removed."""
        self._tails.clear()
        self._ended.clear()
        self._size = 0

    def _drop(self, run_id: str) -> None:
        self._size -= self._tails.pop(run_id).size
        self._ended.pop(run_id, None)
