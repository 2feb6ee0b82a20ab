"""Taint: which parts of a value are what a model said and nothing has checked.

A value is clean where a schema bounds it (`enum`, `const`, boolean, null, a numeric range), however the model came to it;
text is not. `core.acting` follows values through a workflow; here is what becomes of one in a schema and in an expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentmesh.core import cel
from agentmesh.core.cel import Expr
from agentmesh.core.inference import DYN, JsonSchema, branches, kinds, within

Way = tuple[str | int, ...]
"""A path that an expression reads: names, and indexes of lists; `[]` for any item."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something a model said."""

    origin: Way
    """Where it stood first, such as ("steps", "draft", "output", "reply")."""
    said_in: str
    """The step in which a model said it."""
    by: str = "a model"
    """Who said it: a model, or the tool, workflow or agent that asked one."""


Marks = frozenset[Mark]
NONE: Marks = frozenset()


@dataclass(frozen=True, slots=True)
class Taint:
    """Marks on a value, by its parts."""

    whole: Marks = NONE
    """On it and on every part."""
    rest: Marks = NONE
    """On the parts that `fields` does not name."""
    fields: Mapping[str, Taint] = field(default_factory=dict)
    items: Taint | None = None

    @property
    def marks(self) -> Marks:
        """Every mark anywhere in it."""
        found = self.whole | self.rest
        for part in self.fields.values():
            found |= part.marks
        return found | self.items.marks if self.items is not None else found

    def part(self, name: str) -> Taint:
        """A field of it."""
        if name in self.fields:
            return self.fields[name].marked(self.whole)
        return Taint(self.whole | self.rest)

    def item(self) -> Taint:
        return (self.items or CLEAN).marked(self.whole | self.rest)

    def marked(self, marks: Marks) -> Taint:
        return Taint(self.whole | marks, self.rest, self.fields, self.items) if marks - self.whole else self

    def without(self, gone: Callable[[Mark], bool]) -> Taint:
        """Without the marks that something takes away."""
        if not self.marks:
            return self

        def keep(marks: Marks) -> Marks:
            return frozenset(mark for mark in marks if not gone(mark))

        return Taint(
            keep(self.whole), keep(self.rest), {k: v.without(gone) for k, v in self.fields.items()},
            self.items.without(gone) if self.items is not None else None,
        )  # fmt: skip

    def covered(self, way: Way) -> Taint:
        """With the part at a path clean."""
        if not self.marks:
            return self
        if not way:
            return CLEAN
        name, below = way[0], way[1:]
        parts = {k: v.marked(self.whole) for k, v in self.fields.items()}
        if name == "[]":
            items = self.item().covered(below)
            return Taint(NONE, NONE if not parts else self.rest | self.whole, parts, items)
        if isinstance(name, int):
            return self
        parts[name] = self.part(name).covered(below)
        return Taint(NONE, self.rest | self.whole, parts, self.items.marked(self.whole) if self.items else None)

    def bounded(self, by: Taint) -> Taint:
        """What is left of it where another schema, too, holds: a part is clean when either says so."""
        if not self.marks or not by.marks:
            return CLEAN
        if not by.fields and by.items is None:
            return self
        parts = {name: self.part(name).bounded(by.part(name)) for name in {*self.fields, *by.fields}}
        rest = self.whole | self.rest if by.whole | by.rest else NONE
        items = self.item().bounded(by.items) if by.items is not None else self.items
        return Taint(NONE, rest, parts, items)


CLEAN = Taint()


def union(*taints: Taint) -> Taint:
    """Of a value that is one of these."""
    found = [t for t in taints if t.marks]
    if not found:
        return CLEAN
    if len(found) == 1 and len(taints) == 1:
        return found[0]
    names = {name for t in found for name in t.fields}
    items = [t.items for t in found if t.items is not None]
    return Taint(
        frozenset().union(*(t.whole for t in found)),
        frozenset().union(*(t.rest for t in found)),
        {name: union(*(t.fields.get(name, Taint(t.rest)) for t in found)) for name in names},
        union(*items) if items else None,
    )


# By schema

_DEPTH = 12


