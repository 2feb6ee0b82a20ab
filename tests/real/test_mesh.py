"""The main job through every door of a really served mesh: real Ray, real vLLM, real sockets, real tools' logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client

from tests.real.conftest import PROGRAM, Served

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

PROGRAM_TEXT = """\
def fare(ticket):
    return ticket["zones"] * 1.5


def report(tickets):
    for ticket in tickets:
        print(fare(ticket))


report([{"zones": 2}, {"zones": None}])
"""
TESTS_TEXT = """\
from ferry import capacity


def test_a_full_ferry_takes_nobody_else():
    assert capacity(decks=2) == 300
"""


@pytest.fixture(scope="module")
def traceback_log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What Python really says of a program that multiplies None."""
    folder = tmp_path_factory.mktemp("tram")
    (folder / "tram.py").write_text(PROGRAM_TEXT)
    done = subprocess.run([sys.executable, "tram.py"], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def pytest_log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest really says of a failed check."""
    folder = tmp_path_factory.mktemp("ferry")
    (folder / "ferry.py").write_text("def capacity(decks):\n    return decks * 120\n")
    (folder / "test_ferry.py").write_text(TESTS_TEXT)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def check_traceback(output: dict[str, Any]) -> None:
    assert output["cause"] == "type", output
    assert output["file"].endswith("tram.py"), output
    assert output["line"] == 2, output
    assert output["agent"] == "fix-code", output
    assert any("TypeError" in quote for quote in output["quotes"]), output


def check_pytest(output: dict[str, Any]) -> None:
    assert output["cause"] == "assertion", output
    assert output["file"].endswith("test_ferry.py"), output
    assert output["line"] == 5, output
    assert output["subject"] == "test_a_full_ferry_takes_nobody_else", output


def test_a_shell_gets_the_answer_and_finds_the_run_again(served: Served, traceback_log: str, tmp_path: Path) -> None:
    """`run --json` prints the output; `runs show` finds the run with its steps and the hand-over."""
    (tmp_path / "build.log").write_text(traceback_log)
    done = served.command("run", "triage", "--input", f"log=@{tmp_path}/build.log", "--json")
    assert done.returncode == 0, done.stderr
    check_traceback(json.loads(done.stdout))
    runs = json.loads(served.command("runs", "list", "--json").stdout)["runs"]
    run_id = next(r["id"] for r in runs if r["workflow"] == "triage")
    shown = json.loads(served.command("runs", "show", run_id, "--json").stdout)
    assert shown["state"] == "completed"
    assert shown["usage"]["completion_tokens"] > 0
    children = [step["child"] for step in shown["steps"] if step.get("child")]
    assert [served.get(f"/v1/runs/{child}")["workflow"] for child in children] == ["fix-code"]


@pytest.mark.anyio
@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_an_mcp_client_gets_the_answer_with_progress(served: Served, pytest_log: str, era: str) -> None:
    """The official client calls `triage` in both eras, sees progress, and gets structured content."""
    said: list[str] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        said.append(message or "")

    async with Client(served.url + "/mcp", mode=era) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert "triage" in names
        result = await client.call_tool("triage", {"log": pytest_log}, progress_callback=on_progress)
    assert not result.is_error
    check_pytest(result.structured_content)  # type: ignore[arg-type]
    assert any("choose" in line for line in said), said


@pytest.mark.anyio
@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_an_a2a_client_gets_the_answer_as_a_stream(served: Served, pytest_log: str, binding: str) -> None:
    """The official client streams a message to the skill, gets one artifact, and finds the task again."""
    from a2a.client import ClientConfig, ClientFactory
    from a2a.client.card_resolver import A2ACardResolver
    from a2a.types import GetTaskRequest, Message, Part, Role, SendMessageRequest, TaskState
    from google.protobuf.json_format import MessageToDict

    async with httpx.AsyncClient(timeout=120) as http:
        card = await A2ACardResolver(http, served.url).get_agent_card()
        assert "triage" in [skill.id for skill in card.skills]
        client = ClientFactory(
            ClientConfig(httpx_client=http, streaming=True, supported_protocol_bindings=[binding])
        ).create(card)
        message = Message(message_id=f"m-{binding}", role=Role.ROLE_USER, parts=[Part(text=pytest_log)])
        message.metadata["skill"] = "triage"
        task_id, states, artifacts = "", [], []
        async for event in client.send_message(SendMessageRequest(message=message)):
            kind = event.WhichOneof("payload")
            if kind == "task":
                task_id = event.task.id
            elif kind == "status_update":
                states.append(event.status_update.status.state)
            elif kind == "artifact_update":
                artifacts.append(event.artifact_update.artifact)
        assert states[-1] == TaskState.TASK_STATE_COMPLETED
        (artifact,) = artifacts
        data = next(MessageToDict(part.data) for part in artifact.parts if part.HasField("data"))
        data["line"] = int(data["line"])
        check_pytest(data)
        found = await client.get_task(GetTaskRequest(id=task_id))
        assert found.status.state == TaskState.TASK_STATE_COMPLETED
    assert served.get(f"/v1/runs/{task_id}")["state"] == "completed"


@pytest.mark.anyio
async def test_an_ide_over_stdio_gets_the_answer(served: Served, traceback_log: str) -> None:
    """`agentmesh mcp` is a pipe from stdio to the same server."""
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    parameters = StdioServerParameters(command=str(PROGRAM), args=["mcp"], cwd=str(served.folder), env=dict(os.environ))
    async with Client(stdio_client(parameters)) as client:
        result = await client.call_tool("triage", {"log": traceback_log})
    check_traceback(result.structured_content)  # type: ignore[arg-type]


def test_cron_triages_new_files_once(served: Served, traceback_log: str, pytest_log: str) -> None:
    """New files of the folder are triaged at the next tick, are left as they were, and are not triaged again."""
    inbox = served.folder / "inbox"
    inbox.mkdir(exist_ok=True)
    (inbox / "tram.log").write_text(traceback_log)
    (inbox / "ferry.log").write_text(pytest_log)
    for file in inbox.iterdir():
        os.utime(file, (time.time() - 60, time.time() - 60))

    def triaged() -> list[dict[str, Any]]:
        return [
            run
            for parent in served.get("/v1/runs?workflow=inbox&limit=50")["runs"]
            for step in served.get(f"/v1/runs/{parent['id']}")["steps"]
            if step.get("child") and (run := served.wait_for_run(step["child"]))
        ]

    until = time.monotonic() + 150
    while len(triaged()) < 2 and time.monotonic() < until:
        time.sleep(1)
    first = triaged()
    assert sorted(run["output"]["cause"] for run in first) == ["assertion", "type"]
    assert (inbox / "tram.log").read_text() == traceback_log
    ticks = len(served.get("/v1/runs?workflow=inbox&limit=50")["runs"])
    while len(served.get("/v1/runs?workflow=inbox&limit=50")["runs"]) == ticks:
        assert time.monotonic() < until + 90, "no second tick"
        time.sleep(1)
    assert len(triaged()) == 2


def test_kill_nine_in_the_middle_loses_and_repeats_nothing(served: Served, traceback_log: str, pytest_log: str) -> None:
    """After kill -9 with runs in flight every accepted run completes, no completed step runs again, models are found warm."""
    logs = [traceback_log, pytest_log] * 6
    started = [served.post("/v1/runs", {"workflow": "triage", "input": {"log": log}})["id"] for log in logs]
    served.kill()
    served.start()
    served.wait_ready(60)
    for run_id in started:
        run = served.wait_for_run(run_id)
        assert run["state"] == "completed", run
        journal = served.get(f"/v1/runs/{run_id}/journal")["entries"]
        assert [entry["seq"] for entry in journal] == list(range(1, len(journal) + 1))
        ended = [entry["path"] for entry in journal if entry["kind"] == "step.completed"]
        assert len(ended) == len(set(ended)), ended
        done: set[str] = set()
        for entry in journal:
            if entry["kind"] == "step.completed":
                done.add(entry["path"])
            assert not (entry["kind"] == "step.started" and entry["path"] in done), f"{entry['path']} ran again"
    assert len({run["id"] for run in served.get("/v1/runs?workflow=triage&limit=200")["runs"]} & set(started)) == len(
        logs
    )


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_wrong_requests_are_the_callers_error(served: Served) -> None:
    """An unknown workflow, a wrong input and a foreign Host are refused in a sentence, before a model is asked."""
    before = served.get("/v1/runs?limit=1")["total"]
    for body, status in [({"workflow": "triag", "input": {}}, 404), ({"workflow": "triage", "input": {"log": 3}}, 422)]:
        answer = httpx.post(served.url + "/v1/runs", json=body)
        assert answer.status_code in {status, 400}, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert httpx.get(served.url + "/healthz", headers={"host": "evil.example"}).status_code in {400, 403, 421}
    assert served.get("/v1/runs?limit=1")["total"] == before
