"""A person's part on the command line: what is asked, the answer, signals, schedules."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.fake import entry, run_json, sse

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Agentmesh
    from tests.cli.fake import Fake

FORM = {
    "type": "object",
    "properties": {"amount": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["amount"],
}


def question(**more: Any) -> dict[str, Any]:
    """A question as `/v1` writes it."""
    return {
        "run": "r1", "workflow": "greet", "id": "ok#1", "path": "ok", "kind": "approval", "ask": "Send this?",
        "show": {"text": "hi"}, "form": None, "caller": "local", "subject": "step:ok", "digest": "d1g3st",
        "asked_at": 1.0, "expires_at": 2e9,
    } | more  # fmt: skip


def asks(server: Fake, *questions: dict[str, Any]) -> None:
    found = {"questions": list(questions), "more": False}
    server.answer("GET", "/v1/runs/r1/questions", found)
    server.answer("GET", "/v1/questions", found)
    server.answer("GET", "/v1/runs/r1", run_json(state="working"))
    server.answer("POST", "/v1/runs/r1/answers", run_json(state="working"))


@pytest.mark.parametrize(
    ("asked", "options", "sent"),
    [
        ({}, ["--yes"], {"yes": True}),
        ({}, ["--no"], {"yes": False}),
        ({"form": FORM}, ["--yes", "--value", "amount=3"], {"yes": True, "value": {"amount": 3}}),
        ({"form": FORM}, ["--value", "amount=3", "--value", "note=5"], {"yes": True, "value": {"amount": 3, "note": "5"}}),
        ({"form": FORM, "kind": "input"}, ["--value", "amount=3"], {"value": {"amount": 3}}),
        ({"form": {"type": "string"}, "kind": "input"}, ["--value", "a=b"], {"value": "a=b"}),
        ({"form": {"type": "array"}, "kind": "input"}, ["--value", "[1]"], {"value": [1]}),
    ],
)  # fmt: skip
def test_an_answer_is_bound_to_what_was_shown(
    agentmesh: Agentmesh, mesh: Path, server: Fake, asked: dict[str, Any], options: list[str], sent: dict[str, Any]
) -> None:
    """The question is shown on stderr, and its digest goes with the answer."""
    asks(server, question(**asked))
    done = agentmesh("runs", "answer", "r1", *options, "--mesh", str(mesh))
    assert (done.status, done.out) == (0, "")
    assert "Send this?" in done.err
    assert '"text": "hi"' in done.err
    assert server.bodies("/v1/runs/r1/answers") == [{"question": "ok#1", "digest": "d1g3st", **sent}]


@pytest.mark.parametrize(
    ("asked", "options", "words"),
    [
        ({}, [], "agentmesh runs answer r1 --yes, or --no"),
        ({"form": FORM}, [], "--yes --value amount=…"),
        ({}, ["--yes", "--value", "a=1"], "no form"),
        ({"form": FORM}, ["--no", "--value", "amount=1"], "--no takes no --value"),
        ({"form": FORM}, ["--value", "amount=many"], "--value amount must be integer"),
        ({"form": FORM}, ["--value", "many"], "--value takes NAME=VALUE"),
        ({"form": FORM}, ["--value", "amount=@/no/such"], "cannot read"),
        ({"form": FORM, "kind": "input"}, ["--yes"], "asks for a value"),
        ({"form": {"type": "string"}, "kind": "input"}, ["--value", "a", "--value", "b"], "given 2 times"),
        ({}, ["--yes", "--question", "no#1"], "it asks ok#1"),
    ],
)
def test_a_wrong_answer_is_one_sentence(
    agentmesh: Agentmesh, mesh: Path, server: Fake, asked: dict[str, Any], options: list[str], words: str
) -> None:
    """Exit status 2, and nothing is sent."""
    asks(server, question(**asked))
    done = agentmesh("runs", "answer", "r1", *options, "--mesh", str(mesh))
    assert done.status == 2
    assert words in done.err
    assert server.bodies("/v1/runs/r1/answers") == []


def test_a_run_that_asks_nothing_or_several(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """The state is told; of several questions one has to be named."""
    asks(server)
    nothing = agentmesh("runs", "answer", "r1", "--yes", "--mesh", str(mesh))
    assert (nothing.status, "asks nothing now: it is working" in nothing.err) == (2, True)
    asks(server, question(), question(id="two#1", ask="And this?"))
    several = agentmesh("runs", "answer", "r1", "--yes", "--mesh", str(mesh))
    assert (several.status, "--question with one of ok#1, two#1" in several.err) == (2, True)
    agentmesh("runs", "answer", "r1", "--yes", "--question", "two#1", "--mesh", str(mesh))
    assert [body["question"] for body in server.bodies("/v1/runs/r1/answers")] == ["two#1"]


def test_who_was_quicker_is_told(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """In the server's words."""
    asks(server, question())
    conflict = {
        "title": "Conflict",
        "status": 409,
        "code": "conflict",
        "detail": "ok#1 was answered by token:x already",
    }
    server.answer("POST", "/v1/runs/r1/answers", (409, conflict))
    done = agentmesh("runs", "answer", "r1", "--yes", "--mesh", str(mesh))
    assert (done.status, "answered by token:x" in done.err) == (2, True)


