"""What type an expression yields, by the JSON Schemas of what it reads: the reason why a typo is an error at load.

A type is a JSON Schema; {} means "known only at run time", and everything may be asked of it. CEL's own checker cannot
know these types, so it is asked only about functions and literals (`cel.check_calls`); paths, operators and conditions
are ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from agentmesh.core import cel
from agentmesh.core.cel import Expr, ExpressionError, Tree

JsonSchema = Mapping[str, Any]
Facts = frozenset[str]
"""Ids of steps that have completed wherever this is evaluated."""

MAY_SKIP = "x-may-skip"
"""Keyword on a step's type: its output is null when it did not complete; the value says why it may not."""

DYN: JsonSchema = {}
BOOL: JsonSchema = {"type": "boolean"}
INT: JsonSchema = {"type": "integer"}
NUMBER: JsonSchema = {"type": "number"}
STRING: JsonSchema = {"type": "string"}

_NO_ITEM: JsonSchema = {"x-no-item": True}
"""Items of a list that is still empty: adds nothing to a union."""
_KINDS = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_WORDS = {
    "null": "null",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "array": "a list",
    "object": "an object",
}


_MANY = 200
_LONGEST = 200


def closest(word: str, among: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing."""
    names = list(among)
    if len(names) > _MANY:  # comparing takes microseconds each, and there may be a fault for each name
        names = [n for n in names if n[:1] == word[:1] and abs(len(n) - len(word)) <= 2][:_MANY]
    match = difflib.get_close_matches(word[:_LONGEST], names, 1, 0.6)
    return f"; did you mean {match[0]!r}?" if match else ""


def type_of_value(value: Any) -> JsonSchema:
    """The type of a constant; `const` is kept so that a template's result can be compared with an enum."""
    kind = _kind_of(value)
    return {"type": kind, "const": value} if kind not in ("array", "object") else {"type": kind}


def _kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def kinds(schema: Any) -> frozenset[str]:
    """JSON types that a value of this schema may have; all of them when it does not say."""
    if schema is False:
        return frozenset()
    if not isinstance(schema, Mapping):
        return _KINDS
    schema = resolve(schema)
    found = _KINDS
    if "type" in schema:
        named = schema["type"]
        found = frozenset([named] if isinstance(named, str) else named)
        if "number" in found:
            found |= {"integer"}
    if isinstance(schema.get("enum"), list):
        found &= frozenset(_kind_of(v) for v in schema["enum"])
    if "const" in schema:
        found &= {_kind_of(schema["const"])}
    for union in ("anyOf", "oneOf"):
        if isinstance(schema.get(union), list):
            found &= frozenset().union(*(kinds(within(schema, part)) for part in schema[union]))
    for part in schema.get("allOf", ()):
        found &= kinds(within(schema, part))
    if found == _KINDS and any(k in schema for k in ("properties", "required", "patternProperties")):
        return frozenset({"object"})
    return found


def resolve(schema: JsonSchema) -> JsonSchema:
    """A schema with its own `$ref` into `$defs` followed; what cannot be followed is unknown."""
    for _ in range(32):
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        parts = reference.removeprefix("#/").split("/")
        if not reference.startswith("#/") or len(parts) != 2 or parts[0] not in ("$defs", "definitions"):
            return DYN
        target = schema.get(parts[0], {}).get(parts[1])
        if not isinstance(target, Mapping):
            return DYN
        schema = within(schema, target)
    return DYN


def within(parent: JsonSchema, child: Any) -> Any:
    """A part of a schema, still knowing the definitions of the whole."""
    if not isinstance(child, Mapping):
        return child
    kept = {k: parent[k] for k in ("$defs", "definitions") if k in parent and k not in child}
    return {**child, **kept} if kept else child


def union(types: Iterable[JsonSchema]) -> JsonSchema:
    """The type of a value that has one of these."""
    distinct: list[JsonSchema] = []
    empty = False
    for one in types:
        if one == _NO_ITEM:
            empty = True
            continue
        if not one:
            return DYN
        if one not in distinct:
            distinct.append(one)
    if not distinct:
        return _NO_ITEM if empty else DYN
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


def describe(schema: JsonSchema) -> str:
    found = kinds(schema) - ({"integer"} if "number" in kinds(schema) else set())
    return " or ".join(_WORDS[k] for k in _WORDS if k in found) or "nothing"


def branches(schema: JsonSchema) -> list[JsonSchema]:
    """The alternatives of a schema, each without `anyOf`, `oneOf` or `$ref` at its top."""
    schema = resolve(schema)
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            rest = {k: v for k, v in schema.items() if k != word}
            return [
                b
                for part in schema[word]
                if isinstance(part, Mapping)
                for b in branches({**rest, **within(schema, part)})
            ]
    if isinstance(schema.get("allOf"), list):
        merged: dict[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
        for part in schema["allOf"]:
            for inner in branches(within(schema, part))[:1] if isinstance(part, Mapping) else ():
                properties = {**merged.get("properties", {}), **inner.get("properties", {})}
                merged = {**inner, **merged, **({"properties": properties} if properties else {})}
        return [merged]
    return [schema]


def field(schema: JsonSchema, name: str) -> JsonSchema | None:
    """Type of an object's field; None when it cannot have one."""
    found: list[JsonSchema] = []
    for branch in branches(schema):
        if "object" not in kinds(branch):
            continue
        properties = branch.get("properties", {})
        more = branch.get("additionalProperties")
        if name in properties:
            inner = within(branch, properties[name])
            found.append(inner if isinstance(inner, Mapping) else DYN)
        elif (more is None and not properties) or "patternProperties" in branch or more is True:
            found.append(DYN)
        elif isinstance(more, Mapping):
            found.append(within(branch, more))
    return union(found) if found else None


def fields(schema: JsonSchema) -> list[str]:
    return [name for branch in branches(schema) for name in branch.get("properties", {})]


def items(schema: JsonSchema) -> JsonSchema:
    """Type of a list's items."""
    found = []
    for branch in branches(schema):
        if "array" in kinds(branch):
            inner = within(branch, branch.get("items", DYN))
            found.append(inner if isinstance(inner, Mapping) else DYN)
    return union(found) if found else DYN


def require_boolean(tree: Tree, result: JsonSchema) -> None:
    if "boolean" not in kinds(result):
        raise ExpressionError(f"must be true or false, this is {describe(result)}", tree.column(_leftmost(tree.root)))


def _leftmost(node: Expr) -> Expr:
    while (first := next(cel.children(node), None)) is not None and node.WhichOneof("kind") != "comprehension":
        node = first
    return node


# Conditions


def conditions(tree_or_text: Tree | str) -> tuple[Facts, Facts]:
    """Steps known to have completed (where the expression is true, where it is false)."""
    tree = cel.parse(tree_or_text) if isinstance(tree_or_text, str) else tree_or_text
    return _facts(tree.root)


def _facts(node: Expr) -> tuple[Facts, Facts]:
    none: Facts = frozenset()
    if node.WhichOneof("kind") != "call":
        return none, none
    call = node.call
    if call.function == "!_":
        yes, no = _facts(call.args[0])
        return no, yes
    if call.function in ("_&&_", "_||_"):
        (yes1, no1), (yes2, no2) = _facts(call.args[0]), _facts(call.args[1])
        return (yes1 | yes2, no1 & no2) if call.function == "_&&_" else (yes1 & yes2, no1 | no2)
    if call.function in ("_==_", "_!=_"):
        for one, other in ((call.args[0], call.args[1]), (call.args[1], call.args[0])):
            path = cel.chain(one)
            if path and len(path) == 3 and path[0] == "steps" and other.WhichOneof("kind") == "const":
                value = cel.constant(other)
                known = frozenset({path[1]})
                if path[2] == "state" and value == "completed":
                    return (known, none) if call.function == "_==_" else (none, known)
                if path[2] == "output" and value is None:
                    return (none, known) if call.function == "_==_" else (known, none)
    return none, none


# Inference

TEXT_FUNCTIONS: Mapping[str, tuple[tuple[str, ...], JsonSchema]] = {
    "startsWith": (("string",), BOOL),
    "endsWith": (("string",), BOOL),
    "contains": (("string",), BOOL),
    "matches": (("string",), BOOL),
    "lowerAscii": ((), STRING),
    "upperAscii": ((), STRING),
    "trim": ((), STRING),
    "reverse": ((), STRING),
    "charAt": (("integer",), STRING),
    "indexOf": (("string", "integer"), INT),
    "lastIndexOf": (("string", "integer"), INT),
    "substring": (("integer", "integer"), STRING),
    "replace": (("string", "string", "integer"), STRING),
    "split": (("string", "integer"), {"type": "array", "items": STRING}),
    "format": (("array",), STRING),
}
"""Methods of text: kinds of the arguments, and the result."""
_RESULTS: Mapping[str, JsonSchema] = {
    "size": INT,
    "int": INT,
    "uint": INT,
    "double": NUMBER,
    "string": STRING,
    "bool": BOOL,
    "join": STRING,
    "type": DYN,
    "dyn": DYN,
}
_NUMBERS = frozenset({"integer", "number"})


def infer(tree: Tree, types: Mapping[str, JsonSchema], facts: Facts = frozenset()) -> JsonSchema:
    """Type of an expression; ExpressionError at the first fault, in reading order."""
    return _Inference(tree, types).visit(tree.root, dict(types), facts)


class _Inference:
    def __init__(self, tree: Tree, types: Mapping[str, JsonSchema]) -> None:
        self.tree = tree
        self.types = types

    def fault(self, node: Expr, message: str) -> ExpressionError:
        return ExpressionError(message, self.tree.column(node))

    def visit(self, node: Expr, names: dict[str, JsonSchema], facts: Facts) -> JsonSchema:
        match node.WhichOneof("kind"):
            case "const":
                which = node.const.WhichOneof("kind")
                if which in ("bytes_value", None):
                    return DYN
                value = cel.constant(node)
                return {"type": "number"} if which == "double_value" else type_of_value(value)
            case "ident":
                return self.ident(node, names)
            case "select":
                return self.select(node, names, facts)
            case "list":
                return {"type": "array", "items": union(self.visit(e, names, facts) for e in node.list.elements)}
            case "struct":
                return self.struct(node, names, facts)
            case "comprehension":
                return self.loop(node, names, facts)
            case "call":
                return self.call(node, names, facts)
        return DYN

    def ident(self, node: Expr, names: dict[str, JsonSchema]) -> JsonSchema:
        name = node.ident.name
        if name in names:
            return names[name]
        known = [n for n in names if not n.startswith("@")]
        raise self.fault(node, f"unknown name {name!r}{closest(name, known) or '; here are ' + ', '.join(known)}")

    def select(self, node: Expr, names: dict[str, JsonSchema], facts: Facts) -> JsonSchema:
        operand, name = node.select.operand, node.select.field
        owner = self.visit(operand, names, facts)
        path = cel.chain(operand)
        if path and len(path) == 3 and path[0] == "steps" and path[2] == "output" and path[1] not in facts:
            step = field(names.get("steps", DYN), path[1]) or DYN
            if why := step.get(MAY_SKIP):
                raise self.fault(
                    node,
                    f'step {path[1]!r} {why} and then has no output; guard it: steps.{path[1]}.state == "completed"',
                )
        found = self.member(node, owner, name, path)
        if (
            name == "output"
            and path
            and len(path) == 2
            and path[0] == "steps"
            and MAY_SKIP in owner
            and path[1] not in facts
        ):
            return union([found, {"type": "null"}])
        return found

    def member(self, node: Expr, owner: JsonSchema, name: str, path: tuple[str, ...] | None) -> JsonSchema:
        where = ".".join(path) if path else "this"
        if "object" not in kinds(owner):
            raise self.fault(node, f"{where} is {describe(owner)}, it has no {name!r}")
        found = field(owner, name)
        if found is None:
            known = fields(owner)
            if path == ("steps",):
                before = f"; before this stand {', '.join(known[:8])}" if known else "; no step stands before this"
                raise self.fault(node, f"unknown step {name!r}{closest(name, known) or before}")
            shown = f"; it has {', '.join(known[:8])}" if known else ""
            raise self.fault(node, f"{where} has no {name!r}{closest(name, known) or shown}")
        return BOOL if node.WhichOneof("kind") == "select" and node.select.test_only else found

    def struct(self, node: Expr, names: dict[str, JsonSchema], facts: Facts) -> JsonSchema:
        properties: dict[str, JsonSchema] = {}
        known = True
        for entry in node.struct.entries:
            value = self.visit(entry.value, names, facts)
            try:
                key = cel.constant(entry.map_key)
            except LookupError:
                self.visit(entry.map_key, names, facts)
                key = None
            if isinstance(key, str):
                properties[key] = value
            else:
                known = False
        if not known:
            return {"type": "object"}
        return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}

    def loop(self, node: Expr, names: dict[str, JsonSchema], facts: Facts) -> JsonSchema:
        loop = node.comprehension
        over = self.visit(loop.iter_range, names, facts)
        if not kinds(over) & {"array", "object"}:
            raise self.fault(_leftmost(loop.iter_range), f"cannot loop over {describe(over)}")
        item = items(over) if "object" not in kinds(over) else STRING if kinds(over) == {"object"} else DYN
        inner = {**names, loop.iter_var: item}
        if loop.iter_var2:
            inner[loop.iter_var2] = DYN
        started = (
            {"type": "array", "items": _NO_ITEM} if cel.builds_list(node) else self.visit(loop.accu_init, names, facts)
        )
        inner[loop.accu_var] = {k: v for k, v in started.items() if k != "const"}
        step = self.visit(loop.loop_step, inner, facts)
        if cel.builds_list(node):
            return {"type": "array", "items": union(items(branch) for branch in branches(step))}
        return self.visit(loop.result, inner, facts)

    def call(self, node: Expr, names: dict[str, JsonSchema], facts: Facts) -> JsonSchema:
        name, args = node.call.function, node.call.args
        if name in ("_&&_", "_||_"):
            yes, no = _facts(args[0])
            left = self.visit(args[0], names, facts)
            right = self.visit(args[1], names, facts | (yes if name == "_&&_" else no))
            for arg, found in ((args[0], left), (args[1], right)):
                self.need(arg, found, {"boolean"}, "a condition must be true or false")
            return BOOL
        if name == "_?_:_":
            yes, no = _facts(args[0])
            self.need(args[0], self.visit(args[0], names, facts), {"boolean"}, "a condition must be true or false")
            return union([self.visit(args[1], names, facts | yes), self.visit(args[2], names, facts | no)])
        target = self.visit(node.call.target, names, facts) if node.call.HasField("target") else None
        given = [self.visit(arg, names, facts) for arg in args]
        if target is not None:
            return self.method(node, name, target, given)
        if name == "_[_]":
            return self.index(node, given[0], given[1])
        if name in _OPERATORS:
            return self.operator(node, name, given)
        if name == "size" and given:
            self.need(args[0], given[0], {"string", "array", "object"}, "size() is of text, lists and objects")
        return _RESULTS.get(name, DYN)

    def need(self, node: Expr, found: JsonSchema, wanted: set[str], message: str) -> None:
        if not kinds(found) & wanted:
            raise self.fault(_leftmost(node), f"{message}, this is {describe(found)}")

    def index(self, node: Expr, owner: JsonSchema, key: JsonSchema) -> JsonSchema:
        if not kinds(owner) & {"array", "object"}:
            raise self.fault(node, f"cannot take an item of {describe(owner)}")
        if "const" in key and isinstance(key["const"], str) and "array" not in kinds(owner):
            return self.member(node, owner, key["const"], cel.chain(node.call.args[0]))
        if kinds(owner) == {"array"}:
            self.need(node.call.args[1], key, {"integer", "number"}, "an index is a whole number")
        return items(owner) if "object" not in kinds(owner) else DYN

    def method(self, node: Expr, name: str, target: JsonSchema, found: list[JsonSchema]) -> JsonSchema:
        if name in TEXT_FUNCTIONS:
            arguments, result = TEXT_FUNCTIONS[name]
            if "string" not in kinds(target):
                raise self.fault(node, f"{name}() is of text, this is {describe(target)}")
            for argument, got, wanted in zip(node.call.args, found, arguments, strict=False):
                self.need(argument, got, {wanted}, f"{name}() takes {_WORDS[wanted]} here")
            return result
        if name == "join" and "array" not in kinds(target):
            raise self.fault(node, f"join() is of lists, this is {describe(target)}")
        if name == "size" and not kinds(target) & {"string", "array", "object"}:
            raise self.fault(node, f"size() is of text, lists and objects, this is {describe(target)}")
        return _RESULTS.get(name, DYN)

    def operator(self, node: Expr, name: str, found: list[JsonSchema]) -> JsonSchema:
        sign = name.strip("_")
        if name == "!_":
            self.need(node.call.args[0], found[0], {"boolean"}, "'!' is of true or false")
            return BOOL
        if name == "-_":
            self.need(node.call.args[0], found[0], set(_NUMBERS), "'-' is of numbers")
            return found[0] if "const" not in found[0] else {"type": found[0]["type"]}
        left, right = (kinds(f) for f in found)
        if name == "@in":
            if not right & {"array", "object"}:
                raise self.fault(node, f"'in' looks in a list or an object, this is {describe(found[1])}")
            if right == {"array"} and not _comparable(left, kinds(items(found[1]))):
                raise self.fault(node, f"never true: {describe(found[0])} in a list of {describe(items(found[1]))}")
            return BOOL
        if name in ("_==_", "_!=_"):
            if not _comparable(left, right):
                raise self.fault(node, f"{describe(found[0])} never equals {describe(found[1])}")
            self.options(node, found)
            return BOOL
        plain = frozenset({"string"}) if name in ("_<_", "_<=_", "_>_", "_>=_", "_+_") else frozenset()
        lists = frozenset({"array"}) if name == "_+_" else frozenset()
        numeric = left & _NUMBERS and right & _NUMBERS
        if not (numeric or left & right & (plain | lists)):
            raise self.fault(node, f"'{sign}' does not work on {describe(found[0])} and {describe(found[1])}")
        if name in ("_<_", "_<=_", "_>_", "_>=_"):
            return BOOL
        if _KINDS in (left, right):
            return {"type": ["number", "string", "array"]} if name == "_+_" else NUMBER
        if numeric:
            return INT if left | right == {"integer"} else NUMBER
        return STRING if left & right & plain else {"type": "array", "items": union([items(f) for f in found])}

    def options(self, node: Expr, found: list[JsonSchema]) -> None:
        """`queue == "bil"` where the schema has an enum without it is a typo, not a condition."""
        for one, other in ((found[0], found[1]), (found[1], found[0])):
            allowed = resolve(one).get("enum")
            if isinstance(allowed, list) and "const" in other and "const" not in one and other["const"] not in allowed:
                value = other["const"]
                hint = closest(value, [a for a in allowed if isinstance(a, str)]) if isinstance(value, str) else ""
                shown = hint or "; it is one of " + ", ".join(map(str, allowed[:8]))
                raise self.fault(node, f"never {value!r}{shown}")


_OPERATORS = frozenset(
    {"!_", "-_", "_+_", "_-_", "_*_", "_/_", "_%_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in"}
)


def _comparable(left: frozenset[str], right: frozenset[str]) -> bool:
    return bool(left & right) or bool(left & _NUMBERS and right & _NUMBERS)
