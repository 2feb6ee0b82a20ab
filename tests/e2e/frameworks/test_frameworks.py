"""Two agents of other frameworks, each in an environment of its own, do one workflow of the mesh together (`make e2e-frameworks`).

researcher is pydantic-ai, served by fasta2a; writer is google-adk. Their models are scripted, their protocols real.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.frameworks.environments import HERE, python
from tests.faults.served import ENDED, Served, until

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(120)]

LISBON = "Tell me of Lisbon."
HEADLINE = "LISBON HAS 7 HILLS!"
TERMINAL = {f"TASK_STATE_{state.upper()}" for state in ENDED}
START = 60.0
"""Most seconds until an agent listens: google-adk takes six to import on a machine at rest."""
WORKFLOW = """
name: headline
description: Finds a fact out and makes a headline of it
on: {a2a: {skill: headline, tags: [cities]}, mcp: {}}
input:
  type: object
  properties: {text: {type: string}}
  required: [text]
steps:
  - id: research
    agent: {peer: researcher, skill: facts, message: "${{ input.text }}"}
  - id: write
    agent: {peer: writer, message: "${{ steps.research.output }}"}
    effect: read
output: {headline: "${{ steps.write.output }}", from: "${{ steps.research.output }}"}
"""


class Agent:
    """An agent's process. It can be killed, and started again at the same address; `hold` keeps its model from answering."""

    def __init__(self, folder: Path, framework: str, script: str) -> None:
        self._python, self._script = python(framework), HERE / script
        self.hold = folder / f"{framework}.hold"
        self.log = folder / f"{framework}.log"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def card(self) -> str:
        return f"{self.url}/.well-known/agent-card.json"

    def start(self) -> None:
        environ = {**os.environ, "HOLD": str(self.hold), "OTEL_SDK_DISABLED": "true"}
        environ.pop("PYTHONPATH", None)
        port = self.url.rpartition(":")[2] or "0"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, self._script, port],
                env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        with self._process.stdout as said:
            self.url = said.readline().decode().strip()
        assert self.url, self.log.read_text()
        until(lambda: _status(self.card) == 200 or None, START, lambda: self.log.read_text()[-2000:])

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)


def _status(url: str) -> int:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=5, trust_env=False).status_code
    return 0


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Served, Agent, Agent]]:
    """The mesh and both agents."""
    researcher = Agent(folder, "pydantic_ai", "pydantic_ai_researcher.py")
    writer = Agent(folder, "google_adk", "google_adk_writer.py")
    try:
        researcher.start()
        writer.start()
        cards = {"researcher": {"card": researcher.card}, "writer": {"card": writer.card}}
        (folder / "agentmesh.yaml").write_text(json.dumps({"name": "cities", "agents": cards}))
        (folder / "workflows").mkdir()
        (folder / "workflows" / "headline.yaml").write_text(WORKFLOW)
        with Served(folder) as server:
            server.start()
            until(lambda: _known(server) or None, 20, server.said)
            yield server, researcher, writer
    finally:
        researcher.kill()
        writer.kill()


def _known(server: Served) -> bool:
    """Whether the cards of both agents have been read."""
    names = {tool["name"] for tool in server.get("/v1/tools")["tools"]}
    return {"researcher.facts", "writer.writer"} <= names


