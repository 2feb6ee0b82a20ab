"""`policies`: run the cases that stand in the policy files."""

from __future__ import annotations

import typer

from agentmesh.cli.options import FAILED, Json, Mesh, mesh_folder
from agentmesh.cli.output import note, print_json

app = typer.Typer(no_args_is_help=True, help="Test policies.")


@app.command("test")
def run_cases(mesh: Mesh = None, as_json: Json = False) -> None:
    """Run every case of every policy file; all policies decide together, as they do in the server."""
    from agentmesh.adapters.files import load_mesh
    from agentmesh.core.policy import Action, PolicyCase, PolicyFile, Principal, decide
    from agentmesh.settings import read_settings

    folder = mesh_folder(mesh)
    policies = load_mesh(folder, read_settings(folder).secrets).policies

    def who(file: PolicyFile, case: PolicyCase) -> Principal:
        """A principal of the case's role, or with its subject."""
        role = file.roles.get(case.as_)
        if role is None:
            return Principal(case.as_)
        subject = role.subjects[0].replace("*", "x") if role.subjects else "somebody"
        return Principal(subject, (role.tenants or ["local"])[0], dict(role.claims))

    results = []
    for file in policies:
        for case in file.cases:
            decision = decide(policies, who(file, case), Action(case.do, case.on, case.input))
            results.append({
                "file": file.name, "as": case.as_, "do": case.do, "on": case.on, "expect": case.expect,
                "decided": "allow" if decision.allowed else "deny", "rule": decision.rule, "reason": decision.reason,
            })  # fmt: skip
    wrong = [r for r in results if r["expect"] != r["decided"]]
    if as_json:
        print_json(results)
    else:
        for r in wrong:
            print(
                f"{r['file']}: {r['as']} {r['do']} on {r['on']}: "
                f"expected {r['expect']}, decided {r['decided']} by {r['rule']}"
            )
        note(f"{len(results) - len(wrong)} of {len(results)} cases as expected")
    if wrong:
        raise typer.Exit(FAILED)
