"""`runs replay|fork|diff|export|import|prune`: what can be done with runs after the fact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentmesh.cli.client import Client, segment
from agentmesh.cli.options import FAILED, Inputs, Json, Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import duration, note, print_json

if TYPE_CHECKING:
    from rich.console import Console

LONGEST = 300
"""Characters of a value on one line."""
Run = Annotated[str, typer.Argument(metavar="ID", help="The run.")]
_Changes = list[str] | None


def add_to(app: typer.Typer) -> None:
    """Registers the commands among those of `runs`."""
    app.command("replay")(replay)
    app.command("fork")(fork)
    app.command("diff")(diff)
    app.command("export")(export)
    app.command("import")(import_)
    app.command("prune")(prune)


def replay(
    run: Annotated[str, typer.Argument(metavar="ID|FILE", help="The run, or a file that `runs export` wrote.")],
    children: Annotated[bool, typer.Option("--children", help="Replay the runs that its steps started, too.")] = False,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Walk a run again from its journal, without any model or tool; exit status 1 when it comes out differently."""
    if Path(run).is_file():
        found = _replay_file(Path(run))
    elif "/" in run or run.endswith((".gz", ".json")):
        raise WrongUsage(f"there is no file {run}")
    else:
        found = _client(mesh).get(
            f"/v1/runs/{segment(run)}/replay", children="true" if children else None, timeout=300.0
        )
    if as_json:
        print_json(found)
    else:
        for one in (found, *found["children"]):
            _show_replay(one)
    if not found["same"]:
        raise typer.Exit(FAILED)


def _replay_file(file: Path) -> dict[str, Any]:
    import anyio

    from agentmesh.engine.export import read, replay_all, unpack

    return anyio.run(replay_all, read(unpack(file.read_bytes()))).to_json()


def _show_replay(found: Mapping[str, Any]) -> None:
    console = _console()
    head = f"{found['run']}  {found['workflow']}  {found['state']}"
    difference = found["difference"]
    if difference is None and found["digest"] == found["replayed"]:
        console.print(f"{head}  [green]the same[/]: {found['rows']} rows, digest {found['digest'][:16]}")
        for path in found["open"]:
            console.print(f"  stands at {path}", markup=False)
        return
    console.print(f"{head}  [red]not the same[/]")
    if difference is not None:
        row = f"row {difference['seq']}, " if difference["seq"] else ""
        console.print(f"  {row}{difference['path'] or 'the run'}: ", end="", markup=False)
        console.print(difference["message"], markup=False)
        for name in ("journal", "replay"):
            text = "nothing" if difference[name] is None else json.dumps(difference[name], ensure_ascii=False)
            console.print(f"    {name:<8}{_cut(text)}", markup=False)


