"""Content: what a tool answers besides JSON, as MCP has it: text, images, audio, links and embedded resources.

A block is a plain dict in the wire's spelling (specification 2026-07-28, schema `ContentBlock`).
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Block = Mapping[str, Any]
"""One content block."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a function of a tool may return in place of JSON: blocks, in the order in which they are shown."""

    blocks: Sequence[Block]
    structured: Any = None
    """The value for machines (MCP `structuredContent`), when there is one beside what is shown."""
    is_error: bool = False
    """The tool failed, and the blocks say how."""

    @property
    def value(self) -> Any:
        """The one JSON value that it is for a step: `structured`, else a lone text, else `{content: [...]}`."""
        return value_of(self.blocks, self.structured)


def value_of(blocks: Sequence[Block], structured: Any = None) -> Any:
    """The one JSON value that blocks are for a step of a workflow: see `Content.value`."""
    if structured is not None:
        return structured
    if len(blocks) == 1 and blocks[0].get("type") == "text":
        return blocks[0].get("text", "")
    return {"content": [dict(block) for block in blocks]}


def text_of_blocks(blocks: Sequence[Block]) -> str:
    """The text of the blocks that have some, a line each; their JSON when none has."""
    lines = [str(block.get("text", "")) for block in blocks if block.get("type") == "text"]
    return "\n".join(lines) if lines or not blocks else json.dumps([dict(block) for block in blocks])


def text(said: str) -> dict[str, Any]:
    """A text block."""
    return {"type": "text", "text": said}


def image(data: bytes, mime_type: str) -> dict[str, Any]:
    """An image block; `mime_type` such as `image/png`."""
    return {"type": "image", "data": b64encode(data).decode(), "mimeType": mime_type}


def audio(data: bytes, mime_type: str) -> dict[str, Any]:
    """An audio block; `mime_type` such as `audio/wav`."""
    return {"type": "audio", "data": b64encode(data).decode(), "mimeType": mime_type}


def resource(uri: str, content: str | bytes, mime_type: str) -> dict[str, Any]:
    """An embedded resource."""
    return {"type": "resource", "resource": contents(uri, content, mime_type)}


def contents(uri: str, content: str | bytes, mime_type: str) -> dict[str, Any]:
    """What `resources/read` gives for a resource: text as text, bytes as base64 (schema `TextResourceContents`)."""
    given = {"text": content} if isinstance(content, str) else {"blob": b64encode(content).decode()}
    return {"uri": uri, "mimeType": mime_type, **given}
