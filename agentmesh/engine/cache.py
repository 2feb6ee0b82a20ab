"""Cache: outputs of earlier runs, found again by everything that decided them.

The key holds what was asked (the rendered prompt and system, sampling, schema, the model and its weights' revision; or the verb, its name
and arguments), the versions of the tools and workflows behind it, and the step's validators. Only an output that passed them is kept.
A hit is checked again by the validators that ask nobody; where one does not pass, it is no hit.

Values are kept per tenant. An installed function has no version: give `ttl` where it may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentmesh.core.expression import render
from agentmesh.core.policy import Action
from agentmesh.core.run import JSON
from agentmesh.core.tool import matching_tools
from agentmesh.core.workflow import Cache, seconds
from agentmesh.engine.attempts import Attempt, Done
from agentmesh.engine.steps import given, hash_of, question
from agentmesh.engine.validators import check_output

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution


async def look_up(run: Execution, a: Attempt) -> Done | None:
    """The output kept for this very question; None when there is none, it is too old, or would not pass now. PolicyDenied."""
    key, action, schema = _question(run, a)
    if action is not None:
        run.authorize(action)
    kept = await run.bench.store.get(_scope(run), key)
    if kept is None or not _fresh(a.step.cache, kept["at"], run.bench.clock()):
        return None
    facts = run.definition.facts(a.step)
    verdicts = check_output(facts.free, kept["output"], a.scope, schema=schema)
    done = Done(kept["output"], verdicts, model=kept.get("model"), prompt_hash=kept.get("prompt_hash"), cached=True)
    return done if done.passed else None


async def kept(run: Execution, a: Attempt, done: Done) -> dict[tuple[str, str], Any]:
    """What to write so that the output is found again."""
    key, _, _ = _question(run, a)
    value: dict[str, JSON] = {"at": run.bench.clock(), "output": done.output, "run": run.run.id, "path": a.path}
    if done.model is not None:
        value |= {"model": done.model, "prompt_hash": done.prompt_hash}
    return {(_scope(run), key): value}


def _scope(run: Execution) -> str:
    return f"cache:{run.run.tenant}"


def _fresh(cache: object, at: float, now: float) -> bool:
    ttl = seconds(cache.ttl) if isinstance(cache, Cache) and cache.ttl is not None else None
    return ttl is None or now < at + ttl


def _question(run: Execution, a: Attempt) -> tuple[str, Action | None, Mapping[str, Any] | None]:
    """The key; what the policies are asked before a hit is handed on; the schema of the output."""
    step, definition = a.step, run.definition
    action: Action | None = None
    schema: Mapping[str, Any] | None = None
    asked: list[Any]
    if step.llm is not None:
        request = question(run, a)
        schema = request.schema
        names = matching_tools(step.llm.tools or (), sorted(definition.tools))
        revision = definition.revisions.get(request.model, "")
        asked = [hash_of(request), revision, step.llm.max_turns, [definition.version_of(f"tool:{n}") for n in names]]
        action = Action("models.chat", f"model:{request.model}")
    elif step.tool is not None:
        arguments = given(a)
        asked = [step.tool, arguments, definition.version_of(f"tool:{step.tool}")]
        action = Action("tools.call", f"tool:{step.tool}", arguments)
    elif step.workflow is not None:
        arguments = given(a)
        asked = [step.workflow, arguments, definition.version_of(step.workflow)]
        action = Action("runs.start", f"workflow:{step.workflow}", arguments)
    elif step.agent is not None:
        message = render(step.agent.message, a.scope)
        skill = definition.skills.get(step.agent.skill or "")
        asked = [step.agent.peer, step.agent.skill, message, definition.version_of(skill) if skill else None]
        action = Action("agents.send", f"agent:{step.agent.skill}", message)
    elif step.python is not None:
        schema = step.output
        asked = [step.python, step.on, given(a)]
    else:
        spec = step.http or step.sql
        assert spec is not None
        said = spec.model_dump(mode="json", by_alias=True)
        # Headers may hold secrets, which are filled in when the request is sent and kept nowhere.
        headers = said.pop("headers", None)
        asked = [render(said, a.scope), headers, given(a)]
    checks = [validator.model_dump(mode="json", by_alias=True, exclude_unset=True) for validator in step.validate_]
    text = json.dumps([step.verb, asked, step.output, checks], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest(), action, schema
