"""What the edges take for JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from agentmesh.core.json_text import (
    CONTAINERS,
    MAX_EXACT,
    VALUES,
    NotUtf8,
    RepeatedName,
    inexact,
    parse_json,
    parse_once,
    write_json,
)
from agentmesh.errors import InvalidInput, TooLarge


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": [1, 2.5, null, true, "x"]}', {"a": [1, 2.5, None, True, "x"]}),
        (b' "\\ud83d\\ude00" ', "\U0001f600"),
        ("\u00e9".join('""').encode(), "\u00e9"),
        (b"[" * 64 + b"]" * 64, json.loads("[" * 64 + "]" * 64)),
        (b'"' + b"[{" * CONTAINERS + b'"', "[{" * CONTAINERS),
    ],
)
def test_json_is_read(body: bytes, value: object) -> None:
    """Whole characters, levels up to the limit, and brackets that are only text."""
    assert parse_json(body) == value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "line 1 column 2"),
        (b"{} {}", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"1e999", "too large"),
        (b"1" * 5000, "too many digits"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
        (b"[" * 200_000, "deeper than 64"),
        (b"[" + b"[]," * CONTAINERS + b"[]]", "more than"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b'[["a", "\\ud800x"]]', "surrogate"),
    ],
)
def test_what_later_readers_stumble_over_is_refused(body: bytes, words: str) -> None:
    """As the sender's error, in a sentence without Python's words."""
    with pytest.raises(InvalidInput, match=words) as caught:
        parse_json(body)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("value", [2**53, [{"a": -(2**60)}], {"a": {"b": [1, 10**30]}}])
def test_integers_that_a_double_cannot_keep_are_found(value: object) -> None:
    """Wherever they stand."""
    found = inexact(value)
    assert found is not None
    assert abs(found) > MAX_EXACT


@pytest.mark.parametrize("value", [MAX_EXACT, [-MAX_EXACT, 1.5e300, True, None], {"a": "9" * 40}])
def test_numbers_that_a_double_keeps_pass(value: object) -> None:
    """Floats and digits in text are not meant."""
    assert inexact(value) is None


@pytest.mark.parametrize("value", [{"a": [1, "\u00e9", None]}, "\ud800", [float("inf")]])
def test_anything_can_be_written(value: object) -> None:
    """What came in by another way does not break an answer."""
    text = write_json(value)
    assert text.decode()
    assert json.loads(text) == (value if value != [float("inf")] else [None])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"b": NaN, "c": {"a": 1, "\\u0061": 2}}', '[{"a": 1, "a": 1e999}]']
)
def test_a_name_twice_is_found_however_it_is_written(text: str, encoding: str) -> None:
    """Also where something else is wrong that a reader behind this one may let pass."""
    with pytest.raises((RepeatedName, NotUtf8)):
        parse_once(text.encode(encoding))


@pytest.mark.parametrize("piece", [b"[]", b"{}", b"1", b'"x"', b'"a":1'])
def test_more_values_than_anybody_looks_through_are_refused(piece: bytes) -> None:
    """By their number, before they are made; text that looks like them is text."""
    many = piece + (b"," + piece) * VALUES
    with pytest.raises(TooLarge):
        parse_once(b"{%b}" % many if b":" in piece else b"[%b]" % many)
    assert parse_once(json.dumps(many.decode()).encode()) == many.decode()


@pytest.mark.parametrize("look", [parse_json, parse_once])
def test_quotes_that_begin_nothing_are_passed_once(look: Callable[[bytes], object]) -> None:
    """A megabyte of them behind many brackets takes no time: it took hours where each was looked at from itself to the end."""
    began = time.perf_counter()
    with pytest.raises((InvalidInput, TooLarge)):
        look(b"[" * (CONTAINERS + 1) + b'"' + b'\\"' * 1_000_000)
    assert time.perf_counter() - began < 2
