"""`run` and `runs` against a scripted server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.cli.fake import Fake, entry, run_json, sse

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Agentmesh

WORKFLOW = {
    "name": "greet",
    "input": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}},
}
JOURNAL = sse(
    ("run", run_json(state="submitted")),
    ("entry", entry(1, "run.submitted")),
    ("entry", entry(2, "run.working", worker="w")),
    ("entry", entry(3, "step.started", "ask", at=1.0, verb="llm", why="first")),
    ("notice", {"message": "waiting for model tiny: loading weights"}),
    (
        "entry",
        entry(4, "step.attempt", "ask", verdicts=[{"validator": "ensure", "outcome": "fail", "message": "too short"}]),
    ),
    ("entry", entry(5, "step.started", "ask", attempt=2, verb="llm", why="repair")),
    ("entry", entry(6, "step.completed", "ask", attempt=2, at=1.25, verb="llm", output=1)),
    ("entry", entry(7, "step.skipped", "extra", reason="if is false")),
    ("entry", entry(8, "run.completed", output={"text": "hi"})),
    ("run", run_json(output={"text": "hi"})),
)


def prepare(server: Fake, ended: dict[str, object], events: object = JOURNAL) -> None:
    server.answer("GET", "/v1/workflows/greet", WORKFLOW)
    server.answer("POST", "/v1/runs", (201, run_json(state="submitted")))
    server.answer("GET", "/v1/runs/r1/events", events)
    server.answer("GET", "/v1/runs/r1", ended)


def test_run_prints_the_output_and_shows_the_steps(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """The output is all there is on stdout; the steps, failed checks and waits are told on stderr as they come."""
    prepare(server, run_json(output={"text": "hi"}))
    done = agentmesh("run", "greet", "--input", "name=you", "--input", "n=3", "--mesh", str(mesh), "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out) == {"text": "hi"}
    assert server.bodies("/v1/runs") == [{"workflow": "greet", "input": {"name": "you", "n": 3}}]
    told = [line.strip() for line in done.err.splitlines()]
    assert told == [
        "ask: llm begins",
        "waiting for model tiny: loading weights",
        "ask: attempt 1 did not pass: too short",
        "ask: attempt 2 (repair)",
        "ask: completed in 0.25 s",
        "extra: skipped: if is false",
        "agentmesh: run r1 completed in 0.50 s, 15 tokens",
    ]


def test_run_without_json_prints_names_and_values(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """An object is shown line by line, a list of texts under one name."""
    prepare(server, run_json(output={"cause": "type", "quotes": ["a", "b"], "line": 3, "file": None}))
    done = agentmesh("run", "greet", "--mesh", str(mesh), "--quiet")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == ["cause   type", "quotes  a", "        b", "line    3", "file    null"]


def test_a_failed_run_is_status_1_and_leaves_stdout_empty(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """A script that reads stdout never takes a failure for an answer."""
    error = {"code": "invalid_output", "message": "the answer is not grounded", "path": "ask"}
    prepare(server, run_json(state="failed", error=error))
    done = agentmesh("run", "greet", "--mesh", str(mesh), "--json", "-q")
    assert (done.status, done.out) == (1, "")
    assert done.err == "agentmesh: run r1 failed: ask: the answer is not grounded\n"


def test_a_stream_that_breaks_is_taken_up_where_it_broke(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """A server that restarts in the middle costs nothing: the stream goes on after the last entry seen."""
    first = sse(("entry", entry(1, "run.submitted")), ("entry", entry(2, "run.working")))
    prepare(server, run_json(output=1), [first, JOURNAL])
    server.answer("GET", "/v1/runs/r1", [run_json(state="working"), run_json(output=1)])
    done = agentmesh("run", "greet", "--mesh", str(mesh), "--json")
    assert (done.status, done.out) == (0, "1\n")
    asked = [h for (_, path, _), h in zip(server.asked, server.headers, strict=True) if path.endswith("/events")]
    assert [h.get("Last-Event-ID") for h in asked] == [None, "2"]


def test_detached_runs_print_their_id(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """`--detach` does not wait; `--key` reaches the server."""
    prepare(server, run_json())
    done = agentmesh("run", "greet", "--mesh", str(mesh), "--detach", "--key", "k1")
    assert (done.status, done.out) == (0, "r1\n")
    assert server.bodies("/v1/runs") == [{"workflow": "greet", "input": {}, "key": "k1"}]


def test_the_server_is_asked_with_its_token(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Whoever can read .agentmesh/server.json is who started the server."""
    server.answer("GET", "/v1/runs", {"runs": [], "next": None, "total": 0})
    agentmesh("runs", "list", "--mesh", str(mesh))
    assert {h["Authorization"] for h in server.headers} == {"Bearer s3cret-token"}


