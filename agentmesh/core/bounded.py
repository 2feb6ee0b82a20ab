"""Bounded: what expressions do with values, in place of the evaluator's own: JSON's arithmetic, and no more made than MAX_MADE.

A caller's few megabytes could become any number: a separator between the items of a list, a replacement for each blank of a
text, a sum in a loop. What is about to be made is counted before it is.
"""

from __future__ import annotations

import math
import threading
from typing import Any

MAX_ITEMS = 1000
"""`map` and `filter` are quadratic in the evaluator: 1,000 items take 31 ms, 8,000 take 1.6 s, with the GIL held."""
MAX_MADE = 4_000_000
"""Characters and items that one evaluation may make on its way to its result."""


class _Made(threading.local):
    """Characters and items that the expression now evaluated may still make."""

    left = 0


_left = _Made()


def begin() -> None:
    """Before each evaluation, in its thread."""
    _left.left = MAX_MADE


def going() -> bool:
    """Whether anything may still be made."""
    return _left.left >= 0


def make(size: int) -> None:
    """Counts what an expression is about to make, before it does: a caller's few megabytes could become any number."""
    _left.left -= size
    if _left.left < 0:
        raise ValueError(f"the expression makes more than {MAX_MADE:,} characters on its way; use a python step")


def size_of(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return len(value) + sum(map(size_of, value))
    if isinstance(value, dict):
        return len(value) + sum(size_of(k) + size_of(v) for k, v in value.items())
    return 1


def item(value: Any) -> Any:
    make(size_of(value))
    return value


def too_many(count: int) -> Any:
    raise ValueError(f"{count:,} items are too many for map or filter ({MAX_ITEMS:,}); use a python step")


def add(a: Any, b: Any) -> Any:
    if isinstance(a, (str, list)):
        make(len(a) + len(b))
    return a + b


def replace(text: str, old: str, new: str, most: int = -1) -> str:
    times = len(text) + 1 if not old else text.count(old)
    if most >= 0:
        times = min(times, most)
    make(len(text) + times * max(len(new) - len(old), 0))
    return text.replace(old, new, most)


def join(items: list[Any], between: str = "") -> str:
    if not all(isinstance(item, str) for item in items):
        raise ValueError("join() is of lists of text; map(x, string(x)) makes text of each item")
    make(sum(map(len, items)) + len(items) * len(between))
    return between.join(items)


def divide(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            raise ValueError("division by zero")
        return abs(a) // abs(b) * (1 if (a >= 0) == (b >= 0) else -1)
    return math.copysign(math.inf, a) if b == 0 else a / b
