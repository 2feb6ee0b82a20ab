"""Provider: the authorization server of one upstream, as whom the mesh is known there, and what to ask it for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from agentmesh import __version__
from agentmesh.adapters.upstream_oauth_challenge import Challenge, challenge_of, join
from agentmesh.adapters.upstream_oauth_client import OAuthClient, document_url, register, registered
from agentmesh.adapters.upstream_oauth_discovery import AuthorizationServer, discover
from agentmesh.adapters.upstream_oauth_web import OAuthWeb
from agentmesh.adapters.vault import Vault
from agentmesh.core.server_file import OAuth
from agentmesh.errors import Fail, Retry

KNOWN_SECONDS: Final = 3600
"""How long metadata are taken for true."""
_CHALLENGE: Final = "challenge"
_PIN: Final = "pin"


def digest(text: str) -> str:
    """SHA-256 in hex: what is kept of a secret that only has to be known again."""
    return hashlib.sha256(text.encode()).hexdigest()


class Provider:
    """Of one upstream. Keeps its client in the vault, and what the upstream said when it last refused a request."""

    def __init__(
        self, name: str, url: str, spec: OAuth, *,
        vault: Vault, base_url: str, web: OAuthWeb, clock: Callable[[], float], document: str | None = None,
    ) -> None:  # fmt: skip
        """`document`: the client id that is the address of the mesh's metadata document; None: where `base_url` has it."""
        self.name = name
        self.url = url
        self.spec = spec
        self.web = web
        self.redirect = f"{base_url}/v1/oauth/redirect/{name}"
        self._base_url = base_url
        self._document = document or document_url(base_url)
        self._vault = vault
        self._clock = clock
        self._server: AuthorizationServer | None = None
        self._asked_at = 0.0

    async def challenged(self, challenge: Challenge) -> None:
        """Remembers how the upstream refused a request: it says where to ask, and what for. It may have moved: ask again."""
        self._server = None
        said = {"metadata_url": challenge.metadata_url, "scope": challenge.scope}
        if await self._vault.get(self.name, _CHALLENGE) != said:
            await self._vault.put(self.name, _CHALLENGE, said)

    async def server(self) -> AuthorizationServer:
        """The upstream's authorization server; asked for anew after the upstream has refused a token, and now and then."""
        if self._server is None or not 0 <= self._clock() - self._asked_at < KNOWN_SECONDS:
            if await self._vault.get(self.name, _CHALLENGE) is None:
                await self.challenged(await self._probe())
            challenge = await self._vault.get(self.name, _CHALLENGE) or {}
            self._server = await discover(self.web, self.url, challenge.get("metadata_url"))
            self._asked_at = self._clock()
        return self._server

    async def _probe(self) -> Challenge:
        """What the upstream says to a request without a token: whoever logs in before anything was called needs to know it."""
        body = {
            "jsonrpc": "2.0", "id": 1, "method": "server/discover",
            "params": {"_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "agentmesh", "version": __version__},
                "io.modelcontextprotocol/clientCapabilities": {},
            }},
        }  # fmt: skip
        headers = {"accept": "application/json, text/event-stream", "mcp-method": "server/discover"}
        try:
            answer = await self.web.post(self.url, json=body, headers=headers)
        except (Fail, Retry):
            return Challenge()  # what is wrong with it will show where it matters
        return challenge_of(answer.challenges) if answer.status == 401 else Challenge()

    async def scopes(self, server: AuthorizationServer, wanted: str | None = None) -> str | None:
        """What to ask for (basic/authorization, Scope Selection Strategy): the operator's word, else the challenge, else the metadata.

        `wanted`: what is known to be needed, in place of the latter two.
        """
        scope = " ".join(self.spec.scopes) if self.spec.scopes is not None else None
        if wanted:
            scope = join(scope, wanted)
        elif scope is None:
            challenge = await self._vault.get(self.name, _CHALLENGE) or {}
            scope = challenge.get("scope") or server.resource_scopes
        if self.spec.flow == "authorization_code" and scope and "offline_access" in server.scopes:
            scope = join(scope, "offline_access")
        return scope

    async def client(self, server: AuthorizationServer, scope: str | None = None) -> OAuthClient:
        """As whom the mesh is known there; registers it where it is not."""
        if self.spec.client_id is not None:
            await self._pin(server)
            return registered(server, self.spec.client_id, self.spec.client_key)
        if server.takes_urls and self._document is not None:
            return OAuthClient(server.issuer, self._document)
        key = f"client:{digest(server.issuer)}"
        known = OAuthClient.from_json(await self._vault.get(self.name, key) or {})
        ended = known is not None and known.expires_at is not None and known.expires_at <= self._clock()
        if known is not None and known.issuer == server.issuer and known.redirect == self.redirect and not ended:
            return known
        client = await register(self.web, server, self._base_url, self.redirect, scope)
        await self._vault.put(self.name, key, client.to_json())
        return client

    async def _pin(self, server: AuthorizationServer) -> None:
        """Holds the operator's client to one authorization server: its secret is for no other."""
        if self.spec.issuer is not None:
            if self.spec.issuer != server.issuer:
                raise Fail(
                    f"{self.name} names the authorization server {server.issuer}, and its client belongs to {self.spec.issuer}; "
                    "nothing is sent there"
                )
            return
        mark = digest(f"{self.spec.client_id}\0{self.spec.client_key}")
        pinned = await self._vault.get(self.name, _PIN) or {}
        if pinned.get("client") != mark:
            await self._vault.put(self.name, _PIN, {"client": mark, "issuer": server.issuer})
        elif pinned.get("issuer") != server.issuer:
            raise Fail(
                f"{self.name} now names the authorization server {server.issuer}, and its client was used with "
                f"{pinned.get('issuer')} before; nothing is sent there: register a client with the new one, or write its `issuer:`"
            )
