"""Steps that go out of the mesh: what is sent, what comes back, and what is made of a refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentmesh.adapters.memory_outside import ScriptedCluster, ScriptedDatabases, ScriptedHttp
from agentmesh.core.outside import HttpAnswer, Rows
from agentmesh.core.run import Kind, RunState
from agentmesh.core.tool import ToolCall
from agentmesh.core.workflow import HttpSpec
from agentmesh.engine.reach import hide, request, url_of
from agentmesh.errors import Fail, NotSent, Retry, Unanswered
from tests.engine.meshes import LOCAL, Clock, finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio

URL = "https://desk.example.com/reply"
OK = HttpAnswer(200, {"content-type": "application/json"}, {"id": 7})


def http_step(**more: Any) -> dict[str, Any]:
    around = {k: more.pop(k) for k in ("retry", "output", "idempotent", "effect", "timeout", "with") if k in more}
    return {"id": "send", "http": {"url": URL, **more}, **around}


async def ran(http: ScriptedHttp, step: dict[str, Any], text: str = "hello", **more: Any):
    """A workflow of this one step: its run and its rows."""
    async with serving(mesh(workflow("w", step)), http=http, **more) as engine:
        run = await finished(engine, "w", {"text": text})
        return run, await journal(engine, run)


async def test_a_request_is_rendered_and_its_answer_is_the_output():
    """Method, address, query, headers and body from the file; status, headers and body are the output."""
    http = ScriptedHttp([OK])
    step = http_step(
        method="POST", query={"q": "${{ input.text }}", "none": "${{ null }}", "n": [1, 2]},
        headers={"X-Text": "is ${{ input.text }}"}, json={"text": "${{ input.text }}"},
    )  # fmt: skip
    run, _ = await ran(http, step, "a&b")
    assert run.state is RunState.COMPLETED
    assert run.output == {"status": 200, "headers": {"content-type": "application/json"}, "body": {"id": 7}}
    (sent,) = http.requests
    assert (sent.method, sent.url, sent.body) == ("POST", f"{URL}?q=a%26b&n=1&n=2", b'{"text":"a&b"}')
    assert sent.headers == {
        "X-Text": "is a&b",
        "Content-Type": "application/json",
        "Idempotency-Key": f"{run.id}/send",
    }


async def test_a_read_carries_no_key():
    """GET is no write; `effect: write` makes it one."""
    http = ScriptedHttp([OK, OK])
    await ran(http, http_step())
    await ran(http, http_step(effect="write"))
    assert ["Idempotency-Key" in sent.headers for sent in http.requests] == [False, True]


@pytest.mark.parametrize(
    ("template", "value", "url"),
    [
        ("https://h/x/${{ input }}/y", "a/../b?c#d e", "https://h/x/a%2F..%2Fb%3Fc%23d%20e/y"),
        ("https://h/x/${{ input }}", 7, "https://h/x/7"),
        ("${{ input }}", "https://h/a?b=c", "https://h/a?b=c"),
        ("${{ input }}/orders", "https://h", "https://h/orders"),
    ],
)
def test_a_value_within_an_address_stays_one_part_of_it(template, value, url):
    """What is filled in can neither leave its place in the path nor add a query; at the very beginning it may be an address."""
    assert url_of(HttpSpec(url=template), {"input": value}) == url


@pytest.mark.parametrize("value", [None, ["a"], "..", "."])
def test_what_is_no_part_of_an_address_fails(value):
    """Nothing, a list, and the names that mean a folder above."""
    with pytest.raises(Fail, match="url"):
        url_of(HttpSpec(url="https://h/x/${{ input }}/y"), {"input": value})


async def test_secrets_are_sent_and_stand_nowhere():
    """Filled in last; not in the journal, not in the definition, not in what the other side repeats, nor in an error."""
    echo = HttpAnswer(200, {"x-echo": "Bearer s3cret-key"}, {"saw": ["Bearer s3cret-key"]})
    http = ScriptedHttp([echo, NotSent("cannot send Bearer s3cret-key"), HttpAnswer(400, {}, "no s3cret-key")])
    step = http_step(headers={"Authorization": "Bearer ${{ secrets.KEY }}"}, retry={"attempts": 1})
    for _ in range(3):
        run, rows = await ran(http, step, secrets={"KEY": "s3cret-key"})
        assert "s3cret" not in json.dumps([row.payload for row in rows] + [run.output, run.error])
    assert {sent.headers["Authorization"] for sent in http.requests} == {"Bearer s3cret-key"}


async def test_text_that_looks_like_a_secret_is_only_text():
    """What is rendered is not filled: input cannot ask for a secret."""
    http = ScriptedHttp([OK])
    await ran(
        http,
        http_step(headers={"X-Text": "${{ input.text }}"}),
        "${{ secrets.KEY }}",
        secrets={"KEY": "s3cret-key"},
    )
    assert http.requests[0].headers["X-Text"] == "${{ secrets.KEY }}"


async def test_a_secret_that_is_not_set_is_named():
    """The run fails before anything is sent."""
    http = ScriptedHttp([OK])
    run, _ = await ran(http, http_step(headers={"Authorization": "${{ secrets.KEY }}"}))
    assert "AGENTMESH_SECRET_KEY" in run.error["message"]
    assert http.requests == []


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        (HttpAnswer(404, {}, "no such order"), 1),
        (HttpAnswer(302, {"location": "https://elsewhere"}, None), 1),
        (HttpAnswer(429, {}, None), 3),
        (HttpAnswer(503, {}, None), 3),
        (HttpAnswer(500, {}, None), 1),
        (Unanswered("gone"), 1),
        (NotSent("away"), 3),
    ],
)
async def test_a_write_is_repeated_only_when_it_was_not_done(said, sent):
    """What was not sent, or was refused before any work, is tried again; what may have been done is not."""
    http = ScriptedHttp(lambda _: said)
    run, _ = await ran(http, http_step(method="POST", json={}))
    assert run.state is RunState.FAILED
    assert len(http.requests) == sent
    assert len({request.headers["Idempotency-Key"] for request in http.requests}) == 1


@pytest.mark.parametrize("said", [HttpAnswer(500, {}, None), Unanswered("gone")])
@pytest.mark.parametrize("step", [{"method": "GET"}, {"method": "POST", "idempotent": True}])
async def test_a_read_and_an_idempotent_write_are_repeated(said, step):
    """Doing it twice does no harm there."""
    http = ScriptedHttp([said, OK])
    run, _ = await ran(http, http_step(**step))
    assert run.state is RunState.COMPLETED


@pytest.mark.parametrize(
    ("value", "after"),
    [("120", 120.0), ("Tue, 14 Nov 2023 22:15:20 GMT", 120.0), ("soon", None), ("9999999", 86400.0)],
)
async def test_retry_after_is_heeded(value, after):
    """As seconds, and as a date by the engine's clock; within reason."""
    http = ScriptedHttp([HttpAnswer(503, {"retry-after": value}, None)])
    with pytest.raises(Retry) as caught:
        await request(
            http, HttpSpec(url=URL), {}, key="", writes=False, secrets={}, timeout=None, clock=Clock(1_700_000_000.0)
        )
    assert caught.value.after == after


