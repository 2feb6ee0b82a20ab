"""Agents that lie, flood, dawdle or break: nothing of it reaches more than the one call, and the error says what may be concluded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from agentmesh.adapters import upstream_a2a_http
from agentmesh.adapters.outbound import Guard
from agentmesh.adapters.upstream_a2a import PeerSource
from agentmesh.adapters.upstream_a2a_http import PeerHttp
from agentmesh.core.agent import PeerCall
from agentmesh.core.policy import Principal
from agentmesh.errors import (
    Conflict,
    Fail,
    InvalidInput,
    MeshError,
    NotFound,
    NotSent,
    Retry,
    Unanswered,
    UnsupportedMedia,
)
from tests.adapters.a2a_agents import CALL, WELL_KNOWN, Liar, card, interface, message, peer_at
from tests.http.serving import served

pytestmark = pytest.mark.anyio
STREAMS: dict[str, Any] = {"streaming": True}
DONE = {"id": "t", "contextId": "c", "status": {"state": "TASK_STATE_COMPLETED"}}


async def all_of(source: PeerSource, call: PeerCall = CALL, **more: Any) -> list[Any]:
    with anyio.fail_after(20):
        async with aclosing(source.send(message("x", **more), call)) as events:
            return [event async for event in events]


async def take(source: PeerSource, seen: list[Any]) -> None:
    """What comes, into a list that keeps it when an error follows."""
    async with aclosing(source.send(message("x"), CALL)) as events:
        async for event in events:
            seen.append(None if "artifactUpdate" in event else event)


def error_of(code: int, words: str = "no", **more: Any) -> Callable[[Any], Response]:
    return lambda asked: JSONResponse({
        "jsonrpc": "2.0", "id": asked["id"], "error": {"code": code, "message": words, **more},
    })  # fmt: skip


def stream_of(*results: Any, ident: str | None = None) -> Callable[[Any], Response]:
    """A stream of these results, ended."""

    def answer(asked: Any) -> Response:
        text = "".join(
            f"data: {json.dumps({'jsonrpc': '2.0', 'id': ident or asked['id'], 'result': one})}\n\n" for one in results
        )
        return Response(text, media_type="text/event-stream")

    return answer


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Response(status_code=401), Fail, "token"),
        (Response(status_code=403), Fail, "token"),
        (Response(status_code=500), Unanswered, "500"),
        (Response(status_code=429, headers={"retry-after": "7"}), Retry, "429"),
        (Response(status_code=503), Retry, "503"),
        (Response(status_code=302, headers={"location": "http://169.254.169.254/"}), Fail, "redirects"),
        (Response("no json"), Fail, "cannot be read"),
        (JSONResponse([1]), Fail, "cannot be read"),
        (Response(b"\xff\xfe{}"), Fail, "UTF-8"),
        (Response("[" * 100_000), Fail, "nested"),
        (Response(b" " * 9_000_000), Fail, "larger"),
        (Response(b"x", headers={"content-encoding": "gzip"}), Fail, "encoded"),
        (JSONResponse({"jsonrpc": "2.0", "id": "another", "result": {"task": DONE}}), Fail, "another request"),
        (JSONResponse({"jsonrpc": "2.0", "id": "1"}), Fail, "neither"),
        (error_of(-32602, "bad s3cret"), InvalidInput, r"bad \*\*\*"),
        (error_of(-32005), UnsupportedMedia, "refused the message"),
        (error_of(-32004), Fail, "refused"),
        (error_of(-32603), Fail, "refused"),
        (error_of(-32001), NotFound, "refused"),
        (error_of(-1, "own"), Fail, "own"),
        (error_of(-1, data=[{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "TASK_NOT_FOUND"}]), NotFound, "no"),
        (error_of(-32008, "needs x"), Fail, "needs x"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said(answer: Any, error: type[MeshError], words: str) -> None:
    """By what a caller may conclude from it, in this peer's name; the token is shown nowhere."""
    made = Liar(capabilities={})
    made.answers["SendMessage"] = answer if callable(answer) and not isinstance(answer, Response) else lambda _: answer
    async with made.met(token="s3cret") as source:
        with pytest.raises(error, match=words) as caught:
            await all_of(source)
        assert caught.value.message.startswith("echo: ")
        assert "s3cret" not in caught.value.message
        if isinstance(caught.value, Retry) and "429" in words:
            assert caught.value.after == 7


