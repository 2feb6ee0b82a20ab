"""Questions, answers, signals and schedules under /v1, over a real socket and a real engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.core.policy import PolicyFile
from agentmesh.core.run import Kind
from agentmesh.engine import Engine
from agentmesh.errors import StoreError
from agentmesh.http.auth import Guard
from tests.a2a.conftest import Late, Serving, build, serving_mesh
from tests.engine.meshes import LOCAL, Clock, journal, mesh, serving, workflow
from tests.http.serving import served

pytestmark = pytest.mark.anyio

FORM = {
    "type": "object",
    "properties": {"amount": {"type": "integer"}, "note": {"type": "string"}},
    "required": ["amount"],
    "additionalProperties": False,
}
ANY = {"type": "object"}


def waiting_mesh(**more: Any) -> Any:
    """`review` asks yes or no, `fill` for values, `both` two at once, `hear` waits for a signal, `tick` is a schedule."""
    ask = {"ask": "Send this answer?", "show": {"text": "${{ input.text }}"}}
    number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    return mesh(
        workflow("review", {"id": "ok", "approve": {**ask, "expires": "1h"}}, {"id": "done", "set": "${{ steps.ok.output.by }}"}),
        workflow("fill", {"id": "ok", "approve": {**ask, "form": FORM}}, {"id": "done", "set": "${{ steps.ok.output.values }}"}),
        workflow(
            "both",
            {"id": "p", "parallel": {"a": [{"id": "one", "approve": ask}], "b": [{"id": "two", "approve": ask}]}},
        ),
        workflow("hear", {"id": "w", "wait": {"signal": "go", "schema": number}}, {"id": "done", "set": "${{ steps.w.output }}"}),
        workflow("quick", {"id": "a", "set": 1}),
        workflow("tick", {"id": "a", "set": 1}, input=ANY, on={"cron": [{"schedule": "@hourly", "timezone": "Europe/Berlin"}]}),
        **more,
    )  # fmt: skip


@pytest.fixture
async def on() -> AsyncIterator[Serving]:
    async with serving_mesh(waiting_mesh()) as serving_:
        yield serving_


async def asking(on: Serving, name: str, count: int = 1) -> tuple[str, list[dict[str, Any]]]:
    """Starts a workflow and waits until it asks: the run's id and its questions."""
    run = (await on.http.post("/v1/runs", json={"workflow": name, "input": {"text": "hi"}})).json()["id"]
    with anyio.fail_after(5):
        async for event in on.engine.runs.watch(LOCAL, run):
            if event.entry is not None and event.entry.kind is Kind.RUN_INPUT_REQUIRED:
                break
    found = (await on.http.get(f"/v1/runs/{run}/questions")).json()["questions"]
    assert len(found) == count
    return run, found


async def test_a_question_is_shown_and_answered(on: Serving) -> None:
    """With what it shows and binds; the run goes on, and says who answered."""
    run, (question,) = await asking(on, "review")
    assert (question["id"], question["kind"], question["ask"]) == ("ok#1", "approval", "Send this answer?")
    assert (question["show"], question["workflow"], question["caller"]) == ({"text": "hi"}, "review", "local")
    everywhere = (await on.http.get("/v1/questions")).json()
    assert everywhere == {"questions": [question], "more": False}
    shown = (await on.http.get(f"/v1/runs/{run}")).json()
    assert shown["state"] == "input_required"
    assert shown["steps"][0]["waiting"]["ask"] == "Send this answer?"
    answer = await on.http.post(f"/v1/runs/{run}/answers", json={"yes": True, "digest": question["digest"]})
    assert answer.status_code == 200
    ended = await on.engine.runs.wait(LOCAL, run)
    assert ended.output == "local"
    assert (await on.http.get("/v1/questions")).json()["questions"] == []


async def test_a_no_fails_the_step(on: Serving) -> None:
    """With code `declined`."""
    run, _ = await asking(on, "review")
    await on.http.post(f"/v1/runs/{run}/answers", json={"yes": False})
    ended = await on.engine.runs.wait(LOCAL, run)
    assert ended.error is not None
    assert ended.error["code"] == "declined"


