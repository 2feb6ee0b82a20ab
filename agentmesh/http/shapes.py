"""Shapes: what requests and answers of the API look like on the wire, and core's nouns written in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentmesh.core.model import Usage
from agentmesh.core.run import Entry, Run, RunState, StepRun
from agentmesh.core.tool import Tool, ToolResult
from agentmesh.core.workflow import Step, Workflow

NAME_LENGTH = 200
KEY_LENGTH = 512
HEAD_VALUE = 4 * 1024
"""Bytes of JSON of a value that a list of runs still shows."""


def _kept(name: str) -> str:
    if "\0" in name:
        raise ValueError("holds a NUL, which no database keeps; leave it out")
    return name


Kept = AfterValidator(_kept)
"""For names that callers give and the store keeps as they are."""


class Body(BaseModel):
    """A request body. Unknown members are refused: a misspelt `imput` must not start a run without input."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StartRun(Body):
    """What to start. `key`: the same key never starts two runs; the first one's answer is given again."""

    workflow: Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)]
    input: Any = Field(default_factory=dict)
    key: Annotated[str, Field(min_length=1, max_length=KEY_LENGTH), Kept] | None = None


class CallTool(Body):
    arguments: dict[str, Any] = Field(default_factory=dict)


class UsageShape(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    seconds: float


class StepShape(BaseModel):
    """One step. `attempts` are its journal rows of kind `step.attempt`."""

    path: str
    verb: str
    state: str
    attempt: int
    why: str
    output: Any = None
    error: dict[str, Any] | None = None
    verdicts: list[dict[str, Any]]
    usage: UsageShape
    model: str | None = None
    child: str | None = None
    task: dict[str, Any] | None = None
    """{peer, task, context} of the agent elsewhere that does the work."""
    waiting: dict[str, Any] | None = None
    started_at: float | None = None
    ended_at: float | None = None
    attempts: list[EntryShape]


class EntryShape(BaseModel):
    """A row of the journal."""

    seq: int
    kind: str
    path: str
    attempt: int
    at: float
    payload: dict[str, Any]


class RunShape(BaseModel):
    """A run. Times are Unix seconds."""

    id: str
    workflow: str
    definition: str
    state: RunState
    input: Any = None
    output: Any = None
    error: dict[str, Any] | None = None
    owner: str
    tenant: str
    source: str
    key: str | None = None
    parent: str | None = None
    parent_path: str | None = None
    forked_from: str | None = None
    context_id: str | None = None
    message: dict[str, Any] | None = None
    created_at: float
    updated_at: float
    usage: UsageShape
    steps: list[StepShape]
    cancel_requested: bool
    seq: int
    route: dict[str, Any] | None = None
    """Who took the message and why, when that had to be chosen: {agent, skill, reason, score, others}."""
    artifacts: list[dict[str, Any]] | None = None
    """A2A Artifacts beside the output."""


class HeadShape(RunShape):
    """A run in a list: no steps, and `input`, `output`, `message` only where they are small; `omitted` names the rest."""

    omitted: list[str]


class RunsShape(BaseModel):
    """A page of runs; `next` is the `cursor` of the page after, null on the last."""

    runs: list[HeadShape]
    next: str | None = None
    total: int


class JournalShape(BaseModel):
    entries: list[EntryShape]


class ToolShape(BaseModel):
    name: str
    title: str | None = None
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    annotations: dict[str, Any]
    source: str
    server: str | None = None


class ToolsShape(BaseModel):
    tools: list[ToolShape]


class ToolResultShape(BaseModel):
    """A tool that failed has `is_error`, and says why in `text`."""

    structured: Any = None
    text: str
    is_error: bool
    run_id: str | None = None


class WorkflowShape(BaseModel):
    name: str
    title: str | None = None
    description: str | None = None
    input: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    on: dict[str, Any]
    steps: list[dict[str, Any]]


class WorkflowsShape(BaseModel):
    workflows: list[WorkflowShape]


class ModelsShape(BaseModel):
    object: str
    data: list[dict[str, Any]]
    """The models that the caller may ask, as OpenAI has them."""
    models: list[dict[str, Any]]
    default: str | None = None


class ScheduleShape(BaseModel):
    """One `cron` entry. `next` and `last` are instants in UTC; `waiting` counts those that wait for their turn."""

    workflow: str
    index: int
    schedule: str
    timezone: str
    overlap: str
    catch_up: str
    jitter: str | float
    next: str | None = None
    last: str | None = None
    run: str | None = None
    waiting: int
    paused: bool
    error: str | None = None


class SchedulesShape(BaseModel):
    schedules: list[ScheduleShape]


class BackfillRunShape(BaseModel):
    """The run of one instant; `new` when this backfill started it."""

    instant: str
    run: str
    state: str
    new: bool


class BackfillShape(BaseModel):
    """`next`: the first instant that `limit` left out."""

    runs: list[BackfillRunShape]
    next: str | None = None


class QuestionShape(BaseModel):
    """What a run asks a person. `digest` binds an answer to what is shown."""

    run: str
    workflow: str
    id: str
    path: str
    kind: str
    ask: str
    show: Any = None
    form: dict[str, Any] | None = None
    caller: str
    subject: str
    digest: str
    asked_at: float
    expires_at: float | None = None


class QuestionsShape(BaseModel):
    """`more`: there are runs that were not looked through."""

    questions: list[QuestionShape]
    more: bool


class FilesShape(BaseModel):
    """How the files in the folder are to what is served."""

    revision: int
    at: float | None
    faults: list[str]
    restart: list[str]


class MeshShape(BaseModel):
    name: str
    description: str
    version: str
    url: str
    pid: int
    folder: str
    files: FilesShape


class ProblemShape(BaseModel):
    """RFC 9457 problem details; `code` is stable, further members depend on it."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    code: str


StepShape.model_rebuild()


def run_to_json(run: Run) -> dict[str, Any]:
    """A run as RunShape has it, its steps in the order they began."""
    return {
        "id": run.id, "workflow": run.workflow, "definition": run.definition, "state": run.state.value,
        "input": run.input, "output": run.output, "error": _plain(run.error), "owner": run.owner, "tenant": run.tenant,
        "source": run.source, "key": run.key, "parent": run.parent, "parent_path": run.parent_path,
        "forked_from": run.forked_from,
        "context_id": run.context_id, "message": _plain(run.message),
        "created_at": run.created_at, "updated_at": run.updated_at, "usage": _usage(run.usage),
        "steps": [_step(step) for step in run.steps.values()],
        "cancel_requested": run.cancel_requested, "seq": run.seq,
        **({} if run.route is None else {"route": dict(run.route)}),
        **({} if not run.artifacts else {"artifacts": [dict(one) for one in run.artifacts.values()]}),
    }  # fmt: skip


def head_to_json(run: Run, omitted: Sequence[str] = ()) -> dict[str, Any]:
    """A run as HeadShape has it, without values over HEAD_VALUE: a page of a megabyte each would be a hundred. `omitted`: not read."""
    return {**run_to_json(run), "omitted": [name for name in ("input", "output", "message") if name in omitted]}


def entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "seq": entry.seq, "kind": entry.kind.value, "path": entry.path, "attempt": entry.attempt, "at": entry.at,
        "payload": dict(entry.payload),
    }  # fmt: skip


def tool_to_json(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name, "title": tool.title, "description": tool.description,
        "input_schema": dict(tool.input_schema), "output_schema": _plain(tool.output_schema),
        "annotations": dict(tool.annotations), "source": tool.source, "server": tool.server,
    }  # fmt: skip


def result_to_json(result: ToolResult) -> dict[str, Any]:
    return {
        "structured": result.structured, "text": result.text, "is_error": result.is_error, "run_id": result.run_id,
        **({} if result.content is None else {"content": [dict(block) for block in result.content]}),
    }  # fmt: skip


def workflow_to_json(workflow: Workflow) -> dict[str, Any]:
    """What a caller needs to start it, what starts it by itself, and its steps by id and verb."""
    return {
        "name": workflow.name, "title": workflow.title, "description": workflow.description,
        "input": workflow.input, "output_schema": workflow.output_schema,
        "on": workflow.on.model_dump(
            mode="json", exclude_none=True, include={"mcp": True, "a2a": True, "cron": True, "webhook": {"path"}}
        ),
        "steps": [*_steps(workflow.steps)],
    }  # fmt: skip


def _steps(steps: Iterable[Step]) -> Iterable[dict[str, Any]]:
    for step in steps:
        shape: dict[str, Any] = {"id": step.id, "verb": step.verb}
        inner = [inside for _, steps in step.blocks() for inside in steps]
        if inner:
            shape["steps"] = [*_steps(inner)]
        yield shape


def _step(step: StepRun) -> dict[str, Any]:
    return {
        "path": step.path, "verb": step.verb, "state": step.state.value, "attempt": step.attempt, "why": str(step.why),
        "output": step.output, "error": _plain(step.error), "verdicts": [dict(v) for v in step.verdicts],
        "usage": _usage(step.usage), "model": step.model, "child": step.child,
        "waiting": _plain(step.waiting), **({} if step.task is None else {"task": dict(step.task)}),
        "started_at": step.started_at, "ended_at": step.ended_at,
        "attempts": [entry_to_json(entry) for entry in step.attempts],
    }  # fmt: skip


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens, "seconds": usage.seconds,
    }  # fmt: skip


def _plain(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if value is None else dict(value)
