"""The canonical form of a JSON value (RFC 8785), which is what the signature of an agent card is over.

Numbers are doubles, as the RFC has them: an integer that no double keeps exactly is written as the double that is next to it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from agentmesh.core.json_text import MAX_EXACT
from agentmesh.core.run import JSON
from agentmesh.errors import InvalidInput

DEPTH: Final = 128


def canonical(value: JSON) -> bytes:
    """UTF-8. InvalidInput for what has no such form: NaN, infinities, half surrogate pairs, nesting past DEPTH."""
    try:
        # Python's encoder escapes as the RFC does, and sorts as it does unless a name holds a character beyond 16 bits.
        text = _write(value, 1) if _needs_care(value) else _plain(value)
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("the JSON holds half of a surrogate pair, which has no canonical form") from None


def without_empty(value: Any) -> Any:
    """The value without its empty strings, arrays and objects, and nulls: what A2A signs of a card (1.0.1 section 8.4.1).

    Both of the protocol's own SDKs leave out every empty value, required or not; the form that they make is what others verify.
    None when nothing is left.
    """
    if isinstance(value, dict):
        return {name: left for name, one in value.items() if (left := without_empty(one)) is not None} or None
    if isinstance(value, list):
        return [left for one in value if (left := without_empty(one)) is not None] or None
    return None if value == "" else value


_plain = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def _needs_care(value: JSON) -> bool:
    """Whether Python's encoder would write something of it otherwise than the RFC has it."""
    level: list[Any] = [value]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                if not all(isinstance(name, str) and (name.isascii() or max(name) < "\ud800") for name in one):
                    return True
                below += one.values()
            elif isinstance(one, list):
                below += one
            elif isinstance(one, float):
                if one.is_integer() or not 1e-4 <= abs(one) < 1e16:
                    return True
            elif isinstance(one, int) and abs(one) > MAX_EXACT:
                return True
        if not below:
            return False
        level = below
    raise InvalidInput(f"the JSON is nested deeper than {DEPTH} levels")


def _write(value: Any, depth: int) -> str:
    if isinstance(value, (dict, list)) and depth > DEPTH:
        raise InvalidInput(f"the JSON is nested deeper than {DEPTH} levels")
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise InvalidInput("the names of an object are strings")
        members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be"))
        return "{" + ",".join(f"{_plain(name)}:{_write(one, depth + 1)}" for name, one in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_write(one, depth + 1) for one in value) + "]"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return _plain(value)
    if isinstance(value, (int, float)):
        return _number(value)
    raise InvalidInput(f"{type(value).__name__} has no form in JSON")


def _number(value: float) -> str:
    """As ECMAScript writes a number (ECMA-262 section 6.1.6.1.20), from Python's shortest digits, which are the same."""
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if number != number or number in (float("inf"), float("-inf")):  # noqa: PLR0124 # NaN is what does not equal itself
        raise InvalidInput(f"{number} has no form in JSON")
    if number == 0:
        return "0"
    sign = "-" if number < 0 else ""
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"
