"""Acting: what a model said may not act by itself. Follows values through a workflow to the steps that write.

A step that writes (`core.effect`) may not be fed with what a model said and nothing checked, nor stand where such a value
decides whether it runs. A value is clean when a schema bounds it, or a validator that passed names its path, or a person
approved it where an `approve` step showed it. Runs after `core.flow`, over what that found of types and facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentmesh.core import cel
from agentmesh.core.checker import World
from agentmesh.core.document import Path, strings
from agentmesh.core.effect import asks_model, child_of, tool_writes, writes_within
from agentmesh.core.expression import ExpressionError, bare, segments
from agentmesh.core.flow import FlowChecker
from agentmesh.core.inference import Facts, JsonSchema
from agentmesh.core.scope import HTTP_OUTPUT
from agentmesh.core.taint import (
    CLEAN,
    NONE,
    Env,
    Flow,
    Mark,
    Marks,
    Taint,
    Way,
    of_schema,
    place,
    reads,
    spelled,
    union,
    way_of,
)
from agentmesh.core.tool import Tool, matching_tools
from agentmesh.core.workflow import OnError, Step, Validator

_PASSES = 40
"""A loop's last round feeds the next: the workflow is walked until nothing new is found."""
WAYS_OUT = (
    "check it there with a validator that names it (`ensure`, `grounded`, `tool`, `judge`, `vote`, `approve`) or bound it by"
    " `enum`, `const`, a boolean or a range; or let a person see it before this, in the `show` of an `approve` step; or say"
    " `effect: read` here if this changes nothing"
)


def unbounded_calls(patterns: Sequence[str], world: World, way_out: str = "") -> Iterator[tuple[int, str]]:
    """Patterns by which a model could call a tool that writes with what it likes.

    It chooses the arguments, so the tool's own input must bound all of them.
    """
    mesh = world.mesh
    for i, pattern in enumerate(patterns):
        for name in matching_tools((pattern,), mesh.tools):
            schema, foreign = mesh.tools[name].input_schema, mesh.tools[name].foreign
            if not tool_writes(name, mesh.tools) or world.sound(schema) is not schema:
                continue
            if foreign and "*" in pattern:
                continue  # what it means is known at run time: then only those are offered that read, or bound every argument
            unchecked = of_schema(schema, lambda way: frozenset([Mark(way, "")])).marks
            if unchecked:
                told = spelled(_first(unchecked).origin) or "what it likes"
                if foreign:
                    yield i, _foreign_call(mesh.tools[name], way_out)
                    break
                message = (
                    f"the model could call {name!r}, which writes, with {told!r} as it likes: let it call only tools that say"
                    f" `readOnlyHint: true`, and call {name!r} in a step of its own behind a check; or bound every argument"
                    f" of {name!r} by enum, const, a boolean or a range{way_out}"
                )
                yield i, message
                break


def _foreign_call(tool: Tool, way_out: str) -> str:
    """What to say of somebody else's tool that a model could call."""
    prefix, _, own = tool.name.partition(".")
    reads = (
        f"add {own} to `reads:` of server {prefix} if it changes nothing"
        if tool.server is not None
        else "it is a peer's skill"
    )
    return (
        f"the model could call {tool.name!r}, which writes as far as is known here, with what it likes: {reads}; else call it in a"
        f" step of its own behind a check{way_out}"
    )


def bounds_all(schema: Mapping[str, Any]) -> bool:
    """Whether a schema leaves whoever fills it in nothing to say that is not bounded."""
    return not of_schema(schema, lambda way: frozenset([Mark(way, "")])).marks


@dataclass(frozen=True, slots=True)
class _Here:
    """At one step: what names hold, and what decided that it runs."""

    env: Env
    ruled: Marks = NONE
    """Marks on the conditions around."""
    facts: Facts = frozenset()


@dataclass(slots=True)
class _Round:
    """What a loop's rounds have brought so far."""

    last: Taint = CLEAN
    ruled: Marks = NONE


