"""Walk: the steps of one run, in reading order, from wherever its journal ends.

A recursive interpreter over the pinned definition. What the journal says has ended is not done again: its output is used. Everything
else is decided from journaled values alone, so that two walks of the same journal take the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import anyio

from agentmesh.core.expression import evaluate, evaluate_bool, render
from agentmesh.core.run import JSON, Entry, Kind, StepState, Why
from agentmesh.core.verdict import Outcome
from agentmesh.core.workflow import Step
from agentmesh.engine.attempts import GiveUp, Plan
from agentmesh.engine.budget import Budget
from agentmesh.engine.faults import GaveUp, Leaving, StepFailed, error_of
from agentmesh.engine.journal import NOTHING, UNSET, Recorded, recall, spent
from agentmesh.engine.limit import UNLIMITED, Limit
from agentmesh.engine.steps import VERBS
from agentmesh.engine.validators import check_output, faults
from agentmesh.errors import Fail, InvalidOutput, MeshError, StepError, StepTimeout, StoreError

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

log = logging.getLogger("agentmesh.engine")
Scope = dict[str, JSON]


class Walk:
    """Walks one claimed run once."""

    def __init__(self, execution: Execution, entries: Sequence[Entry]) -> None:
        """`entries`: the run's journal as it was claimed."""
        self._run = execution
        self._recorded: dict[str, Recorded] = recall(entries)
        self._budget = Budget(execution.definition.workflow.budget, *spent(entries))

    async def to_the_end(self) -> JSON:
        """The run's output."""
        workflow = self._run.definition.workflow
        scope: Scope = {
            "input": self._run.run.input,
            "steps": {},
            "run": {"id": self._run.run.id, "workflow": self._run.run.workflow, "source": self._run.run.source},
            "context": {"id": self._run.run.context_id},
        }
        output = await self._block(workflow.steps, "", scope)
        if workflow.output is not None:
            output = render(workflow.output, scope)
        if workflow.output_schema is not None:
            found = faults(workflow.output_schema, output, "output")
            if found:
                raise InvalidOutput("the run's output does not fit: " + "; ".join(f"{p}: {m}" for p, m in found))
        return output

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
        else:
            state, output, error = await self._unrecorded(step, path, scope, recorded)
        scope["steps"][step.id] = {"state": state.value, "output": output, "error": error}
        if state is StepState.FAILED and step.on_error != "continue":
            assert error is not None
            raise StepFailed(error.get("path") or path, error)
        return output

    async def _unrecorded(
        self, step: Step, path: str, scope: Scope, recorded: Recorded
    ) -> tuple[StepState, JSON, Mapping[str, JSON] | None]:
        if self._run.bench.stopping():
            raise Leaving
        try:
            # A step that has begun is past its `if`, whatever the expression would say now.
            if step.if_ is not None and not recorded.begun and not evaluate_bool(step.if_, scope):
                skipped = Entry(Kind.STEP_SKIPPED, path, payload={"verb": step.verb, "reason": f"if: {step.if_}"})
                await self._run.journal.write(skipped, hold=True)
                return StepState.SKIPPED, None, None
            if self._run.definition.facts(step).verb in VERBS:
                return (
                    StepState.COMPLETED,
                    await self._run.bench.perform(self._run, self._budget, step, path, scope, recorded),
                    None,
                )
            output = await self._within_timeout(step, path, scope, recorded)
            done = Entry(Kind.STEP_COMPLETED, path, recorded.attempt or 1, {"verb": step.verb, "output": output})
            await self._run.journal.write(done, hold=True)
            return StepState.COMPLETED, output, None
        except (StoreError, Leaving):
            raise
        except StepFailed as failed:
            error: Mapping[str, JSON] = {**failed.error, "path": failed.path}
        except GaveUp as gave_up:
            error = gave_up.error
        except Exception as fault:
            if not isinstance(fault, MeshError):
                log.exception("step %s of run %s failed", path, self._run.run.id)
            error = _plain(error_of(fault))
        tolerated = step.on_error == "continue"
        payload = {"verb": step.verb, "error": error, "tolerated": tolerated}
        await self._run.journal.write(Entry(Kind.STEP_FAILED, path, payload=payload), hold=True)
        return StepState.FAILED, None, error

    # Steps without I/O of their own

    async def _within_timeout(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        facts = self._run.definition.facts(step)
        limit = facts.timeout
        timer = UNLIMITED if limit is None else Limit(limit)
        with timer:
            match facts.verb:
                case "set":
                    output = render(step.set, scope)
                case "switch":
                    output = await self._switch(step, path, scope, recorded)
                case "map":
                    output = await self._map(step, path, scope, recorded)
                case verb:
                    raise Fail(f"the verb {verb!r} is not built yet")
            verdicts = check_output(step.validate_, output, scope) if step.validate_ else []
            if any(v.outcome is not Outcome.PASS for v in verdicts):
                follows = Plan(step, self._run.bench.random).note({"verdicts": [v.to_json() for v in verdicts]})
                assert isinstance(follows, GiveUp)
                raise GaveUp(follows.error)
            return output
        assert timer.reached
        await self._run.cancel_children(path + "/", path + "[")
        raise StepTimeout(f"step {path} took longer than its timeout of {limit:g} s")

    async def _switch(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        assert step.switch is not None
        choice = recorded.choice
        if choice is UNSET:
            choice = next((i for i, case in enumerate(step.switch) if evaluate_bool(case.when, scope)), None)
            if choice is None and step.else_:
                choice = "else"
            started = {"verb": "switch", "why": Why.FIRST.value, "choice": choice}
            await self._run.journal.write(Entry(Kind.STEP_STARTED, path, 1, started), hold=True)
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
        if not recorded.begun:
            started = {"verb": "map", "why": Why.FIRST.value, "items": len(items)}
            await self._run.journal.write(Entry(Kind.STEP_STARTED, path, 1, started), hold=True)
        elif not collect:
            self._raise_recorded_failure(steps, path, len(items))
        outputs: list[JSON] = [None] * len(items)
        failure: BaseException | None = None
        waiting = iter(enumerate(items))

        async def take(group: anyio.CancelScope) -> None:
            nonlocal failure
            for index, item in waiting:
                try:
                    inner = _inner(scope) | {spec.as_: item}
                    outputs[index] = await self._block(steps, f"{path}[{index}]/", inner)
                    await self._run.journal.flush()
                except StepFailed as failed:
                    if collect:
                        continue
                    failure = failure or failed
                    group.cancel()
                    return
                except Leaving as leaving:
                    failure = failure or leaving
                    return
                except StoreError as error:
                    failure = error
                    group.cancel()
                    return

        if len(items) and spec.at_once > 1:
            async with anyio.create_task_group() as group:
                for _ in range(min(spec.at_once, len(items))):
                    group.start_soon(take, group.cancel_scope)
        else:
            await take(anyio.CancelScope())
        if failure is not None:
            await self._run.cancel_children(path + "[")
            raise failure
        return outputs

    def _raise_recorded_failure(self, steps: Sequence[Step], path: str, count: int) -> None:
        """A failed item ends its `map` before the others are taken up again."""
        for index in range(count):
            for step in steps:
                inner = f"{path}[{index}]/{step.id}"
                recorded = self._recorded.get(inner, NOTHING)
                if recorded.state is StepState.FAILED and step.on_error != "continue":
                    assert recorded.error is not None
                    raise StepFailed(recorded.error.get("path") or inner, recorded.error)


def _inner(scope: Scope) -> Scope:
    """A block's scope: what stood before it is visible; what it adds stays inside."""
    return {**scope, "steps": dict(scope["steps"])}


def _plain(error: dict[str, JSON]) -> dict[str, JSON]:
    return {k: v for k, v in error.items() if k not in ("retry", "after")}
