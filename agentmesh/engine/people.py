"""People: what a step asks a person about its output. The questions themselves are `core.question`'s, and wait in the journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentmesh.core.expression import render
from agentmesh.core.question import Answer
from agentmesh.core.run import JSON
from agentmesh.core.verdict import Outcome, Verdict
from agentmesh.core.workflow import Duration, Step, Validator, seconds
from agentmesh.engine.attempts import Ask
from agentmesh.engine.checks import looked_at
from agentmesh.engine.steps import text_of
from agentmesh.engine.validators import render_schema
from agentmesh.errors import Declined

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

Scope = Mapping[str, JSON]


async def approval(
    run: Execution, verb: str, path: str, number: int, validator: Validator, scope: Scope, output: JSON
) -> Verdict:
    """What a person says of an output: a no is a fail. Expired."""
    spec = validator.approve
    assert spec is not None
    scope = {**scope, "output": output}
    part = spec.path or "output"
    shown = looked_at(part, scope) if spec.show is None else render(spec.show, scope)
    try:
        answer = await run.ask(
            path, number, kind="approval", verb=verb, ask=text_of(render(spec.ask, scope)), show=shown, form=spec.form,
            expires=_seconds(spec.expires), subject=f"step:{path}",
        )  # fmt: skip
    except Declined as declined:
        return Verdict("approve", Outcome.FAIL, validator.message or declined.message, part)
    return Verdict("approve", Outcome.PASS, f"approved by {answer.by}", part)


async def output_of_a_person(
    run: Execution, verb: str, path: str, number: int, ask: Ask, scope: Scope, form: Mapping[str, Any] | None
) -> Answer:
    """The output, from a person who is shown what was not accepted. Expired."""
    spec, prior = ask.spec, ask.prior
    scope = {**scope, "output": prior.get("output")}
    shown: JSON = {
        "output": prior.get("output", prior.get("text")),
        "not_accepted": [v for v in prior.get("verdicts") or () if v.get("outcome") != Outcome.PASS.value],
    }  # fmt: skip
    return await run.ask(
        path, number, kind="input", verb=verb, ask=text_of(render(spec.question, scope)), form=form,
        show=shown if spec.show is None else render(spec.show, scope), expires=_seconds(spec.expires),
        subject=f"step:{path}",
    )  # fmt: skip


def form_of(step: Step, scope: Scope) -> Mapping[str, Any] | None:
    """JSON Schema of what a person may give as the step's output."""
    if step.http is not None and step.output is not None:
        return {"type": "object", "properties": {"body": step.output}, "required": ["body"]}
    if step.llm is None:
        return step.output
    return {"type": "string"} if step.llm.output is None else render_schema(step.llm.output, scope)


def _seconds(duration: Duration | None) -> float | None:
    return None if duration is None else seconds(duration)
