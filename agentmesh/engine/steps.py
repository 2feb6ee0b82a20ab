"""Steps: one function per verb that does I/O. Each makes one attempt and says what came of it; retries, repairs and validators are the
caller's.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agentmesh.core.agent import PEER
from agentmesh.core.content import Content, text_of_blocks, value_of
from agentmesh.core.expression import render
from agentmesh.core.model import ChatRequest
from agentmesh.core.policy import Action
from agentmesh.core.run import JSON, Entry, Kind, RunState
from agentmesh.core.source import SourceCall
from agentmesh.core.tool import Tool, ToolResult
from agentmesh.core.verdict import Outcome, Verdict
from agentmesh.core.workflow import AgentSpec, LlmSpec
from agentmesh.engine.asking import RunCaller
from agentmesh.engine.attempts import Attempt, Done, Payload
from agentmesh.engine.budget import within
from agentmesh.engine.definitions import TOOL, workflow_of_tool
from agentmesh.engine.models import Answer
from agentmesh.engine.validators import render_schema, require_input
from agentmesh.errors import Fail, StepError

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

MODEL_TIMEOUT = 120.0
"""Seconds for an answer when the step has no `timeout`."""
WARM = 0.7
"""Temperature of a further sample when the step's own would give the same again."""
_QUOTED = 2000
"""Characters of an earlier answer that go back to the model: its context may be small."""


async def llm(run: Execution, a: Attempt) -> Done:
    """Asks a model. The answer is decoded under the schema, and checked against it again."""
    request = question(run, a)
    answer = await a.ask(run, request, watching(run, a))
    return done_of(request, answer)


def question(run: Execution, a: Attempt) -> ChatRequest:
    """What an attempt of an llm step asks."""
    spec = a.step.llm
    assert spec is not None
    schema = None if spec.output is None else render_schema(spec.output, a.scope)
    temperature, seed = spec.temperature, spec.seed
    if a.sample:  # another answer is wanted, not the same again
        temperature = temperature or WARM
        seed = seed_of(spec, a.key, a.sample)
    return ChatRequest(
        model=run.bench.models.name(a.model or spec.model or run.definition.default_model),
        messages=conversation(spec, a.scope, a.prior), schema=schema, max_tokens=spec.max_tokens,
        temperature=temperature, seed=seed, timeout=a.timeout or MODEL_TIMEOUT,
        headers=key_header(f"{a.key}/try[{len(a.tries) + 1}]" if a.tries else a.key),
    )  # fmt: skip


def key_header(key: str) -> dict[str, str]:
    """The idempotency key of a question: the same when it is asked again after a crash or an outage, another for a repair."""
    return {"Idempotency-Key": quote(key, safe="/[]~#:")}


def seed_of(spec: LlmSpec | None, key: str, sample: int) -> int:
    """The seed of a further sample: another for each, the same whenever it is asked for again."""
    base = spec.seed if spec is not None and spec.seed is not None else hash_text(key)
    return (base + sample) % 2**31


def hash_text(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def watching(run: Execution, a: Attempt) -> Callable[[str], None]:
    """What hears that a model is still loading."""

    def on_progress(line: str) -> None:
        run.notice(f"{a.path}: {line}")
        # The time of an answer begins when the model is there to give it, which its backend knows and keeps.
        a.suspend()

    return on_progress


def done_of(request: ChatRequest, answer: Answer) -> Done:
    """An answer as the attempt's outcome."""
    done = Done(answer.text, model=answer.model or request.model, prompt_hash=hash_of(request), request=request)
    if request.schema is not None:
        done.schema = request.schema
        done.output, fault = parse(answer, request.max_tokens)
        if fault is not None:
            done.text = answer.text
            done.verdicts.append(Verdict("schema", Outcome.FAIL, fault, "output"))
    return done


def parse(answer: Answer, max_tokens: int | None) -> tuple[JSON, str | None]:
    """The JSON that a model said, or what is wrong with it."""
    try:
        value = json.loads(answer.text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\u" in answer.text:  # half of a surrogate pair is no text that later steps could send
            json.dumps(value, ensure_ascii=False).encode()
        return value, None
    except (ValueError, RecursionError) as error:
        cut_off = answer.finish_reason == "length"
        why = f"was cut off after {max_tokens} tokens" if cut_off else f"is not JSON: {error}"
        return None, f"the answer {why}"[:200]


def _refuse_constant(name: str) -> JSON:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]} is too large")
    return number


def conversation(spec: LlmSpec, scope: Mapping[str, JSON], prior: Payload | None) -> list[dict[str, Any]]:
    """The messages of an attempt. A repair adds the answer that was not accepted, and only what was wrong with it."""
    messages: list[dict[str, Any]] = []
    if spec.system is not None:
        messages.append({"role": "system", "content": text_of(render(spec.system, scope))})
    messages.append({"role": "user", "content": text_of(render(spec.prompt, scope))})
    return messages if prior is None else messages + objection(prior)


