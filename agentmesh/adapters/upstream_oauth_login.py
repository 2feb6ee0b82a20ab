"""LoginFlow: one user's login at one authorization server: the way out, and what is made of the way back.

Authorization code with PKCE (S256), `state`, `iss` and `resource` (MCP 2026-07-28 basic/authorization). A login under way is a sealed
row under its user's name: nobody else can end it, it is used once, and a restart in between loses nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hmac import compare_digest
from typing import Final
from urllib.parse import urlencode, urlsplit

import anyio

from agentmesh.adapters.upstream_oauth_provider import Provider, digest
from agentmesh.adapters.upstream_oauth_token import Token, request_token
from agentmesh.adapters.vault import Vault, key_of
from agentmesh.core.login import LoginStart
from agentmesh.core.policy import Principal
from agentmesh.errors import Declined, Fail, InvalidInput

SECONDS: Final = 900
"""From the way out to the way back."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A login under way, as the vault keeps it."""

    state: str
    """SHA-256 of it, as of `browser`."""
    browser: str
    verifier: str
    issuer: str
    client_id: str
    redirect: str
    upstream: str
    until: float
    asked: str | None = None
    tries: int = 0
    names_itself: bool = False


class LoginFlow:
    """The logins at one upstream; each user has at most one under way."""

    def __init__(self, provider: Provider, *, vault: Vault, clock: Callable[[], float], way_in: str) -> None:
        self._provider = provider
        self._vault = vault
        self._clock = clock
        self._again = f"begin again at {way_in}"
        self._taking: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    async def want(self, principal: Principal, scope: str | None, tries: int) -> None:
        """Has this user's next login ask for these scopes."""
        await self._vault.put(self._provider.name, f"want:{key_of(principal)}", {"scope": scope, "tries": tries})

    async def start(self, principal: Principal) -> LoginStart:
        """See core.login.Logins.start."""
        provider = self._provider
        server = await provider.server()
        if not server.authorization_endpoint:
            raise Fail(
                f"the authorization server {server.issuer} does not say that it can PKCE with S256, without which no login is safe"
            )
        await provider.web.check(server.authorization_endpoint)
        want = await self._vault.get(provider.name, f"want:{key_of(principal)}") or {}
        asked = await provider.scopes(server, want.get("scope"))
        client = await provider.client(server, asked)
        state, browser, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        pending = _Pending(
            state=digest(state), browser=digest(browser), verifier=verifier, issuer=server.issuer,
            client_id=client.client_id, redirect=provider.redirect, upstream=provider.url, until=self._clock() + SECONDS,
            asked=asked, tries=int(want.get("tries", 0)), names_itself=server.names_itself,
        )  # fmt: skip
        await self._vault.put(provider.name, f"login:{key_of(principal)}", asdict(pending))
        query = {
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": provider.redirect,
            "state": state,
            "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256",
            "resource": server.resource,
        }
        if asked:
            query["scope"] = asked
            if "offline_access" in asked.split():
                query["prompt"] = "consent"  # OpenID Connect Core 11: else it is not granted
        mark = "&" if urlsplit(server.authorization_endpoint).query else "?"
        return LoginStart(f"{server.authorization_endpoint}{mark}{urlencode(query)}", browser, SECONDS)

    async def finish(self, principal: Principal, answer: Mapping[str, str], browser: str | None) -> Token:
        """The token that the login brings; see core.login.Logins.finish. The caller keeps it."""
        provider = self._provider
        pending = await self._take(principal, answer.get("state", ""), browser)
        named = answer.get("iss")
        # Before anything else of the answer is believed, its error too (RFC 9207 section 2.4).
        if named != pending.issuer and (named is not None or pending.names_itself):
            raise Fail(
                f"the answer to the login at {provider.name} does not come from the authorization server that was asked; {self._again}"
            )
        if error := answer.get("error"):
            if error == "access_denied":
                raise Declined(f"the login at {provider.name} was declined; {self._again}")
            raise Fail(f"the authorization server of {provider.name} did not let you log in; {self._again}")
        code = answer.get("code", "")
        if not code or len(code) > 8192:
            raise InvalidInput(f"the answer to the login at {provider.name} brings no code; {self._again}")
        server = await provider.server()
        client = await provider.client(server, pending.asked)
        if (server.issuer, client.client_id) != (pending.issuer, pending.client_id):
            raise Fail(f"{provider.name} has another authorization server than when the login began; {self._again}")
        grant = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": pending.redirect,
            "code_verifier": pending.verifier,
        }
        now = self._clock()
        given = await request_token(provider.web, server, client, grant, now)
        await self._vault.forget(provider.name, f"want:{key_of(principal)}")
        return Token(
            issuer=server.issuer, upstream=provider.url, asked=pending.asked, tries=pending.tries, at=now,
            tenant=principal.tenant, subject=principal.subject, **({"scope": pending.asked} | dict(given)),
        )  # fmt: skip

    async def forget(self, principal: Principal) -> None:
        """Ends what is under way."""
        for kind in ("login", "want"):
            await self._vault.forget(self._provider.name, f"{kind}:{key_of(principal)}")

    async def _take(self, principal: Principal, state: str, browser: str | None) -> _Pending:
        """The login that an answer belongs to, which is gone with that. InvalidInput when there is none."""
        name, key = self._provider.name, f"login:{key_of(principal)}"
        async with self._taking[key]:
            row = await self._vault.get(name, key)
            try:
                pending = _Pending(**row) if row else None
            except TypeError:
                pending = None
            if pending is None or not compare_digest(pending.state, digest(state)):
                raise InvalidInput(f"no login at {name} is under way that this answer belongs to; {self._again}")
            await self._vault.forget(name, key)
        if self._clock() > pending.until or pending.upstream != self._provider.url:
            raise InvalidInput(f"this login at {name} was begun too long ago; {self._again}")
        if browser is None or not compare_digest(pending.browser, digest(browser)):
            raise InvalidInput(f"this login at {name} was begun in another browser; {self._again}")
        return pending


def _challenge(verifier: str) -> str:
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
