"""Flow: do the steps of a workflow make sense together: names, verbs, expressions and types, each in its scope."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentmesh.core.checker import NOT_BUILT, Checker, World
from agentmesh.core.document import Path
from agentmesh.core.expression import ExpressionError, bare, conditions
from agentmesh.core.inference import DYN, MAY_SKIP, STRING, Facts, JsonSchema, describe, items, kinds, union
from agentmesh.core.run import StepState
from agentmesh.core.shape import Source
from agentmesh.core.workflow import BUILT_VERBS, VERBS, Step, Workflow

_STATES = {"enum": [state.value for state in StepState]}
_ERROR = {"type": ["object", "null"], "properties": {"code": STRING, "message": STRING}, "additionalProperties": True}
RUN_TYPES: Mapping[str, JsonSchema] = {
    "run": {
        "type": "object",
        "properties": {"id": STRING, "workflow": STRING, "source": STRING},
        "additionalProperties": False,
    },
    "context": {"type": "object", "properties": {"id": {"type": ["string", "null"]}}, "additionalProperties": False},
}
"""Names of every workflow besides `input` and `steps`."""
_RESERVED = ("input", "steps", "run", "context", "output", "secrets")


class FlowChecker(Checker):
    """One workflow."""

    def __init__(self, world: World, source: Source[Workflow]) -> None:
        super().__init__(world, source)
        self.workflow = source.value
        self.ids: dict[str, Path] = {}
        self.conditions: dict[str, str] = {}
        """`if` of the steps that run whenever it holds."""
        self.implied: dict[str, Facts] = {}

    def check(self) -> None:
        workflow = self.workflow
        sound = self.schema(("input",), must_be_object=True)
        for path, step in self.walk(workflow.steps, ("steps",)):
            if step.id in self.ids and path not in self.removed:
                first = self.document.fault((*self.ids[step.id], "id"), "").line
                self.fault((*path, "id"), f"the id {step.id!r} stands here twice, first in line {first}")
            self.ids.setdefault(step.id, path)
        types = {"input": workflow.input if sound else DYN, **RUN_TYPES}
        steps, _, facts = self.block(workflow.steps, ("steps",), types, {}, frozenset())
        scope = {**types, "steps": _object(steps)}
        result: JsonSchema = DYN
        if workflow.output is not None:
            result = self.template(("output",), scope, facts=facts)
        if workflow.output_schema is not None and self.schema(("output_schema",)) and workflow.output is not None:
            self.arguments_of_output(result, workflow.output_schema)

    def arguments_of_output(self, result: JsonSchema, schema: JsonSchema) -> None:
        if not kinds(result) & kinds(schema):
            self.fault(("output",), f"output_schema says {describe(schema)}, this is {describe(result)}")
        elif isinstance(self.workflow.output, Mapping):
            self.arguments(("output",), result, schema, "output_schema")

    def walk(self, steps: Sequence[Step], path: Path) -> Iterator[tuple[Path, Step]]:
        for i, step in enumerate(steps):
            at = (*path, i)
            yield at, step
            yield from self.walk(step.steps or (), (*at, "steps"))
            yield from self.walk(step.else_ or (), (*at, "else"))
            for n, case in enumerate(step.switch or ()):
                yield from self.walk(case.steps, (*at, "switch", n, "steps"))

    def block(
        self,
        steps: Sequence[Step],
        path: Path,
        types: Mapping[str, JsonSchema],
        before: Mapping[str, JsonSchema],
        facts: Facts,
    ) -> tuple[dict[str, JsonSchema], JsonSchema, Facts]:
        """Checks steps in order; (the steps then visible, type of the last one's output, facts after them)."""
        visible = dict(before)
        last: JsonSchema = DYN
        for i, step in enumerate(steps):
            last = self.step(step, (*path, i), types, visible, facts)
            visible[step.id] = self.as_step(step, last)
            if MAY_SKIP in visible[step.id]:
                last = union([last, {"type": "null"}])
            else:
                facts |= {step.id}
        return visible, last, facts

    def as_step(self, step: Step, output: JsonSchema) -> JsonSchema:
        """Type of `steps.ID`."""
        why = "may be skipped" if step.if_ is not None else "may have failed" if step.on_error is not None else None
        found: dict[str, Any] = {
            "type": "object",
            "properties": {"output": output, "state": _STATES, "error": _ERROR},
            "additionalProperties": False,
        }
        return {**found, MAY_SKIP: why} if why else found

    def explain(self, message: str) -> str:
        """Says of a step that exists elsewhere why it is not visible."""
        if message.startswith("unknown step "):
            name = message.split("'")[1]
            if name in self.ids:
                return f"step {name!r} is not visible here: it comes later, or stands inside another block"
        return message

    def closure(self, facts: Facts) -> Facts:
        """With every step that must have completed for these to be reached."""
        waiting, found = list(facts), set(facts)
        while waiting:
            for other in self.implied.get(waiting.pop(), ()):
                if other not in found:
                    found.add(other)
                    waiting.append(other)
        return frozenset(found)

    def step(
        self, step: Step, path: Path, types: Mapping[str, JsonSchema], visible: Mapping[str, JsonSchema], facts: Facts
    ) -> JsonSchema:
        """Checks one step; the type of its output."""
        if path in self.removed:
            return DYN
        scope = {**types, "steps": _object(visible)}
        if step.if_ is not None:
            self.expression((*path, "if"), scope, boolean=True, facts=facts)
            facts = self.closure(facts | _true_facts(step.if_))
            facts |= {other for other, text in self.conditions.items() if text == step.if_ and other in visible}
        self.implied[step.id] = facts
        if step.if_ is not None and step.on_error is None:
            self.conditions[step.id] = step.if_
        verb = self.one_verb(step, path)
        output: JsonSchema = DYN
        self.around(step, path, verb)
        if verb is not None:
            given = self.template((*path, "with"), scope, facts=facts) if step.with_ else DYN
            output = getattr(self, f"verb_{verb}")(step, path, types, visible, facts, given)
        if self.damaged(path):
            output = DYN
        self.validators(path, step.validate_, scope, output, facts)
        self.on_invalid(path, step.on_invalid, asks_model=step.llm is not None)
        return output

    def one_verb(self, step: Step, path: Path) -> str | None:
        given = [v for v in VERBS if v in step.model_fields_set]
        if not given and self.damaged(path):
            return None
        if len(given) != 1:
            says = f"this has {' and '.join(given)}" if given else "this has none"
            self.fault(path, f"a step has exactly one verb ({', '.join(BUILT_VERBS)}); {says}")
            return None
        verb = given[0]
        if verb not in BUILT_VERBS:
            self.fault((*path, verb), f"{verb!r} steps are {NOT_BUILT}; there are {', '.join(BUILT_VERBS)}", key=True)
            return None
        if verb != "set" and getattr(step, verb) is None:
            self.fault((*path, verb), f"{verb!r} has no value", key=True)
            return None
        return verb

    def around(self, step: Step, path: Path, verb: str | None) -> None:
        """What stands beside the verb."""
        for name in ("cache", "compensate"):
            self.not_built((*path, name), f"`{name}` is")
        if step.on is not None:
            self.fault((*path, "on"), f"`on: {step.on}` is {NOT_BUILT}: steps run in the server", key=True)
        if isinstance(step.on_error, Mapping):
            self.fault(
                (*path, "on_error"),
                f"`on_error: {{steps: ...}}` is {NOT_BUILT}; there is `on_error: continue`",
                key=True,
            )
        elif step.on_error not in (None, "continue"):
            self.fault((*path, "on_error"), "must be `continue`, or not stand here")
        belongs = {
            "steps": ("map",),
            "else": ("switch",),
            "output": ("python",),
            "with": ("tool", "python", "workflow"),
        }
        for name, verbs in belongs.items():
            if self.document.get((*path, name)) is not None and verb is not None and verb not in verbs:
                more = "; an llm's output schema stands inside `llm`" if name == "output" and verb == "llm" else ""
                self.fault((*path, name), f"`{name}` belongs to {' and '.join(verbs)} steps{more}", key=True)
        self.duration((*path, "timeout"))
        if step.retry is not None:
            if verb in ("set", "switch", "map"):
                self.fault(
                    (*path, "retry"), f"a {verb} step is not tried again; put `retry` on the steps inside", key=True
                )
            self.duration((*path, "retry", "backoff"))
            self.duration((*path, "retry", "max_backoff"))

    # One function per verb: checks it, and answers the type of the output.

    def verb_tool(
        self, step: Step, path: Path, types: Any, visible: Any, facts: Facts, given: JsonSchema
    ) -> JsonSchema:
        tools, name = self.world.mesh.tools, step.tool or ""
        if message := self.world.unknown("tools", name, tools):
            self.fault((*path, "tool"), message)
        if name not in tools:
            return DYN
        self.arguments(self.with_path(path), given, self.world.sound(tools[name].input_schema), f"tool {name!r}")
        spec = self.world.mesh.specs.get(name)
        if tools[name].output_schema is None and spec is not None and spec.llm is not None:
            return STRING
        return self.world.sound(tools[name].output_schema)

    def verb_llm(self, step: Step, path: Path, types: Any, visible: Any, facts: Facts, given: JsonSchema) -> JsonSchema:
        scope = {**types, "steps": _object(visible)}
        return self.llm((*path, "llm"), step.llm, scope, facts) if step.llm is not None else DYN

    def verb_python(
        self, step: Step, path: Path, types: Any, visible: Any, facts: Facts, given: JsonSchema
    ) -> JsonSchema:
        function = self.python((*path, "python"))
        if function is not None and function.parameters is not None:
            schema = {
                "properties": dict.fromkeys(function.parameters, DYN),
                "required": function.required,
                "additionalProperties": False,
            }
            self.arguments(self.with_path(path), given, schema, f"{step.python!r}")
        return step.output if step.output is not None and self.schema((*path, "output")) else DYN

    def verb_set(self, step: Step, path: Path, types: Any, visible: Any, facts: Facts, given: JsonSchema) -> JsonSchema:
        return self.template((*path, "set"), {**types, "steps": _object(visible)}, facts=facts)

    def verb_agent(
        self, step: Step, path: Path, types: Any, visible: Any, facts: Facts, given: JsonSchema
    ) -> JsonSchema:
        agent, at = step.agent, (*path, "agent")
        if agent is None:
            return DYN
        message = self.template((*at, "message"), {**types, "steps": _object(visible)}, facts=facts)
        if agent.peer is not None:
            self.fault((*at, "peer"), f"calling peers is {NOT_BUILT}; `skill` names an agent of this mesh", key=True)
            return DYN
        skills = self.world.mesh.skills
        if agent.skill is None:
            self.fault(at, "'skill' is missing", key=True)
            return DYN
        if "${{" in agent.skill:
            result = self.template((*at, "skill"), {**types, "steps": _object(visible)}, facts=facts)
            self.dynamic_skill((*at, "skill"), result)
            return DYN
        if problem := self.world.unknown("skills", agent.skill, skills):
            self.fault((*at, "skill"), problem)
        if agent.skill not in skills:
            return DYN
        target = skills[agent.skill]
        if kinds(message) == {"object"}:
            self.arguments((*at, "message"), message, self.world.sound(target.input_schema), f"skill {agent.skill!r}")
        return self.world.sound(self.world.mesh.workflows[target.workflow].output_schema)

    def dynamic_skill(self, path: Path, result: JsonSchema) -> None:
        self.fault(path, f"a skill chosen by an expression is {NOT_BUILT}; use a switch with one agent step per skill")

    def verb_workflow(
        self, step: Step, path: Path, types: Any, visible: Any, facts: Facts, given: JsonSchema
    ) -> JsonSchema:
        workflows, name = self.world.mesh.workflows, step.workflow or ""
        if problem := self.world.unknown("workflows", name, workflows):
            self.fault((*path, "workflow"), problem)
        if name not in workflows:
            return DYN
        self.arguments(self.with_path(path), given, self.world.sound(workflows[name].input), f"workflow {name!r}")
        return self.world.sound(workflows[name].output_schema)

    def verb_map(self, step: Step, path: Path, types: Any, visible: Any, facts: Facts, given: JsonSchema) -> JsonSchema:
        if step.map is None:
            return DYN
        over = self.expression((*path, "map", "over"), {**types, "steps": _object(visible)}, facts=facts)
        if "array" not in kinds(over):
            self.fault((*path, "map", "over"), f"must be a list, this is {describe(over)}")
        name = step.map.as_
        if not (name.isidentifier() and name.isascii()) or name in _RESERVED or name in types:
            self.fault(
                (*path, "map", "as"), f"{name!r} cannot name the item: take another word (not {', '.join(_RESERVED)})"
            )
        if not step.steps:
            self.fault(path, "a map step needs `steps`", key=True)
            return DYN
        inner = {**types, name: items(over) if kinds(over) == {"array"} else DYN}
        _, last, _ = self.block(step.steps, (*path, "steps"), inner, visible, facts)
        return {"type": "array", "items": last if step.map.on_error == "fail" else union([last, {"type": "null"}])}

    def verb_switch(
        self, step: Step, path: Path, types: Any, visible: Any, facts: Facts, given: JsonSchema
    ) -> JsonSchema:
        outputs: list[JsonSchema] = []
        for i, case in enumerate(step.switch or ()):
            at = (*path, "switch", i)
            self.expression((*at, "when"), {**types, "steps": _object(visible)}, boolean=True, facts=facts)
            known = self.closure(facts | _true_facts(case.when))
            outputs.append(self.block(case.steps, (*at, "steps"), types, visible, known)[1])
            facts |= _true_facts(case.when, negated=True)
        if not step.switch:
            self.fault((*path, "switch"), "must not be empty", key=True)
        outputs.append(
            self.block(step.else_, (*path, "else"), types, visible, self.closure(facts))[1]
            if step.else_
            else {"type": "null"}
        )
        return union(outputs)

    def with_path(self, path: Path) -> Path:
        return (*path, "with") if self.document.get((*path, "with")) is not None else path


def _object(properties: Mapping[str, JsonSchema]) -> JsonSchema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _true_facts(text: str, *, negated: bool = False) -> Facts:
    """Steps that have completed where a condition is true (or false); none when it does not parse."""
    try:
        return conditions(bare(text)[0])[1 if negated else 0]
    except ExpressionError:
        return frozenset()
