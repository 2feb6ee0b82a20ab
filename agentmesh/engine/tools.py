"""Tools: what the mesh offers by name, listed and called."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from agentmesh.core.caller import ELICITATION, NOBODY, Caller, InputRequest
from agentmesh.core.content import Content, text_of_blocks
from agentmesh.core.context import Context
from agentmesh.core.expression import render
from agentmesh.core.mesh import Mesh
from agentmesh.core.outside import HttpClient
from agentmesh.core.policy import Action, Principal
from agentmesh.core.run import JSON, Run, RunEvent, RunState
from agentmesh.core.source import Source, SourceCall
from agentmesh.core.store import Store
from agentmesh.core.tool import Elicit, Tool, ToolCall, ToolResult, ToolSpec
from agentmesh.core.verdict import Outcome
from agentmesh.core.workflow import HttpSpec, seconds
from agentmesh.engine.asking import CheckedCaller, follow_and_ask
from agentmesh.engine.bus import Bus
from agentmesh.engine.changes import Changes
from agentmesh.engine.definitions import Definition, Definitions, workflow_of_tool
from agentmesh.engine.faults import as_json, error_of
from agentmesh.engine.functions import ThreadSafe, call_function, from_thread, resolve_function, wants_context
from agentmesh.engine.guard import Guard
from agentmesh.engine.limit import Limit
from agentmesh.engine.meter import Meter
from agentmesh.engine.runs import Runs
from agentmesh.engine.sources import Sources
from agentmesh.engine.validators import check_output, require_input
from agentmesh.errors import CallerError, InvalidInput, InvalidOutput, MeshError, NotFound, StepTimeout

log = logging.getLogger("agentmesh.engine")
THREADS = 16
"""Plain functions that run at once in threads."""
LOOKED_AT = 300
"""Names that are looked through for the one that was meant: each takes a while."""

OnProgress = Callable[[RunEvent | str], None]


class Tools:
    """Tools of servers/ and workflows with `on.mcp`."""

    def __init__(
        self, mesh: Mesh, store: Store, runs: Runs, definitions: Definitions, guard: Guard, bus: Bus,
        *, sources: Sources | None = None, changes: Changes | None = None,
        functions: Callable[[str], Callable[..., Any]] = resolve_function, http: HttpClient | None = None,
        secrets: Mapping[str, str] = MappingProxyType({}), clock: Callable[[], float] = time.time,
        meter: Meter | None = None,
    ) -> None:  # fmt: skip
        self._mesh = mesh
        self._meter = meter or Meter()
        self._store = store
        self._runs = runs
        self._definitions = definitions
        self._guard = guard
        self._bus = bus
        self._changes = changes or Changes()
        self._sources = sources or Sources((), self._changes)
        self._functions = functions
        self._http = http
        self._secrets = secrets
        self._clock = clock
        self._resolved: dict[str, Callable[..., Any]] = {}
        self._threads = CapacityLimiter(THREADS)

    def list(self, principal: Principal) -> list[Tool]:
        """The tools that the principal may list, by name; those that others serve too. Does not wait."""
        found = {**self._sources.tools, **self._mesh.tools}
        return [tool for _, tool in sorted(found.items()) if self._may_list(principal, tool.name)]

    def find(self, name: str) -> Tool | None:
        """One tool, whoever may see it."""
        return self._mesh.tools.get(name) or self._sources.tools.get(name)

    def get(self, principal: Principal, name: str) -> Tool:
        """One tool; NotFound when there is none that the principal may list."""
        tool = self.find(name)
        if tool is not None and self._may_list(principal, name):
            return tool
        if self._sources.unknown(name, self._sources.tools) is not None and self._may_list(principal, name):
            status = self._sources.source(name.partition(".")[0]).status()
            if status.state != "ready":
                why = status.detail or status.state
                raise NotFound(f"{status.name} has told of no tool {name!r} yet: {why}; see `agentmesh tools sources`")
        names = [tool.name for tool in self.list(principal)]
        near = [known for known in names if known.partition(".")[0] == name.partition(".")[0]] or names
        close = get_close_matches(name[:200], near[:LOOKED_AT], 1)
        raise NotFound(f"there is no tool {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))

    def source_of(self, tool: Tool) -> Source:
        """Who serves a foreign tool. NotFound when it is gone."""
        return self._sources.of(tool)

    def is_run(self, tool: Tool) -> bool:
        """Whether a call of the tool is a run: it survives this process, and can be a task."""
        if tool.foreign and not tool.by_agent:
            return False
        return workflow_of_tool(tool, self._mesh.specs.get(tool.name)) is not None

    def may_ask(self, tool: Tool) -> bool:
        """Whether a call may put something to its client, as far as is known yet: then it has to be given a caller."""
        spec = None if tool.foreign else self._mesh.specs.get(tool.name)
        if spec is None or spec.elicit:
            return not tool.source.startswith("openapi:")
        if spec.python is None:
            return spec.http is None
        function = self._resolved.get(spec.python)
        return function is None or wants_context(function)

    def _may_list(self, principal: Principal, name: str) -> bool:
        return self._guard.allows(principal, Action("tools.list", f"tool:{name}", listing=True))

    async def call(
        self, principal: Principal, call: ToolCall, *, source: str = "mcp", on_progress: OnProgress | None = None
    ) -> ToolResult:
        """Calls a tool. A tool that fails is a result with `is_error`.

        NotFound, PolicyDenied, InvalidInput (before a model is asked), MissingCapability are raised; InputRequired when the client has
        to answer first and come again. A cancelled call cancels the run it started.
        `on_progress` hears a RunEvent for each entry and a line for each notice; it must not block.
        """
        with self._meter.call(call.name, source) as timed:
            return timed.answered(await self._call(principal, call, source, on_progress))

    async def _call(
        self, principal: Principal, call: ToolCall, source: str, on_progress: OnProgress | None
    ) -> ToolResult:
        tool, spec, call = await self._let_through(principal, call)
        if tool.foreign and not tool.by_agent:
            return await self._foreign(principal, tool, call)
        workflow = workflow_of_tool(tool, spec)
        if workflow is None:
            assert spec is not None
            return await self._pass_through(tool, spec, call, on_progress)
        if call.run_id is not None:
            return await self._go_on(principal, workflow, call, on_progress)
        return await self._run(principal, self._definitions.pin(workflow), call, source, on_progress)

    async def begin(self, principal: Principal, call: ToolCall, *, source: str = "mcp") -> Run:
        """Starts the run that a call of such a tool is (see `is_run`); it is durable when this returns. Raises what `call` does."""
        with self._meter.call(call.name, source):
            tool, spec, call = await self._let_through(principal, call)
            workflow = workflow_of_tool(tool, spec) if self.is_run(tool) else None
            if workflow is None:
                raise InvalidInput(f"tool {tool.name} answers while it is called; it cannot be a task")
            definition = self._definitions.pin(workflow)
            run_id = self._runs.new_id()
            try:
                run, _ = await self._runs.begin(
                    principal, definition, dict(call.arguments), run_id=run_id, key=call.key, source=source
                )
            except anyio.get_cancelled_exc_class():
                if call.key is None:  # nobody will ever know the run
                    with anyio.CancelScope(shield=True), suppress(NotFound):
                        await self._runs.request_cancel(run_id, principal.subject)
                raise
            return run

    async def _let_through(self, principal: Principal, call: ToolCall) -> tuple[Tool, ToolSpec | None, ToolCall]:
        """The tool of a call that may be made, its arguments complete."""
        tool = self.find(call.name) or self.get(principal, call.name)
        self._guard.authorize(principal, Action("tools.call", f"tool:{tool.name}", call.arguments))
        spec = None if tool.foreign else self._mesh.specs.get(tool.name)
        require_input(tool.input_schema, call.arguments, "arguments")
        if spec is not None and spec.elicit and call.run_id is None:
            call = replace(call, arguments=await _elicited(spec.elicit, call))
        return tool, spec, call

    async def _foreign(self, principal: Principal, tool: Tool, call: ToolCall) -> ToolResult:
        source = self._sources.of(tool)
        caller = NOBODY if call.caller is None else call.caller
        try:
            return await source.call(
                SourceCall(tool, call.arguments, principal, call.key or "", caller, writes_of(tool))
            )
        except CallerError:
            raise
        except MeshError as error:
            return ToolResult(text=error.message, is_error=True)

    async def _pass_through(
        self, tool: Tool, spec: ToolSpec, call: ToolCall, on_progress: OnProgress | None
    ) -> ToolResult:
        caller = NOBODY if call.caller is None else CheckedCaller(call.caller)
        notify = on_progress or (lambda _: None)
        try:
            result, puts = await self.perform(
                tool, spec, call.arguments, key=call.key or "", notify=notify, caller=caller
            )
        except CallerError:
            raise
        except Exception as error:
            if not hasattr(error, "code"):
                log.exception("tool %s failed", tool.name)
            return ToolResult(text=error_of(error)["message"], is_error=True)
        for (scope, key), value in puts.items():
            await self._store.put(scope, key, value)
        return result

    async def perform(
        self,
        tool: Tool,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        *,
        key: str,
        run: Run | None = None,
        notify: Callable[[str], None] = lambda _: None,
        caller: Caller = NOBODY,
    ) -> tuple[ToolResult, dict[tuple[str, str], Any]]:
        """Calls a tool that passes through: what it answers, and the values it wants kept. Its arguments fit already."""
        limit = None if spec.timeout is None else seconds(spec.timeout)
        puts: dict[tuple[str, str], Any] = {}
        content: Content | None = None
        with Limit(limit) as timer:
            if spec.http is not None:
                output = await self._send(tool, spec.http, arguments, key, run, limit)
            else:
                assert spec.python is not None
                output, puts = await self.function(
                    spec.python, arguments, key=key, state_scope=f"tool:{tool.name}", run=run, notify=notify,
                    caller=caller,
                )  # fmt: skip
                if isinstance(output, Content):
                    content, output = output, output.value
        if timer.reached:
            raise StepTimeout(f"tool {tool.name} took longer than its timeout of {limit:g} s")
        if content is not None and content.is_error:
            return answer_of(content), puts
        verdicts = check_output(spec.validate_, output, {"input": arguments}, schema=tool.output_schema)
        failed = [v for v in verdicts if v.outcome is not Outcome.PASS]
        if failed:
            raise InvalidOutput(
                f"tool {tool.name} answered what does not pass its checks: "
                + "; ".join(f"{v.path or v.validator}: {v.message}" for v in failed[:3])
            )
        return (ToolResult(structured=output, text=text_of(output)) if content is None else answer_of(content)), puts

    async def _send(
        self, tool: Tool, spec: HttpSpec, arguments: Mapping[str, Any], key: str, run: Run | None, timeout: float | None
    ) -> JSON:
        """The body that comes back for an `http` tool's request, in which the arguments are `input`."""
        from agentmesh.engine.reach import request  # it stands on the verbs, which stand on this module

        about = (run.id, run.workflow, run.source) if run is not None else ("", "", "")
        scope = {"input": arguments, "run": dict(zip(("id", "workflow", "source"), about, strict=True))}
        writes = spec.method not in {"GET", "HEAD"} and tool.annotations.get("readOnlyHint") is not True
        answer = await request(
            self._http, spec, scope, key=key, writes=writes, secrets=self._secrets, timeout=timeout, clock=self._clock
        )
        return answer.body

    async def function(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        key: str,
        state_scope: str,
        run: Run | None = None,
        notify: Callable[[str], None] = lambda _: None,
        caller: Caller = NOBODY,
        artifact: Callable[[Mapping[str, Any], bool], None] | None = None,
    ) -> tuple[Any, dict[tuple[str, str], Any]]:
        """Calls an installed function: its result as JSON (or Content), and the values it wants kept."""
        function = self._resolved.get(name) or await self._resolve(name)
        if not wants_context(function):
            return _kept(await call_function(function, None, arguments, self._threads), name), {}
        context = Context(
            key=key, folder=self._mesh.folder, run_id=None if run is None else run.id,
            state=await self._store.scan(state_scope),
            message=None if run is None else run.message, notify=from_thread(notify), caller=ThreadSafe(caller),
            changed=from_thread(self._changes.publish), artifact=None if artifact is None else _checked(from_thread(artifact), name),
        )  # fmt: skip
        result = await call_function(function, context, arguments, self._threads)
        return _kept(result, name), {
            (state_scope, k): as_json(v, f"the value {k!r} of {name}") for k, v in context.puts.items()
        }

    async def _resolve(self, name: str) -> Callable[..., Any]:
        function = self._resolved.get(name)
        if function is None:  # importing somebody's package may take seconds
            function = self._resolved[name] = await anyio.to_thread.run_sync(self._functions, name)
        return function

    async def _run(
        self, principal: Principal, definition: Definition, call: ToolCall, source: str, on_progress: OnProgress | None
    ) -> ToolResult:
        run_id, new = self._runs.new_id(), True
        with self._bus.subscribe(run_id) as subscription:
            try:
                run, new = await self._runs.begin(
                    principal, definition, dict(call.arguments), run_id=run_id, key=call.key, source=source
                )
                heard = subscription if new else None
                if call.caller is not None and call.caller.can(ELICITATION):
                    events = self._runs.follow(run, subscription=heard)
                    run = await follow_and_ask(self._runs, principal, run, events, call.caller, on_progress)
                elif on_progress is not None:
                    async with aclosing(self._runs.follow(run, subscription=heard)) as events:
                        async for event in events:
                            on_progress(event if event.entry is not None else event.message)
                            run = event.run
                else:
                    run = await self._runs.end_of(run.id, heard)
            except anyio.get_cancelled_exc_class():
                if new:
                    with anyio.CancelScope(shield=True), suppress(NotFound):
                        await self._runs.request_cancel(run_id, principal.subject)
                raise
        return result_of(run)

    async def _go_on(
        self, principal: Principal, workflow: str, call: ToolCall, on_progress: OnProgress | None
    ) -> ToolResult:
        """A further round of a call whose run waits for answers, which the caller brings."""
        assert call.run_id is not None
        run = await self._runs.owned(principal, call.run_id)
        if run.workflow != workflow:
            raise InvalidInput(f"run {call.run_id} is none of tool {call.name}; make the call anew")
        heard = run.seq
        caller = NOBODY if call.caller is None else call.caller
        run = await follow_and_ask(self._runs, principal, run, self._runs.follow(run), caller, on_progress, heard=heard)
        return result_of(run)


