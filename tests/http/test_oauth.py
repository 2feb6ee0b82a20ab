"""The pages of logins: nothing of a request is shown, nobody is sent astray, and who comes back is who went out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from agentmesh.core.login import LoginStart
from agentmesh.core.policy import Principal
from agentmesh.errors import Declined, Fail, InvalidInput, MeshError, NotFound, Retry
from agentmesh.http.auth import Guard
from agentmesh.http.oauth import oauth_routes
from agentmesh.http.problems import HANDLERS
from tests.requirements import covers

pytestmark = pytest.mark.anyio
HOME = "http://127.0.0.1:8080"
NASTY = "<script>alert(1)</script>"


@dataclass
class ListedLogins:
    """Logins that note what they are told; `refusal` is raised by all of them."""

    base_url: str = HOME
    refusal: Exception | None = None
    begun: list[tuple[str, str]] = field(default_factory=list)
    ended: list[tuple[str, str, Mapping[str, str], str | None]] = field(default_factory=list)
    forgotten: list[tuple[str, str]] = field(default_factory=list)
    known: Mapping[str, Any] | None = None

    async def start(self, upstream: str, principal: Principal) -> LoginStart:
        self._refuse()
        self.begun.append((upstream, principal.subject))
        return LoginStart("https://auth.example/authorize?state=s", "of-this-browser", 900)

    async def finish(self, upstream: str, principal: Principal, answer: Mapping[str, str], browser: str | None) -> None:
        self._refuse()
        self.ended.append((upstream, principal.subject, dict(answer), browser))

    async def forget(self, upstream: str, principal: Principal) -> None:
        self._refuse()
        self.forgotten.append((upstream, principal.subject))

    def document(self) -> Mapping[str, Any] | None:
        return self.known

    def _refuse(self) -> None:
        if self.refusal is not None:
            raise self.refusal


@asynccontextmanager
async def browser(logins: ListedLogins | None, subject: str = "ann") -> AsyncIterator[httpx.AsyncClient]:
    app = Guard(
        Starlette(routes=oauth_routes(lambda: logins), exception_handlers=HANDLERS),
        identify=lambda _: Principal(subject=subject), url=logins.base_url if logins else None,
    )  # fmt: skip
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url=HOME) as client:
        yield client


async def test_out_and_back() -> None:
    """A browser is sent out for whoever it is, with a secret that it brings back, and loses then."""
    logins = ListedLogins()
    async with browser(logins) as client:
        out = await client.get("/v1/oauth/start/github")
        assert out.status_code == 303
        assert out.headers["location"] == "https://auth.example/authorize?state=s"
        cookie = out.headers["set-cookie"]
        for word in ("HttpOnly", "SameSite=lax", "Path=/v1/oauth", "Max-Age=900"):
            assert word in cookie
        assert "Secure" not in cookie, "on loopback there is no TLS"
        back = await client.get("/v1/oauth/redirect/github?code=c&state=s&iss=i&other=x")
        assert back.status_code == 200
        assert "You are logged in" in back.text
        assert logins.begun == [("github", "ann")]
        assert logins.ended == [("github", "ann", {"code": "c", "state": "s", "iss": "i"}, "of-this-browser")]
        assert "agentmesh_login_github" not in client.cookies
        for header, value in {
            "cache-control": "no-store", "referrer-policy": "no-referrer", "x-frame-options": "DENY",
        }.items():  # fmt: skip
            assert back.headers[header] == value
        assert "default-src 'none'" in back.headers["content-security-policy"]


async def test_a_cookie_of_https() -> None:
    """Where the mesh has TLS, the secret goes over nothing else."""
    async with browser(ListedLogins("https://mesh.example")) as client:
        out = await client.get("/v1/oauth/start/github", headers={"host": "mesh.example"})
        assert "Secure" in out.headers["set-cookie"]


async def test_another_name_of_this_machine() -> None:
    """A browser that came by another name goes to the mesh's own address first, where its cookie is good; and nowhere else."""
    logins = ListedLogins()
    async with browser(logins) as client:
        out = await client.get("/v1/oauth/start/github", headers={"host": "localhost:8080"})
        assert (out.status_code, out.headers["location"]) == (303, f"{HOME}/v1/oauth/start/github?home")
        again = await client.get("/v1/oauth/start/github?home", headers={"host": "localhost:8080"})
        assert again.status_code == 400, "a proxy that rewrites Host sends nobody round in a circle"
        assert "Host" in again.text
        assert not logins.begun
        assert (await client.get("/v1/oauth/start/github", headers={"host": "evil.example"})).status_code == 421


