"""What Guard lets in, and how it refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from agentmesh.core.policy import Principal
from agentmesh.errors import NotFound, ServeError
from agentmesh.http.auth import Guard, check_bind
from agentmesh.settings import Limits
from tests.http.serving import raw, served

pytestmark = pytest.mark.anyio

LIMITS = Limits(body=1000, headers=8000)


class Echo:
    """Answers what it got; counts calls, so that a refusal can be told from an answer."""

    def __init__(self) -> None:
        self.calls = 0
        self.bodies: list[bytes] = []
        self.principals: list[object] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        request = Request(scope, receive)
        if scope["path"] == "/boom":
            raise RuntimeError("secret detail")
        if scope["path"] == "/missing":
            raise NotFound("there is no such thing")
        self.bodies.append(await request.body())
        self.principals.append(request.state.principal)
        await JSONResponse({"path": scope["path"]})(scope, receive, send)


def get(host: str, *extra: str, path: str = "/any/where") -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *extra]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LocalHost:{port}", 200),
        ("[::1]:{port}", 200),
        ("mesh.example.com", 200),
        ("mesh.example.com:443", 200),
        ("127.0.0.1", 421),
        ("127.0.0.1:80", 421),
        ("127.0.0.1:{port}/healthz?x=", 421),
        ("127.0.0.1:{port}@evil.example", 421),
        ("evil.example:{port}", 421),
        ("127.0.0.1.evil.example:{port}", 421),
        ("localhost.:{port}", 421),
        ("127.0.0.1:0{port}", 421),
        ("127.0.0.2:{port}", 421),
        ("2130706433:{port}", 421),
        ("[::ffff:127.0.0.1]:{port}", 421),
        ("mesh.example.com:8443", 421),
        ("sub.mesh.example.com", 421),
        ("", 421),
    ],
)
async def test_host_is_compared_exactly(host: str, status: int) -> None:
    """Only the addresses that the server was started on get in, whatever the path."""
    app = Echo()
    async with served(Guard(app, url="https://mesh.example.com", limits=LIMITS)) as url:
        got, answer = await raw(url, get(host.format(port=url.rpartition(":")[2])))
    assert got == status, answer
    assert app.calls == (status == 200)
    if status != 200:
        assert b"application/problem+json" in answer


async def test_two_hosts_or_none_are_refused() -> None:
    """A request without one Host cannot be told to be ours."""
    app = Echo()
    async with served(Guard(app)) as url:
        port = url.rpartition(":")[2]
        twice, _ = await raw(url, get(f"127.0.0.1:{port}", "Host: evil.example"))
        none, _ = await raw(url, b"GET / HTTP/1.0\r\n\r\n")
    assert (twice, none, app.calls) == (400, 400, 0)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 200),
        ("http://localhost:{port}", 200),
        ("http://[::1]:{port}", 200),
        ("https://mesh.example.com", 200),
        ("http://mesh.example.com", 403),
        ("https://127.0.0.1:{port}", 403),
        ("http://127.0.0.1", 403),
        ("http://evil.example", 403),
        ("http://127.0.0.1:{port}.evil.example", 403),
        ("http://127.0.0.1:{port}/", 403),
        ("http://user@127.0.0.1:{port}", 403),
        ("null", 403),
        ("file://", 403),
        ("vscode-webview://abc", 403),
        ("", 403),
    ],
)
async def test_origin_is_compared_exactly_when_present(origin: str, status: int) -> None:
    """A page from elsewhere cannot use the server through its visitor's browser."""
    app = Echo()
    async with served(Guard(app, url="https://mesh.example.com", limits=LIMITS)) as url:
        port = url.rpartition(":")[2]
        async with httpx.AsyncClient(base_url=url) as client:
            answer = await client.post("/unknown", content=b"{}", headers={"Origin": origin.format(port=port)})
    assert answer.status_code == status
    assert app.calls == (status == 200)


