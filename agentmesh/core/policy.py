"""Policy: who may do what. Files in policies/ as typed values, and the one function that decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ACTIONS = (
    "tools.list", "tools.call", "agents.list", "agents.send", "runs.list", "runs.start", "runs.read", "runs.cancel",
    "runs.answer", "models.chat", "admin.read", "admin.write",
)  # fmt: skip
KINDS = ("tool", "workflow", "agent", "model", "run")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. `subject`: `local` on an open loopback server, `token:NAME`, `cron:WORKFLOW`, `run:WORKFLOW`."""

    subject: str = "local"
    tenant: str = "local"
    claims: Mapping[str, Any] = field(default_factory=dict)


class Role(BaseModel):
    """Who belongs: by glob over the subject, by claims, or by tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    subjects: list[str] = []
    claims: dict[str, list[str]] = {}
    tenants: list[str] = []


class Rule(BaseModel):
    """`allow`/`deny`: actions (globs) on resources (globs) to roles; all when `on` or `to` is not given."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    allow: str | list[str] | None = None
    deny: str | list[str] | None = None
    approve: str | list[str] | None = None
    redact: Any = None
    on: list[str] = ["*"]
    to: list[str] | None = None
    when: str | None = None


class PolicyCase(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=False)
    as_: str = Field(alias="as")
    """A role of the file, or a subject such as `token:ide-1`."""
    do: str
    on: str
    input: Any = None
    expect: Literal["allow", "deny"]


class PolicyFile(BaseModel):
    """A file in policies/."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = ""
    roles: dict[str, Role] = {}
    rules: list[Rule] = []
    limits: list[Any] = []
    guards: list[Any] = []
    cases: list[PolicyCase] = []


@dataclass(frozen=True, slots=True)
class Action:
    """What is asked: `tools.call` on `tool:desk.classify` with this input."""

    verb: str
    resource: str
    input: Any = None
    listing: bool = False
    """A list asks without input: a rule whose `when` reads input counts as allowed then."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`rule` names what decided: `policies/desk.yaml rules[0]`, or `no policy`."""

    allowed: bool
    rule: str
    reason: str = ""
