"""What a client of each revision gets: no block, field or kind that its published schema does not have."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_types import methods

from agentmesh.core.resource import Prompt, PromptArgument, Resource, ResourceTemplate
from agentmesh.core.tool import Tool, ToolResult
from agentmesh.mcp.convert import to_mcp_result, to_mcp_tool
from agentmesh.mcp.offered import to_prompt, to_resource, to_template
from tests.requirements import covers

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
META = {"acme/k": 1, "io.modelcontextprotocol/serverInfo": {"name": "an upstream", "version": "1"}}
HINTS = {"audience": ["user"], "priority": 0.5, "lastModified": "2026-01-01T00:00:00Z", "nobody": "knows"}
BLOCKS = (
    {"type": "text", "text": "half \ud800", "annotations": HINTS, "_meta": META},
    {"type": "image", "data": "QQ==", "mimeType": "image/png"},
    {"type": "audio", "data": "QUFBQQ==", "mimeType": "audio/wav", "annotations": HINTS},
    {"type": "resource", "resource": {"uri": "r:1", "text": "x", "mimeType": "text/plain", "_meta": META}},
    {
        "type": "resource_link",
        "uri": "r:2",
        "name": "two",
        "title": "Two",
        "icons": [{"src": "https://a.example/i.png"}],
    },
)
SINCE = {
    "audio": "2025-03-26", "resource_link": "2025-06-18", "title": "2025-06-18", "_meta": "2025-06-18",
    "structuredContent": "2025-06-18", "outputSchema": "2025-06-18", "lastModified": "2025-06-18", "icons": "2025-11-25",
    "hints": "2025-03-26",
}  # fmt: skip
"""Revision whose schema first has a kind of block, or a field."""


def names(value: Any) -> set[str]:
    """Every name that stands anywhere in a value, and every type of a block."""
    if isinstance(value, dict):
        kind = {value["type"]} if isinstance(value.get("type"), str) else set()
        return kind.union(value.keys(), *(names(item) for item in value.values()))
    return set().union(*(names(item) for item in value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("version", VERSIONS)
@covers("MCP-2025-11-25 server/tools#content", "MCP-2026-07-28 server/tools#content")
def test_content_is_of_its_revision(version: str) -> None:
    """A sound and a link are said in words where they cannot be shown; nothing is lost, and the SDK's schema agrees."""
    result = ToolResult({"a": 1}, "x", content=BLOCKS, meta=META)
    wire = to_mcp_result(result, version)
    found = names(wire["content"]) | ({"structuredContent"} & wire.keys())
    for name in ("audio", "resource_link", "title", "_meta", "structuredContent", "lastModified", "icons"):
        assert (name in found) is (version >= SINCE[name]), name
    assert "nobody" not in found
    assert len(wire["content"]) == len(BLOCKS)
    assert wire["_meta"] == {"acme/k": 1}
    sieved = methods.serialize_server_result("tools/call", version, wire)
    assert {"resultType": "complete", **sieved} == wire


@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_client_reads_structured_values_as_text(version: str) -> None:
    """Content that is empty beside a structured value is its JSON where there is no structuredContent."""
    wire = to_mcp_result(ToolResult({"a": 1}, "", content=()), version)
    assert (wire["content"] == [{"type": "text", "text": '{"a": 1}'}]) is (version < SINCE["structuredContent"])


@pytest.mark.parametrize("version", VERSIONS)
@covers("MCP-2025-11-25 server/tools#listing")
def test_entries_of_lists_are_of_their_revision(version: str) -> None:
    """Tools, resources, templates and prompts leave out what came later, and pass the SDK's schema unchanged."""
    tool = Tool(
        "t", "Does.", {"type": "object"}, {"type": "object"}, "T", {"readOnlyHint": True, "title": None}, meta=META
    )
    resource = Resource("r:1", "r", "D.", "R", "text/plain", 3, HINTS, META)
    template = ResourceTemplate("r:{id}", "r", "D.", "R", "text/plain", HINTS, META)
    prompt = Prompt("p", "D.", "P", (PromptArgument("a", "A.", "A", required=True),), META)
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "tools/list": ("tools", to_mcp_tool(tool, version)),
        "resources/list": ("resources", to_resource(resource, version)),
        "resources/templates/list": ("resourceTemplates", to_template(template, version)),
        "prompts/list": ("prompts", to_prompt(prompt, version)),
    }
    for method, (field, entry) in made.items():
        wire: dict[str, Any] = {field: [entry]}
        modern = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if version >= "2026" else {}
        assert methods.serialize_server_result(method, version, wire | modern)[field] == [entry], method
        found = names(entry)
        for name in ("title", "_meta", "lastModified"):
            assert name not in found or version >= SINCE[name], (method, name)
        assert ("_meta" in entry) is (version >= SINCE["_meta"])
    assert ("annotations" in made["tools/list"][1]) is (version >= SINCE["hints"])
    assert ("outputSchema" in made["tools/list"][1]) is (version >= SINCE["outputSchema"])
