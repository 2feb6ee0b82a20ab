"""Definitions: what a run is pinned to, so that it ends though the files have changed or gone.

A definition's document is JSON: a workflow (or the one tool) with every tool, child workflow and skill it names, directly or not,
and the revisions of the models they ask. It is stored under its hash when a run starts; children are pinned from their parent's
definition, never from the files of the day.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentmesh.core.acting import bounds_all
from agentmesh.core.agent import PEER
from agentmesh.core.mesh import Mesh, definition_hash
from agentmesh.core.model import ModelBackend
from agentmesh.core.store import Store
from agentmesh.core.tool import Tool, ToolSpec, matching_tools
from agentmesh.core.workflow import VALIDATORS, LlmSpec, Step, Validator, Workflow, seconds
from agentmesh.engine.changes import Changes
from agentmesh.engine.sources import Sources
from agentmesh.errors import Fail, NotFound

FORMAT = 1
TOOL = "tool:"
"""What `Run.workflow` begins with when the run is one tool's call."""
ASK = "ask"
"""Id of the one step of a tool that asks a model."""
CALL = "call"
"""Id of the step that a tool's call by an agent is."""
TASK = "task"
"""Id of the one step of a message to an agent elsewhere."""
FREE = ("schema", "ensure", "grounded")
"""Validators that ask nobody."""
_KEPT = 512
"""Loaded definitions kept in memory."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What never changes about a step, worked out once for each definition."""

    verb: str
    timeout: float | None
    """Seconds."""
    writes: bool
    """Whether it may change the outside world."""
    idempotent: bool
    by_child: bool
    """Whether other runs, or attempts with rows of their own, do the work and count its time."""
    free: tuple[Validator, ...]
    """Validators that ask nobody, cheapest first."""
    costly: tuple[Validator, ...]
    """Those that call a tool or ask a model, cheapest first."""
    approvals: tuple[Validator, ...]
    checked_by_run: bool
    """Whether a run does one of the checks: it may wait for days."""


@dataclass(frozen=True, slots=True)
class Definition:
    """What a run needs to run. `workflows`, `tools`, `specs` and `skills` hold what it names, directly or not."""

    digest: str
    name: str
    """`Run.workflow`: a workflow's name, `tool:NAME`, or `agent:PEER`."""
    workflow: Workflow
    workflows: Mapping[str, Workflow]
    tools: Mapping[str, Tool]
    specs: Mapping[str, ToolSpec]
    skills: Mapping[str, str]
    """Workflow by skill."""
    default_model: str | None
    revisions: Mapping[str, str]
    document: Mapping[str, Any] = field(repr=False)
    _facts: dict[int, Facts] = field(default_factory=dict, repr=False)
    """By the step's identity: the definition holds its steps."""
    _calls: dict[tuple[int, str], Step] = field(default_factory=dict, repr=False)
    _versions: dict[tuple[str, ...], str] = field(default_factory=dict, repr=False)
    _reads: dict[str, bool] = field(default_factory=dict, repr=False)

    def facts(self, step: Step) -> Facts:
        """The facts of one of the definition's own steps."""
        found = self._facts.get(id(step))
        if found is None:
            found = self._facts[id(step)] = self._facts_of(step)
        return found

    def _facts_of(self, step: Step) -> Facts:
        annotations: Mapping[str, Any] = {} if step.tool is None else self.tools[step.tool].annotations
        verb = step.verb
        if step.effect is not None:
            writes = step.effect == "write"
        elif step.tool is not None:
            writes = annotations.get("readOnlyHint") is not True
        elif step.http is not None:
            writes = step.http.method not in ("GET", "HEAD")
        else:
            writes = verb in ("python", "agent")
        by_child = verb in ("agent", "workflow") or (step.llm is not None and step.llm.tools is not None)
        if step.tool is not None:
            by_child = workflow_of_tool(self.tools[step.tool], self.specs.get(step.tool)) is not None
        idempotent = step.idempotent if step.idempotent is not None else annotations.get("idempotentHint") is True
        checkers = [v.tool.name for v in step.validate_ if v.tool is not None]
        checked_by_run = any(workflow_of_tool(self.tools[n], self.specs.get(n)) is not None for n in checkers)
        checks = sorted(step.validate_, key=lambda validator: VALIDATORS.index(validator.kind))
        return Facts(
            verb=verb, timeout=None if step.timeout is None else seconds(step.timeout), writes=writes,
            idempotent=idempotent, by_child=by_child,
            free=tuple(v for v in checks if v.kind in FREE),
            costly=tuple(v for v in checks if v.kind not in FREE and v.approve is None),
            approvals=tuple(v for v in checks if v.approve is not None), checked_by_run=checked_by_run,
        )  # fmt: skip

    @property
    def reads_conversation(self) -> bool:
        """Whether anything of it may read `context.messages`; found by its letters alone, so rather too often than not."""
        known = self._reads.get("messages")
        if known is None:
            known = self._reads["messages"] = "context.messages" in json.dumps(self.document["workflows"])
        return known

    def call_of(self, step: Step, tool: str) -> Step:
        """The step that one call of a tool by an agent is; the same object each time."""
        known = self._calls.get((id(step), tool))
        if known is None:
            given: dict[str, Any] = {"id": CALL, "tool": tool}
            if step.retry is not None:
                given["retry"] = step.retry
            known = self._calls[id(step), tool] = Step.model_validate(given)
        return known

    def version_of(self, *names: str) -> str:
        """A hash of these workflows, and tools as `tool:NAME`, and of everything they name; another when any of it changes."""
        known = self._versions.get(names)
        if known is None:
            found = _Closure(self.workflows, self.tools, self.specs, self.skills)
            for name in names:
                found.of(name)
            kept = {"workflows": found.workflows, "tools": found.tools, "specs": found.tools}
            parts = {kind: {n: v for n, v in self.document[kind].items() if n in kept[kind]} for kind in kept}
            models = {model or self.default_model for model in found.models}
            parts["revisions"] = {n: v for n, v in self.revisions.items() if n in models}
            known = self._versions[names] = definition_hash(parts)
        return known


