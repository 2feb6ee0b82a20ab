"""CEL as the rest of the core sees it: parse to a tree, rewrite the tree so that it is safe to run, run it.

The only importer of `cel_expr_python` and `protobuf`. The parser and the evaluator are Google's, in C++; the tree is
its own `cel.expr.ParsedExpr`, whose fields are declared by hand below: the package ships no Python classes for it.
What is not CEL (templates, limits on values, types from JSON Schemas) stands in `expression.py` and `inference.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_strings
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from agentmesh.core import bounded
from agentmesh.core.bounded import MAX_ITEMS
from agentmesh.errors import CallerError

Expr = Any
"""A `cel.expr.Expr` message."""

MAX_TEXT = 4096
"""Characters of one expression."""
MAX_ROUNDS = 10_000
"""Rounds of all loops together, by the evaluator's own count: a loop in a loop cannot run away."""


class ExpressionError(CallerError):
    """The expression is wrong. `column` counts from 1 in the expression's text (0: all of it)."""

    code = "expression"

    def __init__(self, message: str, column: int = 0) -> None:
        super().__init__(message, column=column)
        self.column = column


# The tree

_MESSAGES: Mapping[str, Mapping[int, tuple[str, str]]] = {
    "Constant": {
        1: ("null_value", "int64"),
        2: ("bool_value", "bool"),
        3: ("int64_value", "int64"),
        4: ("uint64_value", "uint64"),
        5: ("double_value", "double"),
        6: ("string_value", "string"),
        7: ("bytes_value", "bytes"),
    },
    "Ident": {1: ("name", "string")},
    "Select": {1: ("operand", "Expr"), 2: ("field", "string"), 3: ("test_only", "bool")},
    "Call": {1: ("target", "Expr"), 2: ("function", "string"), 3: ("args", "[]Expr")},
    "List": {1: ("elements", "[]Expr"), 2: ("optional_indices", "[]int32")},
    "Entry": {
        1: ("id", "int64"),
        2: ("field_key", "string"),
        3: ("map_key", "Expr"),
        4: ("value", "Expr"),
        5: ("optional_entry", "bool"),
    },
    "Struct": {1: ("message_name", "string"), 2: ("entries", "[]Entry")},
    "Comprehension": {
        1: ("iter_var", "string"),
        2: ("iter_range", "Expr"),
        3: ("accu_var", "string"),
        4: ("accu_init", "Expr"),
        5: ("loop_condition", "Expr"),
        6: ("loop_step", "Expr"),
        7: ("result", "Expr"),
        8: ("iter_var2", "string"),
    },
    "Expr": {
        2: ("id", "int64"),
        3: ("const", "Constant"),
        4: ("ident", "Ident"),
        5: ("select", "Select"),
        6: ("call", "Call"),
        7: ("list", "List"),
        8: ("struct", "Struct"),
        9: ("comprehension", "Comprehension"),
    },
    "Position": {1: ("key", "int64"), 2: ("value", "int32")},
    "SourceInfo": {4: ("positions", "[]Position")},
    "Parsed": {2: ("expr", "Expr"), 3: ("source", "SourceInfo")},
    "Any": {1: ("type_url", "string"), 2: ("value", "bytes")},
}
_ONEOF = {"Expr": range(3, 10), "Constant": range(1, 8)}
_SCALARS = {"double": 1, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12}
_TYPE_URL = "type.googleapis.com/cel.expr.ParsedExpr"


