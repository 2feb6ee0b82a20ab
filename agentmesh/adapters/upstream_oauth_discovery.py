"""Discovery: which authorization server an upstream trusts, and what that one can do.

MCP 2026-07-28 basic/authorization/authorization-server-discovery: protected resource metadata where the challenge says, else at the
well-known places; then the authorization server's own metadata, as OAuth (RFC 8414) or OpenID Connect publish it. Identifiers are
compared as they stand in the documents, without any normalization, which would let one server pass for another.
An upstream of 2025-03-26 has no protected resource metadata: it is its own authorization server, with default endpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
)
from mcp.shared.auth_utils import check_resource_allowed, resource_url_from_server_url

from agentmesh.adapters.upstream_oauth_web import Answer, OAuthWeb
from agentmesh.errors import Fail, Retry


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """Where tokens for one upstream come from."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    resource: str
    """What a token is asked for (RFC 8707): the upstream, as its metadata name it."""
    registration_endpoint: str | None = None
    resource_scopes: str | None = None
    """Scopes that the upstream says it needs."""
    scopes: frozenset[str] = frozenset()
    """Scopes that the server says it knows."""
    auth_methods: tuple[str, ...] = ()
    """How clients may show themselves to its token endpoint; empty when it does not say."""
    algorithms: tuple[str, ...] = ()
    """With which a client's assertion may be signed; empty when it does not say."""
    takes_urls: bool = False
    """Whether a client may be known by the address of its metadata document."""
    names_itself: bool = False
    """Whether its answers to a login always carry `iss` (RFC 9207)."""


async def discover(web: OAuthWeb, upstream: str, metadata_url: str | None) -> AuthorizationServer:
    """Asks the upstream and the authorization server that it names. Fail for metadata that may not be used, Retry when out of reach.

    `metadata_url`: from the upstream's challenge.
    """
    resource = resource_url_from_server_url(upstream)
    described = await _resource_metadata(web, upstream, metadata_url)
    if described is None:
        return await _of_2025_03_26(web, upstream, resource)
    named = _text(described, "resource")
    if named is None or not check_resource_allowed(resource, named):
        raise Fail(
            f"the metadata of {_origin(upstream)} are for {_short(named)}, another server; nothing is asked with them"
        )
    servers = described.get("authorization_servers")
    if not isinstance(servers, list) or not servers or not isinstance(servers[0], str):
        raise Fail(f"the metadata of {_origin(upstream)} name no authorization server")
    metadata = await _server_metadata(web, servers[0], upstream)
    if metadata is None:
        raise Fail(f"the authorization server {_short(servers[0])} publishes no metadata")
    return _server(metadata, servers[0], named, _words(described.get("scopes_supported")))


async def _resource_metadata(web: OAuthWeb, upstream: str, metadata_url: str | None) -> Mapping[str, Any] | None:
    """The first of the places where there are any; None when there are none."""
    failed: Answer | None = None
    for url in build_protected_resource_metadata_discovery_urls(metadata_url, upstream):
        answer = await web.get(url)
        if answer.status == 200 and answer.body:
            return answer.body
        if answer.status >= 500 or answer.status == 429:
            failed = answer
    if failed is not None:
        # That it fails says nothing of whether there are some: it must not look as if there were none.
        raise Retry(f"{_origin(upstream)} answered {failed.status} when it was asked who gives tokens for it")
    return None


async def _server_metadata(web: OAuthWeb, issuer: str, upstream: str, *also: str) -> Mapping[str, Any] | None:
    """The authorization server's metadata, which name that very issuer, or one of `also`."""
    for url in build_oauth_authorization_server_metadata_discovery_urls(issuer, upstream):
        answer = await web.get(url)
        if answer.status >= 500 or answer.status == 429:
            raise Retry(f"the authorization server {_short(issuer)} answered {answer.status}")
        if answer.status == 200 and answer.body:
            if answer.body.get("issuer") not in (issuer, *also):
                named = _text(answer.body, "issuer")
                raise Fail(f"the metadata of the authorization server {_short(issuer)} are those of {_short(named)}")
            return answer.body
    return None


async def _of_2025_03_26(web: OAuthWeb, upstream: str, resource: str) -> AuthorizationServer:
    """The upstream's own origin (2025-03-26 basic/authorization 2.3): its metadata, or the default endpoints."""
    origin = _origin(upstream)
    metadata = await _server_metadata(web, origin, upstream, f"{origin}/")  # an origin may be written either way
    if metadata is not None:
        return _server(metadata, str(metadata["issuer"]), resource, None)
    return AuthorizationServer(
        issuer=origin,
        authorization_endpoint=urljoin(origin, "/authorize"),
        token_endpoint=urljoin(origin, "/token"),
        registration_endpoint=urljoin(origin, "/register"),
        resource=resource,
    )


def _server(
    metadata: Mapping[str, Any], issuer: str, resource: str, scopes: tuple[str, ...] | None
) -> AuthorizationServer:
    endpoint = _text(metadata, "token_endpoint")
    if endpoint is None:
        raise Fail(f"the metadata of the authorization server {_short(issuer)} name no token endpoint")
    authorize = _text(metadata, "authorization_endpoint") or ""
    if "S256" not in _words(metadata.get("code_challenge_methods_supported")):
        authorize = ""  # without PKCE nobody logs in there (security-considerations, Authorization Code Protection)
    return AuthorizationServer(
        issuer=issuer,
        authorization_endpoint=authorize,
        token_endpoint=endpoint,
        resource=resource,
        registration_endpoint=_text(metadata, "registration_endpoint"),
        resource_scopes=" ".join(scopes) if scopes else None,
        scopes=frozenset(_words(metadata.get("scopes_supported"))),
        auth_methods=_words(metadata.get("token_endpoint_auth_methods_supported")),
        algorithms=_words(metadata.get("token_endpoint_auth_signing_alg_values_supported")),
        takes_urls=metadata.get("client_id_metadata_document_supported") is True,
        names_itself=metadata.get("authorization_response_iss_parameter_supported") is True,
    )


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) and value else None


def _words(value: Any) -> tuple[str, ...]:
    return tuple(word for word in value if isinstance(word, str) and word) if isinstance(value, list) else ()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _short(name: str | None) -> str:
    """An address that somebody else wrote, as a message may show it."""
    return repr(name[:200]) if name else "nobody"
