"""The official JavaScript A2A client, over both bindings (`make e2e`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.a2a.conftest import serving_mesh

pytestmark = [pytest.mark.anyio, pytest.mark.clients]

FOLDER = Path(__file__).parent / "a2a_clients"
BINDINGS = ["JSONRPC", "HTTP+JSON"]


async def node(url: str, binding: str, skill: str, text: str) -> dict[str, Any]:
    """What client.mjs saw."""
    with anyio.fail_after(330):
        done = await anyio.run_process(
            ["node", str(FOLDER / "client.mjs"), url, binding, skill, text], check=False, stderr=subprocess.PIPE
        )
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("binding", BINDINGS)
async def test_javascript_streams_reads_and_sends(binding: str) -> None:
    """Task first, artifact before the last state; the same output by GetTask and by a blocking call; a plain error."""
    async with serving_mesh() as on:
        seen = await node(on.url, binding, "shout", "grüß")
    output = {"said": "GRÜSS", "length": 4}
    assert (seen["kinds"][0], seen["kinds"][-2], seen["kinds"][-1]) == ("task", "artifactUpdate", "statusUpdate")
    assert "work completed" in seen["lines"]
    assert seen["state"] == "TASK_STATE_COMPLETED"
    assert seen["again"] == seen["blocking"] == {"state": "TASK_STATE_COMPLETED", "output": output}
    assert "no-such-skill" in seen["error"]["message"]


@pytest.mark.skipif("AGENTMESH_E2E_URL" not in os.environ, reason="set AGENTMESH_E2E_URL to a served example mesh")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_javascript_has_a_log_triaged(binding: str, tmp_path: Path) -> None:
    """The example mesh triages a real log, and says which step it is at."""
    log = tmp_path / "build.log"
    log.write_text(
        "Traceback (most recent call last):\n"
        '  File "/srv/shop/app/prices.py", line 41, in total\n'
        "    from app.taxes import rate_for\n"
        "ModuleNotFoundError: No module named 'app.taxes'\n"
    )
    seen = await node(os.environ["AGENTMESH_E2E_URL"], binding, "triage", f"@{log}")
    assert seen["state"] == "TASK_STATE_COMPLETED"
    assert seen["again"]["output"]["cause"] == "import"
    assert seen["blocking"]["output"]["cause"] == "import"
    assert seen["lines"]
