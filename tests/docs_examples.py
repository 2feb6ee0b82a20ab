"""Runs an example of the language reference on the in-memory adapters, by the script in its last lines.

An example is a workflow file whose last lines are comments, each `# KEY: YAML`:

    input    what the run is given
    model    answers of the model, in order; {tool, with} is a tool that it asks for
    http     answers to HTTP requests, in order: {status, headers, body}, or the code of an error
    sql      answers of the databases, in order: {rows: [...]}
    person   answers to questions, in order: {approved, value}
    signals  [{name, value}], sent once the run waits
    runs     how often it is run, one after another; once when not given
    output   what must come out, or
    error    the code with which it must fail
    sent     method and address of each HTTP request
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import yaml

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import Said, ScriptedModel, use
from agentmesh.adapters.memory_outside import ScriptedCluster, ScriptedDatabases, ScriptedHttp
from agentmesh.core.mesh import Mesh
from agentmesh.core.outside import HttpAnswer, Rows
from agentmesh.core.policy import Principal
from agentmesh.core.run import Run, RunState
from agentmesh.engine import Engine, build_engine
from agentmesh.engine.functions import resolve_function
from agentmesh.errors import NotSent, Unanswered

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
WHO = Principal()
KEYS = {"input", "runs", "model", "http", "sql", "person", "signals", "output", "error", "sent"}
_LINE = re.compile(r"^# ([a-z]+): (.*)$")
_ERRORS = {"not_sent": NotSent, "unanswered": Unanswered}
_NAP = 3600.0


def script_of(file: Path) -> dict[str, Any]:
    """The last lines of an example."""
    found: dict[str, Any] = {}
    for line in reversed(file.read_text().splitlines()):
        match = _LINE.match(line)
        if match is None:
            break
        found[match[1]] = yaml.safe_load(match[2])
    assert found.keys() <= KEYS, f"{file.name}: unknown {found.keys() - KEYS}"
    assert {"input"} < found.keys(), f"{file.name} says what goes in and what comes out"
    return found


def _said(answer: Any) -> Said:
    return use(answer["tool"], **answer.get("with", {})) if isinstance(answer, Mapping) and "tool" in answer else answer


def _answered(answer: Any) -> Any:
    if isinstance(answer, str):
        return _ERRORS[answer]()
    headers = {"content-type": "application/json", **answer.get("headers", {})}
    return HttpAnswer(answer.get("status", 200), headers, answer.get("body"))


class Time:
    """A clock that moves by itself where somebody waits by it."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await anyio.lowlevel.checkpoint()


async def play(mesh: Mesh, name: str, script: Mapping[str, Any]) -> None:
    """Runs the example; what it is said to give must come out, and no answer may be left over."""
    clock = Time()
    model = ScriptedModel([_said(answer) for answer in script.get("model", [])])
    http = ScriptedHttp([_answered(answer) for answer in script.get("http", [])])
    rows = iter(script.get("sql", []))
    databases = ScriptedDatabases(lambda *_: Rows((found := next(rows)["rows"]), len(found)))
    functions = {"statistics:mean": resolve_function("statistics:mean")}
    async with MemoryStore(clock=clock) as store:
        engine = build_engine(
            mesh, store, model, clock=clock, random=random.Random(1), sleep=clock.sleep, http=http, databases=databases,
            cluster=ScriptedCluster(functions), secrets={"DESK_HOOK": "secret"},
        )  # fmt: skip
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                await group.start(engine.worker.run)
                for _ in range(script.get("runs", 1)):
                    run = await _ended(engine, clock, name, script)
                group.cancel_scope.cancel()
    error = run.error or {}
    if "error" in script:
        assert error.get("code") == script["error"], (run.state, error)
    else:
        assert run.state is RunState.COMPLETED, error
        assert run.output == script["output"]
    assert len(model.requests) == len(script.get("model", [])), "each answer of the script is asked for"
    assert len(http.requests) == len(script.get("http", []))
    if "sent" in script:
        assert [f"{sent.method} {sent.url}" for sent in http.requests] == script["sent"]


async def _ended(engine: Engine, clock: Time, name: str, script: Mapping[str, Any]) -> Run:
    """The run when it has ended: meanwhile questions are answered, signals are sent, and time passes."""
    run = await engine.runs.start(WHO, name, script["input"])
    answers, signals = list(script.get("person", [])), list(script.get("signals", []))
    while not run.state.terminal:
        await anyio.lowlevel.checkpoint()
        run = await engine.runs.get(WHO, run.id)
        if engine.worker.active:
            continue
        if run.state is RunState.INPUT_REQUIRED and answers:
            answer = answers.pop(0)
            run = await engine.runs.answer(WHO, run.id, yes=answer.get("approved", True), value=answer.get("value"))
        elif signals and any(step.waiting for step in run.steps.values()):
            signal = signals.pop(0)
            await engine.runs.signal(WHO, run.id, signal["name"], signal["value"])
        else:
            clock.now += _NAP
            engine.worker.nudge()
            await anyio.sleep(0.001)
    assert not answers
    assert not signals
    return await engine.runs.get(WHO, run.id)


def names() -> list[str]:
    """Every example."""
    return sorted(file.stem for file in (EXAMPLES / "workflows").glob("*.yaml"))
