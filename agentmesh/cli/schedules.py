"""`schedules`: what cron will start, and when."""

from __future__ import annotations

from typing import Any

import typer

from agentmesh.cli.options import Json, Mesh, mesh_folder
from agentmesh.cli.output import ago, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Look at cron schedules.")


@app.command("list")
def list_schedules(mesh: Mesh = None, as_json: Json = False) -> None:
    """List the schedules of this mesh."""
    from agentmesh.cli.background import connect

    answer = connect(mesh_folder(mesh)).get("/v1/schedules")
    schedules: list[dict[str, Any]] = answer["schedules"] if isinstance(answer, dict) else answer
    if as_json:
        print_json(schedules)
        return
    rows = [(s["workflow"], s["schedule"], s.get("timezone"), _when(s, "last"), _when(s, "next")) for s in schedules]
    print_table(("WORKFLOW", "SCHEDULE", "ZONE", "LAST", "NEXT"), rows, "no workflow of this mesh has `on.cron`")


def _when(schedule: dict[str, Any], name: str) -> str:
    at = schedule.get(name, schedule.get(f"{name}_at", schedule.get(f"{name}_due")))
    return ago(at) if isinstance(at, int | float) else str(at or "")
