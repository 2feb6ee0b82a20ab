"""The API under /v1, over a real socket and a real engine."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from agentmesh.core.policy import PolicyFile
from tests.a2a.conftest import Serving, serving_mesh, skills_mesh

pytestmark = pytest.mark.anyio


@pytest.fixture
async def on() -> AsyncIterator[Serving]:
    async with serving_mesh() as serving:
        yield serving


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, Any, str | None]]:
    """Each event's name, data and id."""
    name, ident = "message", None
    async for line in answer.aiter_lines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "id":
            ident = value
        elif key == "data":
            yield name, json.loads(value), ident
            name, ident = "message", None


async def test_a_run_is_started_shown_and_listed(on: Serving) -> None:
    """201 with its address; the run has its steps, the list has not."""
    started = await on.http.post("/v1/runs", json={"workflow": "shout", "input": {"text": "hello"}})
    assert started.status_code == 201
    run = started.json()
    assert started.headers["location"] == f"/v1/runs/{run['id']}"
    async with on.http.stream("GET", f"/v1/runs/{run['id']}/events") as answer:
        last = [event async for event in events(answer)][-1]
    shown = (await on.http.get(f"/v1/runs/{run['id']}")).json()
    assert (last[0], last[1]) == ("run", shown)
    assert (shown["state"], shown["output"], shown["source"]) == ("completed", {"said": "HELLO", "length": 5}, "api")
    assert [(step["path"], step["verb"], step["state"]) for step in shown["steps"]] == [("work", "python", "completed")]
    listed = (await on.http.get("/v1/runs", params={"workflow": "shout", "state": "completed"})).json()
    assert (listed["total"], listed["next"], [r["id"] for r in listed["runs"]]) == (1, None, [run["id"]])
    assert listed["runs"][0]["steps"] == []
    assert (await on.http.get("/v1/runs", params={"state": "failed"})).json()["runs"] == []


async def test_the_same_key_starts_one_run(on: Serving) -> None:
    """In the body or as Idempotency-Key; with another input it is a conflict."""
    body = {"workflow": "shout", "input": {"text": "hello"}}
    first = await on.http.post("/v1/runs", json={**body, "key": "k1"})
    again = await on.http.post("/v1/runs", json=body, headers={"Idempotency-Key": "k1"})
    other = await on.http.post("/v1/runs", json={"workflow": "shout", "input": {"text": "bye"}, "key": "k1"})
    assert first.json()["id"] == again.json()["id"]
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


async def test_a_list_leaves_large_values_out(on: Serving) -> None:
    """And names them; the run itself has them."""
    text = "x" * 100_000
    run = (await on.http.post("/v1/runs", json={"workflow": "shout", "input": {"text": text}})).json()
    listed = await on.http.get("/v1/runs")
    assert len(listed.content) < 10_000
    assert "input" in listed.json()["runs"][0]["omitted"]
    assert (await on.http.get(f"/v1/runs/{run['id']}")).json()["input"] == {"text": text}


async def test_runs_come_in_pages(on: Serving) -> None:
    """`next` is the cursor of the page after."""
    for text in "abc":
        await on.http.post("/v1/runs", json={"workflow": "shout", "input": {"text": text}})
    first = (await on.http.get("/v1/runs", params={"limit": 2})).json()
    second = (await on.http.get("/v1/runs", params={"limit": 2, "cursor": first["next"]})).json()
    assert sorted(run["input"]["text"] for run in first["runs"] + second["runs"]) == ["a", "b", "c"]
    assert (first["total"], second["next"]) == (3, None)


