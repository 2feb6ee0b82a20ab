"""A run as the tasks extension has it on the wire, and what its clients say of themselves. Reads no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import ceil
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import CLIENT_CAPABILITIES_META_KEY, INTERNAL_ERROR, MISSING_REQUIRED_CLIENT_CAPABILITY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentmesh.core.question import Question
from agentmesh.core.run import Run, RunState, StepState
from agentmesh.engine.conversation import text_of_parts
from agentmesh.mcp.asking import key_of

EXTENSION: Final = "io.modelcontextprotocol/tasks"
POLL_MS: Final = (250, 5000)
"""How soon and how late a client is told to ask again: a tenth of the task's age, within these."""

Ctx = ServerRequestContext[Any, Any]


def task_of(run: Run, status: str, now: float, kept: float | None, message: str | None = None) -> dict[str, Any]:
    """What every shape of a task has. `kept`: seconds that it can be asked for after its end; None: for ever."""
    last = max(run.updated_at, run.created_at)
    # Counted from the creation, while a task is kept from its end on: before that, as if it ended now.
    until = None if kept is None else ceil(((last if run.state.terminal else now) + kept - run.created_at) * 1000)
    soonest, latest = POLL_MS
    return {
        "taskId": run.id,
        "status": status,
        **({} if message is None else {"statusMessage": message}),
        "createdAt": _time(run.created_at),
        "lastUpdatedAt": _time(last),
        "ttlMs": until if until is None else max(until, 1),
        "pollIntervalMs": min(latest, max(soonest, int((now - run.created_at) * 100))),
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def declared(ctx: Ctx) -> bool:
    """Whether the client says in this request that it knows tasks."""
    extensions = _capabilities(ctx).get("extensions")
    return isinstance(extensions, Mapping) and isinstance(extensions.get(EXTENSION), Mapping)


def elicits(ctx: Ctx) -> bool:
    """Whether the client can show a form."""
    found = _capabilities(ctx).get("elicitation")
    return isinstance(found, Mapping) and (not found or "form" in found)


def missing_extension(message: str) -> MCPError:
    data: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
    return MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, message, data)


def _capabilities(ctx: Ctx) -> Mapping[str, Any]:
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS or ctx.meta is None:
        return {}
    found = ctx.meta.get(CLIENT_CAPABILITIES_META_KEY)
    return found if isinstance(found, Mapping) else {}


def task_key(question: Question) -> str:
    """Never the same for two questions of a task, which may be those of several runs."""
    return f"{question.run_id}/{key_of(question)}"


def failure_of(workflow: str, error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The JSON-RPC error of a run that failed by a bug of its tool's; None for a failure that is the tool's answer (`isError`).

    A workflow's failed step is the workflow's answer, whatever was raised in it.
    """
    if error is None or not error.get("unexpected") or not workflow.startswith("tool:"):
        return None
    return {"code": INTERNAL_ERROR, "message": str(error.get("message") or "the tool failed")}


def doing(run: Run, open_: Sequence[tuple[Run, Question]]) -> str | None:
    """What a run that works is at, in a line."""
    if open_:
        return f"waits for a person's answer elsewhere: {open_[0][1].ask}"
    if run.state is RunState.AUTH_REQUIRED:
        said = text_of_parts(((run.said or {}).get("message") or {}).get("parts") or ())
        return "waits for somebody to log in with the agent that does it" + (f": {said}" if said else "")
    at = [step.path for step in run.steps.values() if step.state in (StepState.RUNNING, StepState.WAITING)]
    return f"at {', '.join(at[-3:])}" if at else None