async def test_nothing_allows_another_origin() -> None:
    """No CORS: a preflight gets no permission."""
    async with served(Guard(Echo())) as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.options("/v1/runs", headers={"Origin": url, "Access-Control-Request-Method": "POST"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    """413 comes after the headers, while the body was never sent."""
    app = Echo()
    async with served(Guard(app, limits=LIMITS)) as url:
        port = url.rpartition(":")[2]
        head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1001\r\n\r\n"
        got, answer = await raw(url, head.encode())
        huge = head.replace("1001", "9" * 18)
        assert (await raw(url, huge.encode()))[0] == 413
    assert (got, app.calls) == (413, 0)
    assert b'"code":"too_large"' in answer


@pytest.mark.parametrize("path", ["/mcp", "/a2a", "/a2a/message:send", "/v1/runs"])
async def test_a_refusal_has_the_form_of_the_protocol_spoken_there(path: str) -> None:
    """JSON-RPC, google.rpc.Status or a problem: with the same sentence and the same HTTP status."""
    async with served(Guard(Echo(), limits=LIMITS)) as url, httpx.AsyncClient() as client:
        answer = await client.post(url + path, content=b"x" * 1001)
    assert answer.status_code == 413
    said = "the body is over 1000 bytes"
    data = {"status": 413, "code": "too_large", "limit": 1000}
    match path:
        case "/mcp":  # MCP's schema knows no null id
            assert answer.json() == {"jsonrpc": "2.0", "error": {"code": -32600, "message": said, "data": data}}
        case "/a2a":
            assert answer.json() == {
                "jsonrpc": "2.0",
                "id": None,
                "error": {"code": -32600, "message": said, "data": data},
            }
        case "/a2a/message:send":
            assert answer.json() == {"error": {"code": 413, "status": "INVALID_ARGUMENT", "message": said}}
        case _:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["detail"] == said


async def test_a_chunked_body_over_the_limit_is_refused_while_it_is_read() -> None:
    """A body of unknown length is cut off at the limit; one at the limit arrives whole."""
    app = Echo()

    async def chunks(size: int):
        for _ in range(size // 100):
            yield b"x" * 100

    async with served(Guard(app, limits=LIMITS)) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.post("/", content=chunks(1100))).status_code == 413
        assert (await client.post("/", content=chunks(1000))).status_code == 200
    assert app.bodies == [b"x" * 1000]


async def test_a_body_that_never_comes_ends_in_408() -> None:
    """A slow client does not hold a request for ever."""
    app = Echo()
    async with served(Guard(app, body_seconds=0.05)) as url:
        port = url.rpartition(":")[2]
        got, _ = await raw(url, f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 9\r\n\r\nx".encode())
    assert (got, app.calls) == (408, 0)


async def test_headers_and_targets_have_limits() -> None:
    """431 and 414, not an application that chokes."""
    app = Echo()
    async with served(Guard(app, limits=LIMITS)) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/", headers={"x-large": "x" * 8000})).status_code == 431
        assert (await client.get("/" + "x" * 17000)).status_code == 414
    assert app.calls == 0


async def test_every_response_has_the_security_headers() -> None:
    """Refusals too."""
    async with served(Guard(Echo())) as url, httpx.AsyncClient(base_url=url) as client:
        for answer in (await client.get("/"), await client.get("/", headers={"Origin": "null"})):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"


async def test_an_error_that_leaves_the_application_is_a_problem() -> None:
    """A caller never sees a traceback or Python's words; our own errors keep theirs."""
    async with served(Guard(Echo())) as url, httpx.AsyncClient(base_url=url) as client:
        boom, missing = await client.get("/boom"), await client.get("/missing")
    assert (boom.status_code, boom.json()["code"]) == (500, "internal")
    assert "secret" not in boom.text
    assert boom.json()["id"] in boom.json()["detail"]
    assert (missing.status_code, missing.json()["detail"]) == (404, "there is no such thing")


async def test_the_principal_of_an_open_server_is_local() -> None:
    """Every application finds who asks in the request's state."""
    app = Echo()
    async with served(Guard(app)) as url, httpx.AsyncClient(base_url=url) as client:
        await client.get("/")
    assert app.principals == [Principal(subject="local", tenant="local")]


class Slow:
    """Begins to answer only when told to; says whether it was cancelled."""

    def __init__(self) -> None:
        self.begun, self.go, self.cancelled = anyio.Event(), anyio.Event(), anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun.set()
        try:
            await self.go.wait()
        except BaseException:
            self.cancelled.set()
            raise
        await Response("done")(scope, receive, send)


@pytest.mark.parametrize(("path", "cancelled"), [("/v1/x", True), ("/mcp", False)])
async def test_a_call_whose_client_left_is_cancelled_where_attended(path: str, cancelled: bool) -> None:
    """A blocking call of the API does not outlive its caller; other applications mind that themselves."""
    app = Slow()
    async with served(Guard(app)) as url:
        async with await anyio.connect_tcp("127.0.0.1", int(url.rpartition(":")[2])) as stream:
            await stream.send(get(url.removeprefix("http://"), path=path))
            with anyio.fail_after(5):
                await app.begun.wait()
        with anyio.fail_after(5):
            if cancelled:
                await app.cancelled.wait()
            else:
                app.go.set()
    assert app.cancelled.is_set() == cancelled


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_may_be_bound(host: str) -> None:
    """Any loopback address."""
    check_bind(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "mesh.example.com", "", "127.0.0.1.evil.example"])  # noqa: S104 - refused is what it must be
def test_anything_else_is_refused_until_callers_are_known(host: str) -> None:
    """The error says what to do instead."""
    with pytest.raises(ServeError, match="use --host"):
        check_bind(host)


async def test_what_is_cut_off_by_the_end_of_the_server_is_told_so() -> None:
    """503 and when to come again, in the form of the protocol spoken there; a response that has begun just breaks off."""
    begun = anyio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/half":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        begun.set()
        await anyio.sleep_forever()

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    def scope(path: str) -> Scope:
        return {
            "type": "http", "method": "POST", "path": path, "headers": [(b"host", b"127.0.0.1:80")],
            "server": ("127.0.0.1", 80),
        }  # fmt: skip

    guard = Guard(waits, attended=())
    task = asyncio.ensure_future(guard(scope("/mcp"), receive, send))
    await begun.wait()
    task.cancel()
    await task
    assert sent[0]["status"] == 503
    assert dict(sent[0]["headers"])[b"retry-after"]
    assert b"-32004" in sent[1]["body"]
    half = asyncio.ensure_future(guard(scope("/v1/half"), receive, send))
    await anyio.wait_all_tasks_blocked()
    half.cancel()
    with pytest.raises(asyncio.CancelledError):
        await half
