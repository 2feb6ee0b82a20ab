"""Runs: start, look at, watch, cancel. Each change of state is one call of the store."""

from __future__ import annotations

import random as random_
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

import anyio

from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Action, Principal
from agentmesh.core.question import Question, questions
from agentmesh.core.run import FROM_OUTSIDE, JSON, STATE_AFTER, Entry, Folder, Kind, Run, RunEvent, RunState, new_run_id
from agentmesh.core.store import RunFilter, RunPage, Store
from agentmesh.core.trace import current
from agentmesh.engine.bus import Bus, Subscription
from agentmesh.engine.definitions import Definition, Definitions, steps_of
from agentmesh.engine.guard import LOCAL, Guard, owns, resource_of
from agentmesh.engine.validators import faults, require_input
from agentmesh.errors import Conflict, InvalidInput, MeshError, NotFound, PolicyDenied

SETTLE = 0.02
"""Seconds that a line in plain words waits for the journal's rows of before it."""
LOOK_AGAIN = 2.0
"""Seconds after which a waiter reads the store though nobody in this process said that something changed."""


class Runs:
    """Runs of somebody else are NotFound, as are those that never were."""

    def __init__(
        self, mesh: Mesh, store: Store, definitions: Definitions, guard: Guard, bus: Bus,
        *, clock: Callable[[], float], random: random_.Random,
    ) -> None:  # fmt: skip
        self._mesh = mesh
        self._store = store
        self._definitions = definitions
        self._guard = guard
        self._bus = bus
        self._clock = clock
        self._random = random

    async def start(
        self,
        principal: Principal,
        workflow: str,
        input: JSON,
        *,
        key: str | None = None,
        source: str = "api",
        context_id: str | None = None,
        message: Mapping[str, Any] | None = None,
        parent: str | None = None,
        parent_path: str | None = None,
    ) -> Run:
        """Records a run of a workflow; it is durable when this returns. The same key gives the same run again.

        NotFound, PolicyDenied (runs.start), InvalidInput before anything is recorded, Conflict for a key used with another
        workflow or input.
        """
        if workflow not in self._mesh.workflows:
            close = get_close_matches(workflow[:200], self._mesh.workflows, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise NotFound(f"there is no workflow {workflow!r} in this mesh{hint}")
        self._guard.authorize(principal, Action("runs.start", f"workflow:{workflow}", input))
        run, _ = await self.begin(
            principal, self._definitions.pin(workflow), input, key=key, source=source, context_id=context_id,
            message=message, parent=parent, parent_path=parent_path,
        )  # fmt: skip
        return run

    async def begin(
        self,
        principal: Principal,
        definition: Definition,
        input: JSON,
        *,
        run_id: str | None = None,
        key: str | None = None,
        source: str,
        context_id: str | None = None,
        message: Mapping[str, Any] | None = None,
        parent: str | None = None,
        parent_path: str | None = None,
        entries: Sequence[Entry] = (),
    ) -> tuple[Run, bool]:
        """Like `start` for the engine's other verbs, which have asked the policies themselves; False when the key's run was there.

        `entries`: what its journal begins with. A `digest` in the message stands for all that was asked: what has the same is the same.
        """
        require_input(definition.workflow.input, input)
        asked = Run(
            id=run_id or self.new_id(), workflow=definition.name, definition=definition.digest, input=input,
            owner=principal.subject, tenant=principal.tenant, source=source, key=key, parent=parent,
            parent_path=parent_path, context_id=context_id, message=message, created_at=self._clock(),
        )  # fmt: skip
        if trace := current():
            entries = (Entry(Kind.RUN_TRACED, payload=dict(trace)), *entries)
        run, new = await self._record(asked, definition, entries)
        if new:
            if not run.state.terminal:
                self._bus.begun(run)
        elif not owns(principal, run) or not _same(run, asked):
            if (message or {}).get("digest") is not None:
                raise Conflict("this messageId was used for another message; give a new message an id of its own")
            raise Conflict(f"the key {key!r} was used for another run; use a new key, or the same workflow and input")
        return run, new

    async def _record(self, asked: Run, definition: Definition, entries: Sequence[Entry]) -> tuple[Run, bool]:
        """Records a run and has it claimed in the same commit when this process has a place for it."""
        document = self._definitions.document(definition)
        over = bool(entries) and STATE_AFTER.get(entries[-1].kind, RunState.SUBMITTED).terminal
        claim = (
            self._bus.claimer(asked.id, asked.parent is not None, asked.workflow)
            if self._bus.claimer is not None and not over
            else None
        )
        if claim is None:
            found = await self._store.start_run(asked, document, entries=entries)
            self._bus.started()
            return found
        found = asked, False
        failed: MeshError | None = None

        async def start() -> None:
            nonlocal found, failed
            try:
                found = await self._store.start_run(asked, document, entries=entries)
            except MeshError as error:
                failed = error

        async def take() -> None:
            await claim

        # Both are on their way before the store's thread looks: `start_run` first, for a task group starts in order. Shielded: a
        # caller that leaves now must not leave a claim behind that nobody works on.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(start)
                group.start_soon(take)
        if failed is not None:
            raise failed
        return found

    def new_id(self) -> str:
        return new_run_id(self._clock(), self._random.randbytes(10))

    async def get(self, principal: Principal, run_id: str) -> Run:
        run = await self._owned(principal, run_id)
        self._guard.authorize(principal, Action("runs.read", resource_of(run.workflow)))
        return run

    async def owned(self, principal: Principal, run_id: str) -> Run:
        """A run of the principal's, without asking the policies: for a call that has been let through. NotFound."""
        return await self._owned(principal, run_id)

    async def list(self, principal: Principal, where: RunFilter) -> RunPage:
        """Heads of the principal's runs, newest first; tenant and owner of `where` are overruled by who asks.

        Runs that the principal may not list are left out, so that a page may hold fewer than `limit`. PolicyDenied when `where` names
        such a workflow.
        """
        if where.workflow is not None:
            self._guard.authorize(principal, Action("runs.list", resource_of(where.workflow), listing=True))
        owner = where.owner if principal.subject == LOCAL else principal.subject
        page = await self._store.list_runs(replace(where, tenant=principal.tenant, owner=owner))
        allowed: dict[str, bool] = {}
        for name in {run.workflow for run in page.runs}:
            allowed[name] = self._guard.allows(principal, Action("runs.list", resource_of(name), listing=True))
        return replace(page, runs=tuple(run for run in page.runs if allowed[run.workflow]))

    async def journal(self, principal: Principal, run_id: str, after: int = 0) -> Sequence[Entry]:
        await self.get(principal, run_id)
        return await self._store.entries(run_id, after)

    async def cancel(self, principal: Principal, run_id: str) -> Run:
        """Asks the run to end, its children too; work in flight here stops at once. Conflict when it has ended already.

        The run that comes back may still be WORKING, with `cancel_requested`; `wait` for the end.
        """
        run = await self._owned(principal, run_id)
        self._guard.authorize(principal, Action("runs.cancel", resource_of(run.workflow)))
        if run.state.terminal:
            raise Conflict(f"run {run_id} has ended already: it is {run.state.value}")
        return await self.request_cancel(run_id, principal.subject)

    async def request_cancel(self, run_id: str, by: str) -> Run:
        """Cancels without asking the policies: a parent its child, a call its run. Does nothing to a run that has ended."""
        run = await self._store.request_cancel(run_id, by)
        if run.state.terminal:
            self._bus.ended(run)
        elif not self._bus.cancel(run_id, by):
            self._bus.started()  # perhaps given back and waiting for a claim, which ends it
        return run

    async def signal(
        self, principal: Principal, run_id: str, name: str, value: JSON = None, *, key: str | None = None,
        message: Mapping[str, Any] | None = None,
    ) -> Run:  # fmt: skip
        """Gives a run a signal. It is kept until a `wait` takes it, also when it comes before the step does.

        `key`: the same key is one signal, however often it is sent. NotFound, PolicyDenied (runs.answer), Conflict when the run has
        ended, InvalidInput when nothing in its workflow waits for such a signal or value.
        """
        run = await self._owned(principal, run_id)
        self._guard.authorize(principal, Action("runs.answer", resource_of(run.workflow)))
        definition = await self._definitions.load(run.definition)
        waits = [s.wait for s in steps_of(definition.workflow) if s.wait is not None and s.wait.signal is not None]
        meant = [wait for wait in waits if wait.signal == name]
        if not meant:
            there = sorted({wait.signal for wait in waits if wait.signal is not None})
            close = get_close_matches(name[:200], there, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it waits for: {', '.join(there) or 'none'}"
            raise InvalidInput(f"workflow {run.workflow} waits for no signal {name!r}; {hint}")
        if all(wait.schema_ is not None for wait in meant):
            fits = [faults(wait.schema_, value, "value") for wait in meant if wait.schema_ is not None]
            if all(fits):
                raise InvalidInput("; ".join(f"{path}: {message}" for path, message in fits[0]))
        payload = {"name": name, "value": value, "by": principal.subject} | ({} if key is None else {"key": key})
        if message is not None:
            payload["message"] = dict(message)
        run, new = await self._store.post(
            run_id, Entry(Kind.RUN_SIGNALED, payload=payload), key=None if key is None else f"signal:{key}"
        )
        if not new:
            await self._same_signal(run_id, payload)
        if new:
            await self._bus.arrived(run_id)
        return run

    async def _same_signal(self, run_id: str, payload: Mapping[str, JSON]) -> None:
        """Conflict when the signal of this key was another one."""
        for entry in await self._store.entries(run_id):
            if entry.kind is Kind.RUN_SIGNALED and entry.payload.get("key") == payload["key"]:
                if any(entry.payload.get(name) != payload[name] for name in ("name", "value")):
                    raise Conflict(
                        f"the key {payload['key']!r} was used for another signal of run {run_id}; use a new key, or the same name and value"
                    )
                return

    async def questions(self, principal: Principal, run_id: str) -> Sequence[Question]:
        """What the run asks people now, oldest first."""
        return questions(await self.get(principal, run_id))

    async def answer(
        self, principal: Principal, run_id: str, *, question: str | None = None, yes: bool = True, value: JSON = None,
        digest: str | None = None, message: Mapping[str, Any] | None = None,
    ) -> Run:  # fmt: skip
        """Answers a question of a run; the first answer counts. `question` None: the only open one.

        `value`: of the question's form. `digest`: of the question as it was shown; another is a Conflict. `message`: the A2A message
        that it came in, as JSON. NotFound, InvalidInput for a value that does not fit; Conflict when it is answered or expired, or
        several are open; PolicyDenied without runs.answer, and for an approval asked on behalf of the caller itself, unless a rule
        allows it by name.
        """
        run = await self._owned(principal, run_id)
        open_ = questions(run)
        if question is not None and all(q.id != question for q in open_):
            await self._refuse_unknown(run, question, open_)
        if question is None and len(open_) != 1:
            which = ", ".join(q.id for q in open_)
            raise Conflict(
                f"run {run_id} asks {len(open_)} questions ({which}); say which one you answer"
                if open_
                else f"run {run_id} asks nothing now: it is {run.state.value}{await self._answered_last(run_id)}"
            )
        asked = open_[0] if question is None else next(q for q in open_ if q.id == question)
        decision = self._guard.authorize(principal, Action("runs.answer", resource_of(run.workflow)))
        if _of_itself(principal, asked) and not decision.named:
            raise PolicyDenied(
                f"{principal.subject} asked for this itself; somebody else answers {asked.id}, or a rule allows runs.answer"
            )
        if digest is not None and digest != asked.digest:
            raise Conflict(f"question {asked.id} shows something else now; look at it again before you answer")
        if asked.expires_at is not None and asked.expires_at < self._clock():
            raise Conflict(f"question {asked.id} has expired")
        if asked.form is not None and yes:
            require_input(asked.form, {} if value is None and asked.kind == "approval" else value, "value")
        payload = {"question": asked.id, "yes": yes, "value": value if yes else None, "by": principal.subject}
        if message is not None:
            payload["message"] = dict(message)
        run, new = await self._store.post(run_id, Entry(Kind.RUN_ANSWERED, payload=payload), key=f"answer:{asked.id}")
        if not new:
            entries = await self._store.entries(run_id)
            first = next(e for e in entries if e.kind is Kind.RUN_ANSWERED and e.payload["question"] == asked.id)
            if first.payload != payload:
                raise Conflict(f"question {asked.id} was answered by {first.payload['by']} already")
        await self._bus.arrived(run_id)
        return run

    def may_answer(self, principal: Principal, run: Run, question: Question) -> bool:
        """Whether `answer` would let the principal answer the question, as far as policies go."""
        decision = self._guard.decide(principal, Action("runs.answer", resource_of(run.workflow)))
        return decision.allowed and (decision.named or not _of_itself(principal, question))

    async def _answered_last(self, run_id: str) -> str:
        """Who was quicker, for a caller whose answer finds nothing open."""
        answers = [e for e in await self._store.entries(run_id) if e.kind is Kind.RUN_ANSWERED]
        return f"; {answers[-1].payload['by']} answered {answers[-1].payload['question']}" if answers else ""

    async def _refuse_unknown(self, run: Run, question: str, open_: Sequence[Question]) -> None:
        for entry in await self._store.entries(run.id):
            if entry.kind is Kind.RUN_ANSWERED and entry.payload["question"] == question:
                raise Conflict(f"question {question} was answered by {entry.payload['by']} already")
        step = run.steps.get(question.partition("#")[0])
        if step is not None and not any(q.path == step.path for q in open_):
            raise Conflict(f"question {question!r} is not open any more: its step is {step.state.value}")
        there = ", ".join(q.id for q in open_) or "none"
        raise NotFound(f"run {run.id} asks no question {question!r}; open: {there}")

    async def watch(self, principal: Principal, run_id: str, *, after: int = 0) -> AsyncIterator[RunEvent]:
        """Entries past `after`, then live ones and notices; ends after the terminal entry. No gap, no repetition."""
        run = await self.get(principal, run_id)
        async with aclosing(self.follow(run, after=after)) as events:
            async for event in events:
                yield event

    async def follow(
        self, run: Run, *, after: int = 0, subscription: Subscription | None = None
    ) -> AsyncGenerator[RunEvent, None]:
        """Like `watch`, of a run that the caller has been found to own.

        `subscription`: made before the run was recorded, so that no line said since then is lost.
        """
        folder, told = Folder(as_submitted(run)), True
        with nullcontext(subscription) if subscription is not None else self._bus.subscribe(run.id) as heard:
            while True:
                if heard.notices and not heard.changed:  # rows of before the line may be on their way to the disk
                    with anyio.move_on_after(SETTLE):
                        while not heard.changed:
                            await heard.wait()
                heard.changed = False
                entries = await self._store.entries(run.id, folder.seq, heard=told)
                last = bool(entries) and STATE_AFTER.get(entries[-1].kind, folder.state).terminal
                if last:  # nothing follows the terminal entry
                    while heard.notices:
                        yield RunEvent(folder.run, None, heard.notices.popleft())
                for entry in entries:
                    folder.add(entry)
                    if entry.seq > after:
                        yield RunEvent(folder.run, entry, describe(entry))
                if folder.state.terminal:
                    return
                while heard.notices:
                    yield RunEvent(folder.run, None, heard.notices.popleft())
                told = True
                if not heard.changed and not heard.notices:
                    with anyio.move_on_after(LOOK_AGAIN) as waited:
                        await heard.wait()
                    told = not waited.cancelled_caught

    async def reached(self, run: Run, states: Container[RunState], *, goes_on: bool = False) -> Run:
        """The run when it has ended or is in one of these states, of a run that the caller has been found to own.

        `goes_on`: not for what it was before, but when it is so again: something has just been given to it.
        """
        folder, told = Folder(as_submitted(run)), True
        with self._bus.subscribe(run.id, patient=True) as heard:
            while True:
                heard.changed = False
                heard.notices.clear()
                for entry in await self._store.entries(run.id, folder.seq, heard=told):
                    folder.add(entry)
                    if entry.seq > run.seq:
                        goes_on = goes_on and entry.kind in FROM_OUTSIDE
                        if folder.state.terminal or (folder.state in states and not goes_on):
                            return folder.run
                told = True
                if not heard.changed:
                    with anyio.move_on_after(LOOK_AGAIN) as waited:
                        await heard.wait()
                    told = not waited.cancelled_caught

    async def wait(self, principal: Principal, run_id: str) -> Run:
        """The run's head when it has ended; `get` has its steps, too."""
        with self._bus.subscribe(run_id) as subscription:
            head = self._bus.known(run_id) or await self._store.get_head(run_id)
            if head is None or not owns(principal, head):
                raise NotFound(f"there is no run {run_id!r}")
            self._guard.authorize(principal, Action("runs.read", resource_of(head.workflow)))
            return head if head.state.terminal else await self.end_of(run_id, subscription)

    async def end_of(self, run_id: str, subscription: Subscription | None = None) -> Run:
        """The head of a run when it has ended.

        `subscription`: made before the run was recorded, so that a run that ends in this process costs no read of the store.
        """
        if subscription is None:
            with self._bus.subscribe(run_id) as own:
                head = await self._store.get_head(run_id)
                if head is None:
                    raise NotFound(f"there is no run {run_id!r}")
                return head if head.state.terminal else await self.end_of(run_id, own)
        while subscription.ended is None:
            with anyio.move_on_after(LOOK_AGAIN):
                await subscription.wait_end()
            if subscription.ended is None and not self._bus.owns(run_id):
                head = await self._store.get_head(run_id)
                if head is not None and head.state.terminal:
                    return head
        return subscription.ended

    async def _owned(self, principal: Principal, run_id: str) -> Run:
        run = await self._store.get_run(run_id)
        if run is None or not owns(principal, run):
            raise NotFound(f"there is no run {run_id!r}")
        return run


def _same(run: Run, asked: Run) -> bool:
    """Whether what was asked for under a key is what its run was started for."""
    digest = (asked.message or {}).get("digest")
    if digest is not None:
        return bool((run.message or {}).get("digest") == digest)
    return (run.workflow, run.parent) == (asked.workflow, asked.parent) and run.input == asked.input


def _of_itself(principal: Principal, question: Question) -> bool:
    """Whether whoever asked for the run is to approve what it does."""
    return question.kind == "approval" and principal.subject == question.caller != LOCAL


def as_submitted(run: Run) -> Run:
    """The run as it was before its first entry, to fold its journal onto."""
    return Run(
        id=run.id, workflow=run.workflow, definition=run.definition, input=run.input, owner=run.owner,
        tenant=run.tenant, source=run.source, key=run.key, parent=run.parent, parent_path=run.parent_path,
        context_id=run.context_id, message=run.message, created_at=run.created_at,
    )  # fmt: skip


def describe(entry: Entry) -> str:
    """An entry as a line in plain words."""
    error = entry.payload.get("error") or {}
    match entry.kind:
        case Kind.RUN_SUBMITTED:
            return "submitted"
        case Kind.RUN_WORKING:
            return "working"
        case Kind.RUN_CANCEL_REQUESTED:
            return f"{entry.payload.get('by')} asks to cancel"
        case Kind.RUN_COMPLETED:
            return RunState.COMPLETED.value
        case Kind.RUN_FAILED:
            return f"failed: {error.get('message', '')}"
        case Kind.RUN_CANCELED:
            return RunState.CANCELED.value
        case Kind.RUN_REJECTED:
            return f"rejected: {error.get('message', '')}"
        case Kind.RUN_AUTH_REQUIRED:
            return "waits for somebody to log in"
        case Kind.RUN_ROUTED:
            return f"goes to {entry.payload.get('agent') or 'this mesh'}: {entry.payload.get('reason')}"
        case Kind.RUN_TRACED:
            return f"belongs to trace {str(entry.payload.get('traceparent'))[3:35]}"
        case Kind.STEP_TASK:
            return f"{entry.path} is task {entry.payload.get('task')} of {entry.payload.get('peer')}"
        case Kind.STEP_SAID:
            return _said(entry.payload)
        case Kind.STEP_ARTIFACT:
            artifact = entry.payload.get("artifact") or {}
            return f"{entry.path} has made {artifact.get('name') or artifact.get('artifactId')}"
        case Kind.STEP_STARTED:
            why = entry.payload.get("why", "first")
            return f"{entry.path} started" if why == "first" else f"{entry.path} started again: {why}"
        case Kind.STEP_INTENT:
            return f"{entry.path} is about to act"
        case Kind.STEP_CHILD:
            return f"{entry.path} handed over to {entry.payload.get('workflow')} ({entry.payload.get('run')})"
        case Kind.STEP_ATTEMPT:
            if error:
                return f"{entry.path} attempt {entry.attempt} failed: {error.get('message', '')}"
            failed = sum(v.get("outcome") != "pass" for v in entry.payload.get("verdicts") or ())
            return f"{entry.path} attempt {entry.attempt} " + (
                f"did not pass {failed} {'check' if failed == 1 else 'checks'}" if failed else "answered"
            )
        case Kind.STEP_WAITING:
            return _waiting(entry)
        case Kind.RUN_INPUT_REQUIRED:
            return "waits for a person"
        case Kind.RUN_SIGNALED:
            return f"{entry.payload.get('by')} signals {entry.payload.get('name')}"
        case Kind.RUN_ANSWERED:
            return f"{entry.payload.get('by')} says {'yes' if entry.payload.get('yes') else 'no'} to {entry.payload.get('question')}"
        case Kind.RUN_UNDOING:
            return "undoing what was done"
        case Kind.STEP_COMPLETED:
            return f"{entry.path} completed"
        case Kind.STEP_FAILED:
            return f"{entry.path} failed: {error.get('message', '')}"
        case Kind.STEP_SKIPPED:
            return f"{entry.path} skipped"
    return str(entry.kind.value)


def _waiting(entry: Entry) -> str:
    payload = entry.payload
    until = payload.get("until")
    end = "" if until is None else f" until {datetime.fromtimestamp(until, UTC).isoformat(timespec='seconds')}"
    match payload.get("for"):
        case "timer":
            return f"{entry.path} waits{end}"
        case "signal":
            return f"{entry.path} waits for the signal {payload.get('name')}{end}"
    return f"{entry.path} asks: {payload.get('ask')}"


def _said(payload: Mapping[str, Any]) -> str:
    """What an agent elsewhere says of its task: its words, else its state."""
    parts = (payload.get("message") or {}).get("parts") or ()
    words = "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return words or str(payload.get("state", "")).replace("_", " ")
