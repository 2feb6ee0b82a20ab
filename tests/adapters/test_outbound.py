"""Where somebody else's address may lead: judged in every spelling, at the moment of connecting, on what the name resolves to."""

from __future__ import annotations

import ipaddress
import socket
import ssl

import anyio
import httpx
import pytest

from agentmesh.adapters.outbound import Guard, Outbound, SystemResolver
from agentmesh.adapters.outbound_transport import GuardedTransport
from agentmesh.core.outside import HttpRequest
from agentmesh.errors import Fail, InvalidInput, NotSent, Unanswered
from tests.adapters.test_http_outside import listening, server
from tests.requirements import covers

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
INSIDE = (
    "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "017700000001", "0", "0.1.2.3",
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "192.0.2.1", "192.88.99.1", "224.0.0.1",
    "240.0.0.1", "255.255.255.255",
    "::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:0:127.0.0.1", "::ffff:10.0.0.1", "::10.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "64:ff9b:1:7f00:0:100::", "2002:7f00:1::", "2002:a00:1::1",
    "2001:0:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "fd00::1", "fc00::1", "fec0::1", "fe80::1", "ff02::1", "100::1",
    "2001:db8::1", "4000::1", "3fff::1",
)  # fmt: skip
PUBLIC = ("8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Names:
    """A name service that says what it is told to, the last answer for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(said) for name, said in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        said = self.answers.get(host)
        if said is None:
            raise OSError("no such name")
        return said.pop(0) if len(said) > 1 else said[0]


async def post(outbound: Outbound, url: str, **fields: object) -> int:
    async with outbound:
        sent = HttpRequest("POST", url, body=b"{}", **{"timeout": 5.0, "raw": True, **fields})  # type: ignore[arg-type]
        return (await outbound.send(sent)).status


@covers("A2A-1.0.1 13.2#push-urls")
@pytest.mark.parametrize("address", INSIDE)
async def test_a_name_that_leads_inside_is_refused_where_it_is_connected(address: str) -> None:
    """Whatever the address is wrapped in: the answer of the name service is judged, not the name."""
    guard = Guard(resolve=Names(hooks_example=[[address]]))
    guard.check("https://hooks.example/x")
    with pytest.raises(Fail, match=r"hooks\.example leads to"):
        await guard.addresses("hooks.example", 443)


@covers("A2A-1.0.1 13.2#push-urls")
@pytest.mark.parametrize("address", INSIDE)
async def test_an_address_inside_is_refused_as_it_is_written(address: str) -> None:
    """When the webhook is configured, and when it is connected to."""
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(InvalidInput):
        Guard().check(f"https://{host}/x")
    with pytest.raises(Fail):
        await Guard(resolve=Names()).addresses(address, 443)


@pytest.mark.parametrize("address", PUBLIC)
async def test_a_public_address_is_not_refused(address: str) -> None:
    """The guard is no wall."""
    guard = Guard(resolve=Names(hooks_example=[[address]]))
    (found,) = await guard.addresses("hooks.example", 443)
    assert ipaddress.ip_address(found) == ipaddress.ip_address(address)
    assert await guard.addresses(address, 443) == [found]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/x", "file:///etc/passwd", "example.com", "", "http://", "https:///x", "http://user:word@example.com/",
        "http://user@127.0.0.1/", "http://localhost/", "http://LOCALHOST./", "http://a.localhost:80/", "http://db.internal/",
        "http://printer.local/", "http://127.0.0.1./", "http://[fe80::1%25eth0]/", "http://%31%32%37.0.0.1/", "http://127。0。0。1/",
        "http://１２７.０.０.１/", "http://[::ffff:127.0.0.1]/", "http://example.com:99999/", "http://example.com:0/",
        "http://ex ample.com/", "https://example.com/" + "x" * 2100, "http://127.0.0.1\\@example.com/", "gopher://example.com",
        "javascript:alert(1)", "http://ⓛocalhost/",
    ],
)  # fmt: skip
def test_what_is_plainly_no_place_to_send_to_is_refused_at_once(url: str) -> None:
    """Nothing is looked up for that."""
    with pytest.raises(InvalidInput):
        Guard().check(url)


@pytest.mark.parametrize(
    "url", ["https://example.com/x?y=z", "http://example.com:8080/", "https://xn--bcher-kva.example/", "https://bücher.example/"]
)  # fmt: skip
def test_a_public_address_passes_the_first_look(url: str) -> None:
    """Also one in letters of other alphabets."""
    Guard().check(url)


async def test_one_address_inside_among_several_refuses_all() -> None:
    """A name that is here and there is treated as one that is here."""
    guard = Guard(resolve=Names(hooks_example=[["8.8.8.8", "127.0.0.1"]]))
    with pytest.raises(Fail, match="loopback"):
        await guard.addresses("hooks.example", 443)


async def test_the_address_that_was_judged_is_the_one_that_is_connected_to() -> None:
    """A name service that says something else the second time is not asked a second time."""
    async with server(OK) as (url, seen):
        port = int(url.rsplit(":", 1)[1])
        names = Names(hooks_example=[["127.0.0.1"], ["192.0.2.1"]])
        outbound = Outbound(Guard(["127.0.0.1"], resolve=names))
        assert await post(outbound, f"http://hooks.example:{port}/x") == 200
    assert names.asked == ["hooks.example"]
    assert seen[0][1]["host"] == f"hooks.example:{port}"


async def test_a_name_that_is_turned_inside_after_the_check_is_not_connected_to() -> None:
    """Rebinding: it was public when the webhook was configured."""
    async with server(OK) as (url, seen):
        port = int(url.rsplit(":", 1)[1])
        guard = Guard(resolve=Names(hooks_example=[["8.8.8.8"], ["127.0.0.1"]]))
        guard.check(f"http://hooks.example:{port}/")
        assert await guard.addresses("hooks.example", port) == ["8.8.8.8"]
        with pytest.raises(Fail, match="leads to a loopback address"):
            await post(Outbound(guard), f"http://hooks.example:{port}/")
    assert seen == []


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest", "/elsewhere", "https://example.com/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_redirect_is_not_followed(location: str, method: str) -> None:
    """Neither to elsewhere nor to the same server."""
    reply = f"HTTP/1.1 307 Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()
    async with server(reply) as (url, seen), Outbound(Guard(["127.0.0.1"])) as outbound:
        for raw in (True, False):
            with pytest.raises(Fail, match="redirects are not followed"):
                await outbound.send(HttpRequest(method, url, timeout=5, raw=raw))
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("allow", "host", "address", "passes"),
    [
        (["hooks.internal"], "hooks.internal", "10.0.0.7", True),
        (["hooks.internal"], "HOOKS.internal.", "127.0.0.1", True),
        (["hooks.internal"], "hooks.internal", "169.254.169.254", False),
        (["hooks.internal"], "hooks.internal", "224.0.0.1", False),
        (["hooks.internal"], "other.internal", "10.0.0.7", False),
        (["10.1.0.0/16"], "a.example", "10.1.2.3", True),
        (["10.1.0.0/16"], "a.example", "10.2.0.1", False),
        (["10.1.0.0/16"], "a.example", "::ffff:10.1.2.3", True),
        (["10.1.0.0/16"], "a.example", "64:ff9b::a01:203", False),
        (["127.0.0.1"], "127.0.0.1", "127.0.0.1", True),
        (["127.0.0.1"], "127.0.0.2", "127.0.0.2", False),
        (["127.0.0.1"], "0x7f.1", "127.0.0.1", True),
        (["::1"], "a.example", "::1", True),
        (["[::1]"], "a.example", "::1", True),
        (["localhost"], "localhost", "127.0.0.1", True),
        (["169.254.0.0/16"], "a.example", "169.254.169.254", True),
    ],
)
async def test_what_the_operator_permits_passes_and_nothing_else(
    allow: list[str], host: str, address: str, *, passes: bool
) -> None:
    """Names permit what they lead to in this machine's networks, addresses and networks permit themselves."""
    guard = Guard(lambda: allow, resolve=Names(**{host.replace(".", "_"): [[address]]}))
    if passes:
        guard.check(f"http://{host}/x")
        assert len(await guard.addresses(host, 80)) == 1
    else:
        with pytest.raises(Fail):
            await guard.addresses(host, 80)


async def test_the_list_is_read_anew_each_time() -> None:
    """Files that are taken over while the server runs count at once."""
    allow: list[str] = []
    guard = Guard(lambda: allow)
    with pytest.raises(InvalidInput, match=r"a2a\.webhooks"):
        guard.check("http://127.0.0.1/")
    allow.append("127.0.0.1")
    guard.check("http://127.0.0.1/")


async def test_tls_asks_for_the_name_and_wants_its_certificate(tmp_path) -> None:
    """The connection goes to an address; who is there has to be who was named."""
    from tests.adapters.certificates import certificate

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate(tmp_path, "hooks.example"))
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    trust = ssl.create_default_context(cafile=str(tmp_path / "hooks.example.pem"))
    names = Names(hooks_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]])

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()

    async with listening(serve, tls=context) as port:
        transport = GuardedTransport(Guard(["127.0.0.1"], resolve=names), verify=trust)
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get(f"https://hooks.example:{port}/")).status_code == 200
            with pytest.raises(httpx.ConnectError):
                await client.get(f"https://other.example:{port}/")
    assert asked == ["hooks.example", "other.example"]


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    """A name with several addresses is as good as the best of them."""
    async with server(OK) as (url, _):
        port = int(url.rsplit(":", 1)[1])
        outbound = Outbound(Guard(["127.0.0.0/8"], resolve=Names(a_example=[["127.0.0.9", "127.0.0.1"]])))
        assert await post(outbound, f"http://a.example:{port}/") == 200


