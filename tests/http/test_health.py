"""When a server says that it is ready."""

from __future__ import annotations

from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from agentmesh.core.mesh import Mesh, MeshFile
from agentmesh.core.model import ModelState, ModelStatus
from agentmesh.engine.reload import FilesState
from agentmesh.errors import Fault
from agentmesh.http.health import health_routes
from agentmesh.settings import Settings

pytestmark = pytest.mark.anyio

FILE = {
    "name": "test",
    "models": {
        "tiny": {"source": "builtin:tiny", "deploy": {"engine": "vllm"}},
        "hosted": {"url": "http://127.0.0.1:1/v1", "model": "x"},
    },
}


def engine(*status: ModelStatus, trouble: str | None = None) -> Any:
    """As much of an engine as readiness looks at."""
    mesh = Mesh(PurePath("mesh"), MeshFile.model_validate(FILE))

    async def ready() -> str | None:
        return trouble

    worker = SimpleNamespace(ready=ready)
    models, reload = SimpleNamespace(status=lambda: {s.name: s for s in status}), SimpleNamespace(state=FilesState())
    return SimpleNamespace(mesh=mesh, models=models, worker=worker, reload=reload)


async def ready(built: Any, *reasons: str, models: bool = True) -> httpx.Response:
    routes = health_routes(Settings(folder=Path("mesh"), models=models), lambda: built, lambda: reasons)
    transport = httpx.ASGITransport(Starlette(routes=routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        return await client.get("/readyz")


async def test_a_server_is_not_ready_before_its_engine() -> None:
    """503, and when to ask again."""
    answer = await ready(None)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.headers["retry-after"]


async def test_a_model_that_loads_is_the_reason() -> None:
    """In the words of its status; models elsewhere are not waited for."""
    answer = await ready(engine(ModelStatus("tiny", ModelState.LOADING, "loading weights")))
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["model tiny is loading: loading weights"]
    assert (await ready(engine())).json()["reasons"] == ["model tiny is not started"]


async def test_ready_when_nothing_is_missing() -> None:
    """A deployed model answers, or none is deployed, and nothing else is in the way."""
    assert (await ready(engine(ModelStatus("tiny", ModelState.READY)))).json() == {"status": "ready"}
    assert (await ready(engine(), models=False)).status_code == 200
    answer = await ready(engine(), "the store is closed", models=False)
    assert answer.json()["reasons"] == ["the store is closed"]


async def test_a_store_in_trouble_is_a_reason() -> None:
    """Not ready, while the process is alive; ready again when the trouble is over."""
    answer = await ready(engine(trouble="the disk is full"), models=False)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "the disk is full" in answer.json()["detail"]
    assert (await ready(engine(), models=False)).status_code == 200


async def test_changed_files_with_faults_are_counted_and_nothing_is_kept_from_serving() -> None:
    """The mesh of before goes on: it is ready, and says that what lies in its folder is not what it serves."""
    built = engine(ModelStatus("tiny", ModelState.READY))
    built.reload.state = FilesState(faults=(Fault("servers/x.yaml", 3, 1, "unknown key 'x'", "x: sk-123"),))
    answer = await ready(built)
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "changed_files": {"faults": 1}})