async def test_a_run_is_followed_from_where_the_connection_broke(on: Serving) -> None:
    """Last-Event-ID: no entry is missed or told twice; after the end there is nothing more."""
    run = (await on.http.post("/v1/runs", json={"workflow": "gate", "input": {"text": "hi"}})).json()
    path = f"/v1/runs/{run['id']}/events"
    with anyio.fail_after(5):
        await on.gate.reached.wait()
    before = []
    async with on.http.stream("GET", path) as answer:
        async for event in events(answer):
            before.append(event)
            if event[1].get("message") == "work started":
                break
    on.gate.go.set()
    last = str(before[-1][2])
    async with on.http.stream("GET", path, headers={"Last-Event-ID": last}) as answer:
        after = [event async for event in events(answer)]
    assert (before[0][0], after[0][0], after[-1][0]) == ("run", "run", "run")
    entries = [event[1] for event in before + after if event[0] == "entry"]
    journal = (await on.http.get(f"/v1/runs/{run['id']}/journal")).json()["entries"]
    assert [entry["seq"] for entry in entries] == list(range(1, len(journal) + 1))
    assert [entry["kind"] for entry in entries] == [entry["kind"] for entry in journal]
    done = await on.http.get(path, headers={"Last-Event-ID": str(journal[-1]["seq"])})
    assert (done.status_code, done.content) == (204, b"")
    rest = (await on.http.get(f"/v1/runs/{run['id']}/journal", params={"after": 2})).json()["entries"]
    assert rest == journal[2:]


