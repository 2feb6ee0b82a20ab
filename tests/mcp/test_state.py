"""requestState and cursors, without a server: what opens them and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentmesh.core.policy import Principal
from agentmesh.errors import InvalidInput, TooLarge
from agentmesh.mcp.state import STATE_SECONDS, Binding, Carried, Seals
from tests.engine.meshes import Clock
from tests.requirements import covers

KEY, OTHER = b"k" * 32, b"o" * 32
ME = Principal(subject="me")
CALL = Binding(ME, "tools/call", "desk.send", {"to": "a", "n": [1, {"b": 2, "a": 1}]})
LEFT = Carried({"name": {"action": "accept", "content": {"name": "Ada"}}}, "0190-run", {"upstream": "x"})


def seals(*keys: bytes, mesh: str = "acme", clock: Clock | None = None) -> Seals:
    return Seals(keys or (KEY,), mesh=mesh, clock=clock or Clock())


@covers("MCP-2026-07-28 basic/patterns/mrtr#request-state")
def test_a_state_opens_for_its_own_call() -> None:
    """On any replica with the key, whatever the order of the arguments' names; it shows nothing of what is in it."""
    token = seals().seal(LEFT, CALL)
    assert "Ada" not in token
    again = replace(CALL, arguments={"n": [1, {"a": 1, "b": 2}], "to": "a"})
    assert seals(OTHER, KEY).open(token, again) == LEFT


@pytest.mark.parametrize(
    "other",
    [
        replace(CALL, principal=Principal(subject="you")),
        replace(CALL, principal=Principal(subject="me", tenant="other")),
        replace(CALL, method="prompts/get"),
        replace(CALL, target="desk.delete"),
        replace(CALL, arguments={"to": "b", "n": [1, {"b": 2, "a": 1}]}),
    ],
)
@covers("MCP-2026-07-28 basic/patterns/mrtr#replay")
def test_a_state_is_of_no_use_for_another_call(other: Binding) -> None:
    """Another caller, method, tool or argument is refused."""
    token = seals().seal(LEFT, CALL)
    with pytest.raises(InvalidInput, match="requestState"):
        seals().open(token, other)


@covers("MCP-2026-07-28 basic/patterns/mrtr#replay")
def test_a_state_expires() -> None:
    """A day later it is refused; a second before it was not."""
    clock = Clock()
    token = seals(clock=clock).seal(LEFT, CALL)
    clock.now += STATE_SECONDS - 1
    assert seals(clock=clock).open(token, CALL) == LEFT
    clock.now += 1
    with pytest.raises(InvalidInput):
        seals(clock=clock).open(token, CALL)


@covers("MCP-2026-07-28 basic/patterns/mrtr#request-state")
def test_what_was_not_sealed_here_does_not_open() -> None:
    """Any character changed, another key, another mesh and plain nonsense are refused alike."""
    token = seals().seal(LEFT, CALL)
    changed = [token[:n] + ("A" if token[n] != "A" else "B") + token[n + 1 :] for n in range(len(token))]
    for forged in [
        *changed,
        seals(OTHER).seal(LEFT, CALL),
        seals(mesh="b").seal(LEFT, CALL),
        "",
        "x",
        "v1.",
        token[:-4],
    ]:
        with pytest.raises(InvalidInput):
            seals().open(forged, CALL)


def test_a_state_that_nobody_could_carry_is_refused() -> None:
    """Answers of a megabyte are said to be too many."""
    with pytest.raises(TooLarge):
        seals().seal(Carried({"a": {"text": "x" * 1_000_000}}), CALL)


@pytest.mark.parametrize("name", ["a", "desk.send", "test://ü/{id}", "half \ud800"])
@covers("MCP-2026-07-28 server/utilities/pagination#invalid-cursor")
def test_a_cursor_is_of_one_list(name: str) -> None:
    """It gives back its place in its own list, with an older key too, and in no other."""
    cursor = seals().cursor("tools/list", name)
    assert seals(OTHER, KEY).after("tools/list", cursor) == name
    for kind, forged in (
        ("prompts/list", cursor),
        ("tools/list", cursor[:-1]),
        ("tools/list", "AAAA"),
        ("tools/list", "ü"),
    ):
        with pytest.raises(InvalidInput, match="cursor"):
            seals().after(kind, forged)