@cache
def _classes() -> dict[str, Any]:
    """The message classes; fields not named here survive as unknown fields."""
    file = descriptor_pb2.FileDescriptorProto(name="agentmesh_cel.proto", package="agentmesh_cel", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name in _ONEOF:
            message.oneof_decl.add(name="kind")
        for number, (field, kind) in fields.items():
            repeated = kind.startswith("[]")
            kind = kind.removeprefix("[]")
            declared = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if kind in _SCALARS:
                declared.type = _SCALARS[kind]
            else:
                declared.type = 11
                declared.type_name = f".agentmesh_cel.{kind}"
            if number in _ONEOF.get(name, ()):
                declared.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    get = message_factory.GetMessageClass
    return {name: get(pool.FindMessageTypeByName(f"agentmesh_cel.{name}")) for name in _MESSAGES}


class Tree:
    """A parsed expression."""

    def __init__(self, text: str, parsed: Any) -> None:
        self.text = text
        self.parsed = parsed
        self.root: Expr = parsed.expr
        self._offsets: dict[int, int] = {p.key: p.value for p in parsed.source.positions}

    def column(self, node: Expr) -> int:
        """Column, from 1, of what the eye takes for the fault: the name behind a dot, the operator, the function."""
        at = self._offsets.get(node.id, 0)
        if node.WhichOneof("kind") == "select":
            while at < len(self.text) and not (self.text[at].isalnum() or self.text[at] in "_`"):
                at += 1
        elif node.WhichOneof("kind") == "call" and self.text[at : at + 1] == "(":
            at -= len(node.call.function)
        return max(at, 0) + 1


_ERROR_LINE = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_RESERVED = {"in", "true", "false", "null"}


def _faults(text: str, error: Exception) -> list[tuple[str, int]]:
    """(message, column in `text`) of each fault in the compiler's report."""
    lines = text.split("\n")
    found = []
    for match in _ERROR_LINE.finditer(str(error)):
        line, column = int(match[1]), int(match[2])
        found.append((match[3], sum(len(earlier) + 1 for earlier in lines[: line - 1]) + column))
    return found or [(str(error).split("\n")[0], 1)]


@lru_cache(maxsize=4096)
def parse(text: str) -> Tree:
    """The tree of an expression; ExpressionError with the place when it is not CEL. Trees are shared."""
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"an expression may have {MAX_TEXT} characters; this has {len(text)}", 1)
    if not text.strip():
        raise ExpressionError("the expression is empty", 1)
    try:
        data = _environment().compile(_spelled(text), disable_check=True).serialize()
    except RuntimeError as error:
        message, column = _faults(text, error)[0]
        raise ExpressionError(_syntax_message(text, message, column), column) from None
    except Exception as error:
        raise ExpressionError(f"not an expression: {error}", 1) from None
    try:
        wrapped = _classes()["Any"].FromString(data)
        parsed = _classes()["Parsed"].FromString(wrapped.value)
    except DecodeError:
        raise ExpressionError(_TOO_DEEP, 1) from None
    if "loop" in text:
        _restore(parsed.expr)
    return Tree(text, parsed)


_LOOP = re.compile(
    r"""(?P<kept>\"{3}[\s\S]*?\"{3}|'{3}[\s\S]*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?<![\w.`])loop(?![\w`])"""
)
_ALIAS = "l__p"
"""Stands for `loop` while Google's parser reads: it keeps that word for itself, and ours means the round of a loop step."""


def _spelled(text: str) -> str:
    """A text that the parser takes; every character stands where it stood."""
    return _LOOP.sub(lambda m: m["kept"] or _ALIAS, text) if "loop" in text else text


def _restore(node: Expr) -> None:
    if node.WhichOneof("kind") == "ident" and node.ident.name == _ALIAS:
        node.ident.name = "loop"
    elif node.WhichOneof("kind") == "comprehension" and node.comprehension.iter_var == _ALIAS:
        node.comprehension.iter_var = "loop"
    for child in children(node):
        _restore(child)


_TOO_DEEP = "the expression is nested too deeply: operators and calls within one another may be 32 deep"


def _syntax_message(text: str, message: str, column: int) -> str:
    """The parser's fault in plain words."""
    for name in _RESERVED:
        if re.match(rf"\.{name}\b", text[column - 2 :]):
            return f"'{name}' is a word of the language; write .`{name}` for a field of that name"
    if "recursion limit" in message or "recursion depth" in message:
        return _TOO_DEEP
    if "input '<EOF>'" in message:
        return "the expression ends too early"
    bad = re.search(r"(?:input|token recognition error at:) '(.*?)'(?: expecting|$)", message)
    return f"not an expression: did not expect {bad[1]!r}" if bad else message.removeprefix("Syntax error: ")


