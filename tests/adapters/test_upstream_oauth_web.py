"""What an upstream names for its logins is asked with caution."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.abc
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agentmesh.adapters.reach import Reach, reach_of
from agentmesh.adapters.upstream_oauth_web import BYTES, OAuthWeb
from agentmesh.errors import Fail, Retry
from tests.http.serving import served
from tests.requirements import covers

pytestmark = pytest.mark.anyio
LOCAL = "http://127.0.0.1:9/mcp"


class Names:
    """Names and their addresses, and what was asked."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = {name.replace("_", "."): found for name, found in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.names:
            raise OSError(host)
        return self.names[host]


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("93.184.215.14", Reach.PUBLIC), ("2606:2800:220:1::1", Reach.PUBLIC),
        ("10.0.0.1", Reach.PRIVATE), ("172.31.255.255", Reach.PRIVATE), ("192.168.1.1", Reach.PRIVATE), ("100.64.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE), ("192.0.2.1", Reach.PRIVATE),
        ("127.0.0.1", Reach.LOOPBACK), ("127.9.9.9", Reach.LOOPBACK), ("::1", Reach.LOOPBACK),
        ("169.254.169.254", Reach.LINK_LOCAL), ("fe80::1", Reach.LINK_LOCAL),
        ("::", Reach.NONE), ("0.0.0.0", Reach.NONE),  # noqa: S104 - nothing binds it
        ("224.0.0.1", Reach.NONE), ("ff02::1", Reach.NONE), ("255.255.255.255", Reach.NONE),
        ("::ffff:127.0.0.1", Reach.LOOPBACK), ("::ffff:10.0.0.1", Reach.PRIVATE), ("64:ff9b::169.254.169.254", Reach.LINK_LOCAL),
        ("2002:7f00:1::", Reach.LOOPBACK), ("64:ff9b::8.8.8.8", Reach.PUBLIC),
    ],
)  # fmt: skip
def test_reach(address: str, reach: Reach) -> None:
    """How near an address is, also one that is wrapped in another."""
    assert reach_of(ipaddress.ip_address(address)) is reach


@covers("MCP-2026-07-28 basic/authorization/security-considerations#ssrf")
@pytest.mark.parametrize(
    ("upstream", "other", "allowed"),
    [
        (Reach.PUBLIC, Reach.PUBLIC, True), (Reach.PUBLIC, Reach.PRIVATE, False), (Reach.PUBLIC, Reach.LOOPBACK, False),
        (Reach.PUBLIC, Reach.LINK_LOCAL, False), (Reach.PRIVATE, Reach.PUBLIC, True), (Reach.PRIVATE, Reach.PRIVATE, True),
        (Reach.PRIVATE, Reach.LOOPBACK, False), (Reach.PRIVATE, Reach.LINK_LOCAL, False), (Reach.LOOPBACK, Reach.LOOPBACK, True),
        (Reach.LOOPBACK, Reach.PRIVATE, True), (Reach.LOOPBACK, Reach.LINK_LOCAL, False), (Reach.LINK_LOCAL, Reach.LINK_LOCAL, True),
        (Reach.LOOPBACK, Reach.NONE, False),
    ],
)  # fmt: skip
def test_nothing_nearer(upstream: Reach, other: Reach, allowed: bool) -> None:
    """An upstream can name nothing that is nearer to the mesh than itself, and a machine's credentials never."""
    assert upstream.includes(other) is allowed


@covers(
    "MCP-2026-07-28 basic/authorization/security-considerations#communication",
    "MCP-2026-07-28 basic/authorization/security-considerations#ssrf",
)
@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://10.1.2.3/token", "a private address"),
        ("https://inside.example/token", "a private address"),
        ("https://both.example/token", "a private address"),
        ("http://169.254.169.254/latest/meta-data", "a link-local address"),
        ("https://[::1]:8443/token", "a loopback address"),
        ("http://localhost:8080/token", "a loopback address"),
        ("http://auth.example/token", "has to begin with https://"),
        ("ftp://auth.example/token", "not of the form"),
        ("javascript:alert(1)", "not of the form"),
        ("https://user:word@auth.example/", "not of the form"),
        ("https:///token", "not of the form"),
        ("https://auth.example:99999/", "none|not of the form"),
        ("https://nowhere.example/", "cannot be found"),
    ],
)
async def test_addresses_that_are_not_asked(url: str, says: str) -> None:
    """From an upstream on the internet: nothing inside, nothing without TLS, nothing that is no address."""
    names = Names(
        mcp_example=["93.184.215.14"], auth_example=["93.184.215.15"], inside_example=["10.0.0.8"],
        both_example=["93.184.215.15", "192.168.0.1"], localhost=["127.0.0.1"],
    )  # fmt: skip
    web = OAuthWeb("https://mcp.example/mcp", resolve=names, seconds=5)
    for ask in (web.get, web.check):
        with pytest.raises((Fail, Retry), match=says):
            await ask(url)


