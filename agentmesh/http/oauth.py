"""The pages of logins at upstreams, under `/v1/oauth`: out to an authorization server, back from it, and what the mesh says of itself.

`http/auth.py` has been there before: Host and Origin are right, and the request has a principal. The address that people are given
(`start`) holds no secret and leads whoever opens it to a login of their own, so nobody can log another in. A browser that was sent out
keeps a secret in a cookie until it is back. Nothing that came in a request is shown, and nobody is sent to an address from one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from html import escape

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agentmesh.core.login import Logins
from agentmesh.core.policy import Principal
from agentmesh.errors import CallerError, Declined, Fail, InvalidInput, MeshError, NotFound, Retry

log = logging.getLogger(__name__)

PATH = "/v1/oauth"
_TAKEN = ("state", "code", "iss", "error")
LONGEST = 8192
"""Characters of one value that a browser brings back."""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>{text}</p></body></html>
"""


def oauth_routes(of_mesh: Callable[[], Logins | None]) -> list[Route]:
    """Put them before a mount at `/v1`. `of_mesh` is asked when a request comes: None while the mesh is not up yet."""

    def the_logins() -> Logins:
        logins = of_mesh()
        if logins is None:
            raise Retry("this mesh is not up yet; try again in a moment")
        return logins

    async def start(request: Request) -> Response:
        """Sends a browser out to log in."""
        name = request.path_params["upstream"]
        try:
            logins = the_logins()
            if not _at_home(request.headers, logins.base_url):
                # The browser comes back to the mesh's own address, and a cookie is kept for one name only.
                if "home" in request.query_params:
                    raise InvalidInput(
                        f"this mesh is {logins.base_url}, and a request that was sent there arrived with another Host header: "
                        "let the proxy in front pass Host on as it came, or set `url` in agentmesh.yaml"
                    )
                return RedirectResponse(f"{logins.base_url}{PATH}/start/{name}?home", 303)
            begun = await logins.start(name, _principal(request))
        except MeshError as error:
            return _refusal(error)
        response = RedirectResponse(begun.url, 303)
        _cookie(response, name, begun.browser, begun.seconds, logins.base_url)
        return response

    async def finish(request: Request) -> Response:
        """Takes back a browser that was sent out."""
        name, query = request.path_params["upstream"], request.query_params
        answer = {key: query[key] for key in _TAKEN if len(query.getlist(key)) == 1 and len(query[key]) <= LONGEST}
        try:
            logins = the_logins()
            await logins.finish(name, _principal(request), answer, request.cookies.get(_cookie_name(name)))
        except MeshError as error:
            return _refusal(error)
        response = _page(200, "You are logged in", "This mesh can now call it for you. You may close this page.")
        _cookie(response, name, "", 0, logins.base_url)
        return response

    async def forget(request: Request) -> Response:
        """Forgets the token of whoever asks."""
        await the_logins().forget(request.path_params["upstream"], _principal(request))
        return Response(status_code=204)

    async def client(request: Request) -> Response:
        """The client metadata document, by which authorization servers know this mesh."""
        document = the_logins().document()
        if document is None:
            raise NotFound("this mesh has no address with https, by which an authorization server could know it")
        return JSONResponse(document, headers={"cache-control": "public, max-age=3600"})

    return [
        Route(f"{PATH}/start/{{upstream}}", start, methods=["GET"]),
        Route(f"{PATH}/redirect/{{upstream}}", finish, methods=["GET"]),
        Route(f"{PATH}/tokens/{{upstream}}", forget, methods=["DELETE"]),
        Route(f"{PATH}/client.json", client, methods=["GET"]),
    ]


def _principal(request: Request) -> Principal:
    principal = request.scope["state"]["principal"]
    assert isinstance(principal, Principal)
    return principal


def _at_home(headers: Headers, base_url: str) -> bool:
    return headers.get("host", "").lower() == base_url.partition("://")[2].lower().partition("/")[0]


def _cookie_name(upstream: str) -> str:
    return f"agentmesh_login_{upstream}"


def _cookie(response: Response, upstream: str, value: str, seconds: int, base_url: str) -> None:
    response.set_cookie(
        _cookie_name(upstream), value, max_age=seconds, path=PATH, httponly=True, samesite="lax",
        secure=base_url.startswith("https:"),
    )  # fmt: skip


def _refusal(error: MeshError) -> Response:
    """Our own sentences only: none of them holds what came in the request."""
    log.info("a login was not possible: %s", error.message)
    for kind, (status, title) in _REFUSALS.items():
        if isinstance(error, kind):
            return _page(status, title, error.message)
    return _page(500, "You are not logged in", "Something went wrong here; the server's log says what.")


_REFUSALS: Mapping[type[MeshError], tuple[int, str]] = {
    NotFound: (404, "There is nothing to log in to here"),
    CallerError: (400, "You are not logged in"),
    Declined: (403, "You are not logged in"),
    Retry: (503, "You are not logged in yet"),
    Fail: (502, "You are not logged in"),
}


def _page(status: int, title: str, text: str) -> Response:
    return HTMLResponse(_PAGE.format(title=escape(title), text=escape(text)), status)
