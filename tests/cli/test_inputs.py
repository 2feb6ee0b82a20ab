"""`--input` as JSON, by schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agentmesh.cli.inputs import MAX_BYTES, parse, value
from agentmesh.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "string"}, "12", "12"),
        ({"type": "string"}, "a=b", "a=b"),
        ({"type": "string"}, "", ""),
        ({"type": "integer"}, "12", 12),
        ({"type": "number"}, "1.5", 1.5),
        ({"type": "boolean"}, "true", True),
        ({"type": "array"}, '["a"]', ["a"]),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "integer"]}, "12", 12),
        ({"type": ["string", "null"]}, "12", "12"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({}, "12", "12"),
    ],
)
def test_a_value_is_parsed_by_its_schema(schema: dict[str, Any], text: str, expected: Any) -> None:
    """Text stays text where text is allowed; other types are read as JSON."""
    parsed = parse([f"x={text}"], {"properties": {"x": schema}})["x"]
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["x"], "--input takes NAME=VALUE or @FILE, not 'x'; the inputs are n"),
        (["=1"], "not '=1'"),
        (["n=many"], "--input n must be integer, and 'many' is not"),
        (["n=true"], "--input n must be integer, and 'true' is not"),
        (["n=1.5"], "--input n must be integer, and '1.5' is not"),
        (["n=1", "n=2"], "gives 'n' twice"),
        (["n=@/no/such/file"], "cannot read '/no/such/file': no such file or directory"),
    ],
)
def test_a_wrong_input_is_one_sentence(pairs: list[str], sentence: str) -> None:
    """What cannot be understood is refused before anything is started."""
    with pytest.raises(InvalidInput) as caught:
        parse(pairs, {"properties": {"n": {"type": "integer"}}})
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    """`@file` is the file's text, with what is not UTF-8 replaced, and `@@` a plain @."""
    log = tmp_path / "build.log"
    log.write_bytes(b"first\r\nsecond \xff\n")
    schema = {"properties": {"log": {"type": "string"}}}
    assert parse([f"log=@{log}"], schema) == {"log": "first\r\nsecond \ufffd\n"}
    assert parse(["log=@@here"], schema) == {"log": "@here"}


def test_a_file_without_an_end_is_not_read_for_ever() -> None:
    """No more is read than a server would take."""
    with pytest.raises(InvalidInput, match=f"'/dev/zero' has more than {MAX_BYTES:,} bytes"):
        parse(["log=@/dev/zero"], {})


def test_a_message_is_named_by_its_own_option() -> None:
    """`agents send` has no --input, so what is wrong there is not called one."""
    with pytest.raises(InvalidInput) as caught:
        value("--data", "{bad", {"type": "object"})
    assert caught.value.message == "--data must be object, and '{bad' is not"
    with pytest.raises(InvalidInput) as caught:
        parse(["TEXT=@/no/such/file"], {})
    assert caught.value.message.startswith("TEXT: cannot read '/no/such/file'")


def test_a_whole_object_is_read_from_a_file(tmp_path: Path) -> None:
    """`@object.json` gives every input at once; a name may not come twice."""
    whole = tmp_path / "object.json"
    whole.write_text(json.dumps({"a": 1, "b": [2]}))
    assert parse([f"@{whole}", "c=x"], {}) == {"a": 1, "b": [2], "c": "x"}
    with pytest.raises(InvalidInput, match="a second time"):
        parse(["a=x", f"@{whole}"], {})
    whole.write_text("[1]")
    with pytest.raises(InvalidInput, match="must hold a JSON object"):
        parse([f"@{whole}"], {})
