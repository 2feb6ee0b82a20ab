"""`agentmesh test`: golden cases from the command line, those of the shipped mesh among them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentmesh.adapters.case_files import read_cases
from agentmesh.adapters.files import schemas
from agentmesh.adapters.yaml_document import read_yaml
from agentmesh.core.schema import validator
from agentmesh.errors import ProjectError

if TYPE_CHECKING:
    from tests.cli.conftest import Agentmesh

ROOT = Path(__file__).parents[2]
WORKFLOW = """\
name: sort
input: {type: object, properties: {text: {type: string}}, required: [text]}
steps:
  - id: ask
    llm:
      prompt: "Sort: ${{ input.text }}"
      output: {type: object, properties: {queue: {enum: [bug, billing]}}, required: [queue]}
    validate:
      - ensure: size(output.queue) > 0
output: "${{ steps.ask.output }}"
"""
CASES = """\
cases:
  - name: a bug
    input: {text: it crashes}
    expect: {output: {queue: bug}}
  - name: from a file
    files: {text: letter.txt}
    expect: {output: {queue: billing}}
"""


@pytest.fixture
def desk(mesh: Path) -> Path:
    """A mesh with a workflow and its cases; nothing is recorded yet."""
    (mesh / "agentmesh.yaml").write_text(
        "name: desk\nmodels:\n  m: {url: 'http://127.0.0.1:1/v1', model: m, key: '${{ secrets.NOBODY }}'}\ndefault_model: m\n"
    )
    (mesh / "workflows").mkdir()
    (mesh / "workflows" / "sort.yaml").write_text(WORKFLOW)
    (mesh / "workflows" / "sort.cases.yaml").write_text(CASES)
    (mesh / "workflows" / "letter.txt").write_text("my bill is wrong")
    return mesh


def keys(agentmesh: Agentmesh, desk: Path, answers: dict[str, str]) -> None:
    """Recordings as `--record` would have written them, from what the cases ask."""
    from agentmesh.core.model import ChatRequest
    from agentmesh.engine.steps import hash_of

    schema = {"type": "object", "properties": {"queue": {"enum": ["bug", "billing"]}}, "required": ["queue"]}
    texts = {"a bug": "it crashes", "from a file": "my bill is wrong"}
    cases: dict[str, Any] = {}
    for name, queue in answers.items():
        request = ChatRequest("m", [{"role": "user", "content": f"Sort: {texts[name]}"}], schema=schema)
        cases[name] = [
            {"ask": "model", "what": "m", "key": hash_of(request)[:16], "answer": {"queue": queue}, "tokens": [1, 1]}
        ]
    document = {"format": 1, "workflow": "sort", "cases": cases}
    (desk / "workflows" / "sort.recordings.json").write_text(json.dumps(document))


def test_the_shipped_cases_pass(agentmesh: Agentmesh) -> None:
    """What the shipped model said is what the shipped workflow still makes the right finding of."""
    done = agentmesh("test", "--mesh", str(ROOT), "--json")
    assert done.status == 0, done.out
    cases = json.loads(done.out)["cases"]
    assert len(cases) >= 9
    assert all(case["passed"] and not case["unused"] for case in cases)


def test_the_shipped_cases_fit_the_published_schema() -> None:
    """What an editor says agrees with what `test` says."""
    published = json.loads((ROOT / "agentmesh" / "schemas" / "cases.json").read_text())
    assert published == schemas()["cases"]
    document = read_yaml((ROOT / "workflows" / "triage.cases.yaml").read_bytes(), "triage.cases.yaml")
    assert list(validator(published).iter_errors(document.value)) == []
    assert not validator(published).is_valid({"cases": [{"name": "x", "expects": {}}]})


def test_every_part_of_the_shipped_output_is_looked_at(agentmesh: Agentmesh) -> None:
    """No validator of triage sleeps through every fault."""
    done = agentmesh("test", "triage", "--mutate", "--json", "--mesh", str(ROOT))
    assert done.status == 0
    subjects = {s["step"]: s for s in json.loads(done.out)["mutants"]["triage"]}
    assert set(subjects) == {"choose", "result"}
    assert all(subject["silent"] == [] and subject["noticed"] > 50 for subject in subjects.values())


def test_what_was_not_recorded_is_stale(agentmesh: Agentmesh, desk: Path) -> None:
    """Exit status 2, and what to do."""
    done = agentmesh("test", "--mesh", str(desk))
    assert done.status == 2
    assert "nothing is recorded for it: run with --record" in done.out
    keys(agentmesh, desk, {"a bug": "bug", "from a file": "billing"})
    assert agentmesh("test", "--mesh", str(desk)).status == 0
    (desk / "workflows" / "sort.yaml").write_text(WORKFLOW.replace("Sort: ", "Sort it: "))
    done = agentmesh("test", "--mesh", str(desk))
    assert done.status == 2
    assert done.out.count("the recording is stale: run with --record") == 2


def test_a_case_that_does_not_hold_is_status_1(agentmesh: Agentmesh, desk: Path, tmp_path: Path) -> None:
    """Told in words, in JSON and in JUnit's XML."""
    keys(agentmesh, desk, {"a bug": "billing"})
    done = agentmesh("test", "--mesh", str(desk), "--junit", str(tmp_path / "r.xml"))
    assert done.status == 1
    assert 'output.queue is "billing", expected "bug"' in done.out
    assert done.out.splitlines()[-1] == "2 cases: 0 passed, 1 failed, 1 stale"
    (suite,) = ET.parse(tmp_path / "r.xml").getroot()  # noqa: S314 - our own file
    assert (suite.get("name"), suite.get("tests"), suite.get("failures"), suite.get("errors")) == (
        "sort",
        "2",
        "1",
        "1",
    )
    assert suite[0][0].get("message") == 'output.queue is "billing", expected "bug"'
    only = agentmesh("test", "sort", "--case", "from a file", "--mesh", str(desk), "--json")
    assert only.status == 2
    assert [case["case"] for case in json.loads(only.out)["cases"]] == ["from a file"]


