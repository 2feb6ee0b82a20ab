"""The official TypeScript client, in both eras, over HTTP and over stdio (`make e2e`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path, PurePath
from typing import Any

import anyio
import pytest

from agentmesh.core.mesh import MeshFile, assemble
from agentmesh.core.server_file import ServerFile
from tests.engine import meshes
from tests.mcp.conftest import fake_engine, mcp_server

pytestmark = [pytest.mark.anyio, pytest.mark.clients]

FOLDER = Path(__file__).parent / "mcp_clients"
PROGRAM = "import\tanyio,sys;from\tagentmesh.mcp.stdio\timport\tserve_stdio;anyio.run(serve_stdio,sys.argv[1],{})"
"""Without spaces, at which client.mjs splits."""
ERAS = [("2026", "2026-07-28"), ("2025", "2025-11-25")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def node(target: str, era: str, *words: str, program: str = "client.mjs") -> dict[str, Any]:
    """What the program saw."""
    with anyio.fail_after(330):
        done = await anyio.run_process(
            ["node", str(FOLDER / program), target, era, *words], check=False, stderr=subprocess.PIPE
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


DESK = ServerFile.model_validate(
    {
        "name": "desk",
        "tools": {
            "shout": {
                "description": "Says a text in capitals.",
                "input": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
                "python": "desk:shout",
            }
        },
        "resources": {
            "rules": {"uri": "desk://rules", "description": "Rules.", "text": "No refunds on Sundays."},
            "order": {"uri": "desk://orders/{id}", "description": "One order.", "text": "Order ${{ input.id }}"},
        },
        "prompts": {
            "greet": {
                "description": "Greets a customer.",
                "arguments": {"name": {"required": True}, "tone": {"values": ["friendly", "formal", "frank"]}},
                "messages": [{"text": "Greet ${{ input.name }}."}],
            }
        },
    }
)


@pytest.mark.parametrize(("era", "version"), ERAS)
async def test_typescript_finds_reads_and_is_prompted(era: str, version: str) -> None:
    """Tools behind search_tools, resources, templates, prompts and completion, as TypeScript programs see them."""
    mesh = assemble(PurePath("mesh"), MeshFile.model_validate({"name": "acme", "mcp": {"offer": "search"}}), [DESK])
    functions = {"desk:shout": lambda text: {"said": text.upper()}}
    async with meshes.serving(mesh, functions=functions) as engine, mcp_server(engine) as url:
        seen = await node(url, era, program="offered.mjs")
    assert seen["version"] == version
    assert seen["tools"] == ["call_tool", "search_tools"]
    assert (seen["matched"], seen["called"]) == (1, {"said": "HI"})
    assert "desk://rules" in seen["resources"]
    assert "desk://orders/{id}" in seen["templates"]
    assert seen["read"] == [{"uri": "desk://orders/7", "mimeType": "text/plain", "text": "Order 7"}]
    assert seen["missing"] == -32602  # which this client makes of the older era's -32002 too, by the uri beside it
    assert seen["prompts"] == ["desk.greet"]
    assert seen["prompt"] == [{"role": "user", "content": {"type": "text", "text": "Greet Ada."}}]
    assert seen["completed"] == ["friendly", "frank"]


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
