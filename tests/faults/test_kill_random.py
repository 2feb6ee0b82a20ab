"""kill -9 of a served mesh at random times: what was accepted ends, and was done once."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.served import ENDED, Served, check_journal, until
from tests.faults.upstream import Upstream

ROUNDS = 30
SEED = 20261122


@pytest.mark.timeout(900)
def test_thirty_rounds(folder: Path, upstream: Upstream) -> None:
    """Thirty times: runs are started, the server is killed within a second. All that it accepted ends within 60 s of a restart,
    each completed step was done once per attempt with one key, and no key was ever used for two things."""
    # A third of the default lease, for the sake of the time that this takes on PostgreSQL.
    with Served(folder, AGENTMESH_LEASE="10") as server:
        _play(server.start(), upstream)


def _play(server: Served, upstream: Upstream) -> None:
    dice = random.Random(SEED)
    accepted: dict[str, str] = {}
    for number in range(ROUNDS):
        for which in range(2):
            key = f"round-{number}-{which}"
            try:
                accepted[key] = server.run(dice.choice(("steady", "order")), {"n": number}, key=key)["id"]
            except httpx.HTTPError:
                break
        _talk(server, dice, until=time.monotonic() + dice.uniform(0, 0.8))
        server.kill()
        server.start()
        if number % 10 == 9:
            _finish(server, accepted)
    assert len(accepted) == 2 * ROUNDS
    for key, run_id in accepted.items():
        _check(server, upstream, run_id, key)


def _talk(server: Served, dice: random.Random, *, until: float) -> None:
    """Gives every run that waits what it waits for, until that moment."""
    while time.monotonic() < until:
        for run in server.get("/v1/runs?limit=200")["runs"]:
            if run["state"] not in ENDED and run["workflow"] == "order":
                say_yes(server, run["id"])
        time.sleep(0.02)


def say_yes(server: Served, run_id: str) -> None:
    """The signal (the same one each time) and the approval that `order` waits for; saying it again changes nothing."""
    server.post(f"/v1/runs/{run_id}/signals", {"name": "go", "value": {}, "key": "go"}, ok=(200, 409))
    for question in server.get(f"/v1/runs/{run_id}/questions")["questions"]:
        body = {"question": question["id"], "yes": True, "digest": question["digest"]}
        server.post(f"/v1/runs/{run_id}/answers", body, ok=(200, 409))


def _finish(server: Served, accepted: dict[str, str]) -> None:
    """Every run ends within 60 s of the start of the server."""
    end = time.monotonic() + 60

    def look() -> bool | None:
        left = []
        for run_id in accepted.values():
            run = server.get(f"/v1/runs/{run_id}")
            if run["state"] not in ENDED:
                left.append(run)
                if run["workflow"] == "order":
                    say_yes(server, run_id)
        return None if left else True

    until(look, end - time.monotonic(), lambda: f"runs did not end: {_left(server, accepted)}\n{server.said()}")


def _left(server: Served, accepted: dict[str, str]) -> list[Any]:
    runs = [server.get(f"/v1/runs/{run_id}") for run_id in accepted.values()]
    return [(run["id"], run["workflow"], run["state"], run["steps"][-1:]) for run in runs if run["state"] not in ENDED]


def _check(server: Served, upstream: Upstream, run_id: str, key: str) -> None:
    run = server.get(f"/v1/runs/{run_id}")
    assert run["state"] == "completed", run
    assert run["key"] == key
    entries = server.journal(run_id)
    check_journal(entries)
    begun: dict[str, int] = {}
    for entry in entries:
        if entry["kind"] == "step.started":
            begun[entry["path"]] = begun.get(entry["path"], 0) + 1
    done = upstream.keys(run_id)
    assert done, "nothing was done"
    for path, count in done.items():
        assert 1 <= count <= begun[path], f"{path} was done {count} times in {begun[path]} attempts"
