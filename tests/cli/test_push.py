"""`agentmesh push`: what was given up, and telling it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.conftest import Agentmesh
from tests.cli.fake import Fake

DEAD: dict[str, Any] = {
    "run": "r1", "id": "c 1", "owner": "local", "host": "hooks.example", "delivered": 3, "attempts": 2,
    "error": "hooks.example answers 404", "failing_since": 1.0, "dead_at": 2.0,
}  # fmt: skip


def test_what_was_given_up_is_listed(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """With why; as JSON whole."""
    server.answer("GET", "/v1/push", {"deliveries": [DEAD]})
    done = agentmesh("push", "list", "--mesh", str(mesh))
    assert done.status == 0
    assert "hooks.example answers 404" in done.out
    assert "r1" in done.out
    assert json.loads(agentmesh("push", "list", "--json", "--mesh", str(mesh)).out) == [DEAD]


def test_nothing_given_up_is_said(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """And what fails now is another question."""
    server.answer("GET", "/v1/push", {"deliveries": []})
    said = agentmesh("push", "list", "--mesh", str(mesh))
    assert "no webhook was given up" in said.out + said.err
    said = agentmesh("push", "list", "--failing", "--mesh", str(mesh))
    assert "no webhook fails" in said.out + said.err


def test_one_is_told_again(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """By its run and its id, whatever stands in that."""
    server.answer("POST", "/v1/push/r1/c%201/retry", {"run": "r1", "id": "c 1"})
    done = agentmesh("push", "retry", "r1", "c 1", "--mesh", str(mesh))
    assert (done.status, done.out) == (0, "")
    assert "is told again" in done.err
