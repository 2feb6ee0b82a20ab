"""Several servers on one PostgreSQL: of one folder, each with a place of its own, and of another folder with the same store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WORKFLOW = """
name: nap
input: {type: object, properties: {n: {type: integer}}, required: [n]}
steps:
  - {id: read, sql: {database: orders, query: "SELECT :n AS n"}, with: {n: "${{ input.n }}"}}
output: {n: "${{ steps.read.output.rows[0].n }}"}
"""
Serve = Callable[[Path], subprocess.Popen[bytes]]


def mesh(folder: Path) -> Path:
    (folder / "workflows").mkdir(parents=True)
    (folder / "agentmesh.yaml").write_text("name: together\ndatabases: {orders: 'sqlite:///orders.db'}\n")
    (folder / "workflows" / "nap.yaml").write_text(WORKFLOW)
    (folder / "orders.db").touch()
    return folder


@pytest.fixture
def environ(postgres_url: str) -> dict[str, str]:
    """What a user sets: nothing but the store."""
    return {**os.environ, "AGENTMESH_STORE": postgres_url}


@pytest.fixture
def serve(environ: dict[str, str], tmp_path: Path) -> Iterator[Serve]:
    """Starts a server of a folder; all are ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: Path) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "agentmesh", "serve", "--mesh", str(folder), "--port", "0", "--no-models"],
                env=environ, stdout=log, stderr=log,
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def addresses(folder: Path, count: int) -> list[str]:
    """Where the folder's servers answer, once there are so many."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        files = [folder / ".agentmesh/server.json", *folder.glob(".agentmesh/servers/*/server.json")]
        found = [json.loads(file.read_text())["url"] for file in files if file.exists()]
        if len(found) == count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{count} servers of {folder} were not there in 60 s")


def ask(url: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def ended(url: str, run_id: str) -> Any:
    until = time.monotonic() + 30
    while (run := ask(url, f"/v1/runs/{run_id}"))["state"] not in {"completed", "failed"}:
        assert time.monotonic() < until, run
        time.sleep(0.05)
    return run


def test_servers_of_one_folder_and_of_another_share_the_work(serve: Serve, environ: dict[str, str], tmp_path: Path):
    """What one accepts the others tell of; commands use any of them, and `stop` ends those of its folder."""
    here, there = mesh(tmp_path / "here"), mesh(tmp_path / "there")
    first, second, third = serve(here), serve(here), serve(there)
    urls = [*addresses(here, 2), *addresses(there, 1)]
    assert len(set(urls)) == 3
    runs = [ask(urls[n % 3], "/v1/runs", {"workflow": "nap", "input": {"n": n}})["id"] for n in range(9)]
    assert [ended(urls[(n + 1) % 3], run)["output"] for n, run in enumerate(runs)] == [{"n": n} for n in range(9)]
    for command in (["runs", "list", "--json"], ["stop"]):
        told = subprocess.run(
            [sys.executable, "-m", "agentmesh", *command, "--mesh", str(here)],
            env=environ, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
    assert (first.wait(30), second.wait(30), third.poll()) == (0, 0, None)
    assert not list(here.glob(".agentmesh/**/server.json"))


def test_a_place_that_was_given_back_is_taken_again(serve: Serve, tmp_path: Path):
    """A server that is killed holds nothing: the next one has its place, and what it left is written over."""
    here = mesh(tmp_path / "here")
    first = serve(here)
    (left,) = addresses(here, 1)
    first.kill()
    first.wait()
    (here / ".agentmesh/server.json").unlink()
    serve(here)
    (url,) = addresses(here, 1)
    assert url != left
    assert not (here / ".agentmesh/servers").exists()
    assert ended(url, ask(url, "/v1/runs", {"workflow": "nap", "input": {"n": 1}})["id"])["state"] == "completed"
