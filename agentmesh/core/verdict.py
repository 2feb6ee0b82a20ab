"""Verdict: what a validator says of an output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """`COULD_NOT_CHECK` (a judge is down, an expression failed to evaluate) is neither a pass nor a fault of the answer."""

    PASS = "pass"
    FAIL = "fail"
    COULD_NOT_CHECK = "could_not_check"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One validator's answer. `path` is a dotted path into the scope, such as `output.quotes[1]`, or empty."""

    validator: str
    outcome: Outcome
    message: str = ""
    path: str = ""
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"validator": self.validator, "outcome": self.outcome.value}
        if self.message:
            out["message"] = self.message
        if self.path:
            out["path"] = self.path
        if self.score is not None:
            out["score"] = self.score
        return out

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Verdict:
        """What `to_json` wrote."""
        outcome = Outcome(value["outcome"])
        return cls(value["validator"], outcome, value.get("message", ""), value.get("path", ""), value.get("score"))