class _Offered(dict[str, Tool]):
    """Tools by name, with a stand-in for one that a source has not told of yet: the run says at its step if there is none."""

    def __init__(self, known: Mapping[str, Tool], sources: Sources) -> None:
        super().__init__(known)
        self._sources = sources

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name) or self._sources.unknown(name, self) or default

    def __missing__(self, name: str) -> Tool:
        found = self._sources.unknown(name, self)
        if found is None:
            raise KeyError(name)
        return found


class Definitions:
    """Pins workflows and tools of the mesh, and loads what runs were pinned to."""

    def __init__(self, mesh: Mesh, backend: ModelBackend, store: Store, sources: Sources | None = None) -> None:
        self._mesh = mesh
        self._backend = backend
        self._store = store
        self._sources = sources or Sources((), Changes())
        self._seen = (mesh.revision, self._sources.revision)
        self._loaded: OrderedDict[str, Definition] = OrderedDict()
        self._pinned: dict[tuple[str, tuple[tuple[str, str], ...]], Definition] = {}
        self._models: dict[str, tuple[str, ...]] = {}
        self._skills = _skills_of(mesh)

    def pin(self, name: str) -> Definition:
        """The definition of a workflow, of `tool:NAME` or `agent:PEER`, as the mesh's files and models stand now. NotFound."""
        now = (self._mesh.revision, self._sources.revision)
        if self._seen != now:  # the files say something else, or what others serve has changed
            self._seen = now
            self._pinned.clear()
            self._models.clear()
            self._skills = _skills_of(self._mesh)
        if name not in self._models:
            names = _Closure(self._mesh.workflows, self._tools(), self._mesh.specs, self._skills).of(name)
            default = self._mesh.file.default_model
            self._models[name] = tuple(sorted({model or default or "" for model in names.models} - {""}))
        states = self._backend.status() if self._models[name] else {}
        revisions = tuple((m, states[m].revision if m in states else "") for m in self._models[name])
        definition = self._pinned.get((name, revisions))
        if definition is None:
            definition = _pin(
                name, self._mesh.workflows, self._tools(), self._mesh.specs, self._skills,
                self._mesh.file.default_model, dict(revisions),
            )  # fmt: skip
            self._pinned[name, revisions] = definition
            self._keep(definition)
        return definition

    def _tools(self) -> Mapping[str, Tool]:
        """Every tool that a name may mean; what others serve may not be known yet."""
        if not self._sources.all():
            return self._mesh.tools
        return _Offered({**self._sources.tools, **self._mesh.tools}, self._sources)

    def pin_child(self, parent: Definition, name: str) -> Definition:
        """The definition of a workflow (or tool) that the parent's definition holds."""
        child = _pin(
            name, parent.workflows, parent.tools, parent.specs, parent.skills, parent.default_model, parent.revisions
        )
        return self._loaded.get(child.digest) or self._keep(child)

    def document(self, definition: Definition) -> Mapping[str, Any] | None:
        """What to hand to `Store.start_run`, each time: the store knows what it has, and pruning may have removed it."""
        return definition.document

    async def load(self, digest: str) -> Definition:
        """The definition a run is pinned to. Fail when the store does not have it, or a later release wrote it."""
        definition = self._loaded.get(digest)
        if definition is not None:
            self._loaded.move_to_end(digest)
            return definition
        document = await self._store.get_definition(digest)
        if document is None:
            raise Fail(f"the definition {digest[:12]} that this run is pinned to is not in the store")
        return self._keep(load(digest, document))

    def _keep(self, definition: Definition) -> Definition:
        self._loaded[definition.digest] = definition
        if len(self._loaded) > _KEPT:
            self._loaded.popitem(last=False)
        return definition


