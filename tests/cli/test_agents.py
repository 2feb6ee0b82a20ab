"""`agents`: who there is, what is sent where, and what a task tells."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from tests.cli.fake import entry, run_json, sse

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Agentmesh
    from tests.cli.fake import Fake

SKILL = {
    "id": "refund", "name": "Refund", "description": "Gives money back.\nMore.", "workflow": "", "tool": "billing.refund",
    "tags": ["money"], "examples": [], "input_schema": {}, "input_modes": [], "output_modes": [],
}  # fmt: skip
ROUTE: dict[str, Any] = {
    "agent": "billing",
    "skill": "refund",
    "reason": "its words fit best",
    "score": 4.1,
    "others": [],
}


def agent(name: str = "billing", **more: Any) -> dict[str, Any]:
    return {
        "name": name, "title": "Billing", "description": "Does bills.", "where": "declared", "state": "up", "detail": "",
        "latency": 0.012, "busy": 0, "speaks": ["GRPC 1.0"], "signed": "verified", "price": 1.5, "version": "2",
        "streaming": True, "push": False, "extensions": [], "skills": [SKILL],
    } | more  # fmt: skip


def test_the_list_says_who_there_is_and_how(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """A line for each skill; one that is down says why."""
    down = agent("gone", where="registered", state="down", detail="it cannot be reached", latency=0.0, skills=[])
    server.answer("GET", "/v1/agents", {"agents": [agent(), down], "default": None})
    done = agentmesh("agents", "list", "--mesh", str(mesh))
    assert [line.split() for line in done.out.splitlines()] == [
        ["AGENT", "SKILL", "STATE", "LATENCY", "WHERE", "TAGS"],
        ["billing", "refund", "up", "0.01", "s", "declared", "money", "Gives", "money", "back."],
        ["gone", "down", "registered", "it", "cannot", "be", "reached"],
    ]
    assert done.err == "agentmesh: gone is down: it cannot be reached\n"


def test_one_agent_is_shown_with_its_interfaces(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """The one that is used is marked; the others say why not."""
    interfaces = [
        {"url": "https://x/rpc", "binding": "JSONRPC", "version": "1.0", "tenant": None, "used": True, "why_not": None},
        {
            "url": "http://10.0.0.1",
            "binding": "GRPC",
            "version": "1.0",
            "tenant": None,
            "used": False,
            "why_not": "private",
        },
    ]
    facts = {
        "card": "https://x/card",
        "trouble": "",
        "why_not": "it moved",
        "etag": "",
        "interfaces": interfaces,
        "requires": [],
    }
    server.answer("GET", "/v1/agents/billing", agent() | {"facts": facts})
    done = agentmesh("agents", "show", "billing", "--mesh", str(mesh))
    lines = [line.split() for line in done.out.splitlines()]
    assert ["*", "JSONRPC", "1.0", "https://x/rpc"] in lines
    assert ["GRPC", "1.0", "http://10.0.0.1", "private"] in lines
    assert ["refund", "money", "billing.refund", "Gives", "money", "back."] in lines
    assert lines[-1] == ["card", "https://x/card", "signature", "verified"]
    assert done.err == "agentmesh: it moved\n"


def test_a_message_goes_to_the_mesh_and_says_who_took_it(
    agentmesh: Agentmesh, mesh: Path, server: Fake, tmp_path: Path
) -> None:
    """One text is for whoever fits; agent, skill, tags, files and task go along; the reason is shown where it is asked for."""
    server.answer("POST", "/v1/agents/send", (201, run_json(state="submitted", route=ROUTE)))
    server.answer("GET", "/v1/runs/r1/events", sse(("run", run_json())))
    server.answer("GET", "/v1/runs/r1", run_json(output="done", route=ROUTE))
    here = ("--mesh", str(mesh))
    assert agentmesh("agents", "send", "give it back", *here).out == "done\n"
    said = agentmesh("agents", "send", "give it back", "-v", *here)
    assert said.err.startswith("agentmesh: to billing.refund: its words fit best\n")
    whole = json.loads(agentmesh("agents", "send", "give it back", "-v", "--json", *here).out)
    assert (whole["route"], whole["output"]) == (ROUTE, "done")
    left = json.loads(agentmesh("agents", "send", "x", "--detach", "--json", *here).out)
    assert left == {"id": "r1", "state": "submitted", "route": ROUTE}
    letter = tmp_path / "letter.txt"
    letter.write_text("hello")
    options = (
        "--agent",
        "billing",
        "--skill",
        "refund",
        "--tag",
        "money",
        "--file",
        str(letter),
        "--task",
        "t",
        "--context",
        "c",
    )
    agentmesh("agents", "send", "x", "--detach", *options, *here)
    bodies = server.bodies("/v1/agents/send")
    assert bodies[0] == {"text": "give it back"}
    assert bodies[-1] == {
        "agent": "billing", "skill": "refund", "tags": ["money"], "text": "x", "task_id": "t", "context_id": "c",
        "files": [{"name": "letter.txt", "media_type": "text/plain", "data": b64encode(b"hello").decode()}],
    }  # fmt: skip


def test_what_is_no_message_is_said(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Before anything is sent."""
    for words in ((), ("a", "b", "c"), ("a", "b", "--skill", "c"), ("--file", "/nowhere"), ("--data", "[]")):
        assert agentmesh("agents", "send", *words, "--mesh", str(mesh)).status == 2
    assert server.bodies("/v1/agents/send") == []


