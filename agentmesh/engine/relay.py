"""Relay: a step whose work an agent elsewhere does: the message, its task to the end, what it asks and makes meanwhile.

The journal owns the task: STEP_TASK says whose it is and under which id, before anything it says is passed on. Whoever takes the run up
after a crash asks the agent how its task stands. A message is sent a second time only when no byte of the first can have left, or the
agent has declared that the same message twice is one task; else the agent is asked for the task that the message began, and the step
fails, saying so, when that cannot be found out.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import anyio

from agentmesh.core.agent import HOPS, PEER, AgentPeer, Json, PeerCall, hops_of
from agentmesh.core.policy import Action
from agentmesh.core.run import JSON, Entry, Kind, RunState, StepState
from agentmesh.core.store import RunFilter
from agentmesh.engine.attempts import Attempt
from agentmesh.engine.conversation import data_of_parts, text_of_parts
from agentmesh.engine.relay_told import STATES, PeerTaskFailed, Told
from agentmesh.engine.relayed import Asked
from agentmesh.errors import (
    Conflict,
    Declined,
    Fail,
    MeshError,
    NotFound,
    NotSent,
    PolicyDenied,
    Retry,
    StoreError,
    Unanswered,
)

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

log = logging.getLogger("agentmesh.engine")

FIRST_LOOK: Final = 0.02
LONGEST_LOOK: Final = 5.0
"""Seconds between two looks at a task that is not streamed."""
LOST: Final = 120.0
"""Seconds for which an agent cannot be asked how its task stands before the step fails."""
CANCEL_TIME: Final = 5.0
"""Seconds that an agent gets to hear that its task is cancelled."""
SENDS: Final = 4
"""Times that one message is sent to an agent for which the same message twice is one task."""
UNHEARD: Final = 30.0
"""Seconds after an answer for which a task may still show the question; then it is asked again."""
ROUNDS: Final = 100
"""Questions that one task may ask."""

_SKILL: Final = "urn:agentmesh:a2a:skill:1"
"""Key in a message's metadata by which a mesh is told the skill; other agents read `skill`, or choose by the words."""


async def relay(
    run: Execution, a: Attempt, peer: str, parts: Sequence[Json], *, skill: str | None, message: Json | None = None
) -> JSON:
    """What an agent elsewhere makes of a message: the one value that its artifacts are.

    `message`: the A2A message that is passed on, whose parts these are. NotSent, Unanswered, Retry, Fail.
    """
    return await _Relay(run, a, peer, parts, skill, message or {}).to_the_end()


