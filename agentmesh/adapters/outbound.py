"""Outbound: HTTP to addresses that callers or other servers name. A Guard judges where they lead; Outbound sends to them.

A name is resolved once, every address that it has is judged, and the connection goes to one of the very addresses that were judged:
a second answer of the name service changes nothing. TLS asks for the name. One address inside among several is enough to refuse all of
them. What the operator permits is a list of host names, addresses and networks: a name permits what it leads to on this machine and in
its networks, but not where clouds keep a machine's credentials (link-local), for which the address itself has to be listed.

With a proxy that the operator configured the lookup is the proxy's, and so is the judgement of what the name leads to: here only what
is plain from the spelling is refused.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import anyio.to_thread

from agentmesh import __version__
from agentmesh.adapters.http_outside import CONNECT_TIME, OutsideHttp
from agentmesh.adapters.reach import Address, Reach, address_of, names_inside, reach_of
from agentmesh.core.outside import HttpAnswer, HttpRequest
from agentmesh.errors import Fail, InvalidInput

if TYPE_CHECKING:
    import httpx

URL_LENGTH: Final = 2048
LOOKUPS: Final = 32
"""Names that are looked up at once, in threads of their own: a name service that does not answer holds up nobody else's."""
ADDRESSES: Final = 8
"""Of one name, that are tried."""
ANSWER: Final = 16 * 1024
"""Bytes of an answer that are read: its connection can be used again when that was all of it."""
CONNECTIONS: Final = 256
SECONDS: Final = 15.0
"""For one notification and its answer."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Allow = Sequence[str] | Callable[[], Sequence[str]]
"""Host names, addresses and networks; or what tells them, for a list that changes while the server runs."""


class Resolve(Protocol):
    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a name. OSError when it has none."""


class SystemResolver:
    """As every other program of this machine does."""

    def __init__(self, at_once: int = LOOKUPS) -> None:
        self._limiter = anyio.CapacityLimiter(at_once)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        look = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await anyio.to_thread.run_sync(look, limiter=self._limiter, abandon_on_cancel=True)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Guard:
    """Judges where an address that somebody else named leads."""

    def __init__(self, allow: Allow = (), *, resolve: Resolve | None = None) -> None:
        self._allow = allow if callable(allow) else lambda: allow
        self._resolve = resolve or SystemResolver()

    def check(self, url: str) -> None:
        """InvalidInput for what is no http(s) address, or is plainly one inside that is not permitted. Looks nothing up."""
        import httpx

        if len(url) > URL_LENGTH:
            raise InvalidInput(f"the url is longer than {URL_LENGTH} characters")
        try:
            parsed = httpx.URL(url)
            port = parsed.port
        except (httpx.InvalidURL, TypeError, ValueError):
            raise InvalidInput("the url is none; give one such as https://HOST/PATH") from None
        self.check_parts(parsed.scheme, parsed.host, port, userinfo=bool(parsed.userinfo))

    def check_parts(self, scheme: str, host: str, port: int | None, *, userinfo: bool = False) -> None:
        """`check`, of an address in parts."""
        if scheme not in {"http", "https"} or not host or not (port is None or 0 < port < 65536):
            raise InvalidInput("the url is not of the form https://HOST/PATH")
        if userinfo:
            raise InvalidInput("the url holds a user or a password; give credentials beside it")
        if "%" in host or any(not 0x20 < ord(letter) < 0x7F and letter.isascii() for letter in host):
            raise InvalidInput("the host of the url is none: it holds a zone, an escape or a space")
        if names_inside(host) and not self._permitted_as_written(host):
            raise InvalidInput(
                f"{_shown(host)} is a place inside this machine or its network; `a2a.webhooks` of agentmesh.yaml has to permit it"
            )

    async def addresses(self, host: str, port: int) -> list[str]:
        """Where to connect for a host, judged. Fail when one of its addresses may not be reached, OSError when it has none."""
        written = address_of(host)
        if written is not None:
            found = [written]
        else:
            texts = await self._resolve(host, port)
            found = [address for text in texts if (address := address_of(text)) is not None]
            if not found or len(found) != len(texts):
                raise OSError("the name has no address")
        for address in found:
            if not self._permits(host, address):
                near = reach_of(address).name.lower().replace("_", "-")
                kind = "no address of a server" if near == "none" else f"a {near} address"
                raise Fail(f"{_shown(host)} leads to {kind}, which nobody from outside may name; nothing is sent there")
        return [str(address) for address in found[:ADDRESSES]]

    def _permits(self, host: str, address: Address) -> bool:
        names, networks = _read_allowed(tuple(self._allow()))
        inner = getattr(address, "ipv4_mapped", None) or address
        if any(inner in network for network in networks):
            return True
        reach = reach_of(address)
        return reach is Reach.PUBLIC or (_plain(host) in names and reach in {Reach.PRIVATE, Reach.LOOPBACK})

    def _permitted_as_written(self, host: str) -> bool:
        address = address_of(host)
        if address is not None:
            return self._permits(host, address)
        return _plain(host) in _read_allowed(tuple(self._allow()))[0]


