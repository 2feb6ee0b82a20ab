"""UpstreamOAuth: tokens for one upstream that wants some: one of the mesh's own, or one for each user who has logged in.

On its one side is the session with the upstream: `auth` puts the right token on every request, and renews it when the upstream says
that it is no good. On the other are people: `require` asks whoever calls to log in, `Logins` leads their browsers out and back.
No token of a caller is ever sent on, and none of ours is sent anywhere but to the origin of the upstream that it was given for.

Everything that is known of users stands sealed in the store (vault.py), so that a restart between the way out and the way back loses
nothing. Two servers may renew one token at the same time: who comes too late finds the other's in the store.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar
from urllib.parse import urlsplit

import anyio
import httpx2

from agentmesh.adapters.upstream_oauth_auth import Attempt, OAuthRequests, attempting
from agentmesh.adapters.upstream_oauth_challenge import Challenge, covers, join
from agentmesh.adapters.upstream_oauth_login import LoginFlow
from agentmesh.adapters.upstream_oauth_provider import Provider, digest
from agentmesh.adapters.upstream_oauth_token import Refused, Token, request_token
from agentmesh.adapters.upstream_oauth_web import OAuthWeb
from agentmesh.adapters.vault import Vault, key_of
from agentmesh.core.caller import ELICITATION, NOBODY, Caller, InputRequest
from agentmesh.core.login import LoginStart
from agentmesh.core.policy import Principal
from agentmesh.core.server_file import OAuth
from agentmesh.errors import Fail, LoginRequired, MissingCapability, Retry

log = logging.getLogger(__name__)

T = TypeVar("T")
EXCHANGE: Final = 60.0
"""Seconds for all requests of one exchange together."""
STEP_UPS: Final = 2
"""How often the same scopes are asked for again that were not granted when they were asked for."""
MESH: Final = Principal(subject="", tenant="")
"""Whose token it is with client credentials: nobody's but the mesh's."""
_NO_PERSON = ("cron:", "webhook:")
"""Subjects that no browser can log in."""
OnLogin = Callable[[Principal], None]


class UpstreamOAuth:
    """The tokens for one upstream. May live through changes of everything else; holds no connection."""

    def __init__(
        self, name: str, url: str, spec: OAuth, *,
        vault: Vault, base_url: str, client_document: str | None = None, web: OAuthWeb | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """`name`, `url`: of the upstream. `spec`: with its secrets in place. `base_url`: of the mesh, as browsers reach it.

        `client_document`: the client id that is the address of the mesh's metadata document; None: where `base_url` has it.
        """
        self.name = name
        self.url = url
        self.spec = spec
        self.per_user = spec.flow == "authorization_code"
        self.way_in = f"{base_url}/v1/oauth/start/{name}"
        """The address at which a user logs in."""
        self._vault = vault
        self._clock = clock
        self._provider = Provider(
            name,
            url,
            spec,
            vault=vault,
            base_url=base_url,
            web=web or OAuthWeb(url),
            clock=clock,
            document=client_document,
        )
        self._flow = LoginFlow(self._provider, vault=vault, clock=clock, way_in=self.way_in)
        self._nonce = secrets.token_hex(8)
        self._tokens: dict[str, Token] = {}
        self._renewing: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._arrived: dict[str, anyio.Event] = {}
        self._hearing: list[OnLogin] = []

    def auth(self, principal: Principal | None = None) -> httpx2.Auth:
        """Authorizes the requests of one session: with the mesh's token, or where each user has one with this user's.

        Never raises into the session: what the upstream refuses comes through, and `attempt` says why it could not be helped.
        """
        return OAuthRequests(self, self._whose(principal))

    @contextmanager
    def attempt(self) -> Iterator[Attempt]:
        """Around the sending of one call: why it could not be authorized."""
        with attempting() as attempt:
            yield attempt

    def on_login(self, hear: OnLogin) -> None:
        """Has `hear` told of everybody who logs in from now on. Must not block."""
        self._hearing.append(hear)

    async def someone(self) -> Principal | None:
        """Who logged in last and can still be acted for; with client credentials the mesh itself."""
        if not self.per_user:
            return MESH
        tokens = [
            Token.from_json(row) for key, row in (await self._vault.scan(self.name)).items() if key.startswith("token:")
        ]
        usable = [token for token in tokens if token is not None and token.upstream == self.url and self._usable(token)]
        if not usable:
            return None
        last = max(usable, key=lambda token: token.at)
        return Principal(subject=last.subject, tenant=last.tenant)

    async def require(
        self, principal: Principal, caller: Caller = NOBODY, *, after: Attempt | None = None, wait: float = 60.0
    ) -> None:
        """Returns when there is a token for this principal; asks them to log in when there is none, and waits so long.

        `after`: what an attempt came to that was not authorized; then it has to be another token than the one it had.
        LoginRequired when nobody can be asked, or they do not log in; what else stood in the way of `after`; Retry when the
        authorization server cannot be asked. InputRequired when the client has to come again.
        """
        refused: str | None = None
        if after is not None and after.refusal is not None:
            if not isinstance(after.refusal, LoginRequired):
                raise after.refusal
            refused = after.token
        if not self.per_user:
            return
        token = await self.token(principal)
        if token is not None and token.access_token != refused:
            return
        if principal.subject.startswith(_NO_PERSON):
            raise LoginRequired(
                f"{self.name} wants a login of each user, and {principal.subject} is none who could log in; "
                "start this as a person, or use the flow client_credentials for it"
            )
        try:
            key = f"login:{self.name}"
            answer = (await caller.ask({key: self._question(principal)}))[key]
        except MissingCapability:
            raise self.login_required() from None
        if answer.get("action") != "accept":
            raise LoginRequired(
                f"the login at {self.name} was declined; log in at {self.way_in} and call again", url=self.way_in
            )
        with anyio.move_on_after(wait):
            await self._arrival(principal, refused)
            return
        raise self.login_required()

    def login_required(self) -> LoginRequired:
        """The error that says how to go on."""
        return LoginRequired(
            f"{self.name} wants you to log in: open {self.way_in} in a browser, then call again", url=self.way_in
        )

    async def token(self, principal: Principal | None) -> Token | None:
        """The token to send, renewed when it is about to end; None when there is none."""
        who = self._whose(principal)
        token = self._tokens.get(key_of(who))
        if token is None:
            token = await self._load(who)
        if token is not None and not token.fresh(self._clock(), self._share(token)):
            token = await self.renew(who, token)
        return token

    async def renew(self, who: Principal, stale: Token | None) -> Token | None:
        """Another token than the stale one; None when only a login brings one. Retry, Fail when it cannot be asked for.

        One renewal at a time; whoever waited for it gets what it brought.
        """
        async with self._renewing[key_of(who)]:
            current = await self._load(who)
            if current is not None and (stale is None or current.access_token != stale.access_token):
                return current
            if not self.per_user:
                return await _to_the_end(lambda: self._of_the_mesh(current or stale))
            if current is None:
                return None
            if current.refresh_token is None:
                await self._drop(who)  # or whoever calls next would be taken for logged in
                return None
            return await _to_the_end(lambda: self._refreshed(who, current))

    async def challenged(self, challenge: Challenge) -> None:
        """Remembers how the upstream refused a request."""
        await self._provider.challenged(challenge)

    async def step_up(self, who: Principal, token: Token | None, challenge: Challenge) -> Token | None:
        """A token with the scopes that were missing; None when only a login brings one. Fail when that was tried often enough."""
        async with self._renewing[key_of(who)]:
            current = await self._load(who)
            if current is not None and token is not None and current.access_token != token.access_token:
                return current
            base = current or token
            known = base is not None and covers(base.asked, challenge.scope)
            tries = base.tries + 1 if base is not None and known else 0
            if tries > STEP_UPS or (base is not None and known and covers(base.scope, challenge.scope)):
                # Scopes that were granted, or asked for in vain: to log in again would not change it.
                raise Fail(
                    f"{self.name} refuses this for want of scopes ({(challenge.scope or 'it does not say which')[:200]}) "
                    "that were asked for; whoever administers it has to grant them"
                )
            asked = join(base.asked, base.scope, challenge.scope) if base else challenge.scope
            if not self.per_user:
                return await _to_the_end(lambda: self._of_the_mesh(base, asked=asked, tries=tries))
            await self._flow.want(who, asked, tries)
            return None

    async def start(self, principal: Principal) -> LoginStart:
        """See Logins.start."""
        return await self._flow.start(principal)

    async def finish(self, principal: Principal, answer: Mapping[str, str], browser: str | None) -> None:
        """See Logins.finish."""

        async def exchange() -> None:
            await self._keep(principal, await self._flow.finish(principal, answer, browser))

        await _to_the_end(exchange)
        log.info("%s has logged in to %s", principal.subject, self.name)
        if (event := self._arrived.pop(key_of(principal), None)) is not None:
            event.set()
        for hear in self._hearing:
            hear(principal)

    async def forget(self, principal: Principal) -> None:
        """See Logins.forget."""
        await self._drop(principal)
        await self._flow.forget(principal)

    def _whose(self, principal: Principal | None) -> Principal:
        return principal if self.per_user and principal is not None else MESH

    def _share(self, token: Token) -> float:
        """Where in the spread this server renews this token: by chance, and always the same."""
        return int(digest(self._nonce + token.access_token)[:8], 16) / 0xFFFFFFFF

    def _usable(self, token: Token) -> bool:
        return token.refresh_token is not None or token.fresh(self._clock())

    def _question(self, principal: Principal) -> InputRequest:
        return InputRequest(
            ELICITATION,
            {
                "mode": "url",
                "message": f"Log in to {self.name} ({urlsplit(self.url).netloc}), so that this mesh can call it for you.",
                "url": self.way_in,
                "elicitationId": f"login-{hashlib.sha256((self.name + key_of(principal)).encode()).hexdigest()[:24]}",
            },
        )

    async def _arrival(self, principal: Principal, refused: str | None) -> None:
        """Waits until this principal has another token than the refused one, here or at another server of the mesh."""
        while True:
            event = self._arrived.setdefault(key_of(principal), anyio.Event())
            token = await self._load(principal)
            if token is not None and token.access_token != refused and self._usable(token):
                return
            with anyio.move_on_after(1):
                await event.wait()

    async def _load(self, who: Principal) -> Token | None:
        """What the store has: another server of the mesh may have written it."""
        token = Token.from_json(await self._vault.get(self.name, f"token:{key_of(who)}"))
        if token is None or token.upstream != self.url:
            self._tokens.pop(key_of(who), None)
            return None
        self._tokens[key_of(who)] = token
        return token

    async def _keep(self, who: Principal, token: Token) -> None:
        await self._vault.put(self.name, f"token:{key_of(who)}", token.to_json())
        self._tokens[key_of(who)] = token

    async def _drop(self, who: Principal) -> None:
        self._tokens.pop(key_of(who), None)
        await self._vault.forget(self.name, f"token:{key_of(who)}")

    async def _refreshed(self, who: Principal, token: Token) -> Token | None:
        server = await self._provider.server()
        if server.issuer != token.issuer:
            await self._drop(who)  # tokens of one authorization server are nothing for another
            return None
        client = await self._provider.client(server, token.asked)
        assert token.refresh_token is not None
        grant = {"grant_type": "refresh_token", "refresh_token": token.refresh_token}
        try:
            given = await request_token(self._provider.web, server, client, grant, self._clock())
        except Refused as error:
            other = await self._load(who)
            if other is not None and other.access_token != token.access_token:
                return other  # another server of this mesh was faster
            log.info("the login of %s at %s has ended: %s", who.subject, self.name, error.message)
            await self._drop(who)
            return None
        # What is not named stays (RFC 6749 section 6), but for the time, which is the new token's.
        newer = replace(token, **({"expires_at": None} | dict(given)))
        await self._keep(who, newer)
        return newer

    async def _of_the_mesh(self, last: Token | None, *, asked: str | None = None, tries: int = 0) -> Token:
        """A token by client credentials."""
        server = await self._provider.server()
        if self.spec.client_id is None:
            raise Fail(f"the flow client_credentials of {self.name} needs `client_id` under `oauth:`")
        client = await self._provider.client(server)
        scope = asked or (last.asked if last else None) or await self._provider.scopes(server)
        grant = {"grant_type": "client_credentials", **({"scope": scope} if scope else {})}
        now = self._clock()
        given = await request_token(self._provider.web, server, client, grant, now)
        token = Token(
            issuer=server.issuer,
            upstream=self.url,
            asked=scope,
            tries=tries,
            at=now,
            **({"scope": scope} | dict(given)),
        )
        await self._keep(MESH, token)
        return token


async def _to_the_end(exchange: Callable[[], Awaitable[T]]) -> T:
    """An exchange of tokens, finished and kept though its caller leaves: what was spent for it cannot be spent again."""
    with anyio.move_on_after(EXCHANGE, shield=True):
        return await exchange()
    raise Retry(f"the authorization server did not answer within {EXCHANGE:g} s; try again")
