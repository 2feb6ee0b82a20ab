"""Told: what an agent elsewhere tells of one task, journaled as it comes, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from agentmesh.core.agent import PEER, Json
from agentmesh.core.content import Block, value_of
from agentmesh.core.run import JSON, Entry, Kind, RunState
from agentmesh.engine.attempts import Attempt
from agentmesh.engine.conversation import text_of_parts
from agentmesh.engine.relayed import Asked, Made, blocks_of, question_of
from agentmesh.errors import Fail

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

STATES: Final = {f"TASK_STATE_{state.name}": state for state in RunState}


class PeerTaskFailed(Fail):
    """The agent's task did not complete."""

    code = "failed"


class PeerRejected(PeerTaskFailed):
    """The agent would not do it."""

    code = "rejected"


class PeerCanceled(PeerTaskFailed):
    """The agent's task was canceled, and not by us."""

    code = "canceled"


class Told:
    """One task of an agent elsewhere, as far as it has told of it."""

    def __init__(self, run: Execution, a: Attempt, peer: str) -> None:
        self._run, self._a, self._path = run, a, a.path
        self.peer = peer
        self.root = run.run.workflow.startswith(PEER)
        """The run is nothing but this message: what the agent makes is the run's own."""
        self.task: str | None = None
        self.context: str | None = None
        """As the agent names them."""
        self.state: RunState | None = None
        """None: not known since the last message."""
        self.replied = False
        """It answered by a message."""
        self._value: JSON = None
        self._said = ""
        """Mark of what the task said last, as it is journaled."""
        self._made = Made(run.run.artifacts if self.root else {})
        self._last: Json = {}
        """The Task as far as it was told whole."""
        self._message: Json = {}
        """Of its status."""
        self.answered: set[str] = set()
        """Marks of questions that were answered: an agent may take a moment before it says something else."""
        recorded = run.recorded.get(self._path)
        if a.resumed and recorded is not None and recorded.task is not None:
            self.peer = str(recorded.task["peer"])
            self.task, self.context = str(recorded.task["task"]), recorded.task.get("context")
            said = run.run.said or {}
            if said.get("state") != RunState.AUTH_REQUIRED.value:  # which the run's state has to say again
                self._said = _mark(str(said.get("state", "")), said.get("message"))
            run.elsewhere[self._path] = (self.peer, self.task)

    @property
    def settled(self) -> bool:
        """Whether it has ended, or asks what it was not answered yet."""
        return self.state is not None and (self.state.terminal or self.asks is not None)

    @property
    def asks(self) -> Asked | None:
        """What it asks now and was not answered."""
        if self.state is not RunState.INPUT_REQUIRED:
            return None
        asked = question_of(self._message)
        return None if asked.mark in self.answered else asked

    async def take(self, event: Json) -> None:
        """One StreamResponse."""
        if "task" in event:
            await self.take_task(event["task"])
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
            await self._take_reply(event["message"])

    async def take_task(self, task: Json) -> None:
        """The Task as it stands."""
        await self._know(task.get("id"), task.get("contextId"))
        self._last = task
        for artifact in task.get("artifacts") or ():
            if not self._made.has(artifact):
                await self._take_artifact(artifact)
        await self._take_status(task.get("status") or {})

    async def _know(self, task: Any, context: Any) -> None:
        """Journals whose the task is, before anything that it says."""
        if self.task is not None:
            if task and task != self.task:
                raise Fail(f"{self.peer} speaks of task {str(task)[:100]}, and was asked about {self.task}")
            return
        if not isinstance(task, str) or not task:
            raise Fail(f"{self.peer} answered with a task that has no id")
        self.task, self.context = task, str(context or "") or self.context
        # From here on a cancellation reaches the agent.
        self._run.elsewhere[self._path] = (self.peer, task)
        await self._write(Kind.STEP_TASK, {"peer": self.peer, "task": task, "context": self.context})

    async def _take_artifact(self, artifact: Json, *, append: bool = False, last: bool = False) -> None:
        self._made.add(artifact, append=append)  # Fail when it grows too large
        payload: dict[str, JSON] = {"artifact": dict(artifact)}
        payload |= {"append": True} if append else {}
        payload |= {"last": True} if last else {}
        if self.root:
            await self._write(Kind.STEP_ARTIFACT, payload)

    async def _take_status(self, status: Json) -> None:
        state = STATES.get(str(status.get("state")), RunState.WORKING)
        message = status.get("message") or None
        self._message = message or {}
        mark = _mark(state.value, message)
        before, self.state = self.state, state
        if mark == self._said:
            return
        self._said = mark
        payload: dict[str, JSON] = {"state": state.value}
        if message is not None:
            payload["message"] = self._as_ours(message) | {"taskId": self._run.run.id}
        more: list[Entry] = []
        if state is RunState.AUTH_REQUIRED:
            more.append(Entry(Kind.RUN_AUTH_REQUIRED))
        elif before is RunState.AUTH_REQUIRED and not state.terminal:
            more.append(Entry(Kind.RUN_WORKING, payload={"worker": "relay"}))
        if message is not None or not state.terminal:  # how it ended stands in the run's own last row
            await self._write(Kind.STEP_SAID, payload, *more)

    async def _take_reply(self, message: Json) -> None:
        """The agent answers by a message."""
        if self.root and self.task is None:
            kept = self._as_ours(message)
            kept.pop("taskId", None)
            self.replied = self._run.replied = True
            await self._write(Kind.STEP_SAID, {"state": RunState.COMPLETED.value, "message": kept, "reply": True})
        self.state = RunState.COMPLETED
        self._value = value_of_parts(message.get("parts") or [], str(message.get("messageId", "message")))
        self.replied = True

    def _as_ours(self, message: Json) -> dict[str, JSON]:
        return {**message, "role": "agent", "contextId": self._run.run.context_id or self._run.run.id}

    async def _write(self, kind: Kind, payload: dict[str, JSON], *more: Entry) -> None:
        patient = self.root and not self._run.bench.bus.hurries(self._run.run.id)
        await self._run.journal.write(Entry(kind, self._path, self._a.number, payload), *more, patient=patient)

    def output(self) -> JSON:
        """What the task came to; PeerTaskFailed when it did not complete."""
        assert self.state is not None
        if self.replied:
            return self._value
        status = (self._last.get("status") or {}).get("message") or {}
        if self.state is RunState.COMPLETED:
            parts = self._made.parts() or status.get("parts") or []
            if not parts:
                said = [m for m in self._last.get("history") or () if m.get("role") == "ROLE_AGENT"]
                parts = said[-1].get("parts") or [] if said else []
            return value_of_parts(parts, self.task or "")
        words = self._said.split(" ", 2)[2] if self._said.count(" ") >= 2 else ""
        words = words or text_of_parts(status.get("parts") or ())
        told = f"task {self.task} of {self.peer} was {self.state.value}{': ' if words else ''}{words}"[:2000]
        kind = {RunState.REJECTED: PeerRejected, RunState.CANCELED: PeerCanceled}.get(self.state, PeerTaskFailed)
        raise kind(told, by=f"{PEER}{self.peer}")


def _mark(state: str, message: Json | None) -> str:
    """Tells one thing that a task says from another."""
    told = message or {}
    return f"{state} {told.get('messageId', '')} {text_of_parts(told.get('parts') or ())}"


def value_of_parts(parts: Sequence[Json], task: str) -> JSON:
    """An agent's parts as the one value of a step: the data when there is one, else the text, else MCP content blocks."""
    data = [part["data"] for part in parts if "data" in part]
    blocks: list[Block] = blocks_of(parts, task)
    structured = data[0] if len(data) == 1 and not any("raw" in part or "url" in part for part in parts) else None
    return value_of(blocks, structured)