@dataclass
class ActingCheck:
    """One workflow."""

    flow: FlowChecker
    _shown: dict[str, list[Way]] = field(default_factory=dict)
    """What each `approve` step shows, by its id."""
    _items: set[Way] = field(default_factory=set)
    """Single items of lists that validators have looked at, as later steps read them."""
    _rounds: dict[Path, _Round] = field(default_factory=dict)
    _changed: bool = False
    _found: dict[tuple[Path, int | None], str] = field(default_factory=dict)
    _keys: set[Path] = field(default_factory=set)

    def check(self) -> None:
        env = dict.fromkeys((*self.flow.end.types, "steps"), CLEAN)
        if "context" in env:  # what agents said earlier in the conversation is no cleaner for having been said before
            earlier = Mark(("context", "messages"), "messages", "an agent, in an earlier task of the context,")
            env["context"] = Taint(fields={"messages": Taint(frozenset([earlier]))})
        start = _Here(env)
        for _ in range(_PASSES):
            self._changed = False
            self._found, self._keys = {}, set()
            self._block(self.flow.workflow.steps, ("steps",), start, self.flow.end.facts)
            if not self._changed:
                break
        for (path, offset), message in self._found.items():
            self.flow.fault(path, message, offset=offset, key=path in self._keys)

    # Walking

    def _block(self, steps: Sequence[Step], path: Path, here: _Here, end: Facts) -> tuple[_Here, Taint]:
        """(what stands after the steps, the last one's output). `end`: facts where the block ends."""
        last = CLEAN
        for i, step in enumerate(steps):
            at = (*path, i)
            scope = self.flow.scopes.get(at)
            if scope is None:
                continue
            last, known = self._step(step, at, replace(here, facts=scope.facts))
            here = replace(here, env=_with_step(here.env, step.id, known))
            if step.approve is not None and step.id not in self._shown:
                self._shown[step.id] = list(self._pure((*at, "approve", "show")))
            if step.if_ is None and step.on_error != "continue":
                end |= {step.id}
        return here, self._seen(last, end)

    def _step(self, step: Step, path: Path, outer: _Here) -> tuple[Taint, Taint]:
        """(output, `steps.ID`) of one step."""
        here = self._here(outer)
        if step.if_ is not None:
            here = replace(here, ruled=here.ruled | self._expression((*path, "if"), here).marks)
        inputs = list(self._inputs(step, path))
        fed = frozenset().union(*(self._template(at, here).marks for at in inputs)) if inputs else NONE
        acts = writes_within(step, self.flow.world.mesh)
        if acts:
            self._forbid(step, path, inputs, here)
        if step.llm is not None and step.llm.tools and step.effect != "read":
            self._forbid_calls(step, path)
        output = self._output(step, path, here, fed)
        self._forbid_checks(step, path, here, output)
        said = output.marks | fed
        output = self._checked(step, output, here)
        for i, stage in enumerate(step.on_invalid):
            if isinstance(stage, Mapping) and "fallback" in stage:
                output = union(CLEAN, output, self._template((*path, "on_invalid", i, "fallback"), here))
        output = self._seen(output, here.facts)
        error = Taint(fields={"message": Taint(said)}).marked(here.ruled)
        if step.compensate is not None:
            self._compensation(step.compensate, path, here, output)
        if isinstance(step.on_error, OnError):
            inside = replace(here, env={**here.env, "error": error})
            output = union(CLEAN, output, self._inner(step.on_error.steps, (*path, "on_error", "steps"), inside)[1])
        output = output.marked(here.ruled)
        return output, Taint(fields={"output": output, "error": error, "state": Taint(here.ruled)})

    def _compensation(self, undo: Step, path: Path, here: _Here, output: Taint) -> None:
        at = (*path, "compensate")
        inside = replace(here, env={**here.env, "output": output})
        if writes_within(undo, self.flow.world.mesh):
            self._forbid(undo, at, list(self._inputs(undo, at)), inside)

    def _inner(self, steps: Sequence[Step], path: Path, here: _Here) -> tuple[_Here, Taint]:
        return self._block(steps, path, here, here.facts)

    def _here(self, here: _Here) -> _Here:
        """With what people have approved by now taken for clean."""
        shown = self._approved(here.facts)
        if not shown:
            return here
        env = dict(here.env)
        for way in shown:
            if way[0] in env:
                env[way[0]] = env[way[0]].covered(way[1:])
        env = {name: self._seen(taint, here.facts) for name, taint in env.items()}
        return replace(here, env=env, ruled=self._seen(Taint(here.ruled), here.facts).whole)

    def _approved(self, facts: Facts) -> list[Way]:
        return [way for step in facts for way in self._shown.get(step, ())]

    def _seen(self, taint: Taint, facts: Facts) -> Taint:
        shown = self._approved(facts)
        return taint.without(lambda mark: any(mark.origin[: len(way)] == way for way in shown)) if shown else taint

    # What goes in

    def _inputs(self, step: Step, path: Path) -> Iterator[Path]:
        """Paths in the file of what a step's verb is given."""
        if step.with_:
            yield (*path, "with")
        if step.http is not None:
            yield from ((*path, "http", name) for name in ("url", "headers", "query", "json", "text"))
        if step.agent is not None:
            yield from ((*path, "agent", name) for name in ("skill", "message"))

    def _forbid(self, step: Step, path: Path, inputs: Iterable[Path], here: _Here) -> None:
        """Tells what may not go into a step that writes."""
        what = _act(step)
        flow = Flow(here.env, [*self._approved(here.facts), *self._items])
        for given in inputs:
            for below, text in strings(self.flow.document.get(given)):
                for expression, offset in _expressions(text):
                    found = flow.first(cel.parse(expression))
                    if found is not None:
                        way, column, marks = found
                        message = f"{_value(way, marks)} and nothing has checked it, but {what}: {WAYS_OUT}"
                        self._found[(*given, *below), offset + column - 1] = message
        if here.ruled:
            origin = _first(here.ruled)
            message = (
                f"whether {what} hangs on {_value(origin.origin, here.ruled)} and nothing has checked it:"
                f" {WAYS_OUT.replace('check it there', 'check that there', 1)}"
            )
            self._found[(*path, step.verb), None] = message
            self._keys.add((*path, step.verb))

    def _forbid_checks(self, step: Step, path: Path, here: _Here, output: Taint) -> None:
        """A validator that calls a tool is asked before anything is checked: it may only read."""
        inside = replace(here, env={**here.env, "output": output})
        for i, validator in enumerate(step.validate_):
            if validator.tool is None or not tool_writes(validator.tool.name, self.flow.world.mesh.tools):
                continue
            check = Step(id=step.id, tool=validator.tool.name)
            self._forbid(check, path, [(*path, "validate", i, "tool", "with")], replace(inside, ruled=NONE))

    def _forbid_calls(self, step: Step, path: Path) -> None:
        patterns = step.llm.tools or () if step.llm is not None else ()
        for i, message in unbounded_calls(
            patterns, self.flow.world, "; or say `effect: read` here if it changes nothing"
        ):
            self._found[(*path, "llm", "tools", i), None] = message

    # What comes out

    def _output(self, step: Step, path: Path, here: _Here, fed: Marks) -> Taint:
        mesh, origin = self.flow.world.mesh, ("steps", step.id, "output")
        if step.llm is not None:
            return self._said(step, path, step.llm.output, here, ("llm", "output"))
        if step.verb == "set":
            return self._template((*path, "set"), here)
        if step.tool is not None:
            spec = mesh.specs.get(step.tool)
            if spec is not None and spec.llm is not None:
                by = f"a model, asked by the tool {step.tool!r},"
                taint = self._bounds(spec.llm.output, _marker(origin, step.id, by))
                return _covered_by(spec.validate_, taint)
            if step.tool in mesh.tools and mesh.tools[step.tool].by_agent:
                by = f"an agent elsewhere, asked by {step.tool!r},"
                return self._bounds(mesh.tools[step.tool].output_schema, _marker(origin, step.id, by))
        if step.agent is not None and step.agent.peer is not None:
            by = f"an agent elsewhere, {step.agent.peer!r},"
            return self._bounds(step.output, _marker(origin, step.id, by))
        child = child_of(step, mesh)
        if child is not None:
            marks = fed
            if asks_model(child, mesh):
                marks |= {Mark(origin, step.id, f"a model, asked by the workflow {child.name!r},")}
            return self._limited(child.output_schema, marks)
        if step.tool is not None:
            return self._limited(mesh.tools[step.tool].output_schema if step.tool in mesh.tools else None, fed)
        if step.verb in ("python", "agent", "workflow"):
            return self._limited(step.output, fed)
        if step.http is not None:
            parts = {name: Taint(fed) for name in HTTP_OUTPUT if name != "status"}
            return Taint(fields={**parts, "body": self._limited(step.output, fed)}) if fed else CLEAN
        if step.sql is not None:
            return Taint(fields={"rows": Taint(fed), "count": Taint(fed)}) if fed else CLEAN
        return self._of_block(step, path, here)

    def _of_block(self, step: Step, path: Path, here: _Here) -> Taint:
        if step.map is not None and step.steps:
            over = self._expression((*path, "map", "over"), here)
            inside = replace(here, env={**here.env, step.map.as_: over.item()})
            return Taint(items=self._inner(step.steps, (*path, "steps"), inside)[1])
        if step.parallel is not None:
            parts = {
                name: self._inner(steps, (*path, "parallel", name), here)[1] for name, steps in step.parallel.items()
            }
            return Taint(fields=parts)
        if step.switch is not None:
            return self._switch(step, path, here)
        if step.loop is not None and step.steps:
            return self._loop(step, path, here)
        return CLEAN

    def _switch(self, step: Step, path: Path, here: _Here) -> Taint:
        outputs: list[Taint] = []
        for i, case in enumerate(step.switch or ()):
            at = (*path, "switch", i)
            here = replace(here, ruled=here.ruled | self._expression((*at, "when"), here).marks)
            outputs.append(self._inner(case.steps, (*at, "steps"), here)[1])
        if step.else_:
            outputs.append(self._inner(step.else_, (*path, "else"), here)[1])
        return union(CLEAN, *outputs).marked(here.ruled)

    def _loop(self, step: Step, path: Path, here: _Here) -> Taint:
        """Each round is ruled by `while`, and by the `until` of the rounds before it."""
        assert step.steps is not None
        known = self._rounds.setdefault(path, _Round())
        inside = replace(
            here,
            env={**here.env, "loop": Taint(fields={"index": CLEAN, "last": known.last})},
            ruled=here.ruled | known.ruled,
        )
        ruled = inside.ruled | self._expression((*path, "loop", "while"), inside).marks
        inside = replace(inside, ruled=ruled)
        after, last = self._inner(step.steps, (*path, "steps"), inside)
        ruled |= self._expression((*path, "loop", "until"), after).marks
        merged = union(CLEAN, known.last, last)
        if merged.marks != known.last.marks or ruled != known.ruled:
            self._rounds[path] = _Round(merged, ruled)
            self._changed = True
        return merged.marked(ruled)

    def _said(self, step: Step, path: Path, schema: JsonSchema | None, here: _Here, below: tuple[str, ...]) -> Taint:
        def listed(text: str) -> Marks:
            return self._text(text, here).marks

        return self._bounds(schema, _marker(("steps", step.id, "output"), step.id), listed)

    def _limited(self, schema: JsonSchema | None, marks: Marks) -> Taint:
        """Of what was made from values with these marks, and fits a schema."""
        return self._bounds(schema, lambda _: marks) if marks else CLEAN

    def _bounds(
        self, schema: JsonSchema | None, mark: Callable[[Way], Marks], enum: Callable[[str], Marks] = lambda _: NONE
    ) -> Taint:
        """What a schema leaves unclean; nothing where it has faults, which are told at their place."""
        if schema is not None and self.flow.world.sound(schema) is not schema:
            return CLEAN
        return of_schema(schema, mark, enum)

    def _checked(self, step: Step, output: Taint, here: _Here) -> Taint:
        """With what the validators cover taken for clean: they have passed when the step has completed."""
        validators = step.validate_
        for validator in validators:
            if validator.schema_ is not None and output.marks:
                marks = output.marks
                bound = self._bounds(validator.schema_, lambda _, m=marks: m, lambda text: self._text(text, here).marks)  # type: ignore[misc]
                output = output.bounded(bound)
            self._items |= {
                ("steps", step.id, *way) for way in _named_by(validator) if any(isinstance(k, int) for k in way)
            }
        return _covered_by(validators, output)

    # Expressions

    def _expression(self, path: Path, here: _Here) -> Taint:
        text = self.flow.document.get(path)
        if not isinstance(text, str):
            return CLEAN
        try:
            return self._tree(bare(text)[0], here)
        except ExpressionError:
            return CLEAN

    def _tree(self, expression: str, here: _Here) -> Taint:
        try:
            return Flow(here.env, [*self._approved(here.facts), *self._items]).of(cel.parse(expression))
        except ExpressionError:
            return CLEAN

    def _template(self, path: Path, here: _Here) -> Taint:
        return self._value(self.flow.document.get(path), here)

    def _value(self, value: Any, here: _Here) -> Taint:
        if isinstance(value, str):
            return self._text(value, here)
        if isinstance(value, Mapping):
            return Taint(fields={str(key): self._value(inner, here) for key, inner in value.items()})
        if isinstance(value, list):
            return Taint(items=union(CLEAN, *(self._value(inner, here) for inner in value)))
        return CLEAN

    def _text(self, text: str, here: _Here) -> Taint:
        found = _expressions(text)
        if len(found) == 1 and text.strip().startswith("${{") and text.strip().endswith("}}"):
            return self._tree(found[0][0], here)
        marks = [self._tree(expression, here).marks for expression, _ in found]
        return Taint(frozenset().union(*marks)) if marks else CLEAN

    def _pure(self, path: Path) -> Iterator[Way]:
        """Paths whose whole value a template shows."""
        for _, text in strings(self.flow.document.get(path)):
            for expression, _ in _expressions(text):
                way = place(cel.parse(expression).root)
                if way is not None:
                    yield way