def test_validators_that_catch_nothing_are_called_out(agentmesh: Agentmesh, desk: Path) -> None:
    """In the words of `--mutate`."""
    keys(agentmesh, desk, {"a bug": "bug", "from a file": "billing"})
    done = agentmesh("test", "--mutate", "--mesh", str(desk))
    assert done.status == 0
    assert "ensure size(output.queue) > 0  <- catches nothing" in done.out
    assert 'not noticed: output.queue another value: "billing"' in done.out


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cases: []\n", "workflows/sort.cases.yaml:1:8: must not be empty"),
        ("cases:\n  - {nam: x}\n", "workflows/sort.cases.yaml:2:6: unknown key 'nam'"),
        ("workflow: sorts\ncases:\n  - {name: x}\n", "workflows/sort.cases.yaml:1:11: there is no workflow 'sorts'"),
        ("cases:\n  - {name: x}\n  - {name: x}\n", "workflows/sort.cases.yaml:3:12: a second case is named 'x'"),
        (
            "cases:\n  - name: x\n    expect: {that: ['outpt.queue == 1']}\n",
            "workflows/sort.cases.yaml:3:22: ",
        ),
        ("cases:\n  - name: x\n    input: {text: a}\n    files: {text: b}\n", "4:13: 'text' stands in `input` already"),
    ],
)
def test_faults_of_a_case_file_have_a_place(agentmesh: Agentmesh, desk: Path, text: str, fault: str) -> None:
    """File, line and column; exit status 2."""
    (desk / "workflows" / "sort.cases.yaml").write_text(text)
    done = agentmesh("test", "--mesh", str(desk))
    assert done.status == 2
    assert fault in done.out


def test_what_cannot_be_read_is_said(agentmesh: Agentmesh, desk: Path) -> None:
    """A missing text, recordings that are none, a workflow without cases, both ways at once."""
    (desk / "workflows" / "letter.txt").unlink()
    done = agentmesh("test", "--mesh", str(desk))
    assert (done.status, "cannot read 'letter.txt'" in done.err) == (2, True)
    (desk / "workflows" / "sort.recordings.json").write_text("[")
    with pytest.raises(ProjectError, match="is not JSON"):
        read_cases(desk, {"sort": None})
    assert agentmesh("test", "other", "--mesh", str(desk)).status == 2
    assert agentmesh("test", "--record", "--live", "2", "--mesh", str(desk)).status == 2
