"""ScriptedCaller: a client at the other end of a call, for tests: it answers what it was told to, at once or by coming again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from agentmesh.core.caller import ELICITATION, InputRequest, InputRequired, Level, Method, missing
from agentmesh.core.question import Question, Reply
from agentmesh.core.run import JSON

_FORMS: tuple[Method, ...] = (ELICITATION,)


class ScriptedCaller:
    """A `core.caller.Caller`."""

    def __init__(
        self, answers: Mapping[str, Any] | None = None, *, can: Collection[Method] = _FORMS, again: bool = False,
        state: JSON = None,
    ) -> None:  # fmt: skip
        """`answers`: by key, in the wire's spelling; to a run's question by its id, a Reply. `again`: what has no answer yet
        ends the call with InputRequired, as for a client of 2026-07-28; else it is an error of the test.
        """
        self.state = state
        self.told: list[tuple[float, float | None, str]] = []
        self.logged: list[tuple[Level, JSON, str | None]] = []
        self.asked: list[str] = []
        """Keys and ids, in the order in which they were asked."""
        self._answers = dict(answers or {})
        self._can = can
        self._again = again

    def progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        self.told.append((progress, total, message))

    def log(self, level: Level, data: JSON, logger: str | None = None) -> None:
        self.logged.append((level, data, logger))

    def can(self, method: Method) -> bool:
        return method in self._can

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        if cannot := [request for request in requests.values() if request.method not in self._can]:
            raise missing(*cannot)
        self.asked += requests
        open_ = {key: request for key, request in requests.items() if key not in self._answers}
        if open_ and self._again:
            raise InputRequired(open_)
        return {key: self._answers[key] for key in requests}

    async def answer(self, question: Question) -> Reply | None:
        self.asked.append(question.id)
        if question.id not in self._answers and self._again:
            raise InputRequired({question.id: InputRequest(ELICITATION, {"message": question.ask})})
        reply: Reply | None = self._answers[question.id]
        return reply
