"""Statement: what can be told of the text of a `sql` step without a database."""

from __future__ import annotations

import re
from collections.abc import Callable

_TOKEN = re.compile(
    r"""
    (?P<skip> --[^\n]* | /\*.*?\*/ | '(?:''|[^'])*' | "(?:""|[^"])*" | `[^`]*` | (?P<tag>\$\w*\$).*?(?P=tag) | :: )
    | :(?P<name>[A-Za-z_]\w*)
    | (?P<end>;)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<open>'|"|/\*)
    """,
    re.VERBOSE | re.DOTALL,
)
READING = frozenset({"select", "with", "values", "explain", "show", "table", "pragma"})
_CHANGING = frozenset({"insert", "update", "delete", "merge"})


class Word(str):
    """A word of a statement, in capitals, and where it stands."""

    __slots__ = ("offset",)
    offset: int

    def __new__(cls, text: str, offset: int) -> Word:
        word = super().__new__(cls, text.upper())
        word.offset = offset
        return word


def parameters_of(text: str) -> dict[str, int]:
    """Names of the `:name` parameters, each with the offset of its first mention; what is quoted or a comment holds none."""
    found: dict[str, int] = {}
    for token in _TOKEN.finditer(text):
        if token["name"]:
            found.setdefault(token["name"], token.start())
    return found


def statement_faults(text: str) -> list[tuple[int, str]]:
    """(offset, message) where the text is not one whole statement."""
    ended: int | None = None
    empty = True
    for token in _TOKEN.finditer(text):
        if token["open"]:
            return [(token.start(), f"this {token['open']} is never closed")]
        if token["skip"]:
            continue
        if token["end"]:
            ended = token.start() if ended is None else ended
        elif ended is not None:
            return [(token.start(), "a sql step holds one statement; a second begins here")]
        else:
            empty = False
    return [(0, "the statement is empty")] if empty else []


def writes(text: str) -> Word | None:
    """The word by which a statement changes the database, as far as the text tells; None when it only reads."""
    words = [Word(t["word"], t.start()) for t in _TOKEN.finditer(text) if t["word"]]
    if not words:
        return None
    first = words[0].lower()
    if first not in READING:
        return words[0]
    if first == "with":
        return next((word for word in words if word.lower() in _CHANGING), None)
    return None


def rewritten(text: str, parameter: Callable[[str], str], rest: Callable[[str], str]) -> str:
    """The text with `parameter(name)` for each `:name`, and everything else through `rest`."""
    parts: list[str] = []
    at = 0
    for token in _TOKEN.finditer(text):
        if token["name"]:
            parts += [rest(text[at : token.start()]), parameter(token["name"])]
            at = token.end()
    return "".join([*parts, rest(text[at:])])
