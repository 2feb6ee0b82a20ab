"""Rounds: a mesh that dies at one boundary of its journal and is started again, many times in a minute.

Run as a program by `test_kill_everywhere`. It imports everything once and then forks: each child opens the whole application (store,
engine, edges; no socket), drives one run over its API as a client would, and is killed by AGENTMESH_CRASH_AT; another child finishes the
run. One line of JSON in, `{"key", "workflow", "spec"}`; one out, `{"deaths", "seconds", "run", "journal"}`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx

import agentmesh.a2a.server
import agentmesh.adapters.files
import agentmesh.http.api
import agentmesh.mcp.server
from agentmesh.app import open_app
from agentmesh.settings import Lease, Settings
from tests.faults.served import ENDED

WITHIN = 60.0
"""Seconds from a restart to the end of the run."""
LEASE = Lease(1.0, 0.3)
"""Short: on PostgreSQL a restarted server waits for the dead one's lease."""


@dataclass(frozen=True)
class Asked:
    """One round. `spec`: where the first process dies; `random:` specs kill every one but the last, too."""

    key: str
    workflow: str
    spec: str | None


def main(folder: Path) -> None:
    settings = Settings(folder=folder, models=False, lease=LEASE, port=9, log_level="error")
    mesh = agentmesh.adapters.files.load_mesh(folder, settings.secrets)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = Asked(**json.loads(line))
        begun = time.monotonic()
        told, deaths, spec = None, 0, asked.spec
        while told is None:
            told = _child(partial(drive, replace(settings, crash_at=spec), mesh, asked))
            if told is None:
                deaths += 1
                repeats = spec is not None and spec.startswith("random:") and deaths < 5
                spec = f"random:{int(spec.removeprefix('random:')) + 1000}" if repeats and spec is not None else None
        print(json.dumps({"deaths": deaths, "seconds": time.monotonic() - begun, **told}), flush=True)


def _child(work: Any) -> dict[str, Any] | None:
    """What `work` gives in a process of its own; None when that was killed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        status = 1
        try:
            text = json.dumps(anyio.run(work, backend_options={"use_uvloop": True}))
            with os.fdopen(write, "w") as out:
                out.write(text)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as found:
        text = found.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    return json.loads(text) if text else {"error": "the process failed; its standard error says why"}


async def drive(settings: Settings, mesh: Any, asked: Asked) -> dict[str, Any]:
    """Starts the run (once, by its key) and says what it waits for, until it has ended."""
    async with open_app(settings, mesh) as app:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{settings.port}") as client:
            with anyio.fail_after(WITHIN):
                started = await client.post(
                    "/v1/runs", json={"workflow": asked.workflow, "input": {"n": 7}, "key": asked.key}
                )
                assert started.status_code == 201, started.text
                run_id = started.json()["id"]
                while True:
                    run = (await client.get(f"/v1/runs/{run_id}")).json()
                    if run["state"] in ENDED:
                        break
                    await _say_yes(client, run_id)
                    await anyio.sleep(0.01)
            journals = {}
            for one in await _family(client, run):
                journals[one] = (await client.get(f"/v1/runs/{one}/journal")).json()["entries"]
    return {"run": run, "journals": journals}


async def _say_yes(client: httpx.AsyncClient, run_id: str) -> None:
    await client.post(f"/v1/runs/{run_id}/signals", json={"name": "go", "value": {}, "key": "go"})
    for question in (await client.get(f"/v1/runs/{run_id}/questions")).json()["questions"]:
        body = {"question": question["id"], "yes": True, "digest": question["digest"]}
        await client.post(f"/v1/runs/{run_id}/answers", json=body)


async def _family(client: httpx.AsyncClient, run: dict[str, Any]) -> list[str]:
    """A run and its children, by id."""
    found = [run["id"]]
    for step in run["steps"]:
        if step.get("child"):
            child = (await client.get(f"/v1/runs/{step['child']}")).json()
            found += await _family(client, child)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
