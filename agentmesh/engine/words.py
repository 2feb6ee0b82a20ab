"""Words: how a name, a description and a question become terms that can be compared. English, and nothing of any one tool.

A tool says `list_issues` and a person "which bugs are still open": the same term has to come out of `issues` and `issue`, and the
words that people use for one thing have to meet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import permutations
from typing import Final

from agentmesh.engine import thesaurus

STOP: Final = frozenset(thesaurus.STOP.split())
"""Words that say nothing of what a tool does."""

_PIECE: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
"""A run of capitals (`HTML` of `HTMLPage`), a word of camelCase, a number, or a run of another script's letters."""

_ASKED: Final[Mapping[str, tuple[str, ...]]] = {
    "who": ("user", "member"),
    "whom": ("user",),
    "when": ("date", "time"),
    "where": ("location", "search"),
    "why": ("explain", "analyze", "cause"),
    "which": ("list", "get"),
    "what": ("get", "list"),
}
"""What a question word asks for; it counts little."""

_SHORT: Final[Mapping[str, tuple[str, ...]]] = {
    "pr": ("pull", "request"),
    "prs": ("pull", "request"),
    "mr": ("merge", "request"),
    "mrs": ("merge", "request"),
    "db": ("database",),
    "docs": ("documentation",),
    "auth": ("authentication",),
    "info": ("information",),
    "k8s": ("kubernetes",),
}
"""Abbreviations that are everywhere."""


def words(text: str) -> Iterator[str]:
    """The words of a text in lower case; names come apart at dots, underscores, hyphens and camelCase."""
    for piece in _PIECE.findall(text):
        yield piece.lower()


def terms(text: str) -> Iterator[str]:
    """What is compared: stems of the words that say something."""
    for word in words(text):
        if word not in STOP:
            yield stem(word)


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A word without its ending, the same for `listing`, `lists` and `listed`. No word of a dictionary need come out."""
    if len(word) <= 3 or not word.isascii():
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending, least in _ENDINGS:
        rest = word[: -len(ending)]
        if word.endswith(ending) and len(rest) >= least and any(letter in "aeiouy" for letter in rest):
            word = rest
            if ending in {"ing", "ed"} and len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    if word.endswith("e") and len(word) > 3:
        word = word[:-1]
    if word.endswith("at") and len(word) > 6:
        word = word[:-2]
    if word.endswith("y") and len(word) > 3:
        word = word[:-1] + "i"
    return word


_ENDINGS: Final = (("ing", 3), ("ion", 4), ("ment", 4), ("ency", 4), ("ence", 4), ("ent", 5), ("ed", 3), ("ly", 4))
"""Endings that are taken off, and how much must be left."""


def _groups(table: str) -> Iterator[str]:
    return (group.strip() for group in " ".join(table.split()).split("/"))


def _stems(table: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {word: tuple(map(stem, meant)) for word, meant in table.items()}


def _phrases() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    for line in _groups(thesaurus.PHRASES):
        said, _, meant = line.partition(":")
        yield tuple(said.split()), tuple(map(stem, meant.split()))


def _substitutes() -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for line in _groups(thesaurus.SAME):
        for one, other in permutations(dict.fromkeys(map(stem, line.split())), 2):
            found.setdefault(one, {})[other] = None
    for line in _groups(thesaurus.PLAIN):
        meant, _, plain = line.partition(":")
        for word in map(stem, plain.split()):
            if word != stem(meant):
                found.setdefault(word, {})[stem(meant)] = None
    return {word: tuple(others) for word, others in found.items()}


PHRASES: Final[Mapping[tuple[str, ...], tuple[str, ...]]] = dict(_phrases())
ASKED: Final = _stems(_ASKED)
SHORT: Final = _stems(_SHORT)
SUBSTITUTES: Final[Mapping[str, tuple[str, ...]]] = _substitutes()
"""For a term the other terms that may stand for it."""
