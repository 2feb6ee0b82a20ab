"""What would not end, or would eat the machine, is refused in under a second of this process's time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from agentmesh.adapters.files import load_mesh
from agentmesh.adapters.yaml_document import MAX_BYTES, read_yaml
from agentmesh.core.expression import EvaluationError, ExpressionError, check_expression, evaluate, render
from agentmesh.core.schema import schema_faults, validator
from agentmesh.errors import ProjectError
from agentmesh.settings import Secrets


@contextmanager
def quickly() -> Iterator[None]:
    """Other processes' load does not count."""
    begun = process_time()
    yield
    assert process_time() - begun < 1.0


# Files


def _bomb() -> str:
    rows = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    rows += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(rows)


YAML: dict[str, Callable[[], str]] = {
    "an alias bomb": _bomb,
    "lists within lists": lambda: "[" * MAX_BYTES,
    "objects within objects": lambda: "{a: " * (MAX_BYTES // 4),
    "dashes": lambda: "- " * (MAX_BYTES // 2),
    "keys within keys": lambda: "".join(f"{' ' * n}a:\n" for n in range(700)),
    "values side by side": lambda: "[" + "1," * (MAX_BYTES // 2 - 1),
    "keys one under another": lambda: "".join(f"k{n}: v\n" for n in range(20_000)),
    "an anchor at each value": lambda: "".join(f"- &a{n} x\n" for n in range(20_000)),
    "an alias of much": lambda: "a: &a [" + "x," * 4000 + "]\n" + "".join(f"b{n}: *a\n" for n in range(9)),
    "questions": lambda: "? " * (MAX_BYTES // 2),
    "tags": lambda: "- !!python/object:os.system x\n" * 5000,
    "a second document": lambda: "a: 1\n---\n" * 9000,
}


@pytest.mark.parametrize("name", YAML)
def test_a_file_that_would_explode_is_refused(name: str) -> None:
    """With one fault that says why."""
    data = YAML[name]().encode()[:MAX_BYTES]
    with quickly(), pytest.raises(ProjectError) as caught:
        read_yaml(data, "workflows/w.yaml")
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize("text", ["a" * MAX_BYTES, "#" * MAX_BYTES, "a: |\n" + " x\n" * 80_000, "a: " + "b " * 130_000])
def test_a_large_file_is_read(text: str) -> None:
    """256 kB of text are no harm."""
    with quickly():
        assert read_yaml(text.encode()[:MAX_BYTES], "f") is not None


def mesh(folder: Path, workflow: str) -> None:
    (folder / "workflows").mkdir()
    (folder / "agentmesh.yaml").write_text("name: a\n")
    (folder / "workflows" / "w.yaml").write_text(workflow)
    load_mesh(folder, Secrets())


WORKFLOWS: dict[str, Callable[[], str]] = {
    "steps without number": lambda: "name: w\nsteps:\n" + "".join(f"- {{id: s{n}, set: {n}}}\n" for n in range(1500)),
    "names that nothing has": lambda: (
        "name: w\nsteps:\n" + "".join(f"- {{id: s{n}, set: '${{{{ steps.x{n}.output }}}}'}}\n" for n in range(900))
    ),
    "keys that nothing knows": lambda: "name: w\nsteps:\n" + "".join(f"- {{id: s{n}, sett: 1}}\n" for n in range(900)),
    "a reference that goes round": lambda: (
        "name: w\ninput: {$ref: '#/$defs/a', $defs: {a: {$ref: '#/$defs/b'}, b: {$ref: '#/$defs/a'}}}\nsteps: [{id: a, set: 1}]"
    ),
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_of_faults_is_refused(tmp_path: Path, name: str) -> None:
    """However many there are."""
    with quickly(), pytest.raises(ProjectError):
        mesh(tmp_path, WORKFLOWS[name]())


def test_blocks_within_blocks_are_checked(tmp_path: Path) -> None:
    """Each loop asks for the type of its last round, and none twice at each depth."""
    head = "".join(f"[{{id: l{n}, loop: {{max: 2, until: loop.last == 3}}, steps: " for n in range(20))
    with quickly():
        mesh(tmp_path, f"name: w\nsteps: {head}[{{id: z, set: '${{{{ loop.last }}}}'}}]{'}]' * 20}")


# Expressions

DEEP = {
    "brackets": "(" * 1500 + "1" + ")" * 1500,
    "a sum": "1" + "+1" * 1500,
    "fields": "input" + ".a" * 1500,
    "indexes": "input" + "[0]" * 1000,
    "lists": "[" * 1500 + "]" * 1500,
    "choices": "true ? 1 : " * 300 + "1",
    "loops": "[1].map(x, " * 30 + "1" + ")" * 30,
    "length": "1" * 5000,
}


@pytest.mark.parametrize("name", DEEP)
def test_an_expression_that_is_too_deep_is_refused_at_load(name: str) -> None:
    """As an error at a place, not as a crash of the parser."""
    with quickly(), pytest.raises(ExpressionError):
        check_expression(DEEP[name], {"input": {}})


LARGE: dict[str, Any] = {
    "text": " " * 3_900_000,
    "other": "x" * 3_900_000,
    "empty": [""] * 1000,
    "many": [""] * 90_000,
    "numbers": list(range(1000)),
    "list": [{"a": n} for n in range(200_000)],
    "huge": "y" * 100_000_000,
}
ENDLESS = [
    "input.numbers.map(x, input.numbers.map(y, x * y))",
    "input.numbers.all(a, input.numbers.all(b, input.numbers.all(c, a + b + c >= 0)))",
    "input.many.map(x, x)",
    "input.many.filter(x, true)",
    "input.list.map(x, x.a)",
    "input.list.exists(x, x.a == -1)",
    "input.empty.map(x, input.other + x).join('')",
    "input.empty.map(x, input.other)",
    "input.empty.map(x, [input.other]).map(x, x.join('y'))",
    "input.empty.all(x, input.other + x != '')",
    "input.text.replace(' ', input.other)",
    "input.text.replace('', input.other)",
    "'aaaaaaaaaa'" + ".replace('a', 'aaaaaaaaaa')" * 20,
    "input.many.join(input.other)",
    "input.text.split('').map(x, x)",
    "input.text.split(' ')",
    "input.text + input.other",
    "size(input.huge) > 3",
    "input.huge.matches('^(y+)+z$')",
    "'%s%s%s'.format([input.huge, input.huge, input.huge])",
    "input.text.matches('((x{100}){100}){100}')",
]


@pytest.mark.parametrize("text", ENDLESS)
def test_an_expression_that_would_not_end_is_refused_at_run_time(text: str) -> None:
    """By the size of what it reads, makes and yields, and by its rounds."""
    with quickly(), pytest.raises(EvaluationError):
        evaluate(text, {"input": LARGE})


@pytest.mark.parametrize("name", ["huge", "list"])
def test_a_large_value_in_a_text_is_refused_unwritten(name: str) -> None:
    """Alone it is handed on as it is, whatever its size."""
    with quickly():
        with pytest.raises(EvaluationError):
            render(f"Look: ${{{{ input.{name} }}}}", {"input": LARGE})
        assert render(f"${{{{ input.{name} }}}}", {"input": LARGE}) is LARGE[name]


def test_a_loop_goes_on_after_one_that_was_refused() -> None:
    """What one evaluation made does not count for the next."""
    with pytest.raises(EvaluationError):
        evaluate("input.empty.map(x, input.other)", {"input": LARGE})
    assert evaluate("input.numbers.map(x, [x]).filter(x, x[0] > 998)", {"input": LARGE}) == [[999]]
    assert evaluate("['a', 'b'].join('-').replace('a', 'c')", {}) == "c-b"


# Regular expressions and schemas


@pytest.mark.parametrize("pattern", ["^(a+)+$", "(a|aa)+$", "(.*)*b", "(a*)*c"])
def test_no_pattern_takes_longer_than_the_text(pattern: str) -> None:
    """RE2's, in `matches`, `pattern` and `patternProperties`."""
    text = "a" * 200_000 + "!"
    with quickly():
        assert evaluate("input.matches(pattern)", {"input": text, "pattern": pattern}) in (True, False)
        list(validator({"pattern": pattern}).iter_errors(text))
        list(validator({"patternProperties": {pattern: False}}).iter_errors({text: 1}))


@pytest.mark.parametrize(
    "reference",
    ["https://example.com/s.json", "file:///etc/passwd", "http://127.0.0.1:1/s", "other.json#/a", "urn:x:y"],
)
def test_a_reference_is_never_fetched(reference: str) -> None:
    """It is a fault where the file is read; and where a schema came by another way, it cannot be followed."""
    with quickly():
        assert ["would be fetched" in message for _, message in schema_faults({"$ref": reference})] == [True]
        with pytest.raises(Exception, match="nresolvable"):
            list(validator({"$ref": reference}).iter_errors(1))


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"items": {"type": "integer"}}, [0] * 2_000_000),
        ({"uniqueItems": True}, [{} for _ in range(1_000_000)]),
        ({"uniqueItems": True}, [{"a": [n]} for n in range(33_000)] + [{"a": [1]}]),
        ({"items": {"items": {"type": "integer"}}}, [[]] * 2_000_000),
    ],
)
def test_a_schema_is_not_applied_to_more_than_it_can_hold(schema: Any, value: Any) -> None:
    """A caller's four megabytes of numbers do not stop the others."""
    with quickly():
        assert not validator(schema).is_valid(value)


def test_a_schema_whose_branches_meet_again_does_not_double_at_each_level() -> None:
    """A tree of `and` and `or` looks harmless: each branch goes on by the same reference. Long lists of references are no harm."""
    arm = "{type: object, properties: {kind: {const: %s}, args: {type: array, items: {$ref: '#/$defs/n'}}}, required: [kind]}"
    text = f"{{$ref: '#/$defs/n', $defs: {{n: {{anyOf: [{arm % 'and'}, {arm % 'or'}]}}}}}}"
    tree = validator(read_yaml(text.encode(), "f").value)
    value: dict[str, Any] = {"kind": "and"}
    for _ in range(60):
        value = {"kind": "or", "args": [value]}
    with quickly():
        assert ["too long" in error.message for error in tree.iter_errors(value)] == [True]
        assert tree.is_valid({"kind": "or", "args": [{"kind": "and", "args": [{"kind": "or"}] * 5}] * 300})


def test_items_are_unique_as_json_means_it() -> None:
    """1 is 1.0, and not true; objects are equal whatever their order."""
    unique = validator({"uniqueItems": True})
    assert unique.is_valid([1, True, "1", [1], [True], {"a": 1}, {"a": True}, None])
    assert not unique.is_valid([1, 1.0])
    assert not unique.is_valid([json.loads('{"a": 1, "b": [2]}'), json.loads('{"b": [2], "a": 1}')])