def test_json_is_all_there_is_on_stdout(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """For answers, signals, and what waits."""
    asks(server, question())
    server.answer("POST", "/v1/runs/r1/signals", run_json())
    for command in (("answer", "r1", "--yes"), ("signal", "r1", "go"), ("list", "--waiting")):
        done = agentmesh("runs", *command, "--json", "--mesh", str(mesh))
        assert (done.status, done.err) == (0, "")
        json.loads(done.out)


def test_what_waits_is_listed(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Each question of each run, and how to answer; of one workflow when it is named."""
    asks(server, question(), question(run="r2", workflow="other", ask="And this?"))
    done = agentmesh("runs", "list", "--waiting", "--mesh", str(mesh))
    assert [line.split()[0] for line in done.out.splitlines()] == ["RUN", "r1", "r2"]
    assert "agentmesh runs answer" in done.err
    one = agentmesh("runs", "list", "--waiting", "--workflow", "other", "--mesh", str(mesh))
    assert [line.split()[0] for line in one.out.splitlines()] == ["RUN", "r2"]
    none = agentmesh("runs", "list", "--waiting", "--workflow", "third", "--mesh", str(mesh))
    assert "no run waits for a person" in none.err
    assert agentmesh("runs", "list", "--waiting", "--state", "working", "--mesh", str(mesh)).status == 2


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ([], {"name": "go"}),
        (["--value", '{"n": 1}'], {"name": "go", "value": {"n": 1}}),
        (["--value", "null", "--key", "k"], {"name": "go", "value": None, "key": "k"}),
    ],
)
def test_a_signal(agentmesh: Agentmesh, mesh: Path, server: Fake, options: list[str], sent: dict[str, Any]) -> None:
    """Its value is JSON, or there is none."""
    server.answer("POST", "/v1/runs/r1/signals", run_json(state="working"))
    done = agentmesh("runs", "signal", "r1", "go", *options, "--mesh", str(mesh))
    assert (done.status, done.out) == (0, "r1  working, signal go is kept\n")
    assert server.bodies("/v1/runs/r1/signals") == [sent]


def test_a_signals_value_from_a_file(agentmesh: Agentmesh, mesh: Path, server: Fake, tmp_path: Path) -> None:
    """And what is no JSON is refused before it is sent."""
    (tmp_path / "v.json").write_text('[1, "a"]')
    server.answer("POST", "/v1/runs/r1/signals", run_json())
    agentmesh("runs", "signal", "r1", "go", "--value", f"@{tmp_path}/v.json", "--mesh", str(mesh))
    assert server.bodies("/v1/runs/r1/signals") == [{"name": "go", "value": [1, "a"]}]
    wrong = agentmesh("runs", "signal", "r1", "go", "--value", "go on", "--mesh", str(mesh))
    assert (wrong.status, "--value takes JSON" in wrong.err) == (2, True)


def waiting(seq: int, path: str, payload: dict[str, Any]) -> dict[str, Any]:
    return entry(seq, "step.waiting", path) | {"payload": payload}


def test_a_run_that_is_followed_shows_what_is_asked(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """And the command that answers it; timers and signals are told, too."""
    waits = {"verb": "approve", "for": "approval", "ask": "Send this?", "show": None}
    events = sse(
        ("run", run_json(state="working")),
        ("entry", entry(1, "run.working", worker="w")),
        ("entry", waiting(2, "nap", {"verb": "wait", "for": "timer", "until": 0.5})),
        ("entry", waiting(3, "hear", {"verb": "wait", "for": "signal", "name": "go"})),
        ("entry", waiting(4, "ok", waits)),
        ("entry", entry(5, "run.input_required")),
        ("entry", entry(6, "run.answered", question="ok#1", yes=True, by="token:x")),
        ("entry", entry(7, "step.completed", "ok", verb="approve", output={})),
        ("run", run_json()),
    )
    server.answer("GET", "/v1/runs/r1/events", events)
    server.answer("GET", "/v1/runs/r1", run_json())
    done = agentmesh("runs", "watch", "r1", "--mesh", str(mesh))
    assert "ok: asks: Send this?; answer with: agentmesh runs answer r1" in done.err
    assert "nap: waits, until 1970-01-01 00:00:00 UTC" in done.err
    assert "hear: waits for the signal go" in done.err
    assert "token:x answers ok#1 with yes" in done.err


def test_a_run_that_asks_is_shown_with_its_question(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Under its steps."""
    step = {
        "path": "ok", "verb": "approve", "state": "waiting", "attempt": 1, "error": None, "child": None,
        "waiting": {"for": "approval", "ask": "Send this?", "until": None}, "started_at": 1.0, "ended_at": None,
    }  # fmt: skip
    asks(server, question())
    server.answer("GET", "/v1/runs/r1", run_json(state="input_required", steps=[step]))
    done = agentmesh("runs", "show", "r1", "--mesh", str(mesh))
    assert "asks: Send this?" in done.out
    assert "agentmesh runs answer r1 --yes, or --no" in done.err


def test_a_person_at_a_terminal_is_asked(mesh: Path, server: Fake) -> None:
    """Yes or no, then each value of the form until it has its type; what may be left out is."""
    asks(server, question(form=FORM))
    own, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "agentmesh", "runs", "answer", "r1", "--mesh", str(mesh)],
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TERM": "dumb"},
    ) as process:  # fmt: skip
        os.write(own, b"y\nmany\n3\n\n")
        _, said = process.communicate(timeout=30)
    os.close(own)
    os.close(theirs)
    assert process.returncode == 0, said
    assert server.bodies("/v1/runs/r1/answers") == [
        {"question": "ok#1", "digest": "d1g3st", "yes": True, "value": {"amount": 3}}
    ]
    assert b"amount must be integer" in said


