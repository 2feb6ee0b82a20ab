"""Heads: the part of each run's row that changes, as the writer knows it, and the statements that read and write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from sqlalchemy import bindparam, select

from agentmesh.adapters.sql.bulk import Insert, Update
from agentmesh.adapters.sql.documents import Document
from agentmesh.adapters.sql.tables import journal, runs
from agentmesh.core.model import Usage
from agentmesh.core.run import RunState
from agentmesh.errors import StoreError

KEPT_HEADS = 20_000


@dataclass(slots=True)
class Head:
    """What changes in a run's row."""

    id: str
    parent: str | None
    state: RunState
    seq: int
    updated_at: float
    usage: Usage
    cancel_requested: bool
    epoch: int
    worker: str | None
    due_at: float | None
    """By the database's clock: end of the lease, time to wake or to begin; None: it has ended."""
    mail: int

    def holds(self, epoch: int) -> bool:
        """Whether somebody works on it under this epoch."""
        return self.worker is not None and self.epoch == epoch

    def wake(self, now: float) -> None:
        """Something arrived from outside: a parked run is due now. One that has not begun, or is held, is left to its time."""
        self.mail += 1
        if self.worker is None and self.state is not RunState.SUBMITTED and self.due_at is not None:
            self.due_at = min(self.due_at, now, self.updated_at)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the appends of a run fail under one epoch."""

    epoch: int
    error: StoreError
    passing: bool
    """The database was at fault, not what it was given: the run goes on as soon as it answers."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Columns that the last entry of a run fills."""

    output: Document | None = None
    error: str | None = None


class Heads(dict[str, Head]):
    """Heads kept between batches. `trim` them only there: within a batch they know more than the database."""

    def __init__(self) -> None:
        super().__init__()
        self.definitions: set[str] = set()
        """Digests that are in the database for certain."""

    def keep(self, head: Head) -> Head:
        self[head.id] = head
        return head

    def trim(self) -> None:
        if len(self) > KEPT_HEADS:
            self.clear()

    def forget(self) -> None:
        """What was written last may not be there."""
        self.clear()
        self.definitions.clear()


COLUMNS = (
    runs.c.id, runs.c.parent, runs.c.state, runs.c.seq, runs.c.updated_at, runs.c.prompt_tokens, runs.c.completion_tokens,
    runs.c.cached_tokens, runs.c.model_seconds, runs.c.cancel_requested, runs.c.epoch, runs.c.lease_owner,
    runs.c.due_at, runs.c.mail,
)  # fmt: skip
BY_ID = select(*COLUMNS).where(runs.c.id.in_(bindparam("ids", expanding=True))).order_by(runs.c.id)
_GROWING = (
    "seq", "updated_at", "prompt_tokens", "completion_tokens", "cached_tokens", "model_seconds", "cancel_requested",
)  # fmt: skip
_MOVING = (*_GROWING, "state", "epoch", "lease_owner", "due_at", "mail")
_ENDING = (*_MOVING, "output", "output_blob", "error")


def read(row: Any) -> Head:
    """The head of a row of COLUMNS."""
    usage = Usage(row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.model_seconds)
    return Head(
        row.id, row.parent, RunState(row.state), row.seq, row.updated_at, usage, row.cancel_requested, row.epoch,
        row.lease_owner, row.due_at, row.mail,
    )  # fmt: skip


def moving(head: Head) -> tuple[Any, ...]:
    """The run's id and the columns that MOVE writes."""
    return (*growing(head), head.state.value, head.epoch, head.worker, head.due_at, head.mail)


def growing(head: Head) -> tuple[Any, ...]:
    """The run's id and the columns that GROW writes."""
    usage = head.usage
    return (
        head.id, head.seq, head.updated_at, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.seconds,
        bool(head.cancel_requested),
    )  # fmt: skip


def ended(head: Head, ending: Ending) -> tuple[Any, ...]:
    """The run's id and the columns that END writes."""
    output = ending.output or Document()
    return (*moving(head), output.text, output.sha256, ending.error)


def begun(head: Head, row: Mapping[str, Any], ending: Ending | None) -> tuple[Any, ...]:
    """The whole row of a new run, in the order of its columns."""
    changing = zip(_ENDING, ended(head, ending or Ending())[1:], strict=True)
    return tuple(map((dict(row) | dict(changing)).get, runs.c.keys()))


START = Insert(runs)
JOURNAL = Insert(journal)
GROW = Update(runs, "id", _GROWING)
"""Names no indexed column: SQLite rewrites an index whose column is named, and most appends change none."""
MOVE = Update(runs, "id", _MOVING)
END = Update(runs, "id", _ENDING)
PARKED = inf
"""`due_at` of a run that waits until something arrives."""
