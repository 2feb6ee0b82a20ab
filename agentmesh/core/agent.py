"""Agent: who takes messages; Message and Part as A2A 1.0 has them, without its SDK's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Skill:
    """One thing an agent can be asked to do: a workflow with `on.a2a` (A2A 1.0.1 section 4.4.5)."""

    id: str
    name: str
    description: str
    workflow: str
    tags: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    input_schema: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message: exactly one of `text` and `data` (files come with the gateway)."""

    text: str | None = None
    data: Any = None
    media_type: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text} if self.text is not None else {"data": self.data}


@dataclass(frozen=True, slots=True)
class Message:
    """A message from a user or an agent (A2A 1.0.1 section 4.1.4)."""

    message_id: str
    role: Literal["user", "agent"]
    parts: Sequence[Part]
    context_id: str | None = None
    task_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "messageId": self.message_id,
            "role": self.role,
            "parts": [p.to_json() for p in self.parts],
            "contextId": self.context_id,
            "taskId": self.task_id,
            "metadata": dict(self.metadata),
        }
