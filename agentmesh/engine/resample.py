"""Resample: what live models do with the same cases again and again: how often each validator passes, and what it costs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentmesh.core.casebook import wilson
from agentmesh.core.run import JSON, Entry, Kind
from agentmesh.core.workflow import Step
from agentmesh.engine.casebook import Played
from agentmesh.engine.definitions import Definition, steps_of
from agentmesh.engine.mutants import name_of

_INDEX = re.compile(r"\[\d+\]")


@dataclass
class Rate:
    """How often something passed. `unchecked`: it could not be checked; those are not counted."""

    passed: int = 0
    of: int = 0
    unchecked: int = 0

    def add(self, outcomes: Sequence[str]) -> None:
        if "fail" in outcomes:
            self.of += 1
        elif "could_not_check" in outcomes:
            self.unchecked += 1
        else:
            self.of += 1
            self.passed += 1

    def to_json(self) -> dict[str, JSON]:
        low, high = wilson(self.passed, self.of)
        return {
            "passed": self.passed, "of": self.of, "rate": round(self.passed / self.of, 4) if self.of else None,
            "interval": [round(low, 4), round(high, 4)], "unchecked": self.unchecked,
        }  # fmt: skip


@dataclass
class Sampled:
    """Every run of the cases, live."""

    cases: dict[str, Rate] = field(default_factory=dict)
    validators: dict[tuple[str, str], Rate] = field(default_factory=dict)
    """By step and validator; of first answers, since a repair is asked only of those that failed."""
    attempts: dict[str, list[int]] = field(default_factory=dict)
    """Attempts that each execution of a step took."""
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """In models and tools, of each run."""

    def add(self, played: Played) -> None:
        self.cases.setdefault(played.case.name, Rate()).add(["pass" if played.passed else "fail"])
        if played.run is None or played.definition is None:
            return
        self.tokens.append(played.run.usage.tokens)
        self.seconds.append(played.run.usage.seconds)
        steps = {step.id: step for step in steps_of(played.definition.workflow)}
        counts: dict[str, int] = {}
        for entry in played.entries:
            if entry.kind is not Kind.STEP_ATTEMPT:
                continue
            counts[entry.path] = max(counts.get(entry.path, 0), entry.attempt)
            step = steps.get(entry.path.rpartition("/")[2].partition("[")[0])
            if entry.attempt == 1 and step is not None:
                for name, outcomes in _outcomes(entry, step, played.definition):
                    self.validators.setdefault((_INDEX.sub("[]", entry.path), name), Rate()).add(outcomes)
        for path, count in counts.items():
            self.attempts.setdefault(_INDEX.sub("[]", path), []).append(count)

    def to_json(self) -> dict[str, JSON]:
        return {
            "cases": {name: rate.to_json() for name, rate in self.cases.items()},
            "validators": [
                {"step": path, "validator": name} | rate.to_json() for (path, name), rate in self.validators.items()
            ],
            "attempts": {path: round(sum(n) / len(n), 3) for path, n in self.attempts.items()},
            "tokens": _spread(self.tokens), "seconds": _spread(self.seconds),
        }  # fmt: skip


def _spread(values: Sequence[float]) -> dict[str, JSON]:
    if not values:
        return {"runs": 0}
    ordered = sorted(values)
    return {
        "runs": len(ordered), "mean": round(sum(ordered) / len(ordered), 3), "median": round(_at(ordered, 0.5), 3),
        "p95": round(_at(ordered, 0.95), 3), "total": round(sum(ordered), 3),
    }  # fmt: skip


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _outcomes(entry: Entry, step: Step, definition: Definition) -> Iterator[tuple[str, list[str]]]:
    """What each validator said of one answer. Of a kind that gives one verdict each, the nth verdict is the nth validator's."""
    facts = definition.facts(step)
    of_kind: dict[str, list[str]] = {}
    for validator in (*facts.free, *facts.costly, *facts.approvals):
        of_kind.setdefault(validator.kind, []).append(name_of(validator))
    said: dict[str, list[str]] = {}
    verdicts: Sequence[Mapping[str, Any]] = entry.payload.get("verdicts") or ()
    for verdict in verdicts:
        said.setdefault(str(verdict.get("validator")), []).append(str(verdict.get("outcome")))
    for kind, outcomes in said.items():
        names = of_kind.get(kind, [])
        if kind in ("schema", "grounded") or len(outcomes) > len(names):
            yield (names[0] if len(names) == 1 and kind != "schema" else kind), outcomes
            continue
        for name, outcome in zip(names, outcomes, strict=False):
            yield name, [outcome]