def of_schema(
    schema: JsonSchema | None,
    mark: Callable[[Way], Marks],
    enum: Callable[[str], Marks] = lambda _: NONE,
    way: Way = (),
) -> Taint:
    """Of a value that fits a schema and may be anything there.

    `mark`: the marks of what stands at a path of it; `enum`: of the list that an expression gives.
    """
    if schema is None or len(way) > _DEPTH:
        return Taint(mark(way))
    return union(*(_of_branch(branch, mark, enum, way) for branch in branches(schema)))


def _of_branch(schema: JsonSchema, mark: Callable[[Way], Marks], enum: Callable[[str], Marks], way: Way) -> Taint:
    if "const" in schema or isinstance(schema.get("enum"), list):
        return CLEAN
    if isinstance(schema.get("enum"), str):
        return Taint(enum(schema["enum"]))
    found = kinds(schema)
    low = "minimum" in schema or "exclusiveMinimum" in schema
    high = "maximum" in schema or "exclusiveMaximum" in schema
    if "string" in found or (found & {"integer", "number"} and not (low and high)):
        return Taint(mark(way))
    parts: list[Taint] = []
    if "object" in found:
        parts.append(_of_object(schema, mark, enum, way))
    if "array" in found:
        given = [s for s in (*schema.get("prefixItems", ()), schema.get("items", DYN)) if s is not False]
        inner = [within(schema, s) if isinstance(s, Mapping) else DYN for s in given]
        parts.append(Taint(items=union(*(of_schema(s, mark, enum, (*way, "[]")) for s in inner))))
    return union(*parts) if parts else CLEAN


def _of_object(schema: JsonSchema, mark: Callable[[Way], Marks], enum: Callable[[str], Marks], way: Way) -> Taint:
    properties = schema.get("properties", {})
    parts = {
        name: of_schema(within(schema, inner) if isinstance(inner, Mapping) else DYN, mark, enum, (*way, name))
        for name, inner in properties.items()
    }
    open_ = schema.get("additionalProperties") is not False or "patternProperties" in schema
    return Taint(NONE, mark(way) if open_ else NONE, parts)


# In an expression

Env = Mapping[str, Taint]


