"""Store: the atomic operations the engine needs, each one transaction.

Rules every implementation keeps (tests/contracts/store.py runs on all):
  accepted means durable: a call returns after its commit, except `append(..., wait=False)`, which keeps the order;
  every append asserts the epoch: a worker that lost its lease gets LeaseLost and wrote nothing;
  a key starts one run, whoever asks how often;
  journal rows are never changed or removed; seq has no gaps;
  payloads over 32 kB live in a content-addressed blob table, invisibly to the caller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agentmesh.core.run import Entry, Run, RunState


@dataclass(frozen=True, slots=True)
class Claim:
    """A run a worker owns until its lease ends."""

    run: Run
    """Folded from its whole journal."""
    epoch: int


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, newest first. `cursor` is the `next` of the page before."""

    tenant: str = "local"
    owner: str | None = None
    workflow: str | None = None
    states: tuple[RunState, ...] = ()
    context_id: str | None = None
    parent: str | None = None
    roots: bool = False
    """Only runs that no step started."""
    updated_after: float | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class RunPage:
    """`runs` are heads: state, input and output, but `steps` is empty."""

    runs: tuple[Run, ...]
    next: str | None = None
    total: int = 0


class Store(Protocol):
    """Where runs live."""

    async def __aenter__(self) -> Store: ...
    async def __aexit__(self, *exc: object) -> None: ...

    async def start_run(self, run: Run, definition: Mapping[str, Any] | None = None) -> tuple[Run, bool]:
        """Records a new run with its RUN_SUBMITTED entry, and its definition's document under `run.definition`.

        When (tenant, key) exists already, nothing is written: the existing run and False.
        """
        ...

    async def append(
        self,
        run_id: str,
        epoch: int,
        entries: Sequence[Entry],
        *,
        state: RunState | None = None,
        put: Mapping[tuple[str, str], Any] | None = None,
        wait: bool = True,
    ) -> None:
        """Adds entries, sets the run's state, and writes `put` {(scope, key): value}, in one transaction.

        LeaseLost when `epoch` is not the run's. With `wait=False` it returns before the commit; order is kept, and a
        failure surfaces at the next waiting append of the same run. A terminal `state` ends the lease.
        """
        ...

    async def request_cancel(self, run_id: str, by: str) -> Run:
        """Adds RUN_CANCEL_REQUESTED whatever the epoch, unless terminal; a run nobody has claimed is canceled at once."""
        ...

    async def claim(
        self, worker: str, *, limit: int, lease: float = 30.0, only: Sequence[str] | None = None
    ) -> Sequence[Claim]:
        """Takes runs that are not terminal and whose lease is absent or over, oldest first; each gets a new epoch.

        Each gets a RUN_WORKING entry {worker} and state WORKING in the same transaction. `only`: these runs and no others
        (a child that its parent's worker runs at once).
        """
        ...

    async def heartbeat(self, worker: str, epochs: Mapping[str, int], *, lease: float = 30.0) -> Sequence[str]:
        """Extends leases; answers the run ids that are no longer this worker's."""
        ...

    async def release(self, run_id: str, epoch: int) -> None:
        """Gives a run back unfinished, for the next claim (a soft stop)."""
        ...

    async def get_run(self, run_id: str) -> Run | None:
        """The run, folded."""
        ...

    async def list_runs(self, where: RunFilter) -> RunPage: ...

    async def entries(self, run_id: str, after: int = 0) -> Sequence[Entry]:
        """The journal past seq `after`, in order."""
        ...

    def changes(self, run_id: str | None = None) -> AsyncIterator[str]:
        """Run ids as they change (only this one, or all); may skip or repeat: read the journal to know what changed.

        Subscribed when the call returns, not at the first `anext`, so that nothing falls between a read and the wait.
        """
        ...

    async def get_definition(self, digest: str) -> Mapping[str, Any] | None: ...

    async def get(self, scope: str, key: str) -> Any:
        """A value written by `put`; None when there is none."""
        ...

    async def scan(self, scope: str) -> Mapping[str, Any]:
        """Every value of a scope."""
        ...

    async def put(self, scope: str, key: str, value: Any) -> None:
        """Writes one value outside a run (the scheduler's last instant)."""
        ...