async def test_statuses_that_are_expected_complete_the_step():
    """`expect` says which; then another one fails, and the error says what was answered."""
    run, _ = await ran(ScriptedHttp([HttpAnswer(404, {}, "none")]), http_step(expect=[200, 404]))
    assert run.output["status"] == 404
    run, _ = await ran(ScriptedHttp([HttpAnswer(201, {}, "made")]), http_step(expect=[200]))
    assert run.error["message"] == f"GET {URL} answered 201: made"
    assert run.error["data"] == {"status": 201}


async def test_the_body_is_checked_against_the_output_schema():
    """`output` of an http step is the schema of its body."""
    step = http_step(output={"type": "object", "required": ["name"]})
    run, _ = await ran(ScriptedHttp([OK]), step)
    assert run.error["code"] == "invalid_output"
    assert "output.body" in run.error["message"]


async def test_an_http_tool_sends_its_arguments_and_answers_with_the_body():
    """Called by itself it passes through, without a run; as a step it carries the step's key."""
    tool = {
        "description": "Find an order.",
        "input": {"type": "object", "properties": {"order": {"type": "string"}}, "required": ["order"]},
        "http": {
            "method": "POST",
            "url": f"{URL}/${{{{ input.order }}}}",
            "headers": {"X-Key": "${{ secrets.KEY }}"},
        },
    }
    http = ScriptedHttp([OK, OK, HttpAnswer(404, {}, "none")])
    step = {"id": "find", "tool": "desk.find", "with": {"order": "a b"}}
    of = mesh(workflow("w", step), tools={"find": tool})
    async with serving(of, http=http, secrets={"KEY": "s3cret-key"}) as engine:
        result = await engine.tools.call(LOCAL, ToolCall("desk.find", {"order": "7"}))
        assert (result.structured, result.run_id) == ({"id": 7}, None)
        run = await finished(engine, "w")
        assert run.output == {"id": 7}
        failed = await engine.tools.call(LOCAL, ToolCall("desk.find", {"order": "8"}))
        assert failed.is_error
        assert "answered 404: none" in failed.text
    first, second, _ = http.requests
    assert (first.url, first.headers) == (f"{URL}/7", {"X-Key": "s3cret-key"})
    assert (second.url, second.headers["Idempotency-Key"]) == (f"{URL}/a%20b", f"{run.id}/find")


