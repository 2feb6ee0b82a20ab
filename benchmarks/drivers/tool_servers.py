"""Real MCP servers: installed once from npm and PyPI, pinned, and asked for their tools over stdio with dummy credentials.

Their definitions are other people's words: they are kept in the cache folder and never in the project.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import CannotInstall, cache, environment

DUMMY = "dummy"
NODE = "22.23.3"
ANSWER = 60.0
"""Seconds that a server may take to answer."""


@dataclass(frozen=True)
class Real:
    """A server: its package with the version, on npm when it has one of `NPM`'s forms, and how it is started."""

    package: str
    version: str
    program: str | None = None
    """Of a Python package; None: it is on npm."""
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


ATLASSIAN = tuple(
    (f"{product}_{key}", value)
    for product, url in (("JIRA", "https://jira.invalid"), ("CONFLUENCE", "https://wiki.invalid"))
    for key, value in (("URL", url), ("USERNAME", "a@example.com"), ("API_TOKEN", DUMMY))
)
GOOGLE = (("GOOGLE_OAUTH_CLIENT_ID", DUMMY), ("GOOGLE_OAUTH_CLIENT_SECRET", DUMMY))
MONGO = (("MDB_MCP_API_CLIENT_ID", DUMMY), ("MDB_MCP_API_CLIENT_SECRET", DUMMY))

SERVERS = {
    "github": Real("@modelcontextprotocol/server-github", "2025.4.8"),
    "slack": Real("@modelcontextprotocol/server-slack", "2025.4.25", None, (), (("SLACK_BOT_TOKEN", "xoxb-1"), ("SLACK_TEAM_ID", "T1"))),
    "filesystem": Real("@modelcontextprotocol/server-filesystem", "2026.8.31", None, (".",)),
    "memory": Real("@modelcontextprotocol/server-memory", "2026.8.31"),
    "maps": Real("@modelcontextprotocol/server-google-maps", "0.6.2", None, (), (("GOOGLE_MAPS_API_KEY", DUMMY),)),
    "notion": Real("@notionhq/notion-mcp-server", "2.5.2", None, (), (("NOTION_TOKEN", DUMMY),)),
    "playwright": Real("@playwright/mcp", "0.0.83"),
    "devtools": Real("chrome-devtools-mcp", "1.11.0"),
    "firecrawl": Real("firecrawl-mcp", "3.26.0", None, (), (("FIRECRAWL_API_KEY", DUMMY),)),
    "sentry": Real("@sentry/mcp-server", "0.39.0", None, ("--access-token=dummy",), (("OPENAI_API_KEY", DUMMY),)),
    "mongodb": Real("mongodb-mcp-server", "3.0.4", None, ("--telemetry", "disabled"), MONGO),
    "kubernetes": Real("mcp-server-kubernetes", "4.1.7"),
    "asana": Real("@roychri/mcp-server-asana", "1.8.0", None, (), (("ASANA_ACCESS_TOKEN", DUMMY),)),
    "circleci": Real("@circleci/mcp-server-circleci", "0.20.0", None, (), (("CIRCLECI_TOKEN", DUMMY),)),
    "hubspot": Real("@hubspot/mcp-server", "0.4.0", None, (), (("PRIVATE_APP_ACCESS_TOKEN", DUMMY),)),
    "trello": Real("mcp-server-trello", "1.0.4", None, (), (("TRELLO_API_KEY", DUMMY), ("TRELLO_TOKEN", DUMMY))),
    "atlassian": Real("mcp-atlassian", "0.23.1", "mcp-atlassian", (), (*ATLASSIAN, ("TOOLSETS", "all"))),
    "git": Real("mcp-server-git", "2026.10.19", "mcp-server-git"),
    "excel": Real("excel-mcp-server", "2.2.2", "excel-mcp-server", ("stdio",)),
}  # fmt: skip
"""By the name that a mesh would offer them under."""
FRESH = {
    "workspace": Real("workspace-mcp", "2.2.1", "workspace-mcp", (), GOOGLE),
    "word": Real("office-word-mcp-server", "1.1.11", "word_mcp_server"),
}
"""Servers that the ranking was never tuned on."""


