"""`schedules`: what cron will start, and when."""

from __future__ import annotations

import typer

from agentmesh.cli.options import Json, Mesh, mesh_folder
from agentmesh.cli.output import print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Look at cron schedules.")


@app.command("list")
def list_schedules(mesh: Mesh = None, as_json: Json = False) -> None:
    """List the schedules of this mesh."""
    from agentmesh.cli.background import connect

    answer = connect(mesh_folder(mesh)).get("/v1/schedules")
    if as_json:
        print_json(answer["schedules"])
        return
    rows = [(s["workflow"], s["schedule"], s["timezone"], s.get("last"), s.get("next")) for s in answer["schedules"]]
    print_table(("WORKFLOW", "SCHEDULE", "ZONE", "LAST", "NEXT"), rows, "no workflow of this mesh has `on.cron`")
