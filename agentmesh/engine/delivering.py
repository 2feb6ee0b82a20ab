"""Deliverer: takes what happens to runs to the webhooks that were configured for them, apart from everything else.

Nothing of it stands in an event's way: it reads the journal after the fact, as a watcher does. Events of one configuration are
delivered one after the other, in the journal's order; different ones at once, but only so many to one host, so that a slow host holds
up nobody else's. After each answer it is recorded how far it came: a process that dies repeats at most the event that was on its way.
"""

from __future__ import annotations

import logging
import random as random_
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from agentmesh.core.json_text import write_json
from agentmesh.core.push import AGAIN, LEASE, Delivery, PushConfig, Webhooks, retry_after
from agentmesh.core.run import Entry, Folder, Run, RunEvent
from agentmesh.core.store import Store
from agentmesh.engine.meter import CANCELLED, Meter
from agentmesh.engine.runs import as_submitted, describe
from agentmesh.errors import Retry, StepError, StoreError

log = logging.getLogger("agentmesh.push")

AT_ONCE: Final = 256
"""Deliveries that are worked on in this process."""
PER_HOST: Final = 8
CLAIM: Final = 64
"""Deliveries that are taken by one transaction."""
GIVING_BACK: Final = 2.0
"""Seconds for the store to take back what a server that stops had begun."""
LOOK: Final = 2.0
"""Seconds between two looks at everything that is due: what others configured, what waited for its next try."""
STIRRED: Final = 500
KNOWN: Final = 10_000
"""Runs of which this process knows that somebody is to be told."""
FOLDED: Final = 256
"""Runs that are kept as far as they were told, so that a journal is not read from its beginning for each new entry."""
NOTIFICATION_ID: Final = "A2A-Notification-Id"
"""Header: the same event has the same value, however often it is sent; seq and part grow within a task."""
TOKEN: Final = "X-A2A-Notification-Token"  # noqa: S105 - a header's name

Render = Callable[[RunEvent, Run], Sequence[Mapping[str, Any]]]
"""The events of the protocol that an entry is; the same each time."""


@dataclass(frozen=True, slots=True)
class _Failure:
    said: str
    refused: bool = False
    after: float | None = None


@dataclass(slots=True)
class _Job:
    """A delivery that is worked on, as far as it has come."""

    one: Delivery


