"""The MCP Inspector's command line, in both eras and over stdio, against a served mesh without models (`make e2e`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.clients]

MODULES = Path(__file__).parent / "node_modules"
ERAS = ["legacy", "modern"]
FILES = {
    "agentmesh.yaml": "name: inspected\n",
    "servers/desk.yaml": """
name: desk
tools:
  cut:
    description: Cuts a log to the lines that matter.
    input: {type: object, properties: {log: {type: string}}, required: [log]}
    python: agentmesh.builtin.triage:cut
resources:
  rules: {uri: "desk://rules", description: What the desk does not do., text: No refunds on Sundays.}
  order: {uri: "desk://orders/{id}", description: One order., text: "Order ${{ input.id }}"}
prompts:
  greet:
    description: Greets a customer.
    arguments: {name: {required: true, description: Who it is.}}
    messages: [{text: "Greet ${{ input.name }}."}]
""",
    "servers/many.yaml": """
name: many
offer: search
tools:
  slice:
    description: Slices a log, as desk.cut does.
    input: {type: object, properties: {log: {type: string}}, required: [log]}
    python: agentmesh.builtin.triage:cut
""",
    "workflows/hello.yaml": """
name: hello
description: Greets somebody by name.
on: {mcp: {}}
input: {type: object, properties: {name: {type: string}}, required: [name]}
steps: [{id: g, set: {text: "Hello, ${{ input.name }}!"}}]
output: {text: "${{ steps.g.output.text }}"}
""",
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a mesh that is served."""
    folder = tmp_path_factory.mktemp("inspected")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    process = subprocess.Popen(
        [sys.executable, "-m", "agentmesh", "serve", "--no-models", "--port", "0"], cwd=folder, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert process.stderr is not None
    try:
        said = [process.stderr.readline()]
        while said[-1] and "Ctrl-C" not in said[-1]:
            said.append(process.stderr.readline())
        assert (folder / ".agentmesh/server.json").exists(), "".join(said)
        yield folder
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def inspect(target: list[str], home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs it on the Node that is installed beside it."""
    return subprocess.run(
        [str(MODULES / ".bin/inspector"), "--cli", *target, *words],
        env={"PATH": f"{MODULES / '.bin'}:{os.environ['PATH']}", "HOME": str(home)},
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def url(mesh: Path) -> str:
    return str(json.loads((mesh / ".agentmesh/server.json").read_text())["url"]) + "/mcp"


@pytest.fixture(params=ERAS)
def ask(request: pytest.FixtureRequest, mesh: Path, tmp_path: Path) -> Any:
    """A method and its options, over HTTP in one era; the result."""

    def call(method: str, *words: str) -> Any:
        target = [url(mesh), "--transport", "http", "--protocol-era", request.param]
        done = inspect(target, tmp_path, "--method", method, *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def test_it_lists(ask: Any) -> None:
    """Tools, resources, templates and prompts; no schema that other clients would stumble over."""
    names = [tool["name"] for tool in ask("tools/list", "--strict")["tools"]]
    assert names == ["call_tool", "desk.cut", "hello", "search_tools"]
    assert "desk://rules" in [one["uri"] for one in ask("resources/list")["resources"]]
    assert "desk://orders/{id}" in [one["uriTemplate"] for one in ask("resources/templates/list")["resourceTemplates"]]
    prompts = ask("prompts/list")["prompts"]
    assert [(one["name"], one["arguments"][0]["name"]) for one in prompts] == [("desk.greet", "name")]


def test_it_calls_reads_and_gets(ask: Any) -> None:
    """A workflow, a tool that was found by a search, a resource of a template, a prompt with its argument."""
    called = ask("tools/call", "--tool-name", "hello", "--tool-arg", "name=Ada")
    assert called["structuredContent"] == {"text": "Hello, Ada!"}
    found = ask("tools/call", "--tool-name", "search_tools", "--tool-arg", "query=slice a log")
    assert found["structuredContent"]["matches"][0]["name"] == "many.slice"
    inner = json.dumps({"name": "many.slice", "arguments": {"log": "Error: x"}})
    assert ask("tools/call", "--tool-name", "call_tool", "--tool-args-json", inner)["isError"] is False
    assert ask("resources/read", "--uri", "desk://orders/7")["contents"][0]["text"] == "Order 7"
    got = ask("prompts/get", "--prompt-name", "desk.greet", "--prompt-args", "name=Ada")
    assert got["messages"] == [{"role": "user", "content": {"type": "text", "text": "Greet Ada."}}]


def test_it_works_over_stdio(mesh: Path, tmp_path: Path) -> None:
    """With the program and arguments that `agentmesh mcp config --stdio` prints."""
    printed = subprocess.run(
        [sys.executable, "-m", "agentmesh", "mcp", "config", "cursor", "--stdio", "--mesh", str(mesh)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    entry = json.loads(printed.stdout)["mcpServers"]["inspected"]
    config = tmp_path / "mcp.json"
    config.write_text(printed.stdout)
    assert entry["args"][-2:] == ["--mesh", str(mesh)]
    done = inspect(["--config", str(config), "--server", "inspected"], tmp_path, "--method", "tools/list")
    assert done.returncode == 0, done.stderr
    assert "hello" in [tool["name"] for tool in json.loads(done.stdout)["tools"]]


def test_it_says_what_is_wrong(mesh: Path, tmp_path: Path) -> None:
    """An unknown resource and arguments that do not fit are errors there too."""
    target = [url(mesh), "--transport", "http"]
    unknown = inspect(target, tmp_path, "--method", "resources/read", "--uri", "desk://nothing")
    assert unknown.returncode != 0
    wrong = inspect(target, tmp_path, "--method", "tools/call", "--tool-name", "hello", "--tool-args-json", "{}")
    assert json.loads(wrong.stdout)["isError"] is True
    assert "name" in json.loads(wrong.stdout)["content"][0]["text"]