async def test_two_questions_of_one_run(on: Serving) -> None:
    """An answer has to say which one it means."""
    run, found = await asking(on, "both", 2)
    vague = await on.http.post(f"/v1/runs/{run}/answers", json={"yes": True})
    assert vague.status_code == 409
    assert all(question["id"] in vague.json()["detail"] for question in found)
    for question in found:
        answer = await on.http.post(f"/v1/runs/{run}/answers", json={"yes": True, "question": question["id"]})
        assert answer.status_code == 200
    assert (await on.engine.runs.wait(LOCAL, run)).state.value == "completed"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (None, 422, "body"),
        ({}, 422, "`yes`"),
        ([], 422, "body"),
        ({"yes": "perhaps"}, 422, "yes"),
        ({"yes": True}, 422, "amount"),
        ({"yes": True, "value": 3}, 422, "value"),
        ({"value": {"amount": "3"}}, 422, "amount"),
        ({"value": {"amount": 3, "more": 1}}, 422, "more"),
        ({"value": None}, 422, "amount"),
        ({"yes": True, "valeu": {"amount": 3}}, 422, "valeu"),
        ({"value": {"amount": 3}, "digest": "0" * 64}, 409, "something else"),
        ({"value": {"amount": 3}, "digest": "\x00"}, 409, "something else"),
        ({"value": {"amount": 3}, "question": "ok#2"}, 404, "ok#1"),
        ({"value": {"amount": 3}, "question": "nothing"}, 404, "ok#1"),
        ({"value": {"amount": 3}, "question": ""}, 422, "question"),
        ({"value": {"amount": 3}, "question": "a\x00"}, 422, "NUL"),
    ],
)
async def test_bad_answers_are_the_callers(on: Serving, body: Any, status: int, said: str) -> None:
    """And leave the question open."""
    run, found = await asking(on, "fill")
    answer = await on.http.post(f"/v1/runs/{run}/answers", json=body)
    assert answer.status_code == status
    assert said.lower() in answer.text.lower()
    assert (await on.http.get(f"/v1/runs/{run}/questions")).json()["questions"] == found


async def test_twenty_answers_at_once(on: Serving) -> None:
    """One wins; the others hear that somebody was quicker, and the step has the winner's value."""
    run, _ = await asking(on, "fill")
    answers: list[httpx.Response] = []

    async def say(n: int) -> None:
        answers.append(await on.http.post(f"/v1/runs/{run}/answers", json={"value": {"amount": n}, "question": "ok#1"}))

    async with anyio.create_task_group() as group:
        for n in range(20):
            group.start_soon(say, n)
    assert Counter(answer.status_code for answer in answers) == {200: 1, 409: 19}
    assert all(
        a.json()["code"] == "conflict" and "answer" in a.json()["detail"] for a in answers if a.status_code == 409
    )
    ended = await on.engine.runs.wait(LOCAL, run)
    (entry,) = await journal(on.engine, ended, Kind.RUN_ANSWERED)
    assert ended.output == entry.payload["value"]


