"""Attempts: what one attempt of a step is given and gives, and what follows it.

What follows is decided from the journal's rows alone, so that a crash changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentmesh.core.model import ChatRequest, Progress, Usage
from agentmesh.core.policy import Action
from agentmesh.core.run import JSON, Why, usage_to_json
from agentmesh.core.verdict import Outcome, Verdict
from agentmesh.core.workflow import AskSpec, Retry_, Step, seconds
from agentmesh.engine.budget import Budget

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution
    from agentmesh.engine.models import Answer

Payload = Mapping[str, JSON]
"""Of a STEP_ATTEMPT entry."""
NOTHING_SPENT = Usage()
Rejected = tuple[Why, Payload]
"""Why an answer had been asked for that was not accepted, and its row."""
AGAIN = frozenset({"max_turns"})
"""Codes of errors after which an agent begins its conversation anew; after any other it goes on where it was."""
_ACTED = frozenset({"unanswered", "timeout", "could_not_check"})
"""Codes of errors after which the other side has acted, or may have."""
_COSTLY = frozenset({"tool", "judge", "vote"})
"""Validators whose answer may be another when they are asked again."""


@dataclass(slots=True)
class Attempt:
    """One attempt of one step, as its verb sees it."""

    step: Step
    path: str
    number: int
    scope: Mapping[str, JSON]
    key: str
    """`RUN/PATH`: the same for every attempt."""
    timeout: float | None
    """Seconds that are left for it."""
    suspend: Callable[[], None]
    """Leaves the timeout to the model's backend."""
    budget: Budget
    model: str | None = None
    prior: Payload | None = None
    """The attempt whose answer was not accepted, when this one is to repair it."""
    arguments: JSON = None
    """What a model gave for `with`: data already, never rendered."""
    sample: int = 0
    """How often the same question was asked before, on purpose."""
    errors: int = 0
    """Attempts before this one that ended in an error."""
    tries: tuple[Rejected, ...] = ()
    """Earlier answers that were not accepted, oldest first: each had a conversation of its own."""
    child: str | None = None
    """The run that does its work."""
    resumed: bool = False
    """It was begun before and cut off: what it was to do may have been done."""
    spent: Usage = NOTHING_SPENT
    """By the models that this attempt asked, and by child runs; added to while it goes on."""

    @property
    def child_key(self) -> str:
        """The key of the run that does this attempt's work: a resumed attempt finds it again, one after an error gets its own."""
        return f"{self.key}~{self.errors}" if self.errors else self.key

    def spent_by_child(self, usage: Usage) -> None:
        self.spent += usage
        self.budget.spend_tokens(usage.tokens)

    async def ask(self, run: Execution, request: ChatRequest, on_progress: Progress | None = None) -> Answer:
        """One question to a model, as the run's owner, within the run's budget. PolicyDenied, BudgetExceeded, errors of Models.ask."""
        run.authorize(Action("models.chat", f"model:{request.model}"))
        with self.budget.reserve(request.max_tokens) as reservation:
            await run.journal.flush()  # what was said before is on its way before the next word is asked for
            answer = await run.bench.models.ask(request, on_progress)
            self.spent += answer.usage
            reservation.spent = answer.usage.tokens
        return answer


@dataclass(slots=True)
class Done:
    """An attempt came back. The step's validators are asked by whoever made the attempt."""

    output: JSON
    verdicts: list[Verdict] = field(default_factory=list)
    """What the verb itself found; when one of them is not a pass, nothing else is asked."""
    usage: Usage = NOTHING_SPENT
    model: str | None = None
    prompt_hash: str | None = None
    text: str | None = None
    """The model's own words, when they are not the output."""
    puts: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    """What the output must fit, checked before the step's validators."""
    request: ChatRequest | None = None
    """What the model was asked last."""
    cached: bool = False

    @property
    def passed(self) -> bool:
        return not self.verdicts or all(v.outcome is Outcome.PASS for v in self.verdicts)


