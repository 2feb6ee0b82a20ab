"""YAML 1.2 (core schema) to a Document, on PyYAML's pure scanner and parser.

PyYAML itself is YAML 1.1 (`on:` is the key True, `12:30` is 750) and trusts its input; its C parser crashes the process
on 200,000 `[`. So only its events are used and the values are built here, with limits: size, depth, how many values all
aliases expand to; no tags, no duplicate keys, one document. Slow for its size: call it in a thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.error import MarkedYAMLError
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.scanner import Scanner

from agentmesh.core.document import Document, Path, Place
from agentmesh.errors import Fault, ProjectError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
MAX_VALUES = 10_000
"""Values in one file, what aliases repeat counted each time."""
LARGE_BYTES = 8 * 1024 * 1024
LARGE_VALUES = 400_000
"""Of a description of somebody's API. Such texts are read by libyaml's events, twenty times as fast; its depth is bounded here too."""

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE, _FALSE = {"true", "True", "TRUE"}, {"false", "False", "FALSE"}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_JSON = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def read_yaml(data: bytes, file: str, *, large: bool = False) -> Document:
    """The document; ProjectError with one Fault when it is not YAML or too large. `file` is what the fault names.

    `large`: no project file but a description of an API, which may be as large as LARGE_BYTES.
    """
    longest = LARGE_BYTES if large else MAX_BYTES
    if len(data) > longest:
        raise ProjectError([Fault(file, 0, 0, f"the file has {len(data):,} bytes, more than {longest:,}")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProjectError([Fault(file, line, 1, "the file is not UTF-8 text")]) from None
    if "\x00" in text:
        raise ProjectError([Fault(file, text.count("\n", 0, text.index("\x00")) + 1, 1, "the file is not text")])
    blank = Document(file, text, None)
    try:
        builder = _Builder(blank, large=large)
        value = builder.build()
    except _Refused as error:
        raise ProjectError([blank.fault_at(error.at, error.message)]) from None
    except ReaderError as error:
        raise ProjectError([blank.fault_at(error.position, "the file has a control character")]) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ProjectError([_explain(blank, error, mark.index if mark else 0)]) from None
    except RecursionError:
        raise ProjectError([Fault(file, 0, 0, "the file is nested too deeply")]) from None
    return Document(file, text, value, builder.places)


class _Refused(Exception):
    """YAML, but not what a project file may hold. Leaves this module as a Fault."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message


def _fast_events(text: str) -> Iterator[Any]:
    """Events of libyaml, as they are asked for: whoever stops at a depth never has it read much deeper."""
    try:
        from yaml._yaml import CParser
    except ImportError:  # a PyYAML that was built without it
        yield from _Events(text)
        return
    parser = CParser(text)
    while parser.check_event():
        yield parser.get_event()


class _Events(Reader, Scanner, Parser):
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def __iter__(self) -> Iterator[Any]:
        while self.check_event():
            yield self.get_event()  # type: ignore[no-untyped-call]


