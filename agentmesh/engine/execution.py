"""Execution: one claimed run, taken from its last durable step to its end, and what is recorded of the end."""

from __future__ import annotations

import logging
import random as random_
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import anyio

from agentmesh.core.agent import PEER
from agentmesh.core.model import Usage
from agentmesh.core.outside import Cluster, Databases, HttpClient
from agentmesh.core.policy import Action
from agentmesh.core.question import Answer, waiting_payload
from agentmesh.core.run import JSON, Entry, Kind, Run, RunState, StepState
from agentmesh.core.store import Claim, Store
from agentmesh.core.trace import traced
from agentmesh.core.workflow import Step, seconds
from agentmesh.engine.budget import Budget
from agentmesh.engine.bus import Bus, Subscription
from agentmesh.engine.changes import Changes
from agentmesh.engine.definitions import Definition, Definitions
from agentmesh.engine.faults import Leaving, StepFailed, error_of
from agentmesh.engine.guard import Guard
from agentmesh.engine.identity import principal_of
from agentmesh.engine.journal import NOTHING, Journal, Recorded, recall
from agentmesh.engine.limit import Limit
from agentmesh.engine.models import Models
from agentmesh.engine.perform import accepted
from agentmesh.engine.runs import LOOK_AGAIN, Runs
from agentmesh.engine.sources import Sources
from agentmesh.engine.tools import Tools
from agentmesh.engine.waiting import Inbox, Wait, Waits
from agentmesh.engine.walk import Walk, has_compensation
from agentmesh.errors import Declined, Expired, LeaseLost, MeshError, StoreError

log = logging.getLogger("agentmesh.engine")


@dataclass(frozen=True)
class Bench:
    """What every execution of one worker works with."""

    store: Store
    definitions: Definitions
    runs: Runs
    tools: Tools
    models: Models
    guard: Guard
    bus: Bus
    random: random_.Random
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    adopt: Callable[[str], Awaitable[None]]
    """Claims a child run and executes it beside its parent, whatever the worker's limit."""
    stopping: Callable[[], bool]
    perform: Callable[[Execution, Budget, Step, str, dict[str, JSON], Recorded], Awaitable[JSON]]
    """`engine.perform.perform`; a replay puts what the journal says in its place."""
    accepted: Callable[[Execution, Budget, Step, str, dict[str, JSON], Recorded, JSON], Awaitable[JSON]] = accepted
    """The same for the checks of what the walk itself has made."""
    later: Callable[[Journal], None] | None = None
    """Has a journal's rows sent when the event loop comes round; None: they are sent at once."""
    unhurried: Callable[[Journal], None] | None = None
    """The same some milliseconds later; None: as `later`."""
    http: HttpClient | None = None
    databases: Databases | None = None
    cluster: Cluster | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    sources: Sources = field(default_factory=lambda: Sources((), Changes()))
    push_address: Callable[[str], tuple[str, str] | None] = lambda _: None
    """Where an agent elsewhere may send word of a run's task: (URL, token)."""