@dataclass(frozen=True, slots=True)
class Try:
    """Try (again), not before `due`. `prior`: the attempt whose answer was not accepted, when it is to be repaired."""

    why: Why
    model: str | None = None
    """None: the step's own."""
    prior: Payload | None = None
    due: float = 0.0
    """Unix seconds."""
    delay: float = 0.0
    """Seconds that were meant: a clock that was set back meanwhile does not make it more."""
    sample: int = 0
    errors: int = 0
    recheck: Payload | None = None
    """The attempt whose output only has to be checked again."""
    tries: tuple[Rejected, ...] = ()


@dataclass(frozen=True, slots=True)
class Fallback:
    """The step's output is this value of the file's."""

    value: JSON


@dataclass(frozen=True, slots=True)
class Ask:
    """A person gives the output."""

    spec: AskSpec
    prior: Payload


@dataclass(frozen=True, slots=True)
class Check:
    """The output of this attempt is journaled, and yet to be checked by those that ask somebody: one of them is a run, which may wait."""

    payload: Payload


@dataclass(frozen=True, slots=True)
class Approve:
    """Everything but a person has passed the output of this attempt."""

    payload: Payload


@dataclass(frozen=True, slots=True)
class Undo:
    """What the step did is undone, then it fails with this error."""

    error: Mapping[str, JSON]
    output: JSON


@dataclass(frozen=True, slots=True)
class Passed:
    """The attempt passed, and only the step's end is missing."""

    output: JSON


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The step fails with this error."""

    error: Mapping[str, JSON]


Follows = Try | Fallback | Ask | Check | Approve | Passed | Undo | GiveUp


@dataclass(frozen=True, slots=True)
class _Stage:
    """One attempt, or one way out, of `on_invalid`."""

    kind: str
    why: Why = Why.FIRST
    model: str | None = None
    value: Any = None


class Plan:
    """What a step does about errors and about answers that do not pass. Feed it every ended attempt, oldest first."""

    def __init__(self, step: Step, *, key: str, risky: bool = False) -> None:
        """`key`: the step's, from which the jitter follows. `risky`: to do it twice may be to do it twice."""
        self._retry = step.retry or Retry_()
        self._declared = step.retry is not None
        self._key = key
        self._risky = risky
        self._stages = stages(step)
        self._errors = 0
        self._invalid = 0
        self._stage = _Stage("try", Why.FIRST)
        self._prior: Payload | None = None
        self._sample = 0
        self._tries: tuple[Rejected, ...] = ()

    def note(self, payload: Payload, now: float = 0.0) -> Follows:
        """What follows an attempt that did not complete the step and ended at `now`."""
        if payload.get("awaits") == "approve":
            return Approve(payload)
        if payload.get("awaits") == "checks":
            return Check(payload)
        error = payload.get("error")
        if error:
            return self._after_error(payload, error, now)
        verdicts: list[Mapping[str, Any]] = payload.get("verdicts") or []
        failed = [v for v in verdicts if v.get("outcome") == Outcome.FAIL.value]
        if failed:
            return self._after_fail(payload, failed)
        unchecked = [v for v in verdicts if v.get("outcome") == Outcome.COULD_NOT_CHECK.value]
        if not unchecked:
            return Passed(payload.get("output"))
        error = {
            "code": "could_not_check", "message": "could not be checked: " + _sentence(unchecked), "retry": "declared"
        }  # fmt: skip
        # A check that could not be made is made again, and the step is not.
        recheck = payload if all(v.get("validator") in _COSTLY for v in unchecked) else None
        return self._after_error(payload, error, now, recheck)

    def _after_error(
        self, payload: Payload, error: Mapping[str, JSON], now: float, recheck: Payload | None = None
    ) -> Try | GiveUp:
        self._errors += 1
        if error["code"] in AGAIN:
            self._tries = (*self._tries, (self._stage.why, payload))
        if not self._may_retry(error, recheck is not None) or self._errors >= self._retry.attempts:
            return GiveUp({k: v for k, v in error.items() if k not in ("retry", "after")})
        delay = min(seconds(self._retry.backoff) * 2 ** (self._errors - 1), seconds(self._retry.max_backoff))
        delay *= 1 + self._retry.jitter * share(f"{self._key}#{self._errors}")
        delay = max(delay, error.get("after") or 0.0)
        due = payload.get("retry_at") or now + delay
        return Try(
            Why.RETRY, self._stage.model, self._prior, due, delay, self._sample, self._errors, recheck, self._tries
        )  # fmt: skip

    def _may_retry(self, error: Mapping[str, JSON], only_check: bool) -> bool:
        code, retry = error["code"], error.get("retry")
        if self._risky and not only_check and (code in _ACTED or retry is None):
            return False
        if self._retry.on is not None:
            return code in self._retry.on
        return retry == "always" or (retry == "declared" and self._declared)

    def _after_fail(self, payload: Payload, failed: list[Mapping[str, Any]]) -> Follows:
        error = {"code": "invalid_output", "message": "did not pass its checks: " + _sentence(failed)}
        if failed[0].get("validator") == "ask":  # nobody answered
            error = {"code": "expired", "message": failed[0]["message"]}
        if self._invalid >= len(self._stages):
            return GiveUp(error)
        stage = self._stages[self._invalid]
        self._invalid += 1
        self._tries = (*self._tries, (self._stage.why, payload))
        match stage.kind:
            case "fallback":
                return Fallback(stage.value)
            case "ask":
                return Ask(stage.value, payload)
            case "compensate":
                return Undo(error, payload.get("output"))
        self._stage = stage
        self._sample += stage.why is Why.RESAMPLE
        self._prior = payload if stage.why is Why.REPAIR else None
        return Try(
            stage.why, stage.model, self._prior, sample=self._sample, errors=self._errors, tries=self._tries
        )  # fmt: skip