def writes_of(tool: Tool) -> bool:
    """Whether a call may change the outside world."""
    return tool.annotations.get("readOnlyHint") is not True


async def _elicited(elicit: Mapping[str, Elicit], call: ToolCall) -> dict[str, Any]:
    """The arguments, with what the caller's user says. Declined when they would not."""
    for key in elicit:
        if key in call.arguments:
            raise InvalidInput(f"arguments: {key!r} is asked of the user, and cannot be given")
    scope = {"input": dict(call.arguments)}
    requests = {
        key: InputRequest(
            ELICITATION,
            {"mode": "form", "message": text_of(render(asked.message, scope)), "requestedSchema": asked.form},
        )
        for key, asked in elicit.items()
    }
    answers = await CheckedCaller(NOBODY if call.caller is None else call.caller).ask(requests)
    arguments = dict(call.arguments)
    for key, answer in answers.items():
        if answer["action"] != "accept":
            raise InvalidInput(
                f"the user did not answer {elicit[key].message!r} ({answer['action']}); nothing was done"
            )
        arguments[key] = answer.get("content", {})
    return arguments


def _checked(tell: Callable[..., None], name: str) -> Callable[[Mapping[str, Any], bool], None]:
    """Fail in the function itself when an artifact that it makes is no JSON."""

    def make(artifact: Mapping[str, Any], append: bool) -> None:
        tell(as_json(artifact, f"an artifact of {name}"), append)

    return make


