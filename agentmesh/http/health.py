"""Health: `/healthz` says that the process answers, `/readyz` that it can do its work, or why not yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentmesh.core.json_text import write_json
from agentmesh.core.model import ModelState
from agentmesh.engine import Engine
from agentmesh.http.problems import RETRY_AFTER, problem, problem_response
from agentmesh.settings import Settings

READY = frozenset({ModelState.READY, ModelState.REMOTE})


def health_routes(
    settings: Settings,
    engine: Callable[[], Engine | None],
    reasons: Callable[[], Sequence[str]] = lambda: (),
) -> list[Route]:
    """`engine`: None while it is being put together. `reasons`: what else is not ready, in plain words."""

    async def healthz(request: Request) -> Response:
        return Response(write_json({"status": "ok"}), media_type="application/json")

    async def readyz(request: Request) -> Response:
        built = engine()
        missing = list(reasons())
        if built is None:
            missing.append("the mesh is still being opened")
        else:
            if trouble := await built.worker.ready():
                missing.append(f"the store is in trouble: {trouble}")
            if settings.models:
                missing += model_reasons(built)
        if not missing:
            files = built.reload.state if built is not None else None
            # Counted only: whoever asks here need not be let in, and faults show lines of the files.
            shown = {"changed_files": {"faults": len(files.faults)}} if files is not None and files.faults else {}
            return Response(write_json({"status": "ready", **shown}), media_type="application/json")
        body = problem(503, "; ".join(missing), code="not_ready", reasons=missing)
        return problem_response(body, {"retry-after": RETRY_AFTER})

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def model_reasons(engine: Engine) -> list[str]:
    """The models that this server deploys and that do not answer yet."""
    status = engine.models.status()
    missing = []
    for name, model in engine.mesh.file.models.items():
        if model.url is not None:
            continue
        now = status.get(name)
        if now is None or now.state not in READY:
            state = now.state.value if now else "not started"
            missing.append(f"model {name} is {state}" + (f": {now.message}" if now and now.message else ""))
    return missing
