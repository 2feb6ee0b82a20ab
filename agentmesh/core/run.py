"""Run: one workflow, started once; and the journal it is folded from.

A workflow run, an MCP task and an A2A task are one Run with one id. The journal is a list of entries; `apply` and
`fold` turn them into the Run that everybody looks at. Nothing here reads a clock: times are arguments, in Unix seconds.
docs/run-states.md draws the states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
    ASK = "ask"
    FALLBACK = "fallback"
    RESUME = "resume"


class Kind(StrEnum):
    """Kinds of journal entries, and what their payloads hold."""

    RUN_SUBMITTED = "run.submitted"  # {}; the input stands in the run's row; written by Store.start_run
    RUN_WORKING = "run.working"  # {worker}; each claim; written by Store.claim
    RUN_INPUT_REQUIRED = "run.input_required"  # {}; parked, and only a person can take it further
    RUN_AUTH_REQUIRED = "run.auth_required"  # {}; an agent elsewhere waits for somebody to log in with it
    RUN_ROUTED = "run.routed"  # core.agent.Route as JSON: who takes the message, and why; the last one counts
    RUN_TRACED = "run.traced"  # {traceparent, tracestate?} of whoever started it (W3C Trace Context)
    RUN_SIGNALED = (
        "run.signaled"  # {name, value, by, message?}; from outside, kept until a `wait` takes it; written by Store.post
    )
    RUN_ANSWERED = "run.answered"  # {question, yes, value, by, message?}; from outside; written by Store.post
    RUN_CANCEL_REQUESTED = "run.cancel_requested"  # {by}; from outside
    RUN_UNDOING = "run.undoing"  # {error} or {by}; from here on the run only compensates, then fails or is canceled
    RUN_COMPLETED = "run.completed"  # {output, reply?: true: answered by a message, not by a task}
    RUN_FAILED = "run.failed"  # {error: {code, message, path}}
    RUN_REJECTED = "run.rejected"  # {error: {code, message}}; an agent would not do it, or there is none who could
    RUN_CANCELED = "run.canceled"  # {by}
    STEP_STARTED = "step.started"  # {verb, why}; an attempt begins; a switch adds `choice`, a map `items`
    STEP_INTENT = "step.intent"  # {key}; durable before a step that changes the outside world
    STEP_CHILD = "step.child"  # {run, workflow, skill?}; the run that does this step's work
    STEP_TASK = "step.task"  # {peer, task, context}; the task of an agent elsewhere that does this step's work
    STEP_SAID = "step.said"  # {state, message?, reply?}; what that task said of itself: an A2A Message as JSON
    STEP_ARTIFACT = "step.artifact"  # {artifact, append?, last?}; a piece of the run's result: an A2A Artifact as JSON
    STEP_WAITING = "step.waiting"  # {for: "timer" | "signal" | "approval" | "input", until?, ...}; see core.question
    STEP_ATTEMPT = (
        "step.attempt"  # {model, prompt_hash, output or text, verdicts, usage, error?, retry_at?, cached?, awaits?}
    )
    STEP_COMPLETED = "step.completed"  # {verb, output, signal?}; `state` writes of the step are committed with it
    STEP_FAILED = "step.failed"  # {verb, error: {code, message, path?}, tolerated: bool}
    STEP_SKIPPED = "step.skipped"  # {reason}


STATE_AFTER: Mapping[Kind, RunState] = {
    Kind.RUN_SUBMITTED: RunState.SUBMITTED,
    Kind.RUN_WORKING: RunState.WORKING,
    Kind.RUN_INPUT_REQUIRED: RunState.INPUT_REQUIRED,
    Kind.RUN_AUTH_REQUIRED: RunState.AUTH_REQUIRED,
    Kind.RUN_COMPLETED: RunState.COMPLETED,
    Kind.RUN_FAILED: RunState.FAILED,
    Kind.RUN_CANCELED: RunState.CANCELED,
    Kind.RUN_REJECTED: RunState.REJECTED,
}
"""The run's state after an entry of these kinds; the others leave it."""

FROM_OUTSIDE = frozenset({Kind.RUN_SIGNALED, Kind.RUN_ANSWERED, Kind.RUN_CANCEL_REQUESTED})
"""Kinds that are written whatever the epoch, by whoever may."""


@dataclass(slots=True)  # not to be changed; `frozen` makes it four times slower to make, and each step makes several
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


