"""Heads: the part of each run's row that changes, as the writer knows it, and the statements that read and write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Executable, bindparam, select

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
            self.due_at = min(self.due_at, now)


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


def moving(head: Head) -> dict[str, Any]:
    """The columns that MOVE and GROW write, and the run's id as `run`."""
    usage = head.usage
    return {
        "run": head.id,
        "state": head.state.value,
        "seq": head.seq,
        "updated_at": head.updated_at,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "model_seconds": usage.seconds,
        "cancel_requested": head.cancel_requested,
        "epoch": head.epoch,
        "lease_owner": head.worker,
        "due_at": head.due_at,
        "mail": head.mail,
    }


def ended(head: Head, ending: Ending) -> dict[str, Any]:
    """The columns that END writes."""
    output = ending.output or Document()
    return {**moving(head), "output": output.text, "output_blob": output.sha256, "error": ending.error}


def _update(columns: Sequence[str]) -> Executable:
    return runs.update().where(runs.c.id == bindparam("run")).values({name: bindparam(name) for name in columns})


class Many:
    """A statement for many rows, compiled once.

    SQLAlchemy's own treatment of each row's parameters takes longer than SQLite takes to write the row.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, Callable[[Mapping[str, Any]], Any]]] = {}

    def __call__(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        known = self._compiled.get(connection.dialect.name)
        if known is None:
            compiled: Any = self._statement.compile(dialect=connection.dialect)  # type: ignore[attr-defined]
            order = compiled.positiontup  # None: the driver takes parameters by name
            known = str(compiled), dict if order is None else itemgetter(*order)
            self._compiled[connection.dialect.name] = known
        text, arrange = known
        connection.exec_driver_sql(text, [arrange(row) for row in rows])


START = Many(runs.insert())
JOURNAL = Many(journal.insert())
GROW = Many(_update(_GROWING))
"""Names no indexed column: SQLite rewrites an index whose column is named, and most appends change none."""
MOVE = Many(_update(_MOVING))
END = Many(_update(_ENDING))
PARKED = inf
"""`due_at` of a run that waits until something arrives."""
