"""Tape: a journal that is played back. A row that a walk writes must be the journal's next one, and waits until its turn has come."""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import anyio

from agentmesh.core.run import FROM_OUTSIDE, JSON, Entry, Kind
from agentmesh.engine.journal import Journal

_TURN = re.compile(r"/(?:turn|try|validate|ask)\[")
_ENDS = (Kind.STEP_COMPLETED, Kind.STEP_FAILED, Kind.STEP_SKIPPED)
_WORK = (
    Kind.RUN_SUBMITTED,
    Kind.RUN_WORKING,
    Kind.RUN_INPUT_REQUIRED,
    Kind.RUN_AUTH_REQUIRED,
    Kind.RUN_ROUTED,
    Kind.RUN_TRACED,
)
"""Rows that say who worked on the run and when, not what came of it."""
OUTSIDE = "<outside>"
SHOWN = 600
"""Characters of a value that a difference shows."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first row at which journal and replay part. A row is {kind, attempt, payload}; None: there is none."""

    path: str
    message: str
    seq: int | None = None
    journal: Mapping[str, JSON] | None = None
    replay: Mapping[str, JSON] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path, "seq": self.seq, "message": self.message,
            "journal": None if self.journal is None else dict(self.journal),
            "replay": None if self.replay is None else dict(self.replay),
        }  # fmt: skip


class Tape(Journal):
    """Plays one journal back. Not a journal of a store: nothing is written anywhere."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        begun = next((i for i, entry in enumerate(entries) if entry.kind is Kind.RUN_WORKING), len(entries))
        self.rows: list[Entry] = [entry for entry in entries[:begun] if entry.path]
        """What the walk wrote so far, with the journal's numbers and times; first what a fork began with."""
        self.outside: list[Entry] = [entry for entry in entries if entry.kind in FROM_OUTSIDE]
        self.now = entries[0].at if entries else 0.0
        self.moves = 0
        """Grows whenever something happens."""
        self.difference: Difference | None = None
        self.ahead: dict[str, Entry] = {}
        """Rows that the walk wants to write and the journal does not have, by path."""
        self.stop: Callable[[], None] = lambda: None
        told = [entry for entry in entries if entry.kind not in _WORK and entry.kind not in FROM_OUTSIDE]
        played = told[len(self.rows) :]
        self._order = deque(played)
        self._paths: dict[str, deque[Entry]] = {}
        self._families: dict[str, list[Entry]] = {}
        self._until: dict[tuple[str, int], float | None] = {}
        self._turns: dict[int, anyio.Event] = {}
        self._failing: deque[anyio.Event] = deque()
        self.gap = next((i for i, entry in enumerate(entries, 1) if entry.seq != i), None)
        """Number of the first row that is missing."""
        for entry in played:
            self._paths.setdefault(entry.path, deque()).append(entry)
            if entry.path:
                self._families.setdefault(_TURN.split(entry.path, 1)[0], []).append(entry)
            if entry.kind is Kind.STEP_WAITING:
                self._until[entry.path, entry.attempt] = entry.payload.get("until")

    async def write(
        self, *entries: Entry, wait: bool = False, hold: bool = False, put: Mapping[tuple[str, str], Any] | None = None,
        patient: bool = False,
    ) -> None:  # fmt: skip
        for entry in entries:
            await self._write(entry)

    def hold(self, *entries: Entry, put: Mapping[tuple[str, str], Any] | None = None) -> None:
        raise RuntimeError("a replay makes no attempt of its own; its rows must be able to wait for their turn")

    async def flush(self, *, wait: bool = False) -> None:
        """Nothing is held back."""

    async def _write(self, entry: Entry) -> None:
        waiting = self._paths.get(entry.path)
        if not waiting:
            await self._beyond(entry)
        assert waiting
        row = waiting[0]
        while self._order[0] is not row:
            turn = self._turns.setdefault(row.seq, anyio.Event())
            await turn.wait()
        if _plain(row) != _plain(entry):
            await self.differ(row, entry)
        waiting.popleft()
        self._order.popleft()
        self.rows.append(replace(entry, seq=row.seq, at=row.at))
        self.now = max(self.now, row.at)
        self.moves += 1
        following = self._order[0] if self._order else None
        if following is not None and following.seq in self._turns:
            self._turns.pop(following.seq).set()
        if entry.kind is Kind.STEP_FAILED and not entry.payload.get("tolerated") and following is not None:
            if following.path and not entry.path.startswith(following.path):
                # The failure is about to cut other branches off, and the journal has more rows of theirs.
                self._failing.append(anyio.Event())
                await self._failing[-1].wait()

    async def _beyond(self, entry: Entry) -> NoReturn:
        """The journal has no such row: whoever writes it was cut off here, or the run stands here."""
        self.ahead.setdefault(entry.path, entry)
        self.moves += 1
        await _for_ever()

    async def stand(self, path: str, kind: Kind) -> NoReturn:
        """The journal does not say how this step goes on."""
        await self._beyond(Entry(kind, path))

    async def differ(self, row: Entry | None, entry: Entry | None, message: str = "") -> NoReturn:
        """The first difference ends the replay."""
        if self.difference is None:
            self.difference = difference(row, entry, message)
        self.stop()
        await _for_ever()

    def family(self, path: str) -> Sequence[Entry]:
        """Rows of one step, with the turns and calls of its model; those that were played included."""
        return self._families.get(path, ())

    def played(self, row: Entry) -> bool:
        """Whether the walk has written this row."""
        return not self._order or row.seq < self._order[0].seq

    async def ended(self, path: str) -> Entry:
        """The row that ends a step, before it is played."""
        for row in self._paths.get(path, ()):
            if row.kind in _ENDS:
                return row
        return await self.stand(path, Kind.STEP_COMPLETED)

    def until(self, path: str, attempt: int) -> float | None:
        """Unix seconds at which a question expired."""
        return self._until.get((path, attempt))

    def release(self) -> bool:
        """Lets the first failure that waits for other branches' rows go on; False when none does."""
        if not self._failing:
            return False
        self._failing.popleft().set()
        self.moves += 1
        return True

    def late(self, paths: Iterable[str]) -> str | None:
        """The innermost of these blocks whose time was over, if that is what the journal says next."""
        row = self._order[0] if self._order else None
        if row is None or row.kind is not Kind.STEP_FAILED or row.path not in paths:
            return None
        return row.path if (row.payload.get("error") or {}).get("code") == "timeout" else None

    def rejected(self) -> Entry | None:
        """The end of a run that nobody would take, and so nobody claimed."""
        row = self._order[0] if self._order else None
        return row if row is not None and row.kind is Kind.RUN_REJECTED else None

    def way_back(self) -> Mapping[str, JSON] | None:
        """Why the run went back although its walk was not at an end: who cancelled it, or that its time was over."""
        row = self._order[0] if self._order else None
        if row is None or row.path or row.kind is Kind.RUN_COMPLETED:
            return None
        error = row.payload.get("error")
        if error is None:
            asked = any(entry.kind is Kind.RUN_CANCEL_REQUESTED for entry in self.outside)
            return {"by": row.payload.get("by")} if asked else None
        return (
            {"error": {k: v for k, v in error.items() if k != "not_undone"}}
            if error.get("code") == "deadline"
            else None
        )

    def unreached(self) -> Difference | None:
        """What the journal has and the replay never came to."""
        if self.gap is not None:
            return Difference("", f"row {self.gap} of the journal is missing", self.gap)
        if not self._order:
            return None
        row = self._order[0]
        entry = self.ahead.get(row.path) or next(iter(self.ahead.values()), None)
        if entry is None:
            return difference(row, None, "the replay does not come to this row")
        where = entry.path or "the run's end"
        return difference(
            row, entry, f"the replay goes another way: it stands at {where}, which the journal does not have"
        )


