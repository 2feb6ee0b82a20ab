"""A small authorization server and an upstream that wants its tokens, on real sockets: what adapters.upstream_oauth speaks with."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.http.serving import served


@dataclass
class Authorization:
    """Both of them, on one address. What it does, and what it has seen, is open to tests."""

    url: str = ""
    issuer: str | None = None
    """None: the address."""
    rotate: bool = True
    """Whether a refresh token is good for one use only."""
    expires_in: int | None = 3600
    scopes_supported: list[str] | None = None
    needed: str = "read"
    """Scopes that the upstream wants."""
    granted: str | None = None
    """Scopes that every token gets; None: those asked for."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Over what the server's metadata say by themselves; None takes a member out."""
    resource: dict[str, Any] = field(default_factory=dict)
    """The same for the upstream's."""
    answer: dict[str, str] = field(default_factory=dict)
    """Over what the browser is sent back with; an empty value takes one out."""
    registration: dict[str, Any] = field(default_factory=dict)
    strict: bool = False
    """Whether the upstream refuses every token."""
    down: bool = False
    """Whether its token endpoint answers 503."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of all."""
    forms: list[dict[str, str]] = field(default_factory=list)
    """What was sent to the token endpoint."""
    basics: list[str] = field(default_factory=list)
    """ID:SECRET of the clients there."""
    registered: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    """What browsers brought."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of the requests to the upstream."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Access tokens that are good, and their scopes."""
    refreshes: dict[str, str] = field(default_factory=dict)
    holding: anyio.Event | None = None
    """What an answer of the token endpoint waits for, after what was given for it is spent; `spent` says that it does."""
    spent: anyio.Event = field(default_factory=anyio.Event)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    _count: Any = field(default_factory=lambda: itertools.count(1))

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/mcp", self.mcp, methods=["GET", "POST"]),
                Route("/.well-known/oauth-protected-resource/mcp", self.resource_metadata),
                Route("/.well-known/oauth-authorization-server", self.server_metadata),
                Route("/register", self.register, methods=["POST"]),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
            ]
        )

    def count(self, path: str) -> int:
        return sum(seen == path for _, seen in self.requests)

    def revoke(self) -> None:
        """Nothing that was given is good any more."""
        self.tokens.clear()
        self.refreshes.clear()

    async def mcp(self, request: Request) -> Response:
        self._see(request)
        self.headers.append(dict(request.headers))
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        metadata = f'resource_metadata="{self.url}/.well-known/oauth-protected-resource/mcp"'
        if token not in self.tokens or self.strict:
            challenge = f'Bearer error="invalid_token", scope="{self.needed}", {metadata}'
            return JSONResponse({"error": "invalid_token"}, 401, {"www-authenticate": challenge})
        if not set(self.needed.split()) <= set(self.tokens[token].split()):
            challenge = f'Bearer error="insufficient_scope", scope="{self.needed}", {metadata}'
            return JSONResponse({"error": "insufficient_scope"}, 403, {"www-authenticate": challenge})
        return JSONResponse({"served": token})

    async def resource_metadata(self, request: Request) -> Response:
        self._see(request)
        return JSONResponse(_over({"resource": f"{self.url}/mcp", "authorization_servers": [self.url]}, self.resource))

    async def server_metadata(self, request: Request) -> Response:
        self._see(request)
        given = {
            "issuer": self.issuer or self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "registration_endpoint": f"{self.url}/register",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        if self.scopes_supported is not None:
            given["scopes_supported"] = self.scopes_supported
        return JSONResponse(_over(given, self.metadata))

    async def register(self, request: Request) -> Response:
        self._see(request)
        body = await request.json()
        self.registered.append(body)
        if self.registration.get("error"):
            return JSONResponse(self.registration, 400)
        given = {"client_id": f"client-{next(self._count)}", "client_secret": "of the client", **body}
        return JSONResponse(_over(given, self.registration), 201)

    async def authorize(self, request: Request) -> Response:
        self._see(request)
        asked = dict(request.query_params)
        self.asked.append(asked)
        code = f"code-{next(self._count)}"
        self.codes[code] = asked
        back = _over({"code": code, "state": asked["state"], "iss": self.issuer or self.url}, self.answer)
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({k: v for k, v in back.items() if v})}", 302)

    async def token(self, request: Request) -> Response:
        self._see(request)
        form = {key: str(value) for key, value in (await request.form()).items()}
        self.forms.append(form)
        basic = request.headers.get("authorization", "")
        if basic.startswith("Basic "):
            self.basics.append(unquote(base64.b64decode(basic[6:]).decode()))
        if self.down:
            return JSONResponse({"error": "server_error"}, 503)
        scope = form.get("scope", "")
        if form["grant_type"] == "authorization_code":
            asked = self.codes.pop(form["code"], None)
            challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
            if asked is None or asked["code_challenge"] != challenge.rstrip("="):
                return JSONResponse({"error": "invalid_grant", "error_description": "SECRET WORDS"}, 400)
            scope = asked.get("scope", "")
        elif form["grant_type"] == "refresh_token":
            if form["refresh_token"] not in self.refreshes:
                return JSONResponse({"error": "invalid_grant"}, 400)
            scope = self.refreshes[form["refresh_token"]]
            if self.rotate:
                del self.refreshes[form["refresh_token"]]
        if self.holding is not None:
            self.spent.set()
            await self.holding.wait()
        number = next(self._count)
        scope = scope if self.granted is None else self.granted
        self.tokens[f"access-{number}"] = scope
        answer: dict[str, Any] = {"access_token": f"access-{number}", "token_type": "bearer", "scope": scope}
        if form["grant_type"] != "client_credentials" and (self.rotate or form["grant_type"] == "authorization_code"):
            self.refreshes[f"refresh-{number}"] = scope
            answer["refresh_token"] = f"refresh-{number}"
        if self.expires_in is not None:
            answer["expires_in"] = self.expires_in
        return JSONResponse(answer)

    def _see(self, request: Request) -> None:
        self.requests.append((request.method, request.url.path))


def _over(given: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (given | other).items() if value is not None}


@asynccontextmanager
async def authorization(**how: Any) -> AsyncIterator[Authorization]:
    """Serves one while the block runs."""
    server = Authorization(**how)
    async with served(server.app()) as url:
        server.url = url
        yield server
