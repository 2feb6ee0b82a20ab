"""URI template: `desk://orders/{id}` (RFC 6570, level 1), matched against a URI and filled in.

A value begins where the text before it ends and ends where the text after it begins first: matching looks at each character
once, whatever the URI. Values are percent-decoded, and what is not UTF-8 then is no match.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

LONGEST = 2048
"""Characters of a URI that is looked at."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENDS_VALUE = frozenset("/?#&")
"""Reserved characters that no value holds as they are: one that means them is written with `%`."""


@dataclass(frozen=True, slots=True)
class UriTemplate:
    """`literals` stand around `names`: one more than there are names."""

    text: str
    literals: tuple[str, ...]
    names: tuple[str, ...]

    def match(self, uri: str) -> dict[str, str] | None:
        """The values of a URI that the template gives; None when it does not."""
        if len(uri) > LONGEST or not uri.startswith(self.literals[0]):
            return None
        at, values = len(self.literals[0]), {}
        for i, name in enumerate(self.names):
            after, last = self.literals[i + 1], i + 1 == len(self.names)
            end = len(uri) - len(after) if last else uri.find(after, at)
            if end <= at or (last and not uri.endswith(after)):
                return None
            value = _decoded(uri[at:end])
            if value is None:
                return None
            values[name] = value
            at = end + len(after)
        return values if at == len(uri) else None

    def fill(self, values: Mapping[str, str]) -> str:
        """The URI of these values, each percent-encoded."""
        parts = [self.literals[0]]
        for name, after in zip(self.names, self.literals[1:], strict=True):
            parts += [quote(values[name], safe=""), after]
        return "".join(parts)


def _decoded(text: str) -> str | None:
    if _ENDS_VALUE & set(text):
        return None
    try:
        value = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None
    return value if value.isprintable() else None


_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def normal(uri: str) -> str:
    """The URI as everybody would write it (RFC 3986 sections 6.2.2.1 and 6.2.2.2): `%70` is `p`, `%2f` is `%2F`, the scheme is small.

    Two URIs that a template gives the same values are one here, so that a rule about one speaks of both.
    """
    scheme, colon, rest = uri[:LONGEST].partition(":")
    return scheme.lower() + colon + _ENCODED.sub(_plainly, rest)


def _plainly(octet: re.Match[str]) -> str:
    letter = chr(int(octet[0][1:], 16))
    return letter if letter in _UNRESERVED else octet[0].upper()


def is_template(uri: str) -> bool:
    """Whether a `uri` of a file means many."""
    return "{" in uri or "}" in uri


@lru_cache(maxsize=4096)
def uri_template(text: str) -> UriTemplate:
    """A template from its text. ValueError says what is wrong with it."""
    check_uri(text.partition("{")[0])
    pieces = re.split(r"[{}]", text)
    if (
        len(pieces) % 2 == 0
        or text.count("{") != text.count("}")
        or not re.fullmatch(r"[^{}]*(\{[^{}]*\}[^{}]*)*", text)
    ):
        raise ValueError("a brace is open, or closed, that is not the other's: write {NAME}")
    literals, names = tuple(pieces[::2]), tuple(pieces[1::2])
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{{{name}}} is not read here: a value is written {{NAME}} (RFC 6570, level 1)")
        if names.count(name) > 1:
            raise ValueError(f"{{{name}}} stands there twice")
    if any(not literal for literal in literals[1:-1]):
        raise ValueError("two values follow each other: nothing says where the first one ends")
    return UriTemplate(text, literals, names)


def check_uri(uri: str) -> None:
    """ValueError unless it begins as a URI does and holds no blanks."""
    if not _SCHEME.match(uri) or any(c.isspace() or not c.isprintable() for c in uri):
        raise ValueError("is no URI: it begins with a scheme, as desk://orders or file:///notes.md do")
    if len(uri) > LONGEST:
        raise ValueError(f"has more than {LONGEST:,} characters")


def may_match(template: str, uri: str) -> bool:
    """Whether a template of somebody else, of whatever level, may give the URI: what stands in braces is taken for any text."""
    literals = re.split(r"\{[^{}]*\}", template)
    if len(uri) > LONGEST or not uri.startswith(literals[0]):
        return False
    at = len(literals[0])
    for literal in literals[1:-1]:
        found = uri.find(literal, at)
        if found < 0:
            return False
        at = found + len(literal)
    return at == len(uri) if len(literals) == 1 else len(uri) - at >= len(literals[-1]) and uri.endswith(literals[-1])
