"""`runs replay|fork|diff|export|import|prune` against a scripted server, and a file replayed without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from agentmesh.adapters.memory_model import ScriptedModel
from tests.cli.fake import Fake, run_json, sse
from tests.engine.meshes import LOCAL, finished, serving, workflow
from tests.engine.meshes import mesh as mesh_of

if TYPE_CHECKING:
    from tests.cli.conftest import Agentmesh

SAME: dict[str, Any] = {
    "run": "r1", "workflow": "greet", "state": "completed", "same": True, "rows": 9, "digest": "d" * 64,
    "replayed": "d" * 64, "difference": None, "open": [], "children": [],
}  # fmt: skip


def test_a_replay_that_differs_is_status_1(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """The first row at which they part is shown from both sides."""
    server.answer("GET", "/v1/runs/r1/replay", SAME)
    done = agentmesh("runs", "replay", "r1", "--mesh", str(mesh))
    assert (done.status, done.out) == (0, f"r1  greet  completed  the same: 9 rows, digest {'d' * 16}\n")
    row = {"kind": "step.completed", "attempt": 1, "payload": {"output": 1}}
    difference = {
        "path": "each[0]/a",
        "seq": 7,
        "message": "output: the journal says 1, the replay 2",
        "journal": row,
        "replay": None,
    }
    server.answer("GET", "/v1/runs/r1/replay", SAME | {"same": False, "replayed": "e" * 64, "difference": difference})
    done = agentmesh("runs", "replay", "r1", "--mesh", str(mesh))
    assert done.status == 1
    assert "row 7, each[0]/a: output: the journal says 1, the replay 2" in done.out
    assert "replay  nothing" in done.out


def test_an_exported_run_replays_without_a_server(agentmesh: Agentmesh, tmp_path: Path) -> None:
    """No mesh, no server; a changed file is refused."""

    async def export() -> bytes:
        flow = workflow("w", {"id": "a", "llm": {"prompt": "Say ${{ input.text }}"}})
        async with serving(mesh_of(flow), model=ScriptedModel(["hi"])) as engine:
            run = await finished(engine, "w")
            return await engine.history.export(LOCAL, run.id)

    file = tmp_path / "x.run.json.gz"
    file.write_bytes(anyio.run(export))
    done = agentmesh("runs", "replay", str(file))
    assert (done.status, "the same" in done.out) == (0, True)
    file.write_bytes(b"{}")
    assert agentmesh("runs", "replay", str(file)).status == 2


def test_fork_sends_what_is_changed(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Inputs are laid over the run's own; prompts may stand in files."""
    (mesh / "p.txt").write_text("Be brief")
    server.answer("GET", "/v1/runs/r1", run_json("r1", input={"text": "a", "n": 1}))
    server.answer("GET", "/v1/workflows/greet", {"input": {"properties": {"n": {"type": "integer"}}}})
    server.answer("POST", "/v1/runs/r1/fork", (201, run_json("r2", "submitted")))
    fork = (
        "runs",
        "fork",
        "r1",
        "--from",
        "say",
        "--prompt",
        f"say=@{mesh}/p.txt",
        "--model",
        "say=large",
        "-i",
        "n=2",
    )
    done = agentmesh(*fork, "--temperature", "say=0.5", "--today", "--key", "k", "--detach", "--mesh", str(mesh))
    assert (done.status, done.out) == (0, "r2\n")
    assert server.bodies("/v1/runs/r1/fork") == [{
        "from_step": "say", "today": True, "key": "k", "input": {"text": "a", "n": 2},
        "steps": {"say": {"prompt": "Be brief", "model": "large", "temperature": 0.5}},
    }]  # fmt: skip
    for wrong in (("--prompt", "say"), ("--temperature", "say=warm"), ("--prompt", "say=@nowhere.txt")):
        assert agentmesh("runs", "fork", "r1", *wrong, "--mesh", str(mesh)).status == 2
    server.answer("GET", "/v1/runs/r2", run_json("r2", "completed", output="done"))
    server.answer("GET", "/v1/runs/r2/events", sse(("run", run_json("r2", "completed", output="done"))))
    done = agentmesh("runs", "fork", "r1", "--mesh", str(mesh))
    assert "run r2 is a fork of r1" in done.err


def test_diff_is_shown_by_path(agentmesh: Agentmesh, mesh: Path, server: Fake) -> None:
    """Texts as lines, values from both sides, steps that only one run has."""
    head = {"id": "r1", "workflow": "w", "definition": "d", "state": "completed", "forked_from": None, "created_at": 1.0,
            "tokens": 3, "seconds": 0.5, "steps": 2}  # fmt: skip
    prompt = {"path": "workflows.w.steps.say.llm.prompt", "lines": ["@@ -1 +1 @@", "-Old", "+[bold]New"]}
    output = [{"path": "output", "a": "x", "b": "y"}]
    say = {"path": "say", "attempts": {"a": ["passed"], "b": ["not accepted", "passed"]}, "output": output}
    more = {"path": "more", "only": "b", "state": "completed", "output": 1}
    found = {
        "a": head, "b": head | {"id": "r2", "forked_from": "r1"}, "forked": True, "input": [],
        "definition": {"same": False, "changes": [prompt]}, "steps": [say, more],
        "end": {"output": output, "tokens": {"a": 3, "b": 9}},
    }  # fmt: skip
    server.answer("GET", "/v1/runs/r1/diff/r2", found)
    done = agentmesh("runs", "diff", "r1", "r2", "--mesh", str(mesh))
    assert done.status == 0
    for line in (
        "B  r2  w  completed, a fork of r1",
        "    +[bold]New",
        "  say",
        "more: only in B, completed",
        "+ not accepted",
        "  tokens",
    ):
        assert line in done.out, line
    done = agentmesh("runs", "diff", "r1", "r2", "--json", "--mesh", str(mesh))
    assert json.loads(done.out)["forked"] is True


def test_export_import_and_prune(agentmesh: Agentmesh, mesh: Path, server: Fake, tmp_path: Path) -> None:
    """The file is what the server gave; ages are the server's to understand."""
    server.answer("GET", "/v1/runs/r1/export", b"\x1f\x8bfile")
    file = tmp_path / "x.gz"
    done = agentmesh("runs", "export", "r1", "--output", str(file), "--mesh", str(mesh))
    assert (done.status, done.out, file.read_bytes()) == (0, f"{file}\n", b"\x1f\x8bfile")
    server.answer("POST", "/v1/runs/prune", {"removed": 1})
    done = agentmesh("runs", "prune", "--older-than", "30d", "--mesh", str(mesh))
    assert (done.status, done.out) == (0, "1 run removed\n")
    assert server.bodies("/v1/runs/prune") == [{"older_than": "30d"}]
    file.write_text(json.dumps({"x": 1}))
    server.answer("POST", "/v1/runs/import", (201, run_json("r1")))
    done = agentmesh("runs", "import", str(file), "--mesh", str(mesh))
    assert (done.status, done.out) == (0, "r1  greet  completed\n")
    assert agentmesh("runs", "import", str(tmp_path / "none"), "--mesh", str(mesh)).status == 2
