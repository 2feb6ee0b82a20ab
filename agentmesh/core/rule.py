"""Rule: do the rules and cases of a policy file speak of what there is."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from agentmesh.core.checker import NOT_BUILT, Checker
from agentmesh.core.document import Path
from agentmesh.core.foreign import sources_of
from agentmesh.core.inference import DYN, STRING, closest
from agentmesh.core.policy import ACTIONS, KINDS, PolicyFile

POLICY_TYPES: Mapping[str, Any] = {
    "input": DYN,
    "action": STRING,
    "resource": STRING,
    "principal": {
        "type": "object",
        "properties": {"subject": STRING, "tenant": STRING, "claims": {"type": "object"}},
        "additionalProperties": False,
    },
}
"""What `when` of a rule may read."""


class PolicyChecker(Checker):
    """A file in policies/."""

    def check(self, policy: PolicyFile) -> None:
        for name in ("limits", "guards"):
            if self.document.get((name,)):
                self.fault((name,), f"`{name}` are {NOT_BUILT}; there are rules that allow and deny", key=True)
        for i, rule in enumerate(policy.rules):
            path: Path = ("rules", i)
            given = [e for e in ("allow", "deny", "approve", "redact") if self.document.get((*path, e)) is not None]
            for effect in given:
                if effect in ("approve", "redact"):
                    self.fault((*path, effect), f"`{effect}` rules are {NOT_BUILT}; there are allow and deny", key=True)
            if len(given) != 1:
                says = f"this has {' and '.join(given)}" if given else "this has neither"
                self.fault(path, f"a rule either allows or denies; {says}")
            for effect in given:
                actions = self.document.get((*path, effect))
                for n, action in enumerate(actions if isinstance(actions, list) else [actions]):
                    self.action((*path, effect, n) if isinstance(actions, list) else (*path, effect), action)
            for n, resource in enumerate(rule.on):
                self.resource((*path, "on", n), resource)
            for n, role in enumerate(rule.to or ()):
                if role not in policy.roles:
                    self.fault(
                        (*path, "to", n), f"unknown role {role!r}{closest(role, policy.roles) or self.roles(policy)}"
                    )
            if rule.when is not None:
                self.expression((*path, "when"), POLICY_TYPES, boolean=True)
        for i, case in enumerate(policy.cases):
            self.action(("cases", i, "do"), case.do, exact=True)
            self.resource(("cases", i, "on"), case.on)
            if case.as_ not in policy.roles and ":" not in case.as_ and case.as_ != "local":
                hint = closest(case.as_, policy.roles) or "; or write a subject such as token:ide-1"
                self.fault(("cases", i, "as"), f"unknown role {case.as_!r}{hint}")

    def roles(self, policy: PolicyFile) -> str:
        return f"; this file has {', '.join(policy.roles)}" if policy.roles else "; this file has no roles"

    def action(self, path: Path, action: Any, *, exact: bool = False) -> None:
        if not isinstance(action, str):
            return
        known = action in ACTIONS if exact else any(fnmatchcase(a, action) for a in ACTIONS)
        if not known:
            self.fault(
                path, f"unknown action {action!r}{closest(action, ACTIONS) or '; there are ' + ', '.join(ACTIONS)}"
            )

    def resource(self, path: Path, resource: str) -> None:
        kind, separator, name = resource.partition(":")
        if resource == "*":
            return
        if not separator or not (kind in KINDS or "*" in kind):
            hint = closest(kind, KINDS) or f"; write KIND:NAME with {', '.join(KINDS)}"
            self.fault(path, f"{resource!r} names no kind of thing{hint}")
            return
        mesh = self.world.mesh
        among: Mapping[str, Mapping[str, Any]] = {
            "tool": mesh.tools, "workflow": mesh.workflows, "agent": mesh.skills, "model": mesh.file.models,
            "prompt": mesh.prompts,
        }  # fmt: skip
        exact = not set(name) & set("*?[")
        if kind == "prompt" and sources_of(mesh):
            return  # theirs are known when they answer
        if exact and kind in among:
            names = "skills" if kind == "agent" else f"{kind}s"
            if message := self.world.unknown(names, name, among[kind]):
                self.fault(path, message)
