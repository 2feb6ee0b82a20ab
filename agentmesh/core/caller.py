"""Caller: the client that made a call, as far as it can be spoken to while the call is open.

`Principal` says who asks; `Caller` is the other end of the line. A client of the older era is asked by a request on the call's
own stream; one that speaks MCP 2026-07-28 is asked by ending the call with `input_required`, and comes again with the answers
(basic/patterns/mrtr). For whoever asks both look alike: `ask` returns the answers, or raises `InputRequired`, which nobody but
the edge may catch; the function is then called again from its beginning, and finds the answer there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from agentmesh.core.question import Question, Reply
from agentmesh.core.run import JSON
from agentmesh.errors import MissingCapability

ELICITATION: Final = "elicitation/create"
SAMPLING: Final = "sampling/createMessage"
ROOTS: Final = "roots/list"
Method = Literal["elicitation/create", "sampling/createMessage", "roots/list"]
CAPABILITY: Final[Mapping[str, str]] = {ELICITATION: "elicitation", SAMPLING: "sampling", ROOTS: "roots"}
"""What a client must have declared to be asked."""
Level = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
"""RFC 5424, as MCP's logging has it."""


@dataclass(frozen=True, slots=True)
class InputRequest:
    """One thing that a client is asked: a method and its params in the wire's spelling."""

    method: Method
    params: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, "params": dict(self.params)}


class InputRequired(BaseException):
    """The call cannot go on before its client has answered; it ends with `input_required` and is made again.

    No error, and none that a function's `except Exception` may swallow. Only an edge catches it.
    """

    def __init__(self, requests: Mapping[str, InputRequest], *, run_id: str | None = None, state: JSON = None) -> None:
        super().__init__(", ".join(requests))
        self.requests = requests
        """By key, which the answers come under."""
        self.run_id = run_id
        """The run that waits for the answers, which goes on living."""
        self.state = state
        """What the next round needs to go on, such as an upstream's own state; the edge seals it, and `Caller.state` gives it back."""


class Caller(Protocol):
    """The other end of one call."""

    @property
    def state(self) -> JSON:
        """`InputRequired.state` of the round before, unsealed; None in the first round."""

    def progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        """Tells how far the call is. Never waits; dropped when nobody asked for it."""

    def log(self, level: Level, data: JSON, logger: str | None = None) -> None:
        """Tells a log message. Never waits; dropped when the client does not want it."""

    def can(self, method: Method) -> bool:
        """Whether the client has declared that it may be asked this."""

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        """What the client answers, by the same keys, in the wire's spelling (`ElicitResult`, `CreateMessageResult`, ...).

        MissingCapability when it cannot be asked; InputRequired when it has to come again.
        """

    async def answer(self, question: Question) -> Reply | None:
        """What the client's user says to a question of a run; None when they would not say. Raises what `ask` does."""


class NoCaller:
    """Nobody at the other end: a cron tick, a step of a run, a client that cannot be asked."""

    @property
    def state(self) -> JSON:
        return None

    def progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        pass

    def log(self, level: Level, data: JSON, logger: str | None = None) -> None:
        pass

    def can(self, method: Method) -> bool:
        return False

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        raise missing(*requests.values())

    async def answer(self, question: Question) -> Reply | None:
        raise missing(InputRequest(ELICITATION, {}))


NOBODY: Final = NoCaller()


def missing(*requests: InputRequest) -> MissingCapability:
    """The error for a client that cannot be asked these."""
    capabilities: dict[str, JSON] = {CAPABILITY[request.method]: {} for request in requests}
    names = " and ".join(capabilities)
    return MissingCapability(
        f"this call needs a client that declares {names}; call it from one, or give what it asks for as arguments",
        requiredCapabilities=capabilities,
    )
