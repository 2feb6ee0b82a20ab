"""Expressions of project files: CEL in `${{ }}`, and bare in `if`, `when`, `ensure`, `over`.

Checked when a file is loaded (`check_expression`, `check_template`), evaluated over plain JSON at run time (`evaluate`,
`render`).
An error while evaluating is raised as EvaluationError; it is never a value, and so never taken for true.

A path (`input.log`, `steps.cut.output.places[0].file`) is looked up without CEL and its value may be of any size. What
is computed is plain JSON of at most 256 kB. CEL is handed only what the expression names; in that, a NUL and a lone
surrogate, which the evaluator would cut a string at or refuse, are U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from agentmesh.core import cel
from agentmesh.core.cel import ExpressionError
from agentmesh.core.inference import Facts, JsonSchema, conditions, infer, require_boolean, type_of_value
from agentmesh.errors import StepError

__all__ = [
    "MAX_COMPUTED", "EvaluationError", "ExpressionError", "JsonSchema", "bare", "check_expression", "check_template",
    "conditions", "evaluate", "evaluate_bool", "names", "render", "segments",
]  # fmt: skip

JSON = Any
MAX_READ = 100_000
"""Values that one computed expression may read, a hundred characters of text counting as one."""
MAX_COMPUTED = 256 * 1024
"""Characters of JSON, roughly, that one expression or one filled text may yield."""


class EvaluationError(StepError):
    """An expression could not be evaluated."""

    code = "expression"


# Text with ${{ }}


@lru_cache(maxsize=4096)
def segments(text: str) -> tuple[str | tuple[str, int], ...]:
    """A template in pieces: plain text as str, expressions as (expression, its offset in `text`).

    The end of an expression is the first `}}` outside its own strings and braces. ExpressionError when there is none.
    """
    pieces: list[str | tuple[str, int]] = []
    at = 0
    while (start := text.find("${{", at)) >= 0:
        if start > at:
            pieces.append(text[at:start])
        end = _end_of_expression(text, start + 3)
        inner = text[start + 3 : end]
        lead = len(inner) - len(inner.lstrip())
        pieces.append((inner.strip(), start + 3 + lead))
        at = end + 2
    if at < len(text):
        pieces.append(text[at:])
    return tuple(pieces)


def _end_of_expression(text: str, at: int) -> int:
    start, depth, quote = at, 0, ""
    while at < len(text):
        char = text[at]
        if quote:
            if char == "\\":
                at += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char == "{":
            depth += 1
        elif char == "}":
            if depth == 0 and text.startswith("}}", at):
                return at
            depth = max(depth - 1, 0)
        at += 1
    raise ExpressionError("'${{' has no '}}'", start - 2)


def bare(text: str) -> tuple[str, int]:
    """The expression of `if`, `when`, `ensure`, `over`, with or without `${{ }}`, and its offset in `text`."""
    if "${{" not in text:
        lead = len(text) - len(text.lstrip())
        return text.strip(), lead
    match segments(text.strip()):
        case ((expression, offset),):
            return expression, offset + len(text) - len(text.lstrip())
    raise ExpressionError("text around an expression: write the expression alone, without ${{ }}", 1)


# At load


def check_expression(
    text: str, types: Mapping[str, JsonSchema], *, boolean: bool = False, facts: Facts = frozenset()
) -> JsonSchema:
    """Type of the result as a JSON Schema ({}: known only at run time). ExpressionError at the first fault.

    `types`: what each name is; an object's schema with `properties` is closed unless it says `additionalProperties`.
    `facts`: ids of steps that are known to have completed, so that their output needs no guard.
    """
    expression, offset = bare(text)
    try:
        tree = cel.parse(expression)
        result = infer(tree, types, facts)
        for message, column in cel.check_calls(expression, frozenset(types)):
            raise ExpressionError(_plain_check(message), column)
        if boolean:
            require_boolean(tree, result)
    except ExpressionError as error:
        raise ExpressionError(error.message, error.column + offset if error.column else 0) from None
    return result


def _plain_check(message: str) -> str:
    if unknown := re.match(r"undeclared reference to '([^']*)'", message):
        return f"there is no function {unknown[1]!r}"
    if overload := re.match(r"found no matching overload for '([^']*)' applied to '(.*)'", message):
        return f"{overload[1].strip('_')!r} does not work on {overload[2]}"
    return message


def check_template(value: JSON, types: Mapping[str, JsonSchema], *, facts: Facts = frozenset()) -> JsonSchema:
    """Type of what `render` will make of a JSON value; ExpressionError at the first fault in any of its strings."""
    if isinstance(value, str):
        match segments(value):
            case ((expression, offset),):
                try:
                    return check_expression(expression, types, facts=facts)
                except ExpressionError as error:
                    raise ExpressionError(error.message, error.column + offset if error.column else 0) from None
            case pieces:
                for piece in pieces:
                    if isinstance(piece, tuple):
                        try:
                            check_expression(piece[0], types, facts=facts)
                        except ExpressionError as error:
                            raise ExpressionError(
                                error.message, error.column + piece[1] if error.column else 0
                            ) from None
                return {"type": "string"} if any(isinstance(p, tuple) for p in pieces) else type_of_value(value)
    if isinstance(value, dict):
        properties = {k: check_template(v, types, facts=facts) for k, v in value.items()}
        return {"type": "object", "properties": properties, "required": list(value), "additionalProperties": False}
    if isinstance(value, list):
        items = [check_template(v, types, facts=facts) for v in value]
        return {"type": "array", "items": {"anyOf": items} if items else {}}
    return type_of_value(value)


@lru_cache(maxsize=4096)
def names(text: str) -> frozenset[str]:
    """Dotted paths that an expression or a template reads: {"steps.cut.output.places", "input.log"}."""
    if "${{" in text:
        expressions = [piece[0] for piece in segments(text) if isinstance(piece, tuple)]
    else:
        expressions = [bare(text)[0]]
    return frozenset(".".join(path) for e in expressions for path in cel.paths(cel.parse(e)))


# At run time


class _Compiled:
    """An expression ready to evaluate: a path, or a program with what it reads."""

    __slots__ = ("path", "program", "reads")

    def __init__(self, text: str) -> None:
        tree = cel.parse(bare(text)[0])
        self.path = _pure_path(tree.root)
        self.reads = _tree_of(cel.paths(tree))
        self.program = None if self.path else cel.program(tree)


_compiled = lru_cache(maxsize=4096)(_Compiled)


def _pure_path(node: cel.Expr) -> tuple[str | int, ...] | None:
    """A root name followed by fields and literal indexes only."""
    kind = node.WhichOneof("kind")
    if kind == "ident":
        return (node.ident.name.removeprefix("."),)
    if kind == "select" and not node.select.test_only:
        before = _pure_path(node.select.operand)
        return before and (*before, node.select.field)
    if kind == "call" and node.call.function == "_[_]":
        before = _pure_path(node.call.args[0])
        try:
            key = cel.constant(node.call.args[1])
        except LookupError:
            return None
        return (*before, key) if before and isinstance(key, (str, int)) and not isinstance(key, bool) else None
    return None


Reads = dict[str, Any]
"""A tree of names; an empty branch means the whole value."""


def _tree_of(paths: frozenset[tuple[str, ...]]) -> Reads:
    root: Reads = {}
    for path in sorted(paths, key=len):
        node = root
        for i, name in enumerate(path):
            if name in node and not node[name]:
                break
            node = node.setdefault(name, {})
            if i == len(path) - 1:
                node.clear()
    return root


def evaluate(text: str, scope: Mapping[str, JSON]) -> JSON:
    """The value of an expression over `scope`; EvaluationError when there is none."""
    try:
        compiled = _compiled(text)
        if compiled.path:
            return _look_up(compiled.path, scope)
        reading = _Reading()
        data = {name: reading.pick(scope[name], below) for name, below in compiled.reads.items() if name in scope}
        return _plain(cel.run(compiled.program, data))
    except (ValueError, ExpressionError) as error:
        raise EvaluationError(f"{_shorten(text)}: {error}") from None


def evaluate_bool(text: str, scope: Mapping[str, JSON]) -> bool:
    """Like `evaluate`; what is neither true nor false is an EvaluationError."""
    value = evaluate(text, scope)
    if value is True or value is False:
        return value
    raise EvaluationError(f"{_shorten(text)}: must be true or false, this is {_kind(value)}")


def render(value: JSON, scope: Mapping[str, JSON]) -> JSON:
    """A JSON value with every `${{ }}` filled in once: alone it keeps its type, within text it becomes text."""
    if isinstance(value, str):
        if "${{" not in value:
            return value
        try:
            pieces = segments(value)
        except ExpressionError as error:
            raise EvaluationError(f"{_shorten(value)}: {error}") from None
        match pieces:
            case ((expression, _),):
                return evaluate(expression, scope)
        texts = [piece if isinstance(piece, str) else _text(evaluate(piece[0], scope)) for piece in pieces]
        if None in texts or sum(len(text or "") for text in texts) > MAX_COMPUTED:
            raise EvaluationError(f"{_shorten(value)}: the filled text is over 256 kB; cut it in a python step")
        return "".join(text or "" for text in texts)
    if isinstance(value, dict):
        return {k: render(v, scope) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [render(v, scope) for v in value]
    return value


def _text(value: JSON) -> str | None:
    """A value as text; None when that would be too much, without writing it first."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if _small(value) else None


