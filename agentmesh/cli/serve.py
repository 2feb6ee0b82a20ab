"""`serve` and `stop`: the server of a mesh."""

from __future__ import annotations

from typing import Annotated

import typer

from agentmesh.cli.options import Json, Mesh, mesh_folder
from agentmesh.cli.output import note, print_json


def serve(
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8080,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            help="Port of A2A over gRPC; 0 for none.  [default: the one after --port, when it is free]",
            min=0,
            max=65535,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback only.")] = "127.0.0.1",
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Leave the models running after the server.")
    ] = False,
    no_models: Annotated[bool, typer.Option("--no-models", help="Do not deploy models; calls to them fail.")] = False,
    no_reload: Annotated[
        bool, typer.Option("--no-reload", help="Keep to the files as they are now; SIGHUP reads them again.")
    ] = False,
    mesh: Mesh = None,
) -> None:
    """Serve the mesh of this folder until Ctrl-C."""
    from agentmesh.settings import read_settings

    folder = mesh_folder(mesh)
    settings = read_settings(
        folder, host=host, port=port, grpc_port=grpc_port, keep_models=keep_models or None, models=False if no_models else None,
        reload=False if no_reload else None,
    )  # fmt: skip
    from agentmesh.app import serve

    serve(settings)
    _leave()


def _leave() -> None:
    """Ends the process though a step's function goes on in a thread: nothing waits for it any more, its step is done again."""
    import logging
    import os
    import sys
    import threading

    if any(thread is not threading.current_thread() and not thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def stop(mesh: Mesh = None, as_json: Json = False) -> None:
    """Stop every server of this mesh, and its models."""
    from agentmesh.cli import background

    folder = mesh_folder(mesh)
    pids = background.stop(folder)
    if as_json:
        print_json({"stopped": bool(pids), "pid": pids[0] if pids else None, "pids": pids})
    elif len(pids) > 1:
        note(f"stopped the {len(pids)} servers of {folder} (processes {', '.join(map(str, pids))})")
    else:
        note(f"stopped the server of {folder} (process {pids[0]})" if pids else f"no server runs for {folder}")
