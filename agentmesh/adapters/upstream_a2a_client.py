"""PeerClient: an A2A agent elsewhere, spoken to by its card: versions 1.0 and 0.3, over JSON-RPC or HTTP+JSON.

On the SDK's side of it stand protobuf messages and httpx; on ours JSON in A2A 1.0's spelling and this project's errors. Whatever the
peer sends is bounded before anything reads it. It knows nothing of tools: `upstream_a2a` does.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, NoReturn, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import anyio.to_thread
import httpx
from a2a.client.card_resolver import parse_agent_card
from a2a.client.client import Client, ClientCallContext, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.client.errors import A2AClientError
from a2a.types import a2a_pb2 as pb
from a2a.utils.constants import TransportProtocol
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from agentmesh import __version__
from agentmesh.adapters.reach import names_inside
from agentmesh.core.json_text import MAX_EXACT, parse_json
from agentmesh.errors import Fail, InvalidInput, MeshError, NotSent, Retry, Unanswered

ANSWER: Final = 8 * 1024 * 1024
"""Bytes of one answer: a task with its artifacts."""
CARD: Final = 1024 * 1024
CARD_TIME: Final = 20.0
TIME: Final = 60.0
"""Seconds for one request; a task that takes longer is asked for again."""
CONNECT_TIME: Final = 10.0
BINDINGS: Final = (TransportProtocol.JSONRPC, TransportProtocol.HTTP_JSON)
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

Json = Mapping[str, Any]


class PeerHttp:
    """The HTTP client of one peer: bounded answers, no redirects, no cookies to keep. `async with` it; opens on first use."""

    def __init__(self, token: str | None) -> None:
        headers = {"user-agent": f"agentmesh/{__version__}", "accept-encoding": "identity"}
        self._headers = headers | ({"authorization": f"Bearer {token}"} if token else {})
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

    async def client(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                # Reading the certificates of the machine's authorities takes a moment.
                self._client = await anyio.to_thread.run_sync(self._open)
            return self._client

    def _open(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=_Bounded(), headers=self._headers, timeout=httpx.Timeout(TIME, connect=CONNECT_TIME)
        )

    async def card(self, address: str, etag: str = "") -> tuple[Json, str] | None:
        """The card at an address and its ETag; None when it is still the one with `etag`. NotSent, Unanswered, Fail."""
        client = await self.client()
        try:
            with anyio.fail_after(CARD_TIME):
                answer = await client.get(
                    address, headers={"accept": "application/json"} | ({"if-none-match": etag} if etag else {})
                )
        except TimeoutError:
            raise Unanswered(f"it did not answer within {CARD_TIME:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _plain(error, "the card") from None
        if answer.status_code == 304:
            return None
        if answer.status_code != 200:
            raise Fail(f"it answered {answer.status_code}")
        if len(answer.content) > CARD:
            raise Fail(f"the card has {len(answer.content):,} bytes, more than {CARD:,}")
        try:
            card = parse_json(answer.content)
        except InvalidInput as error:
            raise Fail(f"what is there is no card: {error.message}") from None
        if not isinstance(card, dict):
            raise Fail("what is there is no card: it is no object")
        return card, answer.headers.get("etag", "")


class PeerClient:
    """One agent, by its card. Cheap to make anew when the card has changed; `http` is shared and outlives it."""

    def __init__(self, card: Json, http: PeerHttp, *, address: str, secret: bool) -> None:
        """`address`: where the card is from. `secret`: requests carry a token, which is for that place alone.

        Fail when it is no card, or has no interface that can be used.
        """
        try:
            self.card = parse_agent_card(copy.deepcopy(dict(card)))
        except (ParseError, TypeError, AttributeError, KeyError, ValueError) as error:
            raise Fail(f"what is there is no agent card: {str(error)[:300]}") from None
        usable: list[pb.AgentInterface] = []
        elsewhere: list[pb.AgentInterface] = []
        for one in self.card.supported_interfaces:
            if one.protocol_binding in BINDINGS:
                (usable if _may_use(one.url, address, secret=secret) else elsewhere).append(one)
        if not usable and elsewhere:
            why = "which would be sent its token" if secret else "which is a private address"
            raise Fail(f"the card names an agent at {_origin(elsewhere[0].url)}, {why}; name a card that is there")
        if not usable:
            there = ", ".join(sorted({one.protocol_binding for one in self.card.supported_interfaces})) or "none"
            raise Fail(f"the agent has neither a JSON-RPC nor an HTTP+JSON interface (it has: {there})")
        # The agent's own favourite binding, in the newest version that both speak: the SDK is left nothing to choose.
        same_binding = [one for one in usable if one.protocol_binding == usable[0].protocol_binding]
        chosen = next((one for one in same_binding if one.protocol_version.startswith("1.")), same_binding[0])
        del self.card.supported_interfaces[:]
        self.card.supported_interfaces.append(chosen)
        self._http = http
        self._client: Client | None = None

    @property
    def where(self) -> str:
        """The address that it is spoken to at."""
        return str(self.card.supported_interfaces[0].url)

    @property
    def version(self) -> str:
        return str(self.card.supported_interfaces[0].protocol_version)

    async def send_message(self, message: Json, *, wait: bool = False, accepts: tuple[str, ...] = ()) -> Json:
        """Sends a message (schema `Message`): `{task}` or `{message}`. `wait`: for the end of the task, as long as the peer likes.

        NotSent, Unanswered, Retry; Fail for what the peer refuses. The same `messageId` is the same request, for a peer that heeds it.
        """
        request = pb.SendMessageRequest()
        try:
            ParseDict({"message": dict(message)}, request)
        except (ParseError, RecursionError) as error:
            raise Fail(f"the message cannot be sent: {str(error)[:300]}") from None
        request.configuration.return_immediately = not wait
        request.configuration.accepted_output_modes.extend(accepts)
        client = await self._open()
        try:
            async with aclosing(client.send_message(request, context=_context())) as events:  # type: ignore[type-var]
                async for event in events:
                    return _json(event)
        except Exception as error:
            raise_plain(error, "the message")
        raise Unanswered("the agent answered the message with nothing")

    async def get_task(self, task_id: str) -> Json:
        """A task as it stands (schema `Task`)."""
        client = await self._open()
        try:
            return _json(await client.get_task(pb.GetTaskRequest(id=task_id), context=_context()))
        except Exception as error:
            raise_plain(error, "the task")

    async def cancel_task(self, task_id: str) -> Json:
        client = await self._open()
        try:
            return _json(await client.cancel_task(pb.CancelTaskRequest(id=task_id), context=_context()))
        except Exception as error:
            raise_plain(error, "the cancellation")

    async def _open(self) -> Client:
        if self._client is None:
            config = ClientConfig(
                streaming=False, httpx_client=await self._http.client(), supported_protocol_bindings=list(BINDINGS)
            )
            try:
                self._client = ClientFactory(config).create(self.card)
            except ValueError as error:
                raise Fail(f"the agent cannot be spoken to: {error}") from None
        return self._client


def _context() -> ClientCallContext:
    return ClientCallContext(timeout=TIME)


def _may_use(url: str, address: str, *, secret: bool) -> bool:
    """Whether an interface that a card names may be spoken to: a card from elsewhere names no inner place, and gets no secret."""
    if _origin(url) == _origin(address):
        return True
    return not secret and not names_inside(urlsplit(url).hostname or "")


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _json(message: Any) -> Json:
    found: Json = _integers(MessageToDict(message))
    return found


def _integers(value: Any) -> Any:
    """JSON as it was before protobuf made every number a double."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= MAX_EXACT else value
    if isinstance(value, dict):
        return {key: _integers(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_integers(member) for member in value]
    return value


# Errors


def raise_plain(error: Exception, what: str) -> NoReturn:
    """Raises the SDK's and httpx's errors as ours; ours, and what is nobody's, as they are."""
    if isinstance(error, MeshError):
        raise error
    cause: BaseException = error
    while isinstance(cause, A2AClientError) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, httpx.HTTPStatusError):
        raise _status(cause.response) from None
    if isinstance(cause, (httpx.HTTPError, httpx.InvalidURL)):
        raise _plain(cause, what) from None
    if isinstance(error, A2AClientError):
        raise Fail(f"the agent answered {what} with what cannot be read: {str(error)[:300]}") from None
    if isinstance(error, A2AError):
        raise Fail(f"the agent refused {what}: {error.message[:1000]}") from None
    raise Fail(f"the agent answered {what} with what cannot be read ({type(error).__name__})") from error


