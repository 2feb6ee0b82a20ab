"""What stands between `http/auth.py` and the SDK's ASGI app: whose a session is, and refusals in plain words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp_types import INVALID_REQUEST
from mcp_types.version import LATEST_MODERN_VERSION

from agentmesh.core.policy import Principal
from agentmesh.mcp.convert import UNAVAILABLE
from agentmesh.mcp.flights import Flights, under

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

USERS: Final = 1000
"""Principals whose SDK counterpart is kept, to be made once and not for each request."""


class Front:
    """The SDK's ASGI app with our manners: sessions belong to their principal, and a refusal says what to do.

    The SDK compares the credential that opened a session with that of each later request; it reads it from
    `scope["user"]`. Its refusals before JSON-RPC starts are bare texts or pydantic's; they become JSON-RPC errors of
    one sentence.
    """

    def __init__(
        self, manager: StreamableHTTPSessionManager, full: Callable[[Principal], bool] = lambda _: False
    ) -> None:
        """`full`: whether a caller has as many sessions as one may, so that others find room."""
        self._full = full
        self._app: ASGIApp = manager.asgi_app
        self._whole: ASGIApp = RequestBodyLimitMiddleware(self._check_id, manager.max_request_body_size)
        self._users: dict[tuple[str, str], AuthenticatedUser] = {}
        self._flights = Flights()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if any(value[-1:] in {b" ", b"\t"} for _, value in scope["headers"]):
            # httptools leaves white space behind a value, which is no part of it (RFC 9110 section 5.5).
            scope = {**scope, "headers": [(name, value.strip(b" \t")) for name, value in scope["headers"]]}
        principal = scope.get("state", {}).get("principal")
        if isinstance(principal, Principal):
            scope = {**scope, "user": self._user(principal)}
        held: Message | None = None
        streaming = False

        async def plainly(message: Message) -> None:
            nonlocal held, streaming
            if message["type"] == "http.response.start" and message["status"] >= 400:
                held = message
            elif held is None:
                streaming = message["type"] == "http.response.start" or message.get("more_body", False)
                await send(message)
            else:
                start, held = held, None
                body = _refusal(start["status"], message.get("body", b""))
                headers = [h for h in start["headers"] if h[0].lower() not in (b"content-length", b"content-type")]
                headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
                await send({**start, "headers": headers})
                await send({**message, "body": body})

        legacy = scope["method"] == "POST" and _MODERN not in scope["headers"]
        if legacy and isinstance(principal, Principal) and self._full(principal) and not _has_session(scope):
            await _answer(send, 503, _error(UNAVAILABLE, _TOO_MANY))
            return
        await (self._whole if legacy else self._app)(scope, receive, plainly)
        if (
            streaming
        ):  # the SDK leaves its streams unfinished when the server stops; then clients would see a broken one
            await send({"type": "http.response.body", "body": b""})

    async def _check_id(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request whose id is no id: in this era the SDK takes it for a notification and never answers."""
        whole = await receive()  # the whole body, by RequestBodyLimitMiddleware
        body = whole.get("body", b"")
        if _has_bad_id(body):
            await _answer(send, 400, _error(INVALID_REQUEST, "The id of a request is a string or an integer."))
            return
        session = next((value for name, value in scope["headers"] if name == b"mcp-session-id"), None)
        if session is None:
            await self._app(scope, _replay(whole, receive), send)
            return
        with self._flights.flight(session, body) as (handed_on, ident, ours):
            if handed_on is not body:
                whole = {**whole, "body": handed_on}
                headers = [header for header in scope["headers"] if header[0] != b"content-length"]
                scope = {**scope, "headers": [*headers, (b"content-length", str(len(handed_on)).encode())]}
            renamed = send if ident is None or ours is None else under(send, ident, ours)
            await self._app(scope, _replay(whole, receive), renamed)

    def _user(self, principal: Principal) -> AuthenticatedUser:
        key = (principal.tenant, principal.subject)
        user = self._users.get(key)
        if user is None:
            if len(self._users) >= USERS:
                self._users.clear()
            token = AccessToken(token="", client_id=principal.tenant, scopes=[], subject=principal.subject)
            user = self._users[key] = AuthenticatedUser(token)
        return user


def _replay(message: Message, then: Receive) -> Receive:
    """A `receive` that gives a message, then what comes."""
    again = iter((message,))

    async def receive() -> Message:
        return next(again, None) or await then()

    return receive


_MODERN: Final = (b"mcp-protocol-version", LATEST_MODERN_VERSION.encode())

_REFUSALS: Final = {
    400: "Send the message with Content-Type: application/json.",
    405: "This URL takes POST; GET and DELETE only with the Mcp-Session-Id of a session opened with initialize.",
    406: "Send Accept: application/json, text/event-stream.",
    413: "The request body is over the server's limit.",
}
_PLAINER: Final = {
    "Bad Request: Missing session ID": "Open a session with initialize and send its Mcp-Session-Id, or speak 2026-07-28.",
    "Session not found": "This session is unknown or has ended; open another with initialize.",
    "Not Found: Session has been terminated": "This session has ended; open another with initialize.",
    "Method Not Allowed": _REFUSALS[405],
}
"""What the SDK says, and what to do about it."""


def _refusal(status: int, body: bytes) -> bytes:
    """The body of a response that refuses: as it is when it is a JSON-RPC error in plain words, else one that is."""
    code = INVALID_REQUEST
    try:
        text = json.loads(body)["error"]["message"]
        if status == 503:
            code, text = UNAVAILABLE, f"{text}; try again later, or end a session that is not used with DELETE."
        elif text.startswith("Validation error"):
            text = "The body is not one JSON-RPC 2.0 request, notification or response."
        elif text in _PLAINER:
            text = _PLAINER[text]
        else:
            return body
    except (ValueError, TypeError, KeyError):
        text = _REFUSALS.get(status) or body.decode("utf-8", "replace") or "Refused."
    return _error(code, text)


_TOO_MANY: Final = (
    "You have as many open sessions as one caller may; end one that is not used with DELETE, or try again later."
)


def _has_session(scope: Scope) -> bool:
    """Whether a request names a session."""
    names = {name for name, _ in scope["headers"]}
    return b"mcp-session-id" in names


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _error(code: int, text: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": text}}).encode()


_PERHAPS_BAD_ID: Final = re.compile(rb'"id"\s*:\s*(?!"|-?\d+\s*[,}])')


def _has_bad_id(body: bytes) -> bool:
    if _PERHAPS_BAD_ID.search(body) is None:  # the usual case, without parsing a long log twice
        return False
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return False  # the SDK says what is wrong with it
    if not isinstance(message, dict) or "id" not in message:
        return False
    return not isinstance(message["id"], (str, int)) or isinstance(message["id"], bool)
