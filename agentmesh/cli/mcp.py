"""`mcp`: the pipe from stdin and stdout to the server's `/mcp`, and `mcp config`: what a client's own configuration needs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from agentmesh.cli.options import Mesh, WrongUsage, mesh_folder
from agentmesh.cli.output import note

DEFAULT = "http://127.0.0.1:8080"
"""Where `agentmesh serve` is found unless it is told otherwise."""


class Client(StrEnum):
    """Programs that `mcp config` knows."""

    VSCODE = "vscode"
    CURSOR = "cursor"
    CLAUDE_CODE = "claude-code"
    CODEX = "codex"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client keeps its servers."""

    file: str
    """In the folder that is worked in."""
    key: str
    """Under which the servers stand, by name."""
    typed: bool
    """Whether each says its `type`."""
    elsewhere: str
    """The same for every folder."""


PLACES: Mapping[Client, Place] = {
    Client.VSCODE: Place(".vscode/mcp.json", "servers", True, "the file that `MCP: Open User Configuration` opens"),
    Client.CURSOR: Place(".cursor/mcp.json", "mcpServers", False, "~/.cursor/mcp.json"),
    Client.CLAUDE_CODE: Place(".mcp.json", "mcpServers", True, "~/.claude.json"),
    Client.CODEX: Place(".codex/config.toml", "mcp_servers", False, "~/.codex/config.toml"),
}

app = typer.Typer(invoke_without_command=True, help="Speak MCP over stdin and stdout, or configure a client.")


@app.callback()
def pipe(context: typer.Context, mesh: Mesh = None) -> None:
    """Speak MCP over stdin and stdout, for clients that start a program."""
    if context.invoked_subcommand is not None:
        context.obj = mesh
        return
    import anyio

    from agentmesh.cli.background import connect
    from agentmesh.mcp.stdio import serve_stdio

    client = connect(mesh_folder(mesh), start=True)
    headers = {"authorization": f"Bearer {client.token}"} if client.token else {}
    anyio.run(serve_stdio, f"{client.url}/mcp", headers)


@app.command()
def config(
    context: typer.Context,
    client: Annotated[Client, typer.Argument(help="The client.")],
    stdio: Annotated[
        bool,
        typer.Option("--stdio", help="Have the client start `agentmesh mcp`, which starts the server when none runs."),
    ] = False,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Where clients reach the server (the one that runs now).")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What the client calls the server (the mesh's name).")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Add it to the client's file in this folder; nothing there is changed.")
    ] = False,
    mesh: Mesh = None,
) -> None:
    """Print what a client's configuration needs to reach this mesh; on stderr, where it belongs."""
    if stdio and url is not None:
        raise WrongUsage("--stdio starts a program and --url is an address; give one of them")
    folder = mesh_folder(mesh or context.obj)
    said = _said_in(folder)
    name = name or str(said["name"])
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise WrongUsage(f"{name!r} is no name for a server; use letters, digits, - and _")
    entry = _program(folder) if stdio else {"url": _address(folder, url, said.get("url"))}
    place = PLACES[client]
    if place.typed:
        entry = {"type": "stdio" if stdio else "http", **entry}
    text = snippet(client, name, entry)
    if write:
        added = add_to(Path(place.file), client, name, entry)
        note(f"{place.file} {'has' if added else 'had'} {name}{'' if added else ' already'}")
        return
    sys.stdout.write(text)
    note(f"this belongs into {place.file} of the folder you work in, or for all folders into {place.elsewhere}")
    if client is Client.CLAUDE_CODE:
        note(f"or run: {_claude(name, entry)}")
    if client is Client.CODEX:
        note(f"Codex reads {place.file} only in folders that it trusts; or run: {_codex(name, entry)}")


def snippet(client: Client, name: str, entry: Mapping[str, Any]) -> str:
    """The server as the client's file has it, ready to be a whole file."""
    key = PLACES[client].key
    if client is Client.CODEX:
        # JSON's strings and lists of strings are TOML's too, but for half characters.
        lines = [f"{field} = {json.dumps(value, ensure_ascii=False)}" for field, value in entry.items()]
        return "\n".join([f"[{key}.{name}]", *lines]) + "\n"
    return json.dumps({key: {name: entry}}, indent=2, ensure_ascii=False) + "\n"