async def test_what_was_not_sent_is_told_from_what_was_not_answered() -> None:
    """The former may be sent again whatever it asks for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(NotSent):
        await post(Outbound(Guard(["127.0.0.1"])), f"http://127.0.0.1:{port}/")
    with pytest.raises(NotSent, match="cannot be found"):
        await post(Outbound(Guard(resolve=Names())), "http://nowhere.example/")
    async with server(None) as (url, _):
        with pytest.raises(Unanswered):
            await post(Outbound(Guard(["127.0.0.1"])), url)
    silent = anyio.Event()
    async with server(silent) as (url, _):
        with pytest.raises(Unanswered, match="did not answer within"):
            await post(Outbound(Guard(["127.0.0.1"])), url, timeout=0.2)
        silent.set()


async def test_a_name_service_that_does_not_answer_costs_no_more_than_the_time_allowed() -> None:
    """And the request counts as not sent."""

    async def never(host: str, port: int) -> list[str]:
        await anyio.sleep_forever()
        return []

    with anyio.fail_after(5), pytest.raises(NotSent):
        await post(Outbound(Guard(resolve=never)), "http://slow.example/", timeout=0.2)


async def test_an_answer_without_end_is_left_after_its_first_bytes() -> None:
    """Whoever answers for ever has answered."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with listening(serve) as port, Outbound(Guard(["127.0.0.1"])) as outbound:
        with anyio.fail_after(5):
            answer = await outbound.send(
                HttpRequest("POST", f"http://127.0.0.1:{port}/", raw=True, limit=1000, body=b"")
            )
            assert answer.body == b"x" * 1000
            transport = GuardedTransport(["127.0.0.1"], limit=100_000)
            async with httpx.AsyncClient(transport=transport) as client:
                with pytest.raises(Fail, match="larger than 97 KiB"):
                    await client.get(f"http://127.0.0.1:{port}/")