_NOTHING = Usage()
_ABOUT = frozenset(
    {
        Kind.RUN_ROUTED,
        Kind.RUN_TRACED,
        Kind.RUN_ANSWERED,
        Kind.RUN_SIGNALED,
        Kind.STEP_SAID,
        Kind.STEP_ARTIFACT,
    }
)


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
    usage: Usage = _NOTHING
    model: str | None = None
    child: str | None = None
    """Run id of the child run that does the work."""
    task: Mapping[str, JSON] | None = None
    """{peer, task, context}: the task elsewhere that does the work."""
    waiting: Mapping[str, JSON] | None = None
    """What a WAITING step waits for: the payload of its STEP_WAITING entry."""
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
    forked_from: str | None = None
    """Run id of the run whose completed steps this one began with."""
    context_id: str | None = None
    """A2A contextId."""
    message: Mapping[str, JSON] | None = None
    """The A2A message that started it."""
    created_at: float = 0.0
    updated_at: float = 0.0
    usage: Usage = _NOTHING
    """The sum over every attempt, failed ones counted in."""
    steps: Mapping[str, StepRun] = field(default_factory=dict)
    """By path, in the order they began."""
    cancel_requested: bool = False
    seq: int = 0
    """Of the last entry folded in."""
    route: Mapping[str, JSON] | None = None
    """Who took the message and why (`core.agent.Route` as JSON); None when nothing had to be chosen."""
    trace: Mapping[str, str] | None = None
    """{traceparent, tracestate?} of whoever started it."""
    artifacts: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)
    """A2A Artifacts as JSON, by artifactId, in the order they began; the output stands beside them."""
    messages: tuple[Mapping[str, JSON], ...] = ()
    """A2A Messages as JSON that followed `message`: what the task asked, and what it was answered."""
    said: Mapping[str, JSON] | None = None
    """{state, message?}: what a task elsewhere said of itself last."""
    replied: bool = False
    """It was answered by a message, not by a task."""


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


