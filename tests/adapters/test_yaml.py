"""YAML 1.2, safe: what is read, what is refused, and where the fault is."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentmesh.adapters.yaml_document import MAX_BYTES, read_yaml
from agentmesh.core.document import Document
from agentmesh.errors import Fault, ProjectError


def read(text: str) -> Document:
    return read_yaml(text.encode(), "x.yaml")


def refused(text: str | bytes) -> Fault:
    with pytest.raises(ProjectError) as caught:
        read_yaml(text if isinstance(text, bytes) else text.encode(), "x.yaml")
    (fault,) = caught.value.faults
    return fault


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on: no", {"on": "no"}),
        ("on:\n  off: 12:30\n  yes: [on, off, y, n]", {"on": {"off": "12:30", "yes": ["on", "off", "y", "n"]}}),
        ("a: 010", {"a": 10}),
        ("a: 0o10\nb: 0x1F\nc: -3\nd: 1e3\ne: .5", {"a": 8, "b": 31, "c": -3, "d": 1000.0, "e": 0.5}),
        ("a: 2026-01-02", {"a": "2026-01-02"}),
        ("a: 1_000", {"a": "1_000"}),
        ("a: true\nb: ~\nc:\nd: Null", {"a": True, "b": None, "c": None, "d": None}),
        ("a: \"true\"\nb: '1'", {"a": "true", "b": "1"}),
        ("1: x\ntrue: y\nnull: z", {"1": "x", "true": "y", "null": "z"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        ("\ufeffa: 1", {"a": 1}),
        ("", None),
        ("# only a comment\n", None),
    ],
)
def test_values_are_those_of_the_core_schema(text: str, value: Any) -> None:
    """`on`, `no` and `12:30` are strings; numbers are JSON's."""
    assert read(text).value == value


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a: 1\nb: 2\na: 3", 3, 1, "'a' stands here twice, first in line 1"),
        ("a: !!python/object:os.system x", 1, 4, "tag"),
        ("if: !has(input.x)", 1, 5, 'must be quoted: if: "!has(input.x)"'),
        ('x:\n  if: "a" == input.b', 2, 11, "must be quoted: if: '\"a\" == input.b'"),
        ("over: [1, 2].map(x, x)", 1, 13, 'must be quoted: over: "[1, 2].map(x, x)"'),
        ("if: {'a': 1} == input.x", 1, 14, "must be quoted: if: \"{'a': 1} == input.x\""),
        ("- ensure: a ? b: c", 1, 16, 'must be quoted: ensure: "a ? b: c"'),
        ("with: {text: ${{ input.text }}}", 1, 15, 'must be quoted: with: {text: "${{ input.text }}"}'),
        ("a: [1, 2", 1, 9, "not YAML"),
        ("\ta: 1", 1, 1, "spaces"),
        ("a: 1\n---\nb: 2", 2, 1, "second"),
        ("a: .inf", 1, 4, "not a JSON number"),
        ("a: " + "9" * 50, 1, 4, "too large"),
        ("a: 1e999", 1, 4, "too large"),
        ("a: *nope", 1, 4, "no anchor"),
        ("<<: {a: 1}", 1, 1, "merges"),
        ("? [a]\n: b", 1, 3, "key must be text"),
        ("a: b\x07", 1, 5, "control character"),
        ("[" * 100 + "]" * 100, 1, 66, "deeper than 64"),
    ],
)
def test_what_is_refused_says_where(text: str, line: int, column: int, says: str) -> None:
    """Line, column, and the quoted line where an expression needs quotes."""
    fault = refused(text)
    assert says in fault.message
    assert (fault.line, fault.column) == (line, column)
    assert fault.file == "x.yaml"


def test_hostile_files_are_refused_at_once() -> None:
    """Deep nesting, alias bombs and large files cost no time and no memory."""
    begun = time.perf_counter()
    assert "deeper" in refused("[" * 200_000).message
    assert "deeper" in refused("{a: " * 50_000).message
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    assert "aliases" in refused(bomb).message
    assert f"more than {MAX_BYTES:,}" in refused(b"a" * 1_100_000).message
    assert refused(b"a: \xff").message == "the file is not UTF-8 text"
    assert refused(b"a: 1\nb: \x00").line == 2
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize(
    ("text", "offset", "shown"),
    [
        ("if: input.x > 3", 6, "x > 3"),
        ('if: "a\\n\\u00e9input.x"', 9, 'x"'),
        ("if: 'it''s input.x'", 5, "input.x'"),
        ("if: >-\n  input.a &&\n  input.b\n", 11, "input.b"),
        ("if: |\n    input.a\n    input.b\n", 14, "b"),
        ("if: input.a &&\n    input.b", 11, "input.b"),
    ],
)
def test_a_character_of_a_value_is_found_in_the_text(text: str, offset: int, shown: str) -> None:
    """However the string was written, so that a caret stands under the fault of an expression."""
    fault = read(text).fault(("if",), "here", offset=offset)
    assert fault.source[fault.column - 1 :] == shown


def test_a_fault_shows_its_line_with_a_caret() -> None:
    """File, line, column, message, source and caret."""
    fault = read("a: 1\nbee: {c: 2}").fault(("bee", "c"), "wrong", key=True)
    assert str(fault) == "x.yaml:2:7: wrong\n    bee: {c: 2}\n          ^"
