"""kill -9 at every boundary of the journal: before each row is handed to the store, and after it is committed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentmesh.core.run import Kind
from tests.faults.served import ROOT, Served, check_journal
from tests.faults.upstream import Upstream

MOST = 200
"""More boundaries than any of these workflows has."""
pytestmark = pytest.mark.timeout(900)


class Rounds:
    """The program of tests/faults/rounds.py on one mesh folder."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.rounds", str(folder)], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, start_new_session=True,
        )  # fmt: skip
        said = self._line()
        if said != "ready\n":
            self.close()
            raise RuntimeError(f"the program of the rounds did not start: {said!r}; its standard error says why")
        self._numbers = iter(range(1_000_000))

    def play(self, workflow: str, spec: str | None) -> dict[str, Any]:
        assert self._process.stdin is not None
        asked = {"key": f"round-{next(self._numbers)}", "workflow": workflow, "spec": spec}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._line())
        assert "error" not in told, f"{spec}: {told}"
        return told

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=10)  # also closes its pipes


@pytest.fixture
def rounds(folder: Path) -> Iterator[Rounds]:
    """Plays rounds on that folder's mesh."""
    opened = Rounds(folder)
    yield opened
    opened.close()


def _check(told: dict[str, Any], upstream: Upstream, spec: str | None, *, state: str) -> None:
    """What a user keeps: the run ended as it would have, in time; what was done once stays done once."""
    assert told["run"]["state"] == state, f"{spec}: {told['run']}"
    for run_id, entries in told["journals"].items():
        check_journal(entries)
        begun = Counter(entry["path"] for entry in entries if entry["kind"] == "step.started")
        completed = {entry["path"] for entry in entries if entry["kind"] == "step.completed"}
        done = upstream.keys(run_id)
        for path, count in done.items():
            assert count <= 1 + told["deaths"], f"{spec}: {path} was done {count} times"
            assert count <= begun[path], f"{spec}: {path} was done {count} times in {begun[path]} attempts"
            assert path in completed
        for entry in entries:
            if entry["kind"] == "step.completed" and entry["payload"].get("verb") == "http":
                assert done.get(entry["path"], 0) >= 1, f"{spec}: {entry['path']} is completed and was never done"


def _numbers(store: str) -> range:
    """The writes to die at. On PostgreSQL, where each restart waits for a lease, every second one: what lies between two writes is
    reached before the later one or after the earlier one, and both sides are tested.
    """
    return range(2, MOST, 2) if store.startswith("postgresql") else range(1, MOST)


@pytest.mark.parametrize("side", ["before", "after"])
def test_every_boundary_of_order(rounds: Rounds, upstream: Upstream, store: str, side: str) -> None:
    """A run over every verb survives the death of its process at each of its writes, in turn."""
    for number in _numbers(store):
        told = rounds.play("order", f"{side}:{number}")
        _check(told, upstream, f"{side}:{number}", state="completed")
        assert told["run"]["output"]["grade"] == 5
        if told["deaths"] == 0:
            break
    print(f"{side}: {number - 1} boundaries")
    assert 15 < number < MOST


@pytest.mark.parametrize(
    "kind", ["run.working", "run.completed", *(k.value for k in Kind if k.value.startswith("step."))]
)
def test_after_each_kind(rounds: Rounds, upstream: Upstream, kind: str) -> None:
    """Dying right after a row of each kind loses nothing, whatever number the row has."""
    _check(rounds.play("order", f"after:{kind}"), upstream, kind, state="completed")


@pytest.mark.parametrize("side", ["before", "after"])
def test_every_boundary_of_undo(rounds: Rounds, upstream: Upstream, store: str, side: str) -> None:
    """A run that fails undoes each completed step, in reverse, though its process dies at any write of it."""
    for number in _numbers(store):
        told = rounds.play("undo", f"{side}:{number}")
        _check(told, upstream, f"{side}:{number}", state="failed")
        run_id = told["run"]["id"]
        done = upstream.keys(run_id)
        assert {path for path in done if "compensate" in path} == {"book/compensate", "pay/compensate"}, done
        undone = [
            e["path"] for e in told["journals"][run_id] if e["kind"] == "step.completed" and "compensate" in e["path"]
        ]
        assert undone == ["pay/compensate", "book/compensate"]
        if told["deaths"] == 0:
            break
    assert 5 < number < MOST


@pytest.mark.parametrize("seed", range(10))
def test_random_boundaries_again_and_again(rounds: Rounds, upstream: Upstream, seed: int) -> None:
    """Processes that die one after another, five at most, still finish the run between them."""
    _check(rounds.play("order", f"random:{seed}"), upstream, f"random:{seed}", state="completed")


def test_the_environment_names_the_boundary(folder: Path, upstream: Upstream) -> None:
    """AGENTMESH_CRASH_AT kills a served mesh there, and a start without it goes on from there."""
    with Served(folder, AGENTMESH_LEASE="2") as server:
        server.start(crash_at="after:step.completed")
        try:
            server.run("steady", key="only")
        except httpx.HTTPError:
            pass  # it may die before it answers
        assert server.process.wait(30) == -signal.SIGKILL
        server.start()
        run = server.ended(server.run("steady", key="only")["id"])
        assert run["state"] == "completed"
        check_journal(server.journal(run["id"]))
        assert upstream.keys(run["id"]).keys() == {"one", "two", "three"}
