"""Store: the atomic operations the engine needs, each one transaction.

Rules every implementation keeps (tests/contracts runs on all):
  accepted means durable: a call returns after its commit, except `append(..., wait=False)`, which keeps the order;
  every append asserts the epoch: a worker that lost its lease gets LeaseLost and wrote nothing;
  a key starts one run, whoever asks how often;
  journal rows are never changed or removed; seq has no gaps; the store numbers and dates them;
  the head of a run (state, output, error, usage) is always what the fold of its journal says;
  a terminal run never changes again;
  a run is claimed when its time has come: at once when it is new or given back, at the end of its lease, when its timer is due, or
  when something from outside arrived while it was parked;
  the end of a child run wakes its parent, in the same transaction;
  payloads over 32 kB live in a content-addressed blob table, invisibly to the caller;
  a push delivery is one worker's at a time, and goes with its run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any, Protocol, Self

from agentmesh.core.push import LEASE, Delivery
from agentmesh.core.run import STATE_AFTER, Entry, Run, RunState
from agentmesh.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Claim:
    """A run a worker owns until its lease ends."""

    run: Run
    """Folded from its whole journal."""
    epoch: int
    mail: int = 0
    """How much had arrived from outside when it was claimed; see Store.park."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, newest first. `cursor` is the `next` of the page before."""

    tenant: str = "local"
    owner: str | None = None
    workflow: str | None = None
    workflows: tuple[str, ...] | None = None
    """One of these; None: any."""
    states: tuple[RunState, ...] = ()
    context_id: str | None = None
    parent: str | None = None
    roots: bool = False
    """Only runs that no step started."""
    updated_after: float | None = None
    limit: int = 50
    cursor: str | None = None
    longest: int | None = None
    """Inputs, messages and outputs of more bytes of JSON are not read: they are None, and named in `RunPage.omitted`."""


COUNTED = 10_000
"""Up to here `RunPage.total` is exact; more are not counted, so that a page costs the same however much there is."""


@dataclass(frozen=True, slots=True)
class RunPage:
    """`runs` are heads: state, input and output, but `steps` is empty."""

    runs: tuple[Run, ...]
    next: str | None = None
    total: int = 0
    """How many match, on all pages; COUNTED means so many or more."""
    omitted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By run id, which of `input`, `message` and `output` were longer than the filter's `longest`."""


