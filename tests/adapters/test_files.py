"""A mesh folder on disk becomes a Mesh; the shipped one too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agentmesh.adapters.files import find_function, find_weights, load_mesh, schemas
from agentmesh.adapters.yaml_document import read_yaml
from agentmesh.core.policy import run_cases
from agentmesh.core.schema import validator
from agentmesh.errors import ProjectError
from agentmesh.settings import Secrets
from tests.core.test_check import DESK, write

ROOT = Path(__file__).parents[2]


def test_the_shipped_mesh_has_no_fault() -> None:
    """Its tools and skills are offered, and its policy's cases come out as expected."""
    mesh = load_mesh(ROOT, Secrets())
    assert {"triage", "logs.cut", "logs.choose"} <= set(mesh.tools)
    assert set(mesh.skills) >= {"triage", "fix-code", "fix-dependency", "look-at-machine"}
    assert mesh.workflows["inbox"].on.cron[0].schedule == "* * * * *"
    results = run_cases(mesh.policies)
    assert results
    assert [r for r in results if not r.passed] == []


def test_what_files_declare_is_offered(tmp_path: Path) -> None:
    """Server tools by `file.tool` or bare, workflows with on.mcp under their name or another, skills from on.a2a."""
    write(
        tmp_path,
        {
            "servers/bare.yaml": DESK.replace("name: desk", "name: bare\nprefix: false"),
            "servers/wf.yaml": "name: wf\ntools: {run: {description: Runs w., workflow: w}}\n",
            "workflows/w.yaml": (
                "name: w\ntitle: W\ndescription: Does w.\non: {mcp: {name: do_w}, a2a: {skill: doing, tags: [x]}}\n"
                "input: {type: object, properties: {a: {type: string}}}\nsteps: [{id: x, set: 1}]\n"
                "output: {n: 1}\noutput_schema: {type: object, properties: {n: {type: integer}}}\n"
            ),
        },
    )
    mesh = load_mesh(tmp_path, Secrets())
    assert set(mesh.tools) == {"desk.classify", "classify", "wf.run", "do_w"}
    assert mesh.tools["desk.classify"].output_schema == mesh.specs["desk.classify"].llm.output  # type: ignore[union-attr]
    assert mesh.tools["wf.run"].input_schema == mesh.workflows["w"].input
    assert mesh.tools["do_w"].output_schema == mesh.workflows["w"].output_schema
    assert mesh.tools["do_w"].source == "workflow:w"
    assert (mesh.skills["doing"].workflow, mesh.skills["doing"].tags) == ("w", ("x",))
    assert mesh.folder == tmp_path


def test_an_enum_known_only_at_run_time_is_not_shown_to_callers(tmp_path: Path) -> None:
    """An expression is not JSON Schema."""
    text = DESK.replace("[billing, bug]", '"${{ input.queues }}"').replace(
        "{text: {type: string}}", "{text: {type: string}, queues: {type: array, items: {type: string}}}"
    )
    mesh = load_mesh(write(tmp_path, {"servers/desk.yaml": text}), Secrets())
    schema = mesh.tools["desk.classify"].output_schema
    assert schema is not None
    assert schema["properties"]["queue"] == {}


def test_a_folder_without_a_mesh_says_what_to_do(tmp_path: Path) -> None:
    """One sentence with the way out."""
    with pytest.raises(ProjectError, match="`agentmesh init` makes a mesh"):
        load_mesh(tmp_path, Secrets())


def test_golden_cases_beside_a_workflow_are_none(tmp_path: Path) -> None:
    """`agentmesh test` reads them; hidden files are left alone, too."""
    write(tmp_path, {"workflows/w.yaml": "name: w\nsteps: [{id: a, set: 1}]\n"})
    for name in ("w.cases.yaml", "w.cases.yml", ".w.yaml"):
        (tmp_path / "workflows" / name).write_text("cases: []\n")
    assert set(load_mesh(tmp_path, Secrets()).workflows) == {"w"}


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    """1.1 MiB of YAML would take ten seconds."""
    write(tmp_path, {"workflows/big.yaml": "name: big\n" + "# x\n" * 300_000})
    with pytest.raises(ProjectError) as caught:
        load_mesh(tmp_path, Secrets())
    (fault,) = caught.value.faults
    assert fault.file == "workflows/big.yaml"
    assert "more than 262,144" in fault.message


