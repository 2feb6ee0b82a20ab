"""Challenge: what an upstream says in `WWW-Authenticate` when it lets a request not through (RFC 6750 section 3, RFC 9728 section 5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for a name
_PART = re.compile(
    rf"""\s*,?\s*(?:
        (?P<name>{_TOKEN})\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,"]+))
        |(?P<scheme>{_TOKEN})(?:\s+(?P<blob>[A-Za-z0-9._~+/-]+=*)(?=\s*(?:,|$)))?
    )""",
    re.VERBOSE,
)
LONGEST = 8192
"""Characters of a header that are looked at."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a bearer token would have to be like."""

    metadata_url: str | None = None
    """Where the upstream's protected resource metadata is."""
    scope: str | None = None
    """Scopes between spaces."""
    error: str | None = None


def challenge_of(headers: Iterable[str]) -> Challenge:
    """The parameters of the `Bearer` challenges in the values of `WWW-Authenticate`; other schemes are passed over."""
    found: dict[str, str] = {}
    for header in headers:
        text, at, bearer = header[:LONGEST], 0, False
        while at < len(text) and (part := _PART.match(text, at)) is not None and part.end() > at:
            at = part.end()
            if part["scheme"] is not None:
                bearer = part["scheme"].lower() == "bearer"
            elif bearer:
                value = part["bare"] if part["quoted"] is None else re.sub(r"\\(.)", r"\1", part["quoted"])
                found.setdefault(part["name"].lower(), value)
    return Challenge(found.get("resource_metadata"), _scope(found.get("scope")), found.get("error"))


def _scope(text: str | None) -> str | None:
    return join(text) if text and text.strip() else None


def join(*scopes: str | None) -> str | None:
    """Scopes between spaces, each once, in the order in which they are first named; None when there are none."""
    names = dict.fromkeys(name for scope in scopes if scope for name in scope.split())
    return " ".join(names) or None


def covers(scope: str | None, wanted: str | None) -> bool:
    """Whether every wanted scope is among these."""
    return set((wanted or "").split()) <= set((scope or "").split())
