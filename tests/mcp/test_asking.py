"""A run's question as an elicitation, and what a client says to it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp_types import _v2026_07_28 as wire

from agentmesh.core.question import Question, Reply, digest_of
from agentmesh.errors import InvalidInput
from agentmesh.mcp.asking import SHOWN, from_elicitation, to_elicitation

FLAT = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "title": "Name"},
        "age": {"type": "integer", "exclusiveMinimum": 0, "default": 30},
        "mail": {"type": "string", "format": "email"},
        "code": {"type": "string", "pattern": "^[A-Z]+$", "description": "Of the part."},
        "sure": {"type": "boolean", "default": False},
        "queue": {"enum": ["billing", "bug"]},
        "size": {"type": "string", "oneOf": [{"const": "s", "title": "Small"}, {"const": "l", "title": "Large"}]},
    },
    "required": ["name"],
    "additionalProperties": False,
}
NESTED = {
    "type": "object",
    "properties": {"lines": {"type": "array", "items": {"type": "object"}}},
    "required": ["lines"],
}


def asked(kind: Any = "approval", form: Any = None, show: Any = None, ask: str = "Send it?") -> Question:
    return Question(
        "0190-run", "ok#1", "ok", kind, ask, show, form, "ann", "step:ok", digest_of("ann", "step:ok", show), 1.0, None
    )


def form_of(question: Question, version: str = "2026-07-28") -> dict[str, Any]:
    params = to_elicitation(question, version)
    wire.ElicitRequestFormParams.model_validate(params)
    assert params["mode"] == "form"
    found: dict[str, Any] = params["requestedSchema"]
    for name, field in found["properties"].items():
        assert any(_is(kind, field) for kind in KINDS), name
    return found


KINDS = (
    wire.StringSchema, wire.NumberSchema, wire.BooleanSchema, wire.UntitledSingleSelectEnumSchema,
    wire.TitledSingleSelectEnumSchema, wire.UntitledMultiSelectEnumSchema, wire.TitledMultiSelectEnumSchema,
    wire.LegacyTitledEnumSchema,
)  # fmt: skip


def _is(kind: Any, field: dict[str, Any]) -> bool:
    """Whether a field is of this kind, with no word that the kind does not have."""
    try:
        known = kind.model_validate(field)
    except ValueError:
        return False
    return set(field) <= set(known.model_dump(by_alias=True))


def test_an_approval_is_an_empty_form() -> None:
    """Accept is yes, decline is no, cancel is no answer; what is shown stands in the message."""
    question = asked(show={"to": "ann@example.com", "copies": 2})
    assert form_of(question) == {"type": "object", "properties": {}}
    message = to_elicitation(question)["message"]
    assert message.startswith("Send it?\n\nto: ann@example.com\ncopies: 2\n")
    assert from_elicitation(question, {"action": "accept"}) == Reply(yes=True)
    assert from_elicitation(question, {"action": "accept", "content": {}}) == Reply(yes=True)
    assert from_elicitation(question, {"action": "decline"}) == Reply(yes=False)
    assert from_elicitation(question, {"action": "cancel"}) is None


def test_a_flat_form_goes_as_it_is() -> None:
    """Every field keeps its kind, its title, its default and its bounds; what MCP has no word for is said in words."""
    form = form_of(asked("input", FLAT))
    assert form["required"] == ["name"]
    assert form["properties"] == {
        "name": {"type": "string", "title": "Name", "minLength": 1},
        "age": {"type": "integer", "default": 30, "minimum": 1},
        "mail": {"type": "string", "format": "email"},
        "code": {"type": "string", "description": "Of the part. (Must match ^[A-Z]+$)"},
        "sure": {"type": "boolean", "default": False},
        "queue": {"type": "string", "enum": ["billing", "bug"]},
        "size": {"type": "string", "oneOf": [{"const": "s", "title": "Small"}, {"const": "l", "title": "Large"}]},
    }


def test_an_older_client_gets_choices_in_its_own_way() -> None:
    """Before 2025-11-25 titles of choices stand beside them, and several choices at once are a text."""
    titled = form_of(asked("input", FLAT), "2025-06-18")["properties"]["size"]
    assert titled == {"type": "string", "enum": ["s", "l"], "enumNames": ["Small", "Large"]}
    several = {"type": "object", "properties": {"tags": {"type": "array", "items": {"enum": ["a", "b"]}}}}
    question = asked("input", several)
    assert form_of(question)["properties"]["tags"]["type"] == "array"
    assert list(form_of(question, "2025-06-18")["properties"]) == ["json"]
    same = Reply(yes=True, value={"tags": ["a"]})
    assert from_elicitation(question, {"action": "accept", "content": {"tags": ["a"]}}) == same
    assert from_elicitation(question, {"action": "accept", "content": {"json": '{"tags": ["a"]}'}}) == same


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (NESTED, {"lines": [{"n": 1}]}),
        ({"type": "array", "items": {"type": "integer"}}, [1, 2]),
        ({"type": "object"}, {"any": {"thing": 1}}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}, {}),
        (None, ["what", {"ever": 1}]),
        ({**NESTED, "properties": {**NESTED["properties"], "json": {"type": "string"}}}, {"lines": [], "json": "x"}),  # type: ignore[dict-item]
    ],
)
def test_a_form_that_mcp_cannot_carry_is_one_text(form: Any, value: Any) -> None:
    """The text is JSON of the form's schema, and comes back as the value."""
    question = asked("input", form)
    (name,) = form_of(question)["required"]
    answer = {"action": "accept", "content": {name: json.dumps(value)}}
    assert from_elicitation(question, answer) == Reply(yes=True, value=value)
    for wrong in ({}, {name: 1}, {name: "{"}, {name: "[" * 100_000}):
        with pytest.raises(InvalidInput):
            from_elicitation(question, {"action": "accept", "content": wrong})