def _small(value: JSON) -> bool:
    """Whether a value as JSON may fit into a computed text; stops looking once it cannot."""
    left, waiting = MAX_COMPUTED, [value]
    while waiting:
        one = waiting.pop()
        left -= len(one) + 2 if isinstance(one, (str, list, dict)) else 1
        if left < 0:
            return False
        if isinstance(one, dict):
            waiting += one
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            waiting += one
    return True


def _look_up(path: tuple[str | int, ...], scope: Mapping[str, JSON]) -> JSON:
    value: Any = scope
    for i, key in enumerate(path):
        if isinstance(key, str) and (type(value) is dict or isinstance(value, Mapping)) and key in value:
            value = value[key]
            continue
        if isinstance(key, int) and isinstance(value, list) and 0 <= key < len(value):
            value = value[key]
            continue
        shown = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in path[:i]).lstrip(".")
        if isinstance(key, int) and isinstance(value, list):
            raise ValueError(  # noqa: TRY004 - the caller's ValueError, like CEL's own
                f"{shown} has only {len(value)} items, there is no [{key}]"
            )
        raise ValueError(f"{shown} is {_kind(value)}, it has no {key!r}" if shown else f"there is no {key!r}")
    return value


_UNFIT = re.compile("[\x00\ud800-\udfff]")
_PER_VALUE = 100
"""Characters of text that are copied in the time that one value of a list takes."""


