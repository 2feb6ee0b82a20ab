"""Search: finds tools by what somebody wants done, among those that they may list.

BM25 over fields (Robertson and Zaragoza, 2009), on an index of its own in memory and not SQLite's FTS5: here a word has
substitutes that count less than the word itself, and a word's rarity is that among the tools that the caller may list, so that
nobody learns from an order what they may not see. `benchmarks/tool_search.py` measures both on the same questions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread

from agentmesh.core.tool import Tool
from agentmesh.engine.words import ASKED, PHRASES, SHORT, STOP, SUBSTITUTES, stem, terms, words

SERVER, NAME, TITLE, SUMMARY, DESCRIPTION, PARAMETER, VALUE = range(7)
WEIGHTS: Final = (2.0, 6.0, 4.0, 1.5, 0.2, 0.4, 0.1)
"""Of the fields: a tool's own name says most, the words about its parameters least."""
EVENNESS: Final = (0.0, 1.0, 0.4, 0.2, 0.2, 0.6, 0.8)
"""By how much a word counts less in a field that is longer than usual (BM25's `b`)."""
USUAL: Final = (1.0, 2.6, 1.6, 9.2, 16.7, 7.4, 39.0)
"""Words of a field in 511 tools of 19 servers. Constants: an average over this mesh would tell of tools one may not list."""
SATURATION: Final = 1.2
"""How soon more of the same word adds nothing (BM25's `k1`)."""
SUBSTITUTE: Final = 0.55
"""What a word of like meaning counts beside the word itself."""
ALIKE: Final = 0.6
"""What a word that begins alike, or is one letter off, counts when no tool has the word itself."""
PHRASE: Final = 0.8
"""What a word counts that several words together mean."""
QUESTION: Final = 0.3
"""What a question word's meaning counts."""
WHOLE: Final = 0.4
"""The part of a score that only a tool which has something for every word of the question gets whole."""
OPENING: Final = 120
"""Characters of a description that say what the tool does; what follows says how, and for the most part to whom."""
TEXT: Final = 2000
"""Characters that are read of one text: somebody else's server may tell a novel."""
PARAMETERS: Final = 200
"""Parameters that are read of one tool, at whatever depth."""
MANY: Final = 300
"""Tools past which a search leaves the event loop alone (six milliseconds for a thousand of them)."""
PARTS: Final = 32
"""Parts of a question that are looked for."""
GUESSES: Final = 6
"""Parts of a question that nobody has a word for and whose likes are looked for."""
PATTERN: Final = 200
"""Characters of a pattern of names."""
EXACT: Final = 1e6
OWN: Final = 1e3
"""What a tool's whole name is worth as a question, and its name without the server's."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tool as the index knows it. Made once for each definition."""

    tool: Tool
    terms: Mapping[str, float]
    """What the tool has to say for a term, from 0 to 1."""


def entry_of(tool: Tool) -> Entry:
    """Reads a tool; 0.2 ms for a usual one."""
    fields: list[Counter[str]] = [Counter() for _ in WEIGHTS]
    server, _, own = tool.name[:TEXT].rpartition(".")
    fields[SERVER].update(terms(server))
    fields[NAME].update(term for term in terms(own) if term not in fields[SERVER])  # `slack.slack_post_message`
    fields[TITLE].update(terms(str(tool.title or tool.annotations.get("title") or "")[:TEXT]))
    fields[SUMMARY].update(terms(tool.description[:OPENING]))
    fields[DESCRIPTION].update(terms(tool.description[OPENING:TEXT]))
    for kind, text in _parameters(tool.input_schema):
        fields[kind].update(terms(text[:TEXT]))
    weighed: Counter[str] = Counter()
    for kind, counts in enumerate(fields):
        length = 1 - EVENNESS[kind] + EVENNESS[kind] * counts.total() / USUAL[kind]
        for term, count in counts.items():
            weighed[term] += WEIGHTS[kind] * count / length  # type: ignore[assignment]  # a Counter of floats
    return Entry(tool, {term: weight / (SATURATION + weight) for term, weight in weighed.items()})


