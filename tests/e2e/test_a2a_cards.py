"""Our cards as the official JavaScript SDK reads and verifies them, and its own as we verify them (`make e2e`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import anyio
import pytest

from agentmesh.adapters.card_keys import DerivedKeys
from agentmesh.adapters.upstream_a2a_card import verify
from agentmesh.core.agent import Json
from tests.a2a.conftest import serving_mesh
from tests.a2a.test_card import WELL_KNOWN, agents_mesh, billing
from tests.engine.meshes import Clock

pytestmark = [pytest.mark.anyio, pytest.mark.clients]

SCRIPT = Path(__file__).parent / "a2a_clients" / "cards.mjs"
KEY_SET = "/.well-known/jwks.json"


@pytest.mark.parametrize("where", ["", "/a2a/shop", "/a2a/billing"])
async def test_javascript_verifies_our_cards_and_we_verify_its(where: str) -> None:
    """It refuses a forged one, and sees every way in; a card that it has signed itself is verified here."""
    keys = DerivedKeys([b"k" * 32], clock=Clock())
    async with serving_mesh(agents_mesh(), peers=[billing()], grpc="127.0.0.1:4711", card_keys=keys) as on:
        url = on.url + where
        with anyio.fail_after(60):
            done = await anyio.run_process(
                ["node", str(SCRIPT), f"{url}/", on.url + KEY_SET], check=False, stderr=subprocess.PIPE
            )
        assert done.returncode == 0, done.stderr.decode()
        told = json.loads(done.stdout.splitlines()[-1])  # the SDK writes about the forged one before it
        card = (await on.http.get(where + WELL_KNOWN)).json()
    assert told["refused"] is True
    assert told["skills"] == [skill["id"] for skill in card["skills"]]
    assert [(i["url"], i.get("tenant") or None) for i in told["interfaces"]] == [
        (i["url"], i.get("tenant")) for i in card["supportedInterfaces"]
    ]

    async def fetch(_: str) -> Json:
        return {"keys": [told["key"]]}

    assert await verify(told["card"], jwks=None, card_url=url + WELL_KNOWN, fetch=fetch) == "verified"