def _kept(result: Any, name: str) -> Any:
    """What a function returned, as it may be kept: JSON, or Content of JSON blocks."""
    if not isinstance(result, Content):
        return as_json(result, f"the result of {name}")
    blocks = as_json(list(result.blocks), f"the content of {name}")
    return Content(blocks, as_json(result.structured, f"the structured content of {name}"), result.is_error)


def answer_of(content: Content) -> ToolResult:
    """Blocks as a tool's answer."""
    text = text_of_blocks(content.blocks)
    return ToolResult(content.structured, text, content.is_error, content=tuple(content.blocks))


def result_of(run: Run) -> ToolResult:
    """What a tool answers whose run has ended."""
    if run.state is RunState.COMPLETED:
        blocks = run.output.get("content") if isinstance(run.output, dict) and len(run.output) == 1 else None
        if isinstance(blocks, list) and all(isinstance(block, dict) and "type" in block for block in blocks):
            return ToolResult(text=text_of_blocks(blocks), run_id=run.id, content=tuple(blocks))
        return ToolResult(structured=run.output, text=text_of(run.output), run_id=run.id)
    error = run.error or {}
    text = str(error.get("message") or f"the run was {run.state.value}")
    return ToolResult(text=text, is_error=True, run_id=run.id, error=error)


def text_of(value: JSON) -> str:
    """A tool's value as text: itself when it is text, else its JSON."""
    return value if isinstance(value, str) else _ENCODE(value)


_ENCODE = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder each time
