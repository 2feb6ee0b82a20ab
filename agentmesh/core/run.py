"""Run: one workflow, started once; and the journal it is folded from.

A workflow run, an MCP task and an A2A task are one Run with one id. The journal is a list of entries; `apply` folds them into the
Run that everybody looks at. Nothing here reads a clock: times are arguments, in Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agentmesh.core.model import Usage

JSON = Any
"""None, bool, int, float, str, list or dict of these."""


class RunState(StrEnum):
    """A2A's task states (A2A 1.0.1 section 4.1.3, `TaskState`) without their prefix."""

    SUBMITTED = "submitted"
    WORKING = "working"
    INPUT_REQUIRED = "input_required"
    AUTH_REQUIRED = "auth_required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"

    @property
    def terminal(self) -> bool:
        return self in _TERMINAL


_TERMINAL = frozenset({RunState.COMPLETED, RunState.FAILED, RunState.CANCELED, RunState.REJECTED})


class StepState(StrEnum):
    """What `steps.ID.state` may be."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        return self in _ENDED


_ENDED = frozenset({StepState.COMPLETED, StepState.FAILED, StepState.SKIPPED, StepState.CANCELED})


class Why(StrEnum):
    """Why an attempt was made; `RESUME` uses up neither retries nor repairs."""

    FIRST = "first"
    RETRY = "retry"
    REPAIR = "repair"
    RESAMPLE = "resample"
    ESCALATE = "escalate"
    RESUME = "resume"


class Kind(StrEnum):
    """Kinds of journal entries, and what their payloads hold."""

    RUN_SUBMITTED = "run.submitted"  # {}; the input stands in the run's row
    RUN_WORKING = "run.working"  # {worker}; each claim
    RUN_CANCEL_REQUESTED = "run.cancel_requested"  # {by}
    RUN_COMPLETED = "run.completed"  # {output}
    RUN_FAILED = "run.failed"  # {error: {code, message, path}}
    RUN_CANCELED = "run.canceled"  # {by}
    STEP_STARTED = "step.started"  # {verb, why}; an attempt begins
    STEP_INTENT = "step.intent"  # {key}; durable before a step that changes the outside world
    STEP_CHILD = "step.child"  # {run, workflow, skill?}; the run that does this step's work
    STEP_ATTEMPT = "step.attempt"  # {model, prompt_hash, output, verdicts, usage, error?}; an attempt ended, not the step
    STEP_COMPLETED = "step.completed"  # {verb, output}; `state` writes of the step are committed with it
    STEP_FAILED = "step.failed"  # {error: {code, message}, tolerated: bool}
    STEP_SKIPPED = "step.skipped"  # {reason}


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the journal. `path` is `triage/each[3]/draft`-like: `cut`, `each[3]/draft`; empty for the run itself."""

    kind: Kind
    path: str = ""
    attempt: int = 0
    payload: Mapping[str, JSON] = field(default_factory=dict)
    seq: int = 0
    """From 1, without gaps; 0 until the store gives it."""
    at: float = 0.0
    """Unix seconds, by the store's clock; 0 until the store gives it."""


@dataclass(frozen=True, slots=True)
class StepRun:
    """One step of one run, as folded from the journal."""

    path: str
    verb: str = ""
    state: StepState = StepState.PENDING
    attempt: int = 0
    """Highest attempt begun."""
    why: str = Why.FIRST.value
    output: JSON = None
    error: Mapping[str, JSON] | None = None
    verdicts: tuple[Mapping[str, JSON], ...] = ()
    usage: Usage = Usage()
    model: str | None = None
    child: str | None = None
    """Run id of the child run that does the work."""
    started_at: float | None = None
    ended_at: float | None = None
    attempts: tuple[Entry, ...] = ()
    """The STEP_ATTEMPT entries, oldest first."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as everybody sees it."""

    id: str
    """UUIDv7 (RFC 9562 section 5.7)."""
    workflow: str
    definition: str
    """Content address of what the run is pinned to."""
    input: JSON
    state: RunState = RunState.SUBMITTED
    output: JSON = None
    error: Mapping[str, JSON] | None = None
    """{code, message, path}"""
    owner: str = "local"
    tenant: str = "local"
    source: str = "cli"
    """`cli`, `mcp`, `a2a`, `cron`, `api`, `step`."""
    key: str | None = None
    """Unique within the tenant: the same key never starts two runs."""
    parent: str | None = None
    """Run id of the run whose step started this one."""
    parent_path: str | None = None
    context_id: str | None = None
    """A2A contextId."""
    message: Mapping[str, JSON] | None = None
    """The A2A message that started it."""
    created_at: float = 0.0
    updated_at: float = 0.0
    usage: Usage = Usage()
    """The sum over every attempt, failed ones counted in."""
    steps: Mapping[str, StepRun] = field(default_factory=dict)
    """By path, in the order they began."""
    cancel_requested: bool = False
    seq: int = 0
    """Of the last entry folded in."""


@dataclass(frozen=True, slots=True)
class RunEvent:
    """What a watcher of a run sees: a committed entry with the run after it, or a transient notice (`entry` None)."""

    run: Run
    entry: Entry | None = None
    message: str = ""
    """A line in plain words: `cut completed`, `waiting for model tiny: loading weights`."""


def new_run_id(now: float, random: bytes) -> str:
    """A UUIDv7 from Unix seconds and ten random bytes."""
    import uuid

    value = (int(now * 1000) & (1 << 48) - 1) << 80 | int.from_bytes(random[:10], "big")
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))


def apply(run: Run, entry: Entry) -> Run:
    """The run after one more entry."""
    raise NotImplementedError  # the engine's author writes this first
