"""`models`: where the mesh's models stand, and a scripted one for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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


@app.command()
def script(
    file: Annotated[Path, typer.Argument(help="YAML file of what the model answers.")],
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 0,
    log: Annotated[Path | None, typer.Option(help="File for a line of JSON about each request.")] = None,
) -> None:
    """Serve a scripted model for tests; prints the URL to give as `url` of a model. Ctrl-C stops it."""
    import anyio

    from agentmesh.adapters.scripted_server import serve

    anyio.run(lambda: serve(file, port=port, log=log, announce=lambda url: print(url, flush=True)))
