"""URI templates: what they match, what they never match, and what they cost."""

from __future__ import annotations

import time

import pytest

from agentmesh.core.uri_template import may_match, uri_template


def test_values_are_decoded_and_filled_in_encoded() -> None:
    """RFC 6570 level 1, both ways."""
    template = uri_template("desk://orders/{id}/items/{item}")
    assert template.match("desk://orders/a%20b/items/%C3%A4") == {"id": "a b", "item": "ä"}
    assert template.fill({"id": "a/b", "item": "ä"}) == "desk://orders/a%2Fb/items/%C3%A4"
    assert template.match(template.fill({"id": "a/b", "item": "{x}"})) == {"id": "a/b", "item": "{x}"}


@pytest.mark.parametrize(
    "uri",
    [
        "desk://orders//items/1", "desk://orders/a/b/items/1", "desk://orders/1/items/", "desk://orders/1/items/2/3",
        "desk://orders/1/items/2?x=1", "desk://orders/%FF/items/1", "desk://orders/%00/items/1", "desk://orders/1", "",
        "desk://orders/" + "1" * 5000 + "/items/2",
    ],
)  # fmt: skip
def test_what_is_not_of_the_template_does_not_match(uri: str) -> None:
    """No empty value, none across a slash, none that is no text."""
    assert uri_template("desk://orders/{id}/items/{item}").match(uri) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("orders/{id}", "scheme"),
        ("desk://{id", "brace"),
        ("desk://id}", "brace"),
        ("desk://{a{b}}", "brace"),
        ("desk://{+path}", "level 1"),
        ("desk://{}", "level 1"),
        ("desk://{a}{b}", "follow each other"),
        ("desk://{a}/{a}", "twice"),
    ],
)
def test_what_is_no_template_is_told(text: str, message: str) -> None:
    """With what is wrong."""
    with pytest.raises(ValueError, match=message):
        uri_template(text)


def test_matching_looks_at_each_character_once() -> None:
    """Many values and a URI made to try every division of itself: still no time at all."""
    template = uri_template("x://" + "-".join(f"{{a{i}}}" for i in range(60)))
    began = time.perf_counter()
    for _ in range(100):
        assert template.match("x://" + "-" * 2000) is None
        template.match("x://" + "a-" * 1000)
    assert time.perf_counter() - began < 1


def test_a_template_of_somebody_else_may_mean_what_lies_around_its_braces() -> None:
    """Of whatever level."""
    assert may_match("file:///{+path}", "file:///a/b.txt")
    assert may_match("x://{a}/end", "x://1/2/end")
    assert not may_match("x://{a}/end", "x://1/other")
    assert not may_match("x://fixed", "x://fixed/more")
    assert not may_match("x://ab{y}ba", "x://aba")
