"""MCP content blocks as A2A parts: what a workflow came to whose last step is a tool that shows pictures, sounds, files or links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentmesh.core.run import JSON

_PLAIN: Final = "text/plain"
_OCTETS: Final = "application/octet-stream"


def blocks_of(output: JSON) -> list[Mapping[str, Any]] | None:
    """The content blocks that a run's output is (`core.content.value_of`); None when it is any other value."""
    if not isinstance(output, Mapping) or len(output) != 1 or not isinstance(output.get("content"), list):
        return None
    blocks: list[Mapping[str, Any]] = output["content"]
    known = all(isinstance(block, Mapping) and block.get("type") in _PARTS for block in blocks)
    return blocks if blocks and known else None


def part_of(block: Mapping[str, Any]) -> dict[str, Any]:
    """One block as a part."""
    return _PARTS[block["type"]](block)


def _text(block: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": str(block.get("text", "")), "mediaType": _PLAIN}


def _bytes(block: Mapping[str, Any]) -> dict[str, Any]:
    return {"raw": str(block.get("data", "")), "mediaType": str(block.get("mimeType") or _OCTETS)}


def _link(block: Mapping[str, Any]) -> dict[str, Any]:
    made = {"url": str(block.get("uri", "")), "mediaType": str(block.get("mimeType") or _OCTETS)}
    return made | ({"filename": str(block["name"])} if block.get("name") else {})


def _resource(block: Mapping[str, Any]) -> dict[str, Any]:
    held: Mapping[str, Any] = block.get("resource") or {}
    named = {"filename": name} if (name := str(held.get("uri", "")).rpartition("/")[2]) else {}
    if isinstance(held.get("blob"), str):
        return {"raw": held["blob"], "mediaType": str(held.get("mimeType") or _OCTETS), **named}
    return {"text": str(held.get("text", "")), "mediaType": str(held.get("mimeType") or _PLAIN), **named}


_PARTS: Final = {"text": _text, "image": _bytes, "audio": _bytes, "resource_link": _link, "resource": _resource}
