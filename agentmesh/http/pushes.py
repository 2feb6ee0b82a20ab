"""Pushes: `POST /a2a-push/RUN`, where agents elsewhere say that the task has changed that works for a run.

What they send is not trusted and not read: whoever executes the run asks the agent itself. The token is the run's own, made by this
mesh; a wrong one gets the answer that a run gets which is not there.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentmesh.engine import Engine
from agentmesh.http.problems import problem, problem_response

ID_LENGTH = 128
TOKEN_LENGTH = 256


def push_routes(engine: Callable[[], Engine | None]) -> list[Route]:
    """The route to mount at the root. `engine`: None while it is being put together."""

    async def receive(request: Request) -> Response:
        built = engine()
        if built is None:
            starting = problem(503, "the mesh is still being opened; try again", code="not_ready")
            return problem_response(starting, {"retry-after": "2"})
        token = request.headers.get("x-a2a-notification-token", "")
        await built.push.received(request.path_params["run"][:ID_LENGTH], token[:TOKEN_LENGTH])
        return Response(status_code=204)

    return [Route("/a2a-push/{run}", receive, methods=["POST"])]