def _parameters(schema: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """The names of the parameters, and what is said of them, the outer ones first."""
    waiting: list[Any] = [schema]
    left = PARAMETERS
    for part in waiting:
        inner: list[Any] = [part.get("items"), part.get("additionalProperties")]
        for choices in (part.get(key) for key in ("anyOf", "oneOf", "allOf")):
            inner += choices if isinstance(choices, list) else []
        properties = part.get("properties")
        for name, value in properties.items() if isinstance(properties, Mapping) else ():
            if (left := left - 1) < 0:
                return
            yield PARAMETER, str(name)
            if isinstance(value, Mapping):
                values = value.get("enum")
                yield VALUE, str(value.get("description") or "")
                yield VALUE, " ".join(map(str, values[:50])) if isinstance(values, list) else ""
                inner.append(value)
        if len(waiting) < PARAMETERS:
            waiting += [each for each in inner if isinstance(each, Mapping)]


class Index:
    """Tools by the words that they say of themselves. Never changes: `of` makes another."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = {entry.tool.name: entry for entry in entries}
        self._postings: dict[str, dict[str, float]] = {}
        for name, entry in self._entries.items():
            for term, part in entry.terms.items():
                self._postings.setdefault(term, {})[name] = part

    def of(self, tools: Mapping[str, Tool]) -> Index:
        """The index of these tools; only what has changed is read again."""
        known = self._entries
        return Index(
            known[name] if name in known and _same(known[name].tool, tool) else entry_of(tool)
            for name, tool in tools.items()
        )

    def search(self, query: str, among: Mapping[str, Tool]) -> list[Tool]:
        """The tools of `among` that match, best first.

        One word with `*` or `?` in it is a pattern of names, and `server.tool` that very tool.
        """
        wanted = query.strip().casefold()
        if _is_pattern(wanted):
            return [tool for name, tool in sorted(among.items()) if _is_named(name, wanted)]
        exact = [tool for name, tool in among.items() if "." in wanted and name.casefold() == wanted]
        if exact:
            return exact
        scores = self._scores(wanted, among)
        for name in among:
            folded = name.casefold()
            if folded == wanted:
                scores[name] = EXACT
            elif folded.rpartition(".")[2] == wanted:
                scores[name] = scores.get(name, 0.0) + OWN
        return [among[name] for name in sorted(scores, key=lambda name: (-scores[name], name))]

    def _scores(self, query: str, among: Mapping[str, Tool]) -> dict[str, float]:
        found: dict[str, float] = {}
        met: dict[str, float] = {}
        asked = 0.0
        guesses = 0
        for part in parts_of(query):
            best: dict[str, float] = {}
            variants = self._variants(part, among)
            if not variants and (guesses := guesses + 1) <= GUESSES:
                variants = self._alike(part)
            for term, weight in variants.items():
                posting = {n: said for n, said in self._postings.get(term, {}).items() if n in among}
                # The square root: a rare word is a better hint than a common one, but not as much better as in prose.
                rarity = math.sqrt(math.log(1 + (len(among) - len(posting) + 0.5) / (len(posting) + 0.5)))
                for name, said in posting.items():
                    if (score := weight * rarity * said) > best.get(name, 0.0):
                        best[name] = score
            importance = max(part.values())
            asked += importance
            for name, score in best.items():
                found[name] = found.get(name, 0.0) + score
                met[name] = met.get(name, 0.0) + importance
        return {name: score * (1 - WHOLE + WHOLE * met[name] / asked) for name, score in found.items()}

    def _variants(self, part: Mapping[str, float], among: Mapping[str, Tool]) -> dict[str, float]:
        """The terms that answer one part of a question, and what each counts; none when no tool has a word for it."""
        found: dict[str, float] = {}
        for term, weight in part.items():
            for other in (term, *SUBSTITUTES.get(term, ())):
                counts = weight if other == term else weight * SUBSTITUTE
                if counts > found.get(other, 0.0) and any(name in among for name in self._postings.get(other, ())):
                    found[other] = counts
        return found

    def _alike(self, part: Mapping[str, float]) -> dict[str, float]:
        """The terms that are nearly those of a part: a slip of the key, or a longer word."""
        return {
            other: weight * ALIKE
            for term, weight in part.items()
            if len(term) > 3
            for other in self._postings
            if _alike(term, other)
        }


class ToolSearch:
    """The index of a mesh's tools, kept in step with them."""

    def __init__(self, everything: Callable[[], Sequence[Mapping[str, Tool]]]) -> None:
        """`everything`: all tools there are, in mappings that are replaced when they change, never altered."""
        self._everything = everything
        self._seen: Sequence[Mapping[str, Tool]] = ()
        self._index = Index()
        self._lock = anyio.Lock()

    async def find(self, query: str, among: Mapping[str, Tool]) -> list[Tool]:
        """The tools of `among` that match, best first; see `Index.search`. Many tools are read and searched in a thread."""
        async with self._lock:  # one of several callers reads the tools again
            tools = self._everything()
            if len(tools) != len(self._seen) or any(new is not old for new, old in zip(tools, self._seen, strict=True)):
                whole = {name: tool for some in reversed(tools) for name, tool in some.items()}
                self._index = await _aside(len(whole) > MANY // 10, partial(self._index.of, whole))
                self._seen = tools
        return await _aside(len(among) > MANY, partial(self._index.search, query, among))


async def _aside(large: bool, work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work) if large else work()


def parts_of(query: str) -> list[dict[str, float]]:
    """What a question asks for, part by part: for each the terms that say it, and what each counts."""
    said = list(words(query))
    left = dict(enumerate(said))
    parts: list[dict[str, float]] = []
    for length in (4, 3, 2):
        for at in range(len(said) - length + 1):
            here = range(at, at + length)
            meant = PHRASES.get(tuple(said[at : at + length]))
            if meant and all(i in left for i in here):
                parts.append(dict.fromkeys(meant, PHRASE))
                for i in here:
                    del left[i]
    for at, verb in enumerate(said):  # `take the label off`: a verb whose particle comes later
        for then in range(at + 2, min(at + 6, len(said))):
            meant = PHRASES.get((verb, said[then]))
            if meant and at in left and then in left:
                parts.append({**dict.fromkeys(meant, PHRASE), stem(verb): PHRASE / 2})
                del left[at], left[then]
                break
    for word in left.values():
        if word in SHORT:
            parts += [{term: 1.0} for term in SHORT[word]]
        elif word in ASKED:
            parts.append(dict.fromkeys(ASKED[word], QUESTION))
        elif word not in STOP:
            parts.append({stem(word): 1.0})
    return [part for i, part in enumerate(parts[: 2 * PARTS]) if part not in parts[:i]][:PARTS]


def _same(known: Tool, tool: Tool) -> bool:
    return known is tool or known == tool


def _is_pattern(wanted: str) -> bool:
    return len(wanted) <= PATTERN and len(wanted.split()) == 1 and ("*" in wanted or "?" in wanted[:-1])


def _is_named(name: str, pattern: str) -> bool:
    folded = name.casefold()
    return fnmatchcase(folded, pattern) or fnmatchcase(folded.rpartition(".")[2], pattern)


def _alike(term: str, other: str) -> bool:
    """Whether one begins with the other, or they differ by one letter."""
    if term[0] != other[0] or len(other) < 4:
        return False
    if term.startswith(other) or other.startswith(term):
        return True
    if abs(len(term) - len(other)) > 1 or len(term) < 5:
        return False
    short, long = sorted((term, other), key=len)
    at = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return short[at:] == long[at + 1 :] or short[at + 1 :] == long[at + 1 :]
