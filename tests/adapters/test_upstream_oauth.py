"""Tokens for upstreams: whose they are, how they are had, renewed and lost; against a real authorization server."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.upstream_oauth import MESH, UpstreamOAuth
from agentmesh.adapters.vault import Vault, key_of
from agentmesh.core.caller import ELICITATION, Caller, InputRequest, InputRequired, NoCaller
from agentmesh.core.policy import Principal
from agentmesh.core.server_file import OAuth
from agentmesh.errors import Declined, Fail, InvalidInput, LoginRequired, Retry
from tests.adapters.authorization import Authorization, authorization
from tests.engine.meshes import Clock
from tests.http.serving import served
from tests.requirements import covers

pytestmark = pytest.mark.anyio
KEY, OTHER_KEY = b"k" * 32, b"x" * 32
ANN, BOB = Principal(subject="ann"), Principal(subject="bob")
BASE = "http://127.0.0.1:8080"


@dataclass
class Mesh:
    """One server of a mesh; `again` is another one, or the same after a restart."""

    server: Authorization
    store: MemoryStore
    spec: OAuth
    clock: Clock
    keys: tuple[bytes, ...] = (KEY,)
    base_url: str = BASE
    oauth: UpstreamOAuth = field(init=False)

    def __post_init__(self) -> None:
        self.oauth = UpstreamOAuth(
            "github",
            f"{self.server.url}/mcp",
            self.spec,
            vault=Vault(self.store, self.keys),
            base_url=self.base_url,
            clock=self.clock,
        )

    def again(self, **other: Any) -> Mesh:
        given = {"server": self.server, "store": self.store, "spec": self.spec, "clock": self.clock, "keys": self.keys}
        return Mesh(**(given | other))

    async def call(self, who: Principal = ANN, **headers: str) -> tuple[int, Any]:
        """One request to the upstream: its status, and why it was not authorized."""
        async with httpx2.AsyncClient(auth=self.oauth.auth(who)) as http:
            with self.oauth.attempt() as attempt:
                response = await http.post(f"{self.server.url}/mcp", json={}, headers=headers)
        return response.status_code, attempt.refusal

    async def log_in(self, who: Principal = ANN) -> None:
        begun = await self.oauth.start(who)
        await self.oauth.finish(who, await back(begun.url), begun.browser)


async def back(url: str) -> dict[str, str]:
    """What the authorization server sends a browser back with."""
    async with httpx2.AsyncClient() as browser:
        response = await browser.get(url)
    return dict(parse_qsl(urlsplit(response.headers["location"]).query))


@asynccontextmanager
async def mesh(spec: Mapping[str, Any] = {}, **server: Any) -> AsyncIterator[Mesh]:
    async with MemoryStore() as store, authorization(**server) as at:
        yield Mesh(at, store, OAuth.model_validate({"flow": "authorization_code", **spec}), Clock())


@covers(
    "MCP-2026-07-28 basic/authorization#resource-parameter",
    "MCP-2026-07-28 basic/authorization/client-registration#dynamic",
)
async def test_a_login_from_end_to_end() -> None:
    """Nobody is let through without a token; who has logged in is, with a token of their own, and it is asked for as it has to be."""
    async with mesh() as m:
        status, refusal = await m.call()
        assert status == 401
        assert isinstance(refusal, LoginRequired)
        assert f"{BASE}/v1/oauth/start/github" in refusal.message
        await m.log_in()
        assert await m.call() == (200, None)
        asked, form = m.server.asked[0], m.server.forms[0]
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert asked["scope"] == "read"
        assert asked["redirect_uri"] == form["redirect_uri"] == f"{BASE}/v1/oauth/redirect/github"
        assert asked["resource"] == form["resource"] == f"{m.server.url}/mcp"
        assert m.server.registered[0]["application_type"] == "native"
        assert m.server.registered[0]["grant_types"] == ["authorization_code", "refresh_token"]
        assert m.server.basics == [f"{asked['client_id']}:of the client"]


async def test_each_user_has_a_token_of_their_own() -> None:
    """One's login is not another's, nor one of the same name of another tenant."""
    async with mesh() as m:
        await m.log_in(ANN)
        assert (await m.call(ANN))[0] == 200
        assert (await m.call(BOB))[0] == 401
        assert (await m.call(Principal(subject="ann", tenant="acme")))[0] == 401
        await m.log_in(BOB)
        assert (await m.call(BOB))[0] == 200
        tokens = {seen["authorization"] for seen in m.server.headers if "authorization" in seen}
        assert len(tokens) == 2
        assert m.server.count("/register") == 1


@covers("MCP-2026-07-28 basic/authorization/security-considerations#token-passthrough")
async def test_the_callers_token_is_never_sent_on() -> None:
    """Whatever `Authorization` a request brings: what goes out is our token, or none."""
    async with mesh() as m:
        await m.call(authorization="Bearer of-the-caller")
        await m.log_in()
        await m.call(authorization="Bearer of-the-caller")
        assert not [seen for seen in m.server.headers if "of-the-caller" in seen.get("authorization", "")]


@covers("MCP-2026-07-28 basic/authorization#token-requirements")
async def test_no_token_leaves_for_elsewhere() -> None:
    """A request to another origin than the upstream's goes without a token."""
    async with mesh() as m, authorization() as other:
        await m.log_in()
        async with httpx2.AsyncClient(auth=m.oauth.auth(ANN)) as http:
            await http.post(f"{other.url}/mcp", json={}, headers={"authorization": "Bearer mine"})
        assert "authorization" not in other.headers[0]


