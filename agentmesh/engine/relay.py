"""Relay: a step whose work an agent elsewhere does: the message, its task to the end, what it asks and makes meanwhile.

The journal owns the task: STEP_TASK says whose it is and under which id, before anything it says is passed on. Whoever takes the run up
after a crash asks the agent how its task stands. A message is sent a second time only when no byte of the first can have left, or the
agent has declared that the same message twice is one task; else the agent is asked for the task that the message began, and the step
fails, saying so, when that cannot be found out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

import anyio

from agentmesh.core.agent import PEER, AgentPeer, Json, PeerCall
from agentmesh.core.content import Block, value_of
from agentmesh.core.policy import Action
from agentmesh.core.run import JSON, Entry, Kind, RunState, StepState
from agentmesh.core.store import RunFilter
from agentmesh.engine.attempts import Attempt
from agentmesh.engine.conversation import text_of_parts
from agentmesh.engine.relayed import Made, blocks_of, questions_of
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

FIRST_LOOK: Final = 0.1
LONGEST_LOOK: Final = 5.0
"""Seconds between two looks at a task that is not streamed."""
LOST: Final = 120.0
"""Seconds for which an agent cannot be asked how its task stands before the step fails."""
CANCEL_TIME: Final = 5.0
"""Seconds that an agent gets to hear that its task is cancelled."""
SENDS: Final = 4
"""Times that one message is sent to an agent for which the same message twice is one task."""
ROUNDS: Final = 100
"""Questions that one task may ask."""

STATES: Final[Mapping[str, RunState]] = {f"TASK_STATE_{state.name}": state for state in RunState}
_SKILL: Final = "urn:agentmesh:a2a:skill:1"
"""Key in a message's metadata by which a mesh is told the skill; other agents read `skill`, or choose by the words."""


class PeerTaskFailed(Fail):
    """The agent's task did not complete."""

    code = "failed"


class PeerRejected(PeerTaskFailed):
    """The agent would not do it."""

    code = "rejected"


