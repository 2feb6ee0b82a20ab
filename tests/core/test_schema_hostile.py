"""Schemas of others, applied to what callers send: neither a long value nor a winding schema takes time or memory from the others."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest

from agentmesh.core.schema import validator

LONG = "a" * 1_000_000
BRANCHES = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}, {"$ref": f"#/$defs/a{i + 1}"}]} for i in range(40)}
DOUBLING: dict[str, Any] = {"$ref": "#/$defs/a0", "$defs": {**BRANCHES, "a40": {"type": "integer"}}}
WIDE = {"anyOf": [{"type": "integer"}] * 2000}


@pytest.mark.parametrize("schema", [DOUBLING, WIDE])
@pytest.mark.parametrize("value", [LONG, [LONG], {"a": LONG}])
def test_what_does_not_fit_is_not_told_over_and_over(schema: Any, value: Any) -> None:
    """Each branch of an `anyOf` has an error of its own, which once held the whole value."""
    tracemalloc.start()
    fault = next(validator(schema).iter_errors(value), None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert fault is not None
    assert len(fault.message) < 1000
    assert peak < 150_000_000


def test_many_values_buy_no_endless_time() -> None:
    """However many there are, the references followed for them have an end."""
    began = time.process_time()
    fault = next(validator({"items": DOUBLING, "$defs": DOUBLING["$defs"]}).iter_errors([0.5] * 90_000), None)
    assert fault is not None
    assert "too long" in fault.message
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/x", "$defs": {"x": {"allOf": [{"$ref": "#/$defs/y"}]}, "y": {"anyOf": [{"$ref": "#/$defs/x"}]}}},
    ],
)  # fmt: skip
def test_a_schema_that_never_ends_is_told_as_one(schema: Any) -> None:
    """A reference to itself with nothing in between is no crash."""
    fault = next(validator(schema).iter_errors({"a": 1}), None)
    assert fault is not None
    assert "refers to itself" in fault.message


@pytest.mark.parametrize(
    ("schema", "value", "fits"),
    [
        ({"maxLength": 999_999}, LONG, False),
        ({"const": LONG}, LONG, True),
        ({"enum": [LONG, 1]}, LONG, True),
        ({"pattern": "^a+$"}, LONG, True),
        ({"properties": {"a": {"const": {"b": [LONG]}}}}, {"a": {"b": [LONG]}}, True),
        ({"uniqueItems": True}, [LONG, LONG], False),
        ({"uniqueItems": True}, list(range(1000)), True),
        ({"maxProperties": 999}, {str(i): i for i in range(1000)}, False),
        ({"type": "array", "items": {"type": "object"}}, [{}] * 1000, True),
    ],
)  # fmt: skip
def test_long_values_are_checked_as_they_are(schema: Any, value: Any, fits: bool) -> None:
    """Only what is told of them is short."""
    assert validator(schema).is_valid(value) is fits