class Store(Protocol):
    """Where runs live."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc: object) -> None: ...

    async def start_run(
        self, run: Run, definition: Mapping[str, Any] | None = None, *, entries: Sequence[Entry] = (),
        due_at: float | None = None,
    ) -> tuple[Run, bool]:  # fmt: skip
        """Records a new run with its RUN_SUBMITTED entry, and its definition's document under `run.definition`.

        `entries`: follow the first one, in the same transaction (a fork begins with the steps of another run, an import with a whole
        journal; times that are set are kept). `due_at`: not to be claimed earlier.

        What a run begins with is taken from `run`: id, input, who and whence; not its state or steps. `created_at` 0
        means now. When (tenant, key) exists already, nothing is written: the existing run and False. ValueError when
        `entries` go on past a terminal one.
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
        """Adds entries and writes `put` {(scope, key): value}, in one transaction.

        The run's state follows from the entries (`STATE_AFTER`); `state`, when given, must agree with them, else
        ValueError. LeaseLost when `epoch` is not the run's, or the run is released or terminal. With `wait=False` it
        returns before the commit; order is kept, and a failure surfaces at the next waiting append of the same run:
        once one append failed, every later one under that epoch does, so that the journal has no hole. A terminal
        entry ends the lease.
        """
        ...

    async def park(
        self, run_id: str, epoch: int, entries: Sequence[Entry], *, wake_at: float | None, mail: int
    ) -> int | None:
        """Adds entries and gives the run up until `wake_at` (None: until something from outside arrives), in one transaction.

        Only when nothing has arrived from outside since `mail` (of the Claim, or what `park` answered last): else nothing is
        written, and the newer count is answered: look again at signals, answers, cancellation and children, then park with that.
        None: it is parked, the lease is ended. LeaseLost like `append`.
        """
        ...

    async def post(self, run_id: str, entry: Entry, *, key: str | None = None) -> tuple[Run, bool]:
        """Adds an entry from outside (FROM_OUTSIDE) whatever the epoch, and wakes the run when it is parked.

        `key`: the same key adds to one run once; False when it was there, and nothing is written. Conflict when the run has ended,
        NotFound when there is none. The run that comes back is folded.
        """
        ...

    async def request_cancel(self, run_id: str, by: str) -> Run:
        """Adds RUN_CANCEL_REQUESTED whatever the epoch, unless terminal or asked for before; wakes a parked run.

        A run that nobody ever claimed is canceled at once; else its worker sees `changes` and ends it. NotFound when
        there is no such run.
        """
        ...

    async def claim(
        self, worker: str, *, limit: int, lease: float = 30.0, only: Sequence[str] | None = None,
        at_once: Mapping[str, int] | None = None,
    ) -> Sequence[Claim]:  # fmt: skip
        """Takes runs that are not terminal and whose time has come, the longest due first; each gets a new epoch.

        `at_once` {workflow: n}: of such a workflow at most n runs are held at once, by all workers together; `only` is not bound by it.

        Each gets a RUN_WORKING entry {worker} and state WORKING in the same transaction. `only`: these runs and no
        others (a child that its parent's worker runs at once).
        """
        ...

    async def heartbeat(self, worker: str, epochs: Mapping[str, int], *, lease: float = 30.0) -> Sequence[str]:
        """Extends leases; answers the run ids that are no longer this worker's (taken over, ended or broken)."""
        ...

    async def release(self, run_id: str, epoch: int) -> None:
        """Gives a run back unfinished, for the next claim (a soft stop). Does nothing when the lease is lost."""
        ...

    async def next_due(self) -> float | None:
        """Unix seconds when the next run that nobody holds is due; None when there is none."""
        ...

    async def get_run(self, run_id: str) -> Run | None:
        """The run, folded."""
        ...

    async def get_head(self, run_id: str) -> Run | None:
        """The run as its row says, without steps: one row is read."""
        ...

    async def list_runs(self, where: RunFilter) -> RunPage:
        """A page of heads, newest first; InvalidInput for a cursor that no page gave."""
        ...

    async def entries(self, run_id: str, after: int = 0, *, heard: bool = False) -> Sequence[Entry]:
        """The journal past seq `after`, in order. `heard`: for somebody who is told by `changes` of what may be missing at its end."""
        ...

    def changes(self, run_id: str | None = None) -> AsyncIterator[str]:
        """Run ids as they change (only this one, or all); may skip or repeat: read the journal to know what changed.

        Subscribed when the call returns, not at the first `anext`, so that nothing falls between a read and the wait.
        """
        ...

    async def prune(self, before: float, *, tenant: str | None = None, limit: int = 1000) -> int:
        """Removes runs that ended before that time, oldest first, with their journals, children and unshared blobs.

        How many runs were removed: about `limit`, since a run and its descendants go together, and only when all of them have
        ended. A run whose parent is there stays as long as that. Definitions that no run is pinned to go too.
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

    # Push deliveries

    async def add_delivery(self, delivery: Delivery, *, most: int) -> None:
        """Records where notifications of a run go, from the entry after its `cursor` on.

        One of the same id is replaced: what it had not delivered yet is still to be. NotFound when there is no such run, Conflict when
        it has `most` others.
        """
        ...

    async def deliveries(self, run_id: str) -> Sequence[Delivery]:
        """Those of a run, the oldest first; with those that have ended."""
        ...

    async def remove_delivery(self, run_id: str, delivery_id: str) -> None:
        """Forgets one, whoever works on it. Does nothing when there is none."""
        ...

    async def claim_deliveries(
        self, worker: str, *, limit: int, per_host: int, busy: Mapping[str, int] | None = None, lease: float = LEASE,
        only: Sequence[str] | None = None,
    ) -> Sequence[Delivery]:  # fmt: skip
        """Takes deliveries that are due: their run has entries past the cursor and their time has come. Each gets a new epoch.

        At most `per_host` of one host together with those that the caller is `busy` with {host: n}; the longest due first. `only`: of
        these runs. Nothing is written when nothing is due.
        """
        ...

    async def keep_delivery(self, delivery: Delivery, *, after: float | None, held: bool = False) -> bool:
        """Writes how far a claimed delivery has come; False when it is not held under its epoch any more, and nothing was written.

        `held`: it stays the worker's for `after` seconds more. Else it is given back, due in `after` seconds; None: never again.
        """
        ...

    async def find_deliveries(
        self, *, tenant: str | None = None, dead: bool = False, limit: int = 100
    ) -> Sequence[Delivery]:
        """Those that were given up (`dead`), or that fail now, the latest first."""
        ...

    async def revive_delivery(self, run_id: str, delivery_id: str) -> bool:
        """Makes one that was given up, or waits for its next try, due at once; False when there is none."""
        ...

    async def poke(self, run_id: str) -> None:
        """Tells `pokes` of every process on this store that a run may have something to look at. Nothing is recorded."""
        ...

    def pokes(self) -> AsyncIterator[str]:
        """Run ids as they are poked; may skip or repeat. Subscribed when the call returns."""
        ...


def head_state(state: RunState, entries: Sequence[Entry], stated: RunState | None) -> RunState:
    """The run's state after an append: what its entries say. ValueError when `stated` contradicts them.

    For implementations: the row a run is listed by and the fold of its journal must never disagree.
    """
    for entry in entries:
        if state.terminal:
            raise ValueError(f"{entry.kind} follows the end of the run; a terminal entry must be the last")
        state = STATE_AFTER.get(entry.kind, state)
    if stated is not None and stated is not state:
        raise ValueError(f"state {stated} does not follow from the entries, which leave the run {state}")
    return state


def check_names(*names: str | None) -> None:
    """InvalidInput when a name (a key, an owner, a file's) holds what no database takes as text."""
    for name in names:
        if name is not None and ("\0" in name or not (name.isascii() or _encodable(name))):
            raise InvalidInput(f"The name {name!r} holds a NUL or half a surrogate pair; use Unicode text.")


def _encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def page_cursor(run: Run) -> str:
    """The cursor of the page that begins after `run`, for implementations of `list_runs`."""
    return f"{run.created_at!r}_{run.id}"


def page_key(cursor: str | None) -> tuple[float, str] | None:
    """(created_at, id) that `page_cursor` wrote; InvalidInput for anything else."""
    if cursor is None:
        return None
    at, _, run_id = cursor.partition("_")
    try:
        key = float(at), run_id
    except ValueError:
        key = nan, ""
    if not run_id or not isfinite(key[0]):
        raise InvalidInput(f"The cursor {cursor!r} is not one this server gave; start again without a cursor.")
    return key
