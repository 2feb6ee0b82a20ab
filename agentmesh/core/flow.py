"""Flow: do the steps of a workflow make sense together: names, verbs, expressions and types, each in its scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentmesh.core.around import AroundChecker
from agentmesh.core.checker import World
from agentmesh.core.constant import constant_value
from agentmesh.core.document import Path, strings
from agentmesh.core.expression import ExpressionError, bare, conditions
from agentmesh.core.inference import DYN, INT, MAY_SKIP, Facts, JsonSchema, describe, items, kinds, union
from agentmesh.core.scope import ERROR, RESERVED, RUN_TYPES, STATES, Scope, closed
from agentmesh.core.shape import Source
from agentmesh.core.workflow import OnError, Step, Workflow

__all__ = ["RUN_TYPES", "FlowChecker"]

MAX_STEPS = 1000
"""Of one file, blocks and all: each sees those before it."""
NULL: JsonSchema = {"type": "null"}
_WORDS_OF_CEL = frozenset(
    {
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"),
        *("null", "package", "namespace", "return", "true", "var", "void", "while"),
    }
)


class FlowChecker(AroundChecker):
    """One workflow. `scopes` and `outputs` say, after `check`, what stood where: by path of the step."""

    def __init__(self, world: World, source: Source[Workflow]) -> None:
        super().__init__(world, source)
        self.workflow = source.value
        self.ids: dict[str, Path] = {}
        self.conditions: dict[str, str] = {}
        """`if` of the steps that run whenever it holds."""
        self.implied: dict[str, Facts] = {}
        self.scopes: dict[Path, Scope] = {}
        """Where the step's own expressions stand (its `if` has held)."""
        self.outputs: dict[Path, JsonSchema] = {}
        self.end = Scope({})
        """Where the workflow's `output` stands."""
        self._probing = False

    def check(self) -> None:
        workflow = self.workflow
        sound = self.schema(("input",), must_be_object=True)
        for n, (path, step) in enumerate(self.walk(workflow.steps, ("steps",))):
            if n == MAX_STEPS:
                self.fault((*path, "id"), f"a workflow has at most {MAX_STEPS:,} steps; call another for the rest")
                return
            if step.id in self.ids and path not in self.removed:
                first = self.document.fault((*self.ids[step.id], "id"), "").line
                self.fault((*path, "id"), f"the id {step.id!r} stands here twice, first in line {first}")
            self.ids.setdefault(step.id, path)
        start = Scope({"input": workflow.input if sound else DYN, **RUN_TYPES})
        self.end, _ = self.block(workflow.steps, ("steps",), start)
        result: JsonSchema = DYN
        if workflow.output is not None:
            result = self.template(("output",), self.end.names, facts=self.end.facts)
        if workflow.output_schema is not None and self.schema(("output_schema",)) and workflow.output is not None:
            self.arguments_of_output(result, workflow.output_schema)

    def arguments_of_output(self, result: JsonSchema, schema: JsonSchema) -> None:
        if not kinds(result) & kinds(schema):
            self.fault(("output",), f"output_schema says {describe(schema)}, this is {describe(result)}")
        elif isinstance(self.workflow.output, Mapping):
            self.arguments(("output",), result, schema, "output_schema")

    def walk(self, steps: Sequence[Step], path: Path) -> Iterator[tuple[Path, Step]]:
        """Every step that has an id of its own, in reading order."""
        for i, step in enumerate(steps):
            at = (*path, i)
            yield at, step
            for below, inner in step.blocks():
                if below != ("compensate",):
                    yield from self.walk(inner, (*at, *below))

    def block(self, steps: Sequence[Step], path: Path, scope: Scope) -> tuple[Scope, JsonSchema]:
        """Checks steps in order; (the scope after them, type of the last one's output)."""
        last: JsonSchema = DYN
        for i, step in enumerate(steps):
            last = self.step(step, (*path, i), scope)
            known = self.as_step(step, last)
            if MAY_SKIP in known:
                last = union([last, NULL])
            facts = scope.facts if MAY_SKIP in known else scope.facts | {step.id}
            scope = replace(scope, steps={**scope.steps, step.id: known}, facts=facts)
        return scope, last

    def as_step(self, step: Step, output: JsonSchema) -> JsonSchema:
        """Type of `steps.ID`."""
        continues = step.on_error == "continue"
        why = "may be skipped" if step.if_ is not None else "may have failed" if continues else None
        found: dict[str, Any] = {**closed({"output": output, "state": STATES, "error": ERROR})}
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

    def step(self, step: Step, path: Path, scope: Scope) -> JsonSchema:
        """Checks one step; the type of its output."""
        if path in self.removed:
            return DYN
        if step.if_ is not None:
            self.expression((*path, "if"), scope.names, boolean=True, facts=scope.facts)
            self.constant((*path, "if"), step.if_, always="leave the `if` out", never="the step is never reached")
            facts = self.closure(scope.facts | true_facts(step.if_))
            facts |= {other for other, text in self.conditions.items() if text == step.if_ and other in scope.steps}
            scope = scope.knowing(facts)
        self.implied[step.id] = scope.facts
        if step.if_ is not None and step.on_error != "continue":
            self.conditions[step.id] = step.if_
        verb = self.one_verb(step, path)
        output: JsonSchema = DYN
        self.around(step, path, verb, scope)
        if verb is not None:
            given = self.template((*path, "with"), scope.names, facts=scope.facts) if step.with_ else DYN
            check: Callable[[Step, Path, Scope, JsonSchema], JsonSchema] = getattr(self, f"verb_{verb}")
            output = check(step, path, scope, given)
        if self.damaged(path):
            output = DYN
        if verb is not None:
            self.scopes[path], self.outputs[path] = scope, output
        asks = step.llm is not None
        self.validators(path, step.validate_, scope.names, output, scope.facts, asks_model=asks)
        self.on_invalid(path, step.on_invalid, scope.names, output, scope.facts, asks_model=asks)
        if step.compensate is not None:
            self.compensation(step, path, scope.naming(output=output))
        if isinstance(step.on_error, OnError):
            instead = {**ERROR, "type": "object", "additionalProperties": False}
            _, last = self.block(step.on_error.steps, (*path, "on_error", "steps"), scope.naming(error=instead))
            output = union([output, last])
        return output

    def compensation(self, step: Step, path: Path, scope: Scope) -> None:
        undo, at = step.compensate, (*path, "compensate")
        verb = self.may_compensate(step, path)
        if undo is None or verb is None:
            return
        given = self.template((*at, "with"), scope.names, facts=scope.facts) if undo.with_ else DYN
        check: Callable[[Step, Path, Scope, JsonSchema], JsonSchema] = getattr(self, f"verb_{verb}")
        self.outputs[at] = check(undo, at, scope, given)
        self.scopes[at] = scope

    # The verbs that hold other steps

    def verb_map(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        if step.map is None:
            return DYN
        over = self.expression((*path, "map", "over"), scope.names, facts=scope.facts)
        if "array" not in kinds(over):
            self.fault((*path, "map", "over"), f"must be a list, this is {describe(over)}")
        if constant_value(step.map.over) == []:
            self.fault((*path, "map", "over"), "the list is always empty: the steps inside are never reached")
        name = step.map.as_
        unfit = not (name.isidentifier() and name.isascii()) or name in _WORDS_OF_CEL
        if unfit or name in RESERVED or name in scope.types:
            self.fault(
                (*path, "map", "as"), f"{name!r} cannot name the item: take another word (not {', '.join(RESERVED)})"
            )
        if not step.steps:
            self.fault(path, "a map step needs `steps`", key=True)
            return DYN
        inner = scope.naming(**{name: items(over) if kinds(over) == {"array"} else DYN})
        _, last = self.block(step.steps, (*path, "steps"), inner)
        return {"type": "array", "items": last if step.map.on_error == "fail" else union([last, NULL])}

    def verb_switch(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        outputs: list[JsonSchema] = []
        for i, case in enumerate(step.switch or ()):
            at = (*path, "switch", i)
            self.expression((*at, "when"), scope.names, boolean=True, facts=scope.facts)
            self.constant(
                (*at, "when"), case.when, always="what comes after is never reached; write it as `else`",
                never="these steps are never reached",
            )  # fmt: skip
            known = self.closure(scope.facts | true_facts(case.when))
            outputs.append(self.block(case.steps, (*at, "steps"), scope.knowing(known))[1])
            scope = scope.knowing(scope.facts | true_facts(case.when, negated=True))
        if not step.switch:
            self.fault((*path, "switch"), "must not be empty", key=True)
        otherwise = scope.knowing(self.closure(scope.facts))
        outputs.append(self.block(step.else_, (*path, "else"), otherwise)[1] if step.else_ else NULL)
        return union(outputs)

    def verb_parallel(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        branches: dict[str, JsonSchema] = {}
        for name, steps in (step.parallel or {}).items():
            at = (*path, "parallel", name)
            if not (name.isidentifier() and name.isascii()) or name in _WORDS_OF_CEL:
                self.fault(at, f"{name!r} cannot name a branch: letters, digits and '_'", key=True)
            if not steps and not self.damaged(at):
                self.fault(at, "a branch needs steps", key=True)
            branches[name] = self.block(steps, at, scope)[1] if steps else DYN
        if not branches and not self.damaged((*path, "parallel")):
            self.fault((*path, "parallel"), "must not be empty", key=True)
        return closed(branches, required=True)

    def verb_loop(self, step: Step, path: Path, scope: Scope, given: JsonSchema) -> JsonSchema:
        spec, at = step.loop, (*path, "loop")
        if spec is None:
            return DYN
        if not step.steps:
            self.fault(path, "a loop step needs `steps`", key=True)
            return DYN
        if self.document.get((*at, "at_max")) is not None and spec.while_ is None and spec.until is None:
            self.fault(
                (*at, "at_max"), "`at_max` belongs to `while` and `until`: without them it simply stops", key=True
            )
        inner = scope.naming(loop=closed({"index": INT, "last": self.last_of(step, path, scope)}))
        if spec.while_ is not None:
            self.expression((*at, "while"), inner.names, boolean=True, facts=inner.facts)
            self.constant(
                (*at, "while"), spec.while_, always="leave it out; the loop has `max` rounds",
                never="the steps inside are never reached",
            )  # fmt: skip
        after, last = self.block(step.steps, (*path, "steps"), inner)
        if spec.until is not None:
            self.expression((*at, "until"), after.names, boolean=True, facts=after.facts)
            self.constant(
                (*at, "until"), spec.until, always="the loop would end after one round",
                never="leave it out; the loop has `max` rounds",
            )  # fmt: skip
        return last if spec.while_ is None else union([last, NULL])

    def last_of(self, step: Step, path: Path, scope: Scope) -> JsonSchema:
        """Type of `loop.last`: of what the round before gave, which may itself have read it."""
        if self._probing or not any("loop" in text for _, text in strings(self.document.get(path))):
            return DYN  # not asked for, or a loop within one: twice at each depth would double at each depth
        self._probing, told = True, len(self.world.faults)
        _, last = self.block(step.steps or (), (*path, "steps"), scope.naming(loop=closed({"index": INT, "last": DYN})))
        del self.world.faults[told:]
        self._probing = False
        return union([last, NULL])


def true_facts(text: str, *, negated: bool = False) -> Facts:
    """Steps that have completed where a condition is true (or false); none when it does not parse."""
    try:
        return conditions(bare(text)[0])[1 if negated else 0]
    except ExpressionError:
        return frozenset()
