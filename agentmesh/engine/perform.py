"""Perform: one step that does I/O, attempt after attempt, until one passes or its plan gives up. Every attempt is a row."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from agentmesh.core.model import Usage
from agentmesh.core.run import JSON, Entry, Kind, Why, usage_to_json
from agentmesh.core.workflow import Step
from agentmesh.engine.attempts import GiveUp, Plan, Try
from agentmesh.engine.budget import Budget
from agentmesh.engine.definitions import Facts
from agentmesh.engine.faults import GaveUp, Leaving, error_of
from agentmesh.engine.journal import Recorded
from agentmesh.engine.limit import UNLIMITED, Limit
from agentmesh.engine.steps import VERBS, Attempt, Done
from agentmesh.errors import MeshError, StepTimeout, StoreError

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

log = logging.getLogger("agentmesh.engine")
Scope = dict[str, JSON]
_FIRST = Try(Why.FIRST)
_BY_CHILDREN = frozenset({"agent", "workflow"})
"""Verbs whose time is spent, and counted, by another run."""


async def perform(run: Execution, budget: Budget, step: Step, path: str, scope: Scope, recorded: Recorded) -> JSON:
    """The step's output, recorded; GaveUp when its plan is at its end."""
    plan: Plan | None = None  # most steps pass at the first attempt and need none
    follows: Try | GiveUp = _FIRST
    if recorded.attempts:
        plan = Plan(step, run.bench.random)
        for entry in recorded.attempts:
            follows = plan.note(entry.payload)
    number, cut_off = recorded.attempt, recorded.open
    key = f"{run.run.id}/{path}"
    facts = run.definition.facts(step)
    writes = facts.writes
    while isinstance(follows, Try):
        if follows.delay:
            await run.journal.flush()
            await run.bench.sleep(follows.delay)
        number += 1
        why = Why.RESUME if cut_off else follows.why
        cut_off = False
        rows = [Entry(Kind.STEP_STARTED, path, number, {"verb": facts.verb, "why": why.value})]
        if writes:
            rows.append(Entry(Kind.STEP_INTENT, path, number, {"key": key}))
        await run.journal.write(*rows, wait=writes)
        payload, done = await _attempt(run, budget, step, facts, path, scope, number, key, follows)
        row = Entry(Kind.STEP_ATTEMPT, path, number, payload)
        if done is not None and done.passed:
            completed = Entry(Kind.STEP_COMPLETED, path, number, {"verb": facts.verb, "output": done.output})
            await run.journal.write(row, completed, hold=True, put=done.puts)
            return done.output
        await run.journal.write(row, hold=True)
        plan = plan or Plan(step, run.bench.random)
        follows = plan.note(payload)
    raise GaveUp(follows.error)


async def _attempt(
    run: Execution,
    budget: Budget,
    step: Step,
    facts: Facts,
    path: str,
    scope: Scope,
    number: int,
    key: str,
    follows: Try,
) -> tuple[dict[str, JSON], Done | None]:
    """One attempt: the payload of its row, and what came back if anything did."""
    timeout = facts.timeout
    begun = monotonic()
    usage = Usage()
    try:
        with budget.reserve(step.llm.max_tokens if step.llm is not None else 0) as reservation:
            bound = timeout
            if reservation.seconds is not None and (timeout is None or reservation.seconds < timeout):
                bound = reservation.seconds
            limit = UNLIMITED if bound is None else Limit(bound)
            try:
                with limit:
                    attempt = Attempt(
                        step, path, number, scope, key, bound, limit.suspend, follows.model, follows.prior
                    )
                    done = await VERBS[facts.verb](run, attempt)
                    usage = done.usage
                if limit.reached:
                    await run.cancel_children(path)
                    if timeout is None or bound != timeout:
                        raise budget.exceeded_seconds()
                    raise StepTimeout(f"step {path} took longer than its timeout of {timeout:g} s")
            finally:
                if facts.verb not in _BY_CHILDREN:
                    usage = Usage(
                        usage.prompt_tokens,
                        usage.completion_tokens,
                        usage.cached_tokens,
                        usage.seconds or monotonic() - begun,
                    )
                reservation.tokens_spent = usage.tokens
                reservation.seconds_spent = usage.seconds
    except (StoreError, Leaving):
        raise
    except (Exception, SystemExit) as fault:
        if not isinstance(fault, MeshError):
            log.exception("step %s of run %s failed", path, run.run.id)
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


def _spent(usage: Usage) -> dict[str, JSON]:
    """A usage as rows keep it: what is nothing is left out, for there are many rows."""
    kept = {name: value for name, value in usage_to_json(usage).items() if value}
    if "seconds" in kept:
        kept["seconds"] = round(kept["seconds"], 6)
    return kept
