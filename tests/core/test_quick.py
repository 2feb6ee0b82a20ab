"""Quick checks say yes to nothing that jsonschema would refuse, and to all that tools usually are given."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agentmesh.core import schema as json_schema
from agentmesh.core.quick import quick

NAMES = st.sampled_from(["a", "b", "c"])
COUNTS = st.integers(0, 3)
TYPES = ["string", "integer", "number", "boolean", "null", "object", "array"]


def _plain(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True),
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "required": st.lists(NAMES, max_size=2, unique=True),
            "additionalProperties": st.booleans() | inner,
            "items": inner,
            "enum": st.lists(st.sampled_from(["x", "y"]), min_size=1, unique=True),
            "const": st.sampled_from(["x", "y", 1, True, None]),
            "minLength": COUNTS, "maxLength": COUNTS, "minItems": COUNTS, "maxItems": COUNTS,
            "minProperties": COUNTS, "maxProperties": COUNTS,
            "minimum": st.integers(-2, 2) | st.floats(-2, 2), "maximum": st.integers(-2, 2),
            "anyOf": st.lists(inner, min_size=1, max_size=2), "allOf": st.lists(inner, min_size=1, max_size=2),
            "description": st.just("d"),
        },
    )  # fmt: skip


SCHEMAS = st.recursive(st.booleans() | _plain(st.just(True)), _plain, max_leaves=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 1.5, -2.5]) | st.sampled_from(["", "x", "yy", "zzzz"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@given(schema=SCHEMAS, value=VALUES)
@settings(max_examples=600, deadline=None)
def test_quick_agrees_with_jsonschema(schema: Any, value: Any) -> None:
    """A yes is right; a no of a value from JSON is right as well, so that nothing plain is looked at twice."""
    check = quick(schema)
    if check is not None:
        assert check(value) == Draft202012Validator(schema).is_valid(value), (schema, value)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^a+$"},
        {"$ref": "#/$defs/x", "$defs": {"x": {}}},
        {"enum": [1, 2]},
        {"oneOf": [{}, {}]},
        {"properties": {"a": {"not": {}}}},
        {"minLength": "two"},
        {"type": "text"},
        {"required": [["a"]]},
        {"properties": {"a": {"uniqueItems": True}}},
        False,
        7,
    ],
)
def test_what_is_not_plain_is_left_alone(schema: Any) -> None:
    """No word is skipped: a schema that has one which is not taken has no quick check at all."""
    assert quick(schema) is None


class Colour(StrEnum):
    RED = "red"


def test_what_only_looks_like_json_is_looked_at_closely() -> None:
    """A subclass may answer anything to a comparison; only a function's own result can hold one."""
    check = quick({"type": "string", "maxLength": 2})
    assert check is not None
    assert not check(Colour.RED)


def test_the_usual_schema_of_a_tool_is_quick() -> None:
    """What FastMCP and the SDKs generate from a function's signature."""
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "title": "Text"},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            "tags": {"type": "array", "items": {"type": "string"}},
            "mode": {"type": "string", "enum": ["fast", "slow"]},
        },
        "required": ["text"],
        "additionalProperties": False,
    }
    check = quick(schema)
    assert check is not None
    assert check({"text": "a", "limit": None, "tags": ["x"], "mode": "fast"})
    for wrong in (
        {},
        {"text": 1},
        {"text": "a", "more": 1},
        {"text": "a", "mode": "other"},
        {"text": "a", "tags": [1]},
    ):
        assert not check(wrong)
        assert not json_schema.validator(schema).is_valid(wrong)


def test_many_values_are_refused_all_the_same() -> None:
    """The bound on values stands before the quick check."""
    schema: dict[str, Any] = {"type": "array"}
    assert quick(schema) is not None
    errors = list(json_schema.validator(schema).iter_errors([0] * (json_schema.MAX_VALUES + 1)))
    assert "more than" in errors[0].message
