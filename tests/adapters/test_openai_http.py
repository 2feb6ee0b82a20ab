# ruff: noqa: ASYNC110, SIM117, PT012  an endpoint's calls are counted from outside; contexts of one test nest
"""Chat over HTTP, against a small endpoint on a real socket that says what each test needs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest

from agentmesh.adapters.http1 import Http1Client, HttpxClient
from agentmesh.adapters.model_script import Script, ScriptFile
from agentmesh.adapters.openai_http import OpenAiHttp
from agentmesh.adapters.scripted_server import serving
from agentmesh.core.model import ChatChunk, ChatRequest, Deploy, Model, ModelState, ModelStatus, ToolUse
from agentmesh.errors import ModelFailed, ModelRefused, ModelUnavailable, NotFound

pytestmark = pytest.mark.anyio

DONE = {
    "model": "gpt",
    "system_fingerprint": "v1",
    "choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
}
ASK = [{"role": "user", "content": "hi"}]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Seen:
    path: str
    headers: dict[str, str]
    body: dict


@dataclass
class Endpoint:
    """Answers requests in turn with `replies` (the last for ever): raw bytes, or a function of the request."""

    replies: list[bytes | Callable]
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines)
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.seen.append(Seen(first.split(" ")[1], headers, body))
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                if callable(reply):
                    reply = await reply(self.seen[-1])
                if reply is None:
                    return
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


def reply(document: object, status: int = 200, **headers: str) -> bytes:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} OK\r\ncontent-length: {len(data)}\r\n{fields}\r\n".encode() + data


def events(*documents: object, end: bool = True) -> bytes:
    parts = [b"data: " + json.dumps(d).encode() + b"\n\n" for d in documents] + [b"data: [DONE]\n\n"]
    body = b"".join(f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in parts) + (b"0\r\n\r\n" if end else b"")
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body


@asynccontextmanager
async def endpoint(*replies) -> AsyncIterator[Endpoint]:
    served = Endpoint(list(replies))
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield served


class Replicas:
    """Deployed models whose addresses the test sets."""

    def __init__(self, *urls: str) -> None:
        self.urls = urls
        self.waited = 0

    def status(self):
        return {"tiny": ModelStatus("tiny", ModelState.READY, urls=self.urls)}

    async def wait_ready(self, name, progress=None, timeout=600.0):
        self.waited += 1
        if progress is not None:
            progress("loading the weights")
        return self.urls


def hosted(url: str, **fields) -> dict[str, Model]:
    return {"hosted": Model(url=url, model="gpt", **fields)}


def tiny() -> dict[str, Model]:
    return {"tiny": Model(source="builtin:tiny", deploy=Deploy())}


async def collect(backend: OpenAiHttp, request: ChatRequest, progress=None) -> list[ChatChunk]:
    with anyio.fail_after(10):
        return [chunk async for chunk in backend.chat(request, progress)]


async def test_a_whole_answer_has_text_usage_and_who_answered():
    """One chunk: text, finish reason, tokens by the endpoint's own count."""
    async with endpoint(reply(DONE)) as served, OpenAiHttp(hosted(served.url, key="k1")) as backend:
        request = ChatRequest("hosted", ASK, max_tokens=9, temperature=0.0, seed=3, headers={"x-run": "r1"})
        (chunk,) = await collect(backend, request)
    assert (chunk.text, chunk.finish_reason, chunk.model) == ("hello", "stop", "gpt (v1)")
    assert (chunk.usage.prompt_tokens, chunk.usage.completion_tokens, chunk.usage.cached_tokens) == (7, 2, 4)
    (seen,) = served.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.body == {"model": "gpt", "messages": ASK, "max_tokens": 9, "temperature": 0.0, "seed": 3}
    assert seen.headers["authorization"] == "bearer k1"
    assert seen.headers["x-run"] == "r1"


async def test_a_schema_is_sent_as_a_strict_response_format():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with endpoint(reply(DONE)) as served, OpenAiHttp(hosted(served.url)) as backend:
        await collect(backend, ChatRequest("hosted", ASK, schema=schema))
    assert served.seen[0].body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "output", "strict": True, "schema": schema},
    }