class Flow:
    """What an expression yields over an environment. `shown`: paths that a person has seen and approved there."""

    def __init__(self, env: Env, shown: Iterable[Way] = ()) -> None:
        self.env = env
        self.shown = frozenset(shown)

    def of(self, tree: cel.Tree) -> Taint:
        return self._visit(tree.root, {})

    def first(self, tree: cel.Tree) -> tuple[Way, int, Marks] | None:
        """The first path in reading order that brings marks: (path, its column from 1, marks)."""
        found: list[tuple[int, Way, Marks]] = []
        self._reads(tree, tree.root, {}, found)
        return next(((way, column, marks) for column, way, marks in sorted(found, key=lambda f: f[0])), None)

    def _reads(self, tree: cel.Tree, node: Expr, bound: dict[str, Taint], found: list[tuple[int, Way, Marks]]) -> None:
        way = place(node)
        if way is not None and way[0] in self.env and way[0] not in bound:
            if marks := self._visit(node, bound).marks:
                found.append((tree.column(_root(node)), way, marks))
            return
        if node.WhichOneof("kind") == "comprehension":
            inner = node.comprehension
            within_ = {**bound, inner.iter_var: CLEAN, inner.iter_var2: CLEAN, inner.accu_var: CLEAN}
            self._reads(tree, inner.iter_range, bound, found)
            self._reads(tree, inner.loop_step, within_, found)
            return
        for child in cel.children(node):
            self._reads(tree, child, bound, found)

    def _visit(self, node: Expr, bound: dict[str, Taint]) -> Taint:
        way = place(node)
        if way is not None and way[0] not in bound and any(way[: len(seen)] == seen for seen in self.shown):
            return CLEAN
        match node.WhichOneof("kind"):
            case "ident":
                name = node.ident.name.removeprefix(".")
                return bound.get(name) or self.env.get(name, CLEAN)
            case "select":
                return self._visit(node.select.operand, bound).part(node.select.field)
            case "list":
                return Taint(items=union(CLEAN, *(self._visit(e, bound) for e in node.list.elements)))
            case "struct":
                return self._struct(node, bound)
            case "comprehension":
                return self._loop(node, bound)
            case "call":
                return self._call(node, bound)
        return CLEAN

    def _struct(self, node: Expr, bound: dict[str, Taint]) -> Taint:
        parts: dict[str, Taint] = {}
        rest = NONE
        for entry in node.struct.entries:
            value = self._visit(entry.value, bound)
            try:
                parts[str(cel.constant(entry.map_key))] = value
            except LookupError:
                rest |= value.marks | self._visit(entry.map_key, bound).marks
        return Taint(NONE, rest, parts)

    def _loop(self, node: Expr, bound: dict[str, Taint]) -> Taint:
        inner = node.comprehension
        over = self._visit(inner.iter_range, bound)
        item = over.item() if over.items is not None or not over.fields else Taint(over.marks)
        step = self._visit(
            inner.loop_step, {**bound, inner.iter_var: item, inner.iter_var2: item, inner.accu_var: CLEAN}
        )
        if cel.builds_list(node):
            return Taint(items=step.item().marked(over.whole | over.rest))
        return Taint(step.marks | over.whole | over.rest)

    def _call(self, node: Expr, bound: dict[str, Taint]) -> Taint:
        name, args = node.call.function, node.call.args
        if name == "_[_]":
            owner = self._visit(args[0], bound)
            try:
                key = cel.constant(args[1])
            except LookupError:
                key = None
            if isinstance(key, str):
                return owner.part(key)
            if isinstance(key, int) and not isinstance(key, bool):
                return owner.item() if not owner.fields else Taint(owner.marks)
            return Taint(owner.marks | self._visit(args[1], bound).marks)
        if name in ("_==_", "_!=_"):
            for one, other in ((args[0], args[1]), (args[1], args[0])):
                way = place(one)
                null = other.WhichOneof("kind") == "const" and cel.constant(other) is None
                if null and way and len(way) == 3 and way[0] == "steps" and way[2] == "output":
                    # Whether a step has completed, not what it said.
                    return self.env.get("steps", CLEAN).part(str(way[1])).part("state")
        if name == "_?_:_":
            chosen = union(CLEAN, self._visit(args[1], bound), self._visit(args[2], bound))
            return chosen.marked(self._visit(args[0], bound).marks)
        given = [self._visit(arg, bound) for arg in args]
        if node.call.HasField("target"):
            given.append(self._visit(node.call.target, bound))
        if name == "_+_":
            return union(CLEAN, *given)
        return Taint(frozenset().union(*(t.marks for t in given))) if given else CLEAN


def place(node: Expr) -> Way | None:
    """`steps.a.output[0]["b"].c` as a path; None when the node is anything else."""
    kind = node.WhichOneof("kind")
    if kind == "ident":
        return (node.ident.name.removeprefix("."),)
    if kind == "select":
        before = place(node.select.operand)
        return None if before is None else (*before, node.select.field)
    if kind == "call" and node.call.function == "_[_]" and len(node.call.args) == 2:
        before = place(node.call.args[0])
        try:
            key: Any = cel.constant(node.call.args[1])
        except LookupError:
            return None
        return (*before, key) if before is not None and isinstance(key, (str, int)) else None
    return None


def reads(node: Expr, bound: frozenset[str] = frozenset()) -> Iterator[Way]:
    """Every path that an expression reads from its variables, indexes of lists in it."""
    way = place(node)
    if way is not None:
        if way[0] not in bound:
            yield way
        return
    if node.WhichOneof("kind") == "comprehension":
        inner = node.comprehension
        yield from reads(inner.iter_range, bound)
        within_ = bound | {inner.iter_var, inner.iter_var2, inner.accu_var}
        for part in (inner.loop_condition, inner.loop_step, inner.result):
            yield from reads(part, within_)
        return
    for child in cel.children(node):
        yield from reads(child, bound)


def _root(node: Expr) -> Expr:
    while (first := next(cel.children(node), None)) is not None:
        node = first
    return node


def spelled(way: Way) -> str:
    """A path as it is written."""
    text = ""
    for part in way:
        text += part if part == "[]" else f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def way_of(text: str) -> Way:
    """A path of a validator, such as `output.places[].file`."""
    return tuple(p for p in text.replace("[", ".[").split(".") if p)
