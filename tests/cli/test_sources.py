"""`tools sources`, `tools diff` and `tools approve` on a scripted server."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Agentmesh
from tests.cli.fake import Fake

SOURCES = {"sources": [
    {"name": "desk", "kind": "upstream", "state": "ready", "detail": "MCP 2026-07-28", "tools": 3, "held": 2},
    {"name": "shop", "kind": "openapi", "state": "failed", "detail": "gone", "tools": 1, "held": 0},
]}  # fmt: skip
A_OLD, A_NEW = {"name": "a", "description": "Old."}, {"name": "a", "description": "New\u200b."}
HELD = {"held": [
    {"name": "desk.a", "approved": A_OLD, "offered": A_NEW, "digest": "d1"},
    {"name": "desk.b", "approved": None, "offered": {"name": "b", "description": "B."}, "digest": "d2"},
]}  # fmt: skip


def script(server: Fake) -> None:
    server.answer("GET", "/v1/sources", SOURCES)
    server.answer("GET", "/v1/sources/desk/held", HELD)
    server.answer("POST", "/v1/sources/desk/approve", {"approved": ["desk.a"]})


def test_sources_shows_how_each_is(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """A line for each."""
    script(server)
    lines = agentmesh("tools", "sources", "--mesh", str(mesh)).out.splitlines()
    assert lines[1].split()[:5] == ["desk", "upstream", "ready", "3", "2"]
    assert lines[2].split()[:3] == ["shop", "openapi", "failed"]


def test_diff_shows_what_changed_and_what_cannot_be_seen(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """A unified diff; characters that are invisible are written as escapes; a new tool is shown whole."""
    script(server)
    out = agentmesh("tools", "diff", "--mesh", str(mesh)).out
    assert '-  "description": "Old.",' in out
    assert '+  "description": "New\\u200b.",' in out
    assert "desk.a@d1 (offered)" in out
    assert "desk.b@d2 is new:" in out
    one = agentmesh("tools", "diff", "desk.b", "--mesh", str(mesh), "--json").out
    assert [held["name"] for held in json.loads(one)] == ["desk.b"]


def test_approve_names_what_it_approves(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """By name or all, and just what was looked at; a name that does not wait, and neither, is wrong usage and approves nothing."""
    script(server)
    out = agentmesh("tools", "approve", "desk.a@d1", "--mesh", str(mesh)).out
    assert '+  "description": "New\\u200b.",' in out
    assert out.endswith("approved desk.a\n")
    agentmesh("tools", "approve", "--all", "--mesh", str(mesh))
    one, two = {"desk.a": "d1"}, {"desk.a": "d1", "desk.b": "d2"}
    assert server.bodies("/v1/sources/desk/approve") == [
        {"names": list(one), "digests": one}, {"names": list(two), "digests": two}
    ]  # fmt: skip
    assert agentmesh("tools", "approve", "desk.a@other", "--mesh", str(mesh)).status == 2
    assert agentmesh("tools", "approve", "--mesh", str(mesh)).status == 2
    assert agentmesh("tools", "approve", "desk.x", "--mesh", str(mesh)).status == 2
    assert len(server.bodies("/v1/sources/desk/approve")) == 2
