"""Schedule: one seed's story, from the first run to the last, and what must hold of it afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.policy import Principal
from agentmesh.core.run import Entry, Kind, Run, RunState, StepState, fold
from agentmesh.core.workflow import Workflow
from agentmesh.engine import Engine, Runs, build_engine
from agentmesh.errors import Conflict, MeshError
from tests.engine import meshes
from tests.simulation.loop import SimulatedLoop, Stuck, scopes_in_order
from tests.simulation.programs import TOOLS, Generator, Program
from tests.simulation.store import Ledger, SimulatedStore
from tests.simulation.world import Life, Outside, World

LOCAL = Principal()
LEASE, HEARTBEAT = 10.0, 3.0
"""A third of the real ones: less to wait for."""
FAULTS_END = 30.0
"""Seconds of the schedule after which nothing more breaks."""
TOO_LONG = 4 * 3600.0
"""Seconds within which every run must have ended after that."""
REPLAYED = 8
"""Of so many schedules one has its runs replayed."""
ROWS = 4000
"""More journal rows than any of these runs needs."""


@dataclass
class Report:
    """What one schedule was; `faults` is empty when every promise was kept."""

    seed: int
    faults: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    """What happened: crashes, freezes, outages."""
    runs: int = 0
    turns: int = 0
    digest: str = ""
    """Of everything that was recorded: two of the same seed are the same."""
    outputs: set[str] = field(default_factory=set)
    """Of the runs that completed, without what differs from run to run; empty where chance decides."""
    trace: list[str] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)


def simulate(
    seed: int,
    *,
    verbs: frozenset[str] | None = None,
    calm: bool = False,
    database: Callable[..., MemoryStore] = MemoryStore,
) -> Report:
    """Plays one seed. `calm`: without any fault, which says what should come out."""
    report = Report(seed)
    loop: SimulatedLoop | None = None

    def new_loop() -> SimulatedLoop:
        nonlocal loop
        loop = SimulatedLoop()
        return loop

    story: Story | None = None

    async def main() -> None:
        nonlocal story
        assert loop is not None
        story = Story(seed, loop, report, verbs, database, calm=calm)
        await story.play()

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with scopes_in_order():
            anyio.run(main, backend_options={"loop_factory": new_loop})
    except Stuck as stuck:
        report.faults.append(str(stuck))
    except BaseExceptionGroup as group:
        if group.subgroup(Stuck) is None:
            raise
        report.faults.append(str(group))
    finally:
        logging.disable(before)
    assert story is not None
    assert loop is not None
    report.turns = loop.turns
    report.trace = story.world.trace
    story.judge()
    if seed % REPLAYED == 0:
        report.faults += anyio.run(story.replay)
    if not calm and seed % 4 == 0 and report.outputs:
        quiet = simulate(seed, verbs=verbs, calm=True)
        report.faults += [f"without any fault: {fault}" for fault in quiet.faults]
        if quiet.outputs and report.outputs != quiet.outputs:
            report.faults.append(f"the output is {report.outputs}, and without any fault {quiet.outputs}")
    return report


class Process:
    """One server process: an engine of its own on the shared database."""

    def __init__(self, story: Story, name: str) -> None:
        self.life = Life(story.world, name)
        self.store = SimulatedStore(self.life, story.ledger)
        self._scope = anyio.CancelScope()
        outside = Outside(self.life)
        self.engine: Engine = build_engine(
            story.mesh, self.store, ScriptedModel(outside.model),  # type: ignore[arg-type]
            clock=self.life.clock, random=random.Random(story.rng.random()), sleep=outside.sleep,
            functions={"sim:work": outside.work, "sim:refuse": outside.refuse}.__getitem__, worker_name=name,
            concurrency=story.rng.choice((1, 2, 32)), lease=LEASE, heartbeat=HEARTBEAT, http=outside,
        )  # fmt: skip
        # Found in a thread otherwise, and threads end when they like.
        self.engine.tools._resolved.update({"sim:work": outside.work, "sim:refuse": outside.refuse})

    async def run(self) -> None:
        with self._scope:
            async with anyio.create_task_group() as group:
                group.start_soon(self.store.write)
                await self.engine.worker.run()
                group.cancel_scope.cancel()

    def kill(self) -> None:
        """SIGKILL: from this moment on it reads, writes and does nothing; its tasks are swept up."""
        self.store.die()
        self._scope.cancel()

    @property
    def alive(self) -> bool:
        return not self.life.dead


class Story:
    """Plays: some processes, a client that starts, signals and answers, and whatever breaks."""

    def __init__(
        self,
        seed: int,
        loop: SimulatedLoop,
        report: Report,
        verbs: frozenset[str] | None,
        database: Callable[..., MemoryStore],
        *,
        calm: bool,
    ) -> None:
        self.seed = seed
        self.report = report
        self.calm = calm
        self.programs = {p.name: p for p in Generator(random.Random(f"program {seed}"), verbs).programs()}
        report.programs = list(self.programs.values())
        self.rng = random.Random(f"story {seed}")
        self.world = World(loop, self.rng, database)
        self.ledger = Ledger()
        workflows = [Workflow.model_validate({"input": meshes.TEXT} | p.document()) for p in self.programs.values()]
        self.mesh = meshes.mesh(*workflows, tools=TOOLS)
        self.processes: list[Process] = []
        self._numbers = 0
        self.started: dict[str, str] = {}
        """Key -> run id."""
        self._posted: Counter[tuple[str, str]] = Counter()
        self._canceled: set[str] = set()

    async def play(self) -> None:
        rng = self.rng
        async with anyio.create_task_group() as group:
            self._group = group
            for _ in range(1 if self.calm else rng.choices((1, 2, 3), (3, 3, 1))[0]):
                self._begin()
            if not self.calm:
                self._plan()
            with anyio.move_on_after(FAULTS_END + TOO_LONG):
                await self._be_client()
            for process in self.processes:
                if process.alive:
                    process.kill()
            group.cancel_scope.cancel()

    # What breaks

    def _begin(self) -> None:
        self._numbers += 1
        process = Process(self, f"p{self._numbers}")
        self.processes.append(process)
        self._group.start_soon(process.run)

    def _plan(self) -> None:
        """Draws the faults of this schedule."""
        rng = self.rng
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            self._group.start_soon(self._crash_later, rng.expovariate(1 / 2) if rng.random() < 0.8 else None)
        if rng.random() < 0.2:
            self._group.start_soon(self._stop_later, rng.expovariate(1 / 2))
        if rng.random() < 0.3:
            self._group.start_soon(self._freeze_later, rng.expovariate(1 / 2), rng.choice((2.0, 11.0, 25.0)))
        if rng.random() < 0.3:
            self._group.start_soon(self._outage_later, rng.expovariate(1 / 2), rng.choice((0.2, 3.0, 15.0)))
        if rng.random() < 0.15:
            self._group.start_soon(self._jump_later, rng.expovariate(1 / 2), rng.choice((3600.0, -200.0, 15.0, -15.0)))
        if rng.random() < 0.15:
            for process in self.processes:
                process.life.skew = rng.choice((0.0, 7.0, -7.0))

    def _alive(self) -> list[Process]:
        return [process for process in self.processes if process.alive]

    async def _crash_later(self, seconds: float | None) -> None:
        if seconds is None:  # between two turns of the loop, wherever they are
            turned = anyio.Event()
            self.world.loop.at_turn(self.world.loop.turns + self.rng.randint(1, 600), turned.set)
            with anyio.move_on_after(FAULTS_END):
                await turned.wait()
        else:
            await anyio.sleep(min(seconds, FAULTS_END))
        alive = self._alive()
        if alive:
            process = self.rng.choice(alive)
            self.world.note(f"{process.life.name} is killed")
            self.report.kinds["crash"] += 1
            process.kill()
            await anyio.sleep(self.rng.choice((0.0, 1.0, 12.0)))
            self._begin()

    async def _stop_later(self, seconds: float) -> None:
        """SIGTERM: nothing more is claimed, what is in flight gets its moment, the rest is given back."""
        await anyio.sleep(min(seconds, FAULTS_END))
        if alive := self._alive():
            process = self.rng.choice(alive)
            self.world.note(f"{process.life.name} is told to stop")
            self.report.kinds["stop"] += 1
            process.engine.worker.stop()
            self._begin()
            await anyio.sleep(20)
            process.kill()

    async def _freeze_later(self, seconds: float, length: float) -> None:
        await anyio.sleep(min(seconds, FAULTS_END))
        alive = self._alive()
        if alive:
            life = self.rng.choice(alive).life
            self.world.note(f"{life.name} is stopped for {length} s")
            self.report.kinds["freeze"] += 1
            life.frozen_until = self.world.loop.time() + length
            if len(alive) == 1:
                self._begin()

    async def _outage_later(self, seconds: float, length: float) -> None:
        await anyio.sleep(min(seconds, FAULTS_END))
        self.world.note(f"the database is away for {length} s")
        self.report.kinds["outage"] += 1
        self.world.out_until = self.world.loop.time() + length

    async def _jump_later(self, seconds: float, by: float) -> None:
        await anyio.sleep(min(seconds, FAULTS_END))
        self.world.note(f"the clock jumps by {by} s")
        self.report.kinds["jump"] += 1
        self.world.jump += by

    # What a client does

    async def _be_client(self) -> None:
        rng = self.rng
        for number in range(rng.randint(1, 3)):
            await self._start(f"key{number}")
            if rng.random() < 0.3:
                await anyio.sleep(rng.uniform(0, 1))
        if not self.calm and rng.random() < 0.1:
            self._group.start_soon(self._cancel_later, rng.uniform(0, 10))
        while not await self._all_ended():
            await self._talk()
            await anyio.sleep(rng.uniform(0.05, 2))

    async def _start(self, key: str) -> None:
        """Until somebody says that it is recorded; now and then once more after that."""
        while True:
            alive = self._alive()
            if alive:
                engine = self.rng.choice(alive).engine
                with suppress(MeshError), anyio.move_on_after(20):
                    run = await engine.runs.start(LOCAL, "main", {"text": "hello"}, key=key)
                    if self.started.setdefault(key, run.id) != run.id:
                        self.report.faults.append(f"the key {key} started {run.id} and {self.started[key]}")
                    if self.rng.random() < 0.8:
                        return
                    continue
            await anyio.sleep(0.5)

    async def _all_ended(self) -> bool:
        runs = self._runs()
        return len(self.started) > 0 and all(run.state.terminal for run in runs)

    def _runs(self) -> list[Run]:
        return [row.run for row in self.world.database._rows.values()]

    async def _talk(self) -> None:
        """Posts the signals a run may need, each more than once, and answers what is asked, more than once."""
        for run in self._runs():
            if run.state.terminal:
                continue
            for name, count in self.programs[run.workflow].signals.items():
                for number in range(count):
                    if self._posted[run.id, f"{name}{number}"] < 3 and self.rng.random() < 0.7:
                        self._posted[run.id, f"{name}{number}"] += 1
                        self._group.start_soon(self._signal, run.id, name, f"{name}{number}")
            if self.rng.random() < 0.5:
                for _ in range(self.rng.randint(1, 3)):
                    self._group.start_soon(self._answer, run.id)

    async def _signal(self, run_id: str, name: str, key: str) -> None:
        """Until somebody says that it is recorded, or that the run has ended."""
        await self._insist(lambda runs: runs.signal(LOCAL, run_id, name, {"by": key}, key=key))

    async def _insist(self, ask: Callable[[Runs], Awaitable[object]]) -> None:
        while True:
            if alive := self._alive():
                with anyio.move_on_after(20):
                    try:
                        await ask(self.rng.choice(alive).engine.runs)
                        return
                    except Conflict:
                        return
                    except MeshError:
                        pass
            await anyio.sleep(0.5)

    async def _answer(self, run_id: str) -> None:
        alive = self._alive()
        if not alive:
            return
        runs = self.rng.choice(alive).engine.runs
        with suppress(MeshError), anyio.move_on_after(20):
            for question in await runs.questions(LOCAL, run_id):
                await runs.answer(LOCAL, run_id, question=question.id, yes=True, digest=question.digest)

    async def _cancel_later(self, seconds: float) -> None:
        await anyio.sleep(seconds)
        for run_id in list(self.started.values()):
            self._canceled.add(run_id)
            self.report.kinds["cancel"] += 1
            await self._insist(partial(_cancel, run_id))

    # What must hold

    def judge(self) -> None:
        """Every promise, on everything that was recorded."""
        report, faults = self.report, self.report.faults
        faults += self.ledger.faults
        faults += [f"one key for two things: {clash}" for clash in self.world.effects.clashes]
        told = hashlib.sha256()
        effects: dict[str, dict[str, int]] = defaultdict(dict)
        for key, count in self.world.effects.done.items():
            run_id, _, path = key.partition("/")
            effects[run_id][path] = count
        rows = list(self.world.database._rows.values())
        report.runs = len(rows)
        for row in rows:
            run, entries = row.run, row.entries
            faults += [f"{run.workflow} {run.id}: {fault}" for fault in check_run(run, entries, effects[run.id])]
            told.update(json.dumps([[e.kind, e.path, e.attempt, round(e.at, 6)] for e in entries]).encode())
        if "no key" in self.world.effects.done:
            faults.append("something was done without an idempotency key")
        strangers = effects.keys() - {row.run.id for row in rows}
        if strangers:
            faults.append(f"effects of runs that were never recorded: {sorted(strangers)}")
        if set(self.started.values()) - {row.run.id for row in rows}:
            faults.append("a run that was accepted is not there")
        report.digest = told.hexdigest()
        self._judge_ends()

    async def replay(self) -> list[str]:
        """Every run that ended, walked again from its journal, comes to what was recorded without asking anybody."""
        engine = build_engine(self.mesh, self.world.database, ScriptedModel([]), clock=self.world.now)
        found = []
        for run in self._runs():
            if run.state.terminal:
                again = await engine.history.replay(LOCAL, run.id)
                if not again.same:
                    found.append(f"{run.workflow} {run.id} does not replay: {again}"[:1000])
        return found

    def _judge_ends(self) -> None:
        """Whatever broke, the runs end as they would have without it."""
        broken = any(p.chancy for p in self.programs.values())
        for run_id in self.started.values():
            run = self.world.database._rows[run_id].run if run_id in self.world.database._rows else None
            if run is None or not run.state.terminal:
                continue
            expected = RunState.FAILED if self.programs["main"].fails else RunState.COMPLETED
            allowed = {expected} | ({RunState.CANCELED} if run_id in self._canceled else set())
            if run.state not in allowed:
                self.report.faults.append(f"main {run_id} is {run.state}, not {expected}: {run.error}")
            self.report.kinds[run.state.value] += 1
            if not broken and run.state is RunState.COMPLETED:
                self.report.outputs.add(_plain(run.output))
        if len(self.report.outputs) > 1:
            self.report.faults.append(f"runs of one program and input gave {self.report.outputs}")


async def _cancel(run_id: str, runs: Runs) -> None:
    await runs.cancel(LOCAL, run_id)


def _plain(output: Any) -> str:
    """An output without what differs from run to run (who approved when)."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in ("at", "by", "child", "run", "waited", "fired")}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return json.dumps(strip(output), sort_keys=True, default=str)


