"""Push notifications under `/v1`, for operators: which webhooks fail or were given up, and having one tried again."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query
from pydantic import BaseModel
from starlette.responses import Response

from agentmesh.core.push import Delivery
from agentmesh.engine import Engine
from agentmesh.http.asker import Asker, answer, ok

PAGE = 500


class DeliveryShape(BaseModel):
    """A webhook of a run that does not take what it is told. Of its url only the host is shown."""

    run: str
    id: str
    owner: str
    host: str
    delivered: int
    """Number of the last journal entry that was told."""
    attempts: int
    error: str
    failing_since: float | None
    dead_at: float | None
    """Unix seconds when it was given up; null: it is tried again by itself."""


class DeliveriesShape(BaseModel):
    deliveries: list[DeliveryShape]


class RetriedShape(BaseModel):
    run: str
    id: str


def push_routes(app: FastAPI, engine: Engine) -> None:
    @app.get("/push", responses=ok(DeliveriesShape))
    async def list_deliveries(
        principal: Asker, dead: bool = True, limit: Annotated[int, Query(ge=1, le=PAGE)] = 100
    ) -> Response:
        """Webhooks that were given up, the latest first; with `dead=false` those that fail now. Needs admin.read on run:*."""
        found = await engine.push.troubled(principal, dead=dead, limit=limit)
        return answer({"deliveries": [_shape(one) for one in found]})

    @app.post("/push/{run}/{id}/retry", responses=ok(RetriedShape))
    async def retry(principal: Asker, run: str, id: str) -> Response:
        """Has a webhook told again at once, from the event on that it did not take. Needs admin.write."""
        await engine.push.retry(principal, run, id)
        return answer({"run": run, "id": id})


def _shape(one: Delivery) -> dict[str, Any]:
    return {
        "run": one.run_id, "id": one.id, "owner": one.owner, "host": one.host, "delivered": one.cursor,
        "attempts": one.attempts, "error": one.error, "failing_since": one.failing_since, "dead_at": one.dead_at,
    }  # fmt: skip
