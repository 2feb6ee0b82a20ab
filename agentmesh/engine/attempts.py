"""Attempts: what to do after each attempt of a step. Decided from the journal's rows alone, so that a crash changes nothing."""

from __future__ import annotations

import random as random_
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentmesh.core.run import JSON, Why
from agentmesh.core.workflow import Retry_, Step, seconds

Payload = Mapping[str, JSON]
"""Of a STEP_ATTEMPT entry."""


@dataclass(frozen=True, slots=True)
class Try:
    """Try (again), after `delay` seconds. `prior`: the attempt whose answer was not accepted, when it is to be repaired."""

    why: Why
    model: str | None = None
    """None: the step's own."""
    prior: Payload | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The step fails with this error."""

    error: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class _Stage:
    why: Why
    model: str | None


class Plan:
    """Retries, repairs and escalations of one step. Feed it every ended attempt, oldest first; `next` is what follows."""

    def __init__(self, step: Step, random: random_.Random) -> None:
        self._retry = step.retry or Retry_()
        self._declared = step.retry is not None
        self._random = random
        self._stages = _stages(step)
        self._errors = 0
        self._invalid = 0
        self._stage = _Stage(Why.FIRST, None)
        self._prior: Payload | None = None
        self.next: Try | GiveUp = Try(Why.FIRST)

    def note(self, payload: Payload) -> Try | GiveUp:
        """What follows an attempt that did not complete the step."""
        error = payload.get("error")
        self.next = self._after_error(error) if error else self._after_verdicts(payload)
        return self.next

    def _after_error(self, error: Mapping[str, JSON]) -> Try | GiveUp:
        self._errors += 1
        allowed = error.get("retry") == "always" or (error.get("retry") == "declared" and self._declared)
        if not allowed or self._errors >= self._retry.attempts:
            return GiveUp({k: v for k, v in error.items() if k not in ("retry", "after")})
        delay = min(seconds(self._retry.backoff) * 2 ** (self._errors - 1), seconds(self._retry.max_backoff))
        delay *= 1 + self._retry.jitter * self._random.random()
        return Try(Why.RETRY, self._stage.model, self._prior, max(delay, error.get("after") or 0.0))

    def _after_verdicts(self, payload: Payload) -> Try | GiveUp:
        verdicts: list[Mapping[str, Any]] = payload.get("verdicts") or []
        failed = [v for v in verdicts if v.get("outcome") == "fail"]
        if not failed:
            unchecked = [v for v in verdicts if v.get("outcome") == "could_not_check"]
            return GiveUp({"code": "could_not_check", "message": "could not be checked: " + _sentence(unchecked)})
        if self._invalid >= len(self._stages):
            return GiveUp({"code": "invalid_output", "message": "did not pass its checks: " + _sentence(failed)})
        self._stage = self._stages[self._invalid]
        self._invalid += 1
        self._prior = payload if self._stage.why is Why.REPAIR else None
        return Try(self._stage.why, self._stage.model, self._prior)


def _stages(step: Step) -> list[_Stage]:
    """`on_invalid` as one attempt each. Only a model can repair."""
    stages: list[_Stage] = []
    if step.llm is None:
        return stages
    for item in step.on_invalid:
        if not isinstance(item, Mapping):
            break  # `fail`
        if "repair" in item:
            stages += [_Stage(Why.REPAIR, None)] * int(item["repair"])
        elif isinstance(item.get("escalate"), Mapping):
            model = item["escalate"].get("model")
            stages.append(_Stage(Why.ESCALATE, model))
            stages += [_Stage(Why.REPAIR, model)] * int(item["escalate"].get("repair", 0))
    return stages


def _sentence(verdicts: list[Mapping[str, Any]]) -> str:
    lines = [": ".join(filter(None, (v.get("path"), v.get("message") or v.get("validator")))) for v in verdicts]
    more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
    return "; ".join(line[:200] for line in lines[:3]) + more
