"""Crash: a Store around a Store that kills its own process at one boundary of the journal, for fault tests.

`AGENTMESH_CRASH_AT` says where (`settings.crash_at`):

    before:7                  as the 7th write is about to be handed to the store: nobody has it
    after:7                   after the 7th write is committed: it is durable, and nobody was told
    before:step.started       at the first write with an entry of this kind (`step_started` is the same)
    after:step.completed:3    at the third such write
    random:42                 at one of the next writes, drawn by this seed; before or after it, drawn too

Writes are counted that carry entries: `start_run`, `append`, `park`, `post`, `request_cancel`. A claim writes `run.working` only when
it takes something, which is known afterwards: it has no number, and is reached as `after:run.working`. `park`, `put` and `release`
are names like kinds.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

from agentmesh.core.run import Entry, Kind, Run
from agentmesh.core.store import Claim, Store
from agentmesh.errors import InvalidInput

T = TypeVar("T")
ODDS = 0.05
"""How likely each write is the one, of `random:SEED`."""
NAMES = frozenset({kind.value for kind in Kind} | {"park", "put", "release"})


def crashing(store: Store, spec: str, *, die: Callable[[], None] | None = None) -> Store:
    """The same store until the boundary `spec` names; there `die`, which is SIGKILL of this process.

    InvalidInput when `spec` is none. A `die` that returns makes the crash happen once, and then nothing more.
    """
    return cast("Store", _Crashing(store, _Point.read(spec), die or _kill))


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class _Point:
    """Where it happens; counts down."""

    late: bool
    """After the write's commit."""
    left: int
    name: str | None = None
    """Only writes of this kind count; None: all that have a number."""
    dice: random.Random | None = None

    @classmethod
    def read(cls, spec: str) -> _Point:
        side, _, rest = spec.strip().partition(":")
        if side == "random" and rest.lstrip("-").isdigit():
            return cls(late=False, left=0, dice=random.Random(int(rest)))
        name, _, number = rest.rpartition(":")
        if not number.isdigit():
            name, number = rest, "1"
        name = name.replace("_", ".", 1)
        if side not in ("before", "after") or not rest or int(number) < 1 or (name and name not in NAMES):
            raise InvalidInput(
                f"AGENTMESH_CRASH_AT={spec!r} names no boundary; write before:N, after:N, before:KIND:N, after:KIND:N "
                f"or random:SEED, with N from 1 and KIND one of {', '.join(sorted(NAMES))}"
            )
        return cls(side == "after", int(number), name or None)

    def reached(self, names: Sequence[str], *, numbered: bool) -> str | None:
        """`before` or `after` when it is this write; counts it."""
        if self.dice is not None:
            return self.dice.choice(("before", "after")) if self.dice.random() < ODDS else None
        if self.name in names if self.name is not None else numbered:
            self.left -= 1
            if self.left == 0:
                return "after" if self.late else "before"
        return None


class _Crashing:
    """What is not written here goes straight to the store."""

    def __init__(self, store: Store, point: _Point, die: Callable[[], None]) -> None:
        self._store = store
        self._point = point
        self._die = die

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._store.__aexit__(*exc)

    async def start_run(
        self, run: Run, definition: Mapping[str, Any] | None = None, *, entries: Sequence[Entry] = (), **more: Any
    ) -> tuple[Run, bool]:
        if entries:
            more["entries"] = entries
        names = [Kind.RUN_SUBMITTED.value, *_kinds(entries)]
        return await self._write(names, lambda: self._store.start_run(run, definition, **more))

    async def append(
        self, run_id: str, epoch: int, entries: Sequence[Entry], *, wait: bool = True, **more: Any
    ) -> None:
        side = self._point.reached(_kinds(entries), numbered=bool(entries)) if entries else None
        if side == "before":
            self._die()
        # Nobody would wait for this commit; a crash after it must.
        await self._store.append(run_id, epoch, entries, wait=wait or side == "after", **more)
        if side == "after":
            self._die()

    async def park(self, run_id: str, epoch: int, entries: Sequence[Entry], **more: Any) -> int | None:
        return await self._write([*_kinds(entries), "park"], lambda: self._store.park(run_id, epoch, entries, **more))

    async def post(self, run_id: str, entry: Entry, **more: Any) -> tuple[Run, bool]:
        return await self._write([entry.kind.value], lambda: self._store.post(run_id, entry, **more))

    async def request_cancel(self, run_id: str, by: str) -> Run:
        return await self._write(
            [Kind.RUN_CANCEL_REQUESTED.value], lambda: self._store.request_cancel(run_id, by)
        )  # fmt: skip

    async def claim(self, worker: str, **more: Any) -> Sequence[Claim]:
        claims = await self._store.claim(worker, **more)
        if claims and self._point.reached([Kind.RUN_WORKING.value], numbered=False) is not None:
            self._die()
        return claims

    async def put(self, scope: str, key: str, value: Any) -> None:
        await self._write(["put"], lambda: self._store.put(scope, key, value), numbered=False)

    async def release(self, run_id: str, epoch: int) -> None:
        await self._write(["release"], lambda: self._store.release(run_id, epoch), numbered=False)

    async def _write(self, names: Sequence[str], write: Callable[[], Awaitable[T]], *, numbered: bool = True) -> T:
        side = self._point.reached(names, numbered=numbered)
        if side == "before":
            self._die()
        done = await write()
        if side == "after":
            self._die()
        return done


def _kinds(entries: Sequence[Entry]) -> list[str]:
    return [entry.kind.value for entry in entries]