def check_run(run: Run, entries: Sequence[Entry], effects: dict[str, int]) -> list[str]:
    """What holds of one run, whatever happened."""
    faults: list[str] = []
    if not run.state.terminal:
        last = [f"{e.kind} {e.path}" for e in entries[-5:]]
        faults.append(f"did not end: {run.state}, last {last}")
    if [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
        faults.append("the journal has a gap")
    if len(entries) > ROWS:
        faults.append(f"the journal has {len(entries)} rows")
    bare = Run(
        run.id, run.workflow, run.definition, run.input, owner=run.owner, tenant=run.tenant, source=run.source, key=run.key,
        parent=run.parent, parent_path=run.parent_path, created_at=run.created_at,
    )  # fmt: skip
    if fold(bare, entries) != run:
        faults.append("the fold of the journal is not the head")
    begun: Counter[str] = Counter()
    ended: set[str] = set()
    taken: Counter[int] = Counter()
    for entry in entries:
        if entry.path and entry.path in ended:
            faults.append(f"{entry.kind} of {entry.path} after its end")
        if entry.kind is Kind.STEP_STARTED:
            begun[entry.path] += 1
        elif entry.kind in (Kind.STEP_COMPLETED, Kind.STEP_FAILED, Kind.STEP_SKIPPED):
            ended.add(entry.path)
            if entry.payload.get("signal"):
                taken[entry.payload["signal"]] += 1
    faults += [f"signal {seq} was used {count} times" for seq, count in taken.items() if count > 1]
    for path, count in effects.items():
        step = run.steps.get(path)
        if begun[path] == 0:
            faults.append(f"{path} was done, and never begun")
        elif count > begun[path]:
            faults.append(f"{path} was done {count} times in {begun[path]} attempts")
    for path, step in run.steps.items():
        writes = step.verb in ("http", "python", "tool") and step.state is StepState.COMPLETED
        if writes and path not in effects and run.forked_from is None:
            faults.append(f"{path} is completed, and was never done")
    return faults
