"""Asking: what a function asks while it works, as durable questions of its run; and a run's questions, put to whoever called.

Both ways meet in `core.question`: a question is a row of the journal, whoever it is put to, and the first answer counts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from agentmesh.core.caller import ELICITATION, Caller, InputRequest, InputRequired, Method, missing
from agentmesh.core.caller import Level as LogLevel
from agentmesh.core.policy import Principal
from agentmesh.core.question import Question, Reply, questions
from agentmesh.core.run import JSON, Entry, Kind, Run, RunEvent, StepState
from agentmesh.engine.validators import require_input
from agentmesh.errors import Conflict, Declined, Fail, InvalidInput, NotFound, PolicyDenied

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
                path, 1, kind="input", verb=ASKED, ask=_sentence(params),
                form=params.get("requestedSchema"), subject=f"step:{self._path}",
            )  # fmt: skip
            output: dict[str, JSON] = {"action": "accept", "content": answer.value}
        except Declined:
            output = {"action": "decline"}
        await run.journal.write(Entry(Kind.STEP_COMPLETED, path, 1, {"verb": ASKED, "output": output}))
        run.remember(path, output)
        return output


def _sentence(params: Mapping[str, Any]) -> str:
    """What a person is asked. An address to open (`mode: url`) stands in it: a run's questions have no other place for it."""
    message = str(params.get("message", ""))
    return f"{message} Open {params.get('url')} and answer then." if params.get("mode") == "url" else message


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

    What runs ask that do the work of its steps is put to the caller, too. What the principal may not answer itself is left to
    others, and so is what its user would not say. `heard`: number of the journal's rows that an earlier round has told already.
    """
    asking = _Asking(runs, principal, caller)

    def tell(event: RunEvent) -> None:
        if hear is not None and (event.entry is None or event.entry.seq > heard):
            hear(event if event.entry is not None else event.message)

    async with anyio.create_task_group() as group:
        run = await asking.follow(group, run, events, tell)
        group.cancel_scope.cancel()
    if asking.failure is not None:
        raise asking.failure
    if asking.needs and not run.state.terminal:
        raise InputRequired(await asking.all(), run_id=run.id)
    return run


class _Asking:
    """The questions of one call's run, and of the runs within it."""

    def __init__(self, runs: Runs, principal: Principal, caller: Caller) -> None:
        self._runs = runs
        self._principal = principal
        self._caller = caller
        self._put: dict[str, anyio.CancelScope] = {}
        """Scopes of the questions that were put, by the name that the caller knows them by."""
        self._within: dict[str, str] = {}
        """Runs that were seen, each with what the names of its questions begin with."""
        self.needs: dict[str, InputRequest] = {}
        self.failure: BaseException | None = None

    async def follow(
        self, group: TaskGroup, run: Run, events: AsyncGenerator[RunEvent, None], tell: Callable[[RunEvent], None],
        under: str = "",
    ) -> Run:  # fmt: skip
        """The run when it has ended, or when there is something that ends the call before."""
        self._within[run.id] = under
        async with aclosing(events):
            async for event in events:
                run = event.run
                tell(event)
                if event.entry is None:
                    continue
                child = event.entry.payload.get("run")
                if event.entry.kind is Kind.STEP_CHILD and child not in self._within and len(self._within) < RUNS:
                    group.start_soon(self._child, group, str(child), f"{under}{event.entry.path}/")
                elif event.entry.kind in _LOOK:
                    self._look(group, run)
        return run

    async def _child(self, group: TaskGroup, run_id: str, under: str) -> None:
        try:
            run = await self._runs.owned(self._principal, run_id)
            await self.follow(group, run, self._runs.follow(run), _unheard, under)
        except NotFound:
            pass  # not the caller's: its questions are for others

    def _look(self, group: TaskGroup, run: Run) -> None:
        under = self._within[run.id]
        open_ = {under + question.id: question for question in questions(run)}
        own = [name for name, _ in self._put.items() if self._owner(name) == run.id]
        for name in own:
            if name not in open_:
                self._put.pop(name).cancel()
        for name, question in open_.items():
            if name not in self._put and self._runs.may_answer(self._principal, run, question):
                self._put[name] = anyio.CancelScope()
                group.start_soon(self._ask, group, name, question)

    def _owner(self, name: str) -> str | None:
        """The run whose question has this name: the one within whose steps it stands deepest."""
        under = {prefix: run_id for run_id, prefix in self._within.items() if name.startswith(prefix)}
        return under[max(under, key=len)] if under else None

    async def _ask(self, group: TaskGroup, name: str, question: Question) -> None:
        with self._put.get(name) or anyio.CancelScope():
            try:
                reply = await self._caller.answer(replace(question, id=name))
                if reply is not None:
                    await _give(self._runs, self._principal, question, reply)
            except InputRequired as required:
                self.needs.update(required.requests)
            except (Conflict, PolicyDenied):
                pass  # somebody was quicker, or it is for somebody else after all
            except Exception as error:
                self.failure = self.failure or error
            if self.needs or self.failure is not None:
                group.cancel_scope.cancel()

    async def all(self) -> Mapping[str, InputRequest]:
        """What is asked, with every other question that is open by now: the client answers them in one round."""
        found = dict(self.needs)
        for run_id, under in self._within.items():
            run = await self._runs.owned(self._principal, run_id)
            for question in questions(run):
                if self._runs.may_answer(self._principal, run, question):
                    try:
                        await self._caller.answer(replace(question, id=under + question.id))
                    except InputRequired as required:
                        found.update(required.requests)
        return found


def _unheard(_: RunEvent) -> None:
    """What happens within a step is told by the step's own run."""


RUNS = 100
"""Runs within one call whose questions are looked for."""
_LOOK = frozenset(
    {Kind.STEP_WAITING, Kind.STEP_COMPLETED, Kind.STEP_FAILED, Kind.STEP_ATTEMPT, Kind.RUN_INPUT_REQUIRED}
)


async def _give(runs: Runs, principal: Principal, question: Question, reply: Reply) -> None:
    try:
        await runs.answer(
            principal, question.run_id, question=question.id, yes=reply.yes, value=reply.value, digest=question.digest
        )
    except InvalidInput as error:
        raise InvalidInput(f"the answer to {question.ask!r} does not fit: {error.message}") from error