def _expressions(text: str) -> list[tuple[str, int]]:
    """The expressions in a template that can be read, each with its offset."""
    try:
        found = [piece for piece in segments(text) if isinstance(piece, tuple)]
        for expression, _ in found:
            cel.parse(expression)
    except ExpressionError:
        return []
    return found


def _marker(origin: Way, said_in: str, by: str = "a model") -> Any:
    return lambda way: frozenset([Mark((*origin, *way), said_in, by)])


def _with_step(env: Env, step: str, known: Taint) -> Env:
    steps = env.get("steps", CLEAN)
    return {**env, "steps": Taint(fields={**steps.fields, step: known})}


def _covered_by(validators: Sequence[Validator], output: Taint) -> Taint:
    for validator in validators:
        for way in _named_by(validator):
            if way[:1] == ("output",):
                output = output.covered(way[1:])
    return output


def _named_by(validator: Validator) -> Iterator[Way]:
    """Paths that a validator has looked at when it passes."""
    whole: Way = ("output",)
    if validator.grounded is not None:
        yield from (way_of(name) for name in validator.grounded)
    elif validator.ensure is not None:
        yield from _read_by(validator.ensure)
    elif validator.tool is not None:
        if validator.tool.path is not None:
            yield way_of(validator.tool.path)
        else:
            for _, text in strings(dict(validator.tool.with_)):
                for expression, _ in _expressions(text):
                    yield from _read_by(expression)
            yield from _read_by(validator.tool.passes)
    elif validator.judge is not None:
        yield way_of(validator.judge.path) if validator.judge.path is not None else whole
    elif validator.vote is not None:
        yield way_of(validator.vote.path) if validator.vote.path is not None else whole
    elif validator.approve is not None:
        yield way_of(validator.approve.path) if validator.approve.path is not None else whole


def _read_by(text: str) -> frozenset[Way]:
    try:
        return frozenset(reads(cel.parse(bare(text)[0]).root))
    except ExpressionError:
        return frozenset()


def _act(step: Step) -> str:
    if step.id == "compensate":
        return f"what undoes the step writes ({_how(step)})"
    return f"{step.id!r} writes ({_how(step)})"


def _how(step: Step) -> str:
    if step.http is not None:
        return f"http {step.http.method}"
    name = step.tool or step.python or step.workflow or (step.agent.skill if step.agent is not None else None)
    return f"{step.verb} {name}" if name else step.verb


def _first(marks: Marks) -> Mark:
    return min(marks, key=lambda mark: (mark.said_in, str(mark.origin)))


def _value(way: Way, marks: Marks) -> str:
    """`steps.m.output holds steps.draft.output.reply, which a model said in 'draft',`"""
    mark = _first(marks)
    origin = spelled(mark.origin)
    read = spelled(way)
    if read == origin:
        return f"{read} is what {mark.by} said in {mark.said_in!r},"
    return f"{read} holds {origin}, which {mark.by} said in {mark.said_in!r},"
