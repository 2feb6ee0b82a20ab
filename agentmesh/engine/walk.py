"""Walk: the steps of one run, in reading order, from wherever its journal ends.

A recursive interpreter over the pinned definition. What the journal says has ended is not done again: its output is used. Everything
else is decided from journaled values alone, so that two walks of the same journal take the same way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import anyio

from agentmesh.core.expression import evaluate, evaluate_bool, render
from agentmesh.core.run import JSON, Entry, Kind, StepState, Why
from agentmesh.core.workflow import COMPENSATE, OnError, Step, Workflow, seconds
from agentmesh.engine.budget import Budget, limits_of
from agentmesh.engine.conversation import context_of
from agentmesh.engine.definitions import steps_of
from agentmesh.engine.faults import GaveUp, Leaving, StepFailed, error_of
from agentmesh.engine.journal import NOTHING, UNSET, Recorded, spent
from agentmesh.engine.steps import VERBS
from agentmesh.engine.validators import faults
from agentmesh.errors import Fail, InvalidOutput, MeshError, StepError, StepTimeout, StoreError

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

log = logging.getLogger("agentmesh.engine")
Scope = dict[str, JSON]
Ended = tuple[StepState, JSON, Mapping[str, JSON] | None]
"""State, output and error of a step."""


_BLOCKS = frozenset({"switch", "map", "parallel", "loop"})


def has_compensation(workflow: Workflow) -> bool:
    """Whether anything of it can be undone."""
    return any(step.compensate is not None for step in steps_of(workflow))


class Walk:
    """Walks one claimed run once."""

    def __init__(self, execution: Execution) -> None:
        self._run = execution
        self._recorded = execution.recorded
        self._budget = Budget(limits_of(execution.run, execution.definition.workflow.budget), *spent(execution.entries))
        self._completed: list[tuple[float, Step, str, Scope, JSON]] = []
        """Steps that have a compensation, with when they completed (the journal's seq), their scope and output."""
        self._undoing = False

    async def to_the_end(self) -> JSON:
        """The run's output."""
        workflow = self._run.definition.workflow
        scope = self._scope()
        output = await self._block(workflow.steps, "", scope)
        if workflow.output is not None:
            output = render(workflow.output, scope)
        if workflow.output_schema is not None:
            found = faults(workflow.output_schema, output, "output")
            if found:
                raise InvalidOutput("the run's output does not fit: " + "; ".join(f"{p}: {m}" for p, m in found))
        return output

    def _scope(self) -> Scope:
        run = self._run.run
        return {
            "input": run.input,
            "steps": {},
            "run": {"id": run.id, "workflow": run.workflow, "source": run.source},
            "context": context_of(run),
        }

    async def _block(self, steps: Sequence[Step], prefix: str, scope: Scope) -> JSON:
        """Steps in reading order; the last one's output."""
        output: JSON = None
        for step in steps:
            output = await self._step(step, prefix + step.id, scope)
        return output

    async def _step(self, step: Step, path: str, scope: Scope) -> JSON:
        recorded = self._recorded.get(path, NOTHING)
        if recorded.state is not None:
            state, output, error = recorded.state, recorded.output, recorded.error
            if self._undoing and recorded.begun and step.verb in _BLOCKS:
                with suppress(_EndOfJournal, StepFailed):  # only to gather what completed inside
                    await self._output(step.verb, step, path, scope, recorded)
        elif self._undoing and not recorded.begun:
            raise _EndOfJournal
        else:
            state, output, error = await self._unrecorded(step, path, scope, recorded)
        if step.compensate is not None and state is StepState.COMPLETED and not recorded.copied:
            order = recorded.ended_seq or 1e18 + len(self._completed)
            self._completed.append((order, step, path, scope, output))
        if state is StepState.FAILED and isinstance(step.on_error, OnError):
            assert error is not None
            state, output, error = await self._instead(step.on_error, path, scope, error)
        scope["steps"][step.id] = {"state": state.value, "output": output, "error": error}
        if state is StepState.FAILED and step.on_error != "continue":
            assert error is not None
            raise StepFailed(error.get("path") or path, error)
        return output

    async def _instead(self, on_error: OnError, path: str, scope: Scope, error: Mapping[str, JSON]) -> Ended:
        """The steps that take a failed one's place: what they yield is its output. It is still the failed one, by its state."""
        shown = {"code": error.get("code"), "message": error.get("message"), "path": error.get("path") or path}
        output = await self._block(on_error.steps, f"{path}/on_error/", _inner(scope) | {"error": shown})
        return StepState.COMPLETED, output, error

    async def _unrecorded(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> Ended:
        if self._run.bench.stopping():
            raise Leaving
        try:
            # A step that has begun is past its `if`, whatever the expression would say now.
            if step.if_ is not None and not recorded.begun and not evaluate_bool(step.if_, scope):
                skipped = Entry(Kind.STEP_SKIPPED, path, payload={"verb": step.verb, "reason": f"if: {step.if_}"})
                await self._run.journal.write(skipped, hold=True)
                return StepState.SKIPPED, None, None
            if self._run.definition.facts(step).verb in VERBS:
                if self._undoing:
                    raise _EndOfJournal
                perform = self._run.bench.perform
                return StepState.COMPLETED, await perform(self._run, self._budget, step, path, scope, recorded), None
            output, extra = await self._within_timeout(step, path, scope, recorded)
            payload = {"verb": step.verb, "output": output, **extra}
            await self._run.journal.write(Entry(Kind.STEP_COMPLETED, path, recorded.attempt or 1, payload), hold=True)
            return StepState.COMPLETED, output, None
        except (StoreError, Leaving, _EndOfJournal):
            raise
        except StepFailed as failed:
            error: Mapping[str, JSON] = {**failed.error, "path": failed.path}
        except GaveUp as gave_up:
            error = gave_up.error
        except Exception as fault:
            if not isinstance(fault, MeshError):
                log.exception("step %s of run %s failed", path, self._run.run.id)
            error = _plain(error_of(fault))
        tolerated = step.on_error is not None
        payload = {"verb": step.verb, "error": error, "tolerated": tolerated}
        await self._run.journal.write(Entry(Kind.STEP_FAILED, path, payload=payload), hold=True)
        return StepState.FAILED, None, error

    # Steps without I/O of their own

    async def _within_timeout(
        self, step: Step, path: str, scope: Scope, recorded: Recorded
    ) -> tuple[JSON, Mapping[str, JSON]]:
        """The output, and what else its STEP_COMPLETED keeps."""
        facts = self._run.definition.facts(step)
        limit = facts.timeout
        if limit is None or self._undoing:
            return await self._checked(facts.verb, step, path, scope, recorded)
        now = self._run.bench.clock()
        due = (recorded.begun_at or now) + limit  # a run that was parked meanwhile gets no more time than it had
        with self._run.waits.deadline(due), self._run.limit(path, due - now) as timer:
            return await self._checked(facts.verb, step, path, scope, recorded)
        assert timer.reached
        await self._run.cancel_children(path + "/", path + "[")
        raise StepTimeout(f"step {path} took longer than its timeout of {limit:g} s")

    async def _checked(
        self, verb: str, step: Step, path: str, scope: Scope, recorded: Recorded
    ) -> tuple[JSON, Mapping[str, JSON]]:
        output, extra = await self._output(verb, step, path, scope, recorded)
        if self._undoing:
            return output, extra
        if step.validate_:
            accepted = self._run.bench.accepted
            output = await accepted(self._run, self._budget, step, path, scope, recorded, output)
        return output, extra

    async def _output(
        self, verb: str, step: Step, path: str, scope: Scope, recorded: Recorded
    ) -> tuple[JSON, Mapping[str, JSON]]:
        extra: Mapping[str, JSON] = {}
        match verb:
            case "set":
                output = render(step.set, scope)
            case "switch":
                output = await self._switch(step, path, scope, recorded)
            case "map":
                output = await self._map(step, path, scope, recorded)
            case "parallel":
                output = await self._parallel(step, path, scope, recorded)
            case "loop":
                output = await self._loop(step, path, scope, recorded)
            case "wait":
                output, extra = await self._wait(step, path, scope, recorded)
            case "approve":
                output = await self._approve(step, path, scope, recorded)
            case _:
                raise Fail(f"the verb {verb!r} is not built yet")
        return output, extra

    async def _begin(self, path: str, verb: str, recorded: Recorded, **payload: JSON) -> None:
        """The row that a block begins with; once."""
        if not recorded.begun:
            started = {"verb": verb, "why": Why.FIRST.value, **payload}
            await self._run.journal.write(Entry(Kind.STEP_STARTED, path, 1, started), hold=True)

    async def _switch(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        assert step.switch is not None
        choice = recorded.choice
        if choice is UNSET:
            choice = next((i for i, case in enumerate(step.switch) if evaluate_bool(case.when, scope)), None)
            if choice is None and step.else_:
                choice = "else"
            await self._begin(path, "switch", recorded, choice=choice)
        if choice is None:
            return None
        steps = step.else_ if choice == "else" else step.switch[choice].steps
        return await self._block(steps or (), path + "/", _inner(scope))

    async def _map(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        assert step.map is not None
        assert step.steps is not None
        spec, steps = step.map, step.steps
        items = evaluate(spec.over, scope)
        if not isinstance(items, list):
            raise StepError(f"map: over must be a list: {spec.over}")
        collect = spec.on_error == "collect"
        await self._begin(path, "map", recorded, items=len(items))
        if recorded.begun and not collect and not self._undoing:
            for index in range(len(items)):
                self._raise_recorded_failure(steps, f"{path}[{index}]/")

        def branch(index: int) -> Callable[[], Awaitable[JSON]]:
            inner = _inner(scope) | {spec.as_: items[index]}
            return lambda: self._block(steps, f"{path}[{index}]/", inner)

        return await self._side_by_side(path, [branch(i) for i in range(len(items))], spec.at_once, collect=collect)

    async def _parallel(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        assert step.parallel is not None
        await self._begin(path, "parallel", recorded)
        if recorded.begun and not self._undoing:
            for name, steps in step.parallel.items():
                self._raise_recorded_failure(steps, f"{path}/{name}/")

        def branch(name: str, steps: Sequence[Step]) -> Callable[[], Awaitable[JSON]]:
            return lambda: self._block(steps, f"{path}/{name}/", _inner(scope))

        branches = [branch(name, steps) for name, steps in step.parallel.items()]
        outputs = await self._side_by_side(path, branches, len(branches))
        return dict(zip(step.parallel, outputs, strict=True))

    async def _side_by_side(
        self, path: str, branches: Sequence[Callable[[], Awaitable[JSON]]], at_once: int, *, collect: bool = False
    ) -> list[JSON]:
        """The branches' outputs in order, at most `at_once` of them at a time; the first failure cuts the others off unless `collect`."""
        outputs: list[JSON] = [None] * len(branches)
        failure: BaseException | None = None
        waiting = iter(enumerate(branches))
        count = min(at_once, len(branches))

        async def take(group: anyio.CancelScope) -> None:
            nonlocal failure
            for index, branch in waiting:
                try:
                    outputs[index] = await branch()
                    await self._run.journal.flush()
                except _EndOfJournal:
                    continue
                except StepFailed as failed:
                    if collect or self._undoing:
                        continue
                    failure = failure or failed
                except Leaving as leaving:
                    failure = failure or leaving
                    return  # the others come to the same conclusion by themselves
                except StoreError as error:
                    failure = error
                else:
                    continue
                places.stop()
                group.cancel()
                return

        async def place(group: anyio.CancelScope) -> None:
            try:
                await take(group)
            finally:
                places.ended()

        if count > 1:
            places = self._run.waits.branches(count)
            async with anyio.create_task_group() as group:
                for _ in range(count):
                    group.start_soon(place, group.cancel_scope)
        elif count:
            places = self._run.waits.branches(1)
            await take(anyio.CancelScope())
        if failure is not None:
            # Not when the store failed or the worker leaves: the run goes on, and finds its children where they are.
            if isinstance(failure, StepFailed) and not self._undoing:
                await self._run.cancel_children(path + "[", path + "/")
            raise failure
        return outputs

    def _raise_recorded_failure(self, steps: Sequence[Step], prefix: str) -> None:
        """A branch that failed ends its block before the others are taken up again."""
        for step in steps:
            recorded = self._recorded.get(prefix + step.id, NOTHING)
            if recorded.state is StepState.FAILED and step.on_error is None:
                assert recorded.error is not None
                raise StepFailed(recorded.error.get("path") or prefix + step.id, recorded.error)

    async def _loop(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        assert step.loop is not None
        spec = step.loop
        await self._begin(path, "loop", recorded)
        last: JSON = None
        for index in range(spec.max):
            inner = _inner(scope) | {"loop": {"index": index, "last": last}}
            if spec.while_ is not None and not evaluate_bool(spec.while_, inner):
                return last
            last = await self._block(step.steps or (), f"{path}[{index}]/", inner)
            if spec.until is not None and evaluate_bool(spec.until, inner | {"loop": {"index": index, "last": last}}):
                return last
        unending = spec.until is not None or (
            spec.while_ is not None
            and evaluate_bool(spec.while_, _inner(scope) | {"loop": {"index": spec.max, "last": last}})
        )
        if unending and spec.at_max == "fail":
            said = f"until: {spec.until}" if spec.until is not None else f"while: {spec.while_}"
            raise StepError(f"the loop {path} was not over after its {spec.max} rounds ({said})")
        return last

    # Steps that wait

    async def _wait(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> tuple[JSON, Mapping[str, JSON]]:
        assert step.wait is not None
        spec = step.wait
        if self._undoing:
            raise _EndOfJournal
        if recorded.waiting is not None:
            until: float | None = recorded.waiting.payload.get("until")
        elif spec.signal is not None:
            until = None if spec.expires is None else self._run.bench.clock() + seconds(spec.expires)
        elif spec.until is not None:
            until = _instant(evaluate(spec.until, scope), spec.until)
        else:
            until = self._run.bench.clock() + seconds(_duration(render(spec.for_, scope)))
        if recorded.waiting is None:
            payload: dict[str, JSON] = {"verb": "wait", "for": "timer" if spec.signal is None else "signal"}
            payload |= {"until": until} if spec.signal is None else {"name": spec.signal, "until": until}
            await self._run.journal.write(Entry(Kind.STEP_WAITING, path, 1, payload), hold=True)
        if spec.signal is None:
            assert until is not None
            await self._run.wait_until(until)
            return None, {}
        entry = await self._run.signal(path, spec.signal, until)
        value = entry.payload.get("value")
        found = [] if spec.schema_ is None else faults(spec.schema_, value, "value")
        if found:
            raise InvalidOutput(f"the signal {spec.signal!r} does not fit: " + "; ".join(f"{p}: {m}" for p, m in found))
        return value, {"signal": entry.seq}

    async def _approve(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        assert step.approve is not None
        spec = step.approve
        if self._undoing:
            raise _EndOfJournal
        answer = await self._run.ask(
            path, 1, kind="approval", verb="approve", ask=_text(render(spec.ask, scope)), show=render(spec.show, scope),
            form=spec.form, expires=None if spec.expires is None else seconds(spec.expires), subject=f"step:{path}",
        )  # fmt: skip
        return {"approved": True, "by": answer.by, "at": answer.at, "values": answer.value}

    # The way back

    async def undo(self) -> list[str]:
        """Compensates every completed step that says how, newest first; the paths of those that could not be undone."""
        self._undoing = True
        try:
            await self._block(self._run.definition.workflow.steps, "", self._scope())
        except (_EndOfJournal, StepFailed):
            pass  # as far as the run came
        self._undoing = False
        failed: list[str] = []
        for _, step, path, scope, output in sorted(self._completed, key=lambda item: item[0], reverse=True):
            if not await self.undo_step(step, path, scope, output):
                failed.append(path)
        return failed

    async def undo_step(self, step: Step, path: str, scope: Scope, output: JSON) -> bool:
        """Compensates one step, unless that is done already; whether it worked."""
        assert step.compensate is not None
        at = f"{path}/{COMPENSATE}"
        recorded = self._recorded.get(at, NOTHING)
        if recorded.state is None:
            inner = _inner(scope) | {"output": output}
            state, _, _ = await self._unrecorded(step.compensate, at, inner, recorded)
            await self._run.journal.flush()
        else:
            state = recorded.state
        return state is not StepState.FAILED


class _EndOfJournal(Exception):
    """A walk that only gathers what completed has come to where the run was. Never leaves this module."""


def _inner(scope: Scope) -> Scope:
    """A block's scope: what stood before it is visible; what it adds stays inside."""
    return {**scope, "steps": dict(scope["steps"])}


def _plain(error: dict[str, JSON]) -> dict[str, JSON]:
    return {k: v for k, v in error.items() if k not in ("retry", "after")}


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _duration(value: JSON) -> str | float:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return value
    raise StepError(f"wait: for must be a duration such as 5m, this is {value!r}")


def _instant(value: JSON, said: str) -> float:
    """Unix seconds of what `until` yields: a number, or a time as in RFC 3339 with its offset."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise StepError(f"wait: until must be Unix seconds or a time such as 2026-11-22T16:00:00Z: {said} is {value!r}")
    return instant.timestamp()
