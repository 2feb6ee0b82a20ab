"""Resource: something to read by its URI, as MCP has it; and a prompt that a user picks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Resource:
    """One entry of `resources/list`."""

    uri: str
    name: str
    description: str = ""
    title: str | None = None
    mime_type: str | None = None
    size: int | None = None
    """Bytes, when known."""
    annotations: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    """`server:desk`, `upstream:github`, `mesh`."""


@dataclass(frozen=True, slots=True)
class ResourceTemplate:
    """One entry of `resources/templates/list`: a URI template (RFC 6570)."""

    uri_template: str
    name: str
    description: str = ""
    title: str | None = None
    mime_type: str | None = None
    annotations: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class PromptArgument:
    """An argument of a prompt; its value is always a string."""

    name: str
    description: str = ""
    title: str | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """One entry of `prompts/list`. `name` is unique in the mesh."""

    name: str
    description: str = ""
    title: str | None = None
    arguments: tuple[PromptArgument, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class PromptResult:
    """What `prompts/get` gives: messages in the wire's spelling (schema `PromptMessage`)."""

    messages: tuple[Mapping[str, Any], ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """What `completion/complete` gives: at most 100 values."""

    values: tuple[str, ...] = ()
    total: int | None = None
    has_more: bool = False