async def test_a_restart_in_the_middle_of_a_login() -> None:
    """The way out before a restart, the way back after it: the login is whole, and so is the token after another one."""
    async with mesh() as m:
        begun = await m.oauth.start(ANN)
        answer = await back(begun.url)
        after = m.again()
        await after.oauth.finish(ANN, answer, begun.browser)
        assert await m.again().call() == (200, None)
        assert m.server.count("/register") == 1, "the client's registration was kept too"


async def test_rotated_keys() -> None:
    """With a new key in front of the old one nobody has to log in again; without the old one they have to, and nothing falls over."""
    async with mesh() as m:
        await m.log_in()
        assert (await m.again(keys=(OTHER_KEY, KEY)).call())[0] == 200
        assert (await m.again(keys=(OTHER_KEY,)).call())[0] == 200, "it was sealed anew"
        status, refusal = await m.again(keys=(b"z" * 32,)).call()
        assert status == 401
        assert isinstance(refusal, LoginRequired)


async def test_a_tampered_row() -> None:
    """Another user's row in place of one's own, or a changed one, is no login."""
    async with mesh() as m:
        await m.log_in(ANN)
        row = await m.store.get("vault:github", f"token:{key_of(ANN)}")
        await m.store.put("vault:github", f"token:{key_of(BOB)}", row)
        assert (await m.again().call(BOB))[0] == 401
        await m.store.put("vault:github", f"token:{key_of(ANN)}", {**row, "box": row["box"][:-8] + "AAAAAAA="})
        status, refusal = await m.again().call(ANN)
        assert (status, type(refusal)) == (401, LoginRequired)


async def test_an_upstream_that_moved() -> None:
    """A token that was given for one address is not sent to another that the file now has."""
    async with mesh() as m, authorization() as other:
        await m.log_in()
        moved = m.again(server=other)
        assert (await moved.call())[0] == 401
        assert all("authorization" not in seen for seen in other.headers)


@covers("MCP-2026-07-28 basic/authorization#resource-parameter", "MCP-2026-07-28 basic/authorization#refresh-tokens")
async def test_a_token_is_renewed_before_it_ends() -> None:
    """Half a minute before its end a token is renewed without anybody being asked, also when it was not refused."""
    async with mesh() as m:
        await m.log_in()
        m.clock.now += 3600 - 29
        assert await m.call() == (200, None)
        assert [form["grant_type"] for form in m.server.forms] == ["authorization_code", "refresh_token"]
        assert m.server.forms[1]["resource"] == f"{m.server.url}/mcp"
        assert m.server.count("/mcp") == 2, "one for the challenge, one for the call"


async def test_a_token_that_is_good_for_seconds() -> None:
    """It is used as long as it is good, and not renewed for every call."""
    async with mesh(expires_in=20) as m:
        await m.log_in()
        for _ in range(3):
            assert await m.call() == (200, None)
            m.clock.now += 4
        assert len(m.server.forms) == 1
        m.clock.now += 4
        assert await m.call() == (200, None)
        assert len(m.server.forms) == 2


