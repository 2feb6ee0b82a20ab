"""Who may do what: allow, deny, and that an error never allows."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agentmesh.core.policy import Action, PolicyFile, Principal, decide, run_cases

IDE = Principal("token:ide-7", "acme", {"groups": ["devs", "mesh-operators"]})
CALL = Action("tools.call", "tool:desk.classify", {"text": "hello"})


def policy(*rules: dict[str, Any], **more: Any) -> tuple[PolicyFile, ...]:
    roles = {
        "ide": {"subjects": ["token:ide-*"]},
        "operator": {"claims": {"groups": ["mesh-operators"]}},
        "acme": {"tenants": ["acme"]},
        "both": {"subjects": ["token:*"], "tenants": ["other"]},
        "nobody": {},
    }
    return (PolicyFile.model_validate({"name": "policies/p.yaml", "roles": roles, "rules": rules, **more}),)


def test_without_a_policy_everything_is_allowed() -> None:
    """An open mesh on one's own machine."""
    assert decide((), Principal(), CALL).allowed


def test_with_a_policy_what_is_not_allowed_is_denied() -> None:
    """An empty file denies everything, and the decision says why."""
    decision = decide(policy(), IDE, CALL)
    assert not decision.allowed
    assert decision.reason == "no rule allows it"


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ({"allow": "*"}, True),
        ({"allow": "tools.*"}, True),
        ({"allow": ["tools.list", "tools.call"], "on": ["tool:desk.*"]}, True),
        ({"allow": "tools.list"}, False),
        ({"allow": "tools.call", "on": ["tool:desk.other", "agent:*"]}, False),
        ({"allow": "*", "to": ["ide"]}, True),
        ({"allow": "*", "to": ["operator"]}, True),
        ({"allow": "*", "to": ["acme"]}, True),
        ({"allow": "*", "to": ["both"]}, False),
        ({"allow": "*", "to": ["nobody"]}, False),
        ({"allow": "*", "to": ["both", "ide"]}, True),
        ({"allow": "*", "when": "size(input.text) < 10"}, True),
        ({"allow": "*", "when": "size(input.text) < 3"}, False),
        ({"allow": "*", "when": "principal.tenant == 'acme' && resource.startsWith('tool:')"}, True),
        ({"allow": "*", "when": "'devs' in principal.claims.groups && action == 'tools.call'"}, True),
        ({"deny": "*"}, False),
    ],
)
def test_one_rule(rule: dict[str, Any], allowed: bool) -> None:
    """Actions, resources, roles and `when` must all fit."""
    decision = decide(policy(rule), IDE, CALL)
    assert decision.allowed is allowed
    assert not allowed or decision.rule == "policies/p.yaml rules[0]"


def test_deny_wins_wherever_it_stands() -> None:
    """Before or after, in this file or another."""
    allow, deny = {"allow": "*"}, {"deny": "tools.call", "on": ["tool:*.classify"]}
    for policies in (policy(allow, deny), policy(deny, allow), policy(allow) + policy(deny)):
        assert not decide(policies, IDE, CALL).allowed
        assert decide(policies, IDE, Action("tools.list", "tool:desk.classify")).allowed


@pytest.mark.parametrize(
    "when", ["input.nope > 1", "input.text", "size(input.text) > 'a'", "1 / 0 > 1", "input.text.x"]
)
@pytest.mark.parametrize("effect", ["allow", "deny"])
def test_an_error_denies(when: str, effect: str) -> None:
    """A rule that cannot be evaluated denies, though another allows; the reason says what happened."""
    decision = decide(policy({effect: "*", "when": when}, {"allow": "*"}), IDE, CALL)
    assert not decision.allowed
    assert decision.rule == "policies/p.yaml rules[0]"
    assert "could not be evaluated" in decision.reason


def test_a_list_asks_without_input() -> None:
    """A rule that reads input counts as allowed in a list; one that does not is evaluated there too."""
    listing = Action("tools.list", "tool:x", listing=True)
    assert decide(policy({"allow": "*", "when": "size(input.text) < 3"}), IDE, listing).allowed
    assert decide(policy({"allow": "*"}, {"deny": "*", "when": "input.text == 'x'"}), IDE, listing).allowed
    assert not decide(policy({"allow": "*", "when": "principal.tenant == 'other'"}), IDE, listing).allowed


def test_cases_are_run_as_the_role() -> None:
    """A role of the file, or a subject; all files decide together."""
    cases = [
        {"as": "ide", "do": "tools.call", "on": "tool:a", "input": {"n": 1}, "expect": "allow"},
        {"as": "operator", "do": "tools.call", "on": "tool:a", "expect": "deny"},
        {"as": "token:other", "do": "tools.call", "on": "tool:a", "expect": "allow"},
    ]
    results = run_cases(policy({"allow": "*", "to": ["ide"], "when": "input.n == 1"}, cases=cases))
    assert [r.passed for r in results] == [True, True, False]


def test_a_hundred_rules_take_microseconds() -> None:
    """Compiled once; which rules speak of a resource is remembered."""
    rules = [{"allow": "tools.call", "on": [f"tool:t{i}.*"], "to": ["ide"]} for i in range(99)]
    policies = policy(
        *rules, {"allow": "tools.call", "on": ["tool:desk.*"], "to": ["ide"], "when": "size(input.text) < 10"}
    )
    assert decide(policies, IDE, CALL).allowed
    begun = time.perf_counter()
    for _ in range(1000):
        decide(policies, IDE, CALL)
    assert (time.perf_counter() - begun) / 1000 < 0.001
