"""JSON Schemas of the project files, for editors; published in agentmesh/schemas/.

`agentmesh check --schemas FOLDER` writes them; a test holds that the published ones are current. A file names its schema
in its first line: `# yaml-language-server: $schema=PATH`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from agentmesh.core.mesh import MeshFile
from agentmesh.core.policy import PolicyFile
from agentmesh.core.tool import ServerFile
from agentmesh.core.workflow import Workflow

_KINDS: Mapping[str, type[BaseModel]] = {
    "agentmesh.yaml": MeshFile,
    "server": ServerFile,
    "workflow": Workflow,
    "policy": PolicyFile,
}
_NOT_BUILT: Mapping[str, tuple[str, ...]] = {
    "MeshFile": ("agents",),
    "Deploy": ("adapters",),
    "ServerFile": ("resources", "prompts", "upstream", "openapi", "expose", "approve"),
    "AgentSpec": ("peer",),
    "Rule": ("approve", "redact"),
    "PolicyFile": ("limits", "guards"),
}
"""Keys that `agentmesh check` refuses as not built yet; an editor need not offer them."""


def schemas() -> dict[str, dict[str, Any]]:
    """By kind of file: `agentmesh.yaml`, `server`, `workflow`, `policy`."""
    found = {}
    for kind, model in _KINDS.items():
        schema = model.model_json_schema(by_alias=True)
        for name, part in [(model.__name__, schema), *schema.get("$defs", {}).items()]:
            for key in _NOT_BUILT.get(name.strip("_"), ()):
                part.get("properties", {}).pop(key, None)
        for part in schema["properties"].values():
            if isinstance(part.get("default"), dict) and "$ref" in part:
                known = schema["$defs"][part["$ref"].rpartition("/")[2]]["properties"]
                part["default"] = {key: value for key, value in part["default"].items() if key in known}
        title = f"AgentMesh {kind.removesuffix('.yaml')} file"
        found[kind] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
    return found
