"""OAuthWeb: the requests for metadata, registrations and tokens, to addresses that an upstream names and that are not trusted.

An upstream can name any address. So: https, or http on loopback; nothing nearer to this machine than the upstream itself is (an
upstream on the internet can name nothing in the private network, one in the private network nothing on loopback); the name is
resolved once, and the connection goes to the very address that was looked at. Redirects stay within the origin. Answers are bounded
in size and time, and are JSON objects. What such a server says in its errors is not shown to callers, but for its error code.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import anyio.to_thread
import httpx2

from agentmesh import __version__
from agentmesh.adapters.outbound import Resolve, SystemResolver
from agentmesh.adapters.reach import Address, Reach, reach_of
from agentmesh.core.json_text import parse_json
from agentmesh.errors import Fail, InvalidInput, Retry

log = logging.getLogger(__name__)

SECONDS: Final = 15.0
"""For one request with its redirects."""
BYTES: Final = 256 * 1024
REDIRECTS: Final = 3
_CODE = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,64}")
"""An error code of OAuth (RFC 6749 section 5.2), of a length that may be shown."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, as far as it is looked at."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Empty when it was no JSON object."""
    challenges: tuple[str, ...] = ()
    """The values of `WWW-Authenticate`."""

    @property
    def error(self) -> str:
        """The error code that it gives; empty for none."""
        code = self.body.get("error")
        return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


class OAuthWeb:
    """Requests on behalf of one upstream. Keeps no connection and no cookie."""

    def __init__(
        self,
        upstream: str,
        *,
        resolve: Resolve | None = None,
        seconds: float = SECONDS,
    ) -> None:
        """`upstream`: its URL, by which the operator said how near it is."""
        self._upstream = httpx2.URL(upstream)
        self._resolve = resolve or SystemResolver()
        self._seconds = seconds
        self._tls: ssl.SSLContext | None = None

    async def get(self, url: str) -> Answer:
        """A document. Fail for an address that may not be asked, Retry when it cannot be reached."""
        return await self._send("GET", url, {})

    async def post(self, url: str, *, form: Mapping[str, str] | None = None, json: Any = None,
                   headers: Mapping[str, str] | None = None) -> Answer:  # fmt: skip
        """Sends a form or JSON; raises what `get` does. A redirect is not followed."""
        body: dict[str, Any] = {"data": dict(form)} if form is not None else {"json": json}
        return await self._send("POST", url, body, headers)

    async def check(self, url: str) -> None:
        """Fail unless a browser may be sent there: what `get` demands of an address, and nothing in it that is not one's address."""
        await self._addresses(_parsed(url))

    async def _send(
        self, method: str, url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Answer:
        place = _parsed(url)
        try:
            with anyio.fail_after(self._seconds):
                for _ in range(REDIRECTS + 1):
                    answer, target = await self._ask(method, place, body, headers or {})
                    if target is None:
                        return answer
                    place = _parsed(target)
        except TimeoutError:
            raise Retry(f"{_name(place)} did not answer within {self._seconds:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise Retry(f"{_name(place)} cannot be asked: {type(error).__name__}") from None
        raise Fail(f"{_name(place)} redirects more than {REDIRECTS} times")

    async def _ask(
        self, method: str, url: httpx2.URL, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[Answer, str | None]:
        """What the first of its addresses that can be reached answers, and where a redirect leads that is to be followed."""
        *addresses, last = await self._addresses(url)
        for address in addresses:
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return await self._ask_at(address, method, url, body, headers)
        return await self._ask_at(last, method, url, body, headers)

    async def _ask_at(
        self, address: str, method: str, url: httpx2.URL, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> tuple[Answer, str | None]:
        heads = {
            "host": url.netloc.decode("ascii"),
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"agentmesh/{__version__}",
            "mcp-protocol-version": "2026-07-28",
            **headers,
        }
        if self._tls is None and url.scheme == "https":
            # Reading the certificates of the machine's authorities takes a moment.
            self._tls = await anyio.to_thread.run_sync(httpx2.create_ssl_context)
        timeout = httpx2.Timeout(self._seconds, connect=self._seconds / 3)
        tls = (
            self._tls if url.scheme == "https" and self._tls is not None else False
        )  # no TLS is spoken on loopback without it
        async with httpx2.AsyncClient(verify=tls, timeout=timeout, trust_env=False) as client:
            request = client.build_request(method, url.copy_with(host=address), headers=heads, **body)
            # The connection goes to the address that was looked at; TLS asks for the name.
            request.extensions["sni_hostname"] = url.host
            response = await client.send(request, stream=True)
            try:
                if method == "GET" and response.is_redirect and "location" in response.headers:
                    target = url.join(response.headers["location"])
                    if (target.scheme, target.host, target.port) == (url.scheme, url.host, url.port):
                        return Answer(response.status_code), str(target)
                challenges = tuple(response.headers.get_list("www-authenticate"))
                return Answer(response.status_code, await _object(response, _name(url)), challenges), None
            finally:
                await response.aclose()

    async def _addresses(self, url: httpx2.URL) -> list[str]:
        """Where the name leads, looked at. Fail when the upstream may not send us there."""
        found = await self._reaches(url)
        allowed = self._upstream_reach(await self._reaches(self._upstream, missing_ok=True))
        for reach in found.values():
            if not allowed.includes(reach):
                raise Fail(
                    f"{_name(self._upstream)} names {_name(url)} for its logins, which is a {reach.name.lower().replace('_', '-')}"
                    " address and nearer to this mesh than itself; nothing is sent there"
                )
            if url.scheme != "https" and reach is not Reach.LOOPBACK:
                raise Fail(
                    f"{_name(url)} is to be asked for tokens without TLS; its address has to begin with https://"
                )
        return list(found)

    @staticmethod
    def _upstream_reach(reaches: Mapping[str, Reach]) -> Reach:
        """The farthest of them: a name that is here and elsewhere is treated as one from elsewhere."""
        return min(reaches.values(), default=Reach.PUBLIC)

    async def _reaches(self, url: httpx2.URL, *, missing_ok: bool = False) -> dict[str, Reach]:
        port = url.port or {"https": 443, "http": 80}.get(url.scheme, 0)
        try:
            return {str(a): reach_of(a) for a in map(_address, [url.host])}
        except ValueError:
            pass
        try:
            addresses = await self._resolve(url.host, port)
            found = {text: reach_of(_address(text)) for text in addresses}
        except (OSError, UnicodeError, ValueError):
            found = {}
        if not found and not missing_ok:
            raise Retry(f"{_name(url)} cannot be found")
        return found


def _address(text: str) -> Address:
    return ipaddress.ip_address(text.strip("[]").partition("%")[0])


def _parsed(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
        port = parsed.port or 0
    except (httpx2.InvalidURL, TypeError, ValueError):
        raise Fail("an address that an upstream names for its logins is none") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.userinfo or port > 65535 or len(url) > 4096:
        raise Fail("an address that an upstream names for its logins is not of the form https://HOST/PATH")
    return parsed


def _name(url: httpx2.URL) -> str:
    """Host and port, as a message may show them."""
    return url.netloc.decode("ascii", "replace")[:200]


async def _object(response: httpx2.Response, name: str) -> Mapping[str, Any]:
    """The body as a JSON object; empty when it is none. Fail when it is too large, or in an encoding that was not asked for."""
    if response.headers.get("content-encoding", "identity").lower() not in {"", "identity"}:
        raise Fail(f"{name} answers in an encoding that it was not asked for")
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return {}
    data = b""
    async for part in response.aiter_raw():
        data += part
        if len(data) > BYTES:
            raise Fail(f"what {name} answers is larger than {BYTES // 1024} KiB")
    try:
        value = parse_json(data)
    except InvalidInput:
        return {}
    return value if isinstance(value, dict) else {}
