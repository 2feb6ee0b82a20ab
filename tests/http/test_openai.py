"""The mesh's models in OpenAI's form, over a real socket; by OpenAI's own client where it is installed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from agentmesh.adapters.memory_model import Said, ScriptedModel, use
from agentmesh.core.model import ChatChunk, ChatRequest, Usage
from agentmesh.core.policy import PolicyFile
from agentmesh.errors import ModelRefused, ModelUnavailable
from agentmesh.http.api import build_api
from agentmesh.http.auth import Guard
from agentmesh.http.problems import HANDLERS
from agentmesh.settings import Limits, Settings
from tests.a2a.conftest import Late
from tests.engine.meshes import mesh, serving
from tests.http.serving import served

pytestmark = pytest.mark.anyio
HELLO = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def serving_models(
    model: Any, *, policies: tuple[PolicyFile, ...] = (), limits: Limits | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API of a mesh whose models answer from a script."""
    async with serving(mesh(policies=policies), model=model) as engine:
        edge = Late()
        async with served(Guard(edge, limits=limits)) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
            api = build_api(engine, Settings(folder=engine.mesh.folder), base_url=url)
            edge.app = Starlette(routes=[Mount("/v1", api)], exception_handlers=HANDLERS)
            yield client


def scripted(*answers: Said) -> ScriptedModel:
    return ScriptedModel(answers)


async def ask(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO} | body)


def events(answer: httpx.Response) -> list[Any]:
    """The data of each event; `[DONE]` as it stands."""
    found = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in found]


async def test_a_whole_answer_has_openais_form() -> None:
    """One choice, the endpoint's own count, and the mesh's name of the model."""
    async with serving_models(scripted("good day")) as client:
        answer = await ask(client)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["object"], body["model"]) == ("chat.completion", "tiny")
    assert body["id"].startswith("chatcmpl-")
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "good day", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"] == 3


async def test_what_was_asked_reaches_the_model() -> None:
    """Options by OpenAI's names, the schema, the tools and the messages as they were sent."""
    model = scripted("{}")
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}}
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    async with serving_models(model) as client:
        answer = await ask(
            client, messages=[{"role": "user", "content": [{"type": "text", "text": "x"}], "name": "ann"}],
            stop=["\n"], top_p=0.5, max_completion_tokens=7, temperature=1, seed=3, n=1, tools=tools, tool_choice="auto",
            response_format={"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}},
        )  # fmt: skip
    assert answer.status_code == 200, answer.text
    [asked] = model.requests
    assert asked.messages == [{"role": "user", "content": [{"type": "text", "text": "x"}], "name": "ann"}]
    assert asked.options == {"stop": ["\n"], "top_p": 0.5, "tool_choice": "auto"}
    assert (asked.schema, list(asked.tools)) == (schema, tools)
    assert (asked.max_tokens, asked.temperature, asked.seed, asked.stream) == (7, 1, 3, False)


async def test_a_tool_that_the_model_asks_for_is_handed_on() -> None:
    """Whole and streamed: the client calls it, not the mesh."""
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"order": 7}'}}
    async with serving_models(scripted(use("find", id="c1", order=7), use("find", id="c1", order=7))) as client:
        whole = (await ask(client)).json()["choices"][0]
        parts = events(await ask(client, stream=True))
    assert (whole["message"]["tool_calls"], whole["message"]["content"]) == ([call], None)
    assert whole["finish_reason"] == "tool_calls"
    deltas = [part["choices"][0] for part in parts[:-1]]
    assert [d["delta"]["tool_calls"] for d in deltas if "tool_calls" in d["delta"]] == [[{"index": 0, **call}]]
    assert deltas[-1]["finish_reason"] == "tool_calls"


async def test_a_stream_has_openais_form() -> None:
    """Pieces with one id, the end, the count when it was asked for, and [DONE]."""
    async with serving_models(scripted("one two three", "one")) as client:
        answer = await ask(client, stream=True, stream_options={"include_usage": True})
        without = events(await ask(client, stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    *parts, done = events(answer)
    assert done == "[DONE]"
    assert len({part["id"] for part in parts}) == 1
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    assert "".join(p["choices"][0]["delta"].get("content", "") for p in parts if p["choices"]) == "one two three"
    assert parts[-2]["choices"][0]["finish_reason"] == "stop"
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"]["completion_tokens"] == 3
    assert all(part["usage"] is None for part in parts[:-1])
    assert not any("usage" in part for part in without[:-1])


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "ghost", "content": "x"}]}, "messages.0.role"),
        ({"temperature": "hot"}, "temperature"),
        ({"functions": []}, "functions"),
        ({"store": True}, "store"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"model": 7}, "model"),
    ],
)
async def test_what_cannot_be_answered_truly_is_refused_by_name(given: dict[str, Any], param: str) -> None:
    """400 in OpenAI's form, before the model is asked."""
    model = scripted("never")
    async with serving_models(model) as client:
        answer = await ask(client, **given)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_input", param)
    assert param in error["message"]
    assert model.requests == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"model": "tiny"}', "text/plain", 400),
        (b"[" * 2000 + b"]" * 2000, "application/json", 400),
        (b" " * 5000, "application/json", 413),
    ],
)
async def test_a_bad_body_is_refused_in_openais_form(content: bytes, kind: str, status: int) -> None:
    """Also by what stands before the edge."""
    async with serving_models(scripted(), limits=Limits(body=4500)) as client:
        answer = await client.post("/v1/chat/completions", content=content, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ModelUnavailable("it is loading"), 503, "server_error"),
        (ModelRefused("too many tokens", answered=400), 400, "invalid_request_error"),
        (ModelRefused("wrong key", answered=401), 502, "server_error"),
        (RuntimeError("secret words"), 500, "server_error"),
    ],
)
async def test_what_the_model_refuses_is_an_error(error: Exception, status: int, kind: str, stream: bool) -> None:
    """With a status of its own, also where a stream was asked for and has not begun."""
    async with serving_models(scripted(error)) as client:
        answer = await ask(client, stream=stream)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert "secret words" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)