@covers("MCP-2026-07-28 basic/authorization/security-considerations#open-redirection")
@pytest.mark.parametrize(
    "path",
    ["start/github?url=https://evil.example&redirect_uri=https://evil.example", "start/https:%2f%2fevil.example"],
)
async def test_nobody_is_sent_to_an_address_of_a_request(path: str) -> None:
    """The only address that a browser is sent to is the authorization server's, as the mesh knows it."""
    async with browser(ListedLogins()) as client:
        out = await client.get(f"/v1/oauth/{path}")
        assert "evil" not in out.headers.get("location", "")
        assert out.status_code in {303, 404}


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (InvalidInput("no login is under way"), 400), (Declined("it was declined"), 403), (Fail("it does not do"), 502),
        (Retry("it is away"), 503), (NotFound("no such upstream"), 404), (MeshError("SECRET"), 500),
    ],
)  # fmt: skip
async def test_refusals(refusal: MeshError, status: int) -> None:
    """Each says what to do in the mesh's own words; what is nobody's business outside stays in the log."""
    logins = ListedLogins(refusal=refusal)
    async with browser(logins) as client:
        for path in (
            "start/github",
            f"redirect/github?code={NASTY}&state={NASTY}&error={NASTY}&error_description={NASTY}",
        ):
            answer = await client.get(f"/v1/oauth/{path}")
            assert answer.status_code == status
            assert "script" not in answer.text
            assert (str(refusal) in answer.text) is (status != 500)
            assert answer.headers["content-type"].startswith("text/html")
            assert "location" not in answer.headers


async def test_our_own_words_are_escaped() -> None:
    """Should a name with marks in it ever get into a sentence of ours, it is text all the same."""
    async with browser(ListedLogins(refusal=Fail(NASTY))) as client:
        answer = await client.get("/v1/oauth/start/github")
        assert NASTY not in answer.text
        assert "&lt;script&gt;" in answer.text


async def test_what_came_twice_or_too_long_is_nothing() -> None:
    """Two codes are none, and one that would fill the store is none."""
    logins = ListedLogins()
    async with browser(logins) as client:
        await client.get(f"/v1/oauth/redirect/github?code=a&code=b&state=s&iss={'i' * 9000}")
        assert logins.ended[0][2] == {"state": "s"}


async def test_pages_of_others() -> None:
    """A page of another origin can neither end a login nor have a token forgotten."""
    logins = ListedLogins()
    async with browser(logins) as client:
        headers = {"origin": "https://evil.example"}
        assert (await client.delete("/v1/oauth/tokens/github", headers=headers)).status_code == 403
        assert (await client.get("/v1/oauth/redirect/github?code=c&state=s", headers=headers)).status_code == 403
        assert not logins.forgotten
        assert not logins.ended
        assert (await client.post("/v1/oauth/start/github")).status_code == 405


async def test_forgetting() -> None:
    """Whoever asks has their own token forgotten."""
    logins = ListedLogins()
    async with browser(logins, "bob") as client:
        assert (await client.delete("/v1/oauth/tokens/github")).status_code == 204
        assert logins.forgotten == [("github", "bob")]
        logins.refusal = NotFound("no such upstream")
        assert (await client.delete("/v1/oauth/tokens/github")).status_code == 404


async def test_the_client_document() -> None:
    """Where the mesh has an https address its document is there for everybody; else there is none."""
    logins = ListedLogins()
    async with browser(logins) as client:
        assert (await client.get("/v1/oauth/client.json")).status_code == 404
        logins.known = {"client_id": "https://mesh.example/v1/oauth/client.json"}
        answer = await client.get("/v1/oauth/client.json")
        assert answer.json() == logins.known
        assert "max-age" in answer.headers["cache-control"]


async def test_a_mesh_that_is_not_up_yet() -> None:
    """Nothing falls over before the store is open."""
    async with browser(None) as client:
        assert (await client.get("/v1/oauth/start/github")).status_code == 503
