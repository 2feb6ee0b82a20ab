"""Scope: what an expression at one place of a workflow may read, and what is known there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agentmesh.core.inference import DYN, STRING, Facts, JsonSchema
from agentmesh.core.run import StepState

STATES = {"enum": [state.value for state in StepState]}
ERROR = {
    "type": ["object", "null"],
    "properties": {"code": STRING, "message": STRING, "path": STRING},
    "additionalProperties": True,
}
PART: JsonSchema = {
    "type": "object",
    "properties": {
        "text": STRING, "data": DYN, "raw": STRING, "url": STRING, "filename": STRING, "mediaType": STRING,
        "metadata": {"type": "object"},
    },
    "additionalProperties": False,
}  # fmt: skip
"""An A2A Part as JSON (A2A 1.0.1 section 4.1.6); `raw` is base64."""
RUN_TYPES: Mapping[str, JsonSchema] = {
    "run": {
        "type": "object",
        "properties": {"id": STRING, "workflow": STRING, "source": STRING},
        "additionalProperties": False,
    },
    "context": {
        "type": "object",
        "properties": {
            "id": {"type": ["string", "null"]},
            "message": {
                "type": ["object", "null"],
                "properties": {
                    "id": STRING,
                    "role": {"enum": ["user", "agent"]},
                    "text": STRING,
                    "data": DYN,
                    "metadata": {"type": "object"},
                    "parts": {"type": "array", "items": PART},
                },
                "additionalProperties": False,
            },
            "messages": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"role": {"enum": ["user", "agent"]}, "text": STRING, "data": DYN, "task": STRING},
                    "additionalProperties": False,
                },
            },
        },
        "additionalProperties": False,
    },
}
"""Names of every workflow besides `input` and `steps`."""
RESERVED = ("input", "steps", "run", "context", "output", "secrets", "error", "loop", "result")
"""Names that mean something already, so that no item of a `map` may have one."""


@dataclass(frozen=True, slots=True)
class Scope:
    """At one place."""

    types: Mapping[str, JsonSchema]
    """Every name but `steps`."""
    steps: Mapping[str, JsonSchema] = field(default_factory=dict)
    facts: Facts = frozenset()
    """Ids of steps that have completed wherever this is."""

    @property
    def names(self) -> dict[str, JsonSchema]:
        """What expressions are checked against."""
        return {**self.types, "steps": closed(self.steps)}

    def naming(self, **types: JsonSchema) -> Scope:
        return replace(self, types={**self.types, **types})

    def knowing(self, facts: Facts) -> Scope:
        return replace(self, facts=facts)


def closed(properties: Mapping[str, Any], *, required: bool = False) -> JsonSchema:
    """An object of these and nothing else."""
    whole: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**whole, "required": list(properties)} if required else whole


HTTP_OUTPUT: Mapping[str, JsonSchema] = {
    "status": {"type": "integer"},
    "headers": {"type": "object", "additionalProperties": STRING},
    "body": DYN,
}
SQL_OUTPUT: JsonSchema = closed(
    {
        "rows": {"type": "array", "items": {"type": "object"}},
        "count": {"type": "integer"},
        "truncated": {"type": "boolean"},
    },
    required=True,
)