async def test_a_signal_and_twenty_of_one_key(on: Serving) -> None:
    """Kept until a step waits for it; the same key is one signal, in the body or as Idempotency-Key."""
    run = (await on.http.post("/v1/runs", json={"workflow": "hear", "input": {"text": "hi"}})).json()["id"]
    statuses: list[int] = []

    async def send(n: int) -> None:
        body: dict[str, Any] = {"name": "go", "value": {"n": 7}}
        headers = {"Idempotency-Key": "k"} if n % 2 else {}
        statuses.append(
            (
                await on.http.post(
                    f"/v1/runs/{run}/signals", json=body | ({} if headers else {"key": "k"}), headers=headers
                )
            ).status_code
        )

    async with anyio.create_task_group() as group:
        for n in range(20):
            group.start_soon(send, n)
    ended = await on.engine.runs.wait(LOCAL, run)
    assert (
        ended.output["value"] == {"n": 7}
        if isinstance(ended.output, dict) and "value" in ended.output
        else ended.output == {"n": 7}
    )
    assert len(await journal(on.engine, ended, Kind.RUN_SIGNALED)) == 1
    assert set(statuses) <= {200, 409}
    assert 200 in statuses


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "name"),
        ({"name": ""}, 422, "name"),
        ({"name": "gone", "value": {"n": 1}}, 422, "go"),
        ({"name": "go"}, 422, "value"),
        ({"name": "go", "value": {"n": "1"}}, 422, "n"),
        ({"name": "go", "value": {"n": 1}, "key": ""}, 422, "key"),
        ({"name": "go", "value": {"n": 1}, "key": "a\x00"}, 422, "NUL"),
        ({"name": "go", "value": {"n": 1}, "kye": "a"}, 422, "kye"),
        ({"name": 1, "value": {"n": 1}}, 422, "name"),
    ],
)
async def test_bad_signals_are_the_callers(on: Serving, body: Any, status: int, said: str) -> None:
    """And nothing is recorded."""
    run = (await on.http.post("/v1/runs", json={"workflow": "hear", "input": {"text": "hi"}})).json()["id"]
    answer = await on.http.post(f"/v1/runs/{run}/signals", json=body)
    assert answer.status_code == status
    assert said.lower() in answer.text.lower()
    assert await journal(on.engine, await on.engine.runs.get(LOCAL, run), Kind.RUN_SIGNALED) == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "questions", None), ("POST", "answers", {"yes": True}), ("POST", "signals", {"name": "go"}),
        ("POST", "cancel", None),
    ],
)  # fmt: skip
async def test_runs_that_never_were_and_that_have_ended(on: Serving, method: str, path: str, body: Any) -> None:
    """404 and 409; looking is no mistake."""
    for unknown in ("nothing", "00000000-0000-7000-8000-000000000000", "%00", "a%2Fb"):
        assert (await on.http.request(method, f"/v1/runs/{unknown}/{path}", json=body)).status_code == 404
    run = (await on.http.post("/v1/runs", json={"workflow": "quick", "input": {"text": "hi"}})).json()["id"]
    await on.engine.runs.wait(LOCAL, run)
    ended = await on.http.request(method, f"/v1/runs/{run}/{path}", json=body)
    assert ended.status_code == {"questions": 200, "signals": 422}.get(path, 409)


async def test_cancelling_what_waits(on: Serving) -> None:
    """A run that is parked ends at once."""
    run, _ = await asking(on, "review")
    await on.http.post(f"/v1/runs/{run}/cancel")
    assert (await on.engine.runs.wait(LOCAL, run)).state.value == "canceled"
    late = await on.http.post(f"/v1/runs/{run}/answers", json={"yes": True})
    assert late.status_code == 409


async def test_who_may_not_answer() -> None:
    """403; the question stays open."""
    rules = {"rules": [{"allow": "*"}, {"deny": "runs.answer"}]}
    async with serving_mesh(waiting_mesh(policies=(PolicyFile.model_validate(rules),))) as on:
        run, found = await asking(on, "review")
        assert (await on.http.post(f"/v1/runs/{run}/answers", json={"yes": True})).status_code == 403
        assert (await on.http.post(f"/v1/runs/{run}/signals", json={"name": "go"})).status_code == 403
        assert (await on.http.get(f"/v1/runs/{run}/questions")).json()["questions"] == found


