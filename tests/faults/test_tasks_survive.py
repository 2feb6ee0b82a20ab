"""Tasks of MCP outlive the server that made them, and are there on every replica."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.served import Served, until

pytestmark = pytest.mark.timeout(180)

TASKS: dict[str, Any] = {"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}}
FORMS: dict[str, Any] = {"elicitation": {}}
JOBS = """
name: jobs
prefix: false
tools:
  slow:
    description: Answers after so many seconds.
    input: {type: object, properties: {seconds: {type: number}}, required: [seconds]}
    python: tests.conformance.task_functions:slow_compute
    annotations: {readOnlyHint: true}
    execution: {taskSupport: optional}
  two:
    description: Asks two things at once.
    python: tests.conformance.task_functions:multi_input
    annotations: {readOnlyHint: true}
    execution: {taskSupport: optional}
"""
REVIEW = """
name: review
description: Asks a person.
on: {mcp: {}}
input: {type: object, properties: {text: {type: string}}, required: [text]}
steps:
  - id: ok
    approve: {ask: "Send it?", show: {text: "${{ input.text }}"}}
  - id: done
    set: {sent: true}
"""


def write(folder: Path, store: str) -> Path:
    for name, text in {
        "agentmesh.yaml": f"name: tasks\nstore: {store}\nmcp: {{task_ttl: 1h}}\n",
        "servers/jobs.yaml": JOBS,
        "workflows/review.yaml": REVIEW,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def replicas(tmp_path: Path, postgres_url: str) -> Iterator[tuple[Served, Served]]:
    """Two servers of one mesh on one PostgreSQL."""
    with ExitStack() as stack:
        both = [
            stack.enter_context(Served(write(tmp_path / name, postgres_url), AGENTMESH_LEASE="3"))
            for name in ("a", "b")
        ]
        yield both[0].start(), both[1].start()


def send(server: Served, method: str, can: Mapping[str, Any] = TASKS, **params: Any) -> dict[str, Any]:
    """The result of one request of 2026-07-28."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": dict(can),
    }
    answer = server.http.post(
        "/mcp",
        json={"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}},
        headers={
            "accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28", "mcp-method": method,
            "mcp-name": params.get("name") or params["taskId"],
        },
    )  # fmt: skip
    found = answer.json() if answer.text.startswith("{") else _last_event(answer.text)
    assert "result" in found, found
    result: dict[str, Any] = found["result"]
    return result


def _last_event(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads([line for line in text.splitlines() if line.startswith("data:")][-1][5:])
    return found


def made(server: Served, tool: str, **arguments: Any) -> str:
    result = send(server, "tools/call", name=tool, arguments=arguments)
    assert result["resultType"] == "task", result
    return str(result["taskId"])


def reached(server: Served, task: str, *statuses: str, asks: int = 0) -> dict[str, Any]:
    """The task when it has one of the statuses, and asks so much."""

    def look() -> dict[str, Any] | None:
        found = send(server, "tasks/get", taskId=task)
        return found if found["status"] in statuses and len(found.get("inputRequests", ())) >= asks else None

    return until(look, 30, lambda: f"task {task}: {send(server, 'tasks/get', taskId=task)}\n{server.said()}")


def answer(server: Served, task: str, **responses: Any) -> None:
    assert send(server, "tasks/update", taskId=task, inputResponses=responses)["resultType"] == "complete"


def said(task: Mapping[str, Any]) -> str:
    return str(task["result"]["content"][0]["text"])


def test_a_killed_server_is_back_with_its_tasks(tmp_path: Path) -> None:
    """The same ids, the same questions: what was answered before is, what was not can be, and what was at work is done."""
    with Served(write(tmp_path / "mesh", "sqlite:///mesh.db")) as server:
        server.start()
        working = made(server, "slow", seconds=1.5)
        asking, review = made(server, "two"), made(server, "review", text="hello")
        both = reached(server, asking, "input_required", asks=2)["inputRequests"]
        first = reached(server, review, "input_required")
        name, confirm = both
        answer(server, asking, **{name: {"action": "accept", "content": {"name": "Ann"}}})
        server.kill()
        server.start()
        again = send(server, "tasks/get", taskId=review)
        assert (again["status"], again["inputRequests"]) == ("input_required", first["inputRequests"])
        assert again["createdAt"] == first["createdAt"]
        left = reached(server, asking, "input_required")
        assert list(left["inputRequests"]) == [confirm]
        answer(server, asking, **{confirm: {"action": "accept", "content": {"confirm": True}}})
        answer(server, review, **{key: {"action": "accept"} for key in again["inputRequests"]})
        assert said(reached(server, asking, "completed")) == "name: accept, confirm: accept"
        assert reached(server, review, "completed")["result"]["structuredContent"] == {"sent": True}
        assert "computed" in said(reached(server, working, "completed"))
        server.kill()
        server.start()
        done = send(server, "tasks/get", taskId=review)
        assert (done["status"], done["result"]["structuredContent"]) == ("completed", {"sent": True})


def test_a_call_goes_on_after_its_server_was_killed(tmp_path: Path) -> None:
    """A client without tasks comes again with the state that the killed server sealed: the same run goes on."""
    with Served(write(tmp_path / "mesh", "sqlite:///mesh.db")) as server:
        server.start()
        params: dict[str, Any] = {"name": "review", "arguments": {"text": "hello"}}
        first = send(server, "tools/call", FORMS, **params)
        assert first["resultType"] == "input_required"
        server.kill()
        server.start()
        last = send(
            server, "tools/call", FORMS, **params, requestState=first["requestState"],
            inputResponses={key: {"action": "accept"} for key in first["inputRequests"]},
        )  # fmt: skip
        assert last["structuredContent"] == {"sent": True}
        assert len(server.get("/v1/runs")["runs"]) == 1


def test_two_replicas_have_the_same_tasks(replicas: tuple[Served, Served]) -> None:
    """Made at one, looked at and answered at the other, the instant its handle is there; and finished when the one is gone."""
    one, other = replicas
    for _ in range(5):
        task = made(one, "slow", seconds=30)
        assert send(other, "tasks/get", taskId=task)["status"] == "working"
        assert send(other, "tasks/cancel", taskId=task)["resultType"] == "complete"
        assert reached(one, task, "cancelled")["status"] == "cancelled"
    asking, review = made(one, "two"), made(one, "review", text="hello")
    name, confirm = reached(other, asking, "input_required", asks=2)["inputRequests"]
    answer(other, asking, **{confirm: {"action": "decline"}})
    assert list(send(one, "tasks/get", taskId=asking)["inputRequests"]) == [name]
    answer(one, asking, **{name: {"action": "accept", "content": {"name": "Ann"}}})
    assert said(reached(other, asking, "completed")) == "name: accept, confirm: decline"
    working = made(one, "slow", seconds=1)
    one.kill()
    begun = time.monotonic()
    (key,) = send(other, "tasks/get", taskId=review)["inputRequests"]
    answer(other, review, **{key: {"action": "accept"}})
    assert reached(other, review, "completed")["result"]["structuredContent"] == {"sent": True}
    assert "computed" in said(reached(other, working, "completed"))
    assert time.monotonic() - begun < 30