async def test_a_stream_comes_in_pieces_and_ends_with_the_usage():
    """Text as it comes; the last chunk has the finish reason and the tokens."""
    pieces = [{"model": "gpt", "choices": [{"delta": {"content": text}}]} for text in ("he", "llo")]
    last = [{"choices": [{"delta": {}, "finish_reason": "length"}]}, {"choices": [], "usage": DONE["usage"]}]
    async with endpoint(events(*pieces, *last)) as served, OpenAiHttp(hosted(served.url)) as backend:
        chunks = await collect(backend, ChatRequest("hosted", ASK, stream=True))
        await collect(backend, ChatRequest("hosted", ASK, stream=True))
    assert [c.text for c in chunks] == ["he", "llo", ""]
    assert (chunks[-1].finish_reason, chunks[-1].usage.prompt_tokens, chunks[-1].model) == ("length", 7, "gpt")
    assert served.seen[0].body["stream_options"] == {"include_usage": True}
    assert served.connections == 1


async def test_connections_are_kept_and_used_again():
    """Ten calls one after the other take one connection; eight at once take eight."""
    async with endpoint(reply(DONE)) as served, OpenAiHttp(hosted(served.url)) as backend:
        for _ in range(10):
            await collect(backend, ChatRequest("hosted", ASK))
        assert served.connections == 1
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(collect, backend, ChatRequest("hosted", ASK))
        assert served.connections <= 8


async def test_no_more_calls_at_once_than_the_model_allows():
    """`concurrency: 2` keeps the third call waiting here."""
    now = most = 0
    release = anyio.Event()

    async def slow(_seen):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await release.wait()
        now -= 1
        return reply(DONE)

    async with endpoint(slow) as served, OpenAiHttp(hosted(served.url, concurrency=2)) as backend:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(collect, backend, ChatRequest("hosted", ASK))
            while now < 2:
                await anyio.sleep(0.005)
            release.set()
    assert (most, len(served.seen)) == (2, 5)


@pytest.mark.parametrize(
    ("status", "document", "says"),
    [
        (
            400,
            {"error": {"message": "max_tokens is too large"}},
            r"refused the request \(400\): max_tokens is too large",
        ),
        (404, {"detail": "no such model"}, "no such model"),
        (401, {"error": "bad key"}, "refused the key: bad key; check `key`"),
        (422, b"<html>nope</html>", "nope"),
    ],
)
async def test_what_the_endpoint_refuses_is_the_requests_fault(status, document, says):
    """A 4xx is not repeated, and carries the endpoint's own words."""
    async with endpoint(reply(document, status)) as served, OpenAiHttp(hosted(served.url)) as backend:
        with pytest.raises(ModelRefused, match=says):
            await collect(backend, ChatRequest("hosted", ASK))
    assert len(served.seen) == 1


async def test_a_busy_endpoint_is_asked_again():
    """429 and 5xx may pass: the call is repeated, and the caller is told so."""
    said: list[str] = []
    busy = reply({"error": {"message": "slow down"}}, 429, retry_after="0")
    async with endpoint(busy, reply(DONE)) as served, OpenAiHttp(hosted(served.url)) as backend:
        (chunk,) = await collect(backend, ChatRequest("hosted", ASK), said.append)
    assert chunk.text == "hello"
    assert len(served.seen) == 2
    assert said == ["model 'hosted': it answered 429: slow down; trying again"]


async def test_an_endpoint_that_stays_away_is_unavailable():
    """Connection refused is retryable, and says where."""
    async with endpoint(reply(DONE)) as served:
        url = served.url
    async with OpenAiHttp(hosted(url), model_wait=0.5) as backend:
        with pytest.raises(ModelUnavailable, match=r"does not accept connections; try again later"):
            await collect(backend, ChatRequest("hosted", ASK))


async def test_a_kept_connection_that_was_closed_is_not_an_error():
    """The other side may close an idle connection at any time: a fresh one is opened."""
    closes = reply(DONE)

    async def last(_seen):
        return None

    async with endpoint(closes, last, reply(DONE)) as served, OpenAiHttp(hosted(served.url)) as backend:
        await collect(backend, ChatRequest("hosted", ASK))
        (chunk,) = await collect(backend, ChatRequest("hosted", ASK))
    assert chunk.text == "hello"
    assert served.connections == 2


async def test_a_call_lost_with_its_replica_goes_to_the_next():
    """The replica dies with the call in its hands: the call waits for the model again, and is repeated."""

    async def dies(_seen):
        replicas.urls = (living.url,)
        return

    async with endpoint(dies) as dying, endpoint(reply(DONE)) as living:
        replicas = Replicas(dying.url)
        async with OpenAiHttp(tiny(), replicas) as backend:
            (chunk,) = await collect(backend, ChatRequest("tiny", ASK))
    assert chunk.text == "hello"
    assert (len(dying.seen), len(living.seen), replicas.waited) == (1, 1, 2)
    assert living.seen[0].body["model"] == "tiny"