class Deliverer:
    """The workers of one process. `await tg.start(deliverer.run)`; cancel it to stop: what was on its way may be sent once more."""

    def __init__(
        self, store: Store, webhooks: Webhooks, unseal: Callable[[Delivery], PushConfig | None], render: Callable[[str], Render],
        offered: Callable[[], bool] = lambda: True, *, name: str, clock: Callable[[], float], random: random_.Random,
        meter: Meter,
    ) -> None:  # fmt: skip
        """`render`: by the version of the protocol. `offered`: whether anything is to be sent now."""
        self._store = store
        self._webhooks = webhooks
        self._unseal = unseal
        self._render = render
        self._offered = offered
        self._name = name
        self._clock = clock
        self._random = random
        self._meter = meter
        self._known: OrderedDict[str, None] = OrderedDict()
        self._stirred: set[str] = set()
        self._event = anyio.Event()
        self._more = True
        """Everything that is due is to be looked at."""
        self._busy: Counter[str] = Counter()
        self._full: set[str] = set()
        """Hosts that had no place left when it was looked last: what more is due for them is not known."""
        self._crowded = False
        """There was no place left for anybody."""
        self._folders: OrderedDict[tuple[str, str], Folder] = OrderedDict()
        self._trouble = False

    @property
    def active(self) -> int:
        """Deliveries that are worked on now."""
        return self._busy.total()

    def watch(self, run_id: str) -> None:
        """Somebody is to be told of this run from now on."""
        self._know(run_id)
        self._stirred.add(run_id)
        self._event.set()

    def look(self) -> None:
        """There may be something due."""
        self._more = True
        self._event.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        changes = self._store.changes()
        async with anyio.create_task_group() as group:
            group.start_soon(self._hear, changes)
            task_status.started()
            await self._claim_for_ever(group)

    async def _hear(self, changes: AsyncIterator[str]) -> None:
        async for run_id in changes:
            if run_id in self._known:
                self._stirred.add(run_id)
                self._event.set()

    def _know(self, run_id: str) -> None:
        self._known[run_id] = None
        self._known.move_to_end(run_id)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    async def _claim_for_ever(self, group: TaskGroup) -> None:
        looked = float("-inf")
        while True:
            self._event = anyio.Event()
            stirred, self._stirred = self._stirred, set()
            now = anyio.current_time()
            everything = self._more or now - looked >= LOOK or len(stirred) > STIRRED
            self._more = False
            limit = min(AT_ONCE - self.active, CLAIM)
            self._crowded = limit <= 0
            if limit > 0 and (everything or stirred) and self._offered():
                busy = self._busy.copy()
                claims = await self._claim(limit, busy, None if everything else sorted(stirred))
                busy.update(one.host for one in claims)
                full = {host for host, places in busy.items() if places >= PER_HOST}
                self._full = full if everything else self._full | full
                for one in claims:
                    self._busy[one.host] += 1
                    self._know(one.run_id)
                    group.start_soon(self._deliver, one, name=f"push {one.run_id}")
                if everything:
                    looked = now
                if len(claims) == limit:
                    self.look()
            with anyio.move_on_after(LOOK):
                await self._event.wait()

    async def _claim(self, limit: int, busy: Mapping[str, int], only: Sequence[str] | None) -> Sequence[Delivery]:
        try:
            found = await self._store.claim_deliveries(self._name, limit=limit, per_host=PER_HOST, busy=busy, only=only)
        except StoreError:
            if not self._trouble:
                log.exception("push notifications cannot be read; trying again every %s s", LOOK)
            self._trouble = True
            return ()
        self._trouble = False
        return found

    async def _deliver(self, one: Delivery) -> None:
        job = _Job(one)
        try:
            await self._work_off(job)
        except StoreError as error:
            log.warning("what was told of run %s cannot be recorded: %s", one.run_id, error.message)
        except Exception:
            log.exception("the push notifications of run %s broke; they go on when the lease is over", one.run_id)
        except BaseException:
            # The server stops: another may go on at once. What was on its way is sent once more.
            with anyio.CancelScope(shield=True), anyio.move_on_after(GIVING_BACK), suppress(StoreError):
                await self._store.keep_delivery(job.one, after=0.0)
            raise
        finally:
            self._busy[one.host] -= 1
            if self._busy[one.host] <= 0:
                del self._busy[one.host]
            if self._crowded or one.host in self._full:
                self.look()

    async def _work_off(self, job: _Job) -> None:
        """Until there is nothing more, or a try failed."""
        one = job.one
        config = self._unseal(one)
        if config is None:
            await self._give_up(one, "it was sealed with a key that this mesh has no more")
            return
        folder = await self._folder(one)
        if folder is None:
            return
        render = self._render(config.version)
        while entries := await self._store.entries(one.run_id, folder.seq):
            for entry in entries:
                folder.add(entry)
                if entry.seq > job.one.cursor and not await self._tell(job, config, folder, entry, render):
                    return
        # Whatever is added now makes it due again by itself: its journal is past the cursor.
        if await self._store.keep_delivery(job.one, after=0.0):
            self._folders[one.run_id, one.id] = folder
            if len(self._folders) > FOLDED:
                self._folders.popitem(last=False)

    async def _folder(self, one: Delivery) -> Folder | None:
        """The run as it was at the cursor, or before; None when it was pruned."""
        known = self._folders.pop((one.run_id, one.id), None)
        if known is not None and known.seq <= one.cursor:
            return known
        run = await self._store.get_run(one.run_id)
        return None if run is None else Folder(as_submitted(run))

    async def _tell(self, job: _Job, config: PushConfig, folder: Folder, entry: Entry, render: Render) -> bool:
        """Sends what an entry is; False when this worker has nothing more to do for the delivery."""
        run, over = folder.run, folder.state.terminal
        try:
            events = list(render(RunEvent(run, entry, describe(entry)), run))
        except Exception:
            log.exception("entry %d of run %s cannot be put into the protocol's words", entry.seq, run.id)
            await self._failed(job.one, _Failure(f"entry {entry.seq} cannot be put into the protocol's words"))
            return False
        for part, event in enumerate(events[job.one.part :], job.one.part + 1):
            failure = await self._post(config, run, f"{run.id}/{entry.seq}/{part}", event)
            if failure is not None:
                await self._failed(job.one, failure)
                return False
            whole = part == len(events)
            job.one = job.one.delivered(entry.seq) if whole else job.one.delivered(job.one.cursor, part=part)
            end = whole and over
            if not await self._store.keep_delivery(job.one, after=None if end else LEASE, held=not end) or end:
                return False
        job.one = replace(job.one, cursor=entry.seq, part=0)
        if over:  # its end was nobody's news
            await self._store.keep_delivery(job.one, after=None)
        return not over

    async def _post(self, config: PushConfig, run: Run, ident: str, event: Mapping[str, Any]) -> _Failure | None:
        plain = config.version.startswith("0.")
        headers = {
            "content-type": "application/json" if plain else "application/a2a+json",
            NOTIFICATION_ID: ident,
            **(run.trace or {}),
        }
        if config.token:
            headers[TOKEN] = config.token
        if config.credentials:
            headers["authorization"] = f"{config.scheme} {config.credentials}"
        began, status, error = self._meter.clock(), "", ""
        try:
            code, wait = await self._webhooks.post(config.url, headers, write_json(event))
            status = str(code)
            if 200 <= code < 300:
                return None
            error = status
            refused = 300 <= code < 500 and code not in AGAIN
            return _Failure(f"{config.host} answers {code}", refused, retry_after(wait, self._clock()))
        except StepError as failed:
            error = failed.code
            return _Failure(failed.message, refused=not isinstance(failed, Retry))
        except BaseException:
            error = CANCELLED
            raise
        finally:
            self._meter.notifications.record((status, error), self._meter.clock() - began)

    async def _failed(self, one: Delivery, failure: _Failure) -> None:
        one = one.failed(failure.said, self._clock(), refused=failure.refused)
        if one.dead_at is not None:
            await self._give_up(one, failure.said)
        else:
            await self._store.keep_delivery(one, after=one.pause(self._random.random(), failure.after))

    async def _give_up(self, one: Delivery, why: str) -> None:
        if one.dead_at is None:
            one = one.failed(why, self._clock(), refused=True)
        if await self._store.keep_delivery(one, after=None):
            log.warning(
                "run %s is not told to %s any more: %s; see `agentmesh push list`", one.run_id, one.host, one.error
            )
