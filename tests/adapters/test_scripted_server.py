# ruff: noqa: ASYNC110  a server's record can only be looked at, again and again
"""The scripted model: what it answers is what the file says, and what it was asked can be read."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from agentmesh.adapters.model_script import Script, ScriptFile
from agentmesh.adapters.scripted_server import read_script, serving
from agentmesh.errors import ProjectError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def scripted(*answers: dict, log=None, **more):
    """A client of a scripted model, and its application."""
    script = Script(ScriptFile.model_validate({"answers": list(answers), **more}))
    with anyio.fail_after(20):
        async with serving(script, log=log) as (url, app), httpx.AsyncClient(base_url=url, trust_env=False) as client:
            yield client, app


async def ask(client: httpx.AsyncClient, text: str, *, key: str | None = None, **more) -> httpx.Response:
    headers = {"idempotency-key": key} if key else {}
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    return await client.post("/chat/completions", json=body, headers=headers)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


async def test_the_first_answer_that_fits_is_given():
    """By a pattern in the last user message, by the number of the call, by how often, else the last."""
    async with scripted(
        {"match": "^refund", "say": {"queue": "billing"}},
        {"call": [2, 3], "times": 1, "say": "second"},
        {"say": "else"},
    ) as (client, _):
        assert json.loads(said(await ask(client, "refund me"))) == {"queue": "billing"}
        assert [said(await ask(client, "hi")) for _ in range(3)] == ["second", "else", "else"]


async def test_an_answer_by_attempt_counts_each_key_for_itself():
    """What is said to a key's first request is not said to its second."""
    async with scripted({"attempt": 1, "say": "once"}, {"say": "again"}) as (client, app):
        assert [said(await ask(client, "hi", key=k)) for k in ("a", "a", "b")] == ["once", "again", "once"]
        assert app.by_key == {"a": 2, "b": 1}


async def test_turns_are_those_of_the_conversation():
    """An agent's second turn is told from its first by the messages alone, whoever asks."""
    async with scripted({"turn": 1, "tools": [{"name": "desk.find", "arguments": {"n": 7}}]}, {"say": "found"}) as (
        client,
        _,
    ):
        offered = [{"type": "function", "function": {"name": "desk_find", "parameters": {}}}]
        first = (await ask(client, "hi", tools=offered)).json()["choices"][0]
        assert first["finish_reason"] == "tool_calls"
        call = first["message"]["tool_calls"][0]
        assert call["function"] == {"name": "desk_find", "arguments": '{"n": 7}'}
        messages = [
            {"role": "user", "content": "hi"},
            first["message"],
            {"role": "tool", "tool_call_id": call["id"], "content": "x"},
        ]
        assert said(await client.post("/chat/completions", json={"model": "m", "messages": messages})) == "found"


async def test_a_stream_is_the_same_answer_in_pieces():
    """Text word by word, then the reason, the usage when asked for, and the end."""
    async with scripted({"say": "one two three", "usage": {"prompt_tokens": 5, "completion_tokens": 3}}) as (client, _):
        answer = await ask(client, "hi", stream=True, stream_options={"include_usage": True})
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        pieces = [json.loads(line) for line in lines[:-1]]
        text = [c["delta"].get("content") or "" for p in pieces for c in p["choices"]]
        assert "".join(text) == "one two three"
        assert len([t for t in text if t]) == 3
        assert pieces[-1]["usage"]["completion_tokens"] == 3


async def test_errors_are_sent_as_they_are_written():
    """Status, words and Retry-After."""
    async with scripted({"error": {"status": 429, "message": "slow down", "retry_after": 2}}) as (client, _):
        answer = await ask(client, "hi")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
        assert answer.json()["error"]["message"] == "slow down"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_answer_ends_in_the_middle(stream):
    """The caller sees a broken connection after a part of the answer."""
    async with scripted({"fault": "cut", "say": "one two three four"}) as (client, app):
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(client, "hi", stream=stream)
        assert [r["fate"] for r in app.requests] == ["cut"]


async def test_a_lost_answer_was_worked_on():
    """No byte comes back, and yet the request counts; the next attempt is answered."""
    async with scripted({"attempt": 1, "fault": "lose", "say": "x"}, {"say": "here"}) as (client, app):
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(client, "hi", key="k")
        assert said(await ask(client, "hi", key="k")) == "here"
        assert [r["fate"] for r in app.requests] == ["lost", "answered"]


async def test_a_caller_that_leaves_is_seen():
    """A request that hangs ends when its caller goes, and the record says so."""
    async with scripted({"fault": "hang"}) as (client, app):
        with anyio.move_on_after(0.2):
            await ask(client, "hi")
        while app.requests[0]["fate"] is None:
            await anyio.sleep(0.01)
        assert app.requests[0]["fate"] == "disconnected"


async def test_what_no_answer_fits_is_refused():
    """A hole in the script is the caller's error: it is not tried again."""
    async with scripted({"match": "only this", "say": "x"}) as (client, _):
        answer = await ask(client, "that")
        assert answer.status_code == 422
        assert "no answer for 'that'" in answer.json()["error"]["message"]


async def test_the_record_is_readable_and_can_be_forgotten(tmp_path):
    """GET /requests tells what was asked, by key if wanted; the file has a line when it came and one when it ended."""
    with (tmp_path / "log").open("w") as log:
        async with scripted({"call": 1, "say": "x"}, {"say": "y"}, log=log, revision="w2") as (client, _):
            await ask(client, "first", key="a")
            await ask(client, "second")
            base = str(client.base_url).removesuffix("/v1/")
            account = (await client.get(f"{base}/requests", params={"key": "a"})).json()
            assert (account["total"], account["by_key"]) == (2, {"a": 1})
            assert [(r["last"], r["fate"]) for r in account["requests"]] == [("first", "answered")]
            assert (await client.get("/models")).json()["data"][0]["revision"] == "w2"
            await client.delete(f"{base}/requests")
            assert said(await ask(client, "first")) == "x"
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["number"], "messages" in line) for line in lines[:2]] == [(1, True), (1, False)]


async def test_a_faulty_script_is_told_with_its_place(tmp_path):
    """An unknown key and a pattern that is none, each at its line."""
    file = tmp_path / "s.yaml"
    file.write_text("answers:\n  - sya: x\n  - match: '['\n    latency: soon\n")
    with pytest.raises(ProjectError) as caught:
        read_script(file)
    faults = {fault.line: fault.message for fault in caught.value.faults}
    assert "sya" in faults[2]
    assert "not a regular expression" in faults[3]
    assert "duration" in faults[4]


@pytest.mark.parametrize("program", [["agentmesh.adapters.scripted_server"], ["agentmesh", "models", "script"]])
def test_the_command_prints_its_url(program: list[str], tmp_path: Path):
    """The first line is the address; it answers there until it is ended."""
    file = tmp_path / "s.yaml"
    file.write_text("answers:\n  - say: hello\n")
    process = subprocess.Popen([sys.executable, "-m", *program, str(file)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        assert said(httpx.post(f"{url}/chat/completions", json=body, trust_env=False)) == "hello"
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_the_script_in_the_docs_is_right(tmp_path):
    """docs/models.md shows a file that is read as it stands."""
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    file = tmp_path / "answers.yaml"
    file.write_text(text.partition("# answers.yaml\n")[2].partition("```")[0])
    assert len(read_script(file).file.answers) == 6
