"""Perform: one step that does I/O, attempt after attempt, until one passes or its plan gives up. Every attempt is a row."""

from __future__ import annotations

import logging
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from agentmesh.core.agent import PEER
from agentmesh.core.expression import render
from agentmesh.core.run import JSON, Entry, Kind, Why
from agentmesh.core.verdict import Outcome, Verdict
from agentmesh.core.workflow import Step
from agentmesh.engine import cache
from agentmesh.engine.attempts import (
    NOTHING_SPENT,
    Approve,
    Ask,
    Attempt,
    Check,
    Done,
    Fallback,
    Follows,
    GiveUp,
    Passed,
    Payload,
    Plan,
    Try,
    Undo,
    done_of_row,
    usage_row,
)  # fmt: skip
from agentmesh.engine.budget import Budget
from agentmesh.engine.checks import ask_checks
from agentmesh.engine.definitions import FREE
from agentmesh.engine.faults import GaveUp, Leaving, error_of
from agentmesh.engine.journal import NOTHING, Recorded
from agentmesh.engine.limit import Limit
from agentmesh.engine.people import approval, form_of, output_of_a_person
from agentmesh.engine.steps import ChildFailed, verb_of
from agentmesh.engine.validators import check_output
from agentmesh.errors import Expired, MeshError, StepTimeout, StoreError

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

log = logging.getLogger("agentmesh.engine")
Scope = dict[str, JSON]
_FIRST = Try(Why.FIRST)


async def perform(
    run: Execution, budget: Budget, step: Step, path: str, scope: Scope, recorded: Recorded, *, arguments: JSON = None
) -> JSON:
    """The step's output, recorded; GaveUp when its plan is at its end. `arguments`: in place of the step's `with`, and data already."""
    course = _Course(run, budget, step, path, scope, recorded)
    course.arguments = arguments
    return await course.to_the_end()


async def accepted(
    run: Execution, budget: Budget, step: Step, path: str, scope: Scope, recorded: Recorded, output: JSON
) -> JSON:
    """The output of a step that asks nobody (a block, `set`, `wait`) when its validators pass it, or what `on_invalid` puts in its place.

    GaveUp when neither. Writes no rows but those of checks that failed or asked somebody; the step's end is the caller's to record.
    """
    if not step.validate_:
        return output
    course = _Course(run, budget, step, path, scope, recorded)
    course.made = Done(output)
    return await course.to_the_end()


