"""Question: what a run asks of a person, and the one answer that is taken.

A question is an open STEP_WAITING entry of kind `approval` or `input`. Its id is `PATH#ATTEMPT`; what is asked, shown and
bound stands in the journal, so that it survives any restart and the answer is given to exactly what was shown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agentmesh.core.run import JSON, Run, StepState

ASKING = ("approval", "input")
"""What a STEP_WAITING entry waits `for` when it is a question."""


@dataclass(frozen=True, slots=True)
class Question:
    """`approval`: yes or no (and the values of `form`). `input`: the value itself, which fits `form`."""

    run_id: str
    id: str
    """`PATH#ATTEMPT`."""
    path: str
    kind: Literal["approval", "input"]
    ask: str
    show: JSON
    form: Mapping[str, Any] | None
    caller: str
    """Subject that the run acts for."""
    subject: str
    """What is to be done: `step:review`, `tool:desk.send`."""
    digest: str
    """SHA-256 of caller, subject and what is shown; an answer that names another is refused."""
    asked_at: float
    expires_at: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run_id, "id": self.id, "path": self.path, "kind": self.kind, "ask": self.ask, "show": self.show,
            "form": self.form, "caller": self.caller, "subject": self.subject, "digest": self.digest,
            "asked_at": self.asked_at, "expires_at": self.expires_at,
        }  # fmt: skip


def waiting_payload(
    kind: Literal["approval", "input"], *, verb: str, ask: str, show: JSON, form: Mapping[str, Any] | None, caller: str,
    subject: str, asked_at: float, expires_at: float | None,
) -> dict[str, JSON]:  # fmt: skip
    """The payload of the STEP_WAITING entry that asks; times in Unix seconds."""
    return {
        "verb": verb, "for": kind, "ask": ask, "show": show, "form": None if form is None else dict(form),
        "caller": caller, "subject": subject, "digest": digest_of(caller, subject, show), "asked_at": asked_at,
        "until": expires_at,
    }  # fmt: skip


def digest_of(caller: str, subject: str, show: JSON) -> str:
    """What an approval is bound to."""
    text = json.dumps([caller, subject, show], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def questions(run: Run) -> list[Question]:
    """The open questions of a run, oldest first; none when it has ended."""
    found: list[Question] = []
    for step in run.steps.values():
        waiting = step.waiting
        if step.state is not StepState.WAITING or waiting is None or waiting.get("for") not in ASKING:
            continue
        found.append(
            Question(
                run.id, f"{step.path}#{step.attempt}", step.path, waiting["for"], waiting["ask"], waiting.get("show"),
                waiting.get("form"), waiting["caller"], waiting["subject"], waiting["digest"], waiting["asked_at"],
                waiting.get("until"),
            )
        )  # fmt: skip
    return sorted(found, key=lambda question: question.asked_at)


@dataclass(frozen=True, slots=True)
class Reply:
    """What `Runs.answer` takes."""

    yes: bool
    value: JSON = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person said. `value`: of a form or an `input`; None for a plain yes or no."""

    yes: bool
    value: JSON
    by: str
    at: float
    """Unix seconds."""
