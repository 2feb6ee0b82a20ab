"""Card keys: what the mesh's agent cards are signed with (A2A 1.0.1 section 8.4), and what others check that by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class CardKey(Protocol):
    """A private key."""

    @property
    def kid(self) -> str:
        """Its name among the published ones."""

    @property
    def alg(self) -> str:
        """As JWS names it (RFC 7518)."""

    def sign(self, data: bytes) -> bytes:
        """The signature as JWS has it; always the same for the same data. Waits for nothing."""


class CardKeys(Protocol):
    """The keys of a mesh, the same ones on each of its servers."""

    def current(self) -> CardKey:
        """The one that signs now."""

    def published(self) -> Sequence[Mapping[str, Any]]:
        """The public parts as JWKs (RFC 7517): of the current key, of earlier ones for a while, of the next one some time before."""
