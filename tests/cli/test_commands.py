"""The other commands against a scripted server, and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentmesh.cli.client import find
from agentmesh.cli.doctor import look_at_memory, look_at_platform, look_at_port, look_at_python
from tests.cli.fake import Fake, run_json, sse

if TYPE_CHECKING:
    from tests.cli.conftest import Agentmesh

TOOL = {
    "name": "desk.classify",
    "description": "Sort a message.\nMore.",
    "input_schema": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["text"],
    },
}


def result(structured: object = None, text: str = "", *, is_error: bool = False) -> tuple[str, dict[str, object]]:
    return ("result", {"structured": structured, "text": text, "is_error": is_error, "run_id": None})


def test_tools_list_and_call(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Arguments are parsed by the tool's schema; what goes on meanwhile is told on stderr."""
    server.answer("GET", "/v1/tools", {"tools": [TOOL]})
    assert (
        agentmesh("tools", "list", "--mesh", str(mesh)).out.splitlines()[1]
        == "desk.classify  text [n]  Sort a message."
    )
    stream = sse(("notice", {"message": "waiting for model tiny"}), result({"queue": "bug"}, '{"queue": "bug"}'))
    server.answer("POST", "/v1/tools/desk.classify/call", stream)
    done = agentmesh("tools", "call", "desk.classify", "-i", "text=12", "-i", "n=12", "--mesh", str(mesh), "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out) == {"queue": "bug"}
    assert done.err == "  waiting for model tiny\n"
    assert server.bodies("/v1/tools/desk.classify/call") == [{"arguments": {"text": "12", "n": 12}}]


def test_a_tool_that_fails_is_status_1(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """An error result, a problem in the stream and a stream that ends early are three different ends."""
    server.answer("GET", "/v1/tools", {"tools": [TOOL]})
    call = ("tools", "call", "desk.classify", "-i", "text=x", "--mesh", str(mesh))
    server.answer("POST", "/v1/tools/desk.classify/call", sse(result(text="no such customer", is_error=True)))
    done = agentmesh(*call)
    assert (done.status, done.out, done.err) == (1, "", "agentmesh: desk.classify failed: no such customer\n")
    problem = {"status": 422, "detail": "text: 'x' is too short", "code": "invalid_input"}
    server.answer("POST", "/v1/tools/desk.classify/call", sse(("problem", problem)))
    done = agentmesh(*call)
    assert (done.status, done.err) == (2, "agentmesh: text: 'x' is too short\n")
    server.answer("POST", "/v1/tools/desk.classify/call", sse())
    assert agentmesh(*call).status == 3


def test_an_unknown_tool_gets_a_suggestion(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """A slip of the fingers is named before anything is sent."""
    server.answer("GET", "/v1/tools", {"tools": [TOOL]})
    done = agentmesh("tools", "call", "desk.clasify", "--mesh", str(mesh))
    assert (done.status, done.err) == (
        2,
        "agentmesh: there is no tool 'desk.clasify'; did you mean \"desk.classify\"?\n",
    )


def test_agents_send_follows_the_task(agentmesh: Agentmesh, mesh: Path, server: Fake, tmp_path: Path) -> None:
    """Text and data reach the skill; the answer is the run's output."""
    server.answer("POST", "/v1/agents/send", (201, run_json(state="submitted")))
    server.answer("GET", "/v1/runs/r1/events", sse(("run", run_json())))
    server.answer("GET", "/v1/runs/r1", run_json(output={"ok": True}))
    done = agentmesh("agents", "send", "triage", "look at this", "--mesh", str(mesh), "--json")
    assert (done.status, json.loads(done.out)) == (0, {"ok": True})
    data = tmp_path / "data.json"
    data.write_text('{"log": "x"}')
    agentmesh("agents", "send", "triage", "--data", f"@{data}", "--mesh", str(mesh))
    sent = server.bodies("/v1/agents/send")
    assert sent == [{"skill": "triage", "text": "look at this"}, {"skill": "triage", "data": {"log": "x"}}]
    assert agentmesh("agents", "send", "--mesh", str(mesh)).status == 2


def test_lists_of_agents_models_and_schedules(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Each is a table, and with --json the server's own list."""
    skill = {"id": "triage", "workflow": "triage", "tags": ["logs"], "description": "Reads logs."}
    agent = {"name": "m", "where": "mesh", "state": "up", "latency": 0.0, "detail": "", "skills": [skill]}
    model = {"name": "tiny", "state": "loading", "message": "loading weights", "urls": [], "replicas": 0, "since": 0}
    schedule = {
        "workflow": "inbox",
        "index": 0,
        "schedule": "* * * * *",
        "timezone": "UTC",
        "last": None,
        "next": "2026-11-22T17:00:00Z",
    }
    server.answer("GET", "/v1/agents", {"agents": [agent], "default": "triage"})
    server.answer("GET", "/v1/models", {"models": [model], "default": "tiny"})
    server.answer("GET", "/v1/schedules", {"schedules": [schedule]})
    for command, rows, words in (
        (("agents", "list"), [agent], ["m", "triage", "up", "mesh", "logs", "Reads", "logs."]),
        (("models", "status"), [model], ["tiny", "loading", "0", "loading", "weights"]),
        (("schedules", "list"), [schedule], ["inbox", "0", "*", "*", "*", "*", "*", "UTC", "2026-11-22T17:00:00Z"]),
    ):
        assert agentmesh(*command, "--mesh", str(mesh)).out.splitlines()[1].split() == words
        assert json.loads(agentmesh(*command, "--mesh", str(mesh), "--json").out) == rows


@pytest.mark.parametrize(
    "command", [("runs", "list"), ("tools", "list"), ("agents", "list"), ("models", "status"), ("schedules", "list")]
)
def test_no_server_is_status_3(agentmesh: Agentmesh, mesh: Path, command: tuple[str, ...]) -> None:
    """Looking starts nothing: the sentence says how to start a server."""
    done = agentmesh(*command, "--mesh", str(mesh))
    assert (done.status, done.out) == (3, "")
    assert done.err == f"agentmesh: no server runs for {mesh}; start it with `agentmesh serve`\n"


def test_no_mesh_is_status_2(agentmesh: Agentmesh, tmp_path: Path) -> None:
    """A folder that is no mesh is named, with what makes one."""
    done = agentmesh("runs", "list", "--mesh", str(tmp_path))
    expected = f"agentmesh: there is no agentmesh.yaml in {tmp_path}; `agentmesh init FOLDER` makes a mesh\n"
    assert (done.status, done.err) == (2, expected)


def test_a_server_of_another_mesh_is_not_ours(mesh: Path, server: Fake, tmp_path: Path) -> None:
    """After a crash somebody else may have got the port: the folder must be the same."""
    assert find(mesh) is not None
    server.answer("GET", "/v1/mesh", {"name": "other", "folder": str(tmp_path)})
    assert find(mesh) is None
    server.answer("GET", "/v1/mesh", ["what?"])
    assert find(mesh) is None
    (mesh / ".agentmesh" / "server.json").write_text("{}")
    assert find(mesh) is None


def test_stop_ends_only_a_server(agentmesh: Agentmesh, mesh: Path) -> None:
    """The process named in server.json is stopped and waited for; an id that means something else now is left alone."""
    state = mesh / ".agentmesh"
    state.mkdir()
    server, other = (
        subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", *name]) for name in (["agentmesh"], [])
    )
    try:
        (state / "server.json").write_text(json.dumps({"pid": other.pid, "url": "http://127.0.0.1:1"}))
        assert "no server runs" in agentmesh("stop", "--mesh", str(mesh)).err
        assert other.poll() is None
        (state / "server.json").write_text(json.dumps({"pid": server.pid, "url": "http://127.0.0.1:1"}))
        done = agentmesh("stop", "--mesh", str(mesh), "--json")
        assert json.loads(done.out) == {"stopped": True, "pid": server.pid, "pids": [server.pid]}
        assert server.wait(5) == -15
    finally:
        for process in (server, other):
            process.kill()
            process.wait()


def test_help_answers_at_once() -> None:
    """The program starts without the packages that serving needs: in half a second, and on a busy machine in a few."""
    script = "import sys; from agentmesh.cli import main; print([m for m in sys.modules])"
    heavy = {"pydantic", "mcp", "a2a", "fastapi", "sqlalchemy", "httpx", "ray", "vllm", "uvicorn", "yaml", "anyio"}
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not heavy & set(eval(loaded))  # noqa: S307 - a list that this test's own child printed
    begun = time.process_time(), os.times().children_user
    subprocess.run([sys.executable, "-m", "agentmesh", "--help"], capture_output=True, check=True)
    assert os.times().children_user - begun[1] < 1.0


def test_wrong_usage_is_status_2(agentmesh: Agentmesh) -> None:
    """An option that does not exist is the caller's mistake."""
    assert agentmesh("run").status == 2
    assert agentmesh("serve", "--port", "many").status == 2
    assert agentmesh("--version").out.startswith("agentmesh ")


def test_doctor_says_what_to_do_elsewhere(tmp_path: Path) -> None:
    """Where models cannot be deployed, doctor says to use models by url."""
    elsewhere = look_at_platform("Darwin", "arm64")
    assert elsewhere.state == "warn"
    assert "give models by `url`" in elsewhere.message
    assert look_at_platform("Linux", "x86_64").state == "ok"
    assert look_at_python((3, 10)).state == look_at_python((3, 14)).state == "fail"
    assert look_at_python((3, 12)).state == "ok"
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    1048576 kB\n")
    assert look_at_memory(meminfo).message.startswith("1.0 GiB available")


def test_doctor_tells_a_port_in_use(server: Fake) -> None:
    """A port that is taken is named with the option that takes another."""
    finding = look_at_port(int(server.url.rpartition(":")[2]))
    assert finding.state == "warn"
    assert "--port" in finding.message
