"""`mcp config`: what each client's own file needs, and adding it there without touching anything else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.fake import Fake

if TYPE_CHECKING:
    from tests.cli.conftest import Agentmesh

CLIENTS = ["vscode", "cursor", "claude-code", "codex"]
FILES = {
    "vscode": ".vscode/mcp.json",
    "cursor": ".cursor/mcp.json",
    "claude-code": ".mcp.json",
    "codex": ".codex/config.toml",
}
DOCS = Path(__file__).parents[2] / "docs" / "clients.md"


def read(client: str) -> Callable[[str], Any]:
    return tomllib.loads if client == "codex" else json.loads


def http(client: str, url: str, name: str = "m") -> dict[str, Any]:
    """What the client's documentation says of a server over HTTP."""
    return {
        "vscode": {"servers": {name: {"type": "http", "url": url}}},
        "cursor": {"mcpServers": {name: {"url": url}}},
        "claude-code": {"mcpServers": {name: {"type": "http", "url": url}}},
        "codex": {"mcp_servers": {name: {"url": url}}},
    }[client]


def stdio(client: str, command: str, arguments: list[str]) -> dict[str, Any]:
    """The same of one that it starts."""
    started = {"command": command, "args": arguments}
    return {
        "vscode": {"servers": {"m": {"type": "stdio", **started}}},
        "cursor": {"mcpServers": {"m": started}},
        "claude-code": {"mcpServers": {"m": {"type": "stdio", **started}}},
        "codex": {"mcp_servers": {"m": started}},
    }[client]


@pytest.mark.parametrize("client", CLIENTS)
def test_http_is_the_running_server(agentmesh: Agentmesh, mesh: Path, server: Fake, client: str) -> None:
    """stdout is the file's text and nothing else; stderr says which file."""
    done = agentmesh("mcp", "config", client, "--mesh", str(mesh))
    assert done.status == 0
    assert read(client)(done.out) == http(client, f"{server.url}/mcp")
    assert FILES[client] in done.err
    assert "no server runs" not in done.err


@pytest.mark.parametrize("client", CLIENTS)
def test_stdio_is_this_program(agentmesh: Agentmesh, mesh: Path, client: str) -> None:
    """By absolute paths, since a client starts it in a folder and an environment of its own."""
    done = agentmesh("mcp", "config", client, "--stdio", "--mesh", str(mesh))
    found = read(client)(done.out)
    (entry,) = next(iter(found.values())).values()
    assert found == stdio(client, entry["command"], entry["args"])
    assert entry["args"][-3:] == ["mcp", "--mesh", str(mesh)]
    assert Path(entry["command"]).is_absolute()
    version = subprocess.run(
        [entry["command"], *entry["args"][:-3], "--version"],
        capture_output=True,
        text=True,
        check=True,
        env={},
        cwd="/",
    )
    assert version.stdout.startswith("agentmesh ")


def test_without_a_server_the_address_is_where_it_will_be(agentmesh: Agentmesh, mesh: Path) -> None:
    """And stderr says so; `url:` of agentmesh.yaml wins, and --url over it."""
    done = agentmesh("mcp", "config", "cursor", "--mesh", str(mesh))
    assert json.loads(done.out) == http("cursor", "http://127.0.0.1:8080/mcp")
    assert "no server runs" in done.err
    (mesh / "agentmesh.yaml").write_text("name: m\nurl: https://mesh.example.com/\n")
    done = agentmesh("mcp", "config", "cursor", "--mesh", str(mesh))
    assert json.loads(done.out) == http("cursor", "https://mesh.example.com/mcp")
    done = agentmesh("mcp", "--mesh", str(mesh), "config", "cursor", "--url", "http://other:1/mcp", "--name", "Mine_2")
    assert json.loads(done.out) == http("cursor", "http://other:1/mcp", "Mine_2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["emacs"], "emacs"),
        (["vscode", "--stdio", "--url", "http://x"], "one of them"),
        (["vscode", "--url", "x"], "no address"),
        (["vscode", "--name", "a b"], "no name"),
    ],
)
def test_what_makes_no_sense_is_refused(agentmesh: Agentmesh, mesh: Path, arguments: list[str], said: str) -> None:
    """With exit status 2, and nothing on stdout."""
    done = agentmesh("mcp", "config", *arguments, "--mesh", str(mesh))
    assert (done.status, done.out) == (2, "")
    assert said in done.err


