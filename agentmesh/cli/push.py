"""`push`: webhooks of runs that do not take what they are told."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from agentmesh.cli.options import Json, Mesh, mesh_folder
from agentmesh.cli.output import note, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Look after push notifications.")


@app.command("list")
def list_deliveries(
    failing: Annotated[bool, typer.Option("--failing", help="Those that fail now and are tried again.")] = False,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """List the webhooks that were given up."""
    from agentmesh.cli.background import connect

    answer = connect(mesh_folder(mesh)).get("/v1/push", dead="false" if failing else "true")
    found: list[dict[str, Any]] = answer["deliveries"]
    if as_json:
        print_json(found)
        return
    since = "failing_since" if failing else "dead_at"
    rows = [
        (
            d["run"],
            d["id"],
            d["host"],
            datetime.fromtimestamp(d[since]).isoformat(" ", "seconds"),
            d["attempts"],
            d["error"],
        )
        for d in found
    ]
    nothing = "no webhook fails" if failing else "no webhook was given up"
    print_table(("RUN", "CONFIG", "HOST", "SINCE", "TRIES", "ERROR"), rows, nothing)


@app.command()
def retry(
    run: Annotated[str, typer.Argument(help="The run, as `push list` shows it.")],
    config: Annotated[str, typer.Argument(help="The configuration's id.")],
    mesh: Mesh = None,
) -> None:
    """Tell a webhook again, from the event on that it did not take."""
    from agentmesh.cli.background import connect
    from agentmesh.cli.client import segment

    connect(mesh_folder(mesh)).post(f"/v1/push/{segment(run)}/{segment(config)}/retry")
    note(f"{config} of run {run} is told again")