def stages(step: Step) -> list[_Stage]:
    """`on_invalid` as one attempt, or one way out, each. Only a model can repair, be asked again or be replaced by another."""
    found: list[_Stage] = []
    for item in step.on_invalid:
        if item == "compensate":
            found.append(_Stage("compensate"))
        if not isinstance(item, Mapping):
            break  # `fail`, or what fails after it
        if "fallback" in item:
            found.append(_Stage("fallback", value=item["fallback"]))
            break
        if "ask" in item:
            found.append(_Stage("ask", value=AskSpec.model_validate(item["ask"])))
        elif step.llm is None:
            continue
        elif "repair" in item:
            found += [_Stage("try", Why.REPAIR)] * int(item["repair"])
        elif "resample" in item:
            found += [_Stage("try", Why.RESAMPLE)] * int(item["resample"])
        elif isinstance(item.get("escalate"), Mapping):
            model = item["escalate"].get("model")
            found.append(_Stage("try", Why.ESCALATE, model))
            found += [_Stage("try", Why.REPAIR, model)] * int(item["escalate"].get("repair", 0))
    return found


def done_of_row(payload: Payload) -> Done:
    """What an attempt's row says of its outcome."""
    return Done(
        payload.get("output"), [Verdict.from_json(v) for v in payload.get("verdicts") or ()], cached=bool(payload.get("cached")),
        model=payload.get("model"), prompt_hash=payload.get("prompt_hash"),
        puts={(scope, key): value for scope, key, value in payload.get("puts") or ()},
    )  # fmt: skip


def usage_row(usage: Usage) -> dict[str, JSON]:
    """A usage as rows keep it: what is nothing is left out, for there are many rows."""
    kept = {name: value for name, value in usage_to_json(usage).items() if value}
    if "seconds" in kept:
        kept["seconds"] = round(kept["seconds"], 6)
    return kept


def share(text: str) -> float:
    """From 0 up to 1, always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _sentence(verdicts: list[Mapping[str, Any]]) -> str:
    lines = [": ".join(filter(None, (v.get("path"), v.get("message") or v.get("validator")))) for v in verdicts]
    more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
    return "; ".join(line[:200] for line in lines[:3]) + more
