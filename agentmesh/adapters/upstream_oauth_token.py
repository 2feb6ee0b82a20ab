"""Token: what an authorization server gave for one upstream, to one user or to the mesh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from agentmesh.adapters.upstream_oauth_client import OAuthClient
from agentmesh.adapters.upstream_oauth_discovery import AuthorizationServer
from agentmesh.adapters.upstream_oauth_web import OAuthWeb
from agentmesh.errors import Fail, Retry

EARLY: Final = 30.0
"""Seconds before its end from which a token is renewed: a request that is on its way must still arrive in time."""
SPREAD: Final = 90.0
"""Seconds over which several servers of a mesh spread the renewal of one token, so that only the first of them has to."""


class Refused(Fail):
    """The authorization server gives no token for this, and will not."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token with what has to be known to renew it."""

    access_token: str = field(repr=False)
    issuer: str
    upstream: str
    """URL of the upstream; the token is sent nowhere else."""
    refresh_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None
    asked: str | None = None
    """Scopes that were asked for."""
    scope: str | None = None
    """Scopes that were granted."""
    tries: int = 0
    """How often it was tried in vain to have more scopes."""
    given_at: float = 0.0
    """Unix seconds when it was given or renewed."""
    at: float = 0.0
    """Unix seconds of the login, or of the first token of the mesh."""
    tenant: str = ""
    subject: str = ""

    def fresh(self, now: float, share: float = 0.0) -> bool:
        """Whether it may still be sent. `share`, from 0 to 1: where in the spread this server of the mesh renews it.

        One that is good for a short time only is renewed in the last quarter of that.
        """
        if self.expires_at is None:
            return True
        return now < self.expires_at - min(EARLY + SPREAD * share, (self.expires_at - self.given_at) / 4)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Token | None:
        """What `to_json` wrote; None for anything else."""
        if value is None:
            return None
        try:
            return cls(**value)
        except TypeError:
            return None


async def request_token(
    web: OAuthWeb, server: AuthorizationServer, client: OAuthClient, grant: Mapping[str, str], now: float
) -> Mapping[str, Any]:
    """Asks the token endpoint: `{access_token, given_at, refresh_token, expires_at, scope}`, those of the last three that it gave.

    Refused when it will not, Retry when it may later. The resource is always named (RFC 8707).
    """
    form, headers = client.credentials(now)
    answer = await web.post(server.token_endpoint, form={**grant, **form, "resource": server.resource}, headers=headers)
    if answer.status >= 500 or answer.status == 429:
        raise Retry(f"the authorization server {server.issuer} answered {answer.status} when it was asked for a token")
    body = answer.body
    access = body.get("access_token")
    if answer.status not in {200, 201} or not isinstance(access, str) or not _headers_take(access):
        why = answer.error or f"status {answer.status}"
        raise Refused(f"the authorization server {server.issuer} gave no token ({why})")
    if str(body.get("token_type", "bearer")).lower() != "bearer":
        raise Fail(
            f"the authorization server {server.issuer} gave a token that is not a bearer token; only those can be used"
        )
    given: dict[str, Any] = {"access_token": access, "given_at": now}
    if (seconds := _seconds(body.get("expires_in"))) is not None:
        given["expires_at"] = now + seconds
    for name in ("refresh_token", "scope"):
        if isinstance(body.get(name), str) and body[name]:
            given[name] = body[name]
    return given


def _seconds(value: Any) -> float | None:
    """Some servers write the number as a string."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < 1e10 else None


def _headers_take(text: str) -> bool:
    return 0 < len(text) <= 16384 and text.isascii() and text.isprintable() and " " not in text