class _Reading:
    """What one evaluation reads, made fit for CEL, which copies it: past MAX_READ it is refused and not copied."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_READ

    def pick(self, value: JSON, reads: Reads) -> JSON:
        """The parts of a value that are read."""
        if reads and isinstance(value, Mapping):
            return {name: self.pick(value[name], below) for name, below in reads.items() if name in value}
        return self.fit(value)

    def fit(self, value: JSON) -> JSON:
        """The same value when CEL can take it as it is, else a copy that it can."""
        self.left -= 1 + len(value) // _PER_VALUE if isinstance(value, str) else 1
        if self.left < 0:
            raise ValueError(
                f"it reads more than {MAX_READ:,} values or {MAX_READ * _PER_VALUE:,} characters; use a python step"
            )
        if isinstance(value, str):
            if value.isascii():
                return value.replace("\x00", "\ufffd") if "\x00" in value else value
            return _UNFIT.sub("\ufffd", value)
        if isinstance(value, list):
            return [self.fit(v) for v in value]
        if isinstance(value, Mapping):
            return {self.fit(k): self.fit(v) for k, v in value.items()}
        return value


def _plain(value: Any) -> JSON:
    """CEL's value as JSON; ValueError for what has no place in JSON and for what is too large."""
    left = MAX_COMPUTED

    def convert(v: Any) -> JSON:
        nonlocal left
        left -= len(v) + 2 if isinstance(v, str) else 4
        if left < 0:
            raise ValueError("the value is over 256 kB; compute it in a python step")
        if v is None or isinstance(v, (str, bool, int)):
            return v
        if isinstance(v, float):
            if math.isfinite(v):
                return v
            raise ValueError(f"the result is {v}, which is not a JSON number")
        if isinstance(v, list):
            return [convert(item) for item in v]
        if isinstance(v, dict):
            if bad := next((k for k in v if not isinstance(k, str)), None):
                raise ValueError(f"the key {bad!r} of an object is not text")
            return {convert(k): convert(item) for k, item in v.items()}
        if isinstance(v, datetime):
            return v.isoformat().replace("+00:00", "Z")
        raise ValueError(f"the result is a {type(v).__name__}, which is not JSON; convert it with string()")

    return convert(value)


def _kind(value: JSON) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "an object"


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
