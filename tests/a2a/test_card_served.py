"""Cards of a mesh as `serve` has it: signed with the keys in its folder, by every server alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseDict

from agentmesh.adapters.files import load_mesh
from agentmesh.app import open_app
from agentmesh.settings import Secrets, Settings
from tests.a2a.test_card_signing import KEY_SET, verifier
from tests.engine.meshes import Clock
from tests.http.serving import served

pytestmark = pytest.mark.anyio

HELLO = """
name: hello
on: {a2a: {agent: clerk}}
input: {type: object, properties: {text: {type: string}}, required: [text]}
steps:
  - {id: a, set: {said: "${{ input.text }}"}}
"""
WELL_KNOWN = "/.well-known/agent-card.json"


def write(folder: Path) -> Path:
    (folder / "workflows").mkdir(parents=True)
    (folder / "agentmesh.yaml").write_text("name: acme\nurl: http://127.0.0.1:8080\n")
    (folder / "workflows/hello.yaml").write_text(HELLO)
    return folder


async def shown(settings: Settings, clock: Clock) -> dict[str, Any]:
    """What a server of that folder shows at each path, and as a resource."""
    mesh = load_mesh(settings.folder, Secrets())
    found: dict[str, Any] = {}
    async with open_app(settings, mesh, clock=clock) as app, served(app) as url, httpx.AsyncClient(timeout=20) as http:
        for path in (WELL_KNOWN, f"/a2a/clerk{WELL_KNOWN}", KEY_SET):
            answer = await http.get(url + path)
            assert answer.status_code == 200, (path, answer.text)
            found[path] = answer.json()
    return found


async def test_a_server_signs_with_the_key_in_its_folder(tmp_path: Path) -> None:
    """Which it makes, for itself alone; after a restart it shows the same. AGENTMESH_KEYS takes its place."""
    folder = write(tmp_path / "mesh")
    first = await shown(Settings(folder, models=False), Clock())
    file = folder / ".agentmesh/key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().strip() not in json.dumps(first)
    for path in (WELL_KNOWN, f"/a2a/clerk{WELL_KNOWN}"):
        card = {
            name: value
            for name, value in first[path].items()
            if name in pb.AgentCard.DESCRIPTOR.fields_by_camelcase_name
        }
        verifier(first[KEY_SET])(ParseDict(card, pb.AgentCard()))
    assert await shown(Settings(folder, models=False), Clock()) == first
    given = await shown(Settings(folder, models=False, keys=("k" * 32, file.read_text().strip())), Clock())
    assert [key["kid"] for key in given[KEY_SET]["keys"]][1:] == [key["kid"] for key in first[KEY_SET]["keys"]]
    replica = write(tmp_path / "replica")
    assert await shown(Settings(replica, models=False, keys=("k" * 32, file.read_text().strip())), Clock()) == given