class Folder:
    """Folds entries into a Run, many of them cheaply: the steps are copied once per `run` read, not once per entry.

    It raises on no entry, since what stands in a journal was accepted. A terminal run and a completed step stay as
    they are, whatever follows.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._steps: dict[str, StepRun] = dict(run.steps)
        self._state = run.state
        self._output = run.output
        self._error = run.error
        self._usage = run.usage
        self._cancel_requested = run.cancel_requested
        self._updated_at = run.updated_at
        self._seq = run.seq
        self._route, self._trace, self._said, self._replied = run.route, run.trace, run.said, run.replied
        self._artifacts = dict(run.artifacts)
        self._messages = list(run.messages)
        self._changed = False

    @property
    def run(self) -> Run:
        """The run after every entry so far. The value does not change when more are added."""
        if self._changed:
            self._run = replace(
                self._run,
                state=self._state,
                output=self._output,
                error=self._error,
                usage=self._usage,
                cancel_requested=self._cancel_requested,
                updated_at=self._updated_at,
                seq=self._seq,
                steps=dict(self._steps),
                route=self._route,
                trace=self._trace,
                artifacts=dict(self._artifacts) if self._artifacts else self._run.artifacts,
                messages=tuple(self._messages),
                said=self._said,
                replied=self._replied,
            )
            self._changed = False
        return self._run

    @property
    def state(self) -> RunState:
        """The run's state, without making a Run."""
        return self._state

    @property
    def seq(self) -> int:
        return self._seq

    def step(self, path: str) -> StepRun | None:
        """One step as it stands, without making a Run."""
        return self._steps.get(path)

    def add(self, entry: Entry) -> Folder:
        """Folds in one entry; an entry the store has not numbered yet counts as the next one."""
        self._changed = True
        self._seq = entry.seq or self._seq + 1
        self._updated_at = max(self._updated_at, entry.at)
        if self._state.terminal:
            return self
        kind = entry.kind
        state = STATE_AFTER.get(kind)
        if state is not None:
            self._run_entry(entry, state)
        elif kind is Kind.RUN_CANCEL_REQUESTED:
            self._cancel_requested = True
        elif kind in _ABOUT:
            self._about(entry)
        elif entry.path:
            self._step_entry(entry)
        return self

    def _run_entry(self, entry: Entry, state: RunState) -> None:
        self._state = state
        if entry.kind is Kind.RUN_COMPLETED:
            self._output = entry.payload.get("output")
            self._replied = self._replied or bool(entry.payload.get("reply"))
        elif entry.kind in (Kind.RUN_FAILED, Kind.RUN_REJECTED):
            self._error = entry.payload.get("error")
        if state.terminal:
            # A step cut off by the end of its run will never be finished by anybody.
            for path, step in self._steps.items():
                if not step.state.ended:
                    self._steps[path] = replace(step, state=StepState.CANCELED, waiting=None, ended_at=entry.at)

    def _about(self, entry: Entry) -> None:
        """What is said of the run beside its state and steps."""
        payload = entry.payload
        match entry.kind:
            case Kind.RUN_ROUTED:
                self._route = payload
            case Kind.RUN_TRACED:
                self._trace = payload
            case Kind.STEP_SAID:
                self._said = payload
                self._replied = self._replied or bool(payload.get("reply"))
                if payload.get("message") and payload.get("state") == RunState.INPUT_REQUIRED.value:
                    self._messages.append(payload["message"])
            case Kind.STEP_ARTIFACT:
                artifact = payload.get("artifact") or {}
                ident = str(artifact.get("artifactId", ""))
                known = self._artifacts.get(ident)
                if known is not None and payload.get("append"):
                    artifact = {**known, "parts": [*known.get("parts", ()), *artifact.get("parts", ())]}
                self._artifacts[ident] = artifact
            case _:
                if payload.get("message"):
                    self._messages.append(payload["message"])

    def _step_entry(self, entry: Entry) -> None:
        payload = entry.payload
        usage = usage_from_json(payload.get("usage")) if entry.kind is Kind.STEP_ATTEMPT else _NOTHING
        if usage is not _NOTHING:
            self._usage += usage  # was spent, whatever became of the attempt
        step = self._steps.get(entry.path)
        if step is None:
            step = StepRun(entry.path)
        elif step.state is StepState.COMPLETED:
            return
        match entry.kind:
            case Kind.STEP_STARTED:
                why = payload.get("why", Why.FIRST.value)
                step = replace(
                    step,
                    verb=payload.get("verb", step.verb),
                    state=StepState.RUNNING,
                    waiting=None,
                    attempt=max(step.attempt, entry.attempt),
                    why=why,
                    error=None,
                    # A resumed step finds the child it had; any other attempt gets one of its own.
                    child=step.child if why == Why.RESUME.value else None,
                    task=step.task if why == Why.RESUME.value else None,
                    started_at=entry.at if step.started_at is None else step.started_at,
                    ended_at=None,
                )
            case Kind.STEP_ATTEMPT:
                step = replace(
                    step,
                    state=StepState.RUNNING,
                    waiting=None,
                    ended_at=None,
                    attempt=max(step.attempt, entry.attempt),
                    error=payload.get("error"),
                    verdicts=tuple(payload.get("verdicts") or ()),
                    usage=step.usage + usage,
                    model=payload.get("model", step.model),
                    attempts=(*step.attempts, entry),
                )
            case Kind.STEP_CHILD:
                step = replace(step, child=payload.get("run"))
            case Kind.STEP_TASK:
                step = replace(step, task=payload)
            case Kind.STEP_WAITING:
                step = replace(
                    step,
                    verb=payload.get("verb", step.verb),
                    state=StepState.WAITING,
                    attempt=max(step.attempt, entry.attempt),
                    waiting=payload,
                    ended_at=None,
                    started_at=entry.at if step.started_at is None else step.started_at,
                )
            case Kind.STEP_COMPLETED:
                step = _ended(step, entry, StepState.COMPLETED, output=payload.get("output"), error=None)
            case Kind.STEP_FAILED:
                step = _ended(step, entry, StepState.FAILED, output=None, error=payload.get("error"))
            case Kind.STEP_SKIPPED:
                step = _ended(step, entry, StepState.SKIPPED, output=None, error=None)
        self._steps[entry.path] = step


def _ended(step: StepRun, entry: Entry, state: StepState, *, output: JSON, error: Mapping[str, JSON] | None) -> StepRun:
    return replace(
        step,
        verb=entry.payload.get("verb", step.verb),
        state=state,
        attempt=max(step.attempt, entry.attempt),
        output=output,
        error=error,
        waiting=None,
        # A step journaled by its end alone (`set`, `if`) took no time worth a row of its own.
        started_at=entry.at if step.started_at is None else step.started_at,
        ended_at=entry.at,
    )


def usage_from_json(value: Mapping[str, JSON] | None) -> Usage:
    """The Usage of a STEP_ATTEMPT payload; what is absent or null counts as 0."""
    if not value:
        return Usage()
    return Usage(
        value.get("prompt_tokens") or 0,
        value.get("completion_tokens") or 0,
        value.get("cached_tokens") or 0,
        value.get("seconds") or 0.0,
    )


def usage_to_json(usage: Usage) -> dict[str, JSON]:
    """What `usage_from_json` reads."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "seconds": usage.seconds,
    }


def apply(run: Run, entry: Entry) -> Run:
    """The run after one more entry. Copies the steps: for many entries use `fold` or a Folder."""
    return Folder(run).add(entry).run


def fold(run: Run, entries: Iterable[Entry]) -> Run:
    """The run after many entries, as `apply` one by one would give it, in time proportional to their number."""
    folder = Folder(run)
    for entry in entries:
        folder.add(entry)
    return folder.run
