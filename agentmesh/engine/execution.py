"""Execution: one claimed run, walked from its last durable step to its end.

The walk is a recursive interpreter over the run's pinned definition. What the journal says has ended is not done again: its output is
used. Everything else is decided from journaled values alone, so that two walks of the same journal take the same way.
"""

from __future__ import annotations

import logging
import random as random_
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from types import TracebackType

import anyio

from agentmesh.core.expression import evaluate, evaluate_bool, render
from agentmesh.core.model import Usage
from agentmesh.core.policy import Action
from agentmesh.core.run import JSON, Entry, Kind, Run, RunState, StepState, Why, usage_to_json
from agentmesh.core.store import Claim, Store
from agentmesh.core.verdict import Outcome
from agentmesh.core.workflow import Step, seconds
from agentmesh.engine.attempts import GiveUp, Plan, Try
from agentmesh.engine.budget import Budget
from agentmesh.engine.bus import Bus, Subscription
from agentmesh.engine.definitions import Definition, Definitions, Facts
from agentmesh.engine.faults import StepFailed, error_of
from agentmesh.engine.guard import Guard
from agentmesh.engine.identity import principal_of
from agentmesh.engine.journal import NOTHING, UNSET, Journal, Recorded, recall, spent
from agentmesh.engine.models import Models
from agentmesh.engine.runs import LOOK_AGAIN, Runs
from agentmesh.engine.steps import VERBS, Attempt, Done
from agentmesh.engine.tools import Tools
from agentmesh.engine.validators import check_output, faults
from agentmesh.errors import Fail, InvalidOutput, LeaseLost, MeshError, StepError, StepTimeout, StoreError

log = logging.getLogger("agentmesh.engine")
Scope = dict[str, JSON]


class Leaving(Exception):
    """The worker stops: the run goes back to the store between two steps. Never leaves the engine."""


@dataclass(frozen=True)
class Bench:
    """What every execution of one worker works with."""

    store: Store
    definitions: Definitions
    runs: Runs
    tools: Tools
    models: Models
    guard: Guard
    bus: Bus
    random: random_.Random
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    adopt: Callable[[str], Awaitable[None]]
    """Claims a child run and executes it beside its parent, whatever the worker's limit."""
    stopping: Callable[[], bool]


class Limit:
    """At most so many seconds for what stands inside. None costs nothing: a cancel scope costs more than many a step."""

    __slots__ = ("_scope", "_seconds")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._scope: anyio.CancelScope | None = None

    def __enter__(self) -> Limit:
        if self._seconds is not None:
            self._scope = anyio.CancelScope(deadline=anyio.current_time() + self._seconds)
            self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return None if self._scope is None else self._scope.__exit__(kind, error, traceback)

    @property
    def reached(self) -> bool:
        """Whether the time was over, and what stood inside was cancelled for it."""
        return self._scope is not None and self._scope.cancelled_caught

    def extend(self) -> None:
        """The time begins anew."""
        if self._scope is not None and self._seconds is not None:
            self._scope.deadline = anyio.current_time() + self._seconds


