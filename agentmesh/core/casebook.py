"""Casebook: golden cases of a workflow, in workflows/NAME.cases.yaml, and whether a run was as a case says.

The models hold the shape of the file; its recordings stand beside it in NAME.recordings.json, written by `agentmesh test --record`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentmesh.core.document import Path
from agentmesh.core.expression import ExpressionError, check_expression
from agentmesh.core.shape import Source
from agentmesh.errors import Fault

SUFFIX = ".cases.yaml"
RECORDINGS = ".recordings.json"
NAMES = ("input", "output", "state", "error", "steps")
"""What `that` may read."""
Z = 1.959963984540054
"""Of a confidence of 95 %."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExpectedStep(_File):
    """What became of one step. `output` is matched like the run's."""

    state: Literal["completed", "failed", "skipped", "canceled", "waiting"] | None = None
    output: Any = None
    attempts: int | None = Field(None, ge=0)


class Expected(_File):
    """What a run of the case must come to. Of an object only the members named here are looked at; lists are matched whole."""

    state: Literal["completed", "failed", "canceled"] = "completed"
    output: Any = None
    error: dict[str, Any] | None = None
    that: tuple[str, ...] = ()
    """CEL over `input`, `output`, `state`, `error` and `steps` (by path: {state, output, error, attempts}); each must be true."""
    steps: dict[str, ExpectedStep] = {}
    """By path, such as `each[0]/draft`."""


class GivenAnswer(_File):
    """What a person says when the step at `step` asks."""

    step: str
    yes: bool = True
    value: Any = None


class GivenSignal(_File):
    name: str
    value: Any = None


class Case(_File):
    name: str = Field(min_length=1, max_length=200)
    about: str | None = None
    """For people."""
    as_: str = Field("local", alias="as")
    """Who starts the run, such as `token:ide-1`: what the policies allow them."""
    input: dict[str, Any] = {}
    files: dict[str, str] = {}
    """Texts of the input that stand in files, by member: paths relative to the cases."""
    answers: tuple[GivenAnswer, ...] = ()
    """An approval is answered by `local`."""
    signals: tuple[GivenSignal, ...] = ()
    """Sent when the run has started; each is kept until a step waits for it."""
    expect: Expected = Expected()


class CaseFile(_File):
    """A file workflows/NAME.cases.yaml."""

    workflow: str | None = None
    """None: NAME."""
    cases: tuple[Case, ...] = Field(min_length=1)


def faults_of(source: Source[CaseFile], workflows: Mapping[str, Any], name: str) -> list[Fault]:
    """What is wrong with a file of cases besides its shape. `name`: of its workflow, where it does not say."""
    document, faults = source.document, []
    wanted = source.value.workflow or name
    if wanted not in workflows:
        path: Path = ("workflow",) if source.value.workflow else ()
        faults.append(
            document.fault(path, f"there is no workflow {wanted!r}; there are {', '.join(sorted(workflows)) or 'none'}")
        )
    seen: set[str] = set()
    for i, case in enumerate(source.value.cases):
        if case.name in seen:
            faults.append(document.fault(("cases", i, "name"), f"a second case is named {case.name!r}"))
        seen.add(case.name)
        if both := sorted(case.input.keys() & case.files.keys()):
            faults.append(
                document.fault(("cases", i, "files", both[0]), f"{both[0]!r} stands in `input` already", key=True)
            )
        for j, text in enumerate(case.expect.that):
            try:
                check_expression(text, {name: {} for name in NAMES}, boolean=True)
            except ExpressionError as error:
                place: Path = ("cases", i, "expect", "that", j)
                offset = error.column - 1 if error.column else None
                faults.append(document.fault(place, error.message, offset=offset))
    return faults


_NOTHING = object()


def mismatches(expected: Any, found: Any, path: str) -> Iterator[str]:
    """Where a value is not as expected, a sentence each. An object may have more members than are expected of it."""
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            yield f"{path} is {_shown(found)}, expected an object"
            return
        for key, value in expected.items():
            inner = found.get(key, _NOTHING)
            if inner is _NOTHING:
                yield f"{path}.{key} is missing, expected {_shown(value)}"
            else:
                yield from mismatches(value, inner, f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for i, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from mismatches(one, other, f"{path}[{i}]")
    elif isinstance(expected, bool) is not isinstance(found, bool) or expected != found:
        yield f"{path} is {_shown(found)}, expected {_shown(expected)}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:199] + "…"


def wilson(passed: int, of: int) -> tuple[float, float]:
    """The Wilson score interval of a share, at 95 %: where the true share lies. (0, 1) when nothing was seen."""
    if not of:
        return 0.0, 1.0
    share, square = passed / of, Z * Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = Z * math.sqrt(share * (1 - share) / of + square / (4 * of * of)) / (1 + square / of)
    return max(0.0, middle - half), min(1.0, middle + half)
