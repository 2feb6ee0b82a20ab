"""`policies`: run the cases that stand in the policy files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from agentmesh.cli.options import FAILED, Json, Mesh, mesh_folder
from agentmesh.cli.output import note, print_json

if TYPE_CHECKING:
    from agentmesh.core.policy import CaseResult

app = typer.Typer(no_args_is_help=True, help="Test policies.")


@app.command("test")
def run_cases(mesh: Mesh = None, as_json: Json = False) -> None:
    """Run every case of every policy file; all policies decide together, as they do in the server."""
    from agentmesh.adapters.files import load_mesh
    from agentmesh.core import policy
    from agentmesh.settings import read_settings

    folder = mesh_folder(mesh)
    results = policy.run_cases(load_mesh(folder, read_settings(folder).secrets).policies)
    wrong = [r for r in results if not r.passed]
    if as_json:
        print_json([_shape(r) for r in results])
    else:
        for r in wrong:
            case = r.case
            print(
                f"{r.file} cases[{r.index}]: {case.as_} {case.do} on {case.on}: "
                f"expected {case.expect}, decided {_decided(r)} by {r.decision.rule}"
            )
        note(f"{len(results) - len(wrong)} of {len(results)} cases as expected")
    if wrong:
        raise typer.Exit(FAILED)


def _decided(result: CaseResult) -> str:
    return "allow" if result.decision.allowed else "deny"


def _shape(result: CaseResult) -> dict[str, Any]:
    case, decision = result.case, result.decision
    return {
        "file": result.file, "index": result.index, "as": case.as_, "do": case.do, "on": case.on, "expect": case.expect,
        "decided": _decided(result), "rule": decision.rule, "reason": decision.reason,
    }  # fmt: skip