def _skills_of(mesh: Mesh) -> dict[str, str]:
    """Workflow by skill."""
    return {skill.id: skill.workflow for skill in mesh.skills.values()}


def load(digest: str, document: Mapping[str, Any]) -> Definition:
    """A definition from its document."""
    if document.get("format") != FORMAT:
        raise Fail(
            f"the definition {digest[:12]} has format {document.get('format')!r}; this release reads {FORMAT}: "
            "run it with the release that started it"
        )
    workflows = {name: Workflow.model_validate(value) for name, value in document["workflows"].items()}
    specs = {name: ToolSpec.model_validate(value) for name, value in document["specs"].items()}
    name = document["name"]
    return Definition(
        digest=digest,
        name=name,
        workflow=_main(name, workflows, specs),
        workflows=workflows,
        tools={name: Tool(**value) for name, value in document["tools"].items()},
        specs=specs,
        skills=document["skills"],
        default_model=document["default_model"],
        revisions=document["revisions"],
        document=document,
    )


def _pin(
    name: str,
    workflows: Mapping[str, Workflow],
    tools: Mapping[str, Tool],
    specs: Mapping[str, ToolSpec],
    skills: Mapping[str, str],
    default_model: str | None,
    revisions: Mapping[str, str],
) -> Definition:
    names = _Closure(workflows, tools, specs, skills).of(name)
    workflows = {n: workflows[n] for n in sorted(names.workflows)}
    tools = {n: tools[n] for n in sorted(names.tools)}
    specs = {n: specs[n] for n in sorted(names.tools) if n in specs}
    skills = {n: skills[n] for n in sorted(names.skills)}
    asked = {model or default_model for model in names.models}
    revisions = {model: revision for model, revision in revisions.items() if model in asked}
    document = {
        "format": FORMAT,
        "name": name,
        "workflows": {n: w.model_dump(mode="json", by_alias=True, exclude_unset=True) for n, w in workflows.items()},
        "tools": {n: _tool_to_json(t) for n, t in tools.items()},
        "specs": {n: s.model_dump(mode="json", by_alias=True, exclude_unset=True) for n, s in specs.items()},
        "skills": skills,
        "default_model": default_model,
        "revisions": revisions,
    }
    return Definition(
        digest=definition_hash(document),
        name=name,
        workflow=_main(name, workflows, specs),
        workflows=workflows,
        tools=tools,
        specs=specs,
        skills=skills,
        default_model=default_model,
        revisions=revisions,
        document=document,
    )


def _tool_to_json(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name, "description": tool.description, "input_schema": dict(tool.input_schema),
        "output_schema": None if tool.output_schema is None else dict(tool.output_schema), "title": tool.title,
        "annotations": dict(tool.annotations), "source": tool.source, "server": tool.server,
        **({} if tool.task == "forbidden" or not tool.foreign else {"task": tool.task}),
    }  # fmt: skip


def _main(name: str, workflows: Mapping[str, Workflow], specs: Mapping[str, ToolSpec]) -> Workflow:
    if name.startswith(PEER):
        agent = {"peer": name.removeprefix(PEER), "message": ""}  # the message is the run's own
        return Workflow(name="agent", steps=(Step.model_validate({"id": TASK, "agent": agent}),))
    if not name.startswith(TOOL):
        return workflows[name]
    spec = specs.get(name.removeprefix(TOOL))
    if spec is None:  # a peer's skill
        call = {"id": CALL, "tool": name.removeprefix(TOOL)}  # its arguments are the run's input
        return Workflow(name="tool", steps=(Step.model_validate(call),))
    if spec.llm is None:
        return _main_of_call(spec)
    step: dict[str, Any] = {"id": ASK, "llm": spec.llm}
    if spec.validate_:
        step["validate"] = spec.validate_
    if spec.on_invalid:
        step["on_invalid"] = spec.on_invalid
    if spec.timeout is not None:
        step["timeout"] = spec.timeout
    return Workflow(name="tool", input=_input_of(spec), steps=(Step.model_validate(step),))