class _Builder:
    """Values from events, each with its place."""

    def __init__(self, document: Document, *, large: bool = False) -> None:
        self.document = document
        self._large = large
        self.places: dict[Path, Place] = {}
        self._anchors: dict[str, tuple[Any, list[tuple[Path, Place]]]] = {}
        self._seen: list[Path] = []
        """Every path in the order of the text, so that what an anchor holds is one stretch of it."""
        self._most = self._left = LARGE_VALUES if large else MAX_VALUES

    def build(self) -> Any:
        text = self.document.text
        events = _fast_events(text) if self._large else iter(_Events(text))
        value: Any = None
        documents = 0
        for event in events:
            at: int = event.start_mark.index
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _Refused(at, "one file holds one document; a second begins here")
                if event.tags:
                    raise _Refused(at, "tags are not allowed")
                value = self._value(next(events), events, (), 0, None)
            elif isinstance(event, StreamEndEvent):
                break
        if documents == 0:
            self.places[()] = Place(0, 0)
        return value

    def _value(self, event: Any, events: Iterator[Any], path: Path, depth: int, key: int | None) -> Any:
        at: int = event.start_mark.index
        end: int = event.end_mark.index
        self._left -= 1
        if self._left < 0:
            raise _Refused(at, f"the file has more than {self._most:,} values")
        if isinstance(event, AliasEvent):
            return self._repeat(event, path, key)
        if depth > MAX_DEPTH:
            raise _Refused(at, f"the file is nested deeper than {MAX_DEPTH} levels")
        begun = len(self._seen)
        self._seen.append(path)
        if event.tag is not None:
            raise _Refused(at, _about_tag(self._line(at), event.tag))
        if isinstance(event, ScalarEvent):
            if any("\ud800" <= c <= "\udfff" for c in event.value if c > "\ud7ff"):
                raise _Refused(at, "the text has half of a character (a lone surrogate)")
            self.places[path] = Place(at, end, event.style or "", key)
            value = event.value if event.style else self._plain(event.value, at)
        elif isinstance(event, CollectionStartEvent):
            self.places[path] = Place(at, end, "", key)
            begin = self._mapping if isinstance(event, MappingStartEvent) else self._sequence
            value = begin(events, path, depth + 1)
        if event.anchor is not None:
            n = len(path)
            inside = [(p[n:], self.places[p]) for p in self._seen[begun:]]
            self._anchors[event.anchor] = (value, inside)
        return value

    def _repeat(self, event: Any, path: Path, key: int | None) -> Any:
        at = event.start_mark.index
        if event.anchor not in self._anchors:
            raise _Refused(at, f"there is no anchor &{event.anchor} before this")
        value, inside = self._anchors[event.anchor]
        self._left -= len(inside)
        if self._left < 0:
            raise _Refused(at, f"the file has more than {self._most:,} values once its aliases are expanded")
        for below, place in inside:
            if len(path) + len(below) > MAX_DEPTH:
                raise _Refused(at, f"the file is nested deeper than {MAX_DEPTH} levels")
            self.places[(*path, *below)] = place
            self._seen.append((*path, *below))
        self.places[path] = Place(at, event.end_mark.index, "", key)
        return value

    def _sequence(self, events: Iterator[Any], path: Path, depth: int) -> list[Any]:
        items: list[Any] = []
        for event in events:
            if isinstance(event, SequenceEndEvent):
                break
            items.append(self._value(event, events, (*path, len(items)), depth, None))
        return items

    def _mapping(self, events: Iterator[Any], path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in events:
            if isinstance(event, yaml.events.MappingEndEvent):
                break
            at = event.start_mark.index
            if not isinstance(event, ScalarEvent) or event.tag is not None:
                raise _Refused(at, _about_key(self._line(at)))
            name = event.value
            if name == "<<" and not event.style:
                raise _Refused(at, "'<<' merges are not YAML 1.2; repeat the keys")
            if name in found:
                raise _Refused(
                    at, f"the key {name!r} stands here twice, first in line {self._line_number((*path, name))}"
                )
            found[name] = self._value(next(events), events, (*path, name), depth, at)
        return found

    def _line_number(self, path: Path) -> int:
        place = self.places[path]
        return self.document.text.count("\n", 0, place.key if place.key is not None else place.start) + 1

    def _line(self, at: int) -> str:
        return _line_of(self.document.text, at)

    def _plain(self, text: str, at: int) -> Any:
        """A plain scalar by the YAML 1.2 core schema (section 10.3.2)."""
        if text in _NULL:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if _INT.fullmatch(text):
            if len(text) > 20:
                raise _Refused(at, "the number is too large; quote it to mean text")
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                raise _Refused(at, "the number is too large; quote it to mean text")
            return number
        if _NOT_JSON.fullmatch(text):
            raise _Refused(at, f"{text} is not a JSON number; quote it to mean text")
        return text


# Saying what would be right

_ENTRY = re.compile(r"^(?P<lead>[\s-]*)(?P<key>[A-Za-z_][\w-]*):\s+(?P<value>\S.*?)\s*$")
_FILLED = re.compile(r"(?<![\"'\w])\$\{\{.*?\}\}")


def _line_of(text: str, at: int) -> str:
    begin = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    return text[begin : end if end >= 0 else len(text)].rstrip("\r")


def quoted(text: str) -> str:
    """A string as it may stand in YAML."""
    return f'"{text}"' if '"' not in text and "\\" not in text else "'" + text.replace("'", "''") + "'"


def _quote_hint(line: str) -> str:
    """`; quote it: if: "!has(input.x)"` when the line is an expression that YAML cannot read bare; else nothing."""
    entry = _ENTRY.match(line)
    if entry is None:
        filled = _FILLED.sub(lambda m: quoted(m[0]), line)
        return f"; an expression in '{{...}}' or '[...]' must be quoted: {filled.strip()}" if filled != line else ""
    key, value = entry["key"], entry["value"]
    if "${{" in value and value[0] in "{[":
        filled = _FILLED.sub(lambda m: quoted(m[0]), value)
        return f"; '${{{{ }}}}' inside '{{...}}' or '[...]' must be quoted: {key}: {filled}" if filled != value else ""
    if value[0] in "!'\"[{%@`&*" or ": " in value:
        return f"; an expression that begins with {value[0]!r} or holds ': ' must be quoted: {key}: {quoted(value)}"
    return ""


def _about_tag(line: str, tag: str) -> str:
    hint = _quote_hint(line)
    return f"YAML reads {tag!r} as a tag{hint}" if hint else f"tags such as {tag!r} are not allowed"


def _about_key(line: str) -> str:
    return f"a key must be text{_quote_hint(line)}"


def _explain(document: Document, error: MarkedYAMLError, at: int) -> Fault:
    """PyYAML's problem with the line quoted as it would be right."""
    lines = [_line_of(document.text, at)]
    if error.context_mark is not None and error.context_mark.index != at:
        lines.append(_line_of(document.text, error.context_mark.index))
    hint = next((h for h in map(_quote_hint, lines) if h), "")
    problem = error.problem or "not YAML"
    plain = {
        "mapping values are not allowed here": "': ' is not allowed inside a plain value",
        "found character '\\t' that cannot start any token": "indent with spaces, not with a tab",
        "found unexpected end of stream": "the file ends inside a quoted value",
    }.get(problem, problem)
    plain = (
        plain.replace("<block end>", "the end of the block")
        .replace("<scalar>", "text")
        .replace("<block mapping start>", "a key")
    )
    return document.fault_at(at, f"not YAML: {plain}{hint}")