class _Course:
    """What becomes of one step, from wherever its rows end."""

    __slots__ = (
        "_cut_off", "_number", "_plan", "arguments", "budget", "facts", "key", "made", "path", "recorded", "run", "scope",
        "step",
    )  # fmt: skip

    def __init__(self, run: Execution, budget: Budget, step: Step, path: str, scope: Scope, recorded: Recorded) -> None:
        self.run = run
        self.budget = budget
        self.step = step
        self.path = path
        self.scope = scope
        self.recorded = recorded
        self.facts = run.definition.facts(step)
        self.key = f"{run.run.id}/{path}"
        self.arguments: JSON = None
        self.made: Done | None = None
        """The output, when somebody else has made it."""
        self._number = recorded.attempt
        self._cut_off = recorded.open
        self._plan: Plan | None = None  # most steps pass at the first attempt and need none

    async def to_the_end(self) -> JSON:
        """The output; GaveUp."""
        follows: Follows = _FIRST
        if self.recorded.attempts or self.recorded.waiting:
            follows = self._remember()
        while True:
            match follows:
                case Try():
                    payload, done = await self._try(follows)
                case Check():
                    payload, done = await self._check(follows.payload)
                case Approve():
                    payload, done = await self._approve(follows.payload)
                case Ask():
                    payload, done = await self._ask(follows)
                case Fallback():
                    await self._begin(Why.FALLBACK)
                    done = Done(render(follows.value, self.scope))
                    payload = {"usage": {}, "output": done.output}
                case Passed():  # a crash came between the row of the attempt and the end of the step
                    return follows.output if self.made is not None else self._completed(Done(follows.output))
                case Undo():
                    await self.run.journal.flush()
                    await self.run.undo_step(self.step, self.path, self.scope, follows.output)
                    raise GaveUp(follows.error)
                case GiveUp():
                    raise GaveUp(follows.error)
            if done is not None and done.passed and "awaits" not in payload:
                return await self._complete(payload, done, made=isinstance(follows, Try | Check | Approve))
            self._plan = self._plan or self._new_plan()
            follows = self._plan.note(payload, self.run.bench.clock())
            if isinstance(follows, Try) and follows.due:
                payload["retry_at"] = follows.due
            row = Entry(Kind.STEP_ATTEMPT, self.path, self._number, payload, at=self.run.bench.clock())
            self._note(row)
            await self.run.journal.write(replace(row, at=0.0), hold=True)

    def _note(self, row: Entry | None = None, *, begun: bool = False) -> None:
        """Keeps what the journal says of the step up to date for whoever may take it up again in this process: an agent its calls."""
        if self.recorded is NOTHING:
            return
        self.recorded.begun = True
        self.recorded.open = begun
        self.recorded.attempt = max(self.recorded.attempt, self._number)
        if row is not None:
            self.recorded.task = None
            self.recorded.attempts.append(row)

    def _new_plan(self) -> Plan:
        return Plan(self.step, key=self.key, risky=self.facts.writes and not self.facts.idempotent)

    def _remember(self) -> Follows:
        """What follows by the rows alone."""
        self._plan = self._new_plan()
        follows: Follows = _FIRST
        for entry in self.recorded.attempts:
            follows = self._plan.note(entry.payload, entry.at)
            self._number = max(self._number, entry.attempt)
        if self.recorded.waiting is not None:
            self._number = max(self._number, self.recorded.waiting.attempt)
        if isinstance(follows, Approve | Check):
            self._number = self.recorded.attempts[-1].attempt
        return follows

    async def _begin(self, why: Why) -> None:
        """A new attempt; one that was begun and cut off is taken up under its number."""
        if self._cut_off:
            self._cut_off = False
            return
        self._number += 1
        self._note(begun=True)
        row = Entry(Kind.STEP_STARTED, self.path, self._number, {"verb": self.facts.verb, "why": why.value})
        await self.run.journal.write(row)

    async def _complete(self, payload: dict[str, JSON], done: Done, *, made: bool) -> JSON:
        """The step's output, recorded. `made`: by the step itself, not by a person or the file."""
        row = Entry(Kind.STEP_ATTEMPT, self.path, self._number, payload)
        if self.made is not None:
            if self._plan is not None or self.facts.costly:
                await self.run.journal.write(row, hold=True)
            return done.output
        if made and self.step.cache is not None and not done.cached:
            done.puts = {**done.puts, **await cache.kept(self.run, self._attempt(_FIRST), done)}
        return self._completed(done, row)

    def _completed(self, done: Done, *rows: Entry) -> JSON:
        end = Entry(Kind.STEP_COMPLETED, self.path, self._number, {"verb": self.facts.verb, "output": done.output})
        self.run.journal.hold(*rows, end, put=done.puts)
        return done.output

    # One attempt

    def _attempt(self, follows: Try) -> Attempt:
        return Attempt(
            self.step, self.path, self._number, self.scope, self.key, self.facts.timeout, _nothing, self.budget,
            follows.model, follows.prior, self.arguments, follows.sample, follows.errors, follows.tries,
        )  # fmt: skip

    async def _try(self, follows: Try) -> tuple[dict[str, JSON], Done | None]:
        run, facts, made = self.run, self.facts, self.made is not None
        if follows.due:
            await run.wait_until(min(follows.due, run.bench.clock() + follows.delay))
        cut_off, self._cut_off = self._cut_off, False
        if run.epoch > 1 and follows is _FIRST and not self.recorded.attempts and run.run.workflow.startswith(PEER):
            cut_off = True  # whoever had the run before may have sent its message without a word in the journal
        if not made or follows is not _FIRST:
            self._number += 1
            why = Why.RESUME if cut_off else follows.why
            rows = [Entry(Kind.STEP_STARTED, self.path, self._number, {"verb": facts.verb, "why": why.value})]
            writes = facts.writes and follows.recheck is None and not made
            passed_on = run.run.workflow.startswith(PEER)
            if writes and not passed_on:  # that such a run was claimed says as much, and what the agent tells follows
                rows.append(Entry(Kind.STEP_INTENT, self.path, self._number, {"key": self.key}))
            self._note(begun=True)
            await run.journal.write(*rows, wait=len(rows) > 1, patient=passed_on)
        elif not self._number:
            self._number = 1
        a = self._attempt(follows)
        a.resumed = cut_off
        begun = monotonic()
        done: Done | None = None
        error: dict[str, JSON] | None = None
        try:
            bound = None
            if facts.timeout is not None or self.budget.limited:
                bound = self._bound(a, cut_off=cut_off)
            if bound is None:
                done = await self._outcome(a, follows)
            else:
                done = await self._in_time(a, follows, bound)
        except (StoreError, Leaving, GaveUp):
            raise
        except (Exception, SystemExit) as fault:
            if not isinstance(fault, MeshError):
                log.exception("step %s of run %s failed", self.path, run.run.id)
            error = error_of(fault)
            if isinstance(fault, ChildFailed):
                error["retry"] = "declared"
        payload: dict[str, JSON] = {"usage": self._settle(a, done, monotonic() - begun)}
        if done is None:
            payload["error"] = error
            return payload, None
        self._describe(payload, done)
        if made and "awaits" in payload:
            # What made the output may have been a question itself, and its answer is none to this one.
            self._number += 1
        return payload, done

    def _bound(self, a: Attempt, *, cut_off: bool) -> float | None:
        """Seconds for the attempt; BudgetExceeded when the run has none left."""
        left = self.budget.seconds_left()
        bound = self.facts.timeout
        if self.facts.by_child:  # which counts its own seconds, and may wait for days
            if bound is not None and cut_off:
                bound = max(self._since() + bound - self.run.bench.clock(), 0.0)
        elif left is not None and (bound is None or left < bound):
            bound = left
        a.timeout = bound
        return bound

    def _since(self) -> float:
        """When the attempt that was cut off had begun."""
        if not self.recorded.attempts:
            return self.recorded.begun_at or self.run.bench.clock()
        last = self.recorded.attempts[-1]
        return float(last.payload.get("retry_at") or last.at)

    async def _in_time(self, a: Attempt, follows: Try, bound: float) -> Done:
        run = self.run
        limit = Limit(bound)
        a.suspend = limit.suspend
        with run.waits.deadline(run.bench.clock() + bound), limit:
            return await self._outcome(a, follows)
        await run.cancel_children(self.path)
        if a.child is not None and (head := await run.bench.store.get_head(a.child)) is not None:
            a.spent_by_child(head.usage)
        if self.facts.timeout is None or (
            self.budget.limited and bound < self.facts.timeout and not self.facts.by_child
        ):
            raise self.budget.exceeded_seconds()
        raise StepTimeout(f"step {self.path} took longer than its timeout of {self.facts.timeout:g} s")

    async def _outcome(self, a: Attempt, follows: Try) -> Done:
        """What the verb made, checked."""
        step, facts = self.step, self.facts
        if follows.recheck is not None:
            done = done_of_row(follows.recheck)
            done.verdicts = [v for v in done.verdicts if v.validator in FREE]
            await self._check_costly(a, done)
            return done
        if self.made is not None:
            done = Done(self.made.output)
        else:
            found = None
            if step.cache is not None and not follows.tries:
                found = await cache.look_up(self.run, a)
            done = await verb_of(a, facts.verb)(self.run, a) if found is None else found
        if (facts.free or done.schema is not None) and done.passed:
            done.verdicts = check_output(facts.free, done.output, self.scope, schema=done.schema)
        await self._check_costly(a, done)
        return done

    async def _check_costly(self, a: Attempt, done: Done) -> None:
        # What a run checks is journaled first: this run may be parked meanwhile, and must not be given another answer then.
        if self.facts.costly and not self.facts.checked_by_run and done.passed and not done.cached:
            await ask_checks(self.run, a, self.facts.costly, done)

    async def _check(self, payload: Payload) -> tuple[dict[str, JSON], Done | None]:
        """The checks of an output that is journaled already."""
        done = done_of_row(payload)
        a = self._attempt(_FIRST)
        try:
            await ask_checks(self.run, a, self.facts.costly, done)
        except (StoreError, Leaving):
            raise
        except MeshError as fault:
            return {"usage": self._settle(a, None, 0.0), "error": error_of(fault)}, None
        row: dict[str, JSON] = {"usage": self._settle(a, done, 0.0)}
        self._describe(row, done, asked=True)
        return row, done

    def _settle(self, a: Attempt, done: Done | None, elapsed: float) -> dict[str, JSON]:
        """What the attempt spent, as its row keeps it: what is nothing is left out, for there are many rows."""
        spent = a.spent if done is None or done.usage is NOTHING_SPENT else a.spent + done.usage
        counted = spent.seconds
        if not self.facts.by_child and self.made is None and not (self.facts.verb == "llm" and counted):
            counted = 0.0 if done is not None and done.cached else elapsed
        if self.budget.limited:
            self.budget.spend_seconds(counted)
        if spent is NOTHING_SPENT:
            return {"seconds": round(counted, 6)} if counted else {}
        return usage_row(replace(spent, seconds=counted))

    def _describe(self, payload: dict[str, JSON], done: Done, *, asked: bool = False) -> None:
        """What the row of an attempt that came back says of it. `asked`: the checks of others have been."""
        passed = done.passed
        if done.verdicts:
            payload["verdicts"] = [v.to_json() for v in done.verdicts]
        if done.model is not None:
            payload["model"] = done.model
            payload["prompt_hash"] = done.prompt_hash
        if done.cached:
            payload["cached"] = True
        checks = self.facts.checked_by_run and not asked and not done.cached
        awaits = passed and (checks or bool(self.facts.approvals))
        if awaits:
            payload["awaits"] = "checks" if checks else "approve"
        if done.text is not None:
            payload["text"] = done.text
        elif self.step.llm is not None or not passed or awaits:
            payload["output"] = done.output
        if done.puts and (awaits or not passed):
            payload["puts"] = [[scope, key, value] for (scope, key), value in done.puts.items()]

    # People

    async def _approve(self, payload: Payload) -> tuple[dict[str, JSON], Done | None]:
        """A person says yes or no to what everything else has passed."""
        done = done_of_row(payload)
        asked = sum(v.validator == "approve" for v in done.verdicts)
        validator = self.facts.approvals[asked]
        try:
            verdict = await approval(
                self.run, self.facts.verb, self.path, self._number, validator, self.scope, done.output
            )
        except Expired as expired:
            return {"usage": {}, "error": error_of(expired)}, None
        done.verdicts.append(verdict)
        row: dict[str, JSON] = {k: v for k, v in payload.items() if k not in ("verdicts", "awaits", "puts")}
        row |= {"usage": {}, "verdicts": [v.to_json() for v in done.verdicts]}
        if done.passed and asked + 1 < len(self.facts.approvals):  # each question has a number of its own
            row |= {"awaits": "approve"} | ({"puts": payload["puts"]} if "puts" in payload else {})
            self._number += 1
        return row, done

    async def _ask(self, follows: Ask) -> tuple[dict[str, JSON], Done | None]:
        """A person gives the output that was not to be had; it is checked like any."""
        await self._begin(Why.ASK)
        a = self._attempt(_FIRST)
        try:
            form = form_of(self.step, self.scope)
            answer = await output_of_a_person(
                self.run, self.facts.verb, self.path, self._number, follows, self.scope, form
            )
            done = Done(answer.value, check_output(self.facts.free, answer.value, self.scope, schema=form))
            costly = tuple(v for v in self.facts.costly if v.vote is None)  # nobody asks a person twice
            if done.passed and costly:
                await ask_checks(self.run, a, costly, done)
        except (StoreError, Leaving):
            raise
        except Expired as expired:  # what stands after it in `on_invalid` may still help
            said = {k: v for k, v in follows.prior.items() if k in ("output", "text")}
            return {"usage": {}, **said, "verdicts": [Verdict("ask", Outcome.FAIL, expired.message).to_json()]}, None
        except MeshError as fault:
            return {"usage": self._settle(a, None, 0.0), "error": error_of(fault)}, None
        payload: dict[str, JSON] = {"usage": self._settle(a, done, 0.0), "by": answer.by, "output": done.output}
        self._describe(payload, done, asked=True)
        if "awaits" in payload:
            self._number += 1  # what is asked next is another question, and this answer is none to it
        return payload, done


def _nothing() -> None:
    pass
