"""Logins: the upstreams that want tokens, by name; core.login.Logins over those of them that have one for each user."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentmesh.core.login import LoginStart
from agentmesh.core.policy import Principal
from agentmesh.core.secret import fill_secrets
from agentmesh.core.server_file import ServerFile
from agentmesh.core.store import Store
from agentmesh.errors import NotFound

if TYPE_CHECKING:
    from agentmesh.adapters.upstream_oauth import UpstreamOAuth
    from agentmesh.adapters.vault import Vault


class Logins:
    """The upstreams that want tokens, by name; core.login.Logins over those of them that have one for each user."""

    def __init__(
        self, store: Store, keys: Sequence[bytes], *, base_url: str, clock: Callable[[], float] = time.time
    ) -> None:
        """`keys`: the mesh's (keyring.load_keys). `base_url`: the mesh's own address."""
        self.base_url = base_url.rstrip("/")
        self._store = store
        self._keys = tuple(keys)
        self._vault: Vault | None = None
        self._clock = clock
        self._upstreams: dict[str, UpstreamOAuth] = {}

    def of(self, server: ServerFile, secrets: Mapping[str, str]) -> UpstreamOAuth:
        """The tokens for the upstream of a server file that has `oauth:`. The same as before when nothing of that has changed."""
        upstream = server.upstream
        assert upstream is not None
        assert upstream.url is not None
        assert upstream.oauth is not None
        key = upstream.oauth.client_key
        spec = upstream.oauth.model_copy(update={"client_key": fill_secrets(key, secrets) if key else None})
        known = self._upstreams.get(server.name)
        if known is not None and (known.url, known.spec) == (upstream.url, spec):
            return known
        # Not before an upstream wants it: what it stands on takes a while to import.
        from agentmesh.adapters.upstream_oauth import UpstreamOAuth
        from agentmesh.adapters.vault import Vault

        self._vault = self._vault or Vault(self._store, self._keys)
        made = UpstreamOAuth(
            server.name, upstream.url, spec, vault=self._vault, base_url=self.base_url, clock=self._clock
        )
        self._upstreams[server.name] = made
        return made

    def drop(self, name: str) -> None:
        """Knows an upstream no more whose file is gone; its tokens stay in the store, should it come back."""
        self._upstreams.pop(name, None)

    async def start(self, upstream: str, principal: Principal) -> LoginStart:
        return await self._of(upstream).start(principal)

    async def finish(self, upstream: str, principal: Principal, answer: Mapping[str, str], browser: str | None) -> None:
        await self._of(upstream).finish(principal, answer, browser)

    async def forget(self, upstream: str, principal: Principal) -> None:
        await self._of(upstream).forget(principal)

    def document(self) -> Mapping[str, Any] | None:
        from agentmesh.adapters.upstream_oauth_client import metadata_document

        redirects = [
            f"{self.base_url}/v1/oauth/redirect/{name}" for name in self._upstreams if self._upstreams[name].per_user
        ]
        return metadata_document(self.base_url, redirects)

    def _of(self, name: str) -> UpstreamOAuth:
        upstream = self._upstreams.get(name)
        if upstream is None or not upstream.per_user:
            raise NotFound("there is no such upstream with a login for each user")
        return upstream
