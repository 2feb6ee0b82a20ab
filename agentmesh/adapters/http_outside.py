"""HttpClient over httpx: the requests of `http` steps and tools, with an answer that is bounded in time and size.

What matters here is what a caller may conclude from a failure: NotSent when no byte of the request can have reached the other
side, Unanswered when some may have. httpcore tells when it begins to write a request; from that moment on every failure counts
as Unanswered, also where a proxy was the one who read it.

Redirects are followed for GET and HEAD only, and only within the origin: headers may hold secrets that are meant for it alone.
No cookie is kept: what one step was told is not for the next.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

from agentmesh import __version__
from agentmesh.core.json_text import parse_json
from agentmesh.core.outside import HttpAnswer, HttpRequest
from agentmesh.core.trace import TRACEPARENT, current
from agentmesh.errors import Fail, InvalidInput, NotSent, Unanswered

if TYPE_CHECKING:
    import httpx

BODY_LIMIT = 4 * 1024 * 1024
"""Bytes of an answer's body, after decompression."""
CONNECT_TIME = 10.0
CONNECTIONS = 256
REDIRECTS = 5
_IN_THREAD = 64 * 1024
"""Bytes of JSON from which its parsing is kept off the event loop."""
_BAD_HEADER = "a header of an HTTP request holds what no header can hold, such as a line break"
"""The libraries' own words would show the value, which may be a secret."""
_SENDING = ("http11.send_request_headers.started", "http2.send_request_headers.started")


class OutsideHttp:
    """`async with` it; live as long as the server. Opens nothing before the first request."""

    def __init__(self, *, trust_env: bool = True) -> None:
        """`trust_env`: heed the proxies and certificates that the environment names, as other programs do."""
        self._trust_env = trust_env
        self._client: httpx.AsyncClient | None = None
        self._opening = anyio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                await self._client.aclose()

    async def send(self, request: HttpRequest) -> HttpAnswer:
        """See `HttpClient.send`."""
        import httpx

        try:
            url = httpx.URL(request.url)
            place = url.netloc.decode("ascii", "replace")
        except (httpx.InvalidURL, ValueError) as error:
            raise Fail(f"the url of an HTTP request is not one: {error}") from None
        if url.scheme not in {"http", "https"} or not url.host:
            raise Fail("the url of an HTTP request must begin with http:// or https:// and name a host")
        trace = _Trace()
        if self._client is None:
            async with self._opening:
                # Reading the certificates of the machine's authorities takes a moment.
                self._client = self._client or await anyio.to_thread.run_sync(self._open)
        try:
            with anyio.fail_after(request.timeout):
                return await self._follow(request, url, trace)
        except TimeoutError:
            error_type = Unanswered if trace.sending else NotSent
            raise error_type(f"{place} did not answer within {request.timeout:g} s") from None
        except httpx.LocalProtocolError:
            raise Fail(_BAD_HEADER) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise Fail(f"the HTTP request for {place} cannot be sent: {error}") from None
        except httpx.DecodingError as error:
            raise Fail(f"{place} answered what cannot be decompressed: {error}") from None
        except httpx.TransportError as error:
            said = str(error) or type(error).__name__
            if not trace.sending and isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)):
                raise NotSent(f"{place} cannot be reached: {said}") from None
            if not trace.sending and isinstance(error, httpx.ProxyError):
                raise NotSent(f"the proxy for {place} refused: {said}") from None
            raise Unanswered(f"{place} ended the connection without a whole answer: {said}") from None

    async def _follow(self, request: HttpRequest, url: httpx.URL, trace: _Trace) -> HttpAnswer:
        for _ in range(REDIRECTS):
            answer = await self._send(request, url, trace)
            location = answer.headers.get("location")
            if request.method not in {"GET", "HEAD"} or answer.status not in {301, 302, 303, 307, 308} or not location:
                return answer
            target = url.join(location)
            if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
                return answer
            url = target
        raise Fail(f"{url.netloc.decode('ascii', 'replace')} redirects more than {REDIRECTS} times")

    async def _send(self, request: HttpRequest, url: httpx.URL, trace: _Trace) -> HttpAnswer:
        import httpx

        client = self._client
        assert client is not None
        # httpcore closes a socket whose handshake is over time, but forgets one whose handshake is cancelled: be over time first.
        timeout = httpx.Timeout(None, connect=min(CONNECT_TIME, request.timeout * 0.95))
        headers = {"accept": "application/json, text/*;q=0.9, */*;q=0.1", **_trace(request.headers), **request.headers}
        try:
            built = client.build_request(
                request.method,
                url,
                headers=headers,
                content=request.body,
                timeout=timeout,
                extensions={"trace": trace},
            )
        except (UnicodeEncodeError, TypeError, ValueError):
            raise Fail(_BAD_HEADER) from None
        response = await client.send(built, stream=True)
        try:
            head = {name: ", ".join(response.headers.get_list(name)) for name in response.headers}
            data = b"" if request.method == "HEAD" else await _read(response.aiter_raw(), head, url.host, request.limit)
        finally:
            await response.aclose()
        body = data if request.raw else await _body(data, head, response.status_code, url.host)
        return HttpAnswer(response.status_code, head, body)

    def _open(self) -> httpx.AsyncClient:
        import httpx

        return httpx.AsyncClient(
            headers={"user-agent": f"agentmesh/{__version__}", "accept-encoding": "gzip, deflate"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=32, keepalive_expiry=5),
            trust_env=self._trust_env,
            # What is on this machine is not asked of a proxy, whatever the environment says.
            mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
            follow_redirects=False,
        )


