"""`models`: where the mesh's models stand."""

from __future__ import annotations

from typing import Any

import typer

from agentmesh.cli.options import Json, Mesh, mesh_folder
from agentmesh.cli.output import ago, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Look at models.")


@app.command()
def status(mesh: Mesh = None, as_json: Json = False) -> None:
    """Show each model: its state, replicas and addresses."""
    from agentmesh.cli.background import connect

    answer = connect(mesh_folder(mesh)).get("/v1/models")
    models: list[dict[str, Any]] = answer["models"]
    if as_json:
        print_json(models)
        return
    rows = [
        (
            m["name"],
            m["state"],
            m.get("replicas", ""),
            ago(m.get("since")),
            " ".join(m.get("urls") or ()),
            m.get("message", ""),
        )
        for m in models
    ]
    print_table(("MODEL", "STATE", "REPLICAS", "SINCE", "URL", ""), rows, "this mesh has no models")