class _Breaking:
    """A model that breaks off in the middle of its answer."""

    def __init__(self) -> None:
        self.closed = anyio.Event()
        self.go = anyio.Event()

    async def chat(self, request: ChatRequest, progress: Any = None) -> AsyncIterator[ChatChunk]:
        try:
            yield ChatChunk("one ")
            if request.seed == 1:
                await anyio.sleep_forever()
            raise ModelUnavailable("it died")
        finally:
            self.closed.set()

    def status(self) -> dict[str, Any]:
        return {}


async def test_a_stream_that_breaks_off_says_so() -> None:
    """An error in the stream, and no [DONE]: half an answer never looks whole."""
    async with serving_models(_Breaking()) as client:
        parts = events(await ask(client, stream=True))
    assert parts[-1]["error"]["code"] == "model_unavailable"
    assert "[DONE]" not in parts


async def test_a_client_that_leaves_ends_the_answer() -> None:
    """The model's stream is closed, and its place is free for another."""
    model = _Breaking()
    async with serving_models(model) as client:
        body = {"model": "tiny", "messages": HELLO, "stream": True, "seed": 1}
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if "one" in line:
                    break
        with anyio.fail_after(10):
            await model.closed.wait()


async def test_models_are_listed_in_openais_form_beside_our_own() -> None:
    """`data` for OpenAI's clients, `models` for the command line; one by its name."""
    async with serving_models(scripted()) as client:
        listed = (await client.get("/v1/models")).json()
        one = await client.get("/v1/models/large")
        none = await client.get("/v1/models/huge")
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", ["large", "tiny"])
    assert {"models", "default"} < listed.keys()
    assert one.json() == listed["data"][0]
    assert none.status_code == 404
    assert none.json()["error"]["code"] == "model_not_found"


async def test_the_policies_hold() -> None:
    """`models.chat` decides what is listed, shown and asked."""
    policy = PolicyFile.model_validate({"rules": [{"allow": "models.chat", "on": ["model:tiny"]}]})
    model = scripted("yes")
    async with serving_models(model, policies=(policy,)) as client:
        assert [m["id"] for m in (await client.get("/v1/models")).json()["data"]] == ["tiny"]
        assert (await client.get("/v1/models/large")).status_code == 404
        denied = await ask(client, model="large")
        assert (denied.status_code, denied.json()["error"]["type"]) == (403, "permission_error")
        assert (await ask(client, model="huge")).status_code == 404
        assert (await ask(client)).status_code == 200
    assert [request.model for request in model.requests] == ["tiny"]


class _Counting:
    """Keeps how many questions were in its hands at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.go = anyio.Event()

    async def chat(self, request: ChatRequest, progress: Any = None) -> AsyncIterator[ChatChunk]:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == 64:
            self.go.set()
        await self.go.wait()
        self.now -= 1
        yield ChatChunk("x", "stop", Usage())

    def status(self) -> dict[str, Any]:
        return {}


async def test_the_models_concurrency_holds() -> None:
    """Of 100 questions at once at most its `concurrency` reach the model; all are answered."""
    model = _Counting()
    statuses: list[int] = []
    async with serving_models(model) as client:

        async def one() -> None:
            statuses.append((await ask(client)).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(one)
    assert statuses == [200] * 100
    assert model.most == 64


# OpenAI's own client


async def test_openais_client_works() -> None:
    """Whole answers, streams, structured ones, tools, lists and errors, as the official package reads them."""
    openai = pytest.importorskip("openai")
    pydantic = pytest.importorskip("pydantic")

    class Found(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        order: int

    answers = ["good day", "one two three", {"order": 7}, use("find", id="c1", order=7), ModelRefused("no")]
    async with (
        serving_models(scripted(*answers)) as http,
        openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0) as client,
    ):
        whole = await client.chat.completions.create(model="tiny", messages=HELLO)
        assert whole.choices[0].message.content == "good day"
        said = ""
        async with await client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
        ) as pieces:
            async for piece in pieces:
                said += piece.choices[0].delta.content or "" if piece.choices else ""
                usage = piece.usage
        assert (said, usage.completion_tokens) == ("one two three", 3)
        parsed = await client.chat.completions.parse(model="tiny", messages=HELLO, response_format=Found)
        assert parsed.choices[0].message.parsed == Found(order=7)
        async with client.chat.completions.stream(model="tiny", messages=HELLO) as tools:
            final = await tools.get_final_completion()
        assert final.choices[0].message.tool_calls[0].function.name == "find"
        assert [model.id async for model in client.models.list()] == ["large", "tiny"]
        assert (await client.models.retrieve("tiny")).id == "tiny"
        with pytest.raises(openai.BadRequestError, match="no"):
            await client.chat.completions.create(model="tiny", messages=HELLO)
        with pytest.raises(openai.NotFoundError, match="there is no model"):
            await client.models.retrieve("huge")