def test_schedules_are_paused_resumed_and_backfilled(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Of one workflow, its first schedule when no other is named."""
    entry_ = {"workflow": "tick", "index": 0, "next": "2026-11-22T17:00:00Z", "paused": True}
    server.answer("POST", "/v1/schedules/tick/0/pause", entry_)
    server.answer("POST", "/v1/schedules/tick/1/resume", entry_)
    run = {"instant": "2026-11-22T10:00:00Z", "run": "r1", "state": "submitted", "new": True}
    done = {"runs": [run, run | {"new": False}], "next": "2026-11-22T11:00:00Z"}
    server.answer("POST", "/v1/schedules/tick/0/backfill", done)
    assert "is paused" in agentmesh("schedules", "pause", "tick", "--mesh", str(mesh)).out
    assert "next 2026-11-22T17" in agentmesh("schedules", "resume", "tick", "1", "--mesh", str(mesh)).out
    filled = agentmesh(
        "schedules", "backfill", "tick", "--since", "2026-11-22T10:00:00Z", "--limit", "2", "--mesh", str(mesh)
    )
    assert filled.status == 0
    assert len(filled.out.splitlines()) == 3
    assert "1 run started" in filled.err
    assert "--since 2026-11-22T11:00:00Z" in filled.err
    sent = {"since": "2026-11-22T10:00:00Z", "until": None, "limit": 2}
    assert server.bodies("/v1/schedules/tick/0/backfill") == [sent]
    assert agentmesh("schedules", "backfill", "tick", "--mesh", str(mesh)).status == 2
    assert agentmesh("schedules", "pause", "none", "--mesh", str(mesh)).status == 2