def check_calls(text: str, variables: frozenset[str]) -> list[tuple[str, int]]:
    """Faults that CEL's own checker finds with every variable dynamic: unknown functions, operators on wrong literals.

    Numbers that mix (`n > 1` where n is a double) are left out: at run time they compare and add as JSON numbers do.
    """
    try:
        named = frozenset(_ALIAS if v == "loop" else v for v in variables)
        _environment(named).compile(_spelled(text))
    except RuntimeError as error:
        return [fault for fault in _faults(text, error) if not _mixes_numbers(fault[0])]
    return []


def _mixes_numbers(message: str) -> bool:
    kinds = re.search(r"overload for '_(?:[-+*/%<>]|[<>=!]=)_' applied to '\((\w+), (\w+)\)'", message)
    return bool(kinds) and {kinds[1], kinds[2]} <= {"int", "double", "uint"}  # type: ignore[index]


def children(node: Expr) -> Iterator[Expr]:
    """The expressions directly inside one, in reading order."""
    kind = node.WhichOneof("kind")
    inner: Any = getattr(node, kind) if kind else None
    if kind == "select":
        yield inner.operand
    elif kind == "call":
        if inner.HasField("target"):
            yield inner.target
        yield from inner.args
    elif kind == "list":
        yield from inner.elements
    elif kind == "struct":
        for entry in inner.entries:
            if entry.HasField("map_key"):
                yield entry.map_key
            yield entry.value
    elif kind == "comprehension":
        yield from (inner.iter_range, inner.accu_init, inner.loop_condition, inner.loop_step, inner.result)


def constant(node: Expr) -> Any:
    """The value of a literal; raises LookupError when the node is not one."""
    if node.WhichOneof("kind") != "const":
        raise LookupError
    which = node.const.WhichOneof("kind")
    return None if which in ("null_value", None) else getattr(node.const, which)


def chain(node: Expr) -> tuple[str, ...] | None:
    """`a.b["c"]` as ("a", "b", "c"); None when the node is anything else."""
    kind = node.WhichOneof("kind")
    if kind == "ident":
        return (node.ident.name.removeprefix("."),)
    if kind == "select":
        before = chain(node.select.operand)
        return None if before is None else (*before, node.select.field)
    if kind == "call" and node.call.function == "_[_]" and len(node.call.args) == 2:
        before = chain(node.call.args[0])
        key = _literal(node.call.args[1])
        return (*before, key) if before is not None and isinstance(key, str) else None
    return None


def _literal(node: Expr) -> Any:
    try:
        return constant(node)
    except LookupError:
        return None


def paths(tree: Tree) -> frozenset[tuple[str, ...]]:
    """Every path that the expression reads from its variables."""
    found: set[tuple[str, ...]] = set()

    def visit(node: Expr, bound: frozenset[str]) -> None:
        path = chain(node)
        if path is not None:
            if path[0] not in bound:
                found.add(path)
            return
        if node.WhichOneof("kind") == "comprehension":
            inner = node.comprehension
            visit(inner.iter_range, bound)
            visit(inner.accu_init, bound)
            within = bound | {inner.iter_var, inner.iter_var2, inner.accu_var}
            for part in (inner.loop_condition, inner.loop_step, inner.result):
                visit(part, within)
            return
        for child in children(node):
            visit(child, bound)

    visit(tree.root, frozenset())
    return frozenset(found)


# Running


_ARITHMETIC: Mapping[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "_+_": ("json_add", bounded.add),
    "_-_": ("json_subtract", lambda a, b: a - b),
    "_*_": ("json_multiply", lambda a, b: a * b),
    "_/_": ("json_divide", bounded.divide),
}


_OWN: Mapping[str, str] = {"replace": "bounded_replace", "join": "bounded_join"}
"""Methods that could make much of little, and what runs in their place."""