def test_a_task_is_followed_as_it_goes(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """What its agent says and makes, and how it ended; with --json every entry."""
    said: dict[str, Any] = {"state": "working", "message": {"parts": [{"text": "half way\nand on"}]}}
    made: dict[str, Any] = {
        "artifact": {
            "artifactId": "a",
            "name": "bill",
            "parts": [{"data": {"n": 1}}, {"raw": "aGk=", "filename": "x.pdf"}],
        }
    }
    entries = [
        entry(1, "run.routed", **ROUTE), entry(2, "step.said", "task", **said), entry(3, "step.artifact", "task", **made),
    ]  # fmt: skip
    server.answer("GET", "/v1/runs/r1/events", sse(*(("entry", one) for one in entries), ("run", run_json())))
    server.answer("GET", "/v1/runs/r1", run_json())
    done = agentmesh("agents", "watch", "r1", "--mesh", str(mesh))
    assert done.out.splitlines() == [
        "to billing.refund: its words fit best", "working: half way", "working: and on", 'bill: {"n": 1}', "bill: file x.pdf",
        "completed",
    ]  # fmt: skip
    lines = agentmesh("agents", "watch", "r1", "--json", "--mesh", str(mesh)).out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["run.routed", "step.said", "step.artifact"]
    server.answer(
        "GET", "/v1/runs/r1", run_json(state="rejected", error={"code": "no_agent", "message": "nobody fits"})
    )
    gone = agentmesh("agents", "watch", "r1", "--mesh", str(mesh))
    assert (gone.status, gone.out.splitlines()[-1]) == (1, "rejected: nobody fits")


def test_agents_are_registered_and_removed(agentmesh: Agentmesh, mesh: Path, server: Fake, tmp_path: Path) -> None:
    """The token comes from a file: a command line is seen by everybody."""
    server.answer("POST", "/v1/agents", (201, {"name": "billing", "where": "registered"}))
    server.answer("DELETE", "/v1/agents/billing", (204, None))
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    here = ("--mesh", str(mesh))
    card = "https://x.example/card"
    assert agentmesh("agents", "add", "billing", card, "--token", f"@{token}", "--price", "2", *here).status == 0
    assert server.bodies("/v1/agents") == [{"name": "billing", "card": card, "token": "s3cret", "price": 2.0}]
    refused = agentmesh("agents", "add", "billing", card, "--token", "s3cret", *here)
    assert (refused.status, "everybody" in refused.err) == (2, True)
    assert agentmesh("agents", "remove", "billing", *here).out == "removed billing\n"
    assert agentmesh("agents", "remove", "nobody", *here).status == 2


def test_a_route_is_shown_and_nothing_is_sent(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """The one first, then those that would do too; the reason goes to stderr."""
    others = [{"agent": None, "skill": "triage"}]
    server.answer("POST", "/v1/agents/route", {"fits": True, **ROUTE, "others": others})
    done = agentmesh("agents", "route", "money back", "--tag", "money", "--mesh", str(mesh))
    assert [line.split() for line in done.out.splitlines()] == [
        ["AGENT", "SKILL"], ["billing", "refund"], ["this", "mesh", "triage"],
    ]  # fmt: skip
    assert "its words fit best" in done.err
    assert server.bodies("/v1/agents/route") == [{"text": "money back", "tags": ["money"]}]


def test_a_message_that_nobody_takes_fails(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    nobody = {"fits": False, "agent": None, "skill": None, "reason": "no agent fits", "score": 0.0, "others": []}
    server.answer("POST", "/v1/agents/route", nobody)
    done = agentmesh("agents", "route", "sing", "--mesh", str(mesh))
    assert (done.status, done.out) == (1, "")
    assert "no agent fits" in done.err
