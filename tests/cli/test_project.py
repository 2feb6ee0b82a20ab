"""`init`, `check` and `policies test`: the commands that need no server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from agentmesh.adapters.files import load_mesh
from agentmesh.settings import Secrets

if TYPE_CHECKING:
    from tests.cli.conftest import Agentmesh

POLICY = """
roles:
  ide: {subjects: ["token:ide-*"]}
rules:
  - {allow: [tools.call], on: ["tool:*"], to: [ide]}
cases:
  - {as: ide, do: tools.call, on: "tool:hello", expect: allow}
  - {as: local, do: tools.call, on: "tool:hello", expect: EXPECT}
"""


def test_init_makes_a_mesh_that_loads(agentmesh: Agentmesh, tmp_path: Path) -> None:
    """The mesh has the folder's name, no fault, and a workflow that is a tool and a skill; nothing is written over."""
    folder = tmp_path / "My Mesh 2"
    done = agentmesh("init", str(folder))
    assert done.status == 0, done.err
    mesh = load_mesh(folder, Secrets())
    assert mesh.name == "my-mesh-2"
    assert list(mesh.tools) == list(mesh.skills) == ["hello"]
    for line in done.out.splitlines():
        schema = Path(line).read_text().splitlines()[0].partition("$schema=")[2]
        assert (Path(line).parent / schema).is_file()
    (folder / "agentmesh.yaml").write_text("name: mine\n")
    again = agentmesh("init", str(folder))
    assert (again.status, (folder / "agentmesh.yaml").read_text()) == (2, "name: mine\n")
    assert "does not write over files" in again.err


def test_check_reports_every_fault_with_its_place(agentmesh: Agentmesh, mesh: Path) -> None:
    """All faults of all files at once, on stdout, with exit status 2; none is status 0."""
    assert agentmesh("check", "--mesh", str(mesh)).status == 0
    (mesh / "workflows").mkdir()
    (mesh / "workflows" / "a.yaml").write_text(
        "name: a\nsteps:\n  - id: x\n    set: 1\noutput: ${{ steps.y.output }}\n"
    )
    (mesh / "workflows" / "b.yaml").write_text("name: b\nstesp: []\n")
    done = agentmesh("check", "--mesh", str(mesh))
    assert done.status == 2
    assert "workflows/a.yaml:5:" in done.out
    assert "workflows/b.yaml:2:" in done.out
    faults = json.loads(agentmesh("check", "--mesh", str(mesh), "--json").out)["faults"]
    assert {f["file"] for f in faults} == {"workflows/a.yaml", "workflows/b.yaml"}
    assert all(f["line"] > 0 and f["message"] for f in faults)


def test_serve_refuses_a_mesh_with_faults(agentmesh: Agentmesh, mesh: Path) -> None:
    """A mesh that `check` refuses is not served: status 2 and the faults, no traceback."""
    (mesh / "agentmesh.yaml").write_text("nmae: m\n")
    done = agentmesh("serve", "--port", "0", "--no-models", "--mesh", str(mesh))
    assert done.status == 2
    assert "agentmesh.yaml:1:" in done.err
    assert "Traceback" not in done.err


def test_policy_cases_are_decided_as_the_server_decides(agentmesh: Agentmesh, mesh: Path) -> None:
    """Each case of each file; a case decided otherwise is named, and status 1."""
    (mesh / "policies").mkdir()
    (mesh / "workflows").mkdir()
    (mesh / "workflows" / "hello.yaml").write_text("name: hello\non: {mcp: {}}\nsteps: [{id: x, set: 1}]\n")
    policy = mesh / "policies" / "p.yaml"
    policy.write_text(POLICY.replace("EXPECT", "deny"))
    done = agentmesh("policies", "test", "--mesh", str(mesh))
    assert (done.status, done.err) == (0, "agentmesh: 2 of 2 cases as expected\n")
    policy.write_text(POLICY.replace("EXPECT", "allow"))
    done = agentmesh("policies", "test", "--mesh", str(mesh))
    assert (done.status, done.err) == (1, "agentmesh: 1 of 2 cases as expected\n")
    assert "local tools.call on tool:hello: expected allow, decided deny" in done.out


def test_published_schemas_are_those_of_the_code(agentmesh: Agentmesh, tmp_path: Path) -> None:
    """`agentmesh check --schemas agentmesh/schemas` was run after the last change."""
    assert agentmesh("check", "--schemas", str(tmp_path / "schemas")).status == 0
    package = Path(__file__).parents[2] / "agentmesh" / "schemas"
    fresh = {p.name: p.read_text() for p in (tmp_path / "schemas").iterdir()}
    assert fresh == {p.name: p.read_text() for p in package.iterdir()}
    assert set(fresh) == {"mesh.json", "server.json", "workflow.json", "policy.json", "cases.json"}


def test_a_folder_that_cannot_be_written_is_one_sentence(agentmesh: Agentmesh, tmp_path: Path) -> None:
    """What the file system refuses is no fault of the program, and says what to do."""
    folder = tmp_path / "fixed"
    assert agentmesh("init", str(folder)).status == 0
    shutil.rmtree(folder / ".agentmesh")
    (folder / ".agentmesh").symlink_to("/sys")
    done = agentmesh("run", "hello", "--input", "name=x", "--mesh", str(folder))
    assert done.status == 2
    last = done.err.splitlines()[-1]
    assert last.startswith(f"agentmesh: {folder}/.agentmesh/server.log: ")
    assert last.endswith("; give this user the right to write there, or use another folder")


def test_check_says_when_schedules_fire(agentmesh: Agentmesh, mesh: Path) -> None:
    """One line for each entry, ten with --preview, and all of it with --json."""
    (mesh / "workflows").mkdir()
    entry = "{schedule: 30 2 * * 1, timezone: Europe/Berlin, jitter: 5m}"
    (mesh / "workflows" / "a.yaml").write_text(f"name: a\non: {{cron: [{entry}]}}\nsteps: [{{id: x, set: 1}}]\n")
    done = agentmesh("check", "--mesh", str(mesh))
    (line,) = done.out.splitlines()[1:]
    assert line.startswith("a: 30 2 * * 1 Europe/Berlin: next ")
    assert "each up to 5m later" in line
    assert len(agentmesh("check", "--preview", "--mesh", str(mesh)).out.splitlines()) == 1 + 1 + 10
    (schedule,) = json.loads(agentmesh("check", "--mesh", str(mesh), "--json").out)["schedules"]
    assert (schedule["workflow"], len(schedule["firings"])) == ("a", 10)
