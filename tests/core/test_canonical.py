"""The canonical form of JSON, by the vectors of RFC 8785 and against the form that the A2A SDK makes."""

from __future__ import annotations

import json
import math
import random
import struct
from typing import Any

import pytest
from a2a.utils._jcs import canonicalize

from agentmesh.core.canonical import DEPTH, canonical, without_empty
from agentmesh.errors import InvalidInput

NUMBERS = [  # RFC 8785, appendix B
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_numbers_are_written_as_ecmascript_does(bits: str, text: str) -> None:
    """Appendix B of the RFC."""
    [number] = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical([number]) == f"[{text}]".encode()


def test_the_sample_of_the_rfc() -> None:
    """Section 3.2.2: escapes, numbers and order."""
    source = r"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    wanted = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(json.loads(source)) == wanted.encode()


def test_names_are_sorted_by_their_utf16_units() -> None:
    """Section 3.2.3: a character beyond 16 bits comes before those from U+E000 on."""
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    found = json.loads(canonical(dict.fromkeys(names)), object_pairs_hook=lambda pairs: [name for name, _ in pairs])
    assert found == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], "\ud800", {"\udc00": 1}, {1: 2}, {"a": object()}])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    """Among it what Python's own encoder would write."""
    with pytest.raises((InvalidInput, TypeError)):
        canonical(value)


def test_depth_is_bounded() -> None:
    """One level less is written."""
    deep: Any = 1.5
    for _ in range(DEPTH):
        deep = [deep]
    canonical(deep)
    with pytest.raises(InvalidInput, match="deeper"):
        canonical([deep])


def test_an_integer_beyond_doubles_is_the_double_next_to_it() -> None:
    """As every reader that has doubles alone would write it."""
    assert canonical(2**63 - 1) == b"9223372036854776000"
    assert canonical(2**53 - 1) == b"9007199254740991"
    assert canonical(10**22) == b"1e+22"


def test_it_is_the_form_that_the_sdk_makes() -> None:
    """For values of every kind, empty ones among them."""
    rng = random.Random(5)

    def value(depth: int) -> Any:
        kind = rng.randrange(9 if depth else 6)
        if kind == 0:
            return rng.choice([None, True, False, "", 0])
        if kind == 1:
            return rng.randint(-(2**53) + 1, 2**53 - 1)
        if kind == 2:
            return struct.unpack(">d", struct.pack(">Q", rng.randrange(0x7FF0 << 48)))[0]
        if kind in (3, 4, 5):
            return "".join(rng.choice('aZ"\\\n\x01\x7fé€\ufb33\U0001f600') for _ in range(rng.randrange(4)))
        if kind == 6:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        return {f"{rng.choice('aé€ﬀ😀')}{n}": value(depth - 1) for n in range(rng.randrange(4))}

    for _ in range(500):
        one = value(4)
        assert canonical(one).decode() == canonicalize(one)


def test_what_is_empty_is_left_out_and_what_is_false_stays() -> None:
    """Recursively; nothing at all is None."""
    card = {"a": "", "b": [], "c": {"d": {"e": ""}}, "f": False, "g": 0, "h": [[], "", "x"], "i": None}
    assert without_empty(card) == {"f": False, "g": 0, "h": ["x"]}
    assert without_empty({"a": [{}]}) is None
