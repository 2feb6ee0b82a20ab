"""Asking: what a function asks while it works, as durable questions of its run; and a run's questions, put to whoever called.

Both ways meet in `core.question`: a question is a row of the journal, whoever it is put to, and the first answer counts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio

from agentmesh.core.caller import ELICITATION, Caller, InputRequest, InputRequired, Method, missing
from agentmesh.core.caller import Level as LogLevel
from agentmesh.core.policy import Principal
from agentmesh.core.question import Question, Reply, questions
from agentmesh.core.run import JSON, Entry, Kind, Run, RunEvent, StepState
from agentmesh.engine.validators import require_input
from agentmesh.errors import Conflict, Declined, Fail, InvalidInput, PolicyDenied

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution
    from agentmesh.engine.runs import Runs

ASKED = "ask"
"""Verb of the rows under `PATH/ask[KEY]`."""
QUESTIONS = 100
"""Questions that one step may have asked."""
_KEY = 100
"""Characters of a key."""


class RunCaller:
    """The other end of a call that a step of a run makes: people, by way of the journal. It has no model and no folders."""

    state: JSON = None

    def __init__(self, run: Execution, path: str) -> None:
        self._run = run
        self._path = path

    def progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        of = "" if total is None else f" of {total:g}"
        self._run.notice(f"{self._path}: {message or 'working'} ({progress:g}{of})")

    def log(self, level: LogLevel, data: JSON, logger: str | None = None) -> None:
        self._run.notice(f"{self._path}: {level}: {data}" if logger is None else f"{self._path}: {logger}: {data}")

    def can(self, method: Method) -> bool:
        return method == ELICITATION

    async def answer(self, question: Question) -> Reply | None:
        raise Fail(f"a step has no questions to pass on; {question.id} belongs to a run of its own")

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        others = [request for request in requests.values() if request.method != ELICITATION]
        if others:
            raise missing(*others)
        for key in requests:
            if not key or len(key) > _KEY or not key.isprintable() or set(key) & set("/[]#"):
                raise Fail(f"{key!r} cannot name a question: 1 to {_KEY} characters, none of / [ ] #")
        await self._run.journal.flush()
        if len(requests) == 1:
            ((key, request),) = requests.items()
            return {key: await self._one(key, request)}
        found: dict[str, Mapping[str, Any]] = {}
        failure: BaseException | None = None
        branches = self._run.waits.branches(len(requests))

        async def one(key: str, request: InputRequest, scope: anyio.CancelScope) -> None:
            nonlocal failure
            try:
                found[key] = await self._one(key, request)
            except Exception as error:
                failure = failure or error
                branches.stop()
                scope.cancel()
            finally:
                branches.ended()

        async with anyio.create_task_group() as group:
            for key, request in requests.items():
                group.start_soon(one, key, request, group.cancel_scope)
        if failure is not None:
            raise failure
        return {key: found[key] for key in requests}

    async def _one(self, key: str, request: InputRequest) -> Mapping[str, Any]:
        """The answer to one question: recorded, and asked once."""
        run, path = self._run, f"{self._path}/ask[{key}]"
        known = run.recorded.get(path)
        if known is not None and known.state is StepState.COMPLETED:
            return known.output  # type: ignore[no-any-return]
        if sum(other.startswith(f"{self._path}/ask[") for other in run.recorded) > QUESTIONS:
            raise Fail(f"step {self._path} has asked more than {QUESTIONS} questions")
        params = request.params
        try:
            answer = await run.ask(
                path, 1, kind="input", verb=ASKED, ask=str(params.get("message", "")),
                form=params.get("requestedSchema"), subject=f"step:{self._path}",
            )  # fmt: skip
            output: dict[str, JSON] = {"action": "accept", "content": answer.value}
        except Declined:
            output = {"action": "decline"}
        await run.journal.write(Entry(Kind.STEP_COMPLETED, path, 1, {"verb": ASKED, "output": output}))
        run.remember(path, output)
        return output


ACTIONS = ("accept", "decline", "cancel")
"""What a user may do with an elicitation."""


class CheckedCaller:
    """A caller whose answers are looked at: they come from a client, which may say anything."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.state = caller.state
        self.progress = caller.progress
        self.log = caller.log
        self.can = caller.can
        self.answer = caller.answer

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        """InvalidInput when an answer does not fit what was asked."""
        answers = await self._caller.ask(requests)
        for key, request in requests.items():
            if request.method == ELICITATION:
                check_answer(key, request.params.get("requestedSchema"), answers[key])
        return answers


