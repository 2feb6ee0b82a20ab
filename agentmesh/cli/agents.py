"""`agents`: the agents of this mesh and those elsewhere that it knows; messages to them, their tasks, and registering more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from agentmesh.cli.client import Client, Unreachable, segment
from agentmesh.cli.options import FAILED, INTERRUPTED, Json, Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import duration, first_line, note, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="List agents, send them messages, follow their tasks, register more.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The agent, as `agents list` shows it.")]


@app.command("list")
def list_agents(mesh: Mesh = None, as_json: Json = False) -> None:
    """List agents and their skills: those of this mesh, and those elsewhere with how they are."""
    from agentmesh.cli.background import connect

    agents: list[dict[str, Any]] = connect(mesh_folder(mesh)).get("/v1/agents")["agents"]
    if as_json:
        print_json(agents)
        return
    rows = []
    for agent in agents:
        how = (agent["state"], _latency(agent), agent["where"])
        if agent["where"] == "mesh" and not agent["skills"]:
            continue
        for skill in agent["skills"] or ({"id": "", "description": agent["detail"] or agent["description"]},):
            words = first_line(skill.get("description") or "", 60)
            rows.append((agent["name"], skill["id"], *how, " ".join(skill.get("tags") or ()), words))
    headings = ("AGENT", "SKILL", "STATE", "LATENCY", "WHERE", "TAGS", "")
    print_table(headings, rows, "no workflow of this mesh has `on.a2a`, and it knows no agent elsewhere")
    for agent in agents:
        if agent["state"] == "down":
            note(f"{agent['name']} is down: {agent['detail']}")


@app.command()
def show(name: Name, mesh: Mesh = None, as_json: Json = False) -> None:
    """Show one agent: its skills, how it is spoken to, and why it cannot be, if so."""
    from agentmesh.cli.background import connect

    agent = connect(mesh_folder(mesh)).get(f"/v1/agents/{segment(name)}")
    if as_json:
        print_json(agent)
        return
    latency = _latency(agent)
    print(f"{agent['name']}  {agent['where']}  {agent['state']}" + (f"  {latency}" if latency else ""))
    for line in filter(None, (agent["title"] if agent["title"] != name else "", first_line(agent["description"], 200))):
        print(line)
    if agent["state"] != "up" and agent["detail"]:
        print(f"\n{agent['detail']}")
    facts = agent.get("facts") or {}
    for words in filter(None, (facts.get("trouble"), facts.get("why_not"))):
        note(words)
    if agent["skills"]:
        print()
        skills = [
            (s["id"], " ".join(s["tags"]), s["tool"] or s["workflow"], first_line(s["description"], 80))
            for s in agent["skills"]
        ]
        print_table(("SKILL", "TAGS", "TOOL OR WORKFLOW", ""), skills, "")
    if agent["extensions"]:
        print()
        extensions = [
            (e["uri"], "required" if e["required"] else "", first_line(e["description"], 80))
            for e in agent["extensions"]
        ]
        print_table(("EXTENSION", "", ""), extensions, "")
    if facts.get("interfaces"):
        print()
        rows = [
            ("*" if i["used"] else "", i["binding"], i["version"], i["url"], i["tenant"], i["why_not"])
            for i in facts["interfaces"]
        ]
        print_table(("", "BINDING", "VERSION", "URL", "TENANT", ""), rows, "")
        print(f"\ncard {facts['card']}  signature {agent['signed'] or 'not looked at'}")


@app.command()
def send(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SKILL] [TEXT]", help="The message (@file reads one, @- stdin), after the skill if one is meant."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="A JSON object instead of text, or beside it; @file reads one.")] = None,
    agent: Annotated[str | None, typer.Option(help="Send it to this agent; else the mesh chooses among all of them.")] = None,
    skill: Annotated[str | None, typer.Option(help="The skill.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag of the skill; may be given several times.")] = None,
    file: Annotated[list[Path] | None, typer.Option(help="A file to send along; may be given several times.")] = None,
    context: Annotated[str | None, typer.Option(help="The conversation that it belongs to.")] = None,
    task: Annotated[str | None, typer.Option(help="The task that it belongs to: it answers what the task asks.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Send it and print the task's id.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say who took it, and why.")] = False,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Send a message to an agent, or to the mesh, and print what is answered."""
    from agentmesh.cli.background import connect
    from agentmesh.cli.inputs import value

    skill, text = _meant(words or [], skill, alone=data is not None or bool(file))
    if text is None and data is None and not file:
        raise WrongUsage("a message is TEXT, --data JSON or --file FILE")
    body: dict[str, Any] = {"skill": skill, "agent": agent, "context_id": context, "task_id": task}
    body = {name: given for name, given in body.items() if given is not None}
    if tag:
        body["tags"] = tag
    if text is not None:
        body["text"] = _content("TEXT", text)
    if data is not None:
        body["data"] = value("--data", _content("--data", data), {"type": "object"})
    if file:
        body["files"] = [_file(one) for one in file]
    folder = mesh_folder(mesh)
    client = connect(folder, start=True)
    sent = client.post("/v1/agents/send", body)
    if verbose and not as_json and sent["state"] != "rejected" and (route := sent.get("route")):
        note(_routed(route))
    if detach:
        shown = {name: sent[name] for name in ("id", "state", "route") if sent.get(name) is not None}
        print_json(shown) if as_json else print(sent["id"])
        return
    _finish(folder, client, sent["id"], as_json=as_json, verbose=verbose)


