"""Policy: who may do what. Files in policies/ as typed values, and the one function that decides."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase, translate
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentmesh.core.expression import evaluate_bool, names
from agentmesh.errors import MeshError

ACTIONS = (
    "tools.list", "tools.call", "agents.list", "agents.send", "runs.list", "runs.start", "runs.read", "runs.cancel",
    "runs.answer", "models.chat", "resources.list", "resources.read", "prompts.list", "prompts.get", "admin.read",
    "admin.write",
)  # fmt: skip
KINDS = ("tool", "workflow", "agent", "model", "run", "resource", "prompt")
"""A resource is named by its URI (`resource:mesh://runs/...`), a prompt as callers see it (`prompt:desk.greet`)."""


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
    named: bool = False
    """A rule that allows it names the action itself, not a pattern."""


# Deciding


def decide(policies: Sequence[PolicyFile], principal: Principal, action: Action) -> Decision:
    """Whether the policies allow an action. Without a policy all is allowed; with one, what no rule allows is denied.

    Deny wins over allow. A rule that applies but whose `when` cannot be evaluated denies, whatever others say.
    """
    if not policies:
        return _NO_POLICY
    allowed: Decision | None = None
    for rule in _compiled(policies).matching(action.verb, action.resource):
        if not rule.applies_to(principal):
            continue
        if rule.when is not None:
            if action.listing and rule.reads_input:
                if rule.denies:
                    continue
            else:
                try:
                    if not evaluate_bool(rule.when, _scope(principal, action)):
                        continue
                except MeshError as error:
                    return Decision(False, rule.name, f"the rule could not be evaluated: {error.message}")
        if rule.denies:
            return Decision(False, rule.name)
        named = action.verb in rule.actions
        if allowed is None or (named and not allowed.named):
            allowed = Decision(True, rule.name, named=named)
    return allowed or _NOTHING_ALLOWS


_NO_POLICY = Decision(True, "no policy")
_NOTHING_ALLOWS = Decision(False, "no rule", "no rule allows it")


def _scope(principal: Principal, action: Action) -> dict[str, Any]:
    """What `when` may read."""
    return {
        "input": action.input,
        "action": action.verb,
        "resource": action.resource,
        "principal": {"subject": principal.subject, "tenant": principal.tenant, "claims": dict(principal.claims)},
    }


class _Role:
    def __init__(self, role: Role) -> None:
        self._subjects = [re.compile(translate(glob)).match for glob in role.subjects]
        self._claims = role.claims
        self._tenants = role.tenants

    def has(self, principal: Principal) -> bool:
        """Every condition that the role states holds; a role that states none has nobody."""
        if not (self._subjects or self._claims or self._tenants):
            return False
        if self._subjects and not any(match(principal.subject) for match in self._subjects):
            return False
        if self._tenants and principal.tenant not in self._tenants:
            return False
        return all(_claims(principal.claims.get(name)) & set(wanted) for name, wanted in self._claims.items())


def _claims(value: Any) -> set[str]:
    """A claim's values: one, or a list of them."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return {v for v in values if isinstance(v, str)}


class _Rule:
    """One rule, ready to be asked."""

    def __init__(self, name: str, rule: Rule, roles: Mapping[str, _Role]) -> None:
        self.name = name
        self.denies = rule.allow is None
        given = rule.deny if rule.allow is None else rule.allow
        self.actions = [given] if isinstance(given, str) else list(given or ())
        self.resources = rule.on
        self.roles = None if rule.to is None else [roles[r] for r in rule.to if r in roles]
        self.when = rule.when
        self.reads_input = rule.when is not None and any(n.split(".")[0] == "input" for n in names(rule.when))

    def matches(self, verb: str, resource: str) -> bool:
        return any(fnmatchcase(verb, glob) for glob in self.actions) and any(
            fnmatchcase(resource, glob) for glob in self.resources
        )

    def applies_to(self, principal: Principal) -> bool:
        return self.roles is None or any(role.has(principal) for role in self.roles)


_MOST_REMEMBERED = 8192


class _Compiled:
    """The rules of all files; which of them speak of an action on a resource is remembered."""

    def __init__(self, policies: Sequence[PolicyFile]) -> None:
        self.policies = policies
        self._rules: list[_Rule] = []
        for file in policies:
            roles = {name: _Role(role) for name, role in file.roles.items()}
            for i, rule in enumerate(file.rules):
                self._rules.append(_Rule(f"{file.name or 'policy'} rules[{i}]", rule, roles))
        self._matching: dict[tuple[str, str], tuple[_Rule, ...]] = {}

    def matching(self, verb: str, resource: str) -> tuple[_Rule, ...]:
        found = self._matching.get((verb, resource))
        if found is None:
            found = tuple(rule for rule in self._rules if rule.matches(verb, resource))
            if len(self._matching) >= _MOST_REMEMBERED:
                self._matching.clear()
            self._matching[verb, resource] = found
        return found


_CACHE: OrderedDict[int, _Compiled] = OrderedDict()


def _compiled(policies: Sequence[PolicyFile]) -> _Compiled:
    """Compiled once for as long as the same sequence is asked with; it is held, so that its id stays its own."""
    known = _CACHE.get(id(policies))
    if known is not None and known.policies is policies:
        return known
    compiled = _CACHE[id(policies)] = _Compiled(policies)
    if len(_CACHE) > 64:
        _CACHE.popitem(last=False)
    return compiled


# Cases


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case of a policy file, and what was decided."""

    file: str
    index: int
    case: PolicyCase
    decision: Decision

    @property
    def passed(self) -> bool:
        return (self.case.expect == "allow") == self.decision.allowed


def run_cases(policies: Sequence[PolicyFile]) -> list[CaseResult]:
    """Every case of every file, decided by all files together, as in the server."""
    return [
        CaseResult(
            file.name, i, case, decide(policies, principal_of(file, case.as_), Action(case.do, case.on, case.input))
        )
        for file in policies
        for i, case in enumerate(file.cases)
    ]


def principal_of(file: PolicyFile, name: str) -> Principal:
    """Somebody who has a role of the file, or the subject of that name."""
    role = file.roles.get(name)
    if role is None:
        return Principal(name)
    subject = re.sub(r"[*?]|\[.*?\]", "x", role.subjects[0]) if role.subjects else "somebody"
    claims = {claim: list(values) for claim, values in role.claims.items()}
    return Principal(subject, role.tenants[0] if role.tenants else "local", claims)
