"""Replay: a run once more from its journal, without a model, a tool, a clock or a store.

The walk that ran the run first walks its pinned definition again. What came from outside (answers of models and tools, child runs,
signals, people, time) is fed from the journal, row by row; what the definition decides (`if`, `switch`, templates, repairs, checks
that need nobody) is decided anew. Every row that the walk writes is held against the journal's next row of the same path, and the
first that differs is told. A run that has not ended is replayed to where it stands.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NoReturn

import anyio
import anyio.to_thread

from agentmesh.core.model import ChatRequest
from agentmesh.core.question import Answer, waiting_payload
from agentmesh.core.run import JSON, Entry, Kind, Run, RunState
from agentmesh.core.store import Claim
from agentmesh.engine.definitions import Definition
from agentmesh.engine.execution import Bench, Execution
from agentmesh.engine.feed import Observer, feed, feed_checks
from agentmesh.engine.journal import recall
from agentmesh.engine.limit import Limit
from agentmesh.engine.runs import as_submitted
from agentmesh.engine.tape import Difference, Tape, canonical, digest_of
from agentmesh.errors import Declined, Expired

QUIET = 100
"""Turns of the event loop in which nothing moved: what is still open waits for something that the journal does not have."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a replay. `digest` and `again` are over the rows of the journal and of the replay; see `tape.canonical`."""

    run_id: str
    workflow: str
    state: RunState
    rows: int
    digest: str
    again: str
    difference: Difference | None
    open: tuple[str, ...] = ()
    """Paths at which a run that has not ended stands."""
    children: tuple[Replayed, ...] = ()

    @property
    def same(self) -> bool:
        return self.difference is None and self.digest == self.again and all(child.same for child in self.children)

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run_id, "workflow": self.workflow, "state": self.state.value, "same": self.same, "rows": self.rows,
            "digest": self.digest, "replayed": self.again,
            "difference": None if self.difference is None else self.difference.to_json(),
            "open": list(self.open), "children": [child.to_json() for child in self.children],
        }  # fmt: skip


async def replay(
    run: Run, entries: Sequence[Entry], definition: Definition, *, observer: Observer | None = None
) -> Replayed:
    """Replays one run, in a thread of its own: it computes, and a long journal must not hold up the event loop."""

    def work() -> Replayed:
        return anyio.run(_replay, run, entries, definition, observer)

    return await anyio.to_thread.run_sync(work)


async def _replay(run: Run, entries: Sequence[Entry], definition: Definition, observer: Observer | None) -> Replayed:
    tape = Tape(entries)
    again = _Again(run, tape, definition, observer)
    again.claimed = any(entry.kind is Kind.RUN_WORKING for entry in entries)
    await again.to_the_end()
    head = {"workflow": run.workflow, "definition": definition.digest, "input": run.input}
    return Replayed(
        run.id, run.workflow, run.state, len(entries),
        digest_of(head | {"rows": canonical(entries)}), digest_of(head | {"rows": canonical([*tape.outside, *tape.rows])}),
        tape.difference or tape.unreached(), tuple(tape.ahead) if not again.ended else (),
    )  # fmt: skip


