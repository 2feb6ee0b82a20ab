"""Mesh: everything the files of one mesh folder say, after they were checked together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentmesh.core.agent import Skill
from agentmesh.core.model import Model
from agentmesh.core.policy import PolicyFile
from agentmesh.core.tool import ServerFile, Tool, ToolSpec
from agentmesh.core.workflow import NAME, Workflow


class Peer(BaseModel):
    """An entry of `agents:`; calling peers comes with the A2A gateway."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    card: str
    token: str | None = None


class A2aSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    default: str | None = None
    """The skill for a message that names none."""


class MeshFile(BaseModel):
    """agentmesh.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=NAME)
    description: str = ""
    store: str = "sqlite:///agentmesh.db"
    url: str | None = None
    models: dict[str, Model] = {}
    default_model: str | None = None
    agents: dict[str, Peer] = {}
    a2a: A2aSettings = A2aSettings()
    databases: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Mesh:
    """A checked mesh. Built by `adapters.files.load_mesh`; immutable while the server runs."""

    folder: PurePath
    file: MeshFile
    servers: Mapping[str, ServerFile] = field(default_factory=dict)
    workflows: Mapping[str, Workflow] = field(default_factory=dict)
    policies: tuple[PolicyFile, ...] = ()
    tools: Mapping[str, Tool] = field(default_factory=dict)
    """By offered name: server tools, and workflows with `on.mcp`."""
    specs: Mapping[str, ToolSpec] = field(default_factory=dict)
    """By offered name, for the tools that a server file declares."""
    skills: Mapping[str, Skill] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.file.name


def definition_hash(document: Any) -> str:
    """Content address of a definition: SHA-256 over its JSON with sorted keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
