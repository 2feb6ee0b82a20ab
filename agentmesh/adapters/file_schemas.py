"""JSON Schemas of the project files, for editors; published in agentmesh/schemas/.

`agentmesh check --schemas FOLDER` writes them; a test holds that the published ones are current. A file names its schema
in its first line: `# yaml-language-server: $schema=PATH`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

from agentmesh.core.casebook import CaseFile
from agentmesh.core.mesh import MeshFile
from agentmesh.core.policy import PolicyFile
from agentmesh.core.server_file import ServerFile
from agentmesh.core.workflow import Workflow

_KINDS: Mapping[str, type[BaseModel]] = {
    "agentmesh.yaml": MeshFile,
    "server": ServerFile,
    "workflow": Workflow,
    "policy": PolicyFile,
    "cases": CaseFile,
}
_NOT_BUILT: Mapping[str, tuple[str, ...]] = {
    "Deploy": ("adapters",),
    "AgentSpec": ("peer",),
    "Rule": ("approve", "redact"),
    "PolicyFile": ("limits", "guards"),
}
"""Keys that `agentmesh check` refuses as not built yet; an editor need not offer them."""


def schemas() -> dict[str, dict[str, Any]]:
    """By kind of file: `agentmesh.yaml`, `server`, `workflow`, `policy`, `cases`."""
    found = {}
    for kind, model in _KINDS.items():
        schema = model.model_json_schema(by_alias=True)
        described = {**_models(model), model.__name__: model}
        for name, part in [(model.__name__, schema), *schema.get("$defs", {}).items()]:
            for key in _NOT_BUILT.get(name.strip("_"), ()):
                part.get("properties", {}).pop(key, None)
            for key, text in field_docs(described[name]).items() if name in described else ():
                if key in part.get("properties", {}):
                    part["properties"][key].setdefault("description", text)
        for part in schema["properties"].values():
            if isinstance(part.get("default"), dict) and "$ref" in part:
                known = schema["$defs"][part["$ref"].rpartition("/")[2]]["properties"]
                part["default"] = {key: value for key, value in part["default"].items() if key in known}
        title = f"AgentMesh {kind.removesuffix('.yaml')} file"
        found[kind] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
    return found


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """What stands under each field of a model in its source, by the key that files use."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if issubclass(kind, BaseModel) and kind is not BaseModel:
            found |= _docs(kind)
    return {field.alias or name: found[name] for name, field in model.model_fields.items() if name in found}


@cache
def _docs(kind: type[BaseModel]) -> dict[str, str]:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    found: dict[str, str] = {}
    name = ""
    for node in body.body if isinstance(body, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            if name:
                found[name] = " ".join(node.value.value.split())
            name = ""
        else:
            name = ""
    return found


def _models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Every model that stands in one, by its name."""
    found: dict[str, type[BaseModel]] = {}

    def look(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if annotation.__name__ not in found:
                found[annotation.__name__] = annotation
                for field in annotation.model_fields.values():
                    look(field.annotation)
        for part in getattr(annotation, "__args__", ()):
            look(part)

    look(model)
    return found