async def test_the_address_that_was_looked_at_is_the_one_that_is_asked() -> None:
    """A name that leads elsewhere the second time (DNS rebinding) gains nothing by it: it is asked for once."""

    async def hello(request: Request) -> Response:
        return JSONResponse({"host": request.headers["host"]})

    async with served(Starlette(routes=[Route("/", hello)])) as url:
        port = url.rpartition(":")[2]
        names = Names(auth_example=["127.0.0.1"])
        answer = await OAuthWeb(LOCAL, resolve=names).get(f"http://auth.example:{port}/")
        assert answer.body == {"host": f"auth.example:{port}"}
        assert names.asked == ["auth.example"]


async def test_the_next_address() -> None:
    """Where a name has several addresses, and nobody answers at the first, the next one is asked."""

    async def hello(request: Request) -> Response:
        return JSONResponse({"ok": True})

    async with served(Starlette(routes=[Route("/", hello)])) as url:
        port = url.rpartition(":")[2]
        web = OAuthWeb(LOCAL, resolve=Names(localhost=["127.0.0.77", "127.0.0.1"]))
        assert (await web.get(f"http://localhost:{port}/")).body == {"ok": True}


async def test_redirects() -> None:
    """Within the origin a document's redirect is followed, not for ever; to another origin never, and a form's never."""
    seen: list[str] = []

    async def go(request: Request) -> Response:
        seen.append(f"{request.method} {request.url.path}")
        return RedirectResponse(request.path_params["to"].replace("~", "/"), 307)

    async def there(request: Request) -> Response:
        seen.append(f"{request.method} {request.url.path}")
        return JSONResponse({"there": True})

    app = Starlette(
        routes=[Route("/go/{to:path}", go, methods=["GET", "POST"]), Route("/there", there, methods=["GET", "POST"])]
    )
    async with served(app) as url, served(app) as elsewhere:
        web = OAuthWeb(LOCAL)
        assert (await web.get(f"{url}/go/~there")).body == {"there": True}
        seen.clear()
        answer = await web.get(f"{url}/go/{elsewhere.replace('/', '~')}~there")
        assert (answer.status, answer.body) == (307, {})
        assert len(seen) == 1
        seen.clear()
        assert (await web.post(f"{url}/go/~there", form={"code": "secret"})).status == 307
        assert seen == ["POST /go/~there"]
        with pytest.raises(Fail, match="redirects more than"):
            await web.get(f"{url}/go/~go~~go~~go~~go~~go")


async def test_answers_are_bounded() -> None:
    """An answer without end, or in an encoding that could hide one, is cut off; what is no object is none."""

    async def endless(request: Request) -> Response:
        return Response(b"x" * (BYTES + 1), headers={"content-type": "application/json"})

    async def packed(request: Request) -> Response:
        return Response(b"x", headers={"content-encoding": "gzip"})

    async def odd(request: Request) -> Response:
        return Response(
            {"list": b"[1]", "text": b"<html>", "deep": b"[" * 9000, "nothing": b""}[request.path_params["what"]]
        )

    app = Starlette(routes=[Route("/endless", endless), Route("/packed", packed), Route("/odd/{what}", odd)])
    async with served(app) as url:
        web = OAuthWeb(LOCAL)
        with pytest.raises(Fail, match="larger than 256 KiB"):
            await web.get(f"{url}/endless")
        with pytest.raises(Fail, match="encoding"):
            await web.get(f"{url}/packed")
        for what in ("list", "text", "deep", "nothing"):
            assert (await web.get(f"{url}/odd/{what}")).body == {}


async def test_a_server_that_does_not_answer() -> None:
    """It is waited for so long and no longer; one that is not there may be tried again."""
    held = anyio.Event()

    async def hang(request: Request) -> Response:
        await held.wait()
        return JSONResponse({})

    async with served(Starlette(routes=[Route("/", hang)])) as url:
        with anyio.fail_after(5), pytest.raises(Retry, match=r"did not answer within 0\.2 s|cannot be asked"):
            await OAuthWeb(LOCAL, seconds=0.2).get(url)
        held.set()
    with pytest.raises(Retry, match="cannot be asked"):
        await OAuthWeb(LOCAL).get(url)


async def test_tls_asks_for_the_name() -> None:
    """A server whose certificate is not for the name that it was asked by is not believed, whatever its address."""
    asked: list[Any] = []

    async def handle(stream: Any) -> None:
        async with stream:
            data = await stream.receive(4096)
            asked.append(data)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no database is meant
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        with pytest.raises(Retry):
            await OAuthWeb(LOCAL, resolve=Names(auth_example=["127.0.0.1"])).get(f"https://auth.example:{port}/")
        group.cancel_scope.cancel()
    assert b"auth.example" in asked[0], "the name goes with the first words of TLS"
