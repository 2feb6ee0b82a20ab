"""What can be done with runs after the fact, under `/v1/runs`: replay, fork, diff, export, import, prune."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from agentmesh.core.workflow import Duration, seconds
from agentmesh.engine import Engine
from agentmesh.errors import InvalidInput
from agentmesh.http import shapes
from agentmesh.http.asker import Asker, answer, ok
from agentmesh.http.shapes import KEY_LENGTH, NAME_LENGTH, Body, Kept


class ReplayShape(BaseModel):
    """`same`: the replay came to the journal's own digest. Else `difference` is the first row at which they part."""

    run: str
    workflow: str
    state: str
    same: bool
    rows: int
    digest: str
    replayed: str
    difference: dict[str, Any] | None = None
    open: list[str]
    children: list[dict[str, Any]]


class DiffShape(BaseModel):
    """What is not the same in the two runs, by path."""

    a: dict[str, Any]
    b: dict[str, Any]
    forked: bool
    definition: dict[str, Any]
    input: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    end: dict[str, Any]


class PrunedShape(BaseModel):
    removed: int


class ForkRun(Body):
    """`from_step`: the first step that is done again; null: all are. `input`: null is the run's own.

    `steps`: what is changed of `llm` steps, by id: `prompt`, `system`, `model`, `temperature`, `max_tokens`, `seed`. `today`: by the mesh's
    files as they are now. `key`: the same key never starts two runs.
    """

    from_step: Annotated[str, Field(min_length=1, max_length=10 * NAME_LENGTH)] | None = None
    input: Any = None
    steps: dict[str, dict[str, Any]] = Field(default_factory=dict)
    today: bool = False
    key: Annotated[str, Field(min_length=1, max_length=KEY_LENGTH), Kept] | None = None


class PruneRuns(Body):
    """Runs that ended longer ago than this: seconds, or `12h`, `30d`."""

    older_than: Duration


def history_routes(app: FastAPI, engine: Engine) -> None:
    """Adds the routes."""
    history = engine.history

    @app.get("/runs/{run_id}/replay", responses=ok(ReplayShape))
    async def replay_run(principal: Asker, run_id: str, children: bool = False) -> Response:
        """Walks the run again from its journal, without any model or tool. `children`: the runs of its steps too."""
        return answer((await history.replay(principal, run_id, children=children)).to_json())

    @app.post("/runs/{run_id}/fork", status_code=201, responses=ok(shapes.RunShape, 201))
    async def fork_run(principal: Asker, run_id: str, body: ForkRun) -> Response:
        """Starts a run that begins with the steps of this one before `from_step`."""
        run = await history.fork(
            principal, run_id, from_step=body.from_step, input=body.input, changes=body.steps, today=body.today,
            key=body.key,
        )  # fmt: skip
        return answer(shapes.run_to_json(run), 201, {"location": f"/v1/runs/{run.id}"})

    @app.get("/runs/{run_id}/diff/{other}", responses=ok(DiffShape))
    async def diff_runs(principal: Asker, run_id: str, other: str) -> Response:
        """What changed from this run to the other."""
        return answer(await history.diff(principal, run_id, other))

    @app.get("/runs/{run_id}/export")
    async def export_run(principal: Asker, run_id: str) -> Response:
        """The run with its journal, definition and children as one gzip file, which replays on another machine."""
        content = await history.export(principal, run_id)
        name = f'attachment; filename="{run_id}.run.json.gz"'
        return Response(content, media_type="application/gzip", headers={"content-disposition": name})

    @app.post("/runs/import", status_code=201, responses=ok(shapes.RunShape, 201))
    async def import_run(principal: Asker, request: Request) -> Response:
        """Records the runs of an exported file, which is the body, as they were. Needs admin.write."""
        run = await history.import_(principal, await request.body())
        return answer(shapes.run_to_json(run), 201, {"location": f"/v1/runs/{run.id}"})

    @app.post("/runs/prune", responses=ok(PrunedShape))
    async def prune_runs(principal: Asker, body: PruneRuns) -> Response:
        """Removes runs that ended long ago, with their journals and children. Needs admin.write."""
        try:
            age = seconds(body.older_than)
        except ValueError as error:
            raise InvalidInput(f"older_than: {error}") from None
        return answer({"removed": await history.prune(principal, age)})