class Execution:
    """Executes one run under one epoch. Its `execute` is called once; `cancel` may be called at any time."""

    def __init__(self, bench: Bench, claim: Claim) -> None:
        self.bench = bench
        self.run = claim.run
        self.epoch = claim.epoch
        self.principal = principal_of(claim.run)
        self.journal = Journal(bench.store, claim.run.id, claim.epoch)
        self.definition: Definition
        self._recorded: dict[str, Recorded] = {}
        self._budget: Budget
        self._children = {
            path: step.child for path, step in claim.run.steps.items() if step.child and not step.state.ended
        }
        self._scope = anyio.CancelScope()
        self._canceled_by: str | None = None

    def cancel(self, by: str) -> None:
        """Ends the run as canceled, in-flight work at once."""
        self._canceled_by = self._canceled_by or by
        self._scope.cancel()

    def lose(self) -> None:
        """Stops without a word: another worker owns the run."""
        self._scope.cancel()

    def notice(self, line: str) -> None:
        self.bench.bus.notice(self.run.id, line)

    def authorize(self, action: Action) -> None:
        self.bench.guard.authorize(self.principal, action)

    async def execute(self) -> None:
        """Returns when the run has ended, was given back or was lost. Cancelled: gives the run back first."""
        try:
            with self._scope:
                ending = await self._ending()
                await self._end(ending)
                return
            if self._canceled_by is not None:
                await self.cancel_children()
                await self._end(Entry(Kind.RUN_CANCELED, payload={"by": self._canceled_by}))
        except (Leaving, anyio.get_cancelled_exc_class()) as leaving:
            with anyio.CancelScope(shield=True):
                await self._give_back()
            if not isinstance(leaving, Leaving):
                raise
        except LeaseLost:
            log.info("run %s is another worker's now", self.run.id)
        except StoreError:
            log.exception("run %s stops here: the store failed; it goes on when its lease is over", self.run.id)

    async def _give_back(self) -> None:
        try:
            await self.journal.flush(wait=True)
            await self.bench.store.release(self.run.id, self.epoch)
        except StoreError as error:
            log.warning("run %s could not be given back: %s", self.run.id, error)

    async def _end(self, ending: Entry) -> None:
        state = _STATES[ending.kind]
        # Once the terminal entry is on its way nothing may cut in: it might be committed, and nobody told.
        with anyio.CancelScope(shield=True):
            await self.journal.write(ending, wait=True)
        payload = ending.payload
        self.bench.bus.ended(
            replace(self.run, state=state, output=payload.get("output"), error=payload.get("error"), steps={})
        )

    async def _ending(self) -> Entry:
        """Walks the run; the terminal entry."""
        if self.run.cancel_requested:
            await self.cancel_children()
            return Entry(Kind.RUN_CANCELED, payload={"by": self.run.owner})
        path = ""
        try:
            self.definition = await self.bench.definitions.load(self.run.definition)
            workflow = self.definition.workflow
            entries = await self.bench.store.entries(self.run.id) if self.run.steps else ()
            self._recorded = recall(entries)
            self._budget = Budget(workflow.budget, *spent(entries))
            left = None
            if workflow.deadline is not None:
                left = self.run.created_at + seconds(workflow.deadline) - self.bench.clock()
            limit = _UNLIMITED if left is None else Limit(left)
            with limit:
                output = await self._walk()
                return Entry(Kind.RUN_COMPLETED, payload={"output": output})
            assert limit.reached
            error: dict[str, JSON] = {
                "code": "deadline", "message": f"the run did not end within its deadline of {workflow.deadline}"
            }  # fmt: skip
        except StepFailed as failed:
            path = failed.path
            error = dict(failed.error)
        except (StoreError, Leaving):
            raise
        except MeshError as fault:
            error = error_of(fault)
        except Exception as fault:
            log.exception("run %s failed", self.run.id)
            error = error_of(fault)
        await self.cancel_children()
        return Entry(Kind.RUN_FAILED, payload={"error": {**error, "path": error.get("path") or path}})

    async def _walk(self) -> JSON:
        workflow = self.definition.workflow
        scope: Scope = {
            "input": self.run.input,
            "steps": {},
            "run": {"id": self.run.id, "workflow": self.run.workflow, "source": self.run.source},
            "context": {"id": self.run.context_id},
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
        if self.bench.stopping():
            raise Leaving
        try:
            # A step that has begun is past its `if`, whatever the expression would say now.
            if step.if_ is not None and not recorded.begun and not evaluate_bool(step.if_, scope):
                skipped = Entry(Kind.STEP_SKIPPED, path, payload={"verb": step.verb, "reason": f"if: {step.if_}"})
                await self.journal.write(skipped, hold=True)
                return StepState.SKIPPED, None, None
            if self.definition.facts(step).verb in VERBS:
                return StepState.COMPLETED, await self._perform(step, path, scope, recorded), None
            output = await self._within_timeout(step, path, scope, recorded)
            done = Entry(Kind.STEP_COMPLETED, path, recorded.attempt or 1, {"verb": step.verb, "output": output})
            await self.journal.write(done, hold=True)
            return StepState.COMPLETED, output, None
        except (StoreError, Leaving):
            raise
        except StepFailed as failed:
            error: Mapping[str, JSON] = {**failed.error, "path": failed.path}
        except _GaveUp as gave_up:
            error = gave_up.error
        except Exception as fault:
            if not isinstance(fault, MeshError):
                log.exception("step %s of run %s failed", path, self.run.id)
            error = _plain(error_of(fault))
        tolerated = step.on_error == "continue"
        payload = {"verb": step.verb, "error": error, "tolerated": tolerated}
        await self.journal.write(Entry(Kind.STEP_FAILED, path, payload=payload), hold=True)
        return StepState.FAILED, None, error

    # Steps without I/O of their own

    async def _within_timeout(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        facts = self.definition.facts(step)
        limit = facts.timeout
        timer = _UNLIMITED if limit is None else Limit(limit)
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
                follows = Plan(step, self.bench.random).note({"verdicts": [v.to_json() for v in verdicts]})
                assert isinstance(follows, GiveUp)
                raise _GaveUp(follows.error)
            return output
        assert timer.reached
        await self.cancel_children(path + "/", path + "[")
        raise StepTimeout(f"step {path} took longer than its timeout of {limit:g} s")

    async def _switch(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        assert step.switch is not None
        choice = recorded.choice
        if choice is UNSET:
            choice = next((i for i, case in enumerate(step.switch) if evaluate_bool(case.when, scope)), None)
            if choice is None and step.else_:
                choice = "else"
            started = {"verb": "switch", "why": Why.FIRST.value, "choice": choice}
            await self.journal.write(Entry(Kind.STEP_STARTED, path, 1, started), hold=True)
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
            await self.journal.write(Entry(Kind.STEP_STARTED, path, 1, started), hold=True)
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
                    await self.journal.flush()
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
            await self.cancel_children(path + "[")
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

    # Steps that do I/O

    async def _perform(self, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
        """Attempts until one passes or the plan gives up; every attempt is a row."""
        plan: Plan | None = None  # most steps pass at the first attempt and need none
        follows: Try | GiveUp = _FIRST
        if recorded.attempts:
            plan = Plan(step, self.bench.random)
            for entry in recorded.attempts:
                follows = plan.note(entry.payload)
        number, cut_off = recorded.attempt, recorded.open
        key = f"{self.run.id}/{path}"
        facts = self.definition.facts(step)
        writes = facts.writes
        while isinstance(follows, Try):
            if follows.delay:
                await self.journal.flush()
                await self.bench.sleep(follows.delay)
            number += 1
            why = Why.RESUME if cut_off else follows.why
            cut_off = False
            rows = [Entry(Kind.STEP_STARTED, path, number, {"verb": facts.verb, "why": why.value})]
            if writes:
                rows.append(Entry(Kind.STEP_INTENT, path, number, {"key": key}))
            await self.journal.write(*rows, wait=writes)
            payload, done = await self._attempt(step, facts, path, scope, number, key, follows)
            row = Entry(Kind.STEP_ATTEMPT, path, number, payload)
            if done is not None and done.passed:
                completed = Entry(Kind.STEP_COMPLETED, path, number, {"verb": facts.verb, "output": done.output})
                await self.journal.write(row, completed, hold=True, put=done.puts)
                return done.output
            await self.journal.write(row, hold=True)
            plan = plan or Plan(step, self.bench.random)
            follows = plan.note(payload)
        raise _GaveUp(follows.error)

    async def _attempt(
        self, step: Step, facts: Facts, path: str, scope: Scope, number: int, key: str, follows: Try
    ) -> tuple[dict[str, JSON], Done | None]:
        """One attempt: the payload of its row, and what came back if anything did."""
        timeout = facts.timeout
        begun = monotonic()
        usage = Usage()
        try:
            with self._budget.reserve(step.llm.max_tokens if step.llm is not None else 0) as reservation:
                bound = timeout
                if reservation.seconds is not None and (timeout is None or reservation.seconds < timeout):
                    bound = reservation.seconds
                limit = _UNLIMITED if bound is None else Limit(bound)
                try:
                    with limit:
                        attempt = Attempt(
                            step, path, number, scope, key, bound, limit.extend, follows.model, follows.prior
                        )
                        done = await VERBS[facts.verb](self, attempt)
                        usage = done.usage
                    if limit.reached:
                        await self.cancel_children(path)
                        if timeout is None or bound != timeout:
                            raise self._budget.exceeded_seconds()
                        raise StepTimeout(f"step {path} took longer than its timeout of {timeout:g} s")
                finally:
                    if facts.verb not in _BY_CHILDREN:
                        usage = Usage(
                            usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, monotonic() - begun
                        )
                    reservation.tokens_spent = usage.tokens
                    reservation.seconds_spent = usage.seconds
        except (StoreError, Leaving):
            raise
        except (Exception, SystemExit) as fault:
            if not isinstance(fault, MeshError):
                log.exception("step %s of run %s failed", path, self.run.id)
            error = error_of(fault)
            if isinstance(fault, StepTimeout) and facts.writes and not facts.idempotent:
                error.pop("retry", None)  # it may have acted before its time was over
            return {"usage": _spent(usage), "error": error}, None
        payload: dict[str, JSON] = {"usage": _spent(usage)}
        if done.verdicts:
            payload["verdicts"] = [v.to_json() for v in done.verdicts]
        if done.model is not None:
            payload |= {"model": done.model, "prompt_hash": done.prompt_hash}
        if done.text is not None:
            payload["text"] = done.text
        elif step.llm is not None or not done.passed:
            payload["output"] = done.output
        return payload, done

    # Children

    async def wait_for_child(self, path: str, run_id: str, subscription: Subscription | None) -> Run:
        """The head of a child run when it has ended; executes it in this worker when nobody else does.

        `subscription`: made before the child was recorded, when this very attempt recorded it.
        """
        self._children[path] = run_id
        while True:
            if not self.bench.bus.owns(run_id) and (subscription is None or subscription.ended is None):
                if self.bench.stopping():
                    raise Leaving
                await self.bench.adopt(run_id)
            with anyio.move_on_after(LOOK_AGAIN):
                head = await self.bench.runs.end_of(run_id, subscription)
                del self._children[path]
                return head
            subscription = None  # from now on the store is asked as well

    async def cancel_children(self, *prefixes: str) -> None:
        """Cancels the child runs of steps whose path begins so; all when no prefix is given."""
        for path, child in list(self._children.items()):
            if not prefixes or path.startswith(prefixes):
                del self._children[path]
                with anyio.CancelScope(shield=True):
                    await self.bench.runs.request_cancel(child, f"run:{self.run.id}")


class _GaveUp(Exception):
    """A step's plan is at its end. Never leaves this module."""

    def __init__(self, error: Mapping[str, JSON]) -> None:
        super().__init__(error.get("code"))
        self.error = error


_FIRST = Try(Why.FIRST)


_UNLIMITED = Limit(None)
_BY_CHILDREN = frozenset({"agent", "workflow"})
"""Verbs whose time is spent, and counted, by another run."""
_STATES = {
    Kind.RUN_COMPLETED: RunState.COMPLETED,
    Kind.RUN_FAILED: RunState.FAILED,
    Kind.RUN_CANCELED: RunState.CANCELED,
}


def _spent(usage: Usage) -> dict[str, JSON]:
    """A usage as rows keep it: what is nothing is left out, for there are many rows."""
    kept = {name: value for name, value in usage_to_json(usage).items() if value}
    if "seconds" in kept:
        kept["seconds"] = round(kept["seconds"], 6)
    return kept


def _inner(scope: Scope) -> Scope:
    """A block's scope: what stood before it is visible; what it adds stays inside."""
    return {**scope, "steps": dict(scope["steps"])}


def _plain(error: dict[str, JSON]) -> dict[str, JSON]:
    return {k: v for k, v in error.items() if k not in ("retry", "after")}