async def test_half_an_answer_is_not_repeated():
    """Text was handed on: the caller learns that it ended, and decides."""
    cut = events({"choices": [{"delta": {"content": "he"}}]}, end=False)

    async def dies(_seen):
        return cut + b"zz\r\n"

    async with endpoint(dies) as served, OpenAiHttp(tiny(), Replicas(served.url)) as backend:
        got: list[str] = []
        with pytest.raises(ModelUnavailable, match="in the middle of the answer"):
            async for chunk in backend.chat(ChatRequest("tiny", ASK, stream=True)):
                got.append(chunk.text)
    assert got == ["he"]
    assert len(served.seen) == 1


async def test_calls_go_to_the_replica_with_the_fewest():
    """Two replicas, one slow: the other gets the calls meanwhile."""
    release = anyio.Event()

    async def slow(_seen):
        await release.wait()
        return reply(DONE)

    async with endpoint(slow) as first, endpoint(reply(DONE)) as second:
        async with OpenAiHttp(tiny(), Replicas(first.url, second.url)) as backend:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(collect, backend, ChatRequest("tiny", ASK))
                while not first.seen:
                    await anyio.sleep(0.005)
                for _ in range(4):
                    await collect(backend, ChatRequest("tiny", ASK))
                release.set()
    assert (len(first.seen), len(second.seen)) == (1, 4)


async def test_an_answer_that_takes_too_long_ends():
    """`timeout` is for the whole answer; the connection is not used again."""

    async def never(_seen):
        await anyio.sleep(30)

    async with endpoint(never, reply(DONE)) as served, OpenAiHttp(hosted(served.url)) as backend:
        with pytest.raises(ModelUnavailable, match="did not answer within 0 s"):
            await collect(backend, ChatRequest("hosted", ASK, timeout=0.1))
        await collect(backend, ChatRequest("hosted", ASK))
    assert served.connections == 2


async def test_progress_of_a_loading_model_reaches_the_caller():
    said: list[str] = []
    async with endpoint(reply(DONE)) as served, OpenAiHttp(tiny(), Replicas(served.url)) as backend:
        await collect(backend, ChatRequest("tiny", ASK), said.append)
    assert said == ["loading the weights"]


async def test_what_cannot_be_asked_says_what_to_do():
    """No such model; a server without models; an entry with neither `deploy` nor `url`; something else at the URL."""
    async with OpenAiHttp({**tiny(), "empty": Model()}) as backend:
        with pytest.raises(NotFound, match=r"no model 'large'; agentmesh\.yaml has empty, tiny"):
            await collect(backend, ChatRequest("large", ASK))
        with pytest.raises(ModelFailed, match="started without models"):
            await collect(backend, ChatRequest("tiny", ASK))
        with pytest.raises(ModelFailed, match="neither `deploy` nor `url`"):
            await collect(backend, ChatRequest("empty", ASK))
    async with OpenAiHttp({"other": tiny()["tiny"]}, Replicas("http://127.0.0.1:1/v1")) as backend:
        with pytest.raises(ModelFailed, match="'other' is not deployed: this server was started without models"):
            await collect(backend, ChatRequest("other", ASK))
    async with endpoint(reply({"hello": "world"})) as served, OpenAiHttp(hosted(served.url)) as backend:
        with pytest.raises(ModelUnavailable, match="sent no chat completion; is `url` right"):
            await collect(backend, ChatRequest("hosted", ASK))


async def test_status_tells_whose_a_model_is():
    models = {**hosted("https://llm.example.com/v1/"), **tiny()}
    async with OpenAiHttp(models, Replicas("http://127.0.0.1:1/v1")) as backend:
        told = backend.status()
    assert (told["hosted"].state, told["hosted"].urls) == (ModelState.REMOTE, ("https://llm.example.com/v1",))
    assert told["tiny"].state is ModelState.READY
    async with OpenAiHttp(tiny()) as backend:
        assert backend.status()["tiny"].state is ModelState.STOPPED