def rpc(server: Served, method: str, **params: Any) -> dict[str, Any]:
    """The result of one A2A 1.0 request over JSON-RPC."""
    answer = server.post(
        "/a2a", {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, **{"A2A-Version": "1.0"}
    )
    assert "result" in answer, answer
    result: dict[str, Any] = answer["result"]
    return result


def send(server: Served, text: str, *, skill: str | None = "headline", wait: bool = False) -> dict[str, Any]:
    """The task that a message to the mesh begins."""
    message = {"messageId": str(uuid.uuid4()), "role": "ROLE_USER", "parts": [{"text": text}]}
    metadata = {} if skill is None else {"skill": skill}
    task: dict[str, Any] = rpc(
        server, "SendMessage", message={**message, "metadata": metadata},
        configuration={"returnImmediately": not wait},
    )["task"]  # fmt: skip
    return task


def ended(server: Served, task: str, within: float = 60) -> dict[str, Any]:
    """The task when it has ended."""

    def look() -> dict[str, Any] | None:
        found = rpc(server, "GetTask", id=task)
        return found if found["status"]["state"] in TERMINAL else None

    return until(look, within, lambda: f"{rpc(server, 'GetTask', id=task)}\n{server.said()}")


def at_writer(server: Served, task: str) -> dict[str, Any]:
    """The step whose work the writer has taken up."""

    def look() -> dict[str, Any] | None:
        told = [e for e in server.journal(task) if e["kind"] == "step.task" and e["path"] == "write"]
        return told[-1] if told else None

    return until(look, 30, server.said)


def output(task: dict[str, Any]) -> Any:
    (artifact,) = task["artifacts"]
    return next(part["data"] for part in artifact["parts"] if "data" in part)


def test_two_frameworks_complete_one_workflow(tmp_path: Path) -> None:
    """What the first finds out goes to the second; a client sees one task, and the journal says whose tasks did the work."""
    with serving(tmp_path) as (server, _, _):
        task = send(server, LISBON, wait=True)
        assert task["status"]["state"] == "TASK_STATE_COMPLETED", task
        assert output(task) == {"headline": HEADLINE, "from": "Found out: Lisbon has 7 hills."}
        told = [(e["path"], e["payload"]["peer"]) for e in server.journal(task["id"]) if e["kind"] == "step.task"]
        assert told == [("research", "researcher"), ("write", "writer")]
        agents = {agent["name"]: (agent["state"], agent["speaks"]) for agent in server.get("/v1/agents")["agents"]}
        assert agents["researcher"] == agents["writer"] == ("up", ["JSONRPC 1.0"])

        # Without a workflow: by its words a message goes to the agent that it fits.
        alone = ended(server, send(server, "Find one fact about a city: Oslo.", skill=None)["id"])
        assert alone["status"]["state"] == "TASK_STATE_COMPLETED", alone
        assert [part["text"] for part in alone["artifacts"][0]["parts"]] == ["Found out: Oslo lies at a fjord."]
        assert alone["metadata"]["urn:agentmesh:a2a:route:1"]["agent"] == "researcher"


def test_a_killed_mesh_goes_on_with_the_task_that_an_agent_has(tmp_path: Path) -> None:
    """The agent is not sent anything a second time: its own task is followed to the end."""
    with serving(tmp_path) as (server, _, writer):
        writer.hold.touch()
        task = send(server, LISBON)["id"]
        before = at_writer(server, task)
        server.kill()
        writer.hold.unlink()
        server.start()
        done = ended(server, task)
        assert done["status"]["state"] == "TASK_STATE_COMPLETED", done
        assert output(done)["headline"] == HEADLINE
        told = [e for e in server.journal(task) if e["kind"] == "step.task" and e["path"] == "write"]
        assert [e["payload"] for e in told] == [before["payload"]]


def test_an_agent_killed_midway_fails_the_task_with_a_reason(tmp_path: Path) -> None:
    """It comes back and knows nothing of its task; the mesh says so, and is not for ever at work."""
    with serving(tmp_path) as (server, _, writer):
        writer.hold.touch()
        task = send(server, LISBON)["id"]
        at_writer(server, task)
        begun = time.monotonic()
        writer.kill()
        writer.hold.unlink()
        writer.start()
        done = ended(server, task)
        assert done["status"]["state"] == "TASK_STATE_FAILED", done
        (said,) = [part["text"] for part in done["status"]["message"]["parts"] if "text" in part]
        assert "writer does not know task" in said
        assert time.monotonic() - begun < 60

        again = ended(server, send(server, LISBON)["id"])
        assert again["status"]["state"] == "TASK_STATE_COMPLETED", again