async def test_servers_spread_their_renewals() -> None:
    """Of the servers of a mesh one renews a token first, and the others find what it got: not all ask at the same moment."""
    async with mesh() as m:
        await m.log_in()
        token = await m.oauth.token(ANN)
        assert token is not None
        servers = [m, *(m.again() for _ in range(7))]
        for server in servers:
            assert await server.oauth.token(ANN) == token
        moments = {server.oauth._share(token) for server in servers}
        assert len(moments) == len(servers)
        assert all(0 <= moment <= 1 for moment in moments)
        m.clock.now += 3600 - 30 - 90 * max(moments) + 0.001
        assert [await server.oauth.token(ANN) == token for server in servers].count(False) == 1
        m.clock.now += 120
        assert len({(await server.oauth.token(ANN)).access_token for server in servers}) == 1  # type: ignore[union-attr]
        assert [form["grant_type"] for form in m.server.forms] == ["authorization_code", "refresh_token"]


@pytest.mark.parametrize("rotate", [True, False])
async def test_one_renewal_at_a_time(rotate: bool) -> None:
    """Twenty calls at once with a token that has ended: one renewal, and all of them are let through."""
    async with mesh(rotate=rotate) as m:
        await m.log_in()
        m.server.tokens.clear()
        found: list[tuple[int, Any]] = []

        async def call() -> None:
            found.append(await m.call())

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(call)
        assert found == [(200, None)] * 20
        assert [form["grant_type"] for form in m.server.forms] == ["authorization_code", "refresh_token"]
        m.server.tokens.clear()
        assert await m.call() == (200, None), "and the refresh token that came with it, or stayed, is good"


async def test_a_caller_that_leaves_spends_nobodys_login() -> None:
    """The refresh token was used when the caller went; the one that takes its place is kept all the same."""
    async with mesh(rotate=True) as m:
        await m.log_in()
        m.server.tokens.clear()
        m.server.holding = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(m.call)
            with anyio.fail_after(5):
                await m.server.spent.wait()
            group.cancel_scope.cancel()
            m.server.holding.set()
        m.server.holding = None
        assert await m.call() == (200, None)


async def test_two_servers_renew_one_token() -> None:
    """Who comes too late with a refresh token that another server of the mesh has used finds the other's token in the store."""
    async with mesh() as m:
        await m.log_in()
        other = m.again()
        assert (await other.call())[0] == 200
        m.server.tokens.clear()
        assert (await other.call())[0] == 200
        assert await m.call() == (200, None)
        assert len(m.server.forms) == 2


async def test_calls_do_not_wait_for_one_another() -> None:
    """A request that takes its time holds up no other request of the same user."""
    async with mesh() as m:
        await m.log_in()
        auth = m.oauth.auth(ANN)
        slow = auth.async_auth_flow(httpx2.Request("POST", f"{m.server.url}/mcp"))
        assert (await slow.__anext__()).headers["authorization"]
        with anyio.fail_after(5):
            assert (await m.call())[0] == 200
        await slow.aclose()


async def test_a_revoked_login() -> None:
    """What was revoked at the authorization server is forgotten here, and asked for again, once; nothing is tried over and over."""
    async with mesh() as m:
        await m.log_in()
        m.server.revoke()
        for _ in range(3):
            status, refusal = await m.call()
            assert (status, type(refusal)) == (401, LoginRequired)
        assert len(m.server.forms) == 2
        await m.log_in()
        assert await m.call() == (200, None)


async def test_an_authorization_server_that_is_away() -> None:
    """It says that it may be tried again, and the login is not lost for it."""
    async with mesh() as m:
        await m.log_in()
        m.server.tokens.clear()
        m.server.down = True
        status, refusal = await m.call()
        assert (status, type(refusal)) == (401, Retry)
        m.server.down = False
        assert await m.call() == (200, None)


async def test_a_token_that_is_refused_all_the_same() -> None:
    """An upstream that refuses every token is not asked for ever, whoever the tokens are for."""
    robot = {"flow": "client_credentials", "client_id": "robot", "client_key": "word"}
    for spec in ({}, robot):
        async with mesh(spec) as m:
            if m.oauth.per_user:
                await m.log_in()
            m.server.strict = True
            status, refusal = await m.call()
            assert status == 401
            assert isinstance(refusal, Fail)
            assert m.server.count("/mcp") <= 6
            assert len(m.server.forms) <= 5


@covers("MCP-2026-07-28 basic/authorization#step-up")
async def test_more_scopes() -> None:
    """A call that needs more than the login gave asks for a login with both; then it goes through."""
    async with mesh() as m:
        await m.log_in()
        m.server.needed = "write"
        status, refusal = await m.call()
        assert (status, type(refusal)) == (403, LoginRequired)
        await m.log_in()
        assert m.server.asked[-1]["scope"] == "read write"
        assert await m.call() == (200, None)
        m.server.needed = "admin"
        await m.call()
        await m.again().log_in()
        assert m.server.asked[-1]["scope"] == "read write admin", "what is needed is known after a restart too"