class _Again(Execution):
    """An execution that nothing outside of it ever hears of."""

    def __init__(self, run: Run, tape: Tape, definition: Definition, observer: Observer | None) -> None:
        absent: Any = None
        store: Any = SimpleNamespace(entries=self._entries)
        definitions: Any = SimpleNamespace(load=self._load)
        models: Any = SimpleNamespace(name=self._model, ask=self._ask)
        bus: Any = SimpleNamespace(notice=lambda *_: None)
        bench = Bench(
            store=store, definitions=definitions, runs=absent, tools=absent, models=models, guard=absent, bus=bus,
            random=random.Random(0), clock=lambda: tape.now, sleep=_at_once, adopt=absent, stopping=lambda: False,
            perform=feed(tape, observer), accepted=feed_checks(tape),
        )  # fmt: skip
        super().__init__(bench, Claim(as_submitted(run), 1))
        self.journal = tape
        self.replied = run.replied
        self.ended = False
        self.claimed = True
        """False: it was canceled before anybody took it, and so by the store itself."""
        self._tape = tape
        self._pinned = definition
        self._limits: dict[str, Limit] = {}
        self.inbox.read(tape.outside)

    async def _entries(self, run_id: str, after: int = 0) -> Sequence[Entry]:
        return [entry for entry in self._tape.rows if entry.seq > after]

    async def _load(self, digest: str) -> Definition:
        return self._pinned

    def _model(self, named: str | None) -> str:
        """The model meant. LookupError when only the mesh's file could tell."""
        if named is None:
            raise LookupError
        return named

    async def _ask(self, request: ChatRequest, *_: object) -> NoReturn:
        raise LookupError(request.model)

    async def to_the_end(self) -> None:
        """Walks there and back until the journal has no more."""
        with anyio.CancelScope() as everything:
            self._tape.stop = everything.cancel
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, group.cancel_scope)
                await self._walk()
                group.cancel_scope.cancel()

    async def _walk(self) -> None:
        found: Entry | Mapping[str, JSON] | None = None
        if not self.claimed and (rejected := self._tape.rejected()) is not None:
            await self._tape.write(rejected)
            self.ended = True
            return
        if not self.claimed and (way_back := self._tape.way_back()) is not None:
            await self._tape.write(Entry(Kind.RUN_CANCELED, payload=way_back))
            self.ended = True
            return
        with self._scope:
            found = await self._forth()
        # Cancelled, or out of time, as the journal says: wherever the walk was, and though it may have come to its end meanwhile.
        found = self._tape.way_back() or found
        if found is None:
            return
        self._scope = anyio.CancelScope()
        if not isinstance(found, Entry):
            found = await self._back(found)
        await self._tape.write(found)
        self.ended = True

    async def _watch(self, everything: anyio.CancelScope) -> None:
        """When nothing moves any more: lets a block run out of its time that did, or cuts the walk off where the journal ends."""
        quiet, seen = 0, -1
        while True:
            await anyio.lowlevel.checkpoint()
            quiet, seen = (quiet + 1, seen) if self._tape.moves == seen else (0, self._tape.moves)
            if quiet < QUIET:
                continue
            quiet = 0
            if self._tape.release():
                continue
            if (late := self._tape.late(self._limits)) is not None:
                self._limits.pop(late).run_out()
            elif not self._scope.cancel_called:
                self._scope.cancel()
            else:
                everything.cancel()

    # What an execution asks of the world

    def limit(self, path: str, seconds: float | None) -> Limit:
        """Time is over for a block when the journal says so."""
        limit = Limit(None if seconds is None else float("inf"))
        if seconds is not None:
            self._limits[path] = limit
        return limit

    def authorize(self, action: object) -> None:
        """It was allowed, or the journal says that it was not."""

    def notice(self, line: str) -> None:
        """Nobody watches a replay."""

    async def cancel_children(self, *prefixes: str) -> None:
        """They are runs of their own."""

    async def _remember(self, *, grown: bool = False) -> Mapping[str, JSON] | None:
        self.entries = tuple(self._tape.rows)
        self.recorded = recall(self.entries)
        return None

    async def _hand_over(self, workflow: str, error: Mapping[str, JSON]) -> None:
        """`on_failure` has started its run."""

    async def wait_until(self, due: float) -> None:
        """It was waited for, if the journal goes on."""
        await anyio.lowlevel.checkpoint()

    async def signal(self, path: str, name: str, until: float | None) -> Entry:
        row = await self._tape.ended(path)
        if row.kind is not Kind.STEP_COMPLETED:
            raise _error(row, Expired)
        for entry in self.inbox.signals:
            if entry.seq == row.payload.get("signal") and entry.payload.get("name") == name:
                return entry
        taken = row.payload.get("signal")
        return await self._tape.differ(
            row, None, f"it took signal {taken}, and the journal has no signal {name!r} of that number"
        )

    async def ask(self, path: str, number: int, **asked: Any) -> Answer:
        """The answer that the journal has, to the same question."""
        asked.pop("expires", None)
        payload = waiting_payload(
            **({"show": None, "form": None} | asked), caller=self.run.owner, asked_at=0.0, expires_at=None
        )
        await self._tape.write(Entry(Kind.STEP_WAITING, path, number, payload))
        row = await self._tape.ended(path)
        answer = self.inbox.answer(f"{path}#{number}", self._tape.until(path, number))
        if answer is None:
            raise _error(row, Expired)
        if not answer.yes:
            raise _error(row, Declined)
        return answer


def _error(row: Entry, kind: type[Declined | Expired]) -> Exception:
    """What the journal says became of a wait."""
    error = row.payload.get("error") or {}
    found = kind(str(error.get("message") or kind.__doc__), **(error.get("data") or {}))
    return found


async def _at_once(seconds: float) -> None:
    await anyio.lowlevel.checkpoint()