def test_a_mesh_without_a_name_is_told_so(agentmesh: Agentmesh, mesh: Path) -> None:
    """A file that is none, and one without a name."""
    (mesh / "agentmesh.yaml").write_text("models: {}\n")
    assert "has no name" in agentmesh("mcp", "config", "vscode", "--mesh", str(mesh)).err
    (mesh / "agentmesh.yaml").write_text("name: [\n")
    assert agentmesh("mcp", "config", "vscode", "--mesh", str(mesh)).status == 2


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is worked in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("client", CLIENTS)
def test_write_makes_the_file(agentmesh: Agentmesh, mesh: Path, work: Path, client: str) -> None:
    """Once; a second time it is there already and stays as it is."""
    command = ("mcp", "config", client, "--write", "--url", "http://127.0.0.1:9", "--mesh", str(mesh))
    assert agentmesh(*command).status == 0
    file = work / FILES[client]
    assert read(client)(file.read_text()) == http(client, "http://127.0.0.1:9/mcp")
    before = file.stat().st_mtime_ns
    assert "already" in agentmesh(*command).err
    assert file.stat().st_mtime_ns == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("client", CLIENTS)
def test_write_leaves_what_is_there(agentmesh: Agentmesh, mesh: Path, work: Path, client: str) -> None:
    """Other servers and settings stay, comments in TOML too; the file's mode, and a link to it."""
    kept = {"toml": '# mine\nmodel = "x"\n\n[mcp_servers.a]\ncommand = "b" # why\n'}
    key = next(iter(http(client, "")))
    text = kept["toml"] if client == "codex" else json.dumps({"inputs": [1], key: {"a": {"command": "b"}}}, indent=4)
    real = work / "elsewhere"
    real.write_text(text)
    real.chmod(0o600)
    file = work / FILES[client]
    file.parent.mkdir(exist_ok=True)
    file.symlink_to(real)
    assert agentmesh("mcp", "config", client, "--write", "--url", "http://h", "--mesh", str(mesh)).status == 0
    after = file.read_text()
    found = read(client)(after)
    assert found[key] == {"a": {"command": "b"}, "m": http(client, "http://h/mcp")[key]["m"]}
    assert file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    if client == "codex":
        assert after.startswith(text)
    else:
        assert found["inputs"] == [1]
        assert after.splitlines()[1].startswith("    ")


UNTOUCHABLE = {
    "another of the name": ('{"mcpServers": {"m": {"url": "http://mine"}}}', '[mcp_servers.m]\nurl = "http://mine"\n'),
    "comments or no JSON": ('{"mcpServers": {}, // mine\n}', "[mcp_servers\n"),
    "no object": ('["x"]', 'mcp_servers = "x"\n'),
    "a table in one line": ('{"mcpServers": 1}', 'mcp_servers = {a = {command = "b"}}\n'),
}


@pytest.mark.parametrize("what", UNTOUCHABLE)
@pytest.mark.parametrize("client", ["cursor", "codex"])
def test_write_never_clobbers(agentmesh: Agentmesh, mesh: Path, work: Path, client: str, what: str) -> None:
    """A file that cannot be added to is left as it is, and the error says what to do."""
    text = UNTOUCHABLE[what][client == "codex"]
    file = work / FILES[client]
    file.parent.mkdir()
    file.write_text(text)
    done = agentmesh("mcp", "config", client, "--write", "--url", "http://h", "--mesh", str(mesh))
    assert done.status == 2, done.err
    assert FILES[client] in done.err
    assert file.read_text() == text


def test_the_pipe_is_still_there(mesh: Path) -> None:
    """`agentmesh mcp` alone speaks MCP: here to a mesh whose files are wrong, so that it says so and ends."""
    (mesh / "agentmesh.yaml").write_text("name: [\n")
    done = subprocess.run(
        [sys.executable, "-m", "agentmesh", "mcp", "--mesh", str(mesh)],
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "agentmesh.yaml" in done.stderr


def test_the_docs_show_what_is_printed(agentmesh: Agentmesh, mesh: Path) -> None:
    """docs/clients.md has for each client its file, and both snippets as this program prints them."""
    page = DOCS.read_text()
    (mesh / "agentmesh.yaml").write_text("name: desk\n")
    for client in CLIENTS:
        section = page.partition(f"\n## {client}\n")[2].partition("\n## ")[0]
        assert FILES[client] in section, client
        shown = [block[1].strip() for block in re.finditer(r"```(?:json|text)\n(.*?)```", section, re.DOTALL)]
        over_http = agentmesh("mcp", "config", client, "--mesh", str(mesh)).out.strip()
        started = agentmesh("mcp", "config", client, "--stdio", "--mesh", str(mesh)).out.strip()
        (entry,) = next(iter(read(client)(started).values())).values()
        started = started.replace(entry["command"], "/home/me/.venv/bin/agentmesh").replace(str(mesh), "/home/me/desk")
        assert over_http in shown, client
        assert started in shown, client
