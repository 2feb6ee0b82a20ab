"""Every error AgentMesh raises on purpose.

    MeshError
    |-- CallerError                 the caller asked for something that cannot be; never our fault
    |   |-- InvalidInput            an argument or message does not fit its schema
    |   |-- NotFound                no such tool, workflow, skill, run or model (or not theirs to see)
    |   |-- PolicyDenied            a policy says no
    |   |-- TooLarge                a body, log or value is over its limit
    |   |-- Conflict                the same key with another body, a terminal run cancelled
    |   |-- UnsupportedMedia        a part of a type that the skill does not take, or no type of answer that it gives
    |   |-- MissingCapability       the client has not declared what the call needs of it
    |   `-- NotBuilt                a part of the language or protocol this release does not have
    |-- ProjectError                the mesh's own files are wrong; carries every Fault
    |-- StepError                   a step of a run failed; journaled, never a crash
    |   |-- Retry                   may succeed later (`after` seconds)
    |   |   |-- NotSent             a request of which no byte can have left
    |   |   `-- Unanswered            a request that may have been done, and no answer came
    |   |-- Fail                    will not succeed however often it is tried
    |   |   `-- LoginRequired       somebody has to log in to an upstream first
    |   |-- Declined                a person said no
    |   |-- Expired                 nobody answered, or signaled, in time
    |   |-- InvalidOutput           validators did not pass the output
    |   |-- StepTimeout             the step took longer than its `timeout`
    |   `-- BudgetExceeded          the run's tokens or seconds are spent
    |-- ModelError                  a model endpoint
    |   |-- ModelUnavailable        not reachable or still loading past the wait; may be retried
    |   |-- ModelRefused            the endpoint said 4xx: the request is at fault
    |   `-- ModelFailed             the model cannot be started
    |-- StoreError
    |   |-- LeaseLost               another epoch owns the run: stop writing
    |   |-- StoreLocked             another server owns this mesh
    |   `-- StoreTooNew             the database was written by a later release
    `-- ServeError                  the server cannot start (port in use, address refused)

Catch as broadly as you mean: each edge translates `MeshError` in exactly one function. `code` is stable and may be shown
to machines; the message is one sentence for people that says what happened, where, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


class MeshError(Exception):
    """Something in the mesh went wrong."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str | None = None, **data: Any) -> None:
        """`data` is for machines: JSON values only, shown to the caller beside the message."""
        super().__init__(message or (self.__doc__ or self.code).strip().splitlines()[0])
        self.data = data

    @property
    def message(self) -> str:
        return str(self.args[0])


class CallerError(MeshError):
    """The request cannot be served as asked."""

    code = "invalid_request"


class InvalidInput(CallerError):
    """The input does not fit its schema."""

    code = "invalid_input"


class NotFound(CallerError):
    """There is no such thing here."""

    code = "not_found"


class PolicyDenied(CallerError):
    """A policy denies this."""

    code = "denied"


class TooLarge(CallerError):
    """The request is over its size limit."""

    code = "too_large"


class Conflict(CallerError):
    """The request contradicts what is already recorded."""

    code = "conflict"


class UnsupportedMedia(CallerError):
    """A part of the message, or every type of answer asked for, is of a media type that the agent does not have."""

    code = "unsupported_media"


class MissingCapability(CallerError):
    """The client has not declared a capability that the call needs. `data.requiredCapabilities` says which."""

    code = "missing_capability"


class NotBuilt(CallerError):
    """This release does not have that yet."""

    code = "not_built"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in one project file. `line` and `column` count from 1; 0 when the whole file is meant."""

    file: str
    line: int
    column: int
    message: str
    source: str = ""
    """The line of the file, for the caret; empty when there is none to show."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: "
        caret = f"\n    {self.source}\n    {' ' * (self.column - 1)}^" if self.source and self.line else ""
        return where + self.message + caret


class ProjectError(MeshError):
    """The mesh's files have faults."""

    code = "project"

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(f) for f in faults))
        self.faults = faults


class StepError(MeshError):
    """A step failed."""

    code = "step_failed"


class Retry(StepError):
    """The step may succeed if it is tried again."""

    code = "retry"

    def __init__(self, message: str | None = None, *, after: float | None = None, **data: Any) -> None:
        """`after`: seconds to wait at least, when the other side said so."""
        super().__init__(message, **data)
        self.after = after


class NotSent(Retry):
    """The other side could not be reached, and cannot have seen the request."""

    code = "not_sent"


class Unanswered(Retry):
    """The request was sent and no answer came; it may have been done."""

    code = "unanswered"


class Declined(StepError):
    """A person said no."""

    code = "declined"


class Expired(StepError):
    """Nobody answered in time."""

    code = "expired"


class Fail(StepError):
    """The step failed and trying again will not help."""

    code = "failed"


class LoginRequired(Fail):
    """Somebody has to log in to an upstream first. `data.url` is where, in a browser."""

    code = "login_required"


class InvalidOutput(StepError):
    """The output did not pass its validators."""

    code = "invalid_output"


class StepTimeout(StepError):
    """The step took longer than its timeout."""

    code = "timeout"


class BudgetExceeded(StepError):
    """The run's budget is spent."""

    code = "budget"


class ModelError(MeshError):
    """A model could not answer."""

    code = "model"


class ModelUnavailable(ModelError):
    """The model is not reachable now."""

    code = "model_unavailable"


class ModelRefused(ModelError):
    """The model's endpoint refused the request."""

    code = "model_refused"


class ModelFailed(ModelError):
    """The model could not be started."""

    code = "model_failed"


class StoreError(MeshError):
    """The store could not do its work."""

    code = "store"


class LeaseLost(StoreError):
    """Another worker owns this run now."""

    code = "lease_lost"


class StoreLocked(StoreError):
    """Another server owns this mesh."""

    code = "store_locked"


class StoreTooNew(StoreError):
    """The database was written by a later release."""

    code = "store_too_new"


class ServeError(MeshError):
    """The server cannot start."""

    code = "serve"