def _main_of_call(spec: ToolSpec) -> Workflow:
    """The workflow that one call of a tool is which could also be called in passing."""
    step: dict[str, Any] = {"id": CALL, "effect": "read" if spec.annotations.readOnlyHint is True else "write"}
    output = None
    if spec.http is not None:
        step["http"] = spec.http
        output = f"${{{{ steps.{CALL}.output.body }}}}"
    else:
        step["python"] = spec.python
    if spec.output is not None:
        step["output"] = spec.output
    if spec.timeout is not None:
        step["timeout"] = spec.timeout
    if spec.annotations.idempotentHint is True:
        step["idempotent"] = True
    return Workflow(name="tool", input=_input_of(spec), steps=(Step.model_validate(step),), output=output)


def _input_of(spec: ToolSpec) -> dict[str, Any]:
    """What a run of a tool is given: the caller's arguments, and what its user said."""
    if not spec.elicit:
        return spec.input
    properties = {**spec.input.get("properties", {}), **{name: {} for name in spec.elicit}}
    return {**spec.input, "properties": properties}


def workflow_of_tool(tool: Tool, spec: ToolSpec | None) -> str | None:
    """`Run.workflow` of a tool's calls: its workflow, itself when it asks a model or may be a task, None when it passes through."""
    if spec is None:
        if tool.by_agent:
            return TOOL + tool.name
        return tool.source.removeprefix("workflow:") if tool.source.startswith("workflow:") else None
    if spec.workflow is not None:
        return spec.workflow
    return TOOL + tool.name if spec.llm is not None or spec.execution.taskSupport != "forbidden" else None


def steps_of(workflow: Workflow) -> Iterator[Step]:
    """Every step, those inside blocks too."""
    waiting = list(workflow.steps)
    while waiting:
        step = waiting.pop()
        yield step
        for _, inside in step.blocks():
            waiting.extend(inside)


def may_be_offered(tool: Tool) -> bool:
    """Whether a pattern of a model's `tools` means it: of what others serve, only what reads, or can be given nothing unbounded."""
    return not tool.foreign or tool.annotations.get("readOnlyHint") is True or bounds_all(tool.input_schema)


class _Closure:
    """Every name that a workflow names, and those name, until there are no more."""

    def __init__(
        self,
        workflows: Mapping[str, Workflow],
        tools: Mapping[str, Tool],
        specs: Mapping[str, ToolSpec],
        skills: Mapping[str, str],
    ) -> None:
        self._source = (workflows, tools, specs, skills)
        self.workflows: set[str] = set()
        self.tools: set[str] = set()
        self.skills: set[str] = set()
        self.models: set[str | None] = set()

    def of(self, name: str) -> _Closure:
        if name.startswith(TOOL):
            self._tool(name.removeprefix(TOOL))
        elif not name.startswith(PEER):
            self._workflow(name)
        return self

    def _workflow(self, name: str) -> None:
        if name in self.workflows:
            return
        workflow = self._source[0].get(name)
        if workflow is None:
            raise NotFound(f"there is no workflow {name!r}")
        self.workflows.add(name)
        for step in steps_of(workflow):
            if step.tool is not None:
                self._tool(step.tool)
            if step.workflow is not None:
                self._workflow(step.workflow)
            if step.agent is not None and step.agent.skill is not None and step.agent.peer is None:
                self._skill(step.agent.skill)
            if step.llm is not None:
                self._asks(step.llm, step.on_invalid)
            self._checks(step.validate_)

    def _tool(self, name: str) -> None:
        if name in self.tools:
            return
        tool, spec = self._source[1].get(name), self._source[2].get(name)
        if tool is None:
            raise NotFound(f"there is no tool {name!r}")
        self.tools.add(name)
        workflow = workflow_of_tool(tool, spec)
        if spec is not None:
            self._checks(spec.validate_)
        if spec is not None and spec.llm is not None:
            self._asks(spec.llm, spec.on_invalid)
        elif workflow is not None and not workflow.startswith(TOOL):
            self._workflow(workflow)

    def _skill(self, skill: str) -> None:
        workflow = self._source[3].get(skill)
        if workflow is None:
            raise NotFound(f"there is no skill {skill!r}")
        self.skills.add(skill)
        self._workflow(workflow)

    def _asks(self, spec: LlmSpec, on_invalid: tuple[Any, ...]) -> None:
        self.models.add(spec.model)
        for stage in on_invalid:
            if isinstance(stage, Mapping) and isinstance(stage.get("escalate"), Mapping):
                self.models.add(stage["escalate"].get("model"))
        if spec.tools is not None:
            for pattern in spec.tools:
                if "*" not in pattern:
                    self._tool(pattern)
            for name in matching_tools(spec.tools, self._source[1]):
                if may_be_offered(self._source[1][name]):
                    self._tool(name)

    def _checks(self, validators: Iterable[Validator]) -> None:
        for validator in validators:
            if validator.tool is not None:
                self._tool(validator.tool.name)
            if validator.judge is not None:
                self.models.add(validator.judge.model)