@app.command()
def route(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The message (@file reads one, @- stdin).")],
    agent: Annotated[str | None, typer.Option(help="As if it was sent to this agent.")] = None,
    skill: Annotated[str | None, typer.Option(help="The skill.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag of the skill; may be given several times.")] = None,
    accept: Annotated[
        list[str] | None, typer.Option(help="A media type of the answer; may be given several times.")
    ] = None,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Say who would take a message, and why, and send nothing."""
    from agentmesh.cli.background import connect

    body: dict[str, Any] = {
        "text": _content("TEXT", text),
        "agent": agent,
        "skill": skill,
        "tags": tag,
        "accepted": accept,
    }
    found = connect(mesh_folder(mesh)).post("/v1/agents/route", {name: given for name, given in body.items() if given})
    if as_json:
        print_json(found)
    elif found["fits"]:
        rows = [(_whose(one), one["skill"] or "") for one in (found, *found["others"])]
        print_table(("AGENT", "SKILL"), rows, "")
        note(found["reason"])
    else:
        note(found["reason"])
    if not found["fits"]:
        raise typer.Exit(FAILED)


@app.command()
def watch(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task, as `send --detach` prints it.")],
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:
    """Follow a task: what its agent says and makes, as it comes. With --json one event a line."""
    from agentmesh.cli.background import connect
    from agentmesh.cli.live import TERMINAL, Steps

    client = connect(mesh_folder(mesh))
    steps = Steps(run_id=task)
    path = f"/v1/runs/{segment(task)}"
    try:
        for event in client.events(f"{path}/events"):
            said = steps.take(event)
            if as_json:
                if event.name == "entry":
                    print(json.dumps(event.data, ensure_ascii=False), flush=True)
                continue
            lines = _lines(event.data) if event.name == "entry" else []
            for line in lines or ([said] if said else []):
                print(line, flush=True)
    except KeyboardInterrupt:
        note(f"task {task} goes on: `agentmesh agents watch {task}` follows it")
        raise typer.Exit(INTERRUPTED) from None
    run = client.get(path)
    if run["state"] not in TERMINAL:
        raise Unreachable(f"the stream of events ended before the task; `agentmesh agents watch {task}` goes on")
    if not as_json:
        why = (run.get("error") or {}).get("message", "")
        print(f"{run['state']}{': ' if why else ''}{why}")
    if run["state"] != "completed":
        raise typer.Exit(FAILED)


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the agent is called in this mesh.")],
    card: Annotated[str, typer.Argument(metavar="URL", help="Where its agent card is.")],
    token: Annotated[str | None, typer.Option(metavar="@FILE", help="A file with a bearer token for it; @- is stdin.")] = None,
    jwks: Annotated[str | None, typer.Option(metavar="URL", help="Where the keys are that its card must be signed with.")] = None,
    price: Annotated[float | None, typer.Option(help="What a message to it costs, in a unit of your own.", min=0)] = None,
    mesh: Mesh = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Register an agent elsewhere. It is kept in the mesh's store, and every server of the mesh knows it within seconds."""
    from agentmesh.cli.background import connect

    body: dict[str, Any] = {"name": name, "card": card}
    if token is not None:
        if not token.startswith("@") or token.startswith("@@"):
            raise WrongUsage(
                "a token on the command line is seen by everybody on this machine; give @FILE, or @- for stdin"
            )
        body["token"] = _content("--token", token).strip()
    body |= {key: given for key, given in (("jwks", jwks), ("price", price)) if given is not None}
    done = connect(mesh_folder(mesh)).post("/v1/agents", body)
    print_json(done) if as_json else print(f"registered {name}; `agentmesh agents show {name}` says how it is")


@app.command()
def remove(name: Name, mesh: Mesh = None, as_json: Json = False) -> None:
    """Forget a registered agent."""
    from agentmesh.cli.background import connect

    connect(mesh_folder(mesh)).delete(f"/v1/agents/{segment(name)}")
    print_json({"removed": name}) if as_json else print(f"removed {name}")


def _meant(words: list[str], skill: str | None, *, alone: bool) -> tuple[str | None, str | None]:
    """Skill and text. One word alone is the text, or the skill when the message is given otherwise."""
    if len(words) > 2:
        raise WrongUsage("a message is one TEXT, after the skill if one is meant; put it in quotes")
    if len(words) == 2:
        if skill is not None:
            raise WrongUsage(f"the skill is given twice, as {words[0]!r} and by --skill")
        return words[0], words[1]
    if words and alone and skill is None:
        return words[0], None
    return skill, words[0] if words else None


def _finish(folder: Path, client: Client, task: str, *, as_json: bool, verbose: bool) -> None:
    from agentmesh.cli.runs import finish

    if not (as_json and verbose):
        finish(folder, client, task, as_json=as_json)
        return
    from agentmesh.cli.live import follow

    ended = follow(folder, client, task, quiet=True)
    print_json({name: ended.get(name) for name in ("id", "state", "route", "output", "error")})
    if ended["state"] != "completed":
        raise typer.Exit(FAILED)


def _lines(entry: Mapping[str, Any]) -> list[str]:
    """What an entry of the journal tells of a task, for people; nothing when it is about steps."""
    entry = entry.get("entry") or entry
    payload: Mapping[str, Any] = entry.get("payload") or {}
    match entry.get("kind"):
        case "run.routed":
            return [_routed(payload)]
        case "step.said":
            message = payload.get("message")
            return [f"{payload.get('state')}: {line}" for line in _texts(message)] if message else []
        case "step.artifact":
            artifact = payload.get("artifact") or {}
            name = artifact.get("name") or artifact.get("artifactId") or "artifact"
            return [f"{name}{' goes on' if payload.get('append') else ''}: {line}" for line in _texts(artifact)]
    return []


def _texts(message: Mapping[str, Any]) -> list[str]:
    """The parts of a message or an artifact, a line each."""
    found = []
    for part in message.get("parts") or ():
        if "text" in part:
            found += str(part["text"]).splitlines() or [""]
        elif "data" in part:
            found.append(json.dumps(part["data"], ensure_ascii=False))
        else:
            found.append(f"file {part.get('filename') or part.get('url') or part.get('mediaType') or ''}".rstrip())
    return found


def _routed(route: Mapping[str, Any]) -> str:
    whom = ".".join(filter(None, (route.get("agent") or "this mesh", route.get("skill"))))
    return f"to {whom}: {route.get('reason')}"


def _whose(candidate: Mapping[str, Any]) -> str:
    return candidate["agent"] or "this mesh"


def _latency(agent: Mapping[str, Any]) -> str:
    return duration(agent["latency"]) if agent.get("latency") else ""


def _file(path: Path) -> dict[str, Any]:
    import mimetypes
    from base64 import b64encode

    from agentmesh.cli.inputs import MAX_BYTES

    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as e:
        raise WrongUsage(f"--file {path}: {(e.strerror or str(e)).lower()}") from e
    if len(content) > MAX_BYTES:
        raise WrongUsage(f"--file {path} is larger than the server takes ({MAX_BYTES:,} bytes)")
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return {"name": path.name, "media_type": kind, "data": b64encode(content).decode()}


def _content(name: str, given: str) -> str:
    from agentmesh.cli.inputs import parse

    content = parse([f"{name}={given}"], {})[name]
    return content if isinstance(content, str) else json.dumps(content)
