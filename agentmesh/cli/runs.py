"""`run` and `runs`: start workflows, follow them, look at them, cancel them. What people answer is in `people`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from agentmesh.cli.client import Client, segment
from agentmesh.cli.options import FAILED, INTERRUPTED, Inputs, Json, Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import ago, duration, first_line, note, print_json, print_table, print_value

app = typer.Typer(no_args_is_help=True, help="Look at runs, watch them, answer them, cancel them.")
RunId = Annotated[str | None, typer.Argument(metavar="[ID]", help="The run; the newest when not given.")]


def run(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    inputs: Inputs = None,
    key: Annotated[str | None, typer.Option(help="The same key never starts two runs.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and print its id.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show the steps.")] = False,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Run a workflow and print its output."""
    from agentmesh.cli.background import connect
    from agentmesh.cli.inputs import parse

    folder = mesh_folder(mesh)
    client = connect(folder, start=True)
    definition = client.get(f"/v1/workflows/{segment(workflow)}")
    body = {"workflow": workflow, "input": parse(inputs or (), definition["input"])}
    started = client.post("/v1/runs", body | ({"key": key} if key else {}))
    if detach:
        print_json({"id": started["id"], "state": started["state"]}) if as_json else print(started["id"])
        return
    finish(folder, client, started["id"], as_json=as_json, quiet=quiet)


def finish(folder: Path, client: Client, run_id: str, *, as_json: bool, quiet: bool = False) -> None:
    """Follows a run to its end and prints its output. Exits 1 when it failed; Ctrl-C leaves it running."""
    from agentmesh.cli.live import follow

    try:
        ended = follow(folder, client, run_id, quiet=quiet)
    except KeyboardInterrupt:
        note(
            f"run {run_id} goes on: `agentmesh runs watch {run_id}` follows it, "
            f"`agentmesh runs cancel {run_id}` ends it"
        )
        raise typer.Exit(INTERRUPTED) from None
    if ended["state"] != "completed":
        note(_why(ended))
        raise typer.Exit(FAILED)
    if not quiet:
        note(f"run {run_id} completed{_spent(ended)}")
    if as_json:
        print_json(ended.get("output"))
    else:
        print_value(ended.get("output"))


@app.command("list")
def list_runs(
    workflow: Annotated[str | None, typer.Option(help="Only runs of this workflow.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(help="Only runs in this state; may be given several times.")
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=200)] = 20,
    everything: Annotated[bool, typer.Option("--all", help="Also runs that a step of another run started.")] = False,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="What runs ask people now, oldest question first.")
    ] = False,
    cursor: Annotated[str | None, typer.Option(help="Go on after the page that gave this.")] = None,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    client = _client(mesh)
    if waiting:
        from agentmesh.cli.people import list_waiting

        if state or cursor:
            raise WrongUsage("--waiting lists questions; it goes with --workflow, not with --state or --cursor")
        list_waiting(client, workflow=workflow, as_json=as_json)
        return
    roots = None if everything or workflow else "true"
    page = client.get("/v1/runs", workflow=workflow, state=state, roots=roots, limit=limit, cursor=cursor)
    if as_json:
        print_json(page)
        return
    rows = [
        (r["id"], r["workflow"], r["state"], r.get("source"), ago(r.get("created_at")), first_line(_error(r), 60))
        for r in page["runs"]
    ]
    none = "no such runs" if workflow or state or cursor else "no runs yet"
    print_table(("RUN", "WORKFLOW", "STATE", "FROM", "STARTED", ""), rows, none)
    if page.get("next"):
        note(f"{page.get('total', 'more')} in all; the next page: --cursor {page['next']}")


@app.command()
def show(run_id: RunId = None, mesh: Mesh = None, as_json: Json = False) -> None:
    """Show one run: its state, steps and output."""
    client = _client(mesh)
    found = client.get(f"/v1/runs/{segment(run_id or _newest(client))}")
    if as_json:
        print_json(found)
        return
    begun = ago(found.get("created_at"))
    print(f"{found['id']}  {found['workflow']}  {found['state']}  from {found.get('source')}, {begun}")
    if found.get("route"):
        print(f"goes to {found['route'].get('agent') or 'this mesh'}: {found['route'].get('reason')}")
    for step in found.get("steps") or ():
        if step.get("task"):
            print(f"{step['path']} is task {step['task'].get('task')} of {step['task'].get('peer')}")
    if found.get("steps"):
        print()
        print_table(("STEP", "VERB", "STATE", "ATTEMPT", "TOOK", ""), [_row(step) for step in found["steps"]], "")
    if _error(found):
        print(f"\n{_error(found)}")
    if any((step.get("waiting") or {}).get("for") in ("approval", "input") for step in found.get("steps") or ()):
        from agentmesh.cli.people import how, show_question

        for question in client.get(f"/v1/runs/{segment(found['id'])}/questions")["questions"]:
            show_question(question)
            note(how(question))
    if found.get("output") is not None:
        print()
        print_value(found["output"])


@app.command()
def watch(run_id: RunId = None, mesh: Mesh = None, as_json: Json = False) -> None:
    """Follow a run until it ends, and print its output."""
    folder = mesh_folder(mesh)
    client = _client(mesh)
    finish(folder, client, run_id or _newest(client), as_json=as_json)


@app.command()
def cancel(
    run_id: Annotated[str, typer.Argument(metavar="ID", help="The run.")], mesh: Mesh = None, as_json: Json = False
) -> None:
    """Cancel a run."""
    found = _client(mesh).post(f"/v1/runs/{segment(run_id)}/cancel")
    if as_json:
        print_json(found)
    else:
        print(f"{found['id']}  {found['state']}" + ("" if found["state"] == "canceled" else ", cancel asked for"))


def _client(mesh: Path | None) -> Client:
    from agentmesh.cli.background import connect

    return connect(mesh_folder(mesh))


def _newest(client: Client) -> str:
    runs = client.get("/v1/runs", roots="true", limit=1)["runs"]
    if not runs:
        raise WrongUsage("there are no runs yet; `agentmesh run WORKFLOW` starts one")
    return str(runs[0]["id"])


def _row(step: Mapping[str, Any]) -> tuple[Any, ...]:
    begun, ended = step.get("started_at"), step.get("ended_at")
    took = duration(ended - begun) if begun and ended else ""
    error = (step.get("error") or {}).get("message") or (f"run {step['child']}" if step.get("child") else "")
    if step.get("waiting"):
        from agentmesh.cli.live import waits_for

        error = waits_for(step["waiting"])
    indent = "  " * str(step["path"]).count("/")
    return (
        indent + step["path"],
        step.get("verb"),
        step.get("state"),
        step.get("attempt") or "",
        took,
        first_line(error, 80),
    )


def _error(found: Mapping[str, Any]) -> str:
    error = found.get("error") or {}
    where = f"{error['path']}: " if error.get("path") else ""
    return f"{where}{error.get('message', error.get('code', ''))}" if error else ""


def _why(ended: Mapping[str, Any]) -> str:
    reason = _error(ended)
    return f"run {ended['id']} {ended['state']}" + (f": {reason}" if reason else "")


def _spent(ended: Mapping[str, Any]) -> str:
    took = (
        duration(max(0.0, ended.get("updated_at", 0) - ended.get("created_at", 0))) if ended.get("updated_at") else ""
    )
    usage = ended.get("usage") or {}
    tokens = usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
    return (f" in {took}" if took else "") + (f", {tokens} tokens" if tokens else "")