def test_a_value_that_is_no_object_has_a_field() -> None:
    """A text, a number or a choice is asked for under `value`."""
    question = asked("input", {"type": "string", "enum": ["billing", "bug"]})
    assert form_of(question)["properties"] == {"value": {"type": "string", "enum": ["billing", "bug"]}}
    assert from_elicitation(question, {"action": "accept", "content": {"value": "bug"}}) == Reply(True, "bug")
    with pytest.raises(InvalidInput, match="'value'"):
        from_elicitation(question, {"action": "accept", "content": {}})


@pytest.mark.parametrize(
    "answer",
    [
        12345,
        None,
        [],
        {},
        {"action": "yes"},
        {"action": ["accept"]},
        {"action": "accept"},
        {"action": "accept", "content": []},
        {"action": "accept", "content": "name"},
        {"action": "accept", "content": {"name": 1}},
        {"action": "accept", "content": {"name": "Ann", "code": "lower"}},
        {"action": "accept", "content": {"name": "Ann", "age": 0}},
        {"action": "accept", "content": {"name": "Ann", "extra": 1}},
    ],
)
def test_a_malformed_answer_is_none(answer: Any) -> None:
    """What is no ElicitResult, or does not fit the whole form, is an error: never a yes."""
    with pytest.raises(InvalidInput):
        from_elicitation(asked("approval", FLAT), answer)


def test_a_form_is_not_looked_at_when_the_answer_is_no() -> None:
    """Declining needs no values, of an approval and of an input alike."""
    for kind in ("approval", "input"):
        assert from_elicitation(asked(kind, FLAT), {"action": "decline"}) == Reply(yes=False)
        assert from_elicitation(asked(kind, FLAT), {"action": "cancel", "content": {"name": 1}}) is None


def test_what_is_shown_is_cut_in_plain_sight() -> None:
    """A person is told that there is more, and where."""
    message = to_elicitation(asked(show="x" * (SHOWN + 5)))["message"]
    assert "5 characters more" in message
    assert "0190-run" in message
    assert "half ? pair" in to_elicitation(asked(ask="half \ud800 pair"))["message"]
    assert json.loads(to_elicitation(asked(show=[{"a": {"b": 1}}]))["message"].split("\n\n")[1]) == [{"a": {"b": 1}}]