class Outbound(OutsideHttp):
    """HttpClient for addresses that somebody else named. `async with` it; live as long as the server.

    Follows no redirect: one is a Fail. Keeps no cookie. Of an answer that is wanted raw only the first bytes are read, `limit` of them.
    Fail, too, for an address that may not be reached.
    """

    def __init__(self, guard: Guard, *, proxy: str | None = None) -> None:
        """`proxy`: where all of it goes through; see the module."""
        super().__init__(trust_env=False)
        self._guard = guard
        self._proxy = proxy

    def check(self, url: str) -> None:
        """See `core.push.Webhooks.check`."""
        self._guard.check(url)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str | None]:
        """See `core.push.Webhooks.post`."""
        answer = await self.send(HttpRequest("POST", url, headers, body, timeout=SECONDS, raw=True, limit=ANSWER))
        return answer.status, answer.headers.get("retry-after")

    async def _follow(self, request: HttpRequest, url: httpx.URL, trace: Callable[..., object]) -> HttpAnswer:
        if not request.raw:
            answer = await self._send(request, url, trace)  # type: ignore[arg-type]
        else:
            answer = await self._send_raw(request, url, trace)
        if answer.status in {301, 302, 303, 307, 308}:
            raise Fail(f"{_shown(url.host)} redirects elsewhere, and redirects are not followed", status=answer.status)
        return answer

    async def _send_raw(self, request: HttpRequest, url: httpx.URL, trace: Callable[..., object]) -> HttpAnswer:
        import httpx

        client = self._client
        assert client is not None
        timeout = httpx.Timeout(None, connect=min(CONNECT_TIME, request.timeout * 0.95))
        try:
            built = client.build_request(
                request.method, url, headers=dict(request.headers), content=request.body, timeout=timeout,
                extensions={"trace": trace},
            )  # fmt: skip
        except (UnicodeEncodeError, TypeError, ValueError):
            raise Fail("a header of an HTTP request holds what no header can hold, such as a line break") from None
        response = await client.send(built, stream=True)
        limit = ANSWER if request.limit is None else request.limit
        body = b""
        try:
            head = {name: ", ".join(response.headers.get_list(name)) for name in response.headers}
            async for part in response.aiter_raw():
                body += part
                if len(body) > limit:
                    break
        finally:
            await response.aclose()
        return HttpAnswer(response.status_code, head, body[:limit])

    def _open(self) -> httpx.AsyncClient:
        import httpx

        from agentmesh.adapters.outbound_transport import GuardedTransport

        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=32, keepalive_expiry=5)
        return httpx.AsyncClient(
            transport=GuardedTransport(self._guard, proxy=self._proxy, limits=limits),
            headers={"user-agent": f"agentmesh/{__version__}", "accept-encoding": "identity"},
            trust_env=False,
            follow_redirects=False,
        )


def _plain(host: str) -> str:
    return unicodedata.normalize("NFKC", host).lower().strip("[]").rstrip(".")


def _shown(host: str) -> str:
    return host[:200].encode("ascii", "backslashreplace").decode()


@functools.lru_cache(maxsize=64)
def _read_allowed(allow: tuple[str, ...]) -> tuple[frozenset[str], tuple[Network, ...]]:
    """Names, and networks (an address is one of a single address)."""
    names, networks = set(), []
    for entry in allow:
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
        except ValueError:
            names.add(_plain(entry))
    return frozenset(names), tuple(networks)