def objection(prior: Payload) -> list[dict[str, Any]]:
    """The answer that was not accepted, and only what was wrong with it."""
    said = prior.get("text")
    said = text_of(prior.get("output")) if said is None else said
    failed = [v for v in prior.get("verdicts") or () if v.get("outcome") == Outcome.FAIL.value]
    lines = [f"- {': '.join(filter(None, (v.get('path'), v.get('message'))))}" for v in failed[:6]]
    return [
        {"role": "assistant", "content": said[:_QUOTED]},
        {"role": "user", "content": "Not accepted:\n" + "\n".join(lines) + "\nAnswer again."},
    ]


def hash_of(request: ChatRequest) -> str:
    """SHA-256 of everything that decides the answer."""
    asked: list[Any] = [
        request.model, list(request.messages), request.schema, request.max_tokens, request.temperature, request.seed
    ]  # fmt: skip
    if request.tools:
        asked.append(list(request.tools))
    return hashlib.sha256(json.dumps(asked, separators=(",", ":")).encode()).hexdigest()


def text_of(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def given(a: Attempt) -> JSON:
    """The step's `with`: rendered, or as a model gave it."""
    return render(a.step.with_, a.scope) if a.arguments is None else a.arguments


async def python(run: Execution, a: Attempt) -> Done:
    """Calls an installed function, here or on the Ray cluster."""
    if a.step.on == "ray":
        from agentmesh.engine.reach import on_ray

        return await on_ray(run, a)
    assert a.step.python is not None
    of_tool = run.run.workflow.startswith(TOOL)  # the run is one call of the tool
    output, puts = await run.bench.tools.function(
        a.step.python, run.run.input if of_tool else given(a), key=a.key,
        state_scope=run.run.workflow if of_tool else f"workflow:{run.run.workflow}", run=run.run,
        notify=lambda line: run.notice(f"{a.path}: {line}"), caller=RunCaller(run, a.path), artifact=_making(run, a),
    )  # fmt: skip
    if isinstance(output, Content):
        if output.is_error:
            raise Fail(text_of_blocks(output.blocks))
        output = output.value
    return Done(output, puts=puts, schema=a.step.output)


def _making(run: Execution, a: Attempt) -> Callable[[Mapping[str, JSON], bool], None]:
    """What records the artifacts that a function makes: each is on its way to the journal when the function goes on."""

    def make(artifact: Mapping[str, JSON], append: bool) -> None:
        payload: dict[str, JSON] = {"artifact": artifact, "append": True} if append else {"artifact": artifact}
        run.journal.put_soon(Entry(Kind.STEP_ARTIFACT, a.path, a.number, payload))

    return make


async def tool(run: Execution, a: Attempt) -> Done:
    """Calls a tool of the mesh, as the run's owner: in place when it passes through, else by a run of its own."""
    name = a.step.tool
    assert name is not None
    arguments = run.run.input if run.run.workflow == TOOL + name else given(a)
    return await call_tool(run, a, name, arguments)


async def call_tool(run: Execution, a: Attempt, name: str, arguments: JSON) -> Done:
    """One call of a tool of the definition. PolicyDenied, InvalidInput; what the tool raises."""
    found = run.definition.tools[name]
    spec = run.definition.specs.get(name)
    run.authorize(Action("tools.call", f"tool:{name}", arguments))
    require_input(found.input_schema, arguments, "with" if a.arguments is None else "arguments")
    if found.foreign:
        return Done(await foreign(run, a, found, arguments))
    workflow = workflow_of_tool(found, spec)
    if workflow is not None:
        return Done(await child(run, a, workflow, arguments))
    assert spec is not None
    result, puts = await run.bench.tools.perform(
        found, spec, arguments, key=a.key, run=run.run, notify=lambda line: run.notice(f"{a.path}: {line}"),
        caller=RunCaller(run, a.path),
    )  # fmt: skip
    return Done(output_of(result), puts=puts)


async def foreign(run: Execution, a: Attempt, tool: Tool, arguments: JSON) -> JSON:
    """What a tool of somebody else's answers. Fail with its words when it failed."""
    if tool.by_agent:
        from agentmesh.engine.relay import relay

        peer, _, _ = tool.name.partition(".")
        parts = [{"text": arguments["message"]}] if arguments.get("message") is not None else []
        parts += [{"data": arguments["data"]}] if arguments.get("data") is not None else []
        return await relay(run, a, peer, parts, skill=run.bench.sources.skill_of(tool))
    call = SourceCall(
        tool, arguments, run.principal, a.key, RunCaller(run, a.path), run.definition.facts(a.step).writes, run.run.id, a.timeout
    )  # fmt: skip
    return output_of(await run.bench.tools.source_of(tool).call(call))


def output_of(result: ToolResult) -> JSON:
    """A tool's answer as the one value of a step. Fail when the tool failed."""
    if result.is_error:
        raise Fail(result.text or "the tool failed, and does not say why")
    return result.structured if result.content is None else value_of(result.content, result.structured)


async def workflow(run: Execution, a: Attempt) -> Done:
    """Runs another workflow."""
    name = a.step.workflow
    assert name is not None
    arguments = given(a)
    run.authorize(Action("runs.start", f"workflow:{name}", arguments))
    return Done(await child(run, a, name, arguments))


async def agent(run: Execution, a: Attempt) -> Done:
    """Sends a message to a skill of this mesh; the skill's output is the step's."""
    from agentmesh.engine.agents import input_of

    spec = a.step.agent
    assert spec is not None
    if spec.peer is not None:
        return Done(await _peer(run, a, spec), schema=a.step.output)
    assert spec.skill is not None
    name = run.definition.skills[spec.skill]
    content = render(spec.message, a.scope)
    part = {"data": content} if isinstance(content, Mapping) else {"text": text_of(content)}
    arguments = input_of([part], run.definition.workflows[name].input, spec.skill)
    run.authorize(Action("agents.send", f"agent:{spec.skill}", arguments))
    return Done(await child(run, a, name, arguments, skill=spec.skill, message=message_of(run, a, part)))


async def _peer(run: Execution, a: Attempt, spec: AgentSpec) -> JSON:
    """Sends a message to an agent elsewhere: the step's own, or the run's when that is all the run is for."""
    from agentmesh.engine.relay import relay

    assert spec.peer is not None
    message = run.run.message
    if run.run.workflow.startswith(PEER) and message is not None:
        return await relay(run, a, spec.peer, message["parts"], skill=run.run.input.get("skill"), message=message)
    content = render(spec.message, a.scope)
    part = {"data": content} if isinstance(content, Mapping) else {"text": text_of(content)}
    resource = f"agent:{spec.peer}" + (f".{spec.skill}" if spec.skill is not None else "")
    run.authorize(Action("agents.send", resource, {"text": part.get("text", ""), "data": part.get("data")}))
    return await relay(run, a, spec.peer, [part], skill=spec.skill)


def message_of(run: Execution, a: Attempt, part: Mapping[str, JSON]) -> dict[str, JSON]:
    """An A2A message from a step to the run that does its work."""
    return {
        "messageId": a.child_key, "role": "agent", "parts": [part], "contextId": run.run.context_id, "taskId": None,
        "metadata": {},
    }  # fmt: skip


async def child(
    run: Execution,
    a: Attempt,
    name: str,
    given: JSON,
    *,
    skill: str | None = None,
    message: dict[str, Any] | None = None,
) -> JSON:
    """Starts (or finds again) the run that does a step's work, and waits for its output. It spends this run's budget."""
    runs = run.bench.runs
    run_id = runs.new_id()
    if a.budget.limited:
        message = within(message or message_of(run, a, {"data": given}), a.budget.left())
    with run.bench.bus.subscribe(run_id) as subscription:  # first: the child may end before its start is heard of
        started, new = await runs.begin(
            run.principal, run.bench.definitions.pin_child(run.definition, name), given, run_id=run_id,
            key=a.child_key, source="step", context_id=run.run.context_id, message=message, parent=run.run.id,
            parent_path=a.path,
        )  # fmt: skip
        payload = {"run": started.id, "workflow": name} | ({"skill": skill} if skill else {})
        await run.journal.write(Entry(Kind.STEP_CHILD, a.path, a.number, payload))
        head, a.child = started, started.id
        if not started.state.terminal:
            head = await run.wait_for_child(a.path, started.id, subscription if new else None)
    a.child = None
    a.spent_by_child(head.usage)
    if head.state is RunState.COMPLETED:
        return head.output
    error = head.error or {}
    message_ = error.get("message") or f"it was {head.state.value}"
    raise ChildFailed(f"run {head.id} of {name} did not complete: {message_}", run=head.id, child=error.get("code"))


class ChildFailed(StepError):
    """The run that did a step's work did not complete."""

    code = "child_failed"


async def http(run: Execution, a: Attempt) -> Done:
    """Sends one request."""
    from agentmesh.engine.reach import http as send  # it stands on this module's neighbours, and is rarely needed

    return await send(run, a)


async def sql(run: Execution, a: Attempt) -> Done:
    """Asks a database one statement."""
    from agentmesh.engine.reach import sql as query

    return await query(run, a)


async def agent_loop(run: Execution, a: Attempt) -> Done:
    """Asks a model that may call tools, until it answers."""
    from agentmesh.engine.agent_loop import converse

    return await converse(run, a)


Verb = Callable[["Execution", Attempt], Awaitable[Done]]
VERBS: Mapping[str, Verb] = {
    "llm": llm, "python": python, "tool": tool, "workflow": workflow, "agent": agent, "http": http, "sql": sql,
}  # fmt: skip


def verb_of(a: Attempt, verb: str) -> Verb:
    """What makes an attempt."""
    return agent_loop if verb == "llm" and a.step.llm is not None and a.step.llm.tools is not None else VERBS[verb]
