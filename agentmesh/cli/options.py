"""Options and arguments that several commands share, and the errors that end a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentmesh.errors import CallerError, MeshError, ProjectError

OK, FAILED, WRONG, NO_SERVER, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit statuses: done; the run or tool failed; the command or a file is wrong; no server answers; Ctrl-C."""

Mesh = Annotated[
    Path | None,
    typer.Option("--mesh", metavar="FOLDER", help="The mesh: a folder with agentmesh.yaml (this one, or above)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NAME=VALUE",
        help="An input; VALUE may be @file, @- (stdin) or @@text. Or @object.json.",
    ),
]


class WrongUsage(MeshError):
    """The command cannot be understood."""

    code = "usage"


def exit_status(error: MeshError) -> int:
    """The exit status that tells a script what kind of thing went wrong."""
    from agentmesh.cli.client import Problem, Unreachable

    if isinstance(error, Unreachable):
        return NO_SERVER
    if isinstance(error, Problem):
        return WRONG if error.callers else FAILED
    return WRONG if isinstance(error, CallerError | ProjectError | WrongUsage) else FAILED


def mesh_folder(given: Path | None) -> Path:
    """The mesh a command is about; WrongUsage when there is none."""
    start = (given or Path.cwd()).resolve()
    for folder in (start,) if given else (start, *start.parents):
        if (folder / "agentmesh.yaml").is_file():
            return folder
    where = f"in {start}" if given else f"in {start} or above it"
    raise WrongUsage(f"there is no agentmesh.yaml {where}; `agentmesh init FOLDER` makes a mesh")
