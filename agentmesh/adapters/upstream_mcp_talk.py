"""Talk: a call to an upstream of the older era whose client may be asked while it is open.

Such an upstream asks in the middle of its work and waits. A client of the older era is asked there and then. One that speaks MCP
2026-07-28 has to end its call and come again; the call to the upstream must not be made twice for that, so it goes on in a task of
its own, parked, and the client's next round finds it by the name that its sealed state carries. A parked call lives in this
process: where the round comes to another replica, it cannot be found, and is not made again.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import anyio.abc

from agentmesh.core.caller import Caller, InputRequest, InputRequired, Level
from agentmesh.core.policy import Principal
from agentmesh.core.run import JSON
from agentmesh.errors import Conflict, MissingCapability, TooLarge, Unanswered

PARKED_TIME: Final = 600.0
"""Seconds that a call waits for its client to come again."""
PARKED: Final = 500
"""Calls of one upstream that wait for their clients."""
PARKED_OF_ONE: Final = 50
"""Those of one caller."""
QUESTIONS: Final = 100

Result = dict[str, Any]


class Ear:
    """A caller that may be exchanged while the call goes on: each round of a client is another."""

    def __init__(self, caller: Caller) -> None:
        self.now = caller
        self.state: JSON = None
        self.wants_progress = getattr(caller, "wants_progress", True)

    def progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        self.now.progress(progress, total, message)

    def log(self, level: Level, data: JSON, logger: str | None = None) -> None:
        self.now.log(level, data, logger)

    def can(self, method: Any) -> bool:
        return self.now.can(method)

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        return await self.now.ask(requests)

    async def answer(self, question: Any) -> Any:
        return await self.now.answer(question)


@dataclass(slots=True, eq=False)
class _Question:
    request: InputRequest
    answered: anyio.Event
    answer: Mapping[str, Any] | None = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Talk:
    """One call. `work` makes it, asking by `ask`."""

    principal: Principal
    ear: Ear
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    _questions: dict[str, _Question] = field(default_factory=dict)
    _news: anyio.Event = field(default_factory=anyio.Event)
    _asked: int = 0
    _over: bool = False
    _result: Result | None = None
    _error: Exception | None = None

    async def ask(self, request: InputRequest) -> Mapping[str, Any]:
        """What the client says; for the upstream's side."""
        if not self.ear.can(request.method):
            raise MissingCapability(f"the client that made this call cannot be asked {request.method}")
        self._asked += 1
        if self._asked > QUESTIONS:
            raise TooLarge(f"a call may ask its client {QUESTIONS} times")
        key = f"{request.method.partition('/')[0]}-{self._asked}"
        question = self._questions[key] = _Question(request, anyio.Event())
        self._news.set()
        try:
            await question.answered.wait()
        finally:
            self._questions.pop(key, None)
        if question.answer is None:
            raise question.error or MissingCapability("the client did not answer")
        return question.answer

    async def run(self, work: Callable[[], Awaitable[Result]]) -> None:
        """Makes the call, in a task that outlives the client's rounds."""
        try:
            with self.scope:
                self._result = await work()
            if self.scope.cancelled_caught:
                self._error = Unanswered("the call was ended before its upstream answered")
        except Exception as error:
            self._error = error
        finally:
            self._over = True
            self._news.set()

    async def end(self) -> Result:
        """The result, its questions put to the caller meanwhile. InputRequired leaves it with the call still going on."""
        while not self._over:
            waiting = {
                key: question
                for key, question in self._questions.items()
                if question.answer is None and question.error is None
            }
            if waiting:
                await self._put(waiting)
                continue
            self._news = anyio.Event()
            await self._news.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    async def _put(self, waiting: Mapping[str, _Question]) -> None:
        try:
            answers = await self.ear.now.ask({key: question.request for key, question in waiting.items()})
        except Exception as error:
            for question in waiting.values():
                question.error = error
                question.answered.set()
            return
        for key, question in waiting.items():
            question.answer = answers[key]
            question.answered.set()


class Talks:
    """The calls of one upstream whose clients may be asked."""

    def __init__(self, name: str, tasks: anyio.abc.TaskGroup) -> None:
        self._name, self._tasks = name, tasks
        self._parked: dict[str, tuple[Talk, float]] = {}

    async def call(self, caller: Caller, principal: Principal, work: Callable[[Talk], Awaitable[Result]]) -> Result:
        """Makes a call by `work`, or goes on with the one that the caller's state names."""
        state = caller.state
        parked = state.get("parked") if isinstance(state, dict) else None
        if parked is not None:
            talk = self._resume(str(parked), caller, principal)
        else:
            talk = Talk(principal, Ear(caller))
            self._tasks.start_soon(talk.run, lambda: work(talk))
        try:
            return await talk.end()
        except InputRequired as required:
            required.state = {"parked": self._park(talk)}
            raise
        except anyio.get_cancelled_exc_class():
            talk.scope.cancel()
            raise

    @property
    def parked(self) -> int:
        """Calls that wait for their clients to come again."""
        return len(self._parked)

    def sweep(self) -> None:
        """Ends calls whose clients have not come again in time."""
        for key, (talk, until) in list(self._parked.items()):
            if until < anyio.current_time():
                del self._parked[key]
                talk.scope.cancel()

    def _park(self, talk: Talk) -> str:
        self.sweep()
        of_one = sum(other.principal == talk.principal for other, _ in self._parked.values())
        if len(self._parked) >= PARKED or of_one >= PARKED_OF_ONE:
            talk.scope.cancel()
            count = of_one if of_one >= PARKED_OF_ONE else len(self._parked)
            raise Conflict(f"{count} calls of {self._name} wait for their clients already; try again later")
        key = secrets.token_urlsafe(16)
        self._parked[key] = talk, anyio.current_time() + PARKED_TIME
        return key

    def _resume(self, key: str, caller: Caller, principal: Principal) -> Talk:
        talk, _ = self._parked.get(key, (None, 0.0))
        if talk is None or (talk.principal.subject, talk.principal.tenant) != (principal.subject, principal.tenant):
            raise Unanswered(
                f"the call of {self._name} that this answers is not waiting here any more; it may have been done. "
                "Look there before calling again."
            )
        del self._parked[key]
        talk.ear.now = caller
        return talk