@covers("MCP-2026-07-28 basic/authorization#step-up-limit")
async def test_scopes_that_are_never_granted() -> None:
    """A user is sent to log in for the same scopes a few times and no more."""
    async with mesh() as m:
        await m.log_in()
        m.server.needed, m.server.granted = "write", "read"
        logins = 0
        for _ in range(10):
            status, refusal = await m.call()
            assert status == 403
            if not isinstance(refusal, LoginRequired):
                break
            await m.log_in()
            logins += 1
        assert logins == 3
        assert isinstance(refusal, Fail)
        assert "for want of scopes (write)" in refusal.message


async def test_scopes_that_were_granted_and_do_not_help() -> None:
    """A token that has the scopes and is refused for want of them: nobody is sent to log in again."""
    async with mesh() as m:
        await m.log_in()
        for token in m.server.tokens:
            m.server.tokens[token] = ""
        status, refusal = await m.call()
        assert (status, type(refusal)) == (403, Fail)


@covers("MCP-2026-07-28 basic/authorization#scope-selection")
@pytest.mark.parametrize(
    ("spec", "server", "scope"),
    [
        ({}, {}, "read"),
        ({"scopes": ["own"]}, {}, "own"),
        ({"scopes": []}, {}, None),
        ({}, {"scopes_supported": ["offline_access"]}, "read offline_access"),
        ({}, {"needed": "", "resource": {"scopes_supported": ["a", "b"]}}, "a b"),
        ({}, {"needed": ""}, None),
        ({}, {"needed": "", "scopes_supported": ["x"]}, None),
    ],
)
async def test_what_is_asked_for(spec: dict[str, Any], server: dict[str, Any], scope: str | None) -> None:
    """The operator's word, else the challenge's, else the upstream's metadata; nothing else of what a server may know."""
    async with mesh(spec, **server) as m:
        await m.call()
        asked = dict(parse_qsl(urlsplit((await m.oauth.start(ANN)).url).query))
        assert asked.get("scope") == scope
        assert ("prompt" in asked) is ("offline_access" in (scope or ""))


@covers("MCP-2026-07-28 basic/authorization/security-considerations#state")
async def test_a_state_is_used_once() -> None:
    """The same way back a second time ends nothing, not even at the same moment."""
    async with mesh() as m:
        begun = await m.oauth.start(ANN)
        answer = await back(begun.url)
        outcomes: list[str] = []

        async def finish() -> None:
            try:
                await m.oauth.finish(ANN, answer, begun.browser)
                outcomes.append("in")
            except InvalidInput:
                outcomes.append("out")

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(finish)
        assert sorted(outcomes) == ["in", "out", "out", "out", "out"]
        assert len(m.server.forms) == 1


@covers("MCP-2026-07-28 basic/authorization/security-considerations#state")
async def test_a_state_is_its_users() -> None:
    """The way back of one user's login is none for another user, and leaves the one's login where it was."""
    async with mesh() as m:
        begun = await m.oauth.start(ANN)
        answer = await back(begun.url)
        with pytest.raises(InvalidInput, match="no login at github is under way"):
            await m.oauth.finish(BOB, answer, begun.browser)
        await m.oauth.start(BOB)
        with pytest.raises(InvalidInput):
            await m.oauth.finish(BOB, answer, begun.browser)
        await m.oauth.finish(ANN, answer, begun.browser)
        assert (await m.call(BOB))[0] == 401


@covers("MCP-2026-07-28 client/elicitation#phishing")
async def test_a_login_ends_in_the_browser_that_began_it() -> None:
    """The way back in another browser is refused, and the code is spent on nobody."""
    async with mesh() as m:
        for browser in (None, "", "another"):
            begun = await m.oauth.start(ANN)
            with pytest.raises(InvalidInput, match="another browser"):
                await m.oauth.finish(ANN, await back(begun.url), browser)
        assert m.server.forms == []


async def test_a_login_does_not_wait_for_ever() -> None:
    """A quarter of an hour after the way out there is no way back."""
    async with mesh() as m:
        begun = await m.oauth.start(ANN)
        answer = await back(begun.url)
        m.clock.now += 901
        with pytest.raises(InvalidInput, match="too long ago"):
            await m.oauth.finish(ANN, answer, begun.browser)
        assert m.server.forms == []


