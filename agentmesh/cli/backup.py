"""`backup`: copies the store into one file, whether a server runs or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agentmesh.cli.options import Json, Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import note, print_json


def backup(
    file: Annotated[
        Path, typer.Argument(help="Where the copy goes; an earlier copy is replaced when the new one is whole.")
    ],
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Copy the store into one file, while the server works."""
    from agentmesh.adapters.sql import backup as backups
    from agentmesh.adapters.sql.database import resolve
    from agentmesh.settings import read_settings

    folder = mesh_folder(mesh)
    url = resolve(read_settings(folder).store or _store(folder), folder)
    size = backups.copy(url, file.resolve())
    if as_json:
        print_json({"file": str(file), "bytes": size})
        return
    print(file)
    note(f"{size:,} bytes; docs/backup.md says how to restore it")


def _store(folder: Path) -> str:
    """What `store:` of agentmesh.yaml says. The other files may be as wrong as they like: a backup must not need them."""
    from agentmesh.adapters.yaml_document import read_yaml
    from agentmesh.core.mesh import MeshFile

    value: Any = read_yaml((folder / "agentmesh.yaml").read_bytes(), "agentmesh.yaml").value
    default: str = MeshFile.model_fields["store"].default
    store = value.get("store", default) if isinstance(value, dict) else default
    if not isinstance(store, str):
        raise WrongUsage("`store:` of agentmesh.yaml is not a text; write `store: sqlite:///agentmesh.db`")
    return store