async def test_schedules_are_listed_paused_and_backfilled(on: Serving) -> None:
    """As the scheduler says; times as Unix seconds or as in RFC 3339."""
    await on.engine.scheduler.tick()
    (listed,) = (await on.http.get("/v1/schedules")).json()["schedules"]
    assert (listed["workflow"], listed["index"], listed["paused"]) == ("tick", 0, False)
    paused = await on.http.post("/v1/schedules/tick/0/pause")
    assert (paused.status_code, paused.json()["paused"]) == (200, True)
    assert (await on.http.get("/v1/schedules")).json()["schedules"][0]["paused"] is True
    assert (await on.http.post("/v1/schedules/tick/0/resume")).json()["paused"] is False
    now = on.engine.clock()
    done = await on.http.post("/v1/schedules/tick/0/backfill", json={"since": now - 3 * 3600})
    assert done.status_code == 200
    assert [run["new"] for run in done.json()["runs"]] == [True] * 3
    some = await on.http.post("/v1/schedules/tick/0/backfill", json={"since": "2023-11-14T00:00:00+01:00", "limit": 2})
    assert len(some.json()["runs"]) == 2
    assert some.json()["next"] == "2023-11-14T01:00:00Z"


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("tick/1/pause", None, 404, "counted from 0"),
        ("tock/0/pause", None, 404, "tock"),
        ("quick/0/resume", None, 404, "none"),
        ("tick/-1/pause", None, 422, "index"),
        ("tick/x/pause", None, 422, "index"),
        ("tick/0/backfill", {}, 422, "since"),
        ("tick/0/backfill", {"since": "yesterday"}, 422, "moment"),
        ("tick/0/backfill", {"since": "2023-11-14T00:00:00"}, 422, "zone"),
        (
            "tick/0/backfill",
            {"since": "2023-11-14T00:00:00Z", "until": "2093-01-01T00:00:00Z"},
            422,
            "now at the latest",
        ),
        ("tick/0/backfill", {"since": 1.0, "until": 1.0}, 422, "empty"),
        ("tick/0/backfill", {"since": 1e300}, 422, "moment"),
        ("tick/0/backfill", {"since": -1e300}, 422, "moment"),
        ("tick/0/backfill", {"since": 1.0, "limit": 0}, 422, "limit"),
        ("tick/0/backfill", {"since": 1.0, "limit": 5000}, 422, "limit"),
        ("tick/0/backfill", {"since": True}, 422, "since"),
        ("tick/0/backfill", {"since": 1.0, "upto": 2.0}, 422, "upto"),
    ],
)
async def test_bad_requests_about_schedules(on: Serving, path: str, body: Any, status: int, said: str) -> None:
    """Are the caller's; no run is started."""
    answer = await on.http.post(f"/v1/schedules/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert said in answer.text
    assert (await on.http.get("/v1/runs")).json()["total"] == 0


class Failing(MemoryStore):
    """A store that can be told to fail."""

    failing = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if (
            name in {"start_run", "claim", "get_run", "get_head", "list_runs", "post", "entries", "put", "scan"}
            and self.failing
        ):

            async def fail(*_: Any, **__: Any) -> None:
                raise StoreError("the disk is full")

            return fail
        return found


@asynccontextmanager
async def on_failing_store() -> AsyncIterator[tuple[Failing, Engine, httpx.AsyncClient]]:
    store = Failing(clock=Clock())
    async with serving(waiting_mesh(), store=store) as engine:
        edge = Late()
        async with served(edge) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
            edge.app = Guard(build(engine, url))
            yield store, engine, client


async def test_a_store_in_trouble() -> None:
    """503 with Retry-After on every route, not ready while alive, and all well again by itself."""
    async with on_failing_store() as (store, engine, client):
        text = {"input": {"text": "x"}}
        run = (await client.post("/v1/runs", json={"workflow": "hear", "input": {"text": "x"}})).json()["id"]
        store.failing = True
        requests: list[tuple[str, str, Any]] = [
            ("POST", "/v1/runs", {"workflow": "quick"} | text), ("GET", "/v1/runs", None), ("GET", f"/v1/runs/{run}", None),
            ("GET", f"/v1/runs/{run}/journal", None), ("GET", f"/v1/runs/{run}/events", None), ("GET", "/v1/questions", None),
            ("POST", f"/v1/runs/{run}/cancel", None), ("POST", f"/v1/runs/{run}/answers", {"yes": True}),
            ("POST", f"/v1/runs/{run}/signals", {"name": "go", "value": {"n": 1}}), ("POST", "/v1/schedules/tick/0/pause", None),
        ]  # fmt: skip
        for method, path, body in requests:
            answer = await client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"], answer.headers.get("retry-after")) == (
                503,
                "store",
                "2",
            ), path
        with anyio.fail_after(10):
            while engine.worker.trouble() is None:
                await anyio.lowlevel.checkpoint()
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, "disk is full" in ready.json()["detail"]) == (503, True)
        store.failing = False
        sent = await client.post(f"/v1/runs/{run}/signals", json={"name": "go", "value": {"n": 1}})
        assert sent.status_code == 200
        assert (await engine.runs.wait(LOCAL, run)).state.value == "completed"
        with anyio.fail_after(10):
            while engine.worker.trouble() is not None:
                await anyio.lowlevel.checkpoint()
        assert engine.worker.trouble() is None