@covers("MCP-2026-07-28 basic/authorization#authorization-response")
@pytest.mark.parametrize(
    ("advertised", "iss", "accepted"),
    [
        (True, None, True), (True, "", False), (True, "https://evil.example", False), (True, "SLASH", False),
        (None, None, True), (None, "", True), (None, "https://evil.example", False), (None, "CASE", False),
    ],
)  # fmt: skip
async def test_who_answers_a_login(advertised: bool | None, iss: str | None, accepted: bool) -> None:
    """`iss` (RFC 9207): compared as it stands, demanded where it is promised; before a code is sent anywhere."""
    async with mesh(metadata={"authorization_response_iss_parameter_supported": advertised}) as m:
        given = {"SLASH": f"{m.server.url}/", "CASE": m.server.url.upper()}.get(iss or "", iss)
        m.server.answer = {} if given is None else {"iss": given}
        begun = await m.oauth.start(ANN)
        answer = await back(begun.url)
        if accepted:
            await m.oauth.finish(ANN, answer, begun.browser)
        else:
            with pytest.raises(Fail, match="does not come from the authorization server"):
                await m.oauth.finish(ANN, answer, begun.browser)
        assert len(m.server.forms) == accepted


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ({"code": "", "error": "access_denied"}, Declined, "was declined"),
        ({"code": "", "error": "<script>", "error_description": "BAD WORDS"}, Fail, "did not let you log in"),
        ({"code": "", "error": "access_denied", "iss": "https://evil.example"}, Fail, "does not come from"),
        ({"code": ""}, InvalidInput, "brings no code"),
        ({"code": "made-up"}, Fail, "gave no token"),
    ],
)
async def test_a_login_that_comes_to_nothing(answer: dict[str, str], kind: type[Exception], says: str) -> None:
    """Each has its sentence, in which nothing stands that came from outside."""
    async with mesh(answer=answer) as m:
        begun = await m.oauth.start(ANN)
        with pytest.raises(kind, match=says) as refusal:
            await m.oauth.finish(ANN, await back(begun.url), begun.browser)
        for word in ("script", "BAD", "SECRET", "evil"):
            assert word not in str(refusal.value)
        assert (await m.call())[0] == 401


@covers(
    "MCP-2026-07-28 basic/authorization/authorization-server-discovery#issuer",
    "MCP-2026-07-28 basic/authorization/authorization-server-discovery#resource",
    "MCP-2026-07-28 basic/authorization/client-registration#dynamic",
    "MCP-2026-07-28 basic/authorization/security-considerations#pkce",
    "MCP-2026-07-28 basic/authorization/security-considerations#communication",
)
@pytest.mark.parametrize(
    ("server", "says"),
    [
        ({"metadata": {"issuer": "https://honest.example"}}, "are those of 'https://honest.example'"),
        ({"resource": {"resource": "https://evil.example/mcp"}}, "for 'https://evil.example/mcp', another server"),
        ({"resource": {"authorization_servers": []}}, "name no authorization server"),
        ({"resource": {"authorization_servers": ["https://169.254.169.254/"]}}, "nothing is sent there"),
        ({"metadata": {"token_endpoint": None}}, "name no token endpoint"),
        ({"metadata": {"code_challenge_methods_supported": None}}, "PKCE with S256"),
        ({"metadata": {"code_challenge_methods_supported": ["plain"]}}, "PKCE with S256"),
        ({"metadata": {"authorization_endpoint": "javascript:alert(1)"}}, "not of the form"),
        ({"metadata": {"authorization_endpoint": "http://8.8.8.8/authorize"}}, "has to begin with https://"),
        ({"metadata": {"registration_endpoint": None}}, "registers no clients by itself"),
        ({"registration": {"error": "invalid_redirect_uri"}}, r"did not register this mesh \(invalid_redirect_uri\)"),
        ({"registration": {"client_id": None}}, "did not register"),
        ({"registration": {"token_endpoint_auth_method": "private_key_jwt"}}, "a way to show itself that it has not"),
        ({"registration": {"client_secret": None}}, "a way to show itself that it has not"),
    ],
)
async def test_authorization_servers_that_do_not_do(server: dict[str, Any], says: str) -> None:
    """Nobody's browser is sent anywhere, and a sentence says why."""
    async with mesh(**server) as m:
        with pytest.raises(Fail, match=says):
            await m.oauth.start(ANN)
        assert not m.server.asked


