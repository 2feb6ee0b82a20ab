"""`schedules`: what cron will start and when; to pause it, to let it go on, to run what was missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from agentmesh.cli.options import Json, Mesh, mesh_folder
from agentmesh.cli.output import first_line, note, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Look at cron schedules, pause them, run what was missed.")
Workflow = Annotated[str, typer.Argument(help="The workflow's name.")]
Index = Annotated[int, typer.Argument(help="Which of its schedules, counted from 0.", min=0)]


@app.command("list")
def list_schedules(mesh: Mesh = None, as_json: Json = False) -> None:
    """List the schedules of this mesh."""
    from agentmesh.cli.background import connect

    answer = connect(mesh_folder(mesh)).get("/v1/schedules")
    if as_json:
        print_json(answer["schedules"])
        return
    rows = [
        (s["workflow"], s["index"], s["schedule"], s["timezone"], s.get("last"), _next(s), first_line(_remark(s), 60))
        for s in answer["schedules"]
    ]
    headings = ("WORKFLOW", "INDEX", "SCHEDULE", "ZONE", "LAST", "NEXT", "")
    print_table(headings, rows, "no workflow of this mesh has `on.cron`")


@app.command()
def pause(workflow: Workflow, index: Index = 0, mesh: Mesh = None, as_json: Json = False) -> None:
    """Start nothing by a schedule until it is resumed, over restarts too."""
    _turn("pause", workflow, index, mesh, as_json)


@app.command()
def resume(workflow: Workflow, index: Index = 0, mesh: Mesh = None, as_json: Json = False) -> None:
    """Let a schedule go on with its next instant."""
    _turn("resume", workflow, index, mesh, as_json)


@app.command()
def backfill(
    workflow: Workflow,
    since: Annotated[str, typer.Option(help="The first moment, as in 2026-11-22T10:00:00Z.")],
    index: Index = 0,
    until: Annotated[str | None, typer.Option(help="The moment before which it ends; now when not given.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many runs.", min=1, max=1000)] = 100,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Start a run for each instant of a span; an instant that has a run keeps it."""
    from agentmesh.cli.background import connect

    client = connect(mesh_folder(mesh))
    body = {"since": since, "until": until, "limit": limit}
    done = client.post(f"{_path(workflow, index)}/backfill", body, timeout=300.0)
    if as_json:
        print_json(done)
        return
    rows = [(r["instant"], r["run"], r["state"], "" if r["new"] else "was there") for r in done["runs"]]
    print_table(("INSTANT", "RUN", "STATE", ""), rows, "the span has no instant of this schedule")
    new = sum(r["new"] for r in done["runs"])
    if rows:
        note(f"{new} run{'' if new == 1 else 's'} started")
    if done["next"]:
        note(f"there are more instants; go on with --since {done['next']}")


def _turn(verb: str, workflow: str, index: int, mesh: Any, as_json: bool) -> None:
    from agentmesh.cli.background import connect

    found = connect(mesh_folder(mesh)).post(f"{_path(workflow, index)}/{verb}")
    if as_json:
        print_json(found)
    elif verb == "pause":
        print(f"{workflow} {index} is paused; `agentmesh schedules resume {workflow} {index}` lets it go on")
    else:
        print(f"{workflow} {index} goes on; next {found.get('next') or 'never'}")


def _path(workflow: str, index: int) -> str:
    from agentmesh.cli.client import segment

    return f"/v1/schedules/{segment(workflow)}/{index}"


def _next(schedule: Mapping[str, Any]) -> str:
    return "paused" if schedule.get("paused") else str(schedule.get("next") or "never")


def _remark(schedule: Mapping[str, Any]) -> str:
    """What is worth saying of a schedule: its last error, what waits for its turn."""
    waiting = schedule.get("waiting") or 0
    return str(schedule.get("error") or (f"{waiting} waiting for their turn" if waiting else ""))
