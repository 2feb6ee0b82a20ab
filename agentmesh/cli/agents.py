"""`agents`: list the skills of this mesh's agent and send it a message."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from agentmesh.cli.options import Json, Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import first_line, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="List agents and send them messages.")


@app.command("list")
def list_agents(mesh: Mesh = None, as_json: Json = False) -> None:
    """List the skills that agents of this mesh offer."""
    from agentmesh.cli.background import connect

    answer = connect(mesh_folder(mesh)).get("/v1/agents")
    skills: list[dict[str, Any]] = answer["agents"]
    if as_json:
        print_json(skills)
        return
    rows = [
        (s["id"], s.get("workflow"), " ".join(s.get("tags") or ()), first_line(s.get("description") or "", 80))
        for s in skills
    ]
    print_table(("SKILL", "WORKFLOW", "TAGS", ""), rows, "no workflow of this mesh has `on.a2a`")


@app.command()
def send(
    skill: Annotated[str, typer.Argument(help="The skill, as `agents list` shows it.")],
    text: Annotated[str | None, typer.Argument(help="The message; @file reads one, @- stdin.")] = None,
    data: Annotated[str | None, typer.Option(help="A JSON object instead of text; @file reads one.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Send it and print the task's id.")] = False,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Send a message to an agent and print what it answers."""
    from agentmesh.cli.background import connect
    from agentmesh.cli.inputs import value
    from agentmesh.cli.runs import finish

    if (text is None) == (data is None):
        raise WrongUsage("a message is either TEXT or --data JSON")
    body: dict[str, Any] = {"skill": skill}
    if text is not None:
        body["text"] = _content("TEXT", text)
    else:
        body["data"] = value("--data", _content("--data", data or ""), {"type": "object"})
    folder = mesh_folder(mesh)
    client = connect(folder, start=True)
    task = client.post("/v1/agents/send", body)
    if detach:
        print_json({"id": task["id"], "state": task["state"]}) if as_json else print(task["id"])
        return
    finish(folder, client, task["id"], as_json=as_json)


def _content(name: str, given: str) -> str:
    from agentmesh.cli.inputs import parse

    content = parse([f"{name}={given}"], {})[name]
    return content if isinstance(content, str) else json.dumps(content)