def test_problems_are_said_in_words(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """The caller's mistake is status 2, a failure status 1; the detail of the problem is the sentence."""
    problem = {
        "title": "Not Found",
        "status": 404,
        "detail": "there is no workflow 'gret'; there are: greet",
        "code": "not_found",
    }
    server.answer("GET", "/v1/workflows/gret", (404, problem))
    done = agentmesh("run", "gret", "--mesh", str(mesh))
    assert (done.status, done.out, done.err) == (2, "", "agentmesh: there is no workflow 'gret'; there are: greet\n")
    denied = {"title": "Forbidden", "status": 403, "detail": "denied by policies/x.yaml rules[0]", "code": "denied"}
    server.answer("GET", "/v1/workflows/gret", (403, denied))
    assert agentmesh("run", "gret", "--mesh", str(mesh)).status == 1
    server.answer("GET", "/v1/workflows/gret", (502, b"<html>bad gateway</html>"))
    done = agentmesh("run", "gret", "--mesh", str(mesh))
    assert done.status == 1
    assert done.err == "agentmesh: the server answered 502: <html>bad gateway</html>\n"


def test_runs_list_shows_a_page(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Filters go to the server; the next page is named."""
    failed = run_json("r2", "failed", error={"code": "x", "message": "no", "path": "ask"})
    server.answer("GET", "/v1/runs", {"runs": [run_json(), failed], "next": "c2", "total": 9})
    done = agentmesh("runs", "list", "--state", "failed", "--state", "completed", "--limit", "2", "--mesh", str(mesh))
    assert server.asked[-1][1] == "/v1/runs?state=failed&state=completed&roots=true&limit=2"
    assert done.out.splitlines()[0].split() == ["RUN", "WORKFLOW", "STATE", "FROM", "STARTED"]
    assert done.out.splitlines()[2].endswith("ask: no")
    assert "9 in all; the next page: --cursor c2" in done.err
    as_json = agentmesh("runs", "list", "--mesh", str(mesh), "--json")
    assert [r["id"] for r in json.loads(as_json.out)["runs"]] == ["r1", "r2"]


def test_an_empty_list_says_whether_it_was_asked_for_less(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """A filter that fits nothing does not mean that there are no runs."""
    server.answer("GET", "/v1/runs", {"runs": [], "next": None, "total": 0})
    assert agentmesh("runs", "list", "--mesh", str(mesh)).err == "agentmesh: no runs yet\n"
    for option, value in (("--workflow", "gret"), ("--state", "failed"), ("--cursor", "c")):
        assert agentmesh("runs", "list", option, value, "--mesh", str(mesh)).err == "agentmesh: no such runs\n"


def test_runs_show_takes_the_newest(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Without an id the newest run is shown, with its steps."""
    step = {"path": "ask", "verb": "llm", "state": "completed", "attempt": 2, "started_at": 1.0, "ended_at": 1.5}
    inner = {"path": "each[0]/ask", "verb": "agent", "state": "completed", "attempt": 1, "child": "r9"}
    server.answer("GET", "/v1/runs", {"runs": [run_json()], "next": None, "total": 1})
    server.answer("GET", "/v1/runs/r1", run_json(steps=[step, inner], output={"text": "hi"}))
    done = agentmesh("runs", "show", "--mesh", str(mesh))
    assert done.status == 0, done.err
    assert done.out.splitlines()[3:5] == [
        "ask            llm    completed  2        0.50 s",
        "  each[0]/ask  agent  completed  1                run r9",
    ]
    assert json.loads(agentmesh("runs", "show", "r1", "--mesh", str(mesh), "--json").out)["output"] == {"text": "hi"}


def test_runs_watch_and_cancel(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Watching prints the output at the end; a cancel of an ended run is the caller's mistake."""
    prepare(server, run_json(output=7))
    assert agentmesh("runs", "watch", "r1", "--mesh", str(mesh), "--json").out == "7\n"
    server.answer("POST", "/v1/runs/r1/cancel", run_json(state="working", cancel_requested=True))
    assert agentmesh("runs", "cancel", "r1", "--mesh", str(mesh)).out == "r1  working, cancel asked for\n"
    conflict = {"title": "Conflict", "status": 409, "detail": "run r1 has ended: completed", "code": "conflict"}
    server.answer("POST", "/v1/runs/r1/cancel", (409, conflict))
    done = agentmesh("runs", "cancel", "r1", "--mesh", str(mesh))
    assert (done.status, done.err) == (2, "agentmesh: run r1 has ended: completed\n")