def _trace(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The trace that a request belongs to, where its own headers do not name another."""
    trace = current()
    if not trace or any(name.lower() == TRACEPARENT for name in headers):
        return {}
    return trace


class _Trace:
    """Told by httpcore what it does; keeps whether it began to write the request."""

    def __init__(self) -> None:
        self.sending = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event in _SENDING:
            self.sending = True


async def _read(parts: AsyncIterator[bytes], headers: Mapping[str, str], host: str, limit: int | None = None) -> bytes:
    """The body, decompressed; Fail when it is over the limit. Never holds much more than that."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "", "gzip", "x-gzip", "deflate"}:
        raise Fail(f"{host} answered in the encoding {encoding[:40]!r}, which was not asked for")
    inflate = None if encoding in {"identity", ""} else zlib.decompressobj(wbits=47)
    found: list[bytes] = []
    limit = limit or BODY_LIMIT
    left = limit
    async for part in parts:
        if inflate is not None:
            try:
                part = inflate.decompress(part, left + 1)
            except zlib.error as error:
                raise Fail(f"{host} answered what cannot be decompressed: {error}") from None
        left -= len(part)
        if left < 0:
            raise Fail(f"the answer of {host} is larger than {limit // 1024 // 1024} MB")
        found.append(part)
    return b"".join(found)


async def _body(data: bytes, headers: Mapping[str, str], status: int, host: str) -> Any:
    """JSON where the answer says it is, else text; None when there is nothing."""
    if not data:
        return None
    kind, _, parameters = headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            if len(data) < _IN_THREAD:
                return parse_json(data)
            return await anyio.to_thread.run_sync(parse_json, data)
        except InvalidInput as error:
            if status < 400:
                raise Fail(f"{host} answered {kind} that is none: {error.message}") from None
            return data.decode(errors="replace")  # what it says of its trouble matters more than its form
    charset = next((p.split("=", 1)[1].strip(' "') for p in parameters.split(";") if "charset=" in p.lower()), "utf-8")
    try:
        return data.decode(charset, errors="replace" if kind.startswith("text/") or status >= 400 else "strict")
    except (LookupError, UnicodeDecodeError):
        raise Fail(f"{host} answered {kind or 'something without a type'}, which is neither JSON nor text") from None