def check_answer(key: str, form: Mapping[str, Any] | None, answer: Mapping[str, Any]) -> None:
    """InvalidInput when what an elicitation was answered is no `ElicitResult`, or does not fit the form."""
    if answer.get("action") not in ACTIONS:
        raise InvalidInput(f"the answer to {key!r} has no action; it is one of {', '.join(ACTIONS)}")
    if answer["action"] == "accept" and form is not None:
        require_input(form, answer.get("content", {}), f"the answer to {key!r}")


async def follow_and_ask(
    runs: Runs, principal: Principal, run: Run, events: AsyncGenerator[RunEvent, None], caller: Caller,
    hear: Callable[[RunEvent | str], None] | None = None, heard: int = 0,
) -> Run:  # fmt: skip
    """The run when it has ended, its questions put to the caller meanwhile. InputRequired when the caller has to come again.

    What the principal may not answer itself is left to others, and so is what its user would not say. `heard`: number of the
    journal's rows that an earlier round has told already.
    """
    put: dict[str, anyio.CancelScope] = {}
    needs: dict[str, InputRequest] = {}
    failure: BaseException | None = None

    async def ask(question: Question, group: anyio.CancelScope) -> None:
        nonlocal failure
        with anyio.CancelScope() as scope:
            put[question.id] = scope
            try:
                reply = await caller.answer(question)
                if reply is not None:
                    await _give(runs, principal, run.id, question, reply)
            except InputRequired as required:
                needs.update(required.requests)
            except (Conflict, PolicyDenied):
                pass  # somebody was quicker, or it is for somebody else after all
            except Exception as error:
                failure = failure or error
            if needs or failure is not None:
                group.cancel()

    async with anyio.create_task_group() as group, aclosing(events):
        async for event in events:
            run = event.run
            if hear is not None and (event.entry is None or event.entry.seq > heard):
                hear(event if event.entry is not None else event.message)
            if event.entry is None or event.entry.kind not in _LOOK:
                continue
            open_ = {question.id: question for question in questions(run)}
            for id_ in [id_ for id_ in put if id_ not in open_]:
                put.pop(id_).cancel()
            for id_, question in open_.items():
                if id_ not in put and runs.may_answer(principal, run, question):
                    put[id_] = anyio.CancelScope()
                    group.start_soon(ask, question, group.cancel_scope)
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if needs and not run.state.terminal:
        raise InputRequired(await _all(runs, principal, run.id, caller, needs), run_id=run.id)
    return run


_LOOK = frozenset(
    {Kind.STEP_WAITING, Kind.STEP_COMPLETED, Kind.STEP_FAILED, Kind.STEP_ATTEMPT, Kind.RUN_INPUT_REQUIRED}
)


async def _all(
    runs: Runs, principal: Principal, run_id: str, caller: Caller, needs: Mapping[str, InputRequest]
) -> Mapping[str, InputRequest]:
    """What is asked, with every other question that is open by now: the client answers them in one round."""
    found = dict(needs)
    run = await runs.get(principal, run_id)
    for question in questions(run):
        if runs.may_answer(principal, run, question):
            try:
                await caller.answer(question)
            except InputRequired as required:
                found.update(required.requests)
    return found


async def _give(runs: Runs, principal: Principal, run_id: str, question: Question, reply: Reply) -> None:
    try:
        await runs.answer(
            principal, run_id, question=question.id, yes=reply.yes, value=reply.value, digest=question.digest
        )
    except InvalidInput as error:
        raise InvalidInput(f"the answer to {question.ask!r} does not fit: {error.message}") from error
