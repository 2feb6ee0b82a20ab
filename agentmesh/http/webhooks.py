"""Webhooks: `POST /webhooks/PATH` starts the workflow whose `on.webhook` has that path.

An edge like the others, for callers that know a secret and nothing of AgentMesh. `http/auth.py` has been there before: Host and
Origin are right, the body is whole and within its limit. Who calls is decided here, by the webhook's token or by a signature over
the raw body; what it starts acts for `webhook:WORKFLOW`. A refusal does not say which part was wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentmesh.core.json_text import parse_json, write_json
from agentmesh.core.mesh import Mesh
from agentmesh.core.secret import fill_secrets
from agentmesh.engine import Engine
from agentmesh.engine.identity import principal_for_webhook
from agentmesh.errors import InvalidInput, ServeError
from agentmesh.http.problems import problem, problem_response
from agentmesh.settings import Settings

log = logging.getLogger(__name__)

KEY_LENGTH = 512
LARGE = 64 * 1024
"""Bodies over this are parsed in a thread."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """One `on.webhook`, its secrets in place."""

    workflow: str
    token: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)
    header: str
    id_header: str | None

    def admits(self, headers: Headers, body: bytes) -> bool:
        """Whether the caller knows every secret that the webhook has. Takes as long for a wrong one as for a right one."""
        admitted = self.token is not None or self.key is not None
        if self.token is not None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(given.strip().encode(), self.token)
            admitted &= same and scheme.lower() == "bearer"
        if self.key is not None:
            given = headers.get(self.header, "").strip().removeprefix("sha256=").lower()
            admitted &= hmac.compare_digest(given.encode(), hmac.digest(self.key, body, hashlib.sha256).hex().encode())
        return admitted


def webhooks_of(mesh: Mesh, secrets: Mapping[str, str]) -> dict[str, Webhook]:
    """The mesh's webhooks by path. ServeError when a secret is missing or empty: that would let everybody in."""
    found: dict[str, Webhook] = {}
    for workflow in mesh.workflows.values():
        hook = workflow.on.webhook
        if hook is None:
            continue
        token, key = (_secret(workflow.name, text, secrets) for text in (hook.token, hook.key))
        found.setdefault(hook.path, Webhook(workflow.name, token, key, hook.header, hook.id_header))
    return found


def _secret(workflow: str, text: str | None, secrets: Mapping[str, str]) -> bytes | None:
    if text is None:
        return None
    try:
        filled = fill_secrets(text, secrets).strip()
    except KeyError as error:
        raise ServeError(
            f"the webhook of workflow {workflow} needs the secret {error.args[0]}, which is not set"
        ) from None
    if not filled:
        raise ServeError(f"the secret of workflow {workflow}'s webhook is empty; everybody could start it: set one")
    return filled.encode()


def webhook_routes(settings: Settings, mesh: Mesh, engine: Callable[[], Engine | None]) -> list[Route]:
    """The routes to mount at the root. `engine`: None while it is being put together."""
    hooks = webhooks_of(mesh, settings.secrets.values)
    revision = mesh.revision

    async def receive(request: Request) -> Response:
        nonlocal hooks, revision
        if revision != mesh.revision:
            hooks, revision = webhooks_of(mesh, settings.secrets.values), mesh.revision
        hook = hooks.get(request.path_params["path"])
        if hook is None:
            raise HTTPException(404)  # in the words for every path that there is not
        body = await request.body()
        if not hook.admits(request.headers, body):
            log.warning("a call of the webhook of workflow %s was refused", hook.workflow)
            refused = problem(401, "this needs the webhook's secret", code="unauthorized")
            return problem_response(refused, {"www-authenticate": "Bearer"})
        built = engine()
        if built is None:
            starting = problem(503, "the mesh is still being opened; try again", code="not_ready")
            return problem_response(starting, {"retry-after": "2"})
        input = await _input(request, body, settings.limits.json_depth)
        key = _key(hook, request.headers)
        run = await built.runs.start(
            principal_for_webhook(hook.workflow), hook.workflow, input,
            key=None if key is None else f"webhook:{hook.workflow}:{key}", source="webhook",
        )  # fmt: skip
        path = f"/v1/runs/{run.id}"
        base = (mesh.file.url or str(request.base_url)).rstrip("/")
        accepted = write_json({"run": run.id, "url": base + path})
        return Response(accepted, 202, {"location": path}, "application/json")

    return [Route("/webhooks/{path}", receive, methods=["POST"])]


async def _input(request: Request, body: bytes, depth: int) -> dict[str, Any]:
    """The body as the run's input."""
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise HTTPException(415, "send the body with Content-Type: application/json")
    read = partial(parse_json, body, depth=depth)
    try:
        value = await anyio.to_thread.run_sync(read) if len(body) > LARGE else read()
    except InvalidInput as error:
        raise HTTPException(400, error.message) from None
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object: it is the run's input")
    return value


def _key(hook: Webhook, headers: Headers) -> str | None:
    """What the caller calls this event by, so that sending it again starts nothing."""
    names = ("idempotency-key", *([hook.id_header] if hook.id_header else ()))
    key = next((headers[name].strip() for name in names if headers.get(name, "").strip()), None)
    if key is not None and (len(key) > KEY_LENGTH or not key.isprintable()):
        raise InvalidInput(f"the key of the event must be printable and have at most {KEY_LENGTH} characters")
    return key