async def test_the_connection_of_a_short_answer_is_used_again() -> None:
    """A webhook that is told ten things is not connected to ten times."""
    connections = 0

    async def serve(reader, writer):
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            writer.write(OK)
            await writer.drain()

    async with listening(serve) as port, Outbound(Guard(["127.0.0.1"])) as outbound:
        for _ in range(10):
            assert await outbound.post(f"http://127.0.0.1:{port}/", {}, b"{}") == (200, None)
    assert connections == 1


async def test_no_cookie_is_kept_and_none_is_sent() -> None:
    """What one webhook sets is not for the next."""
    reply = b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
    async with server(reply) as (url, seen):
        async with httpx.AsyncClient(transport=GuardedTransport(["127.0.0.1"])) as client:
            await client.get(url)
            await client.get(url)
        async with Outbound(Guard(["127.0.0.1"])) as outbound:
            for _ in range(2):
                await outbound.send(HttpRequest("POST", url, raw=True))
    assert all("cookie" not in headers for _, headers, _ in seen)


async def test_the_proxies_of_the_environment_are_not_asked(monkeypatch) -> None:
    """They would look the name up elsewhere, after it was judged here."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with server(OK) as (url, _):
        assert await post(Outbound(Guard(["127.0.0.1"])), url) == 200


async def test_a_proxy_that_the_operator_configured_is_asked_for_all() -> None:
    """It looks the name up and judges it; what is plainly inside is refused here all the same."""
    names = Names()
    async with server(OK) as (url, seen):
        outbound = Outbound(Guard(resolve=names), proxy=url)
        async with outbound:
            sent = HttpRequest("POST", "http://hooks.example/x", raw=True, timeout=5)
            assert (await outbound.send(sent)).status == 200
            with pytest.raises(Fail):
                await outbound.send(HttpRequest("POST", "http://0x7f.1/x", raw=True, timeout=5))
    assert [first for first, *_ in seen] == ["POST http://hooks.example/x HTTP/1.1"]
    assert names.asked == []


async def test_the_system_looks_names_up_in_threads_of_its_own() -> None:
    """Numbers that only a resolver reads are read as it does."""
    assert await SystemResolver()("127.1", 80) == ["127.0.0.1"]
    with pytest.raises(Fail, match="loopback"):
        await Guard().addresses("127.1", 80)