@covers("MCP-2026-07-28 basic/authorization/authorization-server-discovery#location")
@pytest.mark.parametrize(
    ("resource", "server", "asked"),
    [
        (
            "/custom/place.json", "/.well-known/oauth-authorization-server",
            ["/custom/place.json", "/.well-known/oauth-authorization-server"],
        ),
        (
            "/.well-known/oauth-protected-resource", "/.well-known/openid-configuration",
            [
                "/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource",
                "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration",
            ],
        ),
    ],
)  # fmt: skip
async def test_where_metadata_are(resource: str, server: str, asked: list[str]) -> None:
    """Where the challenge says, and nowhere else; without it at the well-known places, in the order of the specification."""
    seen: list[str] = []
    documents: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path != "/mcp":
            seen.append(path)
        status = 200 if path in documents else 401 if path == "/mcp" else 404
        named = f'Bearer resource_metadata="{url}{resource}"' if resource.startswith("/custom") else "Bearer"
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"www-authenticate", named.encode())]}
        )
        await send({"type": "http.response.body", "body": json.dumps(documents.get(path, {})).encode()})

    async with MemoryStore() as store, served(app) as url:
        documents[resource] = {"resource": url, "authorization_servers": [url]}
        documents[server] = {
            "issuer": url, "authorization_endpoint": f"{url}/a", "token_endpoint": f"{url}/t", "code_challenge_methods_supported": ["S256"],
        }  # fmt: skip
        spec = OAuth(flow="authorization_code", client_id="ours")
        oauth = UpstreamOAuth("github", f"{url}/mcp", spec, vault=Vault(store, (KEY,)), base_url=BASE)
        assert (await oauth.start(ANN)).url.startswith(f"{url}/a?")
        assert seen == asked


async def test_metadata_that_fail() -> None:
    """A server error says nothing of what metadata there are: it is tried again, and never taken for an upstream of old."""
    async with mesh() as m:
        m.server.issuer = "x"
        broken = m.again()
        broken.oauth = UpstreamOAuth(
            "github", "http://127.0.0.1:9/mcp", m.spec, vault=Vault(m.store, (KEY,)), base_url=BASE, clock=m.clock
        )
        with pytest.raises(Retry, match="cannot be asked"):
            await broken.oauth.start(ANN)


@covers("MCP-2026-07-28 basic/authorization/client-registration#pre-registration")
@pytest.mark.parametrize(
    ("methods", "key", "sent"),
    [
        (None, "s:cr t", "basic"), (["client_secret_post"], "s:cr t", "post"),
        (["client_secret_post", "client_secret_basic"], "s", "basic"), (["none"], None, "none"),
    ],
)  # fmt: skip
async def test_the_operators_client(methods: list[str] | None, key: str | None, sent: str) -> None:
    """A client that the operator registered is shown as the server wants it, and nothing is registered."""
    metadata = {"token_endpoint_auth_methods_supported": methods, "registration_endpoint": None}
    async with mesh({"client_id": "our id", "client_key": key}, metadata=metadata) as m:
        await m.log_in()
        form = m.server.forms[0]
        assert m.server.basics == ([f"our id:{key}"] if sent == "basic" else [])
        assert form.get("client_secret") == (key if sent == "post" else None)
        assert ("client_id" in form) is (sent != "basic")
        assert (await m.call())[0] == 200


@covers("MCP-2026-07-28 basic/authorization/client-registration#server-binding")
async def test_a_secret_has_one_authorization_server() -> None:
    """The operator's client goes to the server that it was first used with, or that `issuer` names, and to no other."""
    async with mesh({"client_id": "ours", "client_key": "secret"}) as m, authorization() as other:
        await m.log_in()
        m.server.resource = {"authorization_servers": [other.url]}
        with pytest.raises(Fail, match="now names the authorization server"):
            await m.again().oauth.start(ANN)
        named = OAuth.model_validate({**m.spec.model_dump(), "issuer": other.url})
        await m.again(spec=named).oauth.start(ANN)
        m.server.resource = {}
        with pytest.raises(Fail, match="its client belongs to"):
            await m.again(spec=named).oauth.start(ANN)
        assert other.forms == []


@covers("MCP-2026-07-28 basic/authorization/client-registration#server-binding")
async def test_an_upstream_that_changes_its_authorization_server() -> None:
    """The mesh registers with the new one, and shows it neither its old client nor its users' refresh tokens."""
    async with mesh() as m, authorization() as other:
        await m.log_in()
        m.server.resource = {"authorization_servers": [other.url]}
        m.server.tokens.clear()
        status, refusal = await m.call()
        assert (status, type(refusal)) == (401, LoginRequired)
        assert other.forms == []
        await m.log_in()
        assert len(other.registered) == 1
        assert [form["grant_type"] for form in other.forms] == ["authorization_code"]
        assert len(m.server.forms) == 1


