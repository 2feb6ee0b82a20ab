"""What waits for people and clocks, under `/v1`: questions and their answers, signals, schedules."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any

from fastapi import FastAPI, Header
from pydantic import Field, StrictFloat, StrictInt, StrictStr
from starlette.responses import Response

from agentmesh.core.question import Question
from agentmesh.core.run import Run
from agentmesh.engine import Engine
from agentmesh.engine.asked import open_questions
from agentmesh.engine.scheduler import BACKFILL
from agentmesh.errors import InvalidInput
from agentmesh.http import shapes
from agentmesh.http.asker import Asker, answer, ok
from agentmesh.http.shapes import KEY_LENGTH, NAME_LENGTH, Body, Kept

Index = Annotated[int, Field(ge=0, le=100_000)]


Moment = StrictInt | StrictFloat | StrictStr


class Signal(Body):
    """A signal to a run. `key`: the same key is one signal, however often it is sent."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_LENGTH), Kept]
    value: Any = None
    key: Annotated[str, Field(min_length=1, max_length=KEY_LENGTH), Kept] | None = None


class Answer(Body):
    """An answer. `question`: None is the only open one. `digest`: of the question as it was shown, so that no other is answered.

    `yes` true or false for an approval, with `value` where it has a form; `value` alone for an input.
    """

    question: Annotated[str, Field(min_length=1, max_length=KEY_LENGTH), Kept] | None = None
    yes: bool | None = None
    value: Any = None
    digest: Annotated[str, Field(max_length=NAME_LENGTH)] | None = None


class Backfill(Body):
    """Which instants to run: from `since` to before `until` (now when not given), as Unix seconds or as in RFC 3339."""

    since: Moment
    until: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=BACKFILL)] = 100


def question_to_json(question: Question, run: Run) -> dict[str, Any]:
    """A question as QuestionShape has it."""
    return {**question.to_json(), "workflow": run.workflow}


def waiting_routes(app: FastAPI, engine: Engine) -> None:
    runs = engine.runs

    @app.get("/questions", responses=ok(shapes.QuestionsShape))
    async def list_questions(principal: Asker) -> Response:
        """Every open question of the runs that the caller may see, oldest first."""
        asked = await open_questions(runs, principal)
        return answer({"questions": [question_to_json(q, run) for run, q in asked.questions], "more": asked.more})

    @app.get("/runs/{run_id}/questions", responses=ok(shapes.QuestionsShape))
    async def show_questions(principal: Asker, run_id: str) -> Response:
        """What a run asks people now, oldest first."""
        run = await runs.get(principal, run_id)
        found = await runs.questions(principal, run_id)
        return answer({"questions": [question_to_json(question, run) for question in found], "more": False})

    @app.post("/runs/{run_id}/answers", responses=ok(shapes.RunShape))
    async def answer_run(principal: Asker, run_id: str, body: Answer) -> Response:
        """Answers a question; the first answer counts. 409 when it was answered, has expired or shows something else now."""
        if body.yes is None and "value" not in body.model_fields_set:
            raise InvalidInput("an answer says `yes` (true or false), or gives a `value`")
        yes = body.yes is not False
        run = await runs.answer(
            principal, run_id, question=body.question, yes=yes, value=body.value, digest=body.digest
        )
        return answer(shapes.run_to_json(run))

    @app.post("/runs/{run_id}/signals", responses=ok(shapes.RunShape))
    async def signal_run(
        principal: Asker,
        run_id: str,
        body: Signal,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=KEY_LENGTH)] = None,
    ) -> Response:
        """Gives a run a signal, which is kept until a step waits for it. `key`, or the header Idempotency-Key: once."""
        run = await runs.signal(principal, run_id, body.name, body.value, key=body.key or idempotency_key)
        return answer(shapes.run_to_json(run))

    @app.get("/schedules", responses=ok(shapes.SchedulesShape))
    async def list_schedules(principal: Asker) -> Response:
        """Each `cron` entry with its next and last instant."""
        return answer({"schedules": engine.scheduler.status(principal)})

    @app.post("/schedules/{workflow}/{index}/pause", responses=ok(shapes.ScheduleShape))
    async def pause_schedule(principal: Asker, workflow: str, index: Index) -> Response:
        """Nothing is started for the entry until it is resumed, by no server, over restarts."""
        return answer(await engine.scheduler.pause(principal, workflow, index))

    @app.post("/schedules/{workflow}/{index}/resume", responses=ok(shapes.ScheduleShape))
    async def resume_schedule(principal: Asker, workflow: str, index: Index) -> Response:
        """Goes on with the next instant; what fell into the pause is not caught up."""
        return answer(await engine.scheduler.resume(principal, workflow, index))

    @app.post("/schedules/{workflow}/{index}/backfill", responses=ok(shapes.BackfillShape))
    async def backfill_schedule(principal: Asker, workflow: str, index: Index, body: Backfill) -> Response:
        """Starts a run for each instant of a span, oldest first; an instant that has a run keeps that one."""
        since = moment(body.since, "since")
        until = None if body.until is None else moment(body.until, "until")
        done = await engine.scheduler.backfill(principal, workflow, index, since=since, until=until, limit=body.limit)
        return answer(done)


def moment(given: float | str, name: str) -> float:
    """Unix seconds of a moment; InvalidInput for a text without a zone, and for what is none."""
    if not isinstance(given, str):
        if not math.isfinite(given):
            raise InvalidInput(f"`{name}` is no moment")
        return float(given)
    text = given.strip()
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.timestamp()
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"`{name}` is no moment: {text[:80]!r}; write 2026-11-22T10:00:00Z, or Unix seconds"
        ) from None
    raise InvalidInput(f"`{name}` needs a zone: write {text}Z for UTC, or an offset as in +01:00")
