"""OAuthRequests: puts a token on each request to an upstream, and sends a request again that another token may get through."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import httpx2

from agentmesh.adapters.upstream_oauth_challenge import challenge_of
from agentmesh.core.policy import Principal
from agentmesh.errors import Fail, MeshError

if TYPE_CHECKING:
    from agentmesh.adapters.upstream_oauth import UpstreamOAuth
    from agentmesh.adapters.upstream_oauth_token import Token

log = logging.getLogger(__name__)

AGAIN: Final = 3
"""How often one request is sent again."""


@dataclass(slots=True)
class Attempt:
    """What the authorization of one call came to."""

    refusal: MeshError | None = None
    """Why it could not be authorized; None while nothing stood in its way."""
    token: str | None = field(default=None, repr=False)
    """The token that was refused."""


_ATTEMPT: ContextVar[Attempt | None] = ContextVar("oauth_attempt", default=None)


@contextmanager
def attempting() -> Iterator[Attempt]:
    """The attempt of whatever is sent in this block."""
    attempt = Attempt()
    mark = _ATTEMPT.set(attempt)
    try:
        yield attempt
    finally:
        _ATTEMPT.reset(mark)


class OAuthRequests(httpx2.Auth):
    """For one principal at one upstream. Requests of one session are not held up by one another."""

    def __init__(self, oauth: UpstreamOAuth, who: Principal) -> None:
        self._oauth = oauth
        self._who = who
        url = httpx2.URL(oauth.url)
        self._origin = (url.scheme, url.host, url.port)

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        if (request.url.scheme, request.url.host, request.url.port) != self._origin:
            request.headers.pop("authorization", None)
            yield request
            return
        attempt = _ATTEMPT.get() or Attempt()
        refusal: MeshError | None = None
        try:
            token = await self._oauth.token(self._who)
        except MeshError as error:
            # The upstream is asked all the same: it may serve this without a token.
            refusal, token = error, None
        response = yield _with(request, token)
        for _ in range(AGAIN):
            if response.status_code not in {401, 403}:
                return
            attempt.token = token.access_token if token else None
            try:
                token = await self._next(response, token)
            except MeshError as error:
                log.info("a request to %s was not authorized: %s", self._oauth.name, error.message)
                attempt.refusal = refusal or error
                return
            if token is None:
                return
            response = yield _with(request, token)
        if response.status_code in {401, 403}:
            attempt.refusal = Fail(f"{self._oauth.name} refuses the tokens that its own authorization server gives")

    async def _next(self, response: httpx2.Response, token: Token | None) -> Token | None:
        """Another token that may get this request through; None when it was not refused for its token."""
        challenge = challenge_of(response.headers.get_list("www-authenticate"))
        if response.status_code == 403 and challenge.error != "insufficient_scope":
            return None
        if response.status_code == 403:
            newer = await self._oauth.step_up(self._who, token, challenge)
        else:
            await self._oauth.challenged(challenge)
            newer = await self._oauth.renew(self._who, token)
        if newer is None:
            raise self._oauth.login_required()
        return newer


def _with(request: httpx2.Request, token: Token | None) -> httpx2.Request:
    """The request with this token and no other."""
    request.headers.pop("authorization", None)
    if token is not None:
        request.headers["authorization"] = f"Bearer {token.access_token}"
    return request