def add_to(file: Path, client: Client, name: str, entry: Mapping[str, Any]) -> bool:
    """Adds the server to a client's file; False when it is there as it should be. WrongUsage rather than change what is there."""
    key = PLACES[client].key
    read = tomllib.loads if client is Client.CODEX else json.loads
    text = file.read_text() if file.exists() else ""
    try:
        known = read(text) if text.strip() else {}
        there = known.get(key, {})
        taken = there.get(name)
    except (ValueError, AttributeError) as e:
        raise WrongUsage(f"{file} cannot be read ({e}); add by hand what the command prints without --write") from e
    if taken == entry:
        return False
    if taken is not None:
        raise WrongUsage(f"{file} has another {name} already; remove it, or give --name")
    if client is Client.CODEX:
        text += ("\n" if text and not text.endswith("\n\n") else "") + snippet(client, name, entry)
    else:
        indent = re.search(r"\n([ \t]+)\"", text)
        text = (
            json.dumps({**known, key: {**there, name: entry}}, indent=indent[1] if indent else 2, ensure_ascii=False)
            + "\n"
        )
    try:
        read(text)
    except ValueError as e:  # a table that cannot be added to
        raise WrongUsage(f"{file} cannot be added to ({e}); add by hand what the command prints without --write") from e
    file.parent.mkdir(parents=True, exist_ok=True)
    target = file.resolve()  # people keep such files elsewhere and link to them
    draft = target.with_name(f"{target.name}.{os.getpid()}.new")
    draft.write_text(text)
    if target.exists():
        shutil.copymode(target, draft)
    draft.replace(target)
    return True


def _said_in(folder: Path) -> Mapping[str, Any]:
    """agentmesh.yaml as it stands; whether the mesh has faults is for others to say."""
    from agentmesh.adapters.yaml_document import read_yaml

    file = folder / "agentmesh.yaml"
    try:
        said = read_yaml(file.read_bytes(), file.name).value
    except OSError as e:
        raise WrongUsage(f"cannot read {file}: {(e.strerror or str(e)).lower()}") from e
    if not isinstance(said, Mapping) or not isinstance(said.get("name"), str):
        raise WrongUsage(f"{file} has no name; `agentmesh check` says what is wrong with it")
    return said


def _address(folder: Path, given: str | None, configured: Any) -> str:
    """The URL of the mesh's `/mcp`: the one that is given, that of `url:` in agentmesh.yaml, or where the server is now."""
    base = given or (configured if isinstance(configured, str) else None)
    if base is None:
        from agentmesh.cli.client import find

        client = find(folder)
        if client is None:
            note(
                "no server runs for this mesh: this is where `agentmesh serve` will be; give --url, or --stdio to have it started"
            )
        base = DEFAULT if client is None else client.url
    if not re.match(r"https?://[^/\s]+", base):
        raise WrongUsage(f"{base!r} is no address; give one such as {DEFAULT}")
    base = base.rstrip("/")
    return base if base.endswith("/mcp") else f"{base}/mcp"


def _program(folder: Path) -> dict[str, Any]:
    """How the pipe is started, from any folder."""
    script = Path(sys.executable).with_name("agentmesh")
    command = [str(script)] if script.exists() else [sys.executable, "-P", "-m", "agentmesh"]
    return {"command": command[0], "args": [*command[1:], "mcp", "--mesh", str(folder)]}


def _claude(name: str, entry: Mapping[str, Any]) -> str:
    if "url" in entry:
        return shlex.join(["claude", "mcp", "add", "--transport", "http", name, entry["url"]])
    return shlex.join(["claude", "mcp", "add", name, "--", entry["command"], *entry["args"]])


def _codex(name: str, entry: Mapping[str, Any]) -> str:
    if "url" in entry:
        return shlex.join(["codex", "mcp", "add", name, "--url", entry["url"]])
    return shlex.join(["codex", "mcp", "add", name, "--", entry["command"], *entry["args"]])
