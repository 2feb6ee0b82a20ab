"""The program `agentmesh`: its commands, and how errors end it.

Nothing heavy is imported here or at the top of the command modules: `--help` answers at once, and `serve` imports
what serving needs.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from agentmesh import __version__
from agentmesh.cli import (
    agents,
    backup,
    doctor,
    history,
    mcp,
    models,
    people,
    policies,
    project,
    push,
    runs,
    schedules,
    serve,
    test,
    tools,
)
from agentmesh.cli.options import FAILED, INTERRUPTED, OK, WRONG, exit_status
from agentmesh.cli.output import note
from agentmesh.errors import MeshError

app = typer.Typer(
    name="agentmesh", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
    help="MCP tools, A2A agents and durable workflows on models you host yourself.",
    epilog="Exit status: 0 done, 1 the run or tool failed, 2 the command or a file is wrong, 3 no server answers.",
)  # fmt: skip

_WRITABLE = "give this user the right to write there, or use another folder"
REMEDIES = {
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room on that disk",
}
"""What to do where the file system refuses; nothing of AgentMesh is at fault there."""


def _version(asked: bool) -> None:
    if asked:
        print(f"agentmesh {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an unexpected error comes from.")] = False,
) -> None:
    """What stands before the command."""


app.command("init")(project.init)
app.command("serve")(serve.serve)
app.command("stop")(serve.stop)
app.command("check")(project.check)
app.command("run")(runs.run)
people.add_to(runs.app)
history.add_to(runs.app)
app.add_typer(runs.app, name="runs")
app.add_typer(tools.app, name="tools")
app.add_typer(agents.app, name="agents")
app.add_typer(models.app, name="models")
app.add_typer(schedules.app, name="schedules")
app.add_typer(policies.app, name="policies")
app.add_typer(push.app, name="push")
app.command("test")(test.run_cases)
app.add_typer(mcp.app, name="mcp")
app.command("backup")(backup.backup)
app.command("doctor")(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line (None: of this process). Every error is one sentence on stderr and an exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(given, prog_name="agentmesh")
    except MeshError as e:
        note(e.message)
        status = exit_status(e)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left, as `head` does: there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = OK
    except Exception as e:
        if "--traceback" in given:
            raise
        if isinstance(e, OSError) and (remedy := REMEDIES.get(e.errno or 0)):
            note(f"{e.filename or 'a file'}: {(e.strerror or str(e)).lower()}; {remedy}")
            sys.exit(WRONG)
        note(f"unexpected {type(e).__name__}: {e} (a fault of AgentMesh; `agentmesh --traceback ...` shows where)")
        status = FAILED
    sys.exit(status)