async def test_a_statement_gets_its_values_by_name_and_only_reads():
    """Values from `with`; a write only where the file says so."""
    databases = ScriptedDatabases(lambda *_: Rows([{"n": 1}], 1, truncated=True))
    query = {"database": "orders", "query": "select :n as n"}
    read = {"id": "read", "sql": query, "with": {"n": "${{ input.text }}"}}
    write = {"id": "write", "sql": query, "effect": "write"}
    async with serving(mesh(workflow("w", read, write)), databases=databases) as engine:
        run = await finished(engine, "w")
        rows = await journal(engine, run, Kind.STEP_INTENT)
    assert run.output == {"rows": [{"n": 1}], "count": 1, "truncated": True}
    assert databases.asked == [
        ("orders", "select :n as n", {"n": "hello"}, False),
        ("orders", "select :n as n", {}, True),
    ]
    assert [row.path for row in rows] == ["write"]


async def test_a_function_on_ray_gets_its_arguments_and_the_key():
    """The cluster is asked, not this process; the result is checked like any other."""
    cluster = ScriptedCluster({"pkg.mod:work": lambda text: {"n": len(text)}})
    step = {"id": "work", "python": "pkg.mod:work", "on": "ray", "with": {"text": "${{ input.text }}"}}
    step["output"] = {"type": "object", "properties": {"n": {"type": "integer"}}}
    async with serving(mesh(workflow("w", step)), cluster=cluster) as engine:
        run = await finished(engine, "w")
    assert run.output == {"n": 5}
    assert cluster.calls == [("pkg.mod:work", {"text": "hello"}, f"{run.id}/work")]


@pytest.mark.parametrize(
    "step",
    [
        http_step(),
        {"id": "a", "sql": {"database": "d", "query": "select 1"}},
        {"id": "a", "python": "pkg.mod:work", "on": "ray"},
    ],
)
async def test_a_server_without_the_means_says_so(step):
    """Nothing is silently left out."""
    async with serving(mesh(workflow("w", step))) as engine:
        run = await finished(engine, "w")
    assert run.state is RunState.FAILED
    assert run.error["message"].startswith("this server has no ")


def test_short_secrets_are_not_looked_for():
    """A secret of a few letters would hide half of the words of an answer."""
    assert hide({"a": ["abc s3cret-key"]}, ["abc", "s3cret-key"]) == {"a": ["abc ***"]}
