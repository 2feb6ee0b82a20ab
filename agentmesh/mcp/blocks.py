"""Content blocks and fields by revision: a client never gets one that the schema of its revision does not have.

What a revision cannot carry is said in text where it is content (a sound, a link), and left out where it is an ornament. The SDK
knows two shapes, 2025-11-25 for all with a handshake and 2026-07-28; this is about the older ones within the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

AUDIO_SINCE: Final = "2025-03-26"
HINTS_SINCE: Final = "2025-03-26"
"""Annotations of tools."""
TITLES_SINCE: Final = "2025-06-18"
"""`title`, `_meta` of everything but results, `structuredContent`, `outputSchema`, links to resources, `lastModified`."""
ICONS_SINCE: Final = "2025-11-25"
"""`icons`, and what an implementation says of itself."""

_RESERVED: Final = "io.modelcontextprotocol/"
"""Names in `_meta` that belong to the protocol: what an upstream says there is said of the upstream."""
_ANNOTATIONS: Final = frozenset({"audience", "priority", "lastModified"})
_LATE: Final = (("title", TITLES_SINCE), ("_meta", TITLES_SINCE), ("icons", ICONS_SINCE))


def to_blocks(blocks: Iterable[Mapping[str, Any]], version: str) -> list[dict[str, Any]]:
    """Content as a client of that revision may see it."""
    return [_block(block, version) for block in blocks]


def _block(block: Mapping[str, Any], version: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        made = {**block, "text": clean(str(block.get("text", "")))}
    elif kind == "audio" and version < AUDIO_SINCE:
        size = len(str(block.get("data", ""))) * 3 // 4
        made = _text(
            block, f"[A sound of {size} bytes, {block.get('mimeType')}, which this client's revision cannot carry.]"
        )
    elif kind == "resource_link" and version < TITLES_SINCE:
        told = " ".join(str(block[name]) for name in ("title", "name", "description") if block.get(name))
        made = _text(block, f"{told}: {block.get('uri')}")
    elif kind == "resource":
        made = {**block, "resource": to_contents([block.get("resource") or {}], version)[0]}
    else:
        made = dict(block)
    annotations = made.get("annotations")
    if annotations is not None:
        made["annotations"] = to_annotations(annotations, version)
    return trim(made, version)


def _text(block: Mapping[str, Any], text: str) -> dict[str, Any]:
    kept = {"annotations": block["annotations"]} if "annotations" in block else {}
    return {"type": "text", "text": clean(text), **kept}


def to_annotations(annotations: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Of content and resources."""
    return {
        name: value
        for name, value in annotations.items()
        if name in _ANNOTATIONS and value is not None and (name != "lastModified" or version >= TITLES_SINCE)
    }


def to_contents(contents: Sequence[Mapping[str, Any]], version: str) -> list[dict[str, Any]]:
    """`TextResourceContents` and `BlobResourceContents`."""
    made = []
    for one in contents:
        entry = trim(one, version)
        if isinstance(entry.get("text"), str):
            entry["text"] = clean(entry["text"])
        made.append(entry)
    return made


def to_messages(messages: Sequence[Mapping[str, Any]], version: str) -> list[dict[str, Any]]:
    """Messages of a prompt."""
    return [{"role": m.get("role", "user"), "content": _block(m.get("content") or {}, version)} for m in messages]


def trim(entry: Mapping[str, Any], version: str) -> dict[str, Any]:
    """An entry of a list, or a block, without the fields that came later; `_meta` without what is the protocol's own."""
    made = {name: value for name, value in entry.items() if value is not None}
    for name, since in _LATE:
        if version < since:
            made.pop(name, None)
    if (meta := made.get("_meta")) is not None:
        made["_meta"] = foreign_meta(meta)
        if not made["_meta"]:
            del made["_meta"]
    return made


def foreign_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """`_meta` that somebody else wrote, as far as it may be passed on."""
    return {name: value for name, value in meta.items() if not name.startswith(_RESERVED)}


def clean(text: str) -> str:
    """The text with what UTF-8 cannot carry (half a surrogate pair that a model wrote) replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
