"""Calls: tools as a model is told of them, the calls that it asks for, and what it is told of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentmesh.core.model import ToolUse
from agentmesh.core.run import JSON
from agentmesh.core.tool import Tool
from agentmesh.engine.attempts import NOTHING_SPENT
from agentmesh.engine.models import Answer
from agentmesh.engine.steps import parse, text_of
from agentmesh.errors import StepError

RESULT = 20_000
"""Characters of a tool's answer that a model is shown: its context has an end."""
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_-]")
_LEGAL_LENGTH = 64


class CallFault(StepError):
    """A model's call is none that can be made."""

    code = "invalid_call"


def uses_of(said: Mapping[str, JSON]) -> list[ToolUse]:
    return [ToolUse(u["id"], u["name"], u["arguments"]) for u in said["tool_uses"]]


def distinct(uses: Sequence[ToolUse], turn: str) -> list[ToolUse]:
    """With ids that tell them apart, which not every endpoint gives."""
    ids = [use.id for use in uses]
    if all(ids) and len(set(ids)) == len(ids):
        return list(uses)
    return [replace(use, id=f"call_{turn}_{index}") for index, use in enumerate(uses)]


def arguments_of(use: ToolUse) -> tuple[dict[str, JSON], str | None]:
    """The arguments that a model wrote, or what is wrong with them."""
    if not use.arguments.strip():
        return {}, None
    arguments, fault = parse(Answer(use.arguments, NOTHING_SPENT, None, None), None)
    if fault is not None:
        return {}, f"the arguments of {use.name} are no JSON: {fault.removeprefix('the answer ')}"
    if not isinstance(arguments, dict):
        return {}, f"the arguments of {use.name} must be a JSON object"
    return arguments, None


def exchange(said: Mapping[str, JSON], uses: Sequence[ToolUse], results: Sequence[str]) -> list[dict[str, Any]]:
    """A turn that called tools, and what came of it, as chat messages."""
    calls = []
    for use in uses:
        arguments, wrong = arguments_of(use)
        # Arguments that are no JSON, and a name that no tool may have, would break the next question at many endpoints.
        text = use.arguments if wrong is None and use.arguments.strip() else json.dumps(arguments)
        name = _ILLEGAL.sub("_", use.name)[:_LEGAL_LENGTH] or "none"
        calls.append({"id": use.id, "type": "function", "function": {"name": name, "arguments": text}})
    told = [{"role": "tool", "tool_call_id": use.id, "content": text} for use, text in zip(uses, results, strict=True)]
    return [{"role": "assistant", "content": said["text"] or None, "tool_calls": calls}, *told]


def legal_names(tools: Sequence[str]) -> dict[str, str]:
    """Tools by the name that a model may be told: letters, digits, `_` and `-`, at most 64 of them."""
    legal: dict[str, str] = {}
    for tool in tools:
        name = base = _ILLEGAL.sub("_", tool)[:_LEGAL_LENGTH]
        count = 2
        while name in legal:
            name = f"{base[: _LEGAL_LENGTH - 4]}_{count}"
            count += 1
        legal[name] = tool
    return legal


def as_function(name: str, tool: Tool) -> dict[str, Any]:
    """A tool as OpenAI's chat completions offer it."""
    parameters = dict(tool.input_schema)
    return {"type": "function", "function": {"name": name, "description": tool.description, "parameters": parameters}}


def shown(output: JSON) -> str:
    text = text_of(output)
    return text if len(text) <= RESULT else f"{text[:RESULT]}\n(cut: {len(text) - RESULT} characters more)"


def told_error(error: Mapping[str, JSON]) -> str:
    return f"Error ({error.get('code')}): {error.get('message')}"
