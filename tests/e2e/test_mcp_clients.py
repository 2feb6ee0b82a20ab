"""The official TypeScript client, in both eras, over HTTP and over stdio (`make e2e`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.mcp.conftest import fake_engine, mcp_server

pytestmark = [pytest.mark.anyio, pytest.mark.clients]

FOLDER = Path(__file__).parent / "mcp_clients"
PROGRAM = "import\tanyio,sys;from\tagentmesh.mcp.stdio\timport\tserve_stdio;anyio.run(serve_stdio,sys.argv[1],{})"
"""Without spaces, at which client.mjs splits."""
ERAS = [("2026", "2026-07-28"), ("2025", "2025-11-25")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def node(target: str, era: str, *words: str) -> dict[str, Any]:
    """What client.mjs saw."""
    with anyio.fail_after(330):
        done = await anyio.run_process(
            ["node", str(FOLDER / "client.mjs"), target, era, *words], check=False, stderr=subprocess.PIPE
        )
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(("era", "version"), ERAS)
@pytest.mark.parametrize("over", ["http", "stdio"])
async def test_typescript_lists_calls_and_hears_progress(era: str, version: str, over: str) -> None:
    """Tools, an unknown tool's code, structured content and progress, as TypeScript programs see them."""
    async with mcp_server(fake_engine()) as url:
        target = url if over == "http" else f"stdio:{sys.executable} -c {PROGRAM} {url}"
        echoed = await node(target, era, "echo", "text=grüß")
        stepped = await node(target, era, "steps")
    assert (echoed["version"], echoed["server"], echoed["unknown"]) == (version, "acme", -32602)
    assert "echo" in echoed["tools"]
    assert echoed["structured"] == {"text": "grüß", "who": "local"}
    assert json.loads(echoed["text"][0]) == echoed["structured"]
    assert echoed["run"] == "0190-run"
    # Lines that come in one read with the result are lost by this client, not by us.
    assert stepped["progress"][:1] == ["cut started"]


@pytest.mark.skipif("AGENTMESH_E2E_URL" not in os.environ, reason="set AGENTMESH_E2E_URL to a served example mesh")
@pytest.mark.parametrize(("era", "version"), ERAS)
async def test_typescript_has_a_log_triaged(era: str, version: str, tmp_path: Path) -> None:
    """The example mesh triages a real log, and says which step it is at."""
    log = tmp_path / "build.log"
    log.write_text(
        "Traceback (most recent call last):\n"
        '  File "/srv/shop/app/prices.py", line 41, in total\n'
        "    from app.taxes import rate_for\n"
        "ModuleNotFoundError: No module named 'app.taxes'\n"
    )
    seen = await node(os.environ["AGENTMESH_E2E_URL"] + "/mcp", era, "triage", f"log=@{log}")
    assert seen["version"] == version
    assert seen["isError"] is False
    assert seen["structured"]["cause"] == "import"
    assert seen["progress"]
