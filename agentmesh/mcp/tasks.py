"""The tasks extension (`io.modelcontextprotocol/tasks`, SEP-2663): a run that outlasts a moment, by its id.

A task is no thing of its own: its id is the run's, its state is folded from the run's journal each time somebody asks, and its
questions are the run's. So it is there on every replica of the mesh and after any restart, and what is answered or canceled
elsewhere shows here. Which client knows tasks is said anew in each request. The tasks of the 2025-11-25 revision, an experiment
that no common client speaks, are not served: there a call waits for its run as it always did.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import StrictStr

from agentmesh.core.caller import ELICITATION
from agentmesh.core.policy import Action, Principal
from agentmesh.core.question import Question, questions
from agentmesh.core.run import Kind, Run, RunState
from agentmesh.core.tool import Tool, ToolCall, ToolResult
from agentmesh.core.workflow import seconds
from agentmesh.engine import Engine
from agentmesh.engine.definitions import workflow_of_tool
from agentmesh.engine.guard import Guard, resource_of
from agentmesh.engine.tools import result_of
from agentmesh.errors import Conflict, MeshError, NotFound
from agentmesh.mcp.asking import from_elicitation, to_elicitation
from agentmesh.mcp.convert import check_arguments, to_mcp_result
from agentmesh.mcp.exchange import reported
from agentmesh.mcp.task import (
    EXTENSION,
    Ctx,
    declared,
    doing,
    elicits,
    failure_of,
    missing_extension,
    task_key,
    task_of,
)

log = logging.getLogger("agentmesh.mcp")

MOMENT: Final = 0.3
"""Seconds that a run has to end in before it is a task: a quick answer is worth more than a handle on it."""
WATCHED: Final = 100
"""Tasks that one listen stream follows at most, and runs within one task."""
DEPTH: Final = 8
"""Runs within runs whose questions are looked for."""
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_TOLD: Final = frozenset(Kind) - {Kind.RUN_SUBMITTED, Kind.STEP_INTENT, Kind.STEP_SKIPPED}
"""Kinds after which a task may be another."""
_CHANGES: Final = ("status", "statusMessage", "inputRequests")
"""What has to change for a watcher to be told."""

Asked = Mapping[str, tuple[Run, Question]]
"""Open questions by the key that a client knows them by, each with the run that asks."""


class TaskParams(RequestParams):
    """Of tasks/get and tasks/cancel."""

    task_id: StrictStr


class UpdateParams(TaskParams):
    """Of tasks/update."""

    input_responses: dict[str, Any]


class _News:
    """That something happened since the last look at a task, and the runs that it may happen in."""

    def __init__(self) -> None:
        self.heard: set[str] = set()
        self._event = anyio.Event()

    def stir(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()


class Tasks:
    """Runs as tasks, for one mesh. `depth`: of the JSON that a client may send."""

    def __init__(self, engine: Engine, principal_of: Callable[[Ctx], Principal], *, depth: int = 64) -> None:
        self._engine = engine
        self._principal_of = principal_of
        self._depth = depth
        self._guard = Guard(engine.mesh)

    def register(self, server: Server[Any]) -> None:
        """Has the server answer tasks/get, tasks/update and tasks/cancel, and say that it does."""
        server.extensions[EXTENSION] = {}
        server.add_request_handler("tasks/get", TaskParams, self.get)
        server.add_request_handler("tasks/update", UpdateParams, self.update)
        server.add_request_handler("tasks/cancel", TaskParams, self.cancel)

    # tools/call

    def takes(self, ctx: Ctx, tool: Tool) -> bool:
        """Whether a call of the tool may become a task; a caller that may not read its runs had nothing of one.

        MCPError -32021 for a tool that must be called as a task, from a client that knows none; PolicyDenied from such a caller.
        """
        workflow = workflow_of_tool(tool, None if tool.foreign else self._engine.mesh.specs.get(tool.name))
        must = tool.task == "required"
        if workflow is None or not (must or declared(ctx)):
            return False
        if not declared(ctx):
            raise missing_extension(f"tool {tool.name} answers by a task only; call it from a client that knows tasks")
        read = Action("runs.read", resource_of(workflow))
        if must:
            self._guard.authorize(self._principal_of(ctx), read)
        return must or self._guard.allows(self._principal_of(ctx), read)

    async def call(self, ctx: Ctx, principal: Principal, call: ToolCall, tool: Tool) -> dict[str, Any]:
        """CallToolResult when the run ends at once, else CreateTaskResult of what is durable by now.

        Raises what `Tools.call` does. A tool that must be called as a task always is one. A client that leaves before it knows the
        task's id cancels the run, unless it can find it again by its idempotency key.
        """
        run = await self._engine.tools.begin(principal, call)
        try:
            if tool.task != "required":
                run = await self._moment(run)
        except anyio.get_cancelled_exc_class():
            if call.key is None:
                with anyio.CancelScope(shield=True):
                    await self._engine.runs.request_cancel(run.id, principal.subject)
            raise
        if not run.state.terminal:
            return {"resultType": "task", **self._task(run, "working")}
        result = result_of(run)
        self.check(tool, result)
        return to_mcp_result(result, ctx.protocol_version)

    def check(self, tool: Tool, result: ToolResult) -> None:
        """MCPError for the end of a run that a task would call failed: a call and a task say the same."""
        spec = self._engine.mesh.specs.get(tool.name)
        own = spec is not None and spec.workflow is None
        failure = failure_of(f"tool:{tool.name}", result.error) if own and result.error is not None else None
        if failure is not None:
            raise MCPError(failure["code"], failure["message"])

    async def _moment(self, run: Run) -> Run:
        """The run when it has ended, or asks something, or MOMENT is over."""
        with anyio.move_on_after(MOMENT):
            async with aclosing(self._engine.runs.follow(run)) as events:
                async for event in events:
                    run = event.run
                    if run.state.terminal or questions(run):
                        break
        return run

    # tasks/*

    async def get(self, ctx: Ctx, params: TaskParams) -> dict[str, Any]:
        """The task as it stands, with its result, its error or what it asks."""
        principal, run = await self._own(ctx, params.task_id)
        try:
            found = await self._detailed(ctx, principal, run)
        except Exception as error:
            raise reported(error, ctx.method) from error
        return {"resultType": "complete", **found}

    async def update(self, ctx: Ctx, params: UpdateParams) -> dict[str, Any]:
        """Answers what the task asks; none of it when one answer is malformed. Keys that are not open are ignored."""
        principal, run = await self._own(ctx, params.task_id)
        try:
            check_arguments(params.input_responses, self._depth)
            open_ = [] if run.state.terminal else await self._open(principal, run)
            asked = self._answerable(principal, open_)
            replies = [
                (asking, question, from_elicitation(question, params.input_responses[key]))
                for key, (asking, question) in asked.items()
                if key in params.input_responses
            ]
            for asking, question, reply in replies:
                if reply is not None:
                    await self._answer(principal, asking, question, yes=reply.yes, value=reply.value)
        except Exception as error:
            raise reported(error, ctx.method) from error
        return {"resultType": "complete"}

    async def _answer(self, principal: Principal, run: Run, question: Question, *, yes: bool, value: Any) -> None:
        try:
            await self._engine.runs.answer(
                principal, run.id, question=question.id, yes=yes, value=value, digest=question.digest
            )
        except (Conflict, NotFound) as error:  # somebody was quicker; the key is not open any more
            log.debug("ignored an answer to %s of run %s: %s", question.id, run.id, error)

    async def cancel(self, ctx: Ctx, params: TaskParams) -> dict[str, Any]:
        """Asks the run to end. Nothing happens to one that has ended."""
        principal, run = await self._own(ctx, params.task_id)
        try:
            if not run.state.terminal:
                await self._engine.runs.cancel(principal, run.id)
        except Conflict:
            log.debug("run %s ended before it was canceled", run.id)
        except Exception as error:
            raise reported(error, ctx.method) from error
        return {"resultType": "complete"}

    # subscriptions/listen

    async def agreed(self, ctx: Ctx, task_ids: Any) -> tuple[str, ...]:
        """Those of the ids that a stream will tell of: the caller's own. -32021 from a client that knows no tasks."""
        if task_ids is None:
            return ()
        if not isinstance(task_ids, list) or not all(isinstance(one, str) for one in task_ids):
            raise MCPError(INVALID_PARAMS, "taskIds is a list of task ids.")
        if len(task_ids) > WATCHED:
            raise MCPError(INVALID_PARAMS, f"One stream follows at most {WATCHED} tasks; open another.")
        self._require(ctx)
        principal = self._principal_of(ctx)
        try:
            return tuple([one for one in dict.fromkeys(task_ids) if await self._find(principal, one) is not None])
        except Exception as error:
            raise reported(error, ctx.method) from error

    async def watch(self, ctx: Ctx, task_ids: Sequence[str], tell: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Tells the params of `notifications/tasks` of each task now and whenever it changes; returns when all have ended.

        What changes while `tell` waits is told once, as it is then.
        """
        principal = self._principal_of(ctx)
        async with anyio.create_task_group() as group:
            for task_id in task_ids:
                group.start_soon(self._watch, ctx, principal, task_id, tell)

    async def _watch(
        self, ctx: Ctx, principal: Principal, task_id: str, tell: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        news = _News()
        told: Mapping[str, Any] = {}
        async with anyio.create_task_group() as group:
            group.start_soon(self._hear, group, principal, task_id, news)
            try:
                while (run := await self._find(principal, task_id)) is not None:
                    found = await self._detailed(ctx, principal, run)
                    if any(found.get(name) != told.get(name) for name in _CHANGES):
                        await tell(found)
                        told = found
                    if run.state.terminal:
                        break
                    await news.wait()
            except MeshError as error:  # may not be read any more, or the store is away: the client asks again
                log.warning("task %s is told of no more: %s", task_id, error)
            group.cancel_scope.cancel()

    async def _hear(self, group: TaskGroup, principal: Principal, run_id: str, news: _News) -> None:
        """Stirs `news` whenever something happens in the run, or in one that it started."""
        news.heard.add(run_id)
        try:
            run = await self._engine.runs.get(principal, run_id)
            async with aclosing(self._engine.runs.follow(run)) as events:
                async for event in events:
                    entry = event.entry
                    if entry is None or entry.kind not in _TOLD:
                        continue
                    child = entry.payload.get("run") if entry.kind is Kind.STEP_CHILD else None
                    if isinstance(child, str) and child not in news.heard and len(news.heard) < WATCHED:
                        group.start_soon(self._hear, group, principal, child, news)
                    news.stir()
        except MeshError as error:
            log.debug("nothing is heard of run %s: %s", run_id, error)
        news.stir()

    # What a task is

    async def _own(self, ctx: Ctx, task_id: str) -> tuple[Principal, Run]:
        """Who asks, and the run. MCPError for a header that says something else (-32020), a client that knows no tasks (-32021)
        and a task that is not there, is somebody else's or has expired, alike (-32602).
        """
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", ctx.method)
        if ctx.request is not None and decode_header_value(ctx.request.headers.get(MCP_NAME_HEADER)) != task_id:
            raise MCPError(HEADER_MISMATCH, "The header Mcp-Name must be there and say what params.taskId says.")
        self._require(ctx)
        try:
            principal = self._principal_of(ctx)
            run = await self._find(principal, task_id)
        except Exception as error:
            raise reported(error, ctx.method) from error
        if run is None:
            raise MCPError(INVALID_PARAMS, "There is no such task: it never was, is somebody else's, or has expired.")
        return principal, run

    def _require(self, ctx: Ctx) -> None:
        if not declared(ctx):
            raise missing_extension(
                f"{ctx.method} is for clients that declare {EXTENSION} in the request's clientCapabilities"
            )

    async def _find(self, principal: Principal, task_id: str) -> Run | None:
        if not _ID.fullmatch(task_id):
            return None
        try:
            run = await self._engine.runs.get(principal, task_id)
        except NotFound:
            return None
        kept = self._kept()
        if kept is not None and run.state.terminal and run.updated_at + kept < self._engine.clock():
            return None
        return run

    def _kept(self) -> float | None:
        """Seconds that a task can be asked for after its end; None: for ever."""
        file = self._engine.mesh.file
        times = [seconds(time) for time in (file.mcp.task_ttl, file.retention) if time is not None]
        return min(times, default=None)

    def _task(self, run: Run, status: str, message: str | None = None) -> dict[str, Any]:
        return task_of(run, status, self._engine.clock(), self._kept(), message)

    async def _detailed(self, ctx: Ctx, principal: Principal, run: Run) -> dict[str, Any]:
        """`DetailedTask`."""
        error = run.error or {}
        if run.state is RunState.CANCELED:
            return self._task(run, "cancelled")
        if run.state.terminal:
            failure = failure_of(run.workflow, run.error)
            if failure is not None:
                return {**self._task(run, "failed", failure["message"]), "error": failure}
            said = str(error["message"]) if "message" in error else None
            return {
                **self._task(run, "completed", said),
                "result": to_mcp_result(result_of(run), ctx.protocol_version),
            }
        open_ = await self._open(principal, run)
        asked = self._answerable(principal, open_)
        if asked and elicits(ctx):
            requests = {
                key: {"method": ELICITATION, "params": to_elicitation(question, ctx.protocol_version)}
                for key, (_, question) in asked.items()
            }
            asks = "; ".join(question.ask for _, question in asked.values())
            return {**self._task(run, "input_required", asks), "inputRequests": requests}
        return self._task(run, "working", doing(run, open_))

    async def _open(self, principal: Principal, run: Run, depth: int = DEPTH) -> list[tuple[Run, Question]]:
        """What the run and the runs it started ask now, each with the run that asks."""
        now = self._engine.clock()
        found: list[tuple[Run, Question]] = []
        open_ = questions(run)
        if open_:  # an answer stands in the journal before the run has taken it
            entries = await self._engine.store.entries(run.id)
            answered = {entry.payload.get("question") for entry in entries if entry.kind is Kind.RUN_ANSWERED}
            for question in open_:
                late = question.expires_at is not None and question.expires_at < now
                if question.id not in answered and not late:
                    found.append((run, question))
        for step in run.steps.values():
            if step.child is not None and not step.state.ended and depth > 0:
                try:
                    child = await self._engine.runs.get(principal, step.child)
                except MeshError:
                    continue  # not the caller's to read
                found += await self._open(principal, child, depth - 1)
        return found

    def _answerable(self, principal: Principal, open_: Sequence[tuple[Run, Question]]) -> Asked:
        """What of it the principal may answer. Nobody else's questions are a client's input."""
        may = self._engine.runs.may_answer
        return {task_key(question): (run, question) for run, question in open_ if may(principal, run, question)}
