"""MemoryPeer: an agent elsewhere that is a function of this process. For tests of what a mesh does with agents, and of how they fail."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import anyio
from anyio.abc import TaskGroup

from agentmesh.adapters.tools_only import ToolsOnly
from agentmesh.core.agent import IDEMPOTENCY, Agent, AgentHealth, Extension, Json, PeerCall, Skill
from agentmesh.core.source import Held, OnChange, SourceCall, SourceStatus
from agentmesh.core.tool import Tool, ToolResult
from agentmesh.errors import Conflict, Fail, NotFound, NotSent, Unanswered

_ENDED: Final = frozenset(f"TASK_STATE_{state}" for state in ("COMPLETED", "FAILED", "CANCELED", "REJECTED"))
_INPUT: Final = {
    "type": "object",
    "properties": {"message": {"type": "string"}, "data": {"type": "object"}},
    "additionalProperties": False,
    "minProperties": 1,
}


@dataclass(eq=False)
class MemoryTask:
    """A task of a MemoryPeer, as its function sees it."""

    id: str
    context: str
    message: Json
    state: str = "TASK_STATE_SUBMITTED"
    said: Json | None = None
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)
    answers: list[Json] = field(default_factory=list)
    answered: anyio.Event = field(default_factory=anyio.Event)
    reply: Json | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def text(self) -> str:
        return "\n".join(part["text"] for part in self.message["parts"] if "text" in part)

    def status(self, state: str, words: str | None = None) -> None:
        """Is in that state from now on (`WORKING`, `COMPLETED`, ...), and says so."""
        self.state = f"TASK_STATE_{state}"
        if words is not None:
            ident = f"{self.id}-{len(self.events)}"
            self.said = {"messageId": ident, "role": "ROLE_AGENT", "parts": [{"text": words}]}
        self._tell({"statusUpdate": {"taskId": self.id, "contextId": self.context, "status": self._status()}})

    def artifact(self, ident: str, *parts: Json, append: bool = False) -> None:
        """Makes an artifact, or a further piece of one."""
        known = self.artifacts.get(ident)
        before = known["parts"] if known is not None and append else []
        self.artifacts[ident] = {"artifactId": ident, "parts": [*before, *parts]}
        update = {"artifactId": ident, "parts": list(parts)}
        self._tell(
            {"artifactUpdate": {"taskId": self.id, "contextId": self.context, "artifact": update, "append": append}}
        )

    async def ask(self, words: str) -> Json:
        """Waits for input; the message that came."""
        self.status("INPUT_REQUIRED", words)
        while not self.answers:
            self.answered = anyio.Event()
            await self.answered.wait()
        return self.answers.pop(0)

    def answer(self, words: str) -> None:
        """Answers by a message, without a task."""
        self.reply = {"messageId": f"{self.id}-reply", "role": "ROLE_AGENT", "parts": [{"text": words}]}
        self._tell({"message": self.reply})

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id, "contextId": self.context, "status": self._status(),
            "artifacts": [dict(one) for one in self.artifacts.values()], "history": list(self.history),
        }  # fmt: skip

    def _status(self) -> dict[str, Any]:
        return {"state": self.state} | ({} if self.said is None else {"message": self.said})

    def _tell(self, event: Json) -> None:
        self.events.append(event)
        self.changed.set()
        self.changed = anyio.Event()


class MemoryPeer(ToolsOnly):
    """A `core.agent.AgentPeer`, and the `Source` of its skills as tools. `async with` it: its tasks live as long.

    `act` does a task: by `status`, `artifact`, `ask` and `answer`; a task that it leaves unfinished is completed.
    """

    def __init__(
        self, name: str, act: Callable[[MemoryTask], Awaitable[None]], *, skills: Sequence[Skill] = (), streaming: bool = True,
        idempotent: bool = False,
    ) -> None:  # fmt: skip
        self.name = self.title = name
        self.busy = 0
        self.tasks: dict[str, MemoryTask] = {}
        self.sent: list[Json] = []
        """Every message that arrived."""
        self.cancelled: list[str] = []
        self.down = False
        """Nobody can reach it."""
        self.shut = False
        """The same, but nobody has noticed yet: it counts as up."""
        self.mute = 0
        """So many answers are lost after what was asked is done."""
        self.lingers = False
        """Its task shows a question for a moment after it was answered."""
        self.lists = True
        """Whether it finds tasks by the message that began them."""
        self.calls: list[PeerCall] = []
        self._act = act
        own = skills or (Skill("ask", "Ask", f"Asks {name}.", "", agent=name, tool=f"{name}.ask"),)
        extensions = (Extension(IDEMPOTENCY),) if idempotent else ()
        self._agent = Agent(
            name, name, f"The agent {name}.", tuple(own), peer=True, streaming=streaming, extensions=extensions,
            speaks=("JSONRPC 1.0",),
        )  # fmt: skip
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._group = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._group is not None
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)

    # As an agent

    def agent(self) -> Agent | None:
        return self._agent

    def health(self) -> AgentHealth:
        return AgentHealth("down" if self.down else "up", "it is switched off" if self.down else "", busy=self.busy)

    async def send(self, message: Json, call: PeerCall) -> AsyncGenerator[Json, None]:
        """See `AgentPeer.send`."""
        self._reach()
        self.calls.append(call)
        task = self._taken(message)
        await anyio.lowlevel.checkpoint()
        self._lose()
        seen = len(task.events) if "taskId" in message else 0
        if self._agent.streaming:
            with self._counted():
                async for event in self._stream(task, seen):
                    yield event
        else:
            yield {"task": task.to_json()} if task.reply is None else {"message": task.reply}

    async def follow(self, task_id: str, call: PeerCall) -> AsyncGenerator[Json, None]:
        """See `AgentPeer.follow`."""
        self._reach()
        task = self._known(task_id)
        if not self._agent.streaming:
            raise Fail(f"{self.name} does not stream")
        if task.state in _ENDED:
            raise Conflict(f"task {task_id} has ended")
        with self._counted():
            async for event in self._stream(task, len(task.events)):
                yield event

    async def get(self, task_id: str, call: PeerCall, *, history_length: int | None = None) -> Json:
        self._reach()
        self._lose()
        return self._known(task_id).to_json()

    async def find(self, message_id: str, since: float, call: PeerCall) -> Json | None:
        self._reach()
        if not self.lists:
            return None
        return next((t.to_json() for t in self.tasks.values() if t.message["messageId"] == message_id), None)

    async def cancel(self, task_id: str, call: PeerCall) -> Json:
        self._reach()
        task = self._known(task_id)
        if task.state in _ENDED:
            raise Conflict(f"task {task_id} has ended")
        self.cancelled.append(task_id)
        task.scope.cancel()
        task.status("CANCELED")
        return task.to_json()

    def _reach(self) -> None:
        if self.down or self.shut:
            raise NotSent(f"{self.name} cannot be reached: it is switched off")

    def _lose(self) -> None:
        if self.mute > 0:
            self.mute -= 1
            raise Unanswered(f"{self.name} gave no answer")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1

    def _known(self, task_id: str) -> MemoryTask:
        if task_id not in self.tasks:
            raise NotFound(f"{self.name} has no task {task_id}")
        return self.tasks[task_id]

    def _taken(self, message: Json) -> MemoryTask:
        self.sent.append(message)
        if "taskId" in message:
            task = self._known(message["taskId"])
            if task.state in _ENDED:
                raise Conflict(f"task {task.id} has ended")
            task.history.append(message)
            task.answers.append(message)
            if not self.lingers:
                task.state = "TASK_STATE_WORKING"
            task.answered.set()
            return task
        if self._agent.idempotent:
            for task in self.tasks.values():
                if task.message["messageId"] == message["messageId"]:
                    return task
        number = len(self.tasks) + 1
        task = MemoryTask(f"{self.name}-{number}", message.get("contextId") or f"{self.name}-c{number}", message)
        task.history.append(message)
        self.tasks[task.id] = task
        assert self._group is not None
        self._group.start_soon(self._do, task)
        return task

    async def _do(self, task: MemoryTask) -> None:
        with task.scope:
            await self._act(task)
            if task.state not in _ENDED and task.reply is None:
                task.status("COMPLETED")

    async def _stream(self, task: MemoryTask, seen: int) -> AsyncGenerator[Json, None]:
        while not task.events:
            await task.changed.wait()
        if task.reply is not None:
            yield {"message": task.reply}
            return
        yield {"task": task.to_json()}
        seen = len(task.events)
        while True:
            if self.down:
                raise Unanswered(f"{self.name} broke the stream off")
            while seen < len(task.events):
                seen += 1
                yield task.events[seen - 1]
            if task.state in _ENDED or task.state == "TASK_STATE_INPUT_REQUIRED":
                return
            await task.changed.wait()

    # As a source

    def tools(self) -> Mapping[str, Tool]:
        return {
            skill.tool: Tool(
                skill.tool, skill.description, _INPUT, annotations={"readOnlyHint": False}, source=f"peer:{self.name}", task="optional"
            )
            for skill in self._agent.skills
            if skill.tool
        }  # fmt: skip

    def status(self) -> SourceStatus:
        return SourceStatus(self.name, "peer", "ready", tools=len(self.tools()))

    def held(self) -> Sequence[Held]:
        return ()

    def on_change(self, hear: OnChange) -> None:
        """Its skills never change."""

    async def call(self, call: SourceCall) -> ToolResult:
        raise Fail(f"{call.tool.name} is a run: it is called by way of the engine")

    async def approve(self, names: Sequence[str]) -> Sequence[str]:
        return ()
