"""Constant: expressions that read nothing, and so have the same value in every run."""

from __future__ import annotations

from typing import Any, Final

from agentmesh.core import cel
from agentmesh.core.expression import EvaluationError, ExpressionError, bare, evaluate

NOTHING: Final = object()
"""The value is known only when it runs."""


def constant_value(text: str) -> Any:
    """The value of an expression that is the same always; NOTHING when it is not, or there is none.

    `&&` and `||` are looked into: `false && x` is false whatever x is.
    """
    try:
        return _value(cel.parse(bare(text)[0]))
    except ExpressionError:
        return NOTHING


def _value(tree: cel.Tree) -> Any:
    if not cel.paths(tree):
        try:
            return evaluate(tree.text, {})
        except EvaluationError:
            return NOTHING
    return _condition(tree.root)


def _condition(node: cel.Expr) -> Any:
    """True or false where an operand alone decides."""
    if node.WhichOneof("kind") == "const":
        return cel.constant(node)
    if node.WhichOneof("kind") != "call":
        return NOTHING
    call = node.call
    if call.function in ("_&&_", "_||_"):
        parts = [_condition(arg) for arg in call.args]
        decides = call.function == "_||_"
        if any(part is decides for part in parts):
            return decides
        return (not decides) if all(part is (not decides) for part in parts) else NOTHING
    if call.function == "!_":
        value = _condition(call.args[0])
        return not value if isinstance(value, bool) else NOTHING
    return NOTHING