def fork(
    run: Run,
    from_step: Annotated[
        str | None, typer.Option("--from", metavar="STEP", help="The first step that is done again; else all are.")
    ] = None,
    inputs: Inputs = None,
    prompt: Annotated[
        _Changes, typer.Option(metavar="STEP=TEXT", help="Another prompt for an llm step; TEXT may be @file.")
    ] = None,
    system: Annotated[_Changes, typer.Option(metavar="STEP=TEXT", help="Another system prompt.")] = None,
    model: Annotated[_Changes, typer.Option(metavar="STEP=NAME", help="Another model for an llm step.")] = None,
    temperature: Annotated[_Changes, typer.Option(metavar="STEP=NUMBER", help="Another temperature.")] = None,
    today: Annotated[bool, typer.Option("--today", help="By the files as they are now.")] = False,
    key: Annotated[str | None, typer.Option(help="The same key never starts two runs.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and print its id.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show the steps.")] = False,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Start a run that begins with the steps of another one, with something changed."""
    from agentmesh.cli.inputs import parse
    from agentmesh.cli.runs import finish

    folder, client = mesh_folder(mesh), _client(mesh)
    steps: dict[str, dict[str, Any]] = {}
    for name, given in (("prompt", prompt), ("system", system), ("model", model), ("temperature", temperature)):
        for text in given or ():
            step, value = _change(f"--{name}", text)
            steps.setdefault(step, {})[name] = _number(value, name) if name == "temperature" else value
    body: dict[str, Any] = {"from_step": from_step, "steps": steps, "today": today}
    if inputs:
        before = client.get(f"/v1/runs/{segment(run)}")
        tool = str(before["workflow"]).startswith("tool:")  # the run of a tool that asks a model
        schema = {} if tool else client.get(f"/v1/workflows/{segment(before['workflow'])}")["input"]
        body["input"] = {**(before["input"] or {}), **parse(inputs, schema)}
    if key:
        body["key"] = key
    started = client.post(f"/v1/runs/{segment(run)}/fork", body)
    if detach:
        print_json({"id": started["id"], "state": started["state"]}) if as_json else print(started["id"])
        return
    note(f"run {started['id']} is a fork of {run}; `agentmesh runs diff {run} {started['id']}` shows what changed")
    finish(folder, client, started["id"], as_json=as_json, quiet=quiet)


def _change(option: str, text: str) -> tuple[str, str]:
    step, equals, value = text.partition("=")
    if not equals or not step:
        raise WrongUsage(f"{option} takes STEP=VALUE, not {text!r}")
    if value.startswith("@@"):
        return step, value[1:]
    if value.startswith("@"):
        try:
            return step, Path(value[1:]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise WrongUsage(f"{option} {step}: cannot read {value[1:]!r}: {error}") from None
    return step, value


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise WrongUsage(f"--{name} takes STEP=NUMBER, and {text!r} is no number") from None


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The earlier run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The later one.")],
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Show what changed from one run to another: definition, input, steps, end."""
    found = _client(mesh).get(f"/v1/runs/{segment(a)}/diff/{segment(b)}")
    if as_json:
        print_json(found)
    else:
        _show_diff(found)


def _show_diff(found: Mapping[str, Any]) -> None:
    console = _console()
    for side in ("a", "b"):
        one = found[side]
        fork_of = f", a fork of {one['forked_from']}" if one["forked_from"] else ""
        spent = f"{one['tokens']} tokens, {duration(one['seconds'])} in models and tools"
        console.print(f"{side.upper()}  {one['id']}  {one['workflow']}  {one['state']}{fork_of}: {spent}")
    definition = found["definition"]
    if missing := definition.get("missing"):
        console.print(f"\ndefinition: the store no longer has {', '.join(m[:12] for m in missing)}")
    _section(console, "definition", definition["changes"])
    _section(console, "input", found["input"])
    if found["steps"]:
        console.print("\n[bold]steps[/]")
    for step in found["steps"]:
        _show_step(console, step)
    end = found["end"]
    changes = [{"path": name, **value} for name, value in end.items() if name != "output"] + end.get("output", [])
    _section(console, "end", changes)
    if not (definition["changes"] or found["input"] or found["steps"] or changes):
        console.print("\nnothing changed")


def _show_step(console: Console, step: Mapping[str, Any]) -> None:
    if "only" in step:
        side = step["only"].upper()
        console.print(f"  {step['path']}: only in {side}, {step['state']}  ", end="", markup=False)
        console.print(_cut(json.dumps(step["output"], ensure_ascii=False)), markup=False)
        return
    console.print(f"  {step['path']}", markup=False)
    for name, value in step.items():
        if name == "output":
            for change in value:
                _show_change(console, change, "    ")
        elif name != "path":
            _show_change(console, {"path": name, **value}, "    ")


def _section(console: Console, name: str, changes: Sequence[Mapping[str, Any]]) -> None:
    if changes:
        console.print(f"\n[bold]{name}[/]")
    for change in changes:
        _show_change(console, change, "  ")


def _show_change(console: Console, change: Mapping[str, Any], indent: str) -> None:
    if "lines" in change:
        console.print(f"{indent}{change['path']}", markup=False)
        for line in change["lines"]:
            style = {"+": "green", "-": "red", "@": "dim"}.get(line[:1])
            console.print(f"{indent}  {line}", style=style, markup=False)
        return
    if change.get("more"):
        console.print(f"{indent}… and more")
        return
    console.print(f"{indent}{change['path']}", markup=False)
    for side, sign, style in (("a", "-", "red"), ("b", "+", "green")):
        if side in change:
            value = change[side]
            for line in _lines(value):
                console.print(f"{indent}  {sign} {line}", style=style, markup=False)


def _lines(value: Any) -> list[str]:
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return [_cut(item) for item in value]
    return [_cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def export(
    run: Run,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; else ID.run.json.gz here.")
    ] = None,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Write a run with its journal, definition and children to one file, which replays on another machine."""
    content = _client(mesh).download(f"/v1/runs/{segment(run)}/export")
    file = output or Path(f"{run}.run.json.gz")
    try:
        file.write_bytes(content)
    except OSError as error:
        raise WrongUsage(f"cannot write {file}: {(error.strerror or str(error)).lower()}") from None
    if as_json:
        print_json({"file": str(file), "bytes": len(content)})
    else:
        print(file)
        note(f"{len(content):,} bytes; `agentmesh runs replay {file}` replays it, here or elsewhere")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `runs export` wrote.")],
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Record the runs of an exported file in this mesh, as they were."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WrongUsage(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from None
    found = _client(mesh).upload("/v1/runs/import", content)
    if as_json:
        print_json(found)
    else:
        print(f"{found['id']}  {found['workflow']}  {found['state']}")


def prune(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="Such as 12h or 30d.")],
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Remove runs that ended longer ago than that, with their journals and children."""
    found = _client(mesh).post("/v1/runs/prune", {"older_than": older_than}, timeout=3600.0)
    if as_json:
        print_json(found)
    else:
        print(f"{found['removed']} run{'' if found['removed'] == 1 else 's'} removed")


def _client(mesh: Path | None) -> Client:
    from agentmesh.cli.background import connect

    return connect(mesh_folder(mesh))


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