async def test_cancel_ends_a_run_once(on: Serving) -> None:
    """The step in flight is left; a second cancel is a conflict."""
    run = (await on.http.post("/v1/runs", json={"workflow": "gate", "input": {"text": "hi"}})).json()
    with anyio.fail_after(5):
        await on.gate.reached.wait()
        assert (await on.http.post(f"/v1/runs/{run['id']}/cancel")).status_code == 200
        await on.gate.left.wait()
        async with on.http.stream("GET", f"/v1/runs/{run['id']}/events") as answer:
            last = [event async for event in events(answer)][-1]
    assert last[1]["state"] == "canceled"
    again = await on.http.post(f"/v1/runs/{run['id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


async def test_a_tool_is_called(on: Serving) -> None:
    """A tool that fails is a result, a wrong argument is not."""
    tools = (await on.http.get("/v1/tools")).json()["tools"]
    assert [tool["name"] for tool in tools] == ["broken", "gate", "order"]
    kept = await on.http.post("/v1/tools/order/call", json={"arguments": {"item": "tea", "count": 2}})
    assert kept.json()["structured"] == {"item": "tea", "count": 2}
    failed = (await on.http.post("/v1/tools/broken/call", json={"arguments": {"text": "hi"}})).json()
    assert failed["is_error"]
    assert "the printer is on fire" in failed["text"]
    wrong = await on.http.post("/v1/tools/order/call", json={"arguments": {"item": "tea"}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_input")
    none = await on.http.post("/v1/tools/ordre/call", json={"arguments": {}})
    assert (none.status_code, none.json()["code"]) == (404, "not_found")


async def test_a_tool_call_tells_what_goes_on(on: Serving) -> None:
    """With Accept: text/event-stream there are notices, then the result, or the problem."""
    on.gate.go.set()
    accept = {"Accept": "text/event-stream"}
    body = {"arguments": {"text": "hi"}}
    async with on.http.stream("POST", "/v1/tools/gate/call", json=body, headers=accept) as answer:
        told = [event async for event in events(answer)]
    assert "work completed" in [data["message"] for name, data, _ in told if name == "notice"]
    assert (told[-1][0], told[-1][1]["structured"]) == ("result", {"said": "hi"})
    async with on.http.stream("POST", "/v1/tools/gate/call", json={"arguments": {}}, headers=accept) as answer:
        [(name, problem, _)] = [event async for event in events(answer)]
    assert (name, problem["code"]) == ("problem", "invalid_input")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_a_client_that_leaves_cancels_its_tool_call(on: Serving, accept: str) -> None:
    """The run behind it ends, too."""
    async with anyio.create_task_group() as group:

        async def call() -> None:
            await on.http.post("/v1/tools/gate/call", json={"arguments": {"text": "hi"}}, headers={"Accept": accept})

        group.start_soon(call)
        with anyio.fail_after(5):
            await on.gate.reached.wait()
        group.cancel_scope.cancel()
    with anyio.fail_after(5):
        await on.gate.left.wait()
        [run] = (await on.http.get("/v1/runs")).json()["runs"]
        async with on.http.stream("GET", f"/v1/runs/{run['id']}/events") as answer:
            last = [event async for event in events(answer)][-1]
    assert last[1]["state"] == "canceled"


async def test_a_message_is_sent_to_a_skill(on: Serving) -> None:
    """Text or data; the answer is the run."""
    found = (await on.http.get("/v1/agents")).json()
    [mesh] = found["agents"]
    assert [skill["id"] for skill in mesh["skills"]] == ["broken", "gate", "order", "shout"]
    assert (mesh["name"], mesh["where"], mesh["state"], found["default"]) == ("test", "mesh", "up", "shout")
    text = await on.http.post("/v1/agents/send", json={"text": "hi"})
    data = await on.http.post("/v1/agents/send", json={"skill": "order", "data": {"item": "tea", "count": 1}})
    assert (text.status_code, text.json()["workflow"], text.json()["source"]) == (201, "shout", "a2a")
    assert data.json()["input"] == {"item": "tea", "count": 1}
    empty = await on.http.post("/v1/agents/send", json={"skill": "order"})
    assert (empty.status_code, empty.json()["code"]) == (422, "invalid_input")
    talk = await on.http.post("/v1/agents/send", json={"text": "hi", "context_id": "\0"})
    assert (talk.status_code, talk.json()["errors"][0]["at"]) == (422, "body.context_id")


async def test_the_mesh_tells_what_it_has(on: Serving) -> None:
    """Mesh, workflows, models, schedules."""
    assert (await on.http.get("/v1/mesh")).json()["name"] == "test"
    workflows = (await on.http.get("/v1/workflows")).json()["workflows"]
    assert [workflow["name"] for workflow in workflows] == ["broken", "gate", "inner", "order", "shout"]
    shout = (await on.http.get("/v1/workflows/shout")).json()
    assert (shout["on"]["a2a"]["tags"], shout["steps"]) == (["text"], [{"id": "work", "verb": "python"}])
    missing = await on.http.get("/v1/workflows/shuot")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (await on.http.get("/v1/models")).json()["default"] == "tiny"
    assert (await on.http.get("/v1/schedules")).json() == {"schedules": []}


BAD_BODIES: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"[" * 9999, 400),
    (b"[" * 70 + b"]" * 70, 400),
    (b"\xff", 400),
    (b'{"workflow": "shout", "input": {"text": "\\ud800"}}', 400),
    (b'{"workflow": "shout", "input": {"text": NaN}}', 400),
    (b'{"workflow": "shout", "input": {"text": ' + b"9" * 5000 + b"}}", 400),
    (b"", 422),
    (b"[]", 422),
    (b"null", 422),
    (b"{}", 422),
    (b'{"workflow": 1}', 422),
    (b'{"workflow": "shout", "input": {"text": "hi"}, "key": "\\u0000"}', 422),
    (b'{"workflow": "shout", "imput": {}}', 422),
    (b'{"workflow": "shout", "input": {"text": 1}}', 422),
    (b'{"workflow": "shout", "input": []}', 422),
    (b'{"workflow": "shuot", "input": {"text": "hi"}}', 404),
]


async def test_bad_bodies_are_problems_of_the_caller(on: Serving) -> None:
    """Problem details with a sentence, and nothing is recorded."""
    headers = {"Content-Type": "application/json"}
    for body, status in BAD_BODIES:
        answer = await on.http.post("/v1/runs", content=body, headers=headers)
        assert answer.status_code == status, (body[:60], answer.text)
        assert answer.headers["content-type"] == "application/problem+json", body[:60]
        told = answer.json()
        assert told["status"] == status
        assert told["detail"], body[:60]
        assert told["code"], body[:60]
        assert told["type"], body[:60]
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = await on.http.post("/v1/runs", content=b'{"workflow": "shout"}', headers={"Content-Type": kind})
        assert answer.status_code == 415
    assert (await on.http.get("/v1/runs")).json()["total"] == 0


BAD_REQUESTS: list[tuple[str, str, int]] = [
    ("GET", "/v1/nope", 404),
    ("GET", "/nope", 404),
    ("GET", "/v1/runs/no-such", 404),
    ("GET", "/v1/runs/%00", 404),
    ("GET", "/v1/runs/no-such/events", 404),
    ("GET", "/v1/runs/no-such/journal", 404),
    ("POST", "/v1/runs/no-such/cancel", 404),
    ("GET", "/v1/runs/no-such/journal?after=-1", 422),
    ("GET", "/v1/runs?limit=0", 422),
    ("GET", "/v1/runs?limit=x", 422),
    ("GET", "/v1/runs?state=nope", 422),
    ("GET", "/v1/runs?cursor=nope", 422),
    ("DELETE", "/v1/runs", 405),
    ("OPTIONS", "/v1/runs", 405),
    ("POST", "/v1/mesh", 405),
    ("POST", "/v1/shutdown", 404),
]


async def test_bad_requests_are_problems_of_the_caller(on: Serving) -> None:
    """Unknown paths and methods too; 405 says which methods there are."""
    for method, path, status in BAD_REQUESTS:
        answer = await on.http.request(method, path)
        assert (answer.status_code, answer.json()["status"]) == (status, status), (path, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", path
    assert (await on.http.delete("/v1/runs")).headers["allow"] == "GET, POST"
    assert (await on.http.get("/v1/runs/x/events", headers={"Last-Event-ID": "x"})).status_code == 422


async def test_a_policy_that_denies_is_a_403() -> None:
    """The rule is named."""
    policy = PolicyFile.model_validate({"name": "desk", "rules": [{"allow": "*"}, {"deny": "runs.start"}]})
    async with serving_mesh(skills_mesh(policies=(policy,))) as on:
        answer = await on.http.post("/v1/runs", json={"workflow": "shout", "input": {"text": "hi"}})
        assert (answer.status_code, answer.json()["code"]) == (403, "denied")
        assert answer.json()["rule"]


async def test_the_token_is_the_command_lines() -> None:
    """Whoever cannot read .agentmesh/server.json may not stop the server, and is not taken for the command line."""
    stopped = []
    async with serving_mesh(token="t0ken", shutdown=lambda: stopped.append(True)) as on:
        for given in ({}, {"Authorization": "Bearer nope"}, {"Authorization": b"Bearer t\xe9"}):
            assert (await on.http.post("/v1/shutdown", headers=given)).status_code == 403
        assert not stopped
        body = {"workflow": "shout", "input": {"text": "hi"}}
        by_command = await on.http.post("/v1/runs", json=body, headers={"Authorization": "Bearer t0ken"})
        by_program = await on.http.post("/v1/runs", json=body)
        assert (by_command.json()["source"], by_program.json()["source"]) == ("cli", "api")
        assert (await on.http.post("/v1/shutdown", headers={"Authorization": "Bearer t0ken"})).status_code == 202
    assert stopped == [True]


async def test_the_openapi_document_has_every_path(on: Serving) -> None:
    """With the shapes of its answers and problems."""
    document = (await on.http.get("/v1/openapi.json")).json()
    paths = {"/runs", "/runs/{run_id}/events", "/tools/{name}/call", "/agents/send", "/models"}
    assert paths <= document["paths"].keys()
    started = document["paths"]["/runs"]["post"]["responses"]["201"]["content"]["application/json"]["schema"]
    assert started == {"$ref": "#/components/schemas/RunShape"}
    assert "ProblemShape" in document["components"]["schemas"]


async def test_health(on: Serving) -> None:
    """An open mesh whose models are all elsewhere is ready."""
    for path in ("/healthz", "/readyz"):
        assert (await on.http.get(path)).status_code == 200
        assert (await on.http.head(path)).status_code == 200
