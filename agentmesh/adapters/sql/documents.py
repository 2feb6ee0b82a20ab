"""Documents: JSON text on its way into a column, or into a blob when it is long."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Any

from agentmesh.adapters.json_text import decode

INLINE = 32 * 1024
"""Longer texts (in characters) are blobs by content: a value that several runs and steps share is stored once."""
INLINE_IN_RUN = 1024
"""The same for what stands in a run's row, which SQLite writes anew with every append."""
_PACK_LEVEL = 1
"""Logs shrink tenfold at the fastest level; a higher one costs the caller more time than the disk saves."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A row of the blob table."""

    sha256: str
    size: int
    packed: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """What a pair of columns holds: the text, or the blob that holds it."""

    text: str | None = None
    blob: Blob | None = None

    @property
    def sha256(self) -> str | None:
        return None if self.blob is None else self.blob.sha256


Text = str | Blob
"""A payload on its way into the journal: as it stands, or its blob."""


def is_slow(text: str) -> bool:
    """Whether `document` has work to do that does not belong on an event loop."""
    return len(text) > INLINE


def document(text: str, inline: int = INLINE) -> Document:
    """The text as it will be stored; hashes one that is not inline, and packs a long one."""
    if len(text) <= inline:
        return Document(text)
    raw = text.encode()
    packed = zlib.compress(raw, _PACK_LEVEL) if is_slow(text) else raw
    helps = len(packed) < len(raw) * 0.9
    return Document(None, Blob(hashlib.sha256(raw).hexdigest(), len(raw), helps, packed if helps else raw))


def payload(text: str) -> Text:
    """The text of a payload as it will be stored."""
    return text if len(text) <= INLINE else document(text).blob or text


def value(text: str | None, packed: bool | None, data: bytes | None) -> Any:
    """The JSON value of a column with its joined blob; None when both are absent."""
    if data is not None:
        return decode((zlib.decompress(data) if packed else bytes(data)).decode())
    return None if text is None else decode(text)
