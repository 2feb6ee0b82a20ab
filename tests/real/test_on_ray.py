"""Steps with `on: ray`, on a real Ray without any model."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conftest import ROOT, Served, left_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

WORKFLOWS = {
    "add": """
name: add
on: {mcp: {}}
input: {type: object, properties: {a: {type: integer}}, required: [a]}
steps:
  - {id: sum, python: "tests.adapters.ray_functions:add", on: ray, with: {a: "${{ input.a }}", b: 2}}
  - {id: about, python: "tests.adapters.ray_functions:about", on: ray}
output: {sum: "${{ steps.sum.output.sum }}", pid: "${{ steps.sum.output.pid }}", about: "${{ steps.about.output }}"}
""",
    "slow": """
name: slow
input: {type: object, properties: {folder: {type: string}}, required: [folder]}
steps:
  - {id: nap, python: "tests.adapters.ray_functions:sleep", on: ray, with: {folder: "${{ input.folder }}", seconds: 120}}
""",
    "dies": """
name: dies
steps:
  - {id: die, python: "tests.adapters.ray_functions:die", on: ray}
""",
}


@pytest.fixture(scope="module")
def mesh() -> Iterator[Served]:
    """A mesh whose workflows run on Ray. Afterwards nothing of it may be left."""
    with tempfile.TemporaryDirectory(prefix="mesh-") as name:
        folder = Path(name)
        (folder / "agentmesh.yaml").write_text("name: rays\n")
        (folder / "workflows").mkdir()
        for workflow, text in WORKFLOWS.items():
            (folder / "workflows" / f"{workflow}.yaml").write_text(text)
        served = Served(folder)
        os.environ["PYTHONPATH"] = str(ROOT)  # the functions' package, as if it were installed
        try:
            served.start()
            yield served
        finally:
            del os.environ["PYTHONPATH"]
            served.stop()
        assert left_of(folder) == []


def run(mesh: Served, workflow: str, given: dict) -> str:
    return str(mesh.post("/v1/runs", {"workflow": workflow, "input": given})["id"])


def test_a_function_runs_as_a_task_of_ray(mesh):
    """In a process of Ray's, with the step's key; the first call waits for the cluster."""
    begun = time.monotonic()
    ended = mesh.wait_for_run(run(mesh, "add", {"a": 40}))
    assert ended["state"] == "completed", ended
    assert ended["output"]["sum"] == 42
    assert ended["output"]["about"][0] == f"{ended['id']}/about"
    assert ended["output"]["pid"] != mesh.process.pid
    sys.stderr.write(f"first task on Ray after {time.monotonic() - begun:.1f} s\n")


def test_canceling_the_run_ends_the_task(mesh, tmp_path):
    """The function is interrupted where it stands."""
    run_id = run(mesh, "slow", {"folder": str(tmp_path)})
    until = time.monotonic() + 60
    while not (tmp_path / "began").exists() and time.monotonic() < until:
        time.sleep(0.1)
    mesh.post(f"/v1/runs/{run_id}/cancel", {})
    assert mesh.wait_for_run(run_id, 30)["state"] == "canceled"
    while not (tmp_path / "interrupted").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert (tmp_path / "interrupted").exists()


def test_a_task_whose_worker_dies_is_not_run_again(mesh):
    """It may have done its work: the step fails and says so."""
    ended = mesh.wait_for_run(run(mesh, "dies", {}), 60)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "unanswered"), ended