class PeerCanceled(PeerTaskFailed):
    """The agent's task was canceled, and not by us."""

    code = "canceled"


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
        self._peer_name, self._skill, self._parts, self._message = peer, skill, parts, message
        self._root = run.run.workflow.startswith(PEER)
        self._task: str | None = None
        self._context: str | None = None
        self._state: RunState | None = None
        self._said = ""
        """Mark of what the task said last, as it is journaled."""
        self._made = Made({} if not self._root else run.run.artifacts)
        self._last: Json = {}
        """The Task as far as it was told whole."""
        self._asked = 0
        self._sent = False
        """A message may have reached the agent."""
        route = run.run.route or {}
        if self._root and route.get("agent") in run.bench.sources.peers():  # the one that was chosen last
            self._peer_name, self._skill = str(route["agent"]), route.get("skill")
        recorded = run.recorded.get(self._path)
        if a.resumed and recorded is not None and recorded.task is not None:
            self._peer_name = str(recorded.task["peer"])
            self._task, self._context = str(recorded.task["task"]), recorded.task.get("context")
            said = run.run.said or {}
            self._said = _mark(str(said.get("state", "")), said.get("message"))

    @property
    def _peer(self) -> AgentPeer:
        return self._run.bench.sources.peer(self._peer_name)

    def _call(self) -> PeerCall:
        given: Mapping[str, Any] = self._run.run.input if self._root else {}
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
            if self._sent and self._task is None and self._run.canceled:
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
                log.warning("run %s: %s may go on with what was canceled: %s", self._run.run.id, self._peer_name, error)

    async def _go(self) -> JSON:
        run = self._run
        if self._task is None and self._a.resumed:
            await self._reconcile()
        if self._task is None:
            events = await self._first()
            if isinstance(events, _Replied):
                return events.output
        else:
            run.elsewhere[self._path] = (self._peer_name, self._task)
            await self._take_task(await self._get())
        while True:
            await self._follow()
            if self._state is RunState.INPUT_REQUIRED:
                await self._ask()
                continue
            run.elsewhere.pop(self._path, None)
            return self._output()

    # Sending

    async def _first(self) -> _Replied | None:
        """Sends the message, to the next agent when one cannot be reached at all."""
        others = [(o["agent"], o["skill"]) for o in (self._run.run.route or {}).get("others", ()) if o.get("agent")]
        if not self._root:
            others = []
        sends = 0
        while True:
            try:
                return await self._send(self._a.key, self._outgoing(), new=True)
            except NotSent as error:
                following = await self._next(others, error)
                if following is None:
                    raise
                sends = 0
            except Unanswered:
                if self._task is not None:
                    return None  # it is known: what it does is asked for
                if self._idempotent() and sends < SENDS:
                    sends += 1
                    await self._run.bench.sleep(FIRST_LOOK * 4**sends)
                    continue
                await self._reconcile()
                return None

    async def _next(self, others: list[tuple[str, str | None]], error: MeshError) -> str | None:
        """The next agent that fits, journaled; None when there is none."""
        peers = self._run.bench.sources.peers()
        while others:
            name, skill = others.pop(0)
            resource = f"agent:{name}.{skill}" if skill else f"agent:{name}"
            try:
                self._run.authorize(Action("agents.send", resource, {"text": text_of_parts(self._parts), "data": None}))
            except PolicyDenied:
                continue
            if name in peers:
                reason = f"{self._peer_name} could not be reached, and nothing was sent to it: {error.message}"[:500]
                route = {
                    "agent": name, "skill": skill, "reason": reason, "score": 0.0,
                    "others": [{"agent": other, "skill": s} for other, s in others],
                }  # fmt: skip
                self._peer_name, self._skill = name, skill
                await self._run.journal.write(Entry(Kind.RUN_ROUTED, payload=route))
                return name
        return None

    def _idempotent(self) -> bool:
        agent = self._peer.agent()
        return agent is not None and agent.idempotent

    def _outgoing(self) -> dict[str, Any]:
        """The message as it goes out. Its id is the step's key: the same however often it is sent."""
        metadata = {
            k: v for k, v in (self._message.get("metadata") or {}).items() if not k.startswith("urn:agentmesh:")
        }
        if self._skill is not None:
            metadata |= {_SKILL: self._skill, "skill": self._skill}
        found: dict[str, Any] = {
            "messageId": self._a.key, "role": "ROLE_USER", "parts": [dict(part) for part in self._parts],
            "metadata": metadata,
        }  # fmt: skip
        if self._context:
            found["contextId"] = self._context
        if self._message.get("extensions"):
            found["extensions"] = list(self._message["extensions"])
        return found

    async def _send(self, ident: str, message: dict[str, Any], *, new: bool = False) -> _Replied | None:
        """Sends a message and takes what comes back. A task that asks, or has not ended when the stream does, is left as it is."""
        if new and self._context is None:
            self._context = message_context = await self._context_there()
            if message_context:
                message = {**message, "contextId": message_context}
        replied: _Replied | None = None
        before = self._state
        self._state, self._sent = None, True
        try:
            async with aclosing(self._peer.send({**message, "messageId": ident}, self._call())) as events:
                async for event in events:
                    replied = await self._take(event) or replied
                    if self._state is not None and (self._state.terminal or self._state is RunState.INPUT_REQUIRED):
                        break
        except BaseException:
            if self._state is None:
                self._state = before
            raise
        if replied is None and self._task is None:
            raise Fail(f"{self._peer_name} answered the message with neither a task nor a message")
        return replied

    async def _context_there(self) -> str | None:
        """The contextId that the agent gave this conversation, by its last task that this mesh has."""
        run = self._run.run
        if not self._root or run.context_id in (None, run.id):
            return None
        where = RunFilter(
            tenant=run.tenant, owner=run.owner, workflow=run.workflow, context_id=run.context_id, roots=True, limit=3
        )
        for head in (await self._run.bench.store.list_runs(where)).runs:
            if head.id == run.id:
                continue
            other = await self._run.bench.store.get_run(head.id)
            for step in other.steps.values() if other is not None else ():
                if step.task is not None and step.task.get("peer") == self._peer_name:
                    return str(step.task["context"]) if step.task.get("context") else None
        return None

    async def _reconcile(self) -> None:
        """Finds the task that a message began of which it is not known what came. Unanswered when that cannot be found out."""
        if self._task is not None:
            return
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
                f"{self._peer_name} may have got the message and gave no answer{why}; it was not sent again, since the agent "
                "does not declare that the same message twice is one task"
            )
        await self._take_task(task)

    # Following

    async def _follow(self) -> None:
        """Until the task has ended, or asks."""
        look, lost_at = FIRST_LOOK, None
        agent = self._peer.agent()
        streams = agent is not None and agent.streaming
        while self._state is None or not (self._state.terminal or self._state is RunState.INPUT_REQUIRED):
            assert self._task is not None
            try:
                if streams:
                    streams = await self._subscribe()
                else:
                    await self._pause(look)
                    look = min(look * 1.5, LONGEST_LOOK)
                    await self._take_task(await self._peer.get(self._task, self._call()))
                lost_at = None
            except NotFound:
                raise PeerTaskFailed(f"{self._peer_name} does not know task {self._task} any more") from None
            except Retry as error:
                now = self._run.bench.clock()
                lost_at = lost_at or now
                if now - lost_at > LOST:
                    raise PeerTaskFailed(
                        f"{self._peer_name} could not be asked for {LOST:g} s how task {self._task} stands: {error.message}"
                    ) from None
                await self._run.bench.sleep(min(max(look, error.after or 0), LONGEST_LOOK * 2))
                look = min(look * 2, LONGEST_LOOK)

    async def _subscribe(self) -> bool:
        """Takes what the task's stream tells; False when the agent has none for it."""
        assert self._task is not None
        try:
            async with aclosing(self._peer.follow(self._task, self._call())) as events:
                async for event in events:
                    await self._take(event)
                    if self._state is not None and (self._state.terminal or self._state is RunState.INPUT_REQUIRED):
                        return True
        except Conflict:
            pass  # it has ended meanwhile
        except NotFound:
            raise
        except Retry:
            await self._take_task(await self._peer.get(self._task, self._call()))
            return True
        except Fail as error:
            log.info("%s does not stream task %s: %s", self._peer_name, self._task, error.message)
            return False
        await self._take_task(await self._peer.get(self._task, self._call()))
        return self._state is not None and self._state.terminal

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
        assert self._task is not None
        begun, look = self._run.bench.clock(), FIRST_LOOK
        while True:
            try:
                return await self._peer.get(self._task, self._call())
            except NotFound:
                self._run.elsewhere.pop(self._path, None)
                raise PeerTaskFailed(f"{self._peer_name} does not know task {self._task} any more") from None
            except Retry as error:
                if self._run.bench.clock() - begun > LOST:
                    raise PeerTaskFailed(
                        f"{self._peer_name} could not be asked for {LOST:g} s how task {self._task} stands: {error.message}"
                    ) from None
                await self._run.bench.sleep(look)
                look = min(look * 2, LONGEST_LOOK)

    # What the agent says

    async def _take(self, event: Json) -> _Replied | None:
        if "task" in event:
            await self._take_task(event["task"])
        elif "statusUpdate" in event:
            update = event["statusUpdate"]
            await self._know(update.get("taskId"), update.get("contextId"))
            await self._take_status(update.get("status") or {})
        elif "artifactUpdate" in event:
            update = event["artifactUpdate"]
            await self._know(update.get("taskId"), update.get("contextId"))
            await self._take_artifact(
                update.get("artifact") or {}, append=bool(update.get("append")), last=bool(update.get("lastChunk"))
            )
        elif "message" in event:
            return await self._take_reply(event["message"])
        return None

    async def _know(self, task: Any, context: Any) -> None:
        """Journals whose the task is, before anything that it says."""
        if self._task is not None:
            if task and task != self._task:
                raise Fail(f"{self._peer_name} speaks of task {str(task)[:100]}, and was asked about {self._task}")
            return
        if not isinstance(task, str) or not task:
            raise Fail(f"{self._peer_name} answered with a task that has no id")
        self._task, self._context = task, str(context or "") or self._context
        self._run.elsewhere[self._path] = (self._peer_name, task)
        payload = {"peer": self._peer_name, "task": task, "context": self._context}
        # `elsewhere` knows it already, so that a cancellation from here on reaches the agent.
        await self._run.journal.write(Entry(Kind.STEP_TASK, self._path, self._a.number, payload))

    async def _take_task(self, task: Json) -> None:
        await self._know(task.get("id"), task.get("contextId"))
        self._last = task
        for artifact in task.get("artifacts") or ():
            if not self._made.has(artifact):
                await self._take_artifact(artifact)
        await self._take_status(task.get("status") or {})

    async def _take_artifact(self, artifact: Json, *, append: bool = False, last: bool = False) -> None:
        self._made.add(artifact, append=append)  # Fail when it grows too large
        payload: dict[str, JSON] = {"artifact": dict(artifact)}
        payload |= {"append": True} if append else {}
        payload |= {"last": True} if last else {}
        if self._root:
            await self._run.journal.write(Entry(Kind.STEP_ARTIFACT, self._path, self._a.number, payload))

    async def _take_status(self, status: Json) -> None:
        state = STATES.get(str(status.get("state")), RunState.WORKING)
        message = status.get("message") or None
        mark = _mark(state.value, message)
        before, self._state = self._state, state
        if mark == self._said:
            return
        self._said = mark
        payload: dict[str, JSON] = {"state": state.value}
        if message is not None:
            payload["message"] = {
                **message,
                "role": "agent",
                "taskId": self._run.run.id,
                "contextId": self._run.run.context_id,
            }
        entries = [Entry(Kind.STEP_SAID, self._path, self._a.number, payload)]
        if state is RunState.AUTH_REQUIRED:
            entries.append(Entry(Kind.RUN_AUTH_REQUIRED))
        elif before is RunState.AUTH_REQUIRED and not state.terminal:
            entries.append(Entry(Kind.RUN_WORKING, payload={"worker": "relay"}))
        if message is not None or state is RunState.AUTH_REQUIRED or len(entries) > 1 or not state.terminal:
            await self._run.journal.write(*entries)

    async def _take_reply(self, message: Json) -> _Replied:
        """The agent answers by a message, without a task."""
        parts = message.get("parts") or []
        if self._root and self._task is None:
            kept = {**message, "role": "agent", "contextId": self._run.run.context_id}
            kept.pop("taskId", None)
            self._run.replied = True
            payload = {"state": RunState.COMPLETED.value, "message": kept, "reply": True}
            await self._run.journal.write(Entry(Kind.STEP_SAID, self._path, self._a.number, payload))
        self._state = RunState.COMPLETED
        return _Replied(_value(parts, str(message.get("messageId", "message"))))

    # Asking

    async def _ask(self) -> None:
        """Puts what the task asks to whoever may answer, durably; sends the answer on."""
        run = self._run
        while (known := run.recorded.get(self._question(self._asked))) and known.state is StepState.COMPLETED:
            self._asked += 1
        if self._asked >= ROUNDS:
            raise PeerTaskFailed(f"task {self._task} of {self._peer_name} asked more than {ROUNDS} questions")
        path = self._question(self._asked)
        task = await self._get()
        asked = questions_of(task)
        try:
            answer = await run.ask(
                path, 1, kind="input", verb="agent", ask=asked.words, show=asked.show, form=asked.form,
                subject=f"{PEER}{self._peer_name}",
            )  # fmt: skip
            parts = asked.parts_of(answer.value)
        except Declined:
            if not asked.approval:
                raise
            parts = [{"data": {"approved": False}}]
        ident = f"{self._a.key}/ask[{self._asked}]"
        history = {m.get("messageId") for m in task.get("history") or ()}
        if ident not in history:
            reply: dict[str, Any] = {
                "role": "ROLE_USER", "taskId": self._task, "parts": parts, "metadata": asked.metadata,
            }  # fmt: skip
            if self._context:
                reply["contextId"] = self._context
            await self._answer(ident, reply)
        else:
            self._state = None
        await run.journal.write(Entry(Kind.STEP_COMPLETED, path, 1, {"verb": "agent", "output": {"sent": ident}}))
        run.remember(path, {"sent": ident})
        self._asked += 1

    async def _answer(self, ident: str, reply: dict[str, Any]) -> None:
        """Sends an answer, until it is known that the agent has it."""
        begun, look = self._run.bench.clock(), FIRST_LOOK
        while True:
            try:
                replied = await self._send(ident, reply)
                if replied is not None:
                    self._made.replace(replied.output)
                return
            except NotSent as error:
                if self._run.bench.clock() - begun > LOST:
                    raise PeerTaskFailed(f"{self._peer_name} could not be given the answer: {error.message}") from None
                await self._run.bench.sleep(look)
                look = min(look * 2, LONGEST_LOOK)
            except Unanswered:
                task = await self._get()
                if ident in {m.get("messageId") for m in task.get("history") or ()} or (
                    STATES.get(str((task.get("status") or {}).get("state"))) is not RunState.INPUT_REQUIRED
                ):
                    self._state = None
                    await self._take_task(task)
                    return
                await self._run.bench.sleep(look)
                look = min(look * 2, LONGEST_LOOK)
                if self._run.bench.clock() - begun > LOST:
                    raise

    def _question(self, number: int) -> str:
        return f"{self._path}/ask[{number}]"

    # The end

    def _output(self) -> JSON:
        """What the task came to; PeerTaskFailed when it did not complete."""
        if self._state is RunState.COMPLETED:
            if self._made.value is not None:
                return self._made.value
            parts = self._made.parts()
            if not parts:
                parts = ((self._last.get("status") or {}).get("message") or {}).get("parts") or []
            if not parts:
                said = [m for m in self._last.get("history") or () if m.get("role") == "ROLE_AGENT"]
                parts = said[-1].get("parts") or [] if said else []
            return _value(parts, self._task or "")
        assert self._state is not None
        words = (
            text_of_parts(((self._last.get("status") or {}).get("message") or {}).get("parts") or ()) or self._words()
        )
        said_ = f"task {self._task} of {self._peer_name} was {self._state.value}{': ' if words else ''}{words}"[:2000]
        kind = {RunState.REJECTED: PeerRejected, RunState.CANCELED: PeerCanceled}.get(self._state, PeerTaskFailed)
        raise kind(said_, by=f"{PEER}{self._peer_name}")

    def _words(self) -> str:
        return self._said.split(" ", 2)[2] if self._said.count(" ") >= 2 else ""


def _mark(state: str, message: Json | None) -> str:
    """Tells one thing that a task says from another."""
    told = message or {}
    return f"{state} {told.get('messageId', '')} {text_of_parts(told.get('parts') or ())}"


class _Replied:
    """The agent answered by a message."""

    def __init__(self, output: JSON) -> None:
        self.output = output


def _value(parts: Sequence[Json], task: str) -> JSON:
    """An agent's parts as the one value of a step."""
    data = [part["data"] for part in parts if "data" in part]
    blocks: list[Block] = blocks_of(parts, task)
    structured = data[0] if len(data) == 1 and not any("raw" in part or "url" in part for part in parts) else None
    return value_of(blocks, structured)
