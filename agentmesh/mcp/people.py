"""The tools by which an MCP client takes a person's part: what runs ask, the answer, a signal, an end.

They are offered under `runs.` when a workflow of the mesh, or an agent elsewhere, can wait or ask, beside the mesh's own tools; a
tool of the mesh that has one of the names keeps it. Like every tool they are listed and called as policies say
(`tool:runs.answer`), and the run behind has its own say (`runs.answer`, `runs.read`, `runs.cancel`). Clients that can be asked are
asked besides, by elicitation and by tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Action, Principal
from agentmesh.core.run import Run
from agentmesh.core.tool import Tool, ToolCall, ToolResult
from agentmesh.core.workflow import Step, Validator
from agentmesh.engine import Engine
from agentmesh.engine.asked import open_questions
from agentmesh.engine.definitions import steps_of
from agentmesh.engine.guard import Guard
from agentmesh.engine.tools import text_of
from agentmesh.engine.validators import require_input
from agentmesh.errors import InvalidInput

log = logging.getLogger("agentmesh.mcp")

_RUN: Final = {"type": "string", "minLength": 1, "maxLength": 200, "description": "The run's id."}


def _tool(name: str, description: str, properties: Mapping[str, Any], *required: str, **hints: bool) -> Tool:
    schema = {
        "type": "object", "properties": properties, "required": list(required), "additionalProperties": False,
    }  # fmt: skip
    return Tool(name, description, schema, annotations={"openWorldHint": False, **hints}, source="mesh")


TOOLS: Final = (
    _tool(
        "runs.questions",
        "What runs ask people now. With a run: its state, its questions, and its output when it has ended.",
        {"run": _RUN},
        readOnlyHint=True,
    ),
    _tool(
        "runs.answer",
        "Answers a question of a run, after the person it is for has decided. The first answer counts.",
        {
            "run": _RUN,
            "question": {"type": "string", "maxLength": 512, "description": "Its id; not needed when only one is open."},
            "yes": {"type": "boolean", "description": "For an approval: yes or no."},
            "value": {"description": "The values of the question's form."},
            "digest": {"type": "string", "maxLength": 200, "description": "Of the question as it was shown to the person."},
        },
        "run",
        destructiveHint=False,
        idempotentHint=True,
    ),
    _tool(
        "runs.signal",
        "Gives a run a signal that one of its steps waits for, or will.",
        {
            "run": _RUN,
            "name": {"type": "string", "minLength": 1, "maxLength": 200},
            "value": {},
            "key": {"type": "string", "minLength": 1, "maxLength": 512, "description": "The same key is one signal."},
        },
        "run", "name",
        destructiveHint=False,
    ),
    _tool("runs.cancel", "Ends a run.", {"run": _RUN}, "run", destructiveHint=True, idempotentHint=False),
)  # fmt: skip


class People:
    """The tools above, for one mesh."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._guard = Guard(engine.mesh)
        self._tools: Mapping[str, Tool] = {}
        self._seen: tuple[int, bool] = (-1, False)
        self._acts: Mapping[str, Callable[[Principal, Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {
            "runs.questions": self._questions, "runs.answer": self._answer, "runs.signal": self._signal,
            "runs.cancel": self._cancel,
        }  # fmt: skip

    @property
    def tools(self) -> Mapping[str, Tool]:
        """Those that are offered, by name, as the files say now."""
        mesh = self._engine.mesh
        seen = (mesh.revision, bool(self._engine.sources.peers()))
        if self._seen != seen:
            waits = seen[1] or _waits(mesh)  # an agent elsewhere may ask whatever it likes
            found = {tool.name: tool for tool in TOOLS if tool.name not in mesh.tools} if waits else {}
            if taken := [tool.name for tool in TOOLS if tool.name in mesh.tools and found]:
                log.warning(
                    "the mesh's own tools keep the names %s; those of AgentMesh are not offered", ", ".join(taken)
                )
            self._tools, self._seen = found, seen
        return self._tools

    def list(self, principal: Principal) -> list[Tool]:
        """Those that the principal may list."""
        return [tool for tool in self.tools.values() if self._may(principal, "tools.list", tool.name, listing=True)]

    def _may(self, principal: Principal, verb: str, name: str, *, listing: bool = False) -> bool:
        return self._guard.allows(principal, Action(verb, f"tool:{name}", listing=listing))

    async def call(self, principal: Principal, call: ToolCall) -> ToolResult:
        """Calls one of `tools`. Raises what `Runs` does."""
        self._guard.authorize(principal, Action("tools.call", f"tool:{call.name}", call.arguments))
        require_input(self.tools[call.name].input_schema, call.arguments, "arguments")
        found = await self._acts[call.name](principal, call.arguments)
        return ToolResult(structured=found, text=text_of(found))

    async def _questions(self, principal: Principal, given: Mapping[str, Any]) -> dict[str, Any]:
        if "run" in given:
            return await self._shown(principal, await self._engine.runs.get(principal, given["run"]))
        asked = await open_questions(self._engine.runs, principal)
        return {
            "questions": [{**q.to_json(), "workflow": run.workflow} for run, q in asked.questions],
            "more": asked.more,
        }

    async def _answer(self, principal: Principal, given: Mapping[str, Any]) -> dict[str, Any]:
        if "yes" not in given and "value" not in given:
            raise InvalidInput("arguments: an answer says `yes` (true or false), or gives a `value`")
        run = await self._engine.runs.answer(
            principal, given["run"], question=given.get("question"), yes=given.get("yes", True),
            value=given.get("value"), digest=given.get("digest"),
        )  # fmt: skip
        return {"run": run.id, "workflow": run.workflow, "state": run.state.value, "answered": True}

    async def _signal(self, principal: Principal, given: Mapping[str, Any]) -> dict[str, Any]:
        run = await self._engine.runs.signal(
            principal, given["run"], given["name"], given.get("value"), key=given.get("key")
        )  # fmt: skip
        return {"run": run.id, "workflow": run.workflow, "state": run.state.value}

    async def _cancel(self, principal: Principal, given: Mapping[str, Any]) -> dict[str, Any]:
        run = await self._engine.runs.cancel(principal, given["run"])
        return {
            "run": run.id, "workflow": run.workflow, "state": run.state.value, "cancel_requested": run.cancel_requested,
        }  # fmt: skip

    async def _shown(self, principal: Principal, run: Run) -> dict[str, Any]:
        asked = await self._engine.runs.questions(principal, run.id)
        return {
            "run": run.id, "workflow": run.workflow, "state": run.state.value, "output": run.output,
            "error": None if run.error is None else dict(run.error), "questions": [q.to_json() for q in asked],
        }  # fmt: skip


def _waits(mesh: Mesh) -> bool:
    """Whether a run of the mesh can wait for something from outside."""
    steps = [step for workflow in mesh.workflows.values() for step in steps_of(workflow)]
    return any(map(_step_waits, steps)) or any(_asks(spec.validate_, spec.on_invalid) for spec in mesh.specs.values())


def _step_waits(step: Step) -> bool:
    return step.approve is not None or step.wait is not None or _asks(step.validate_, step.on_invalid)


def _asks(validators: tuple[Validator, ...], on_invalid: tuple[Any, ...]) -> bool:
    """Whether a person looks at an answer, or gives it."""
    return any(validator.approve is not None for validator in validators) or any(
        isinstance(remedy, Mapping) and "ask" in remedy for remedy in on_invalid
    )