@pytest.mark.parametrize("client", [Http1Client, HttpxClient])
async def test_both_clients_keep_one_contract(client):
    """Ours for plain HTTP and httpx for TLS give the same status, headers and body, and the same errors."""
    from agentmesh.adapters.http1 import Dropped, Unreachable

    async def dies(_seen):
        return None

    made = client()
    async with endpoint(reply({"a": 1}, 418, x_kind="tea"), events({"b": 2}), dies) as served:
        async with made.post(served.url, {"content-type": "application/json"}, b"{}") as answer:
            assert (answer.status, answer.headers["x-kind"], json.loads(await answer.read())) == (418, "tea", {"a": 1})
        async with made.post(served.url, {}, b"{}") as answer:
            assert [line async for line in answer.lines() if line] == [b'data: {"b": 2}', b"data: [DONE]"]
        with pytest.raises(Dropped):
            async with made.post(served.url.replace("/v1", "/x"), {}, b"{}") as answer:
                await answer.read()
        url = served.url
    with pytest.raises(Unreachable):
        async with made.post(url, {}, b"{}"):
            pass
    await made.aclose()


async def test_a_header_cannot_bring_another():
    """A line break in a header would let its value be read as headers of its own."""
    async with endpoint(reply(DONE)) as served, OpenAiHttp(hosted(served.url)) as backend:
        with pytest.raises(ValueError, match="line break"):
            await collect(backend, ChatRequest("hosted", ASK, headers={"x-run": "a\r\nx-evil: b"}))
    assert served.seen == []


TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


def script(*answers: dict) -> Script:
    return Script(ScriptFile.model_validate({"answers": list(answers)}))


@pytest.mark.parametrize("stream", [False, True])
async def test_the_tools_that_a_model_asks_for_are_whole(stream):
    """Several calls in one answer, whose streamed pieces are joined; they come with the last chunk."""
    asks = {"say": "looking", "tools": [{"name": "find", "arguments": {"n": 7}, "id": "a"}, {"name": "find"}]}
    with anyio.fail_after(10):
        async with serving(script(asks)) as (url, app), OpenAiHttp(hosted(url)) as backend:
            request = ChatRequest(
                "hosted", ASK, tools=TOOLS, stream=stream, headers={"Idempotency-Key": "run/ask/turn[0]"}
            )
            chunks = await collect(backend, request)
    assert chunks[-1].tool_uses == (ToolUse("a", "find", '{"n": 7}'), ToolUse("call_1_1", "find", "{}"))
    assert chunks[-1].finish_reason == "tool_calls"
    assert "".join(c.text for c in chunks) == "looking"
    assert app.requests[0]["tools"] == TOOLS
    assert app.by_key == {"run/ask/turn[0]": 1}


async def test_calls_of_a_stream_that_does_not_number_them_are_told_apart():
    """Some endpoints send each call as a whole with its own id; others send the arguments as an object."""
    first = {"id": "a", "function": {"name": "find", "arguments": {"n": 1}}}
    second = {"id": "b", "function": {"name": "find", "arguments": "{}"}}
    pieces = [{"choices": [{"delta": {"tool_calls": [c]}}]} for c in (first, second)]
    end = {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}
    async with endpoint(events(*pieces, end)) as served, OpenAiHttp(hosted(served.url)) as backend:
        (chunk,) = await collect(backend, ChatRequest("hosted", ASK, tools=TOOLS, stream=True))
    assert chunk.tool_uses == (ToolUse("a", "find", '{"n": 1}'), ToolUse("b", "find", "{}"))


async def test_a_stream_of_something_else_is_told():
    """What is no chat completion is the endpoint's fault, told as such and not as Python's."""
    async with endpoint(events(["no", "object"])) as served, OpenAiHttp(hosted(served.url)) as backend:
        with pytest.raises(ModelUnavailable, match="no chat completion"):
            await collect(backend, ChatRequest("hosted", ASK, stream=True))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", [Http1Client, HttpxClient])
@pytest.mark.parametrize("answer", [{"fault": "hang"}, {"say": "one two three", "pace": 3600}])
async def test_a_cancelled_chat_leaves_the_model_at_once(stream, client, answer):
    """The model sees the connection end, while it thinks and in the middle of a stream."""
    answer = answer if stream else answer | {"latency": 3600}
    with anyio.fail_after(10):
        async with serving(script(answer)) as (url, app), OpenAiHttp(hosted(url), plain=client()) as backend:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(collect, backend, ChatRequest("hosted", ASK, stream=stream, timeout=3600))
                while not app.requests:
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            while app.requests[0]["fate"] is None:
                await anyio.sleep(0.01)
            assert app.requests[0]["fate"] == "disconnected"
