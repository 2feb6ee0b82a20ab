"""Expressions: what they yield, what they refuse, and that no error is ever taken for true."""

from __future__ import annotations

from typing import Any

import pytest

from agentmesh.core.expression import (
    EvaluationError,
    ExpressionError,
    check_expression,
    check_template,
    conditions,
    evaluate,
    evaluate_bool,
    names,
    render,
)

SORT = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["billing", "bug"]},
        "urgent": {"type": "boolean"},
        "score": {"type": "number"},
        "count": {"type": "integer"},
        "order": {"type": ["string", "null"]},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "open": {"type": "object"},
    },
    "additionalProperties": False,
    "$defs": {"item": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


def step(output: Any, **more: Any) -> dict[str, Any]:
    states = {"enum": ["completed", "failed", "skipped"]}
    properties = {"output": output, "state": states, "error": {}}
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


TYPES: dict[str, Any] = {
    "input": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "n": {"type": "array", "items": {"type": "integer"}}},
    },
    "steps": {
        "type": "object",
        "properties": {"sort": step(SORT), "maybe": step(SORT, **{"x-may-skip": "may be skipped"})},
        "additionalProperties": False,
    },
    "item": {},
}


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("steps.sort.output.quue", 19, "did you mean 'queue'?"),
        ("steps.srt.output", 7, "unknown step 'srt'; did you mean 'sort'?"),
        ("stps.sort", 1, "did you mean 'steps'?"),
        ("steps.sort.output.queue == 'bilng'", 25, "did you mean 'billing'?"),
        ("steps.sort.output.queue + 1", 25, "'+' does not work on text and a whole number"),
        ("steps.sort.output.items.map(x, x.nam)", 34, "did you mean 'name'?"),
        ("steps.sort.output.urgent == null", 26, "never equals null"),
        ("input.text.foo()", 15, "no function 'foo'"),
        ("foo(1)", 4, "no function 'foo'"),
        ("!input.text", 2, "of true or false"),
        ("input.text && true", 1, "must be true or false"),
        ("input.n.all(x, x > 'a')", 18, "does not work on a whole number and text"),
        ("has(input.txt)", 5, "did you mean 'text'?"),
        ("input.text in [1]", 12, "never true"),
        ("steps.maybe.output.queue", 20, "guard it"),
        ("input.in", 7, ".`in`"),
        ("1 +", 4, "ends too early"),
        ("a b", 3, "did not expect 'b'"),
        ("", 1, "empty"),
        ("1" * 5000, 1, "4096 characters"),
        ("(" * 100 + "1" + ")" * 100, 1, "nested too deeply"),
        ("'a' + 1", 5, "does not work"),
    ],
)
def test_a_fault_is_found_at_load_with_its_column(text: str, column: int, says: str) -> None:
    """A typo or a wrong type is an error with the place and what would be right."""
    with pytest.raises(ExpressionError) as caught:
        check_expression(text, TYPES)
    assert says in caught.value.message
    assert caught.value.column == column


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("steps.sort.output.score > 1", {"type": "boolean"}),
        ("steps.sort.output.score + 1 > 2.5", {"type": "boolean"}),
        ("steps.sort.output.count + 1", {"type": "integer"}),
        ("steps.sort.output.count * 1.5", {"type": "number"}),
        ("steps.sort.output.order == null", {"type": "boolean"}),
        ("steps.sort.output.open.what.ever", {}),
        ("item.any.thing > 3", {"type": "boolean"}),
        (
            "steps.sort.output.items.filter(x, x.name != '').map(x, x.name)",
            {"type": "array", "items": {"type": "string"}},
        ),
        ("steps['sort'].output.urgent", {"type": "boolean"}),
        ("input.n.exists(x, x == 1)", {"type": "boolean"}),
        ("size(input.text)", {"type": "integer"}),
        ("steps.maybe.state == 'completed' && steps.maybe.output.urgent", {"type": "boolean"}),
        ("steps.maybe.output == null || steps.maybe.output.urgent", {"type": "boolean"}),
        ("!(steps.maybe.state != 'completed') ? steps.maybe.output.count : 0", None),
    ],
)
def test_what_is_right_has_a_type(text: str, type_: Any) -> None:
    """Numbers mix as in JSON, open objects are dynamic, and a guard opens the output of a step that may be skipped."""
    found = check_expression(text, TYPES)
    assert type_ is None or _plain(found) == type_


def _plain(schema: Any) -> dict[str, Any]:
    """Without the definitions that every part of a schema carries along."""
    return {k: _plain(v) if isinstance(v, dict) else v for k, v in schema.items() if k != "$defs"}


def test_a_condition_must_be_boolean() -> None:
    """`if`, `when` and `ensure` refuse text, and text around an expression."""
    assert check_expression("${{ item.x }}", TYPES, boolean=True) == {}
    with pytest.raises(ExpressionError, match="must be true or false, this is text"):
        check_expression("input.text", TYPES, boolean=True)
    with pytest.raises(ExpressionError, match="text around an expression"):
        check_expression("not ${{ item.x }}", TYPES, boolean=True)


def test_a_template_has_a_type_too() -> None:
    """Alone an expression keeps its type, within text it is text; a fault has its column in the whole string."""
    assert check_template({"a": "${{ input.n }}", "b": "x ${{ input.n }}"}, TYPES)["properties"] == {
        "a": {"type": "array", "items": {"type": "integer"}},
        "b": {"type": "string"},
    }
    with pytest.raises(ExpressionError) as caught:
        check_template("see ${{ input.txt }}", TYPES)
    assert caught.value.column == 15
    with pytest.raises(ExpressionError, match="no '}}'"):
        check_template("see ${{ input.text", TYPES)