def _functions() -> list[Any]:
    """Arithmetic on JSON numbers, where an int and a double may meet, and the guards around what a loop runs over."""
    t, declared = cel.Type, []
    for operator, (name, run) in _ARITHMETIC.items():
        pairs = [
            ("ii", t.INT, t.INT, t.INT),
            ("id", t.INT, t.DOUBLE, t.DOUBLE),
            ("di", t.DOUBLE, t.INT, t.DOUBLE),
            ("dd", t.DOUBLE, t.DOUBLE, t.DOUBLE),
        ]
        if operator == "_+_":
            pairs += [
                ("ss", t.STRING, t.STRING, t.STRING),
                ("ll", t.List(t.DYN), t.List(t.DYN), t.List(t.DYN)),
                ("tu", t.TIMESTAMP, t.DURATION, t.TIMESTAMP),
                ("uu", t.DURATION, t.DURATION, t.DURATION),
            ]
        if operator == "_-_":
            pairs += [
                ("tt", t.TIMESTAMP, t.TIMESTAMP, t.DURATION),
                ("tu", t.TIMESTAMP, t.DURATION, t.TIMESTAMP),
                ("uu", t.DURATION, t.DURATION, t.DURATION),
            ]
        declared.append(
            cel.FunctionDecl(
                name,
                [cel.Overload(id=f"{name}_{n}", parameters=[a, b], return_type=r, impl=run) for n, a, b, r in pairs],
            )
        )
    text, texts = t.STRING, t.List(t.DYN)
    kinds = (
        text,
        texts,
        t.Map(t.DYN, t.DYN),
        t.INT,
        t.UINT,
        t.DOUBLE,
        t.BOOL,
        t.NULL,
        t.TIMESTAMP,
        t.DURATION,
        t.BYTES,
    )
    own: list[tuple[str, list[tuple[list[Any], Any]], Callable[..., Any]]] = [
        ("too_many", [([t.INT], t.DYN)], bounded.too_many),
        (_GOING, [([], t.BOOL)], bounded.going),
        ("made_item", [([kind], kind) for kind in kinds], bounded.item),
        (_OWN["replace"], [([text, text, text], text), ([text, text, text, t.INT], text)], bounded.replace),
        (_OWN["join"], [([texts], text), ([texts, text], text)], bounded.join),
    ]
    for name, overloads, run in own:
        made = [
            cel.Overload(id=f"{name}_{n}", parameters=parameters, return_type=result, impl=run)
            for n, (parameters, result) in enumerate(overloads)
        ]
        declared.append(cel.FunctionDecl(name, made))
    return declared


@cache
def _runtime() -> Any:
    return cel.NewEnv(extensions=[ext_strings.ExtStrings()], functions=_functions())


@lru_cache(maxsize=256)
def _environment(variables: frozenset[str] = frozenset()) -> Any:
    """For parsing and checking; it does not know the functions that only the rewriter may use."""
    return cel.NewEnv(variables=dict.fromkeys(variables, cel.Type.DYN), extensions=[ext_strings.ExtStrings()])


def builds_list(node: Expr) -> bool:
    """Whether a comprehension is `map` or `filter`."""
    return bool(node.comprehension.accu_init.WhichOneof("kind") == "list")


def program(tree: Tree) -> Any:
    """A program to `run`: the tree with its arithmetic made JSON's and its loops bounded."""
    parsed = _classes()["Parsed"]()
    parsed.CopyFrom(tree.parsed)
    _rewrite(parsed.expr, own=False)
    wrapped = _classes()["Any"](type_url=_TYPE_URL, value=parsed.SerializeToString())
    return _runtime().deserialize(wrapped.SerializeToString())


def _rewrite(node: Expr, *, own: bool) -> None:
    """`own`: an addition to the accumulator is the macro's own, and stays as it is."""
    kind = node.WhichOneof("kind")
    for child in children(node):
        _rewrite(child, own=own or kind == "comprehension")
    if kind == "comprehension":
        if builds_list(node):
            _count_items(node.comprehension.loop_step, node.comprehension.iter_var)
            _bound(node.comprehension.iter_range)
        # An error does not end a loop by itself: each further round would copy what is too large already.
        both = [node.comprehension.loop_condition, _call(_GOING)]
        node.comprehension.loop_condition.CopyFrom(_call("_&&_", *both))
    if kind == "call" and node.call.function in _ARITHMETIC and not (own and _on_accumulator(node)):
        node.call.function = _ARITHMETIC[node.call.function][0]
    if kind == "call" and node.call.function in _OWN and node.call.HasField("target"):
        target = _classes()["Expr"]()
        target.CopyFrom(node.call.target)
        given = [target, *node.call.args]
        changed = _classes()["Call"](function=_OWN[node.call.function], args=given)
        node.call.CopyFrom(changed)


