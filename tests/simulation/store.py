"""Store: one process's way to the shared database: commits take time, and die with the process or with the database.

Writes go through a queue that one writer empties, as in the real store: an append that nobody waits for is committed later, or
lost with the process. What was not committed at a crash is gone; what was may never have been acknowledged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Self

import anyio

from agentmesh.core.run import Entry, Run
from agentmesh.core.store import Claim
from agentmesh.errors import MeshError, StoreError
from tests.simulation.world import Gone, Life


class _Request:
    __slots__ = ("done", "error", "held", "operation", "value")

    def __init__(self, operation: Callable[[], Awaitable[Any]], held: tuple[str, int] | None) -> None:
        self.operation = operation
        self.held = held
        self.done = anyio.Event()
        self.value: Any = None
        self.error: BaseException | None = None


class Ledger:
    """Who wrote what under which epoch: a second worker's claim ends what the first may write. Shared by all processes."""

    def __init__(self) -> None:
        self.epochs: dict[str, int] = {}
        self.holders: dict[str, str] = {}
        self.faults: list[str] = []

    def claimed(self, who: str, claims: Sequence[Claim]) -> None:
        for claim in claims:
            if claim.epoch <= self.epochs.get(claim.run.id, 0):
                self.faults.append(f"{claim.run.id} was claimed under epoch {claim.epoch} again")
            self.epochs[claim.run.id] = claim.epoch
            self.holders[claim.run.id] = who

    def wrote(self, who: str, run_id: str, epoch: int) -> None:
        if epoch != self.epochs.get(run_id) or self.holders.get(run_id) != who:
            self.faults.append(f"{who} wrote to {run_id} under epoch {epoch}, held by {self.holders.get(run_id)}")


class SimulatedStore:
    """The Store of one process; what is not written here reads the database after a moment."""

    def __init__(self, life: Life, ledger: Ledger) -> None:
        self._life = life
        self._world = life.world
        self._database = life.world.database
        self._ledger = ledger
        self._queue: deque[_Request] = deque()
        self._came = anyio.Event()
        self._broken: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """The database stays."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._database, name)
        if name == "changes":
            return method

        async def read(*arguments: Any, **more: Any) -> Any:
            await self._life.gate()
            if self._world.out:
                raise StoreError("the database does not answer")
            return await method(*arguments, **more)

        return read

    async def write(self) -> None:
        """The writer: runs until the process dies."""
        while True:
            while not self._queue:
                self._came = anyio.Event()
                await self._came.wait()
            await anyio.sleep(self._world.pause())
            while self._life.frozen_until > self._world.loop.time():  # noqa: ASYNC110 - it may be stopped again
                await anyio.sleep(self._life.frozen_until - self._world.loop.time())
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._world.rng.randint(1, 8)))]
            lost = self._world.out
            # A database that breaks off may have committed all the same; nobody is told.
            if not lost or self._world.rng.random() < 0.5:
                await self._commit(batch)
            for request in batch:
                if lost:
                    request.error = StoreError("the database does not answer")
                self._note_failure(request)
                request.done.set()

    async def _commit(self, batch: Sequence[_Request]) -> None:
        for request in batch:
            try:
                if request.held is not None and self._broken.get(request.held[0]) == request.held[1]:
                    raise StoreError("an earlier write of this run failed")
                request.value = await request.operation()
            except MeshError as error:
                request.error = error

    def _note_failure(self, request: _Request) -> None:
        if request.held is not None and request.error is not None:
            self._broken[request.held[0]] = request.held[1]

    def die(self) -> None:
        """Ends the writer's work: by chance the next commit was just done, and nobody told."""
        waiting, self._queue = list(self._queue), deque()
        self._life.dead = True
        for request in waiting:
            request.error = Gone(f"{self._life.name} is dead")
            request.done.set()

    async def start_run(self, run: Run, *arguments: Any, **more: Any) -> tuple[Run, bool]:
        found: tuple[Run, bool] = await self._submit(lambda: self._database.start_run(run, *arguments, **more))
        return found

    async def append(
        self, run_id: str, epoch: int, entries: Sequence[Entry], *, wait: bool = True, **more: Any
    ) -> None:
        async def operation() -> None:
            await self._database.append(run_id, epoch, entries, wait=True, **more)
            self._ledger.wrote(self._life.name, run_id, epoch)
            for entry in entries:
                self._world.note(f"{self._life.name} wrote {run_id[-4:]} {entry.kind} {entry.path}#{entry.attempt}")

        await self._submit(operation, held=(run_id, epoch), wait=wait)

    async def park(self, run_id: str, epoch: int, entries: Sequence[Entry], **more: Any) -> int | None:
        async def operation() -> int | None:
            mail = await self._database.park(run_id, epoch, entries, **more)
            if mail is None:
                self._ledger.wrote(self._life.name, run_id, epoch)
                self._world.note(f"{self._life.name} parked {run_id[-4:]}")
            return mail

        mail: int | None = await self._submit(operation, held=(run_id, epoch))
        return mail

    async def post(self, run_id: str, entry: Entry, **more: Any) -> tuple[Run, bool]:
        found: tuple[Run, bool] = await self._submit(lambda: self._database.post(run_id, entry, **more))
        return found

    async def request_cancel(self, run_id: str, by: str) -> Run:
        run: Run = await self._submit(lambda: self._database.request_cancel(run_id, by))
        return run

    async def claim(self, worker: str, **more: Any) -> Sequence[Claim]:
        async def operation() -> Sequence[Claim]:
            claims = await self._database.claim(worker, **more)
            self._ledger.claimed(self._life.name, claims)
            for claim in claims:
                self._broken.pop(claim.run.id, None)
                self._world.note(f"{self._life.name} claimed {claim.run.id[-4:]} epoch {claim.epoch}")
            return claims

        claims: Sequence[Claim] = await self._submit(operation)
        return claims

    async def heartbeat(self, worker: str, epochs: Mapping[str, int], **more: Any) -> Sequence[str]:
        async def operation() -> Sequence[str]:
            broken = [run_id for run_id, epoch in epochs.items() if self._broken.get(run_id) == epoch]
            good = {run_id: epoch for run_id, epoch in epochs.items() if run_id not in broken}
            return [*broken, *await self._database.heartbeat(worker, good, **more)]

        lost: Sequence[str] = await self._submit(operation)
        return lost

    async def release(self, run_id: str, epoch: int) -> None:
        await self._submit(lambda: self._database.release(run_id, epoch))

    async def put(self, scope: str, key: str, value: Any) -> None:
        await self._submit(lambda: self._database.put(scope, key, value))

    async def _submit(
        self, operation: Callable[[], Awaitable[Any]], *, held: tuple[str, int] | None = None, wait: bool = True
    ) -> Any:
        self._life.check()
        request = _Request(operation, held)
        self._queue.append(request)
        self._came.set()
        if not wait:
            return None
        await request.done.wait()
        if request.error is not None:
            raise request.error
        return request.value
