"""Login: a user's way in to an upstream that wants to know each of them: out to its authorization server in a browser, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agentmesh.core.policy import Principal


@dataclass(frozen=True, slots=True)
class LoginStart:
    """Where a browser is sent to log in."""

    url: str = field(repr=False)
    """At the authorization server."""
    browser: str = field(repr=False)
    """A secret that this very browser keeps until it comes back."""
    seconds: int = 0
    """How long it has."""


class Logins(Protocol):
    """The logins at all upstreams that have one for each user."""

    @property
    def base_url(self) -> str:
        """The mesh's own address, under which browsers come back; without a slash at its end."""

    async def start(self, upstream: str, principal: Principal) -> LoginStart:
        """Begins a login, which takes the place of one that this user has begun there before.

        NotFound when there is no such upstream, Fail or Retry when its authorization server does not do or cannot be asked.
        """

    async def finish(self, upstream: str, principal: Principal, answer: Mapping[str, str], browser: str | None) -> None:
        """Ends the login with what the authorization server sent the browser back with, and keeps the token.

        InvalidInput when no such login was begun by this user in this browser, or too long ago: each is used once.
        Declined when the user said no. Else what `start` raises.
        """

    async def forget(self, upstream: str, principal: Principal) -> None:
        """Keeps the user's token no longer. NotFound as `start`."""

    def document(self) -> Mapping[str, Any] | None:
        """The mesh's client metadata document; None when its address does not allow one."""
