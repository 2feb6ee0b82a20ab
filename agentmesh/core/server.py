"""Server: does a file in servers/ make sense: its tools, what stands behind them, and what they take."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from agentmesh.core.acting import unbounded_calls
from agentmesh.core.checker import World
from agentmesh.core.document import Path
from agentmesh.core.flat_form import flat_form_faults
from agentmesh.core.gateway import GatewayChecker
from agentmesh.core.inference import DYN, JsonSchema, closest
from agentmesh.core.mesh import offered_name
from agentmesh.core.scope import RUN_TYPES, Scope
from agentmesh.core.server_file import ServerFile
from agentmesh.core.shape import Source
from agentmesh.core.showing import ShowingChecker
from agentmesh.core.tool import ToolSpec
from agentmesh.core.verb import VerbChecker

TOOL_VERBS = ("llm", "python", "workflow", "http")


class ServerChecker(VerbChecker):
    """A file in servers/."""

    def __init__(self, world: World, source: Source[ServerFile]) -> None:
        super().__init__(world, source)
        self.source = source

    def check(self) -> None:
        server = self.source.value
        theirs = [name for name in ("upstream", "openapi") if self.document.get((name,)) is not None]
        if theirs:
            if server.is_source:
                GatewayChecker(self.world, self.source).check()
            return
        for name in ("expose", "reads", "approve"):
            if self.document.get((name,)) is not None:
                self.fault(
                    (name,), f"`{name}` goes with `upstream` and `openapi`: it is about what others serve", key=True
                )
        if not (server.tools or server.resources or server.prompts) and self.source.whole:
            self.fault((), "a server file declares `tools`, `resources` or `prompts`, or has `upstream` or `openapi`")
        for i, glob in enumerate(server.pin):
            if not any(fnmatchcase(name, glob) for name in server.tools) and not self.damaged(("tools",)):
                self.fault(("pin", i), f"no tool of this file fits {glob!r}{closest(glob.strip('*'), server.tools)}")
        for name, tool in server.tools.items():
            self.tool(("tools", name), name, tool, offered_name(server, name))
        ShowingChecker(self.world, self.source).check()

    def tool(self, path: Path, name: str, tool: ToolSpec, offered: str) -> None:
        if not (
            offered.isascii()
            and offered.replace(".", "").replace("-", "").replace("_", "").isalnum()
            and len(offered) <= 64
        ):
            self.fault(
                path,
                f"{name!r} cannot name a tool: letters, digits, '_', '-' and '.', at most 64 with the server's",
                key=True,
            )
        given = [v for v in TOOL_VERBS if v in tool.model_fields_set]
        if len(given) > 1 or (not given and not self.damaged(path)):
            says = f"this has {' and '.join(given)}" if given else "this has none"
            self.fault(path, f"a tool has exactly one of {', '.join(TOOL_VERBS)}; {says}", key=True)
        sound = self.schema((*path, "input"), must_be_object=True)
        types = {"input": self.with_answers(path, tool) if sound else DYN, **RUN_TYPES}
        output = DYN
        if tool.llm is not None:
            output = self.llm((*path, "llm"), tool.llm, types, frozenset())
            for i, message in unbounded_calls(tool.llm.tools or (), self.world):
                self.fault((*path, "llm", "tools", i), message)
        if tool.python is not None:
            self.python_tool(path, tool)
        if tool.http is not None:
            self.http((*path, "http"), tool.http, Scope(types))
        if tool.workflow is not None:
            self.workflow_tool(path, tool)
        if tool.output is not None:
            if tool.python is None and tool.http is None:
                self.fault(
                    (*path, "output"),
                    "`output` belongs to a python or http tool; an llm's output schema stands inside `llm`",
                    key=True,
                )
            elif self.schema((*path, "output")):
                output = tool.output
        self.duration((*path, "timeout"))
        if tool.execution.taskSupport != "forbidden" and tool.python is None and tool.http is None and given:
            self.fault(
                (*path, "execution", "taskSupport"),
                "`taskSupport` is for python and http tools; one that asks a model, or is a workflow, can be a task always",
            )
        if tool.validate_ and tool.llm is None:
            self.fault(
                (*path, "validate"),
                "`validate` belongs to an llm tool here; give a python tool an `output` schema",
                key=True,
            )
        asks = tool.llm is not None
        self.validators(path, tool.validate_, types, output, frozenset(), asks_model=asks)
        self.on_invalid(path, tool.on_invalid, types, output, frozenset(), asks_model=asks)

    def with_answers(self, path: Path, tool: ToolSpec) -> JsonSchema:
        """The input as what stands behind the tool sees it: with what the caller's user is asked."""
        given = tool.input.get("properties", {})
        asked: dict[str, JsonSchema] = {}
        for name, one in tool.elicit.items():
            at = (*path, "elicit", name)
            if not (name.isidentifier() and name.isascii()):
                self.fault(at, f"{name!r} cannot name an argument: letters, digits and '_'", key=True)
            if isinstance(given, Mapping) and name in given:
                self.fault(
                    at,
                    f"{name!r} is a property of `input`: callers give it, or their user is asked, not both",
                    key=True,
                )
            self.template((*at, "message"), {"input": tool.input})
            sound = self.schema((*at, "form"))
            for below, message in flat_form_faults(one.form) if sound else ():
                self.fault((*at, "form", *below), message)
            asked[name] = one.form if sound else DYN
        if not asked:
            return tool.input
        if tool.llm is not None:
            self.fault(
                (*path, "elicit"),
                "`elicit` is for python, http and workflow tools; ask in a workflow's `approve` step",
                key=True,
            )
        properties = {**(given if isinstance(given, Mapping) else {}), **asked}
        return {**tool.input, "properties": properties, "required": [*tool.input.get("required", ()), *asked]}

    def python_tool(self, path: Path, tool: ToolSpec) -> None:
        function = self.python((*path, "python"))
        if function is None or function.parameters is None:
            return
        schema = self.world.sound(tool.input)
        if not schema:
            return
        given = schema.get("properties", {})
        where: Path = (*path, "input") if self.document.get((*path, "input")) is not None else path
        for name in given if isinstance(given, Mapping) else ():
            if name not in function.parameters:
                hint = closest(name, function.parameters) or f"; it takes {', '.join(function.parameters) or 'nothing'}"
                self.fault((*where, "properties", name), f"{tool.python!r} takes no {name!r}{hint}", key=True)
        for name in tool.elicit:
            if name not in function.parameters:
                hint = closest(name, function.parameters)
                self.fault((*path, "elicit", name), f"{tool.python!r} takes no {name!r}{hint}", key=True)
        for name in function.required:
            if name not in schema.get("required", ()) and name not in tool.elicit:
                self.fault(where, f"{tool.python!r} needs {name!r}, which the input does not require", key=True)

    def workflow_tool(self, path: Path, tool: ToolSpec) -> None:
        workflows = self.world.mesh.workflows
        if message := self.world.unknown("workflows", tool.workflow or "", workflows):
            self.fault((*path, "workflow"), message)
        elif tool.workflow and tool.workflow in workflows and "input" in tool.model_fields_set:
            wanted = self.world.sound(workflows[tool.workflow].input)
            answers = {name: asked.form for name, asked in tool.elicit.items()}
            given = {"properties": {**self.world.sound(tool.input).get("properties", {}), **answers}}
            self.arguments((*path, "input"), given, wanted, f"workflow {tool.workflow!r}")
