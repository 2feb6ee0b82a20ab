"""Steps: one function per verb that does I/O. Each makes one attempt and says what came of it; retries and repairs are the caller's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentmesh.core.expression import render
from agentmesh.core.model import ChatRequest, Usage
from agentmesh.core.policy import Action
from agentmesh.core.run import JSON, Entry, Kind, RunState
from agentmesh.core.verdict import Outcome, Verdict
from agentmesh.core.workflow import LlmSpec, Step
from agentmesh.engine.attempts import Payload
from agentmesh.engine.definitions import workflow_of_tool
from agentmesh.engine.validators import check_output, render_schema, require_input
from agentmesh.errors import Fail, StepError

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

MODEL_TIMEOUT = 120.0
"""Seconds for an answer when the step has no `timeout`."""
_QUOTED = 2000
"""Characters of an earlier answer that go back to the model: its context may be small."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of one step."""

    step: Step
    path: str
    number: int
    scope: Mapping[str, JSON]
    key: str
    """`RUN/PATH`: the same for every attempt."""
    timeout: float | None
    suspend: Callable[[], None]
    """Leaves the timeout to the model's backend."""
    model: str | None = None
    prior: Payload | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """An attempt came back. `verdicts`: of what the verb itself checked and of the step's validators."""

    output: JSON
    verdicts: list[Verdict]
    usage: Usage = Usage()
    model: str | None = None
    prompt_hash: str | None = None
    text: str | None = None
    """The model's own words, when they are not the output."""
    puts: Mapping[tuple[str, str], Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(v.outcome is Outcome.PASS for v in self.verdicts)


async def llm(run: Execution, a: Attempt) -> Done:
    """Asks a model. The answer is decoded under the schema, and checked against it again."""
    spec = a.step.llm
    assert spec is not None
    schema = None if spec.output is None else render_schema(spec.output, a.scope)
    model = run.bench.models.name(a.model or spec.model or run.definition.default_model)
    request = ChatRequest(
        model=model, messages=conversation(spec, a.scope, a.prior), schema=schema, max_tokens=spec.max_tokens,
        temperature=spec.temperature, seed=spec.seed, timeout=a.timeout or MODEL_TIMEOUT,
    )  # fmt: skip

    def on_progress(line: str) -> None:
        run.notice(f"{a.path}: {line}")
        # The model is still loading. The time of an answer begins when it is there to give it, which its backend knows and keeps.
        a.suspend()

    answer = await run.bench.models.ask(request, on_progress)
    output: JSON = answer.text
    text = None
    verdicts: list[Verdict] = []
    if schema is not None:
        try:
            output = json.loads(answer.text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            why = (
                f"was cut off after {spec.max_tokens} tokens"
                if answer.finish_reason == "length"
                else f"is not JSON: {error}"
            )
            text, output = answer.text, None
            verdicts.append(Verdict("schema", Outcome.FAIL, f"the answer {why}"[:200], "output"))
    if not verdicts:
        verdicts = check_output(a.step.validate_, output, a.scope, schema=schema)
    return Done(output, verdicts, answer.usage, answer.model or model, hash_of(request), text)


def _refuse_constant(name: str) -> JSON:
    raise ValueError(f"{name} is not JSON")


def conversation(spec: LlmSpec, scope: Mapping[str, JSON], prior: Payload | None) -> list[dict[str, str]]:
    """The messages of an attempt. A repair adds the answer that was not accepted, and only what was wrong with it."""
    messages: list[dict[str, str]] = []
    if spec.system is not None:
        messages.append({"role": "system", "content": _text(render(spec.system, scope))})
    messages.append({"role": "user", "content": _text(render(spec.prompt, scope))})
    if prior is not None:
        said = prior.get("text")
        said = _text(prior.get("output")) if said is None else said
        failed = [v for v in prior.get("verdicts") or () if v.get("outcome") == Outcome.FAIL.value]
        lines = [f"- {': '.join(filter(None, (v.get('path'), v.get('message'))))}" for v in failed[:6]]
        messages.append({"role": "assistant", "content": said[:_QUOTED]})
        messages.append({"role": "user", "content": "Not accepted:\n" + "\n".join(lines) + "\nAnswer again."})
    return messages


def hash_of(request: ChatRequest) -> str:
    """SHA-256 of everything that decides the answer."""
    asked = [
        request.model, list(request.messages), request.schema, request.max_tokens, request.temperature, request.seed
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(asked, separators=(",", ":")).encode()).hexdigest()


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


async def python(run: Execution, a: Attempt) -> Done:
    """Calls an installed function."""
    assert a.step.python is not None
    arguments = render(a.step.with_, a.scope)
    output, puts = await run.bench.tools.function(
        a.step.python, arguments, key=a.key, state_scope=f"workflow:{run.run.workflow}", run=run.run,
        notify=lambda line: run.notice(f"{a.path}: {line}"),
    )  # fmt: skip
    verdicts = check_output(a.step.validate_, output, a.scope, schema=a.step.output)
    return Done(output, verdicts, puts=puts)


async def tool(run: Execution, a: Attempt) -> Done:
    """Calls a tool of the mesh, as the run's owner: in place when it passes through, else by a run of its own."""
    name = a.step.tool
    assert name is not None
    found = run.definition.tools[name]
    spec = run.definition.specs.get(name)
    arguments = render(a.step.with_, a.scope)
    run.authorize(Action("tools.call", f"tool:{name}", arguments))
    require_input(found.input_schema, arguments, "with")
    workflow = workflow_of_tool(found, spec)
    if workflow is not None:
        output = await child(run, a, workflow, arguments)
        return Done(output, check_output(a.step.validate_, output, a.scope))
    assert spec is not None
    output, puts = await run.bench.tools.perform(
        found, spec, arguments, key=a.key, run=run.run, notify=lambda line: run.notice(f"{a.path}: {line}")
    )
    return Done(output, check_output(a.step.validate_, output, a.scope), puts=puts)


async def workflow(run: Execution, a: Attempt) -> Done:
    """Runs another workflow."""
    name = a.step.workflow
    assert name is not None
    arguments = render(a.step.with_, a.scope)
    run.authorize(Action("runs.start", f"workflow:{name}", arguments))
    output = await child(run, a, name, arguments)
    return Done(output, check_output(a.step.validate_, output, a.scope))


async def agent(run: Execution, a: Attempt) -> Done:
    """Sends a message to a skill of this mesh; the skill's output is the step's."""
    from agentmesh.engine.agents import input_of

    spec = a.step.agent
    assert spec is not None
    if spec.skill is None or spec.peer is not None:
        raise Fail("an agent step needs a `skill` of this mesh; peers are not built yet")
    name = run.definition.skills[spec.skill]
    content = render(spec.message, a.scope)
    part = {"data": content} if isinstance(content, Mapping) else {"text": _text(content)}
    given = input_of([part], run.definition.workflows[name].input, spec.skill)
    run.authorize(Action("agents.send", f"agent:{spec.skill}", given))
    message: dict[str, JSON] = {
        "messageId": a.key, "role": "agent", "parts": [part], "contextId": run.run.context_id, "taskId": None,
        "metadata": {},
    }  # fmt: skip
    output = await child(run, a, name, given, skill=spec.skill, message=message)
    return Done(output, check_output(a.step.validate_, output, a.scope))


async def child(
    run: Execution,
    a: Attempt,
    name: str,
    given: JSON,
    *,
    skill: str | None = None,
    message: Mapping[str, Any] | None = None,
) -> JSON:
    """Starts (or finds again) the run that does a step's work, and waits for its output."""
    runs = run.bench.runs
    run_id = runs.new_id()
    with run.bench.bus.subscribe(run_id) as subscription:  # first: the child may end before its start is heard of
        started, new = await runs.begin(
            run.principal, run.bench.definitions.pin_child(run.definition, name), given, run_id=run_id, key=a.key,
            source="step", context_id=run.run.context_id, message=message, parent=run.run.id, parent_path=a.path,
        )  # fmt: skip
        payload = {"run": started.id, "workflow": name} | ({"skill": skill} if skill else {})
        await run.journal.write(Entry(Kind.STEP_CHILD, a.path, a.number, payload))
        head = started
        if not started.state.terminal:
            head = await run.wait_for_child(a.path, started.id, subscription if new else None)
    if head.state is RunState.COMPLETED:
        return head.output
    error = head.error or {}
    message_ = error.get("message") or f"it was {head.state.value}"
    raise ChildFailed(f"run {head.id} of {name} did not complete: {message_}", run=head.id, child=error.get("code"))


class ChildFailed(StepError):
    """The run that did a step's work did not complete."""

    code = "child_failed"


Verb = Callable[["Execution", Attempt], Awaitable[Done]]
VERBS: Mapping[str, Verb] = {"llm": llm, "python": python, "tool": tool, "workflow": workflow, "agent": agent}