async def test_a_message_to_a_task_that_takes_none_is_a_conflict() -> None:
    """As is a task that cannot be cancelled."""
    made = Liar(capabilities={})
    made.answers = {"SendMessage": error_of(-32004), "CancelTask": error_of(-32002), "GetTask": error_of(-32001)}
    async with made.met() as source:
        with pytest.raises(Conflict):
            await all_of(source, taskId="t")
        with pytest.raises(Conflict):
            await source.cancel("t", CALL)
        with pytest.raises(NotFound):
            await source.get("t", CALL)


@pytest.mark.parametrize(
    ("payload", "status", "error"),
    [
        ({"error": {"code": 404, "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "TASK_NOT_FOUND"}]}},
         404, NotFound),
        ({"error": {"code": 400, "message": "bad"}}, 400, InvalidInput),
        ({"type": "ContentTypeNotSupportedError", "message": "no"}, 400, UnsupportedMedia),
        ({"detail": "gone"}, 410, Fail),
    ],
)  # fmt: skip
async def test_a_refusal_over_rest_is_told_by_its_reason(payload: Any, status: int, error: type[MeshError]) -> None:
    """By the details of 1.0, the type of 0.3, or the bare status."""
    made = Liar(binding="HTTP+JSON", capabilities={})
    made.answers["POST /message:send"] = lambda _: JSONResponse(payload, status_code=status)
    async with made.met() as source:
        with pytest.raises(error):
            await all_of(source)


async def test_a_subscription_by_get_is_found() -> None:
    """Where POST is not there, and the next goes there at once."""
    made = Liar(binding="HTTP+JSON", capabilities=STREAMS)
    made.answers["GET /tasks/t:subscribe"] = lambda _: Response(
        f"data: {json.dumps({'task': DONE})}\n\n", media_type="text/event-stream"
    )
    async with made.met() as source:
        for _ in range(2):
            async with aclosing(source.follow("t", CALL)) as events:
                assert [event async for event in events] == [{"task": DONE}]
        assert [name for name, _ in made.asked] == [
            "POST /tasks/t:subscribe", "GET /tasks/t:subscribe", "GET /tasks/t:subscribe",
        ]  # fmt: skip


@pytest.mark.parametrize(
    "result",
    [
        {"task": {**DONE, "status": {"state": "done"}}},
        {"task": {**DONE, "id": ""}},
        {"task": {**DONE, "id": "a\0b"}},
        {"task": {**DONE, "id": 7}},
        {"task": {**DONE, "artifacts": {}}},
        {"task": {**DONE, "artifacts": [{"artifactId": "a", "parts": [{"text": "x", "url": "y"}]}]}},
        {"task": {**DONE, "artifacts": [{"artifactId": "a", "parts": [{}, {"raw": "%%%"}]}]}},
        {"task": {**DONE, "history": ["x"]}},
        {"task": {**DONE, "metadata": [1]}},
        {"task": DONE, "message": {"messageId": "m", "role": "ROLE_AGENT", "parts": []}},
        {"message": {"messageId": "m", "role": "root", "parts": []}},
        {"message": {"role": "ROLE_AGENT", "parts": []}},
        {},
        "x",
        None,
    ],
)
async def test_what_is_no_message_of_the_protocol_goes_no_further(result: Any) -> None:
    """Whatever a later reader would stumble over."""
    made = Liar(capabilities={})
    made.answers["SendMessage"] = lambda _: result
    async with made.met() as source:
        with pytest.raises(Fail, match="cannot be read"):
            await all_of(source)


async def test_what_the_protocol_does_not_have_is_left_out() -> None:
    """Members of later versions and of nobody; a file in the other alphabet is read."""
    made = Liar(capabilities={})
    made.answers["SendMessage"] = lambda _: {
        "task": {
            **DONE,
            "x": 1,
            "artifacts": [{"artifactId": "a", "y": 2, "parts": [{"raw": "-_8", "z": 3}, {"data": None}]}],
        }
    }
    async with made.met() as source:
        [event] = await all_of(source)
    assert event == {"task": {**DONE, "artifacts": [{"artifactId": "a", "parts": [{"raw": "+/8="}, {"data": None}]}]}}


@pytest.mark.parametrize(
    "later",
    [
        {"task": {**DONE, "id": "other"}},
        {"statusUpdate": {"taskId": "other", "status": {"state": "TASK_STATE_WORKING"}}},
        {"artifactUpdate": {"taskId": "other", "artifact": {"artifactId": "a", "parts": []}}},
    ],
)
async def test_a_stream_speaks_of_one_task(later: Any) -> None:
    """Another one's is never taken for it."""
    made = Liar(capabilities=STREAMS)
    working = {**DONE, "status": {"state": "TASK_STATE_WORKING"}}
    made.answers["SendStreamingMessage"] = stream_of({"task": working}, later)
    made.answers["GetTask"] = lambda _: {**DONE, "id": "other"}
    async with made.met() as source:
        with pytest.raises(Fail, match="task other"):
            await all_of(source)
        with pytest.raises(Fail, match="other"):
            await source.get("t", CALL)


async def test_a_stream_of_another_request_is_none() -> None:
    """Each of its answers names the request."""
    made = Liar(capabilities=STREAMS)
    made.answers["SendStreamingMessage"] = stream_of({"task": DONE}, ident="x")
    async with made.met() as source:
        with pytest.raises(Fail, match="another request"):
            await all_of(source)


async def test_an_event_over_the_limit_ends_its_stream() -> None:
    """What came before stays."""
    made = Liar(capabilities=STREAMS)
    huge = {"artifactUpdate": {"taskId": "t", "artifact": {"artifactId": "a", "parts": [{"text": "x" * 9_000_000}]}}}
    made.answers["SendStreamingMessage"] = stream_of(
        {"task": {**DONE, "status": {"state": "TASK_STATE_WORKING"}}}, huge
    )
    async with made.met() as source:
        seen: list[Any] = []
        with pytest.raises(Fail, match="larger"):
            await take(source, seen)
        assert len(seen) == 1


async def test_a_stream_that_does_not_end_is_left() -> None:
    """By its events or its bytes, whichever are too many first."""
    made = Liar(capabilities=STREAMS)
    part = json.dumps({"taskId": "t", "artifact": {"artifactId": "a", "parts": [{"text": "x" * 7_000_000}]}})
    left = anyio.Event()

    def endless(asked: Any) -> Response:
        async def parts() -> AsyncIterator[str]:
            try:
                while True:
                    await anyio.lowlevel.checkpoint()
                    yield f'data: {{"jsonrpc": "2.0", "id": "{asked["id"]}", "result": {{"artifactUpdate": {part}}}}}\n\n'
            finally:
                left.set()

        return StreamingResponse(parts(), media_type="text/event-stream")

    made.answers["SendStreamingMessage"] = endless
    async with made.met() as source:
        seen: list[Any] = []
        with pytest.raises(Fail, match="does not end"):
            await take(source, seen)
        assert len(seen) <= upstream_a2a_http.STREAM // 7_000_000
        with anyio.fail_after(10):
            await left.wait()


async def test_a_stream_that_says_nothing_more_is_left_in_time() -> None:
    """Without an error: whoever wants to know asks for the task. One that never says a word is unanswered."""
    made = Liar(capabilities=STREAMS)
    working = {**DONE, "status": {"state": "TASK_STATE_WORKING"}}
    words = [True, False]

    def silent(asked: Any) -> Response:
        async def parts() -> AsyncIterator[str]:
            if words.pop(0):
                yield f"data: {json.dumps({'jsonrpc': '2.0', 'id': asked['id'], 'result': {'task': working}})}\n\n"
            await anyio.sleep_forever()

        return StreamingResponse(parts(), media_type="text/event-stream")

    made.answers["SendStreamingMessage"] = silent
    call = PeerCall(Principal(), timeout=0.2)
    async with made.met() as source:
        assert await all_of(source, call) == [{"task": working}]
        with pytest.raises(Unanswered, match="nothing"):
            await all_of(source, call)


@asynccontextmanager
async def raw_agent(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[PeerSource, list[int]]]:
    """A peer whose interface is that function of a connection; and a list that grows with each connection."""
    made, connections = Liar(), list[int]()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        with suppress(ConnectionError):
            await handle(reader, writer)
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        async with served(made.app) as url:
            port = server.sockets[0].getsockname()[1]
            made.card = card(interface(f"http://127.0.0.1:{port}/rpc", "JSONRPC"), capabilities=STREAMS)
            async with peer_at(url) as source:
                yield source, connections
    finally:
        server.close()


async def read_request(reader: asyncio.StreamReader) -> Any:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return json.loads(await reader.readexactly(length))


async def test_a_slow_loris_is_left_in_time() -> None:
    """A head that comes byte by byte is none: the request may have been done."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in b"HTTP/1.1 200 OK\r\n" * 1000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_agent(handle) as (source, _):
        with pytest.raises(Unanswered, match=r"within 0\.3 s"):
            await all_of(source, PeerCall(Principal(), timeout=0.3))


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\nzz\r\n", b"x" * 100_000,
    ],
    ids=["nothing", "ssh", "half", "length", "chunk", "head"],
)  # fmt: skip
async def test_what_is_no_whole_answer_may_have_been_done(answer: bytes) -> None:
    """Unanswered: it is not sent again by itself, and the message went out once."""
    requests: list[Any] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.write(answer)
        await writer.drain()

    async with raw_agent(handle) as (source, _):
        with pytest.raises(Unanswered):
            await all_of(source)
        assert len(requests) == 1


async def test_a_connection_is_kept_when_a_stream_is_left_at_its_end() -> None:
    """And closed when it is left before: nobody reads on then."""

    def chunk(ident: str, result: Any) -> bytes:
        data = f"data: {json.dumps({'jsonrpc': '2.0', 'id': ident, 'result': result})}\n\n".encode()
        return f"{len(data):x}\r\n".encode() + data + b"\r\n"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = await read_request(reader)
            if asked["params"]["message"]["messageId"] == "m-z":
                data = (
                    f"data: {json.dumps({'jsonrpc': '2.0', 'id': asked['id'], 'result': {'task': DONE}})}\n\n".encode()
                )
                head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(data)}\r\ncontent-type: text/event-stream\r\n\r\n"
                writer.write(head.encode() + data)
                continue
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n")
            if asked["params"]["message"]["messageId"] == "m-x":
                writer.write(chunk(asked["id"], {"task": DONE}) + b"0\r\n\r\n")
            else:
                writer.write(chunk(asked["id"], {"task": {**DONE, "status": {"state": "TASK_STATE_WORKING"}}}))
                assert await reader.read() == b""
                return

    async with raw_agent(handle) as (source, connections):
        for text in "xxzzx":
            async with aclosing(source.send(message(text), CALL)) as events:
                await anext(events)
        assert len(connections) == 1
        for number in range(3):
            async with aclosing(source.send(message("y"), CALL)) as events:
                await anext(events)
            assert len(connections) == 1 + number


async def test_a_name_that_leads_inside_is_not_gone_to() -> None:
    """Whatever the card wrote: the address is judged when the connection is made, and nothing is sent."""
    asked = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["93.184.216.34", "127.0.0.1"]

    async with PeerHttp("https://agent.example/card", None, guard=Guard(["agent.example"], resolve=resolve)) as http:
        with pytest.raises(Fail, match="loopback"):
            await http.ask("GET", "http://other.example/rpc", {}, None, again=False)
        with pytest.raises(Fail, match="private"):
            await http.ask("GET", "http://169.254.169.254/latest", {}, None, again=False)
    assert asked == ["other.example"]


async def test_a_card_that_redirects_floods_or_is_none_is_refused() -> None:
    """In one sentence; the peer is down, and gets no message."""

    async def bad(request: Request) -> Response:
        match request.path_params["how"]:
            case "redirect":
                return Response(status_code=302, headers={"location": "http://169.254.169.254/latest/meta-data"})
            case "flood":
                return Response(b" " * 2_000_000)
            case "list":
                return JSONResponse([])
        return JSONResponse({"hello": "world"})

    made = Liar()
    made.app.add_route("/bad/{how}", bad)
    async with served(made.app) as url:
        for how, words in [
            ("redirect", "redirects to"),
            ("flood", "larger"),
            ("list", "no card"),
            ("x", "neither a name"),
        ]:
            async with peer_at(url, path=f"/bad/{how}") as source:
                assert words in source.status().detail
                assert source.status().state == "failed"
                with pytest.raises(Fail, match="cannot be used"):
                    await all_of(source)
    async with peer_at("http://127.0.0.1:9", path=WELL_KNOWN) as source:
        with pytest.raises(NotSent):
            await all_of(source)
