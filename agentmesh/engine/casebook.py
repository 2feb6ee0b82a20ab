"""Casebook: one golden case, run by the real engine on a store in memory, and held against what it must come to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import anyio
import anyio.lowlevel

from agentmesh.core.casebook import Case, mismatches
from agentmesh.core.expression import evaluate_bool
from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ModelBackend
from agentmesh.core.outside import Cluster, Databases, HttpClient
from agentmesh.core.policy import Principal
from agentmesh.core.question import questions
from agentmesh.core.run import Entry, Kind, Run, RunState, StepState
from agentmesh.core.store import RunFilter, Store
from agentmesh.engine import Engine, build_engine
from agentmesh.engine.definitions import Definition, load
from agentmesh.engine.recording import (
    Deck,
    RecordedCluster,
    RecordedDatabases,
    RecordedHttp,
    RecordedModels,
    recorded_functions,
)  # fmt: skip
from agentmesh.errors import MeshError, StepError

NOW = 1_767_225_600.0
"""Unix seconds at which every case begins: 2026-01-01 00:00 UTC. The clock moves only where a run waits."""
LEASE = 1e9
"""Seconds: the clock jumps over waits, and must not take a run away meanwhile."""
LIMIT = 120.0
"""Seconds of real time for one case on recordings."""
LIVE_LIMIT = 900.0
"""The same, where models are asked: one may have to be loaded first."""
_OTHERS = Principal()
"""Who answers and signals."""
IDLE = 0.5
"""Seconds without any change after which a run is looked at again."""


@dataclass(frozen=True, slots=True)
class World:
    """What lies outside, for recording and for live runs."""

    models: ModelBackend | None = None
    http: HttpClient | None = None
    databases: Databases | None = None
    cluster: Cluster | None = None


@dataclass(frozen=True)
class Played:
    """What became of one case. `failures`: a sentence each; `stale`: questions that the recording does not answer."""

    case: Case
    run: Run | None
    entries: Sequence[Entry] = ()
    definition: Definition | None = None
    failures: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    """Recorded and not asked any more; told, and no fault."""
    unrecorded: bool = False
    """Nothing was recorded for the case."""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.failures and not self.stale


@dataclass
class _Clock:
    """Moves when somebody sleeps, by as much at once."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.0)
        await anyio.lowlevel.checkpoint()


