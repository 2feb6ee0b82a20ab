"""OAuthClient: as whom the mesh is known to an authorization server, and how it shows that it is.

Client registration (MCP 2026-07-28 basic/authorization/client-registration), in this order: what the operator registered, the address
of the mesh's own metadata document, dynamic registration. What one authorization server gave is never shown to another.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agentmesh.adapters.upstream_oauth_discovery import AuthorizationServer
from agentmesh.adapters.upstream_oauth_web import OAuthWeb
from agentmesh.errors import Fail

NAME: Final = "AgentMesh"
BASIC, POST, ASSERTION, NONE = "client_secret_basic", "client_secret_post", "private_key_jwt", "none"
WITH_SECRET: Final = (BASIC, POST)
ASSERTION_SECONDS: Final = 120
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """Known to the authorization server `issuer`, and to no other."""

    issuer: str
    client_id: str
    secret: str | None = field(default=None, repr=False)
    """What it shows: a password, or a private key in PEM form, with which it signs an assertion."""
    method: str = NONE
    algorithm: str = ""
    expires_at: float | None = None
    """When the secret is no longer good; None: never."""
    redirect: str = ""
    """The redirect address that it was registered with; empty for one that the operator registered."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OAuthClient | None:
        """What `to_json` wrote; None for anything else."""
        try:
            return cls(**value)
        except TypeError:
            return None

    def credentials(self, now: float) -> tuple[dict[str, str], dict[str, str]]:
        """What it adds to the form, and to the headers, of a token request."""
        if self.method == BASIC and self.secret is not None:
            pair = f"{quote(self.client_id, safe='')}:{quote(self.secret, safe='')}"  # RFC 6749 section 2.3.1
            return {}, {"authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        form = {"client_id": self.client_id}
        if self.method == POST and self.secret is not None:
            form["client_secret"] = self.secret
        if self.method == ASSERTION:
            form |= {"client_assertion_type": _JWT_BEARER, "client_assertion": self._assertion(now)}
        return form, {}

    def _assertion(self, now: float) -> str:
        """RFC 7523 section 3; its audience is the issuer, so that no other server can use it."""
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.issuer,
            "iat": int(now),
            "exp": int(now) + ASSERTION_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }
        assert self.secret is not None
        return jwt.encode(claims, self.secret, algorithm=self.algorithm)


def registered(server: AuthorizationServer, client_id: str, key: str | None) -> OAuthClient:
    """The client that the operator registered: `client_id` and `client_key` of the server file. Fail when they do not do there."""
    if key is None:
        return OAuthClient(server.issuer, client_id)
    if key.lstrip().startswith("-----BEGIN"):
        return OAuthClient(server.issuer, client_id, key, ASSERTION, _algorithm(key, server))
    offered = server.auth_methods or (BASIC,)  # RFC 8414 section 2: the default
    method = next((m for m in WITH_SECRET if m in offered), None)
    if method is None:
        raise Fail(
            f"the authorization server {server.issuer} takes no client's secret, only {', '.join(offered)[:200]}; "
            "leave `client_key` out, or give it a private key in PEM form"
        )
    return OAuthClient(server.issuer, client_id, key, method)


def metadata_document(base_url: str, redirects: list[str]) -> dict[str, Any] | None:
    """What the mesh says of itself at `BASE_URL/v1/oauth/client.json`; None when it has no address that others can trust."""
    url = document_url(base_url)
    if url is None:
        return None
    return {"client_id": url, "client_uri": base_url, **_metadata(base_url, redirects, NONE)}


def document_url(base_url: str) -> str | None:
    """The client id that is the address of the mesh's metadata document: https only."""
    return f"{base_url}/v1/oauth/client.json" if urlsplit(base_url).scheme == "https" else None


async def register(
    web: OAuthWeb, server: AuthorizationServer, base_url: str, redirect: str, scope: str | None
) -> OAuthClient:
    """Registers the mesh (RFC 7591). Fail when the server does not let it, or registers it as what it cannot be."""
    if server.registration_endpoint is None:
        raise Fail(
            f"the authorization server {server.issuer} registers no clients by itself; register this mesh there with the redirect "
            f"address {redirect}, and write `client_id` and `client_key` under `oauth:`"
        )
    offered = server.auth_methods or (BASIC,)
    wanted = next((method for method in (*WITH_SECRET, NONE) if method in offered), NONE)
    body = _metadata(base_url, [redirect], wanted) | ({"scope": scope} if scope else {})
    answer = await web.post(server.registration_endpoint, json=body)
    client_id, secret = answer.body.get("client_id"), answer.body.get("client_secret") or None
    if answer.status not in {200, 201} or not isinstance(client_id, str) or not client_id:
        why = answer.error or f"status {answer.status}"
        raise Fail(
            f"the authorization server {server.issuer} did not register this mesh ({why}); register it there with the redirect "
            f"address {redirect}, and write `client_id` and `client_key` under `oauth:`"
        )
    given = answer.body.get("token_endpoint_auth_method")
    method = given if isinstance(given, str) and given else (wanted if secret or wanted == NONE else NONE)
    if method not in {*WITH_SECRET, NONE} or (method in WITH_SECRET and not isinstance(secret, str)):
        raise Fail(
            f"the authorization server {server.issuer} registered this mesh with a way to show itself that it has not"
        )
    expires = answer.body.get("client_secret_expires_at")
    ends = float(expires) if isinstance(expires, (int, float)) and expires > 0 else None
    return OAuthClient(
        server.issuer, client_id, secret if method != NONE else None, method, expires_at=ends, redirect=redirect
    )


def _metadata(base_url: str, redirects: list[str], method: str) -> dict[str, Any]:
    return {
        "client_name": NAME,
        "redirect_uris": redirects,
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        "application_type": "web" if urlsplit(base_url).scheme == "https" else "native",
    }


def _algorithm(pem: str, server: AuthorizationServer) -> str:
    """With what a private key signs: RSA with RS256 or PS256, elliptic curves with what belongs to them."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Fail(
            "`client_key` looks like a private key and cannot be read; give it in PEM form, without a password"
        ) from None
    if isinstance(key, EllipticCurvePrivateKey):
        able: tuple[str, ...] = {256: ("ES256",), 384: ("ES384",), 521: ("ES512",)}.get(key.curve.key_size, ())
    else:
        able = ("RS256", "PS256") if isinstance(key, RSAPrivateKey) else ("EdDSA",)
    algorithm = next((a for a in able if not server.algorithms or a in server.algorithms), None)
    if algorithm is None:
        raise Fail(f"the authorization server {server.issuer} does not take what the key in `client_key` can sign")
    return algorithm
