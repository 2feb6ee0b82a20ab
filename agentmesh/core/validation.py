"""Validation: what `validate` and `on_invalid` of a step or a tool may say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentmesh.core.checker import Checker
from agentmesh.core.constant import constant_value
from agentmesh.core.document import Path
from agentmesh.core.expression import ExpressionError, names
from agentmesh.core.inference import BOOL, DYN, NUMBER, STRING, Facts, JsonSchema, closest, describe, items, kinds
from agentmesh.core.inference import field as field_of
from agentmesh.core.shape import kind_of
from agentmesh.core.workflow import VALIDATORS, ApproveSpec, Judge, ToolCheck, Validator, Vote, seconds

STAGES = {
    "repair": "`{repair: N}`: the model is asked again up to N times, and told which paths failed and why, and nothing else.",
    "resample": "`{resample: N}`: the same question is asked again up to N times, with another seed; the answer is not spoken of.",
    "escalate": "`{escalate: {model: NAME, repair: N}}`: another model is asked, and may repair up to N times.",
    "fallback": "`{fallback: VALUE}`: the value, a template, is the output. It must fit the output's schema, and is not checked further.",
    "ask": "`{ask: {question: TEXT, show: VALUE, expires: TIME}}`: a person gives the output, which is checked like the model's.",
    "compensate": "`compensate`: what the run has done is undone, newest first, and the run fails.",
    "fail": "`fail`: the step fails with code `invalid_output`.",
}
"""Each with what it does."""
_ASK_MODEL = ("repair", "resample", "escalate")
_LAST = {
    "fallback": "`fallback` gives a value: nothing after it would happen",
    "compensate": "`compensate` ends the step: nothing after it would happen",
    "fail": "`fail` is the end: nothing after it would happen",
}


class OutputChecker(Checker):
    """Checks of outputs, shared by steps and tools."""

    def validators(
        self,
        path: Path,
        validators: Sequence[Validator],
        types: Mapping[str, JsonSchema],
        output: JsonSchema,
        facts: Facts,
        *,
        asks_model: bool,
    ) -> None:
        scope = {**types, "output": output}
        for i, validator in enumerate(validators):
            at = (*path, "validate", i)
            given = [name for name in VALIDATORS if self.document.get((*at, name)) is not None]
            if len(given) != 1:
                says = f", this has {' and '.join(given)}" if given else ""
                self.fault(at, f"a validator is one of {', '.join(VALIDATORS)}{says}")
            if validator.ensure is not None:
                self.expression((*at, "ensure"), scope, boolean=True, facts=facts)
                self.constant(
                    (*at, "ensure"), validator.ensure, always="it checks nothing", never="nothing could ever pass"
                )
            if validator.schema_ is not None:
                self.schema((*at, "schema"), types=scope)
            if validator.in_ is not None:
                if validator.grounded is None:
                    self.fault((*at, "in"), "`in` belongs to `grounded`", key=True)
                self.expression((*at, "in"), scope, facts=facts)
                if _reads_output(validator.in_):
                    self.fault((*at, "in"), "looks in the very output that it checks: name the text it must come from")
            for n, name in enumerate(validator.grounded or ()):
                found = self.output_path((*at, "grounded", n), name, scope)
                if found is not None and (number := _number_in(found, name)) is not None:
                    self.fault(
                        (*at, "grounded", n),
                        f"`grounded` looks at text, and {number} is a number; name the text, and check numbers by `ensure`",
                    )
            if validator.tool is not None:
                self.tool_check((*at, "tool"), validator.tool, scope, facts)
            if validator.judge is not None:
                self.judge((*at, "judge"), validator.judge, scope, facts)
            if validator.vote is not None:
                self.vote((*at, "vote"), validator.vote, scope, asks_model=asks_model)
            if validator.approve is not None:
                self.approval((*at, "approve"), validator.approve, scope, facts)
                self.looked_at((*at, "approve", "path"), validator.approve.path, scope)

    def constant(self, path: Path, text: str, *, always: str, never: str) -> None:
        """A condition that has the same value in every run is a mistake, or no condition."""
        value = constant_value(text)
        if value is True or value is False:
            self.fault(path, f"always {str(value).lower()}: {always if value else never}")

    def tool_check(self, path: Path, check: ToolCheck, scope: Mapping[str, JsonSchema], facts: Facts) -> None:
        tools = self.world.mesh.tools
        given = self.template((*path, "with"), scope, facts=facts) if check.with_ else {"properties": {}}
        if message := self.world.unknown("tools", check.name, tools):
            self.fault((*path, "name"), message)
        result = DYN
        if check.name in tools:
            where = (*path, "with") if check.with_ else path
            self.arguments(where, given, self.world.sound(tools[check.name].input_schema), f"tool {check.name!r}")
            result = self.tool_output(check.name)
        if self.document.get((*path, "passes")) is not None:
            self.expression((*path, "passes"), {**scope, "result": result}, boolean=True, facts=facts)
        elif field_of(result, "ok") is None or "boolean" not in kinds(field_of(result, "ok") or DYN):
            self.fault(
                path,
                f"tool {check.name!r} answers no `ok`: say what passes, as in `passes: result.score > 0.5`",
                key=True,
            )
        self.looked_at((*path, "path"), check.path, scope)

    def tool_output(self, name: str) -> JsonSchema:
        """What a tool of the mesh answers."""
        tool, spec = self.world.mesh.tools[name], self.world.mesh.specs.get(name)
        if tool.output_schema is None and spec is not None and spec.llm is not None:
            return STRING
        return self.world.sound(tool.output_schema)

    def judge(self, path: Path, judge: Judge, scope: Mapping[str, JsonSchema], facts: Facts) -> None:
        self.model(path, judge.model)
        self.template((*path, "rubric"), scope, facts=facts)
        self.looked_at((*path, "path"), judge.path, scope)

    def vote(self, path: Path, vote: Vote, scope: Mapping[str, JsonSchema], *, asks_model: bool) -> None:
        if not asks_model:
            self.fault(path, "`vote` belongs to an llm: only a model gives another sample", key=True)
        if vote.agree is not None and vote.agree > vote.samples:
            self.fault((*path, "agree"), f"must be at most `samples`, which is {vote.samples}; this is {vote.agree}")
        self.looked_at((*path, "path"), vote.path, scope)

    def approval(self, path: Path, spec: ApproveSpec, scope: Mapping[str, JsonSchema], facts: Facts) -> JsonSchema:
        """Type of an approval's output."""
        self.template((*path, "ask"), scope, facts=facts)
        if spec.show is not None:
            self.template((*path, "show"), scope, facts=facts)
        sound = self.schema((*path, "form"), must_be_object=True)
        self.expiry((*path, "expires"), spec.expires)
        return {
            "type": "object",
            "properties": {
                "approved": BOOL, "by": STRING, "at": NUMBER,
                "values": {"type": "null"} if spec.form is None else spec.form if sound else DYN,
            },
            "required": ["approved", "by", "at", "values"],
            "additionalProperties": False,
        }  # fmt: skip

    def expiry(self, path: Path, value: Any) -> None:
        """How long something is waited for: what expires at once is never there in time."""
        self.duration(path)
        try:
            if value is not None and seconds(value) == 0:
                self.fault(path, "expires at once: nobody could ever be in time")
        except ValueError:
            pass

    def looked_at(self, path: Path, name: str | None, scope: Mapping[str, JsonSchema]) -> None:
        """`path` of a validator: a part of the output."""
        if name is None:
            return
        if name.split(".")[0].split("[")[0] != "output":
            self.fault(path, f"{name!r} is no part of the output; write it as in output.reply")
        else:
            self.output_path(path, name, scope)

    def output_path(self, path: Path, name: str, scope: Mapping[str, JsonSchema]) -> JsonSchema | None:
        """The type at a path such as `output.quotes` or `output.places[].file`; None after a fault."""
        found: JsonSchema = {"type": "object", "properties": dict(scope), "additionalProperties": False}
        walked = ""
        for part in name.replace("[", ".[").split("."):
            if part.startswith("["):
                if "array" not in kinds(found):
                    self.fault(path, f"{walked} is {describe(found)}, it has no items")
                    return None
                found = items(found)
            else:
                owner = items(found) if kinds(found) == {"array"} else found
                inner = field_of(owner, part) if "object" in kinds(owner) else None
                if inner is None:
                    known = owner.get("properties", {})
                    what = f"{walked} has no" if walked else "unknown name"
                    self.fault(path, f"{what} {part!r}{closest(part, known)}")
                    return None
                found = inner
            walked += part if part.startswith("[") or not walked else f".{part}"
        return found

    # What happens when a check fails

    def on_invalid(
        self,
        path: Path,
        stages: Sequence[Any],
        types: Mapping[str, JsonSchema],
        output: JsonSchema,
        facts: Facts,
        *,
        asks_model: bool,
    ) -> None:
        for i, stage in enumerate(stages):
            at = (*path, "on_invalid", i)
            name = stage if isinstance(stage, str) else next(iter(stage), None) if isinstance(stage, Mapping) else None
            if name not in STAGES:
                hint = closest(str(name), STAGES) or f"; there are {', '.join(STAGES)}"
                where = (*at, name) if isinstance(stage, Mapping) and name is not None else at
                self.fault(where, f"{name!r} is no stage of on_invalid{hint}", key=where != at)
                continue
            self.stage(at, str(name), stage, types, output, facts, asks_model=asks_model)
            if name in _LAST and i != len(stages) - 1 and not (name == "compensate" and stages[i + 1 :] == ("fail",)):
                self.fault(at, _LAST[name])

    def stage(
        self,
        at: Path,
        name: str,
        stage: Any,
        types: Mapping[str, JsonSchema],
        output: JsonSchema,
        facts: Facts,
        *,
        asks_model: bool,
    ) -> None:
        if name in ("fail", "compensate"):
            if not isinstance(stage, str):
                self.fault(at, f"`{name}` stands alone: write `- {name}`")
            return
        if isinstance(stage, str) or len(stage) != 1:
            self.fault(at, f"must be {_FORMS[name]}")
            return
        if name in _ASK_MODEL and not asks_model:
            self.fault(at, f"`{name}` needs an llm: only a model can answer again")
        elif name in ("repair", "resample"):
            self.count((*at, name), stage[name])
        elif name == "escalate":
            self.escalate((*at, name), stage[name])
        elif name == "fallback":
            found = self.template((*at, name), types, facts=facts)
            self.fallback((*at, name), found, output)
        else:
            self.ask((*at, name), stage[name], {**types, "output": output}, facts)

    def fallback(self, path: Path, found: JsonSchema, output: JsonSchema) -> None:
        """What stands in for the answer must be of the answer's type, or later steps would stumble over it."""
        if self.document.get(path) is None:
            if "null" not in kinds(output):
                self.fault(path, f"a fallback must fit the output, which is {describe(output)}, not null", key=True)
            return
        self.compare(path, found, output, "the output")

    def escalate(self, path: Path, value: Any) -> None:
        if not isinstance(value, Mapping) or not isinstance(value.get("model"), str):
            self.fault(path, "must be {model: NAME, repair: N}")
            return
        self.model(path, value["model"])
        self.keys(path, value, ("model", "repair"))
        if "repair" in value:
            self.count((*path, "repair"), value["repair"], least=0)

    def ask(self, path: Path, value: Any, scope: Mapping[str, JsonSchema], facts: Facts) -> None:
        if not isinstance(value, Mapping) or not isinstance(value.get("question"), str):
            self.fault(path, "must be {question: TEXT}, and may have `show` and `expires`")
            return
        self.keys(path, value, ("question", "show", "expires"))
        for name in ("question", "show"):
            if value.get(name) is not None:
                self.template((*path, name), scope, facts=facts)
        if isinstance(expires := value.get("expires"), (str, int, float)) and not isinstance(expires, bool):
            self.expiry((*path, "expires"), expires)
        elif expires is not None:
            self.fault((*path, "expires"), f"must be a duration such as 2h, this is {kind_of(expires)}")

    def keys(self, path: Path, value: Mapping[str, Any], known: Sequence[str]) -> None:
        """What stands in an object that has no model of its own."""
        for key in value:
            if key not in known:
                hint = closest(key, known) or f"; here may stand {', '.join(known)}"
                self.fault((*path, key), f"unknown key {key!r}{hint}", key=True)

    def count(self, path: Path, value: Any, least: int = 1) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 100:
            self.fault(path, f"must be a whole number from {least} to 100, this is {kind_of(value)}")


_FORMS = {
    "repair": "{repair: N}", "resample": "{resample: N}", "escalate": "{escalate: {model: NAME, repair: N}}",
    "fallback": "{fallback: VALUE}", "ask": "{ask: {question: TEXT}}",
}  # fmt: skip


def _reads_output(text: str) -> bool:
    try:
        return any(path.split(".")[0] == "output" for path in names(text))
    except ExpressionError:
        return False  # told at its place


def _number_in(schema: JsonSchema, path: str, depth: int = 8) -> str | None:
    """The path of a number that nothing bounds in what a schema describes for sure; None when there is none."""
    found = kinds(schema)
    if "enum" in schema or "const" in schema or depth == 0 or {"string", "number"} <= found:
        return None
    if found & {"number", "integer"}:
        return None if {"minimum", "maximum"} <= schema.keys() else path
    if found & {"object"}:
        for name in schema.get("properties", {}):
            below = field_of(schema, name)
            if below is not None and (number := _number_in(below, f"{path}.{name}", depth - 1)) is not None:
                return number
    if found & {"array"} and "items" in schema:
        return _number_in(items(schema), f"{path}[]", depth - 1)
    return None