def test_a_pipe_among_the_files_is_a_fault(tmp_path: Path) -> None:
    """What is no regular file is named, not opened: opening a pipe would wait for ever."""
    (tmp_path / "agentmesh.yaml").write_text("name: acme\n")
    (tmp_path / "workflows").mkdir()
    os.mkfifo(tmp_path / "workflows" / "pipe.yaml")
    with pytest.raises(ProjectError) as caught:
        load_mesh(tmp_path, Secrets())
    assert [f.message for f in caught.value.faults] == ["cannot be read: it is not a regular file"]


def test_a_function_is_looked_at_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and parameters come from the source; nothing of it runs."""
    (tmp_path / "spelled_out.py").write_text(
        "raise SystemExit('imported')\n"
        "def f(ctx, a, b=1, *, c, d=2): ...\n"
        "async def g(**kw): ...\n"
        "from os import getcwd as h\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = find_function("spelled_out:f")
    assert not isinstance(found, str)
    assert (found.parameters, found.required) == (("a", "b", "c", "d"), ("a", "c"))
    assert find_function("spelled_out:g").parameters is None  # type: ignore[union-attr]
    assert not isinstance(find_function("spelled_out:h"), str)
    assert "has no 'ff'; did you mean 'f'?" in str(find_function("spelled_out:ff"))


def test_the_shipped_files_fit_the_published_schemas() -> None:
    """What an editor says agrees with what `check` says, and each file names its schema."""
    kinds = {"servers": "server", "workflows": "workflow", "policies": "policy"}
    files = [("agentmesh.yaml", ROOT / "agentmesh.yaml")]
    files += [(kind, p) for folder, kind in kinds.items() for p in (ROOT / folder).glob("*.yaml")]
    files = [(kind, p) for kind, p in files if not p.name.endswith(".cases.yaml")]
    assert len(files) >= 7
    for kind, path in files:
        document = read_yaml(path.read_bytes(), path.name)
        assert list(validator(schemas()[kind]).iter_errors(document.value)) == [], path


def test_the_published_schemas_are_current() -> None:
    """What stands in agentmesh/schemas/ is what `agentmesh check --schemas` writes, and every key of it is described."""
    for kind, schema in schemas().items():
        name = "mesh" if kind == "agentmesh.yaml" else kind
        assert json.loads((ROOT / "agentmesh" / "schemas" / f"{name}.json").read_text()) == schema
    parts = schemas()["workflow"]["$defs"] | {"Workflow": schemas()["workflow"]}
    assert [(n, k) for n, p in parts.items() for k, v in p["properties"].items() if "description" not in v] == []


def test_the_schemas_refuse_what_check_refuses() -> None:
    """An unknown key, and a part that is not built yet."""
    check = validator(schemas()["workflow"])
    assert check.is_valid({"name": "w", "steps": [{"id": "a", "set": 1}]})
    assert not check.is_valid({"name": "w", "steps": [{"id": "a", "sett": 1}]})
    assert not check.is_valid({"name": "w", "steps": [{"id": "a", "agent": {"peer": "b", "message": "x"}}]})


def test_a_default_in_a_schema_fits_that_schema() -> None:
    """An editor that fills in a default writes nothing that `check` refuses."""
    for kind, schema in schemas().items():
        for name, part in schema["properties"].items():
            if "default" in part:
                faults = validator({**part, "$defs": schema.get("$defs", {})}).iter_errors(part["default"])
                assert [f.message for f in faults if part["default"] is not None] == [], (kind, name)


def test_a_models_folder_must_hold_a_model(tmp_path: Path) -> None:
    """A folder that is missing, and one without config.json, are faults before anything heavy starts."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/config.json").write_text("{}")
    assert find_weights("./gone", tmp_path) == "the folder ./gone is missing"
    assert find_weights("./empty", tmp_path) == "the folder ./empty holds no model: config.json is missing"
    assert find_weights("./whole", tmp_path) is None
