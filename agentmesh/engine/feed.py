"""Feed: the attempts of a step that does I/O, as a journal has them, in the place of `engine.perform`.

What came from outside is taken from the rows: answers, errors, what a judge or a person said. What the definition makes of it is
worked out again and held against them: why there was a further attempt, what a model was asked, what the checks that need nobody
say of its answer, and that the step's output is the answer which passed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agentmesh.core.expression import render
from agentmesh.core.run import JSON, Entry, Kind, Why
from agentmesh.core.verdict import Outcome
from agentmesh.core.workflow import Step
from agentmesh.engine.attempts import Ask, Attempt, Fallback, Follows, GiveUp, Plan, Try, Undo
from agentmesh.engine.budget import Budget
from agentmesh.engine.definitions import FREE
from agentmesh.engine.faults import GaveUp
from agentmesh.engine.journal import Recorded, recall
from agentmesh.engine.steps import hash_of, question
from agentmesh.engine.tape import Tape
from agentmesh.engine.validators import check_output, render_schema
from agentmesh.errors import MeshError

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

Scope = dict[str, JSON]
_WITH_SCHEMA = ("llm", "python", "agent")
"""Verbs whose output schema is that of the whole output."""


@dataclass(frozen=True, slots=True)
class Performed:
    """A step that does I/O, as it was replayed. `output` is None when it failed."""

    step: Step
    path: str
    scope: Mapping[str, JSON]
    rows: Sequence[Entry]
    output: JSON


Observer = Callable[[Performed], None]
Perform = Callable[["Execution", Budget, Step, str, Scope, Recorded], Awaitable[JSON]]


def feed(tape: Tape, observer: Observer | None = None) -> Perform:
    """What to put in the place of `engine.perform.perform`."""

    async def perform(run: Execution, budget: Budget, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        output = await _Course(tape, run, budget, step, path, scope).to_the_end()
        if observer is not None:
            observer(Performed(step, path, scope, tape.family(path), output))
        return output

    return perform


def feed_checks(tape: Tape) -> Callable[[Execution, Budget, Step, str, Scope, Recorded, JSON], Awaitable[JSON]]:
    """What to put in the place of `engine.perform.accepted`: the checks of a step whose output is made by the walk."""

    async def accepted(
        run: Execution, budget: Budget, step: Step, path: str, scope: Scope, recorded: Recorded, output: JSON
    ) -> JSON:
        if not step.validate_:
            return output
        return await _Course(tape, run, budget, step, path, scope, made=(output,)).to_the_end()

    return accepted


class _Course:
    """One step, attempt after attempt."""

    def __init__(
        self, tape: Tape, run: Execution, budget: Budget, step: Step, path: str, scope: Scope,
        made: tuple[JSON, ...] = (),
    ) -> None:  # fmt: skip
        """`made`: the output, when somebody else has made it."""
        self._tape = tape
        self._run = run
        self._budget = budget
        self._step = step
        self._path = path
        self._scope = scope
        self._made = made
        self._key = f"{run.run.id}/{path}"
        self._facts = run.definition.facts(step)
        self._plan = Plan(step, key=self._key, risky=self._facts.writes and not self._facts.idempotent)
        self._follows: Follows | None = Try(Why.FIRST)
        self._open = False
        self._last: Mapping[str, JSON] = {}

    async def to_the_end(self) -> JSON:
        for row in self._tape.family(self._path):
            if self._made and row.kind in (Kind.STEP_COMPLETED, Kind.STEP_FAILED) and row.path == self._path:
                break  # the walk's to write
            if self._tape.played(row):
                continue
            if row.path != self._path:
                await self._tape.write(row)
                continue
            match row.kind:
                case Kind.STEP_STARTED:
                    await self._tape.write(self._started(row))
                case Kind.STEP_INTENT:
                    await self._tape.write(replace(row, payload={**row.payload, "key": self._key}))
                case Kind.STEP_ATTEMPT:
                    if not (self._open or self._made or self._last.get("awaits")):
                        await self._tape.write(self._started(replace(row, kind=Kind.STEP_STARTED, payload={"why": ""})))
                    await self._tape.write(await self._attempt(row))
                case Kind.STEP_COMPLETED:
                    output = await self._output(row)
                    end = {**row.payload, "verb": self._facts.verb, "output": output}
                    await self._tape.write(replace(row, payload=end))
                    return output
                case Kind.STEP_FAILED:
                    await self._give_up(row)
                case _:
                    await self._tape.write(row)
        if self._made and (self._follows is None or not self._last):
            return await self._made_output()
        if isinstance(self._follows, GiveUp | Undo):
            await self._give_up(None)
        return await self._tape.stand(self._path, Kind.STEP_STARTED)

    def _started(self, row: Entry) -> Entry:
        why = row.payload.get("why")
        match self._follows:
            case _ if self._open:
                why = Why.RESUME.value
            case Try():
                why = self._follows.why.value
            case Ask():
                why = "ask"
            case Fallback():
                why = "fallback"
            case GiveUp() | Undo():
                why = "none: the step gives up"
        self._open = True
        return replace(row, payload={**row.payload, "verb": self._facts.verb, "why": why})

    async def _attempt(self, row: Entry) -> Entry:
        """The row as it would be written again; what follows it."""
        self._open = False
        payload = dict(row.payload)
        if isinstance(self._follows, Fallback):
            payload["output"] = render(self._follows.value, self._scope)
        elif isinstance(self._follows, Try) and self._follows.recheck is None and not payload.get("error"):
            if "prompt_hash" in payload:
                payload["prompt_hash"] = await self._asked(row, self._follows) or payload["prompt_hash"]
            if "output" in payload:
                payload["verdicts"] = self._checked(payload)
                if not payload["verdicts"] and "verdicts" not in row.payload:
                    del payload["verdicts"]
        self._last = payload
        self._follows = None if _passed(payload) else self._plan.note(row.payload, row.at)
        return replace(row, payload=payload)

    async def _asked(self, row: Entry, follows: Try) -> str | None:
        """The hash of what the model is asked last by this attempt; None when it cannot be told from here."""
        spec = self._step.llm
        if spec is None or (spec.tools is not None and row.payload.get("cached")):
            return None
        a = Attempt(
            self._step, self._path, row.attempt, self._scope, self._key, None, lambda: None, self._budget,
            follows.model, follows.prior, None, follows.sample, follows.errors, follows.tries,
        )  # fmt: skip
        try:
            return hash_of(question(self._run, a)) if spec.tools is None else await self._said(a)
        except MeshError as error:
            return f"none: {error.message}"
        except LookupError:
            return None

    async def _said(self, a: Attempt) -> str | None:
        """The same of an agent, whose conversation is gone through again on the turns and calls that the journal has."""
        from agentmesh.engine.agent_loop import converse

        turns = [entry for entry in self._tape.family(self._path) if entry.path != self._path]
        self._run.recorded.update(recall(turns))
        return (await converse(self._run, a)).prompt_hash

    def _checked(self, payload: Mapping[str, JSON]) -> list[JSON]:
        """The verdicts, with those of the checks that need nobody as they are now."""
        recorded: Sequence[Mapping[str, Any]] = payload.get("verdicts") or ()
        now = self._verdicts(payload.get("output"))
        told, found = self._fails(recorded), self._fails(now)
        if told <= found and bool(told) == bool(found):
            return list(recorded)
        return [*now, *(v for v in recorded if v.get("validator") not in FREE)]

    def _verdicts(self, output: JSON) -> list[dict[str, JSON]]:
        schema = self._step.output if self._facts.verb in ("python", "agent") else None
        if self._step.llm is not None and self._step.llm.output is not None:
            schema = render_schema(self._step.llm.output, self._scope)
        return [v.to_json() for v in check_output(self._facts.free, output, self._scope, schema=schema)]

    def _fails(self, verdicts: Sequence[Mapping[str, Any]]) -> set[tuple[JSON, JSON, JSON]]:
        """What did not pass, of the checks that are made again here."""
        kinds = set(FREE)
        if self._facts.verb not in _WITH_SCHEMA and all(v.schema_ is None for v in self._step.validate_):
            kinds.discard("schema")  # the verb's own, which knows what it is about
        return {
            (v.get("validator"), v.get("path", ""), v.get("message", ""))
            for v in verdicts
            if v.get("validator") in kinds and v.get("outcome") == Outcome.FAIL.value
        }

    async def _output(self, row: Entry) -> JSON:
        """The output that follows from the attempts."""
        if self._follows is not None or not _passed(self._last):
            await self._tape.differ(row, None, "the step completed, and no attempt before it has passed")
        if "output" in self._last:
            return self._last["output"]
        output = row.payload.get("output")
        for verdict in self._verdicts(output):
            if verdict["outcome"] == Outcome.FAIL.value:
                await self._tape.differ(
                    row, None, f"the output does not pass: {verdict.get('path')}: {verdict.get('message')}"
                )
        return output

    async def _made_output(self) -> JSON:
        output = self._last.get("output", self._made[0])
        verdicts = [] if self._last else self._verdicts(output)
        if not _passed({"verdicts": verdicts}):  # which would have been told
            payload: dict[str, JSON] = {"usage": {}, "verdicts": verdicts, "output": output}
            await self._tape.write(Entry(Kind.STEP_ATTEMPT, self._path, 1, payload))
        return output

    async def _give_up(self, row: Entry | None) -> None:
        follows = self._follows
        if isinstance(follows, Undo):
            await self._run.undo_step(self._step, self._path, self._scope, follows.output)
        if isinstance(follows, GiveUp | Undo):
            raise GaveUp(follows.error)
        assert row is not None
        raise GaveUp(row.payload.get("error") or {})


def _passed(payload: Mapping[str, JSON]) -> bool:
    verdicts = payload.get("verdicts") or ()
    return bool(payload) and not payload.get("error") and all(v.get("outcome") == Outcome.PASS.value for v in verdicts)