class Execution:
    """Executes one run under one epoch. Its `execute` is called once; `cancel` and `look` may be called at any time."""

    def __init__(self, bench: Bench, claim: Claim) -> None:
        self.bench = bench
        self.run = claim.run
        self.epoch = claim.epoch
        self.principal = principal_of(claim.run)
        self.journal = Journal(bench.store, claim.run.id, claim.epoch, bench.later, bench.unhurried)
        self.definition: Definition
        self.waits = Waits(bench.clock, bench.sleep, self._park)
        self.inbox = Inbox()
        self.entries: Sequence[Entry] = ()
        """The journal, when the walk began."""
        self.recorded: dict[str, Recorded] = {}
        """What the journal said, by path, when the walk began."""
        self._mail = claim.mail
        self._children = {
            path: step.child for path, step in claim.run.steps.items() if step.child and not step.state.ended
        }
        self._canceled_children: dict[str, str] = {}
        self.elsewhere: dict[str, tuple[str, str]] = {
            path: (str(step.task["peer"]), str(step.task["task"]))
            for path, step in claim.run.steps.items()
            if step.task and not step.state.ended
        }
        """(peer, task) of agents elsewhere that work for a step now, by its path."""
        self.replied = False
        """An agent elsewhere answered by a message, not by a task."""
        self.poked = anyio.Event()
        """Set when one of them said that its task has changed."""
        self._scope = anyio.CancelScope()
        self._canceled_by: str | None = None
        self._parking = False
        self._stale = False
        """Something may have arrived that `inbox` does not have."""
        self._asking: set[str] = set()
        """Questions that wait for a person now."""

    def cancel(self, by: str) -> None:
        """Ends the run as canceled, in-flight work at once."""
        self._canceled_by = self._canceled_by or by
        self._scope.cancel()

    @property
    def canceled(self) -> bool:
        """Whether it ends because somebody asked for that."""
        return self._canceled_by is not None

    def poke(self) -> None:
        self.poked.set()

    def lose(self) -> None:
        """Stops without a word: another worker owns the run."""
        self._scope.cancel()

    async def look(self) -> None:
        """Something arrived from outside, or may have: branches that wait look whether it was for them."""
        if not self.waits.any:
            self._stale = True
        elif self.inbox.read(await self.bench.store.entries(self.run.id, self.inbox.seq)) or self._children:
            self.waits.wake_all()

    def notice(self, line: str) -> None:
        self.bench.bus.notice(self.run.id, line)

    def limit(self, path: str, seconds: float) -> Limit:
        """At most so many seconds for a block, or for the run itself (path empty)."""
        return Limit(seconds)

    def authorize(self, action: Action) -> None:
        self.bench.guard.authorize(self.principal, action)

    async def execute(self) -> None:
        """Returns when the run has ended, was parked, given back or lost. Cancelled: gives the run back first."""
        try:
            with traced(self.run.trace):
                while not await self._once():
                    pass
        except (Leaving, anyio.get_cancelled_exc_class()) as leaving:
            with anyio.CancelScope(shield=True):
                await self._give_back()
            if not isinstance(leaving, Leaving):
                raise
        except LeaseLost:
            log.info("run %s is another worker's now", self.run.id)
        except StoreError:
            log.exception("run %s stops here: the store failed; it goes on when its lease is over", self.run.id)

    async def _once(self) -> bool:
        """One walk from what the journal says; False when something arrived while the run was about to be parked."""
        way_back: Mapping[str, JSON] | None = None
        with self._scope:
            found = await self._forth()
            if isinstance(found, Entry):
                await self._end(found)
                return True
            way_back = found
        if way_back is None and self._canceled_by is not None:
            way_back = {"by": self._canceled_by}
        if way_back is not None:
            await self.cancel_children()
            await self._end(await self._back(way_back))
        elif self._parking:
            with anyio.CancelScope(shield=True):
                return await self._parked()
        return True

    def _park(self) -> None:
        self._parking = True
        self._wake_at = self.waits.wake_at
        self._asked = bool(self._asking)
        self._scope.cancel()

    async def _parked(self) -> bool:
        entries = [Entry(Kind.RUN_INPUT_REQUIRED)] if self._asked else []
        await self.journal.flush(wait=True)
        newer = await self.bench.store.park(self.run.id, self.epoch, entries, wake_at=self._wake_at, mail=self._mail)
        if newer is None:
            self.bench.bus.parked(self.run.id)
            return True
        self._mail = newer
        found = await self.bench.store.get_run(self.run.id)
        if found is not None:
            self.run, self.journal.usage = found, Usage()
        self._scope, self._parking = anyio.CancelScope(), False
        self.waits, self.inbox = Waits(self.bench.clock, self.bench.sleep, self._park), Inbox()
        if self._canceled_by is not None:
            self._scope.cancel()
        return False

    async def _give_back(self) -> None:
        try:
            await self.journal.flush(wait=True)
            await self.bench.store.release(self.run.id, self.epoch)
        except StoreError as error:
            log.warning("run %s could not be given back: %s", self.run.id, error)

    async def _end(self, ending: Entry) -> None:
        state = _STATES[ending.kind]
        # Once the terminal entry is on its way nothing may cut in: it might be committed, and nobody told.
        with anyio.CancelScope(shield=True):
            await self.journal.write(ending, wait=True)
        payload = ending.payload
        head = replace(
            self.run, state=state, output=payload.get("output"), error=payload.get("error"), steps={},
            usage=self.run.usage + self.journal.usage,
        )  # fmt: skip
        self.bench.bus.ended(head)

    async def _forth(self) -> Entry | Mapping[str, JSON]:
        """Walks the run: the terminal entry of one that completed, else why it goes back ({error} or {by})."""
        path = ""
        try:
            self.definition = await self.bench.definitions.load(self.run.definition)
            undoing = await self._remember()
            if undoing is not None:
                return undoing
            if self.run.cancel_requested:
                return {"by": self.run.owner}
            workflow = self.definition.workflow
            if workflow.deadline is None:
                return self._completed(await Walk(self).to_the_end())
            due = self.run.created_at + seconds(workflow.deadline)
            with self.waits.deadline(due), self.limit("", due - self.bench.clock()) as limit:
                return self._completed(await Walk(self).to_the_end())
            assert limit.reached
            error: dict[str, JSON] = {
                "code": "deadline", "message": f"the run did not end within its deadline of {workflow.deadline}"
            }  # fmt: skip
        except StepFailed as failed:
            path = failed.path
            error = dict(failed.error)
        except (StoreError, Leaving):
            raise
        except MeshError as fault:
            error = error_of(fault)
        except Exception as fault:
            log.exception("run %s failed", self.run.id)
            error = error_of(fault)
        return {"error": {**error, "path": error.get("path") or path}}

    def _completed(self, output: JSON) -> Entry:
        replied = self.replied or self.run.replied or bool((self.run.message or {}).get("reply"))
        return Entry(Kind.RUN_COMPLETED, payload={"output": output, "reply": True} if replied else {"output": output})

    async def _remember(self, *, grown: bool = False) -> Mapping[str, JSON] | None:
        """Reads what the journal says; the payload of RUN_UNDOING when the run was on its way back. `grown`: since the claim."""
        if not grown and not self.run.steps and not self._mail:  # nothing was done yet, and nothing has arrived
            self.recorded, self.entries = {}, ()
            return None
        self.entries = await self.bench.store.entries(self.run.id)
        self.recorded = recall(self.entries)
        self.inbox.read(self.entries)
        return next((entry.payload for entry in self.entries if entry.kind is Kind.RUN_UNDOING), None)

    async def _back(self, why: Mapping[str, JSON]) -> Entry:
        """Compensates what completed, newest first; then the terminal entry that `why` stands for.

        Child runs that were canceled undo what they did first.
        """
        error: dict[str, JSON] | None = dict(why["error"]) if "error" in why else None
        if not hasattr(self, "definition"):
            await self._read_definition()
        workflow = self.definition.workflow if hasattr(self, "definition") else None
        if workflow is not None and has_compensation(workflow):
            self.waits = Waits(self.bench.clock, self.bench.sleep, None)
            await self.journal.flush(wait=True)
            for path, child in self._canceled_children.items():
                await self.wait_for_child(path, child, None)
            undoing = await self._remember(grown=True)
            if undoing is None:
                await self.journal.write(Entry(Kind.RUN_UNDOING, payload=why))
            elif "error" in undoing:
                error = dict(undoing["error"])
            if (failed := await Walk(self).undo()) and error is not None:
                error["not_undone"] = failed
        if error is None:
            return Entry(Kind.RUN_CANCELED, payload={"by": why.get("by")})
        if (ending := _as_its_agent(self.run, error)) is not None:
            return ending
        if workflow is not None and workflow.on_failure is not None:
            await self._hand_over(workflow.on_failure, error)
        return Entry(Kind.RUN_FAILED, payload={"error": error})

    async def _read_definition(self) -> None:
        """The walk was cut off before it had it. An earlier claim may have done what must be undone all the same."""
        try:
            self.definition = await self.bench.definitions.load(self.run.definition)
        except StoreError:
            raise
        except MeshError as error:
            log.warning("run %s ends with nothing undone: %s", self.run.id, error)

    async def _hand_over(self, workflow: str, error: Mapping[str, JSON]) -> None:
        """Starts `on_failure`. Before the end is recorded, and under a key: a crash in between loses and repeats nothing."""
        with anyio.CancelScope(shield=True):
            await self.journal.flush(wait=True)
            given = {"run": self.run.id, "workflow": self.run.workflow, "error": dict(error), "input": self.run.input}
            try:
                await self.bench.runs.start(
                    self.principal, workflow, given, key=f"on_failure:{self.run.id}", source="failure"
                )
            except StoreError:
                raise
            except MeshError as fault:
                log.warning("%s, on_failure of run %s, was not started: %s", workflow, self.run.id, fault)

    # What a step may wait for

    async def wait_until(self, due: float) -> None:
        """Until that time by the engine's clock, which the caller has journaled. Does not come back when the run is parked meanwhile."""
        await self.journal.flush()
        wait = Wait(due)
        while not await self.waits.pause(wait):
            wait = Wait(due)

    async def signal(self, path: str, name: str, until: float | None) -> Entry:
        """The RUN_SIGNALED entry that a step at `path` takes; Expired when none came until then. Its STEP_WAITING is written."""
        await self.journal.flush()
        entry = self.inbox.take(name)
        late = False
        while entry is None:
            await self._read_mail()
            entry = self.inbox.take(name)
            if entry is None and late:
                raise Expired(f"no signal {name!r} came in time for step {path}")
            if entry is None:
                late = await self.waits.pause(Wait(until))
                entry = self.inbox.take(name)
        return entry

    async def _read_mail(self) -> None:
        self._stale = True
        while self._stale:
            self._stale = False
            self.inbox.read(await self.bench.store.entries(self.run.id, self.inbox.seq))

    async def ask(
        self, path: str, number: int, *, kind: Literal["approval", "input"], verb: str, ask: str, show: JSON = None,
        form: Mapping[str, Any] | None = None, expires: float | None = None, subject: str,
    ) -> Answer:  # fmt: skip
        """What a person says. Declined (of an approval) and Expired are raised; `expires` is in seconds.

        Asked again after a crash, or when the run was parked, it is the same question: the journal keeps it by path and number.
        """
        question = f"{path}#{number}"
        asked = self.recorded.get(path, NOTHING).waiting
        if asked is None or asked.attempt != number:
            now = self.bench.clock()
            payload = waiting_payload(
                kind, verb=verb, ask=ask, show=show, form=form, caller=self.run.owner, subject=subject, asked_at=now,
                expires_at=None if expires is None else now + expires,
            )  # fmt: skip
            await self.journal.write(Entry(Kind.STEP_WAITING, path, number, payload), wait=True)
        else:
            payload = dict(asked.payload)
            await self.journal.flush()
        until: float | None = payload["until"]
        self._asking.add(question)
        late = False
        try:
            answer = self.inbox.answer(question, until)
            while answer is None:
                await self._read_mail()
                answer = self.inbox.answer(question, until)
                if answer is None and late:
                    raise Expired(f"nobody answered {ask!r} in time (step {path})")
                if answer is None:
                    late = await self.waits.pause(Wait(until))
                    answer = self.inbox.answer(question, until)
        finally:
            self._asking.discard(question)
        if not answer.yes:
            raise Declined(f"{answer.by} said no to {ask!r} (step {path})", by=answer.by)
        return answer

    def remember(self, path: str, output: JSON) -> None:
        """Keeps what this execution knows of a path up to date: what stood there has completed."""
        self.recorded[path] = Recorded(state=StepState.COMPLETED, output=output, attempt=1, begun=True)

    async def undo_step(self, step: Step, path: str, scope: dict[str, JSON], output: JSON) -> bool:
        """Compensates a step whose output was not accepted; whether that worked. Nothing when it says not how, or it is done already."""
        return step.compensate is None or await Walk(self).undo_step(step, path, scope, output)

    # Children

    async def wait_for_child(self, path: str, run_id: str, subscription: Subscription | None) -> Run:
        """The head of a child run when it has ended; executes it in this worker when nobody else does.

        `subscription`: made before the child was recorded, when this very attempt recorded it.
        """
        self._children[path] = run_id
        while True:
            with self.bench.bus.subscribe(run_id) if subscription is None else nullcontext(subscription) as heard:
                head = heard.ended
                if head is None and subscription is None:
                    head = await self.bench.store.get_head(run_id)
                if head is None or not head.state.terminal:
                    head = await self._child_here(run_id, heard)
                if head is not None and head.state.terminal:
                    del self._children[path]
                    return head
                # Nobody works on it in this process: it waits itself, or is another worker's. Its end wakes this run.
                await self.journal.flush()
                wait = Wait(None)
                heard.on_end = partial(self.waits.wake, wait)
                if heard.ended is None:
                    await self.waits.pause(wait)
            subscription = None

    async def _child_here(self, run_id: str, heard: Subscription) -> Run | None:
        """Its head when it ended in this process; None when it is not executed here (any more)."""
        bus = self.bench.bus
        if not bus.owns(run_id) and heard.ended is None:
            if self.bench.stopping():
                raise Leaving
            await self.bench.adopt(run_id)
        while heard.ended is None and bus.owns(run_id):
            with anyio.move_on_after(LOOK_AGAIN):
                if await heard.wait_end_or_park():
                    break
        return heard.ended if heard.ended is not None else await self.bench.store.get_head(run_id)

    async def cancel_children(self, *prefixes: str) -> None:
        """Cancels what works for these steps and for those inside them, or for steps whose path begins so; all when no prefix is given.

        Child runs, and tasks of agents elsewhere.
        """
        for path, child in list(self._children.items()):
            if not prefixes or any(_below(path, prefix) for prefix in prefixes):
                del self._children[path]
                self._canceled_children[path] = child
                with anyio.CancelScope(shield=True):
                    await self.bench.runs.request_cancel(child, f"run:{self.run.id}")
        meant = [p for p in self.elsewhere if not prefixes or any(_below(p, prefix) for prefix in prefixes)]
        if meant:
            from agentmesh.engine.relay import cancel_elsewhere

            await cancel_elsewhere(self, {path: self.elsewhere.pop(path) for path in meant})


def _as_its_agent(run: Run, error: Mapping[str, JSON]) -> Entry | None:
    """How a run ends that only passed a message on: as the agent's task ended; None: it failed."""
    if not run.workflow.startswith(PEER):
        return None
    if error.get("code") == "rejected":
        return Entry(Kind.RUN_REJECTED, payload={"error": dict(error)})
    if error.get("code") == "canceled":
        return Entry(Kind.RUN_CANCELED, payload={"by": (error.get("data") or {}).get("by")})
    return None


def _below(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and (prefix.endswith(("/", "[")) or path[len(prefix) :][:1] in ("", "/", "["))


_STATES = {
    Kind.RUN_COMPLETED: RunState.COMPLETED,
    Kind.RUN_FAILED: RunState.FAILED,
    Kind.RUN_CANCELED: RunState.CANCELED,
    Kind.RUN_REJECTED: RunState.REJECTED,
}