def test_names_are_the_paths_it_reads() -> None:
    """Loop variables are not among them."""
    assert names("steps.cut.output.places[0].x + input.log") == {"steps.cut.output.places", "input.log"}
    assert names("a ${{ input.x }} b ${{ input.l.map(y, y.z) }}") == {"input.x", "input.l"}


def test_conditions_tell_which_steps_have_completed() -> None:
    """Where it is true, and where it is false."""
    assert conditions("steps.a.state == 'completed' && has(input.x)") == (frozenset({"a"}), frozenset())
    assert conditions("steps.a.output == null || steps.b.output == null") == (frozenset(), frozenset({"a", "b"}))
    assert conditions("steps.a.state == 'completed' || steps.b.state == 'completed'") == (frozenset(), frozenset())


SCOPE: dict[str, Any] = {
    "input": {
        "none": None,
        "two": 2,
        "half": 2.5,
        "list": [1, None, 2.5],
        "text": "${{ input.two }}",
        "yes": "true",
        "in": 7,
    },
    "steps": {"cut": {"output": {"places": [{"file": "a.py"}]}, "state": "completed"}},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("input.two", 2),
        ("input.none", None),
        ("steps.cut.output.places[0].file", "a.py"),
        ("input.`in`", 7),
        ("input.half + 1", 3.5),
        ("input.two + 0.5", 2.5),
        ("input.two / 4", 0),
        ("-7 / 2", -3),
        ("input.two == 2.0", True),
        ("has(input.nope)", False),
        ("has(input.none)", True),
        ("input.list + ['x']", [1, None, 2.5, "x"]),
        ("{'a': {'b': input.list}}", {"a": {"b": [1, None, 2.5]}}),
        ("['a', 'b'].join('-')", "a-b"),
        ("steps.cut.output.places.map(p, p.file)", ["a.py"]),
        ("timestamp('2026-01-02T03:04:05Z')", "2026-01-02T03:04:05Z"),
    ],
)
def test_evaluate_yields_plain_json(text: str, value: Any) -> None:
    """Ints stay ints; a missing field is not a null one."""
    found = evaluate(text, SCOPE)
    assert found == value
    assert type(found) is type(value)


FAILING = [
    "input.nope", "input.none.x", "input.nope.x == 1", "nope", "input.list[9]", "input.text[0]", "1 / 0", "1.0 / 0.0",
    "input.text + 1", "input.text > 1", "input.list.all(x, x > 0)", "int(input.text) > 0", "b'x'", "duration('1s')", "{1: 2}",
    "input.text.matches('(')", "foo(1)", "1 +", "type(input.two)", "9223372036854775807 + input.two",
]  # fmt: skip


@pytest.mark.parametrize("text", FAILING)
def test_an_error_is_never_a_value(text: str) -> None:
    """Whatever goes wrong is raised: by evaluate, by evaluate_bool, and inside a template."""
    for attempt in (evaluate, evaluate_bool):
        with pytest.raises(EvaluationError):
            attempt(text, SCOPE)
    with pytest.raises(EvaluationError):
        render({"a": ["${{ " + text + " }}"]}, SCOPE)


@pytest.mark.parametrize("text", ["input.two", "input.yes", "input.none", "input.list", "'true'", "1", "input"])
def test_only_true_is_true(text: str) -> None:
    """A condition that is neither true nor false is an error, not a truthy value."""
    with pytest.raises(EvaluationError, match="must be true or false"):
        evaluate_bool(text, SCOPE)


def test_render_expands_once() -> None:
    """What comes out of an expression is data; alone it keeps its type; braces and quotes inside do not end it."""
    value = {
        "a": "${{ input.list }}",
        "b": "x ${{ input.list }} ${{ {'k': {'j': '}}'}} }}.",
        "c": ["${{ input.text }}", 5],
    }
    assert render(value, SCOPE) == {
        "a": [1, None, 2.5],
        "b": 'x [1, null, 2.5] {"k": {"j": "}}"}}.',
        "c": ["${{ input.two }}", 5],
    }


def test_large_values_pass_by_path_only() -> None:
    """A path yields a value of any size; computing one over 256 kB is refused, and so are long loops."""
    scope = {"input": {"log": "x" * 1_000_000, "list": list(range(1001)), "more": list(range(20_000))}}
    assert evaluate("input.log", scope) is scope["input"]["log"]
    assert evaluate("size(input.log)", scope) == 1_000_000
    for text, says in (
        ("input.log + 'y'", "256 kB"),
        ("input.list.map(x, x)", "1,001 items"),
        ("input.list.filter(x, x > 1)", "1,001 items"),
        ("input.more.all(x, x >= 0)", "10,000 rounds"),
    ):
        with pytest.raises(EvaluationError, match=says):
            evaluate(text, scope)
    with pytest.raises(EvaluationError, match="256 kB"):
        render("log: ${{ input.log }}", scope)
    assert evaluate("input.list.exists(x, x == 1000)", scope) is True


def test_text_that_the_evaluator_cannot_hold_is_replaced_not_cut() -> None:
    """A NUL would end the string inside CEL, and let a check of its end pass."""
    scope = {"input": {"text": "ok\x00evil", "odd": "a\ud800é"}}
    assert evaluate("input.text.endsWith('evil')", scope) is True
    assert evaluate("size(input.text)", scope) == 7
    assert evaluate("input.odd + ''", scope) == "a\ufffdé"


def test_only_what_is_named_is_handed_over() -> None:
    """A value that CEL cannot take does no harm to an expression that does not read it."""
    scope = {"input": {"good": 1, "bad": 2**80}}
    assert evaluate("input.good + 1", scope) == 2
    with pytest.raises(EvaluationError):
        evaluate("input.bad + 1", scope)
