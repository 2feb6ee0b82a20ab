"""Checker: what the checks of every kind of file share: faults at places, expressions, schemas, models, validators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentmesh.core.document import Path, strings
from agentmesh.core.expression import ExpressionError, check_expression, check_template, segments
from agentmesh.core.foreign import may_mean_foreign, sources_of
from agentmesh.core.inference import DYN, STRING, Facts, JsonSchema, closest, describe, kinds, union
from agentmesh.core.inference import field as field_of
from agentmesh.core.mesh import Mesh, llm_output
from agentmesh.core.schema import SHOWN, schema_faults, template_enums, validator
from agentmesh.core.shape import Source
from agentmesh.core.tool import matching_tools
from agentmesh.core.workflow import LlmSpec, seconds
from agentmesh.errors import Fault

NOT_BUILT = "not built yet in this release"


@dataclass(frozen=True, slots=True)
class Function:
    """What is known of an installed function without importing it."""

    parameters: tuple[str, ...] | None = None
    """Names that may be given, `ctx` left out; None when any may."""
    required: tuple[str, ...] = ()


@dataclass
class World:
    """Everything that names may mean, while one mesh is checked."""

    mesh: Mesh
    find_function: Callable[[str], Function | str]
    """Of `package.module:function`; a string says what is wrong with the name."""
    unsure: frozenset[str] = frozenset()
    """`tools`, `workflows`: a file could not be read, so that an unknown name may stand there."""
    find_path: Callable[[str, str], str | None] = lambda path, kind: None
    """What is wrong with a path under the mesh's folder that must be a `file` or a `folder`; None when nothing is."""
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Names known to be declared in parts that did not fit."""
    faults: list[Fault] = field(default_factory=list)
    visited: set[tuple[str, Path]] = field(default_factory=set)
    """Strings that were checked as expressions or templates, by file and path."""

    _sound: dict[int, bool] = field(default_factory=dict)

    def sound(self, schema: JsonSchema | None) -> JsonSchema:
        """A schema of another file, or {} when there is none or it has faults of its own, told where it stands."""
        if schema is None:
            return DYN
        if id(schema) not in self._sound:
            self._sound[id(schema)] = not schema_faults(schema, expressions=True)
        return schema if self._sound[id(schema)] else DYN

    def unknown(self, kind: str, name: str, among: Mapping[str, Any]) -> str | None:
        """What to say of a name that nothing has; None when it is known, or may be."""
        hint = closest(name, among)
        if name in among or name in self.names.get(kind, ()) or (kind in self.unsure and not hint):
            return None
        if kind == "tools" and name.partition(".")[0] in sources_of(self.mesh):
            return f"server {name.partition('.')[0]} does not offer {name!r}: add it to `expose` in its file"
        return f"unknown {kind.removesuffix('s')} {name!r}{hint or (_listing(among) if among else '')}"


def _listing(among: Mapping[str, Any]) -> str:
    names = sorted(among)
    return f"; there {'is' if len(names) == 1 else 'are'} {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"


def templated(value: Any) -> bool:
    """Whether an expression stands anywhere in a JSON value."""
    return any("${{" in text for _, text in strings(value))


class Checker:
    """Shared by workflows, tools and policies: reports at places of one document."""

    def __init__(self, world: World, source: Source[Any]) -> None:
        self.world = world
        self.document = source.document
        self.removed = source.removed

    def damaged(self, path: Path) -> bool:
        """Whether a part of this did not fit and was taken out: then what is missing is no fault of its own."""
        return any(p[: len(path)] == path for p in self.removed)

    def fault(self, path: Path, message: str, *, offset: int | None = None, key: bool = False) -> None:
        self.world.faults.append(self.document.fault(path, message, offset=offset, key=key))

    def expression(
        self, path: Path, types: Mapping[str, JsonSchema], *, boolean: bool = False, facts: Facts = frozenset()
    ) -> JsonSchema:
        """Type of a bare expression; {} after a fault."""
        text = self.document.get(path)
        self.world.visited.add((self.document.file, path))
        if not isinstance(text, str):
            return DYN
        try:
            return check_expression(text, types, boolean=boolean, facts=facts)
        except ExpressionError as error:
            self.fault(path, self.explain(error.message), offset=error.column - 1 if error.column else None)
            return DYN

    def template(self, path: Path, types: Mapping[str, JsonSchema], *, facts: Facts = frozenset()) -> JsonSchema:
        """Type of a value with `${{ }}` in it, every string looked at; {} where there is a fault."""
        value = self.document.get(path)
        if isinstance(value, Mapping):
            properties = {}
            for key in value:
                if "${{" in key:
                    self.fault((*path, key), "an expression may not stand in a key", key=True)
                properties[key] = self.template((*path, key), types, facts=facts)
            return {"type": "object", "properties": properties, "required": list(value), "additionalProperties": False}
        if isinstance(value, list):
            parts = [self.template((*path, i), types, facts=facts) for i in range(len(value))]
            return {"type": "array", "items": union(parts) if parts else DYN}
        self.world.visited.add((self.document.file, path))
        if not isinstance(value, str) or "${{" not in value:
            return check_template(value, types)
        found: JsonSchema = STRING
        try:
            pieces = segments(value)
        except ExpressionError as error:
            self.fault(path, error.message, offset=error.column - 1)
            return DYN
        for piece in pieces:
            if isinstance(piece, tuple):
                try:
                    inner = check_expression(piece[0], types, facts=facts)
                    found = inner if len(pieces) == 1 else STRING
                except ExpressionError as error:
                    self.fault(path, self.explain(error.message), offset=piece[1] + max(error.column - 1, 0))
                    found = DYN
        return found

    def explain(self, message: str) -> str:
        return message

    def schema(
        self, path: Path, *, types: Mapping[str, JsonSchema] | None = None, must_be_object: bool = False
    ) -> bool:
        """Whether the JSON Schema at a path is one. With `types`, an `enum` may be an expression that yields a list."""
        value = self.document.get(path)
        if value is None:
            return True
        found = schema_faults(value, expressions=types is not None)
        for below, message in found:
            self.fault((*path, *below), message)
        if types is not None:
            for below, _ in template_enums(value):
                result = self.template((*path, *below), types)
                if "array" not in kinds(result):
                    self.fault((*path, *below), f"an enum must be a list, this is {describe(result)}")
        if must_be_object and not found and kinds(value) != {"object"}:
            self.fault(path, "must be of `type: object`: it is what callers send by name")
        return not found

    def duration(self, path: Path) -> None:
        value = self.document.get(path)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            return  # nothing, or told as a fault of the shape
        try:
            if seconds(value) < 0:
                self.fault(path, "a time must not be negative")
        except ValueError as error:
            self.fault(path, str(error))

    def not_built(self, path: Path, what: str) -> None:
        if self.document.get(path) is not None:
            self.fault(path, f"{what} {NOT_BUILT}", key=True)

    def python(self, path: Path) -> Function | None:
        name = self.document.get(path)
        found = self.world.find_function(name)
        if isinstance(found, str):
            self.fault(path, found)
            return None
        return found

    def model(self, path: Path, name: str | None) -> None:
        """A model that is named, or the default when none is."""
        file = self.world.mesh.file
        if name is None:
            if file.default_model is None and "models" not in self.world.unsure:
                self.fault(path, "names no model, and agentmesh.yaml has no default_model; write `model: NAME`")
        elif message := self.world.unknown("models", name, file.models):
            self.fault((*path, "model"), message)

    def llm(self, path: Path, llm: LlmSpec, types: Mapping[str, JsonSchema], facts: Facts) -> JsonSchema:
        """Type of a model's answer."""
        self.model(path, llm.model)
        for name in ("prompt", "system"):
            if getattr(llm, name) is not None:
                self.template((*path, name), types, facts=facts)
        self.llm_tools(path, llm)
        if llm.output is None:
            return STRING
        if not self.schema((*path, "output"), types=types):
            return DYN
        return llm_output(llm) or DYN

    def llm_tools(self, path: Path, llm: LlmSpec) -> None:
        """Every pattern of `tools` means a tool that there is."""
        if llm.tools is None:
            if llm.max_turns is not None:
                self.fault(
                    (*path, "max_turns"), "`max_turns` belongs to `tools`: without them there is one turn", key=True
                )
            return
        known = self.world.mesh.tools
        if not llm.tools:
            self.fault((*path, "tools"), "must not be empty: name tools of the mesh, such as desk.*", key=True)
        for i, pattern in enumerate(llm.tools):
            at = (*path, "tools", i)
            if "${{" in pattern:
                self.fault(at, "an expression may not stand here: what a model may call is fixed when the file is read")
            elif "*" not in pattern:
                if message := self.world.unknown("tools", pattern, known):
                    self.fault(at, message)
            elif may_mean_foreign(pattern, self.world.mesh):
                continue
            elif not matching_tools((pattern,), known) and "tools" not in self.world.unsure:
                self.fault(at, f"no tool fits {pattern!r}{closest(pattern.strip('*.'), known) or _listing(known)}")

    def compare(self, path: Path, found: JsonSchema, expected: JsonSchema, whose: str) -> None:
        """Whether a value at a path can fit a schema, as far as can be known before it runs."""
        value = self.document.get(path)
        if not templated(value) and value is not None:
            for wrong in list(validator(expected).iter_errors(value))[:SHOWN] if not template_enums(expected) else ():
                self.fault((*path, *wrong.absolute_path), f"{whose} does not take this: {wrong.message[:200]}")
        elif not kinds(found) & kinds(expected):
            self.fault(path, f"{whose} wants {describe(expected)} here, this is {describe(found)}")
        elif isinstance(value, Mapping) and "object" in kinds(expected):
            self.arguments(path, found, expected, whose)

    def arguments(self, path: Path, given: JsonSchema, schema: JsonSchema, whose: str) -> None:
        """Whether what is given by name fits an input schema, as far as can be known before it runs."""
        wanted: Mapping[str, Any] = schema.get("properties", {})
        closed = schema.get("additionalProperties", None) is False or (wanted and "additionalProperties" not in schema)
        have: Mapping[str, Any] = given.get("properties", {})
        for name, found in have.items():
            if name not in wanted:
                if closed and "patternProperties" not in schema:
                    hint = closest(name, wanted) or (
                        f"; it takes {', '.join(wanted)}" if wanted else "; it takes nothing"
                    )
                    self.fault((*path, name), f"{whose} takes no {name!r}{hint}", key=True)
                continue
            expected = field_of(schema, name) or DYN
            if not kinds(found) & kinds(expected):
                self.fault((*path, name), f"{whose} wants {describe(expected)} here, this is {describe(found)}")
        for name in schema.get("required", ()):
            if name not in have:
                self.fault(path, f"{whose} needs {name!r}", key=True)