def definitions(servers: dict[str, Real]) -> dict[str, list[dict[str, Any]]]:
    """The tools of each server, as it lists them; from the cache when they are there. CannotInstall, in plain words."""
    digest = hashlib.sha256(repr((NODE, sorted(servers.items()))).encode()).hexdigest()[:12]
    file = cache() / f"tool-definitions-{digest}.json"
    if not file.exists():
        folder = _npm([f"{one.package}@{one.version}" for one in servers.values() if one.program is None])
        listed = {}
        for name, one in servers.items():
            listed[name] = _tools(name, one, folder)
            print(f"{name}: {len(listed[name])} tools", file=sys.stderr)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(listed))
    kept: dict[str, list[dict[str, Any]]] = json.loads(file.read_text())
    return kept


def _npm(packages: list[str]) -> Path:
    """A folder with these packages, and a Node that all of them run on. No package's install script runs."""
    if not packages:
        return cache()
    folder = cache() / f"npm-{hashlib.sha256(repr((NODE, packages)).encode()).hexdigest()[:12]}"
    done = folder / "installed"
    if done.exists():
        return folder
    if shutil.which("npm") is None:
        raise CannotInstall("there is no npm here; this benchmark installs MCP servers with it")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"private": true}')
    print(f"installing {len(packages)} MCP servers into {folder} (once, a few minutes)", file=sys.stderr)
    command = ["npm", "install", "--no-audit", "--no-fund", "--silent"]
    try:
        subprocess.run([*command, f"node@{NODE}"], cwd=folder, check=True, timeout=600, capture_output=True, text=True)
        subprocess.run(
            [*command, "--ignore-scripts", *packages],
            cwd=folder,
            check=True,
            timeout=1200,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise CannotInstall(
            f"the MCP servers could not be installed; this needs the network once: {said[-1] if said else error}"
        ) from None
    done.touch()
    return folder


def _command(one: Real, folder: Path) -> list[str]:
    if one.program is not None:
        return [str(environment(one.package).parent / one.program), *one.arguments]
    package = folder / "node_modules" / one.package
    programs = json.loads((package / "package.json").read_text())["bin"]
    program = programs if isinstance(programs, str) else next(iter(programs.values()))
    return [str(folder / "node_modules" / ".bin" / "node"), str(package / program), *one.arguments]


def _tools(name: str, one: Real, folder: Path) -> list[dict[str, Any]]:
    """What a server lists, in a folder and a home of its own."""
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            _command(one, folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": home, **dict(one.environment)},
        )  # fmt: skip
        try:
            return _listed(process)
        except (OSError, queue.Empty, EOFError, KeyError) as error:
            raise CannotInstall(f"{name} does not list its tools: {type(error).__name__} {error}") from None
        finally:
            process.kill()
            process.communicate()


def _listed(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.Queue[bytes] = queue.Queue()

    def read(stream: Any) -> None:
        for line in stream:
            lines.put(line)
        lines.put(b"")

    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()

    def send(message: dict[str, Any]) -> None:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]

    def ask(number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
        send({"id": number, "method": method, "params": params})
        until = time.monotonic() + ANSWER
        while line := lines.get(timeout=max(0.1, until - time.monotonic())):
            try:
                message = json.loads(line)
            except ValueError:
                continue  # some print to stdout what belongs on stderr
            if isinstance(message, dict) and message.get("id") == number and "method" not in message:
                result: dict[str, Any] = message["result"]
                return result
        raise EOFError("it ended")

    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
    ask(1, "initialize", client)
    send({"method": "notifications/initialized"})
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    for number in range(2, 100):
        page = ask(number, "tools/list", {} if cursor is None else {"cursor": cursor})
        found += page["tools"]
        cursor = page.get("nextCursor")
        if cursor is None:
            break
    return found