@covers("MCP-2026-07-28 basic/authorization/client-registration#metadata-documents")
async def test_a_metadata_document_for_a_client() -> None:
    """A mesh with an https address is known by its document where that is taken, and registers nowhere."""
    async with mesh(metadata={"client_id_metadata_document_supported": True}) as m:
        public = m.again(base_url="https://mesh.example")
        await public.log_in()
        assert (
            m.server.asked[0]["client_id"]
            == m.server.forms[0]["client_id"]
            == "https://mesh.example/v1/oauth/client.json"
        )
        assert m.server.registered == []
        await m.oauth.start(ANN)
        assert len(m.server.registered) == 1, "on loopback nobody could fetch a document"


@pytest.mark.parametrize("algorithms", [None, ["ES256"]])
async def test_client_credentials(algorithms: list[str] | None) -> None:
    """One token for the mesh, whoever calls; renewed by itself; with a secret, or an assertion that a key signs."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    spec = {"flow": "client_credentials", "client_id": "robot", "client_key": pem if algorithms else "word"}
    metadata = {"token_endpoint_auth_signing_alg_values_supported": algorithms, "authorization_endpoint": None}
    async with mesh(spec, metadata=metadata) as m:
        assert await m.call(ANN) == (200, None)
        assert await m.call(BOB) == (200, None)
        assert await m.again().call() == (200, None)
        assert len(m.server.forms) == 1
        form = m.server.forms[0]
        assert form["grant_type"] == "client_credentials"
        assert form["scope"] == "read"
        assert form["resource"] == f"{m.server.url}/mcp"
        if algorithms:
            assert m.server.basics == []
            claims = jwt.decode(
                form["client_assertion"], private.public_key(), ["ES256"], audience=m.server.url,
                options={"verify_exp": False, "verify_iat": False},
            )  # fmt: skip
            assert claims["iss"] == claims["sub"] == "robot"
            assert claims["exp"] - claims["iat"] <= 300
        else:
            assert m.server.basics == ["robot:word"]
        m.clock.now += 3600
        assert await m.call() == (200, None)
        m.server.revoke()
        assert await m.call() == (200, None)
        m.server.needed = "write"
        assert await m.call() == (200, None)
        assert m.server.forms[-1]["scope"] == "read write"
        await m.oauth.require(ANN)
        assert await m.oauth.someone() == MESH


async def test_client_credentials_that_are_refused() -> None:
    """The upstream's answer comes through, and why is said; what the server writes of it is not shown."""
    spec = {"flow": "client_credentials", "client_id": "robot", "client_key": "word"}
    async with mesh(spec, metadata={"token_endpoint_auth_methods_supported": ["tls_client_auth"]}) as m:
        status, refusal = await m.call()
        assert status == 401
        assert isinstance(refusal, Fail)
        assert "takes no client's secret" in refusal.message
        with m.oauth.attempt() as attempt:
            attempt.refusal = refusal
        with pytest.raises(Fail, match="takes no client's secret"):
            await m.oauth.require(ANN, after=attempt)


class Asked(NoCaller):
    """A client whose user does as told when asked."""

    def __init__(self, action: str = "accept", then: Callable[[], Any] | None = None) -> None:
        self.action, self.then = action, then
        self.requests: list[Mapping[str, InputRequest]] = []
        self.was_asked = anyio.Event()

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        self.requests.append(requests)
        self.was_asked.set()
        if self.then is not None:
            await self.then()
        return {key: {"action": self.action} for key in requests}


@covers("MCP-2026-07-28 client/elicitation#url-mode")
async def test_a_client_that_can_be_asked() -> None:
    """Its user is asked to open our address, nothing secret in it; the call goes on when they have logged in."""
    async with mesh() as m:
        caller = Asked(then=m.log_in)
        await m.oauth.require(ANN, caller)
        assert (await m.call())[0] == 200
        (request,) = caller.requests[0].values()
        assert request.method == ELICITATION
        assert request.params["mode"] == "url"
        assert request.params["url"] == f"{BASE}/v1/oauth/start/github"
        assert request.params["elicitationId"]
        await m.oauth.require(ANN, caller)
        assert len(caller.requests) == 1, "who is logged in is not asked"


async def test_a_login_that_arrives_later() -> None:
    """The client says at once that the address was opened; the call waits for the login, here or at another server of the mesh."""
    async with mesh() as m:
        for other in (m, m.again()):
            await m.oauth.forget(ANN)
            caller = Asked()
            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:
                    group.start_soon(partial(m.oauth.require, ANN, caller, wait=30))
                    await caller.was_asked.wait()
                    await other.log_in()
            assert (await m.call())[0] == 200