@dataclass
class Table:
    """Where cases are played: a mesh, and a store in memory for each."""

    mesh: Mesh
    open_store: Callable[[Callable[[], float]], Store]
    """A store with this clock."""
    world: World = field(default_factory=World)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    async def play(self, workflow: str, case: Case, input: Any, deck: Deck, *, live: bool = False) -> Played:
        """Runs a case. `live`: models are asked as they are, and what only reads; what may write is answered as it was recorded."""
        deck.lenient = live
        begun = monotonic()
        clock = _Clock()
        failures: list[str] = []
        run: Run | None = None
        entries: Sequence[Entry] = ()
        definition: Definition | None = None
        try:
            with anyio.fail_after(LIVE_LIMIT if live or deck.record else LIMIT):
                async with self.open_store(clock) as store:
                    engine = self._engine(store, clock, deck, live=live)
                    async with anyio.create_task_group() as group:
                        await group.start(engine.worker.run)
                        try:
                            run = await self._to_the_end(engine, workflow, case, input, clock, failures)
                            entries = await store.entries(run.id)
                            document = await store.get_definition(run.definition)
                            definition = load(run.definition, document or {})
                        except MeshError as error:
                            failures.append(error.message)
                        group.cancel_scope.cancel()
        except TimeoutError:
            failures.append(f"the case did not end within {LIVE_LIMIT if live or deck.record else LIMIT:g} s")
        stale = tuple(dict.fromkeys(deck.stale))
        if run is not None and not stale:
            failures += judge(case, run)
        return Played(
            case, run, entries, definition, tuple(failures), stale, tuple(deck.unused), deck.calls is None,
            monotonic() - begun,
        )  # fmt: skip

    def _engine(self, store: Store, clock: _Clock, deck: Deck, *, live: bool) -> Engine:
        world = self.world
        models = world.models if live and world.models is not None else RecordedModels(deck, world.models)
        return build_engine(
            self.mesh, store, models, clock=clock, sleep=clock.sleep, random=random.Random(0), worker_name="test",
            lease=LEASE, heartbeat=LEASE, secrets=self.secrets, functions=recorded_functions(self.mesh, deck),
            http=RecordedHttp(deck, world.http), databases=RecordedDatabases(deck, world.databases),
            cluster=RecordedCluster(deck, world.cluster),
        )  # fmt: skip

    async def _to_the_end(
        self, engine: Engine, workflow: str, case: Case, input: Any, clock: _Clock, failures: list[str]
    ) -> Run:
        principal = Principal(case.as_)
        changes = engine.store.changes()
        run = await engine.runs.start(principal, workflow, input, source="cli")
        for signal in case.signals:
            await engine.runs.signal(_OTHERS, run.id, signal.name, signal.value)
        while True:
            found = await engine.store.get_run(run.id)
            assert found is not None
            if found.state.terminal:
                return found
            if not await self._help(engine, case, clock, failures):
                await engine.runs.cancel(_OTHERS, run.id)
            with anyio.move_on_after(IDLE):
                await anext(changes)

    async def _help(self, engine: Engine, case: Case, clock: _Clock, failures: list[str]) -> bool:
        """Gives what the runs wait for: an answer of the case, or time. False when they wait for what it does not have."""
        page = await engine.store.list_runs(RunFilter(tenant=_OTHERS.tenant, limit=200))
        going = [run for head in page.runs if not head.state.terminal and (run := await engine.store.get_run(head.id))]
        asked = False
        for run in going:
            if run.state is not RunState.INPUT_REQUIRED:
                continue
            for question in questions(run):
                given = next((a for a in case.answers if a.step == question.path), None)
                if given is None:
                    if question.expires_at is None:
                        failures.append(
                            f"step {question.path} asks {question.ask!r}, and the case has no answer for it"
                        )
                        return False
                    continue
                asked = True
                await engine.runs.answer(_OTHERS, run.id, question=question.id, yes=given.yes, value=given.value)
        if asked or engine.worker.active or any(run.state is RunState.SUBMITTED for run in going):
            return True
        due = await engine.store.next_due()
        if due is not None:
            clock.now = max(clock.now, due)
            engine.worker.nudge()
            return True
        waiting = [s for run in going for s in run.steps.values() if s.state is StepState.WAITING and s.waiting]
        if not waiting:
            return True
        for step in waiting:
            what = f"signal {step.waiting.get('name')!r}" if step.waiting and "name" in step.waiting else "something"
            failures.append(f"step {step.path} waits for {what} that the case does not give")
        return False


def judge(case: Case, run: Run) -> Iterator[str]:
    """What is not as the case expects."""
    expect = case.expect
    if run.state.value != expect.state:
        why = f": {(run.error or {}).get('message')}" if run.error else ""
        yield f"the run {run.state.value}, expected {expect.state}{why}"
        return
    if "output" in expect.model_fields_set:
        yield from mismatches(expect.output, run.output, "output")
    if expect.error is not None:
        yield from mismatches(expect.error, run.error, "error")
    for path, wanted in expect.steps.items():
        step = run.steps.get(path)
        if step is None:
            yield f"there was no step {path}; there were {', '.join(run.steps) or 'none'}"
            continue
        if wanted.state is not None and step.state.value != wanted.state:
            yield f"step {path} {step.state.value}, expected {wanted.state}"
        if "output" in wanted.model_fields_set:
            yield from mismatches(wanted.output, step.output, f"steps.{path}.output")
        if wanted.attempts is not None and len(step.attempts) != wanted.attempts:
            yield f"step {path} took {len(step.attempts)} attempts, expected {wanted.attempts}"
    scope = {
        "input": run.input, "output": run.output, "state": run.state.value,
        "error": None if run.error is None else dict(run.error),
        "steps": {
            path: {
                "state": step.state.value, "output": step.output, "attempts": len(step.attempts),
                "error": None if step.error is None else dict(step.error),
            }
            for path, step in run.steps.items()
        },
    }  # fmt: skip
    for text in expect.that:
        try:
            if not evaluate_bool(text, scope):
                yield f"does not hold: {text}"
        except StepError as error:
            yield f"cannot be evaluated: {error.message}"


def attempts_of(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The rows of attempts, oldest first."""
    return (entry for entry in entries if entry.kind is Kind.STEP_ATTEMPT)