async def cancel_elsewhere(run: Execution, tasks: Mapping[str, tuple[str, str]]) -> None:
    """Asks agents to end what they do for steps: by path (agent, task). Waits a moment, and fails never."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_TIME):
        for path, (name, task) in tasks.items():
            try:
                await run.bench.sources.peer(name).cancel(task, PeerCall(run.principal))
            except (Conflict, NotFound):
                pass  # it has ended by itself
            except MeshError as error:
                log.warning("step %s of run %s: %s did not cancel task %s: %s", path, run.run.id, name, task, error)


class _Relay:
    """One attempt: a message to an agent, and its task."""

    def __init__(
        self, run: Execution, a: Attempt, peer: str, parts: Sequence[Json], skill: str | None, message: Json
    ) -> None:
        self._run, self._a, self._path = run, a, a.path
        self._skill, self._parts, self._message = skill, parts, message
        self._asked = 0
        self._silent = False
        """The agent has no stream for the task, whatever its card says."""
        self._sent = False
        """A message may have reached the agent."""
        route = run.run.route or {}
        if run.run.workflow.startswith(PEER) and route.get("agent") in run.bench.sources.peers():
            peer, self._skill = str(route["agent"]), route.get("skill")  # the one that was chosen last
        self._told = Told(run, a, peer)

    @property
    def _peer(self) -> AgentPeer:
        return self._run.bench.sources.peer(self._told.peer)

    def _call(self) -> PeerCall:
        given: Mapping[str, Any] = self._run.run.input if self._told.root else {}
        return PeerCall(
            self._run.principal, tuple(given.get("extensions") or ()), tuple(given.get("accepted") or ()),
            self._run.bench.push_address(self._run.run.id),
        )  # fmt: skip

    async def to_the_end(self) -> JSON:
        """The output. What it fails at ends the agent's task too; a cancelled run's task is canceled by the execution."""
        try:
            return await self._go()
        except StoreError:
            raise
        except MeshError:
            if (left := self._run.elsewhere.pop(self._path, None)) is not None:
                await cancel_elsewhere(self._run, {self._path: left})
            raise
        except anyio.get_cancelled_exc_class():
            if self._sent and self._told.task is None and self._run.canceled:
                await self._cancel_unknown()
            raise

    async def _cancel_unknown(self) -> None:
        """Ends the task of a message that was cut off before the agent had said which it is."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_TIME):
            try:
                task = await self._peer.find(self._a.key, self._run.run.created_at, self._call())
                if task is not None:
                    await self._peer.cancel(str(task.get("id")), self._call())
            except MeshError as error:
                log.warning("run %s: %s may go on with what was canceled: %s", self._run.run.id, self._told.peer, error)

    async def _go(self) -> JSON:
        told = self._told
        if told.task is not None:
            self._remember_answers()
            await told.take_task(await self._get())
        else:
            if self._a.resumed:
                await self._reconcile()
            if told.task is None:
                await self._first()
        while not told.replied:
            await self._follow()
            asked = told.asks
            if asked is None:
                break
            await self._ask(asked)
        self._run.elsewhere.pop(self._path, None)
        return told.output()

    # Sending

    async def _first(self) -> None:
        """Sends the message, to the next agent when one cannot be reached at all."""
        route = (self._run.run.route or {}) if self._told.root else {}
        others = [(str(o["agent"]), o.get("skill")) for o in route.get("others") or () if o.get("agent")]
        if self._told.context is None:
            self._told.context = await self._context_there()
        sends = 0
        while True:
            try:
                await self._send(self._a.key, self._outgoing())
            except NotSent as error:
                if not await self._next(others, error):
                    raise
                sends = 0
            except Unanswered:
                if self._told.task is not None:
                    return  # it is known: what it does is asked for
                if not self._idempotent() or sends >= SENDS:
                    await self._reconcile()
                    return
                sends += 1
                await self._run.bench.sleep(FIRST_LOOK * 4**sends)
            else:
                return

    async def _next(self, others: list[tuple[str, str | None]], error: MeshError) -> bool:
        """Turns to the next agent that fits, journaled; False when there is none."""
        told = self._told
        while others:
            name, skill = others.pop(0)
            if name not in self._run.bench.sources.peers() or not self._may_send(name, skill):
                continue
            reason = f"{told.peer} could not be reached, and nothing was sent to it: {error.message}"[:500]
            left = [{"agent": agent, "skill": one} for agent, one in others]
            route = {"agent": name, "skill": skill, "reason": reason, "score": 0.0, "others": left}
            told.peer, self._skill, told.context = name, skill, None
            await self._run.journal.write(Entry(Kind.RUN_ROUTED, payload=route), wait=True)
            return True
        return False

    def _may_send(self, name: str, skill: str | None) -> bool:
        resource = f"agent:{name}.{skill}" if skill else f"agent:{name}"
        try:
            self._run.authorize(
                Action(
                    "agents.send", resource, {"text": text_of_parts(self._parts), "data": data_of_parts(self._parts)}
                )
            )
        except PolicyDenied:
            return False
        return True

    def _idempotent(self) -> bool:
        agent = self._peer.agent()
        return agent is not None and agent.idempotent

    def _outgoing(self) -> dict[str, Any]:
        """The message as it goes out. Its id is the step's key: the same however often it is sent."""
        given = self._message.get("metadata") or {}
        metadata = {name: value for name, value in given.items() if not name.startswith("urn:agentmesh:")}
        metadata[HOPS] = hops_of((self._run.run.message or {}).get("metadata") or {}) + 1
        if self._skill is not None:
            metadata |= {_SKILL: self._skill, "skill": self._skill}
        found: dict[str, Any] = {
            "messageId": self._a.key, "role": "ROLE_USER", "parts": [dict(part) for part in self._parts],
            "metadata": metadata,
        }  # fmt: skip
        if self._told.context:
            found["contextId"] = self._told.context
        if self._message.get("extensions"):
            found["extensions"] = list(self._message["extensions"])
        return found

    async def _send(self, ident: str, message: dict[str, Any]) -> None:
        """Sends a message and takes what comes back, until the task has ended or asks, or its stream is over."""
        told = self._told
        before, told.state, self._sent = told.state, None, True
        try:
            async with aclosing(self._peer.send({**message, "messageId": ident}, self._call())) as events:
                async for event in events:
                    await told.take(event)
                    if told.settled:
                        break
        except BaseException:
            if told.state is None:
                told.state = before
            raise
        if not told.replied and told.task is None:
            raise Fail(f"{told.peer} answered the message with neither a task nor a message")

    async def _context_there(self) -> str | None:
        """The contextId that the agent gave this conversation, by its last task that this mesh has."""
        run = self._run.run
        if not self._told.root or run.context_id in (None, run.id):
            return None
        where = RunFilter(
            tenant=run.tenant, owner=run.owner, workflow=run.workflow, context_id=run.context_id, roots=True, limit=3
        )
        for head in (await self._run.bench.store.list_runs(where)).runs:
            other = None if head.id == run.id else await self._run.bench.store.get_run(head.id)
            for step in other.steps.values() if other is not None else ():
                if step.task is not None and step.task.get("peer") == self._told.peer:
                    return str(step.task["context"]) if step.task.get("context") else None
        return None

    async def _reconcile(self) -> None:
        """Finds the task that a message began of which it is not known what came. Unanswered when that cannot be found out."""
        if self._idempotent():
            return  # it is sent once more
        try:
            task = await self._peer.find(self._a.key, self._run.run.created_at, self._call())
        except MeshError as error:
            task, why = None, f": {error.message}"
        else:
            why = ", and it knows no task of that message"
        if task is None:
            raise Unanswered(
                f"{self._told.peer} may have got the message and gave no answer{why}; it was not sent again, since the agent "
                "does not declare that the same message twice is one task"
            )
        await self._told.take_task(task)

    # Following

    async def _follow(self) -> None:
        """Until the task has ended, or asks."""
        told, patience = self._told, _Patience(self._run.bench.clock)
        look, since = FIRST_LOOK, self._run.bench.clock()
        while not told.settled:
            if told.state is RunState.INPUT_REQUIRED and self._run.bench.clock() - since > UNHEARD:
                told.answered.clear()  # it asks as before: the answer was none to it
                return
            try:
                await self._stream()
                if told.settled:
                    return
                await self._pause(look)
                look = min(look * 1.5, LONGEST_LOOK)
                await told.take_task(await self._peer.get(str(told.task), self._call()))
                patience.anew()
            except NotFound:
                raise self._forgotten() from None
            except Retry as error:
                await self._run.bench.sleep(max(self._lost(patience, error), error.after or 0.0))

    async def _stream(self) -> None:
        """Takes what the task's stream tells until it is over, where the agent has one."""
        told, agent = self._told, self._peer.agent()
        if agent is None or not agent.streaming or self._silent:
            return
        try:
            async with aclosing(self._peer.follow(str(told.task), self._call())) as events:
                async for event in events:
                    await told.take(event)
                    if told.settled:
                        return
        except Conflict:
            pass  # it has ended meanwhile
        except NotFound:
            self._silent = True  # it may have no stream for it in this process; only GetTask knows what there is
        except Retry as error:
            log.info("%s broke off the stream of task %s: %s", told.peer, told.task, error.message)
        except Fail as error:
            log.info("%s does not stream task %s: %s", told.peer, told.task, error.message)
            self._silent = True

    async def _pause(self, seconds: float) -> None:
        """Until it is time to look again, or the agent says that something has changed."""
        run = self._run
        async with anyio.create_task_group() as group:

            async def nap() -> None:
                await run.bench.sleep(seconds)
                group.cancel_scope.cancel()

            group.start_soon(nap)
            await run.poked.wait()
            group.cancel_scope.cancel()
        if run.poked.is_set():
            run.poked = anyio.Event()

    async def _get(self) -> Json:
        """The task as it stands, of an agent that may be down for a while."""
        patience = _Patience(self._run.bench.clock)
        while True:
            try:
                return await self._peer.get(str(self._told.task), self._call())
            except NotFound:
                raise self._forgotten() from None
            except Retry as error:
                await self._run.bench.sleep(self._lost(patience, error))

    def _lost(self, patience: _Patience, error: MeshError) -> float:
        """Seconds until the agent is asked again; PeerTaskFailed when that has been in vain for long enough."""
        pause = patience.next()
        if pause is None:
            raise PeerTaskFailed(
                f"{self._told.peer} could not be asked for {LOST:g} s how task {self._told.task} stands: {error.message}"
            ) from None
        return pause

    def _forgotten(self) -> PeerTaskFailed:
        self._run.elsewhere.pop(self._path, None)
        return PeerTaskFailed(f"{self._told.peer} does not know task {self._told.task} any more")

    # Asking

    async def _ask(self, asked: Asked) -> None:
        """Puts what the task asks to whoever may answer, durably; sends the answer on."""
        run, told = self._run, self._told
        if self._asked >= ROUNDS:
            raise PeerTaskFailed(f"task {told.task} of {told.peer} asked more than {ROUNDS} questions")
        subject = f"{PEER}{told.peer}#{hashlib.sha256(asked.mark.encode()).hexdigest()[:12]}"
        # An answer is for the question that was shown: another one of the task gets a number of its own.
        while (known := run.recorded.get(self._question())) is not None and (
            known.waiting is not None and known.waiting.payload.get("subject") != subject
        ):
            self._asked += 1
        path = self._question()
        try:
            answer = await run.ask(
                path, 1, kind="input", verb="agent", ask=asked.words, show=asked.show, form=asked.form,
                subject=subject,
            )  # fmt: skip
            parts = asked.parts_of(answer.value)
        except Declined:
            if not asked.approval:
                raise
            parts = [{"data": {"approved": False}}]
        ident = f"{self._a.key}/ask[{self._asked}]"
        told.answered.add(asked.mark)
        if not self._a.resumed or ident not in _history(await self._get()):  # else it was sent before a crash
            reply = {"role": "ROLE_USER", "taskId": told.task, "parts": parts, "metadata": asked.metadata}
            await self._answer(ident, reply | ({"contextId": told.context} if told.context else {}))
        output = {"sent": ident, "mark": asked.mark}
        await run.journal.write(Entry(Kind.STEP_COMPLETED, path, 1, {"verb": "agent", "output": output}))
        run.remember(path, output)
        self._asked += 1

    def _remember_answers(self) -> None:
        """The questions that were answered before this attempt was taken up."""
        while (known := self._run.recorded.get(self._question())) is not None and known.state is StepState.COMPLETED:
            self._told.answered.add(str((known.output or {}).get("mark", "")))
            self._asked += 1

    async def _answer(self, ident: str, reply: dict[str, Any]) -> None:
        """Sends an answer, until it is known that the agent has it."""
        patience = _Patience(self._run.bench.clock)
        while True:
            try:
                await self._send(ident, reply)
            except (NotSent, Unanswered) as error:
                if isinstance(error, Unanswered):
                    task = await self._get()
                    if ident in _history(task) or not _asks(task):
                        self._told.state = None
                        await self._told.take_task(task)
                        return
                await self._run.bench.sleep(self._lost(patience, error))
            else:
                return

    def _question(self) -> str:
        return f"{self._path}/ask[{self._asked}]"


class _Patience:
    """How long an agent is asked in vain."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.anew()

    def anew(self) -> None:
        """It answered."""
        self._since: float | None = None
        self._pause = FIRST_LOOK

    def next(self) -> float | None:
        """Seconds until it is asked again; None: that was long enough."""
        now = self._clock()
        self._since = now if self._since is None else self._since
        if now - self._since > LOST:
            return None
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_LOOK)
        return pause


def _history(task: Json) -> set[str]:
    """Ids of the messages that a task has had."""
    return {str(message.get("messageId")) for message in task.get("history") or ()}


def _asks(task: Json) -> bool:
    return STATES.get(str((task.get("status") or {}).get("state"))) is RunState.INPUT_REQUIRED
