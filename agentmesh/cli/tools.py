"""`tools`: list the mesh's tools and call one."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from agentmesh.cli.client import Client, Problem, Unreachable, segment
from agentmesh.cli.options import FAILED, Inputs, Json, Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import first_line, note, print_json, print_table, print_value

app = typer.Typer(no_args_is_help=True, help="List tools, call them, and approve what changed of others' tools.")


@app.command("list")
def list_tools(mesh: Mesh = None, as_json: Json = False) -> None:
    """List the tools of this mesh."""
    from agentmesh.cli.background import connect

    tools = connect(mesh_folder(mesh)).get("/v1/tools")["tools"]
    if as_json:
        print_json(tools)
        return
    rows = [(t["name"], _arguments(t), first_line(t.get("description") or "", 80)) for t in tools]
    print_table(("TOOL", "INPUT", ""), rows, "this mesh has no tools")


@app.command()
def call(
    name: Annotated[str, typer.Argument(help="The tool's name, as `tools list` shows it.")],
    inputs: Inputs = None,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Call a tool and print its answer."""
    from agentmesh.cli.background import connect
    from agentmesh.cli.inputs import parse

    client = connect(mesh_folder(mesh), start=True)
    tools = {t["name"]: t for t in client.get("/v1/tools")["tools"]}
    if name not in tools:
        raise WrongUsage(f"there is no tool {name!r}{_near(name, list(tools))}")
    arguments = parse(inputs or (), _schema(tools[name]))
    result = _result(client, f"/v1/tools/{segment(name)}/call", {"arguments": arguments})
    if result["is_error"]:
        note(f"{name} failed: {result['text'] or 'it does not say why'}")
        raise typer.Exit(FAILED)
    answer = result["text"] if result["structured"] is None else result["structured"]
    blocks = result.get("content") or ()
    if as_json:
        print_json(blocks if blocks and result["structured"] is None else answer)
        return
    for block in blocks:
        if block["type"] != "text":  # a terminal cannot show it; --json gives it whole
            note(f"also: {block['type']} {block.get('mimeType') or block.get('uri') or ''}".rstrip())
    print_value(answer)


@app.command()
def sources(mesh: Mesh = None, as_json: Json = False) -> None:
    """List who serves tools for this mesh: upstreams, APIs and peers, and how they are."""
    from agentmesh.cli.background import connect

    found = connect(mesh_folder(mesh)).get("/v1/sources")["sources"]
    if as_json:
        print_json(found)
        return
    rows = [
        (s["name"], s["kind"], s["state"], str(s["tools"]), str(s["held"]), first_line(s["detail"], 100)) for s in found
    ]
    print_table(("SOURCE", "KIND", "STATE", "TOOLS", "WAITING", ""), rows, "nobody serves for this mesh")


@app.command()
def diff(
    name: Annotated[str | None, typer.Argument(help="One tool; without it all that wait.")] = None,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Show what changed of others' tools and waits for you."""
    from agentmesh.cli.background import connect

    held = [one for one in _held(connect(mesh_folder(mesh))) if name in (None, one["name"])]
    if as_json:
        print_json(held)
        return
    if not held:
        note("nothing waits" if name is None else f"nothing of {name} waits")
    for one in held:
        for line in _difference(one):
            print(line)


@app.command()
def approve(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Tools, as `tools diff` shows them: NAME, or NAME@DIGEST for just what it showed."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that waits.")] = False,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Take what others' tools say now for approved, and print what that was."""
    from agentmesh.cli.background import connect

    if bool(names) == everything:
        raise WrongUsage("name the tools that you approve, or give --all")
    client = connect(mesh_folder(mesh))
    held = _held(client)
    wanted = {name.partition("@")[0]: name.partition("@")[2] for name in names or ()}
    for name, digest in wanted.items():
        one = next((one for one in held if one["name"] == name), None)
        if one is None:
            raise WrongUsage(f"nothing of {name!r} waits; `agentmesh tools diff` shows what does")
        if digest and digest != one["digest"]:
            raise WrongUsage(f"{name} has changed again since you looked at it; see `agentmesh tools diff {name}`")
    done: list[str] = []
    for source in sorted({one["source"] for one in held}):
        chosen = [one for one in held if one["source"] == source and (everything or one["name"] in wanted)]
        if chosen:
            if not as_json:
                print("\n".join(line for one in chosen for line in _difference(one)))
            digests = {one["name"]: one["digest"] for one in chosen}
            body = {"names": list(digests), "digests": digests}
            done += client.post(f"/v1/sources/{segment(source)}/approve", body)["approved"]
    if as_json:
        print_json(done)
    else:
        print("\n".join(f"approved {name}" for name in done) or "nothing waits")


def _held(client: Client) -> list[dict[str, Any]]:
    """Everything that waits, with its source."""
    found = []
    for source in client.get("/v1/sources")["sources"]:
        if source["held"]:
            held = client.get(f"/v1/sources/{segment(source['name'])}/held")["held"]
            found += [{"source": source["name"], **one} for one in held]
    return found


def _difference(one: dict[str, Any]) -> list[str]:
    """A unified diff of what was approved and what is offered."""
    from difflib import unified_diff

    before, after = (_lines(one[which]) for which in ("approved", "offered"))
    if one["approved"] is None:
        return [f"{one['name']}@{one['digest']} is new:", *(f"+{line}" for line in after), ""]
    offered = f"{one['name']}@{one['digest']} (offered)"
    lines = unified_diff(before, after, f"{one['name']} (approved)", offered, lineterm="")
    return [*lines, ""]


def _lines(definition: dict[str, Any] | None) -> list[str]:
    return (
        [] if definition is None else json.dumps(definition, indent=2, sort_keys=True, ensure_ascii=True).splitlines()
    )


def _result(client: Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Waits for a tool's answer, saying meanwhile what goes on. Leaving (Ctrl-C) cancels the call."""
    for event in client.events(path, body=body):
        if event.name == "notice":
            print(f"  {event.data['message']}", file=sys.stderr, flush=True)
        elif event.name == "problem":
            raise Problem(int(event.data.get("status", 500)), event.data)
        elif event.name == "result":
            result: dict[str, Any] = event.data
            return result
    raise Unreachable("the server stopped before the tool answered")


def _schema(tool: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = tool.get("input_schema") or {}
    return schema


def _arguments(tool: dict[str, Any]) -> str:
    """Names of the inputs; those that may be left out in brackets."""
    required = _schema(tool).get("required") or ()
    return " ".join(n if n in required else f"[{n}]" for n in _schema(tool).get("properties") or ())


def _near(name: str, names: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, names, 1)
    return f"; did you mean {json.dumps(close[0])}?" if close else "; `agentmesh tools list` shows them"
