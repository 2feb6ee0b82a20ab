"""The command line against real servers, without models: started in the background, followed over crashes, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentmesh.cli import background
from agentmesh.cli.client import find

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Agentmesh

HELLO = """
name: hello
on: {mcp: {}, a2a: {}}
input: {type: object, properties: {name: {type: string}}, required: [name]}
steps:
  - id: greet
    set: {text: "Hello, ${{ input.name }}!"}
"""
WAIT = """
name: wait
input: {type: object, properties: {fifo: {type: string}}, required: [fifo]}
steps:
  - id: read
    python: subprocess:call
    with: {args: [cat, "${{ input.fifo }}"]}
output: {status: "${{ steps.read.output }}"}
"""


@pytest.fixture
def workflows(mesh: Path) -> Iterator[Path]:
    """A mesh of two workflows, one that waits for a pipe; whatever serves it is stopped in the end."""
    (mesh / "workflows").mkdir()
    (mesh / "workflows" / "hello.yaml").write_text(HELLO)
    (mesh / "workflows" / "wait.yaml").write_text(WAIT)
    os.mkfifo(mesh / "fifo")
    yield mesh
    background.stop(mesh)


@contextmanager
def waiting(mesh: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`agentmesh run wait` whose step has begun, and what it said until then."""
    command = [
        sys.executable,
        "-m",
        "agentmesh",
        "run",
        "wait",
        "-i",
        f"fifo={mesh / 'fifo'}",
        "--mesh",
        str(mesh),
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if "python begins" in line:
                break
        yield process, said
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        if process.stdout:
            process.stdout.close()


def write(fifo: Path) -> None:
    """Lets the step that reads the pipe end. Opening blocks until there is a reader."""
    fifo.write_text("go\n")


def test_a_server_is_started_once_and_stopped(agentmesh: Agentmesh, workflows: Path) -> None:
    """The first run starts a server and says so, the second finds it, stop ends it; the next has the same address."""
    first = agentmesh("run", "hello", "-i", "name=you", "--mesh", str(workflows), "--json")
    assert (first.status, json.loads(first.out)) == (0, {"text": "Hello, you!"}), first.err
    assert "starting one in the background (stop it with `agentmesh stop`)" in first.err
    client = find(workflows)
    assert client is not None
    second = agentmesh("tools", "call", "hello", "-i", "name=me", "--mesh", str(workflows), "--json")
    assert (second.status, json.loads(second.out)) == (0, {"text": "Hello, me!"})
    assert "background" not in second.err
    assert agentmesh("agents", "send", "hello", "me", "--mesh", str(workflows)).out == "text  Hello, me!\n"
    assert "stopped the server" in agentmesh("stop", "--mesh", str(workflows)).err
    assert find(workflows) is None
    assert "no server runs" in agentmesh("stop", "--mesh", str(workflows)).err
    again = agentmesh("run", "hello", "-i", "name=you", "--mesh", str(workflows), "-q")
    assert again.status == 0
    assert find(workflows) == client or find(workflows).url == client.url


def test_the_callers_mistakes_are_told_before_a_run_exists(agentmesh: Agentmesh, workflows: Path) -> None:
    """A missing input, an unknown workflow and an input that does not exist: a sentence each, and no run."""
    background.connect(workflows, start=True)
    for arguments, sentence in (
        (("wait",), "fifo"),
        (("wiat",), "there is no workflow 'wiat'"),
        (("hello", "-i", "nmae=x", "-i", "name=x", "-i", "n"), "--input takes NAME=VALUE"),
    ):
        done = agentmesh("run", *arguments, "--mesh", str(workflows))
        assert (done.status, done.out) == (2, "")
        assert sentence in done.err
        assert len(done.err.splitlines()) == 1
    assert json.loads(agentmesh("runs", "list", "--mesh", str(workflows), "--json").out)["total"] == 0


def test_interrupting_leaves_the_run_going(agentmesh: Agentmesh, workflows: Path) -> None:
    """Ctrl-C detaches: status 130, and the sentence names the run, which can be followed to its end."""
    with waiting(workflows) as (process, _):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130
    ident = re.search(r"run (\S+) goes on: `agentmesh runs watch", said)
    assert ident, said
    shown = json.loads(agentmesh("runs", "show", ident[1], "--mesh", str(workflows), "--json").out)
    assert shown["state"] == "working"
    write(workflows / "fifo")
    done = agentmesh("runs", "watch", ident[1], "--mesh", str(workflows), "--json")
    assert (done.status, json.loads(done.out)) == (0, {"status": 0})


def test_a_run_is_followed_over_the_death_of_its_server(workflows: Path) -> None:
    """kill -9 of the server in the middle: the command waits, and prints the output that the next server computed."""
    with waiting(workflows) as (process, _):
        pid = json.loads((workflows / ".agentmesh" / "server.json").read_text())["pid"]
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
        os.kill(pid, signal.SIGKILL)
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        background.connect(workflows, start=True)
        write(workflows / "fifo")
        out, said = process.communicate(timeout=90)
    assert (process.returncode, json.loads(out)) == (0, {"status": 0}), said
    assert "waiting for the server to come back" in said
    assert "attempt 2 (resume)" in said


def test_a_server_that_cannot_start_says_why(agentmesh: Agentmesh, workflows: Path) -> None:
    """A background server that refuses its files: their faults are the command's error, and status 2."""
    (workflows / "workflows" / "hello.yaml").write_text("name: hello\n")
    done = agentmesh("run", "hello", "--mesh", str(workflows))
    assert done.status == 2, done.err
    assert "workflows/hello.yaml" in done.err
    assert "Traceback" not in done.err