async def _for_ever() -> NoReturn:
    await anyio.sleep_forever()
    raise AssertionError


def difference(row: Entry | None, entry: Entry | None, message: str = "") -> Difference:
    """What a row of the journal and one of the replay do not agree on, in one sentence."""
    one = row or entry
    assert one is not None
    if not message and row is not None and entry is not None:
        a, b = _shown(row), _shown(entry)
        for name in ("kind", "attempt"):
            if a[name] != b[name]:
                message = f"{name}: the journal says {a[name]}, the replay {b[name]}"
                break
        else:
            where, before, after = _first(a["payload"], b["payload"], "")
            message = f"{where or 'payload'}: the journal says {_cut(before)}, the replay {_cut(after)}"
    return Difference(
        one.path, message, None if row is None else row.seq, None if row is None else _shown(row),
        None if entry is None else _shown(entry),
    )  # fmt: skip


MISSING = "nothing"


def _first(a: JSON, b: JSON, where: str) -> tuple[str, JSON, JSON]:
    """The first place at which two values differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(k for k in b if k not in a)]:
            if key not in a or key not in b or a[key] != b[key]:
                inner = f"{where}.{key}" if where else key
                return _first(a.get(key, MISSING), b.get(key, MISSING), inner)
    if isinstance(a, list) and isinstance(b, list):
        for i in range(max(len(a), len(b))):
            left, right = a[i] if i < len(a) else MISSING, b[i] if i < len(b) else MISSING
            if left != right:
                return _first(left, right, f"{where}[{i}]")
    return where, a, b


def _cut(value: JSON) -> str:
    text = value if value is MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _shown(entry: Entry) -> dict[str, JSON]:
    return {"kind": entry.kind.value, "attempt": entry.attempt, "payload": _payload(entry)}


def _plain(entry: Entry) -> tuple[Kind, int, JSON]:
    return entry.kind, _attempt(entry), _payload(entry)


def _attempt(entry: Entry) -> int:
    """Of the end of a step 0: a step that was resumed between its checks and its end may say another number than one that was not."""
    return 0 if entry.kind in _ENDS else entry.attempt


def _payload(entry: Entry) -> dict[str, JSON]:
    """A row's payload without times and seconds: no two executions have them in common."""
    payload = dict(entry.payload)
    if entry.kind is Kind.STEP_ATTEMPT and isinstance(payload.get("usage"), Mapping):
        payload["usage"] = {k: v for k, v in payload["usage"].items() if k != "seconds"}
        payload.pop("retry_at", None)
    elif entry.kind is Kind.STEP_WAITING:
        payload = {k: v for k, v in payload.items() if k not in ("until", "asked_at")}
    return payload


def canonical(entries: Iterable[Entry]) -> dict[str, list[list[JSON]]]:
    """The rows that matter, by path and in their order: kinds, attempts, payloads without times; the run's end under the empty path."""
    paths: dict[str, list[list[JSON]]] = {}
    for entry in entries:
        if entry.kind not in _WORK:
            path = OUTSIDE if entry.kind in FROM_OUTSIDE else entry.path
            paths.setdefault(path, []).append([entry.kind.value, _attempt(entry), _payload(entry)])
    return paths


def digest_of(value: JSON) -> str:
    """SHA-256 of a value's JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