_GOING = "still_going"


def _call(function: str, *args: Expr) -> Expr:
    return _classes()["Expr"](call=_classes()["Call"](function=function, args=args))


def _bound(node: Expr) -> None:
    """`R` becomes `let b = R; size(b) <= MAX_ITEMS ? b : too_many(size(b))`, whose `let` is a loop over nothing."""
    new = _classes()["Expr"]
    held = new(ident=_classes()["Ident"](name="@b"))
    size = _call("size", held)
    most = new(const=_classes()["Constant"](int64_value=MAX_ITEMS))
    never = new(const=_classes()["Constant"](bool_value=False))
    let = _classes()["Comprehension"](
        iter_var="@none", iter_range=new(list=_classes()["List"]()), accu_var="@b", accu_init=node,
        loop_condition=never, loop_step=held, result=_call("_?_:_", _call("_<=_", size, most), held, _call("too_many", size)),
    )  # fmt: skip
    node.CopyFrom(new(id=node.id, comprehension=let))


def _count_items(node: Expr, item: str) -> None:
    """In the step of a `map`: what is added to the list is counted; the items of a `filter` are there already."""
    if node.WhichOneof("kind") != "call":
        return
    call = node.call
    if call.function == "_?_:_":
        _count_items(call.args[1], item)
    elif call.function == "_+_" and _on_accumulator(node) and len(call.args[1].list.elements) == 1:
        added = call.args[1].list.elements[0]
        if not (added.WhichOneof("kind") == "ident" and added.ident.name == item):
            inner = _classes()["Expr"]()
            inner.CopyFrom(added)
            added.CopyFrom(_call("made_item", inner))


def _on_accumulator(node: Expr) -> bool:
    return any(a.WhichOneof("kind") == "ident" and a.ident.name == "@result" for a in node.call.args)


def run(compiled: Any, data: Mapping[str, Any]) -> Any:
    """The plain value; ValueError when evaluation failed. The one place that calls `eval`, which does not raise.

    On a fault `eval` answers a value of type ERROR whose `plain_value()` is a string, and so true: it stays here.
    """
    bounded.begin()
    try:
        value = compiled.eval(data=data)
        if value.type() in (cel.Type.ERROR, cel.Type.UNKNOWN):
            raise ValueError(_plain_error(str(value.plain_value())))
        return value.plain_value()
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(_plain_error(str(error))) from None


@lru_cache(maxsize=1024)
def _matcher(pattern: str) -> Any:
    """A program over `text`; the pattern is compiled once, into RE2."""
    literal = json.dumps(pattern, ensure_ascii=False).replace("\\/", "/")
    return program(parse(f"text.matches({literal})"))


def matches(pattern: str, text: str) -> bool:
    """Whether a regular expression is found in a text, in time linear in both (RE2). ValueError when it is not one."""
    try:
        return run(_matcher(pattern), {"text": text}) is True
    except ExpressionError as error:
        raise ValueError(error.message) from None


def _plain_error(message: str) -> str:
    message = re.sub(r"^[A-Z_]+: ", "", message)
    if missing := re.match(r'Key not found in map : "(.*)"', message):
        return f"there is no {missing[1]!r}"
    if overload := re.match(r"No matching overloads? found : (.*)", message):
        call = overload[1].replace("int64", "int").replace("null_type", "null")
        for operator, (name, _) in _ARITHMETIC.items():
            call = call.replace(name, operator)
        if call.startswith(("<jump_condition>", "_&&_", "_||_", "!_")):
            return "a condition must be true or false"
        return f"wrong types: {call}"
    if "Iteration budget" in message:
        return f"the loops of one expression may take {MAX_ROUNDS:,} rounds together; use a python step"
    if "SELECT to non-message" in message:
        return "a field is asked of something that is not an object (null?)"
    return message