@pytest.mark.parametrize(
    ("caller", "says"),
    [
        (NoCaller(), "wants you to log in"),
        (Asked("decline"), "was declined"),
        (Asked("cancel"), "was declined"),
        (Asked(), "log in"),
    ],
)
async def test_nobody_logs_in(caller: Caller, says: str) -> None:
    """The error names the address to open, whatever the client could or would do."""
    async with mesh() as m:
        with pytest.raises(LoginRequired, match=says) as refusal:
            await m.oauth.require(ANN, caller, wait=0)
        assert refusal.value.data == {"url": f"{BASE}/v1/oauth/start/github"}


async def test_a_client_that_has_to_come_again() -> None:
    """What a client of 2026-07-28 is asked leaves the call; it comes again when its user has logged in, and is not asked again."""
    async with mesh() as m:

        class Later(NoCaller):
            async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
                raise InputRequired(requests)

        with pytest.raises(InputRequired) as round_one:
            await m.oauth.require(ANN, Later())
        assert list(round_one.value.requests) == ["login:github"]
        await m.log_in()
        await m.oauth.require(ANN, Later())


async def test_a_login_for_more_scopes_is_another_login() -> None:
    """After a call that wanted more, the token that it had is not what is waited for."""
    async with mesh() as m:
        await m.log_in()
        m.server.needed = "write"
        async with httpx2.AsyncClient(auth=m.oauth.auth(ANN)) as http:
            with m.oauth.attempt() as attempt:
                await http.post(f"{m.server.url}/mcp", json={})
        with pytest.raises(LoginRequired):
            await m.oauth.require(ANN, Asked(), after=attempt, wait=0)
        await m.oauth.require(ANN, Asked(then=m.log_in), after=attempt)
        assert (await m.call())[0] == 200


@pytest.mark.parametrize("subject", ["cron:nightly", "webhook:push"])
async def test_who_is_no_person(subject: str) -> None:
    """Nobody is sent to log in for a clock; what to do instead is said."""
    async with mesh() as m:
        with pytest.raises(LoginRequired, match="client_credentials"):
            await m.oauth.require(Principal(subject=subject), Asked())


async def test_someone() -> None:
    """As whom an upstream's tools may be listed: who logged in last and can be acted for still."""
    async with mesh() as m:
        heard: list[Principal] = []
        m.oauth.on_login(heard.append)
        assert await m.oauth.someone() is None
        await m.log_in(ANN)
        m.clock.now += 10
        await m.log_in(BOB)
        assert await m.again().oauth.someone() == BOB
        await m.oauth.forget(BOB)
        assert await m.oauth.someone() == ANN
        assert heard == [ANN, BOB]


async def test_an_upstream_of_2025_03_26() -> None:
    """Without metadata the upstream is its own authorization server, at the endpoints that revision names."""
    async with mesh() as m:
        gone = {"/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-authorization-server"}
        app = m.server.app()
        app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") not in gone]
        async with served(app) as url:
            m.server.url = url
            old = m.again()
            m.server.answer = {"iss": ""}
            await old.log_in()
            assert await old.call() == (200, None)


@covers("MCP-2026-07-28 basic/authorization#refresh-tokens")
async def test_nothing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """No token, code, state, verifier or secret stands in the log, in a repr, in an error, or readable in the store."""
    with caplog.at_level(logging.DEBUG):
        async with mesh({"client_id": "ours", "client_key": "the client's secret"}) as m:
            begun = await m.oauth.start(ANN)
            answer = await back(begun.url)
            rows = [json.dumps(dict(await m.store.scan("vault:github")))]
            await m.oauth.finish(ANN, answer, begun.browser)
            await m.call()
            m.server.tokens.clear()
            await m.call()
            m.server.revoke()
            _, refusal = await m.call()
            token = await m.oauth.token(ANN)
            rows.append(json.dumps(dict(await m.store.scan("vault:github"))))
            client = await m.oauth._provider.client(await m.oauth._provider.server())
            told = [record.getMessage() for record in caplog.records if record.name.startswith("agentmesh")]
            told += [repr(thing) for thing in (token, begun, refusal, m.oauth, client)] + rows
            secrets = [answer["code"], answer["state"], begun.browser, "the client's secret"]
            secrets += [form["code_verifier"] for form in m.server.forms if "code_verifier" in form]
            secrets += [f"{kind}-{n}" for kind in ("access", "refresh") for n in range(9)]
            for secret in secrets:
                assert not [line for line in told if secret in line], secret