def _plain(error: httpx.HTTPError | httpx.InvalidURL, what: str) -> MeshError:
    said = str(error) or type(error).__name__
    if isinstance(error, _NOT_SENT):
        return NotSent(f"the agent cannot be reached: {said[:300]}")
    if isinstance(error, (httpx.DecodingError, httpx.InvalidURL, httpx.LocalProtocolError, httpx.TooManyRedirects)):
        return Fail(f"{what}: {said[:300]}")
    return Unanswered(f"the agent gave no whole answer to {what}: {said[:300]}")


def _status(response: httpx.Response) -> MeshError:
    status = response.status_code
    try:
        words = response.text[:500]
    except (httpx.HTTPError, httpx.StreamError, UnicodeError):
        words = ""
    said = f"the agent answered {status}{': ' if words else ''}{words}"
    if status in {401, 403}:
        return Fail(f"{said}; check its `token` in agentmesh.yaml")
    if status in {408, 425, 429, 503}:
        after = response.headers.get("retry-after", "")
        return Retry(said, after=float(after) if after.isdigit() and len(after) < 6 else None)
    return Unanswered(said) if status >= 500 else Fail(said)


# HTTP


class _Bounded(httpx.AsyncBaseTransport):
    """Real connections, whose answers end when they are over the limit; by way of the proxy that the environment names."""

    def __init__(self) -> None:
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=8, keepalive_expiry=30)
        self._limits = limits
        self._direct = httpx.AsyncHTTPTransport(limits=limits)
        self._proxied: dict[str, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._way(request.url).handle_async_request(request)
        encoding = answer.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            await answer.aclose()
            raise httpx.DecodingError(f"it is encoded as {encoding[:40]!r}, which was not asked for", request=request)
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=_Short(answer.stream), extensions=answer.extensions
        )

    def _way(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        if url.host in {"localhost", "127.0.0.1", "::1"} or proxy_bypass(url.host):
            return self._direct
        proxy = getproxies().get(url.scheme) or getproxies().get("all")
        if not proxy:
            return self._direct
        if proxy not in self._proxied:
            self._proxied[proxy] = httpx.AsyncHTTPTransport(proxy=proxy, limits=self._limits)
        return self._proxied[proxy]

    async def aclose(self) -> None:
        for way in (self._direct, *self._proxied.values()):
            await way.aclose()


class _Short(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = ANSWER
        async for part in self._inner:
            left -= len(part)
            if left < 0:
                raise httpx.DecodingError(f"the answer is larger than {ANSWER // 1024 // 1024} MB")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()
