"""Tools: what the mesh offers by name, listed and called."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from agentmesh.core.context import Context
from agentmesh.core.mesh import Mesh
from agentmesh.core.outside import HttpClient
from agentmesh.core.policy import Action, Principal
from agentmesh.core.run import JSON, Run, RunEvent, RunState
from agentmesh.core.store import Store
from agentmesh.core.tool import Tool, ToolCall, ToolResult, ToolSpec
from agentmesh.core.verdict import Outcome
from agentmesh.core.workflow import HttpSpec, seconds
from agentmesh.engine.bus import Bus
from agentmesh.engine.definitions import Definition, Definitions, workflow_of_tool
from agentmesh.engine.faults import as_json, error_of
from agentmesh.engine.functions import call_function, from_thread, resolve_function, wants_context
from agentmesh.engine.guard import Guard
from agentmesh.engine.runs import Runs
from agentmesh.engine.validators import check_output, require_input
from agentmesh.errors import CallerError, InvalidOutput, NotFound, StepTimeout

log = logging.getLogger("agentmesh.engine")
THREADS = 16
"""Plain functions that run at once in threads."""

OnProgress = Callable[[RunEvent | str], None]


class Tools:
    """Tools of servers/ and workflows with `on.mcp`."""

    def __init__(
        self, mesh: Mesh, store: Store, runs: Runs, definitions: Definitions, guard: Guard, bus: Bus,
        *, functions: Callable[[str], Callable[..., Any]] = resolve_function, http: HttpClient | None = None,
        secrets: Mapping[str, str] = MappingProxyType({}), clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._mesh = mesh
        self._store = store
        self._runs = runs
        self._definitions = definitions
        self._guard = guard
        self._bus = bus
        self._functions = functions
        self._http = http
        self._secrets = secrets
        self._clock = clock
        self._resolved: dict[str, Callable[..., Any]] = {}
        self._threads = CapacityLimiter(THREADS)

    def list(self, principal: Principal) -> list[Tool]:
        """The tools that the principal may list, by name. Does not wait."""
        return [tool for _, tool in sorted(self._mesh.tools.items()) if self._may_list(principal, tool.name)]

    def get(self, principal: Principal, name: str) -> Tool:
        """One tool; NotFound when there is none that the principal may list."""
        tool = self._mesh.tools.get(name)
        if tool is not None and self._may_list(principal, name):
            return tool
        close = get_close_matches(name, [n for n in self._mesh.tools if self._may_list(principal, n)], 1)
        raise NotFound(f"there is no tool {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))

    def _may_list(self, principal: Principal, name: str) -> bool:
        return self._guard.allows(principal, Action("tools.list", f"tool:{name}", listing=True))

    async def call(
        self, principal: Principal, call: ToolCall, *, source: str = "mcp", on_progress: OnProgress | None = None
    ) -> ToolResult:
        """Calls a tool. A tool that fails is a result with `is_error`.

        NotFound, PolicyDenied, InvalidInput (before a model is asked) are raised. A cancelled call cancels the run it started.
        `on_progress` hears a RunEvent for each entry and a line for each notice; it must not block.
        """
        tool = self._mesh.tools.get(call.name) or self.get(principal, call.name)
        self._guard.authorize(principal, Action("tools.call", f"tool:{tool.name}", call.arguments))
        spec = self._mesh.specs.get(tool.name)
        require_input(tool.input_schema, call.arguments, "arguments")
        workflow = workflow_of_tool(tool, spec)
        if workflow is None:
            assert spec is not None
            notify = on_progress or (lambda _: None)
            return await self._pass_through(tool, spec, call, notify)
        definition = self._definitions.pin(workflow)
        return await self._run(principal, definition, call, source, on_progress)

    async def _pass_through(
        self, tool: Tool, spec: ToolSpec, call: ToolCall, notify: Callable[[str], None]
    ) -> ToolResult:
        try:
            output, puts = await self.perform(tool, spec, call.arguments, key=call.key or "", notify=notify)
        except CallerError:
            raise
        except Exception as error:
            if not hasattr(error, "code"):
                log.exception("tool %s failed", tool.name)
            return ToolResult(text=error_of(error)["message"], is_error=True)
        for (scope, key), value in puts.items():
            await self._store.put(scope, key, value)
        return ToolResult(structured=output, text=text_of(output))

    async def perform(
        self,
        tool: Tool,
        spec: ToolSpec,
        arguments: Mapping[str, Any],
        *,
        key: str,
        run: Run | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> tuple[JSON, dict[tuple[str, str], Any]]:
        """Calls a tool that passes through: its output, and the values it wants kept. Its arguments fit already."""
        limit = None if spec.timeout is None else seconds(spec.timeout)
        puts: dict[tuple[str, str], Any] = {}
        with anyio.move_on_after(limit) as scope:
            if spec.http is not None:
                output = await self._send(tool, spec.http, arguments, key, run, limit)
            else:
                assert spec.python is not None
                output, puts = await self.function(
                    spec.python, arguments, key=key, state_scope=f"tool:{tool.name}", run=run, notify=notify
                )
        if scope.cancelled_caught:
            raise StepTimeout(f"tool {tool.name} took longer than its timeout of {limit:g} s")
        verdicts = check_output(spec.validate_, output, {"input": arguments}, schema=tool.output_schema)
        failed = [v for v in verdicts if v.outcome is not Outcome.PASS]
        if failed:
            raise InvalidOutput(
                f"tool {tool.name} answered what does not pass its checks: "
                + "; ".join(f"{v.path or v.validator}: {v.message}" for v in failed[:3])
            )
        return output, puts

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
    ) -> tuple[JSON, dict[tuple[str, str], Any]]:
        """Calls an installed function: its result as JSON, and the values it wants kept."""
        function = self._resolved.get(name) or await self._resolve(name)
        if not wants_context(function):
            return as_json(await call_function(function, None, arguments, self._threads), f"the result of {name}"), {}
        context = Context(
            key=key, folder=self._mesh.folder, run_id=None if run is None else run.id,
            state=await self._store.scan(state_scope),
            message=None if run is None else run.message, notify=from_thread(notify),
        )  # fmt: skip
        result = await call_function(function, context, arguments, self._threads)
        return as_json(result, f"the result of {name}"), {
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
                if on_progress is not None:
                    async with aclosing(self._runs.follow(run, subscription=subscription if new else None)) as events:
                        async for event in events:
                            on_progress(event if event.entry is not None else event.message)
                            run = event.run
                else:
                    run = await self._runs.end_of(run.id, subscription if new else None)
            except anyio.get_cancelled_exc_class():
                if new:
                    with anyio.CancelScope(shield=True), suppress(NotFound):
                        await self._runs.request_cancel(run_id, principal.subject)
                raise
        return result_of(run)


def result_of(run: Run) -> ToolResult:
    """What a tool answers whose run has ended."""
    if run.state is RunState.COMPLETED:
        return ToolResult(structured=run.output, text=text_of(run.output), run_id=run.id)
    error = run.error or {}
    text = str(error.get("message") or f"the run was {run.state.value}")
    return ToolResult(text=text, is_error=True, run_id=run.id)


def text_of(value: JSON) -> str:
    """A tool's value as text: itself when it is text, else its JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
