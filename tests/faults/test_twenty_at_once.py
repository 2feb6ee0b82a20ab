"""The same signal, approval or start, twenty times at the same moment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx

from tests.faults.served import Served, check_journal, until
from tests.faults.upstream import Upstream

TIMES = 20


def at_once(server: Served, path: str, body: Callable[[int], Any]) -> list[httpx.Response]:
    """The answers to twenty requests that leave together."""
    together = Barrier(TIMES)

    def post(number: int) -> httpx.Response:
        with httpx.Client(base_url=server.http.base_url, timeout=60, trust_env=False) as client:
            client.get("/healthz")  # the connection is open when the others' are
            together.wait(30)
            return client.post(path, json=body(number))

    with ThreadPoolExecutor(TIMES) as pool:
        return list(pool.map(post, range(TIMES)))


def _question(server: Served, run_id: str) -> dict[str, Any]:
    return until(
        lambda: next(iter(server.get(f"/v1/runs/{run_id}/questions")["questions"]), None), 30, "nothing is asked"
    )


def test_signal(server: Served, upstream: Upstream) -> None:
    """One key: it is recorded once and used once, and everybody is told that it is there."""
    server.start()
    run_id = server.run("signaled")["id"]
    answers = at_once(server, f"/v1/runs/{run_id}/signals", lambda _: {"name": "go", "value": {"n": 1}, "key": "only"})
    assert {answer.status_code for answer in answers} == {200}
    _question(server, run_id)
    kinds = Counter(entry["kind"] for entry in server.journal(run_id))
    assert kinds["run.signaled"] == 1
    assert upstream.keys(run_id) == {"act": 1}


def test_signals_of_different_keys(server: Served, upstream: Upstream) -> None:
    """Twenty signals are twenty: all are kept, the step takes one, and the others do no harm."""
    server.start()
    run_id = server.run("signaled")["id"]
    answers = at_once(server, f"/v1/runs/{run_id}/signals", lambda n: {"name": "go", "value": {"n": n}, "key": f"k{n}"})
    assert {answer.status_code for answer in answers} == {200}
    question = _question(server, run_id)
    server.post(f"/v1/runs/{run_id}/answers", {"question": question["id"], "yes": True})
    assert server.ended(run_id)["state"] == "completed"
    entries = server.journal(run_id)
    check_journal(entries)
    assert Counter(entry["kind"] for entry in entries)["run.signaled"] == TIMES
    assert upstream.keys(run_id) == {"act": 1, "again": 1}


def test_approval(server: Served, upstream: Upstream) -> None:
    """One answer counts; the others are told that it was answered; what follows is done once."""
    server.start()
    run_id = server.run("signaled")["id"]
    server.post(f"/v1/runs/{run_id}/signals", {"name": "go", "value": {}, "key": "go"})
    question = _question(server, run_id)
    body = {"question": question["id"], "yes": True, "digest": question["digest"]}
    answers = at_once(server, f"/v1/runs/{run_id}/answers", lambda _: body)
    said = Counter(answer.status_code for answer in answers)
    assert set(said) <= {200, 409}, [answer.text for answer in answers]
    assert said[200] >= 1
    assert server.ended(run_id)["state"] == "completed"
    entries = server.journal(run_id)
    check_journal(entries)
    assert Counter(entry["kind"] for entry in entries)["run.answered"] == 1
    assert upstream.keys(run_id) == {"act": 1, "again": 1}


def test_yes_and_no(server: Served, upstream: Upstream) -> None:
    """Ten say yes and ten say no: the first counts, whichever it was, and the run is what that one said."""
    server.start()
    run_id = server.run("signaled")["id"]
    server.post(f"/v1/runs/{run_id}/signals", {"name": "go", "value": {}, "key": "go"})
    question = _question(server, run_id)
    at_once(server, f"/v1/runs/{run_id}/answers", lambda n: {"question": question["id"], "yes": n % 2 == 0})
    run = server.ended(run_id)
    (answer,) = [entry for entry in server.journal(run_id) if entry["kind"] == "run.answered"]
    assert run["state"] == ("completed" if answer["payload"]["yes"] else "failed"), run
    assert upstream.keys(run_id) == ({"act": 1, "again": 1} if answer["payload"]["yes"] else {"act": 1})


def test_start(server: Served, upstream: Upstream) -> None:
    """One key starts one run, and everybody is given it."""
    server.start()
    answers = at_once(server, "/v1/runs", lambda _: {"workflow": "steady", "input": {}, "key": "only"})
    assert {answer.status_code for answer in answers} == {201}
    (run_id,) = {answer.json()["id"] for answer in answers}
    assert server.ended(run_id)["state"] == "completed"
    assert upstream.keys(run_id) == {"one": 1, "two": 1, "three": 1}
    assert json.loads(server.http.get("/v1/runs").text)["total"] == 1
