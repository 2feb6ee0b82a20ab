"""Mutants: recorded outputs with a small fault in each, and which of their step's validators notice."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentmesh.core.mutation import mutations
from agentmesh.core.run import JSON
from agentmesh.core.verdict import Outcome
from agentmesh.core.workflow import Step, Validator
from agentmesh.engine.casebook import Played
from agentmesh.engine.definitions import FREE, Definition
from agentmesh.engine.feed import Performed
from agentmesh.engine.replay import replay
from agentmesh.engine.validators import check_output, render_schema

SHOWN = 12
"""Faults that nobody noticed, told of one step."""
_INDEX = re.compile(r"\[\d+\]")
Check = Callable[[JSON], bool]
"""Whether a validator notices a fault in this output."""


@dataclass
class Guard:
    """One validator of one step. `runs` False: it asks somebody, and is not asked here."""

    name: str
    runs: bool = True
    tried: int = 0
    caught: int = 0

    def to_json(self) -> dict[str, JSON]:
        found: dict[str, JSON] = {"validator": self.name, "runs": self.runs}
        return found | ({"tried": self.tried, "caught": self.caught} if self.runs else {})


@dataclass
class Subject:
    """One step, over all cases. `parts`: of its output, by path, how many faults there were and how many somebody noticed."""

    path: str
    guards: dict[str, Guard] = field(default_factory=dict)
    parts: dict[str, list[int]] = field(default_factory=dict)
    kinds: dict[str, list[int]] = field(default_factory=dict)
    """By kind of fault: how many, and how many noticed."""
    missed: list[dict[str, JSON]] = field(default_factory=list)
    outputs: int = 0

    @property
    def unguarded(self) -> list[str]:
        """Parts of the output in which nobody noticed any fault."""
        return [part for part, (tried, noticed) in self.parts.items() if tried and not noticed]

    @property
    def silent(self) -> list[str]:
        """Validators that caught nothing."""
        return [guard.name for guard in self.guards.values() if guard.runs and guard.tried and not guard.caught]

    def to_json(self) -> dict[str, JSON]:
        tried, noticed = (sum(count[i] for count in self.kinds.values()) for i in (0, 1))
        return {
            "step": self.path, "outputs": self.outputs, "tried": tried, "noticed": noticed,
            "kinds": {kind: {"tried": t, "noticed": n} for kind, (t, n) in self.kinds.items()},
            "validators": [guard.to_json() for guard in self.guards.values()], "silent": self.silent,
            "unguarded": self.unguarded, "missed": self.missed,
        }  # fmt: skip


async def mutate(played: Sequence[Played]) -> list[Subject]:
    """Faults put into every output of a model, and of any step with validators, that the cases recorded."""
    subjects: dict[str, Subject] = {}
    for one in played:
        if one.run is None or one.definition is None:
            continue
        seen: list[Performed] = []
        await replay(one.run, one.entries, one.definition, observer=seen.append)
        for performed in seen:
            if performed.step.llm is not None or performed.step.validate_:
                path = _INDEX.sub("[]", performed.path)
                _try(subjects.setdefault(path, Subject(path)), performed, one.definition)
    return list(subjects.values())


def _try(subject: Subject, performed: Performed, definition: Definition) -> None:
    step, scope = performed.step, performed.scope
    schema = _schema(step, scope)
    checks = dict(_checks(step, definition, scope, schema))
    for name, check in checks.items():
        subject.guards.setdefault(name, Guard(name, check is not None))
    subject.outputs += 1
    for mutation in mutations(performed.output, schema):
        noticed = False
        for name, check in checks.items():
            if check is not None:
                guard = subject.guards[name]
                guard.tried += 1
                caught = check(mutation.value)
                guard.caught += caught
                noticed = noticed or caught
        for counts in (
            subject.parts.setdefault(_INDEX.sub("[]", mutation.path), [0, 0]),
            subject.kinds.setdefault(mutation.kind, [0, 0]),
        ):
            counts[0] += 1
            counts[1] += noticed
        if not noticed and len(subject.missed) < SHOWN:
            subject.missed.append({"kind": mutation.kind, "path": mutation.path, "value": mutation.detail})


def _schema(step: Step, scope: Mapping[str, JSON]) -> Mapping[str, Any] | None:
    """What the output must fit, expressions filled in."""
    if step.llm is not None:
        return None if step.llm.output is None else render_schema(step.llm.output, scope)
    return step.output if step.python is not None else None


def _checks(
    step: Step, definition: Definition, scope: Mapping[str, JSON], schema: Mapping[str, Any] | None
) -> list[tuple[str, Check | None]]:
    found: list[tuple[str, Check | None]] = []
    if schema is not None:
        found.append(("schema of the output", lambda output: _fails((), output, scope, schema)))
    facts = definition.facts(step)
    for validator in (*facts.free, *facts.costly, *facts.approvals):
        found.append((name_of(validator), _check(validator, scope)))
    return found


def _check(validator: Validator, scope: Mapping[str, JSON]) -> Check | None:
    if validator.kind not in FREE:
        return None
    return lambda output: _fails((validator,), output, scope, None)


def _fails(
    validators: Sequence[Validator], output: JSON, scope: Mapping[str, JSON], schema: Mapping[str, Any] | None
) -> bool:
    return any(v.outcome is Outcome.FAIL for v in check_output(validators, output, scope, schema=schema))


def name_of(validator: Validator) -> str:
    """A validator in a few words."""
    match validator.kind:
        case "ensure":
            return f"ensure {_short(validator.ensure or '')}"
        case "grounded":
            return f"grounded {', '.join(validator.grounded or ())}"
        case "tool":
            return f"tool {validator.tool.name if validator.tool else ''}"
        case kind:
            return kind


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 72 else line[:71] + "…"
