"""Following: one call of a peer's skill: the message, the task to its end, what it asks meanwhile, and what comes of it.

Everything that an agent says is JSON here, in A2A 1.0's spelling.
"""

from __future__ import annotations

import json
import logging
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import anyio

from agentmesh.adapters.approvals import same
from agentmesh.adapters.upstream_a2a_client import PeerClient
from agentmesh.core import content
from agentmesh.core.caller import ELICITATION, InputRequest, InputRequired
from agentmesh.core.source import SourceCall
from agentmesh.core.tool import ToolResult
from agentmesh.errors import Fail, MeshError, MissingCapability, Retry, Unanswered

log = logging.getLogger("agentmesh.sources")

TASK_TIME: Final = 600.0
"""Seconds for a task when the call gives it no time of its own; waiting for a person is counted."""
FIRST_LOOK: Final = 0.05
LONGEST_LOOK: Final = 2.0
"""Seconds between two looks at a task."""
LOSSES: Final = 5
"""Looks at a task that may fail in a row before its call does."""
ROUNDS: Final = 20
"""Questions that one task may ask of one call."""
SKILL: Final = "urn:agentmesh:a2a:skill:1"
"""The extension by which a message to a mesh names its skill; other agents read `skill`, or choose by the words."""
ANSWER: Final = "urn:agentmesh:a2a:answer:1"
"""The extension by which an answer to a mesh names its question."""
_ENDED: Final = frozenset({
    "TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED",
})  # fmt: skip

Json = Mapping[str, Any]


@dataclass(slots=True)
class _Asked:
    """One question of a task."""

    key: str
    mark: str
    """Tells it from any other that the task asks."""
    request: InputRequest
    digest: Json | None
    """{question, digest} of a mesh's question, which the answer names."""
    approval: bool


class Following:
    """One call of a skill: the message, the task, and what it asks."""

    def __init__(
        self, client: PeerClient, peer: str, skill: str, call: SourceCall, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._client, self._peer, self._skill, self._call, self._sleep = client, peer, skill, call, sleep
        self._key = call.key or str(uuid4())
        self._said = ""
        self._told = 0
        self._task: str | None = None
        self._answered: set[str] = set()
        """Marks of what was answered: an agent may take a moment before it says something else."""

    async def to_the_end(self) -> ToolResult:
        limit = self._call.timeout or TASK_TIME
        try:
            with anyio.fail_after(limit):
                return await self._go()
        except InputRequired:
            raise  # the task goes on; the client comes again
        except TimeoutError:
            await self._cancel()
            raise Unanswered(f"the task did not end within {limit:g} s, and was asked to") from None
        except (anyio.get_cancelled_exc_class(), MissingCapability):
            await self._cancel()
            raise

    async def _go(self) -> ToolResult:
        state = getattr(self._call.caller, "state", None)
        rounds = 0
        if isinstance(state, Mapping) and state.get("peer") == self._peer and isinstance(state.get("task"), str):
            self._task, rounds = state["task"], int(state.get("rounds") or 0)
            task = await self._look()
        else:
            answer = await self._client.send_message(self._message(self._first(), self._key))
            if "message" in answer:
                return _result(answer["message"].get("parts") or [], None, error=False)
            task = answer.get("task") or {}
            self._task = str(task.get("id") or "")
        while True:
            task = await self._settled(task)
            wire = task["status"]["state"]
            if wire in _ENDED:
                return _ended(task, wire)
            if wire == "TASK_STATE_AUTH_REQUIRED":
                raise Fail(
                    "the agent wants its user to log in, which this mesh cannot do for a caller: "
                    f"{_words(task) or 'it does not say where'}; give it a `token` in agentmesh.yaml"
                )
            if rounds >= ROUNDS:
                await self._cancel()
                raise Fail(f"the task asked more than {ROUNDS} questions, and was ended")
            rounds += 1
            asked = self._open(task)
            answers = await self._ask(asked, rounds, task)
            if answers is None:
                await self._cancel()
                return ToolResult(text=f"nobody answered what the agent asked: {_words(task)[:500]}", is_error=True)
            for number, (one, parts) in enumerate(zip(asked, answers, strict=True)):
                metadata = {} if one.digest is None else {ANSWER: one.digest}
                ident = f"{self._key}/{rounds}.{number}"
                self._answered.add(one.mark)
                answer = await self._client.send_message(self._message(parts, ident, task=task, **metadata))
                task = answer.get("task") or task
                if task["status"]["state"] in _ENDED:
                    break
            if "message" in answer:
                return _result(answer["message"].get("parts") or [], None, error=False)

    def _first(self) -> list[Json]:
        arguments = self._call.arguments
        parts: list[Json] = []
        if isinstance(arguments.get("message"), str):
            parts.append({"text": arguments["message"], "mediaType": "text/plain"})
        if arguments.get("data") is not None:
            parts.append({"data": arguments["data"], "mediaType": "application/json"})
        if not parts:
            raise Fail("the message is empty; give `message` or `data`")
        return parts

    def _message(self, parts: Sequence[Json], ident: str, *, task: Json | None = None, **metadata: Any) -> Json:
        message: dict[str, Any] = {"messageId": ident, "role": "ROLE_USER", "parts": list(parts)}
        if task is None:
            message["metadata"] = {SKILL: self._skill, "skill": self._skill, **metadata}
        else:
            message |= {"taskId": task.get("id", ""), "contextId": task.get("contextId", ""), "metadata": metadata}
        return message

    async def _settled(self, task: Json) -> Json:
        """The task when it has ended, or waits for somebody."""
        pause = FIRST_LOOK
        while True:
            self._progress(task)
            wire = (task.get("status") or {}).get("state", "TASK_STATE_UNSPECIFIED")
            if wire in _ENDED or wire == "TASK_STATE_AUTH_REQUIRED":
                return task
            if wire == "TASK_STATE_INPUT_REQUIRED" and self._open(task):
                return task
            if not self._task:
                raise Fail("the agent answered with a task that has no id")
            await self._sleep(pause)
            pause = min(pause * 1.5, LONGEST_LOOK)
            task = await self._look()

    def _open(self, task: Json) -> list[_Asked]:
        """What the task asks and has not been answered."""
        return [one for one in _questions(task) if one.mark not in self._answered]

    async def _look(self) -> Json:
        """The task as it stands; a connection that fails now and then is no end of it."""
        assert self._task is not None
        for lost in range(LOSSES):
            try:
                return await self._client.get_task(self._task)
            except Retry:
                if lost == LOSSES - 1:
                    raise
                await self._sleep(min(FIRST_LOOK * 4**lost, LONGEST_LOOK))
        raise AssertionError("unreachable")

    def _progress(self, task: Json) -> None:
        said = _words(task)
        if said and said != self._said:
            self._said, self._told = said, self._told + 1
            self._call.caller.progress(self._told, None, said[:1000])

    async def _ask(self, asked: Sequence[_Asked], rounds: int, task: Json) -> list[list[Json]] | None:
        """What the client's user says to each question, as parts; None when they would not."""
        requests = {f"{rounds}/{one.key}": one.request for one in asked}
        try:
            given = await self._call.caller.ask(requests)
        except InputRequired as required:
            required.state = {"peer": self._peer, "task": self._task, "rounds": rounds - 1}
            raise
        except MissingCapability as missing:
            raise MissingCapability(
                f"the agent asks: {_words(task)[:500]}; {missing.message}", **missing.data
            ) from None
        found: list[list[Json]] = []
        for key, one in zip(requests, asked, strict=True):
            answer = given.get(key, {})
            if answer.get("action") != "accept" and not (one.approval and answer.get("action") == "decline"):
                return None
            found.append(_answer(one, answer))
        return found

    async def _cancel(self) -> None:
        """Asks the agent to end the task; what comes of it nobody waits for long."""
        if self._task:
            with anyio.CancelScope(shield=True), anyio.move_on_after(2):
                try:
                    await self._client.cancel_task(self._task)
                except MeshError as error:
                    log.info("%s: task %s could not be canceled: %s", self._peer, self._task, error.message)


# What the agent says


def _words(task: Json) -> str:
    """What a task's status says, in words."""
    message = (task.get("status") or {}).get("message") or {}
    return "\n".join(part["text"] for part in message.get("parts") or () if part.get("text"))


def _questions(task: Json) -> list[_Asked]:
    """What a task that waits asks: a mesh's questions as they are, of others their words."""
    message = task["status"].get("message") or {}
    found: list[_Asked] = []
    for part in message.get("parts") or ():
        data = part.get("data")
        question = data.get("question") if isinstance(data, Mapping) else None
        if isinstance(question, Mapping) and isinstance(question.get("id"), str):
            approval = question.get("kind") == "approval"
            shown = question.get("show")
            text = str(question.get("ask") or "") + ("" if shown is None else f"\n{_text(shown)}")
            form = question.get("form")
            schema = _form(form) or ({"type": "object", "properties": {}} if approval else _OPEN)
            digest = {"question": question["id"], "digest": str(question.get("digest") or "")}
            mark = f"{question['id']} {digest['digest']}"
            found.append(_Asked(question["id"], mark, _elicitation(text, schema), digest, approval))
    if not found:
        words = _words(task)
        mark = f"{message.get('messageId', '')} {words}"
        request = _elicitation(words or "The agent needs more to go on.", _OPEN)
        found.append(_Asked("input", mark, request, None, approval=False))
    return found


_OPEN: Final = {
    "type": "object",
    "properties": {"answer": {"type": "string", "title": "Answer"}},
    "required": ["answer"],
}


def _form(form: Any) -> Json | None:
    """A form that a client can show (MCP `ElicitRequestFormParams.requestedSchema`): a flat object; None when it is none."""
    properties = form.get("properties") if isinstance(form, Mapping) else None
    if not isinstance(properties, Mapping) or not all(
        isinstance(p, Mapping) and (p.get("type") in {"string", "number", "integer", "boolean"} or "enum" in p)
        for p in properties.values()
    ):
        return None
    required = form.get("required")
    return {"type": "object", "properties": dict(properties)} | ({"required": required} if required else {})


def _elicitation(text: str, schema: Json) -> InputRequest:
    return InputRequest(ELICITATION, {"mode": "form", "message": text[:4000], "requestedSchema": schema})


def _answer(asked: _Asked, answer: Json) -> list[Json]:
    value = dict(answer.get("content") or {})
    if asked.approval:
        given = (
            {"approved": answer.get("action") == "accept", **value}
            if answer.get("action") == "accept"
            else {"approved": False}
        )
        return [{"data": given, "mediaType": "application/json"}]
    if list(value) == ["answer"] and isinstance(value["answer"], str):
        return [{"text": value["answer"], "mediaType": "text/plain"}]
    return [{"data": value, "mediaType": "application/json"}]


def _ended(task: Json, wire: str) -> ToolResult:
    if wire != "TASK_STATE_COMPLETED":
        state = wire.removeprefix("TASK_STATE_").lower()
        words = _words(task)
        found = f"the agent's task was {state}{': ' if words else ''}{words}"
        return ToolResult(text=found[:4000], is_error=True)
    parts = [part for artifact in task.get("artifacts") or () for part in artifact.get("parts") or ()]
    if not parts:
        parts = ((task.get("status") or {}).get("message") or {}).get("parts") or []
    if not parts:
        said = [m for m in task.get("history") or () if m.get("role") == "ROLE_AGENT"]
        parts = said[-1].get("parts") or [] if said else []
    return _result(parts, task.get("id"), error=False)


def _result(parts: Sequence[Json], task_id: Any, *, error: bool) -> ToolResult:
    """An agent's parts as a tool's result: one data part is the value, everything that is shown a block."""
    data = [part["data"] for part in parts if "data" in part]
    structured = data[0] if len(data) == 1 else None
    blocks: list[Mapping[str, Any]] = []
    for part in parts:
        if "text" in part:
            blocks.append(content.text(part["text"]))
        elif "data" in part and structured is None:
            blocks.append(content.text(json.dumps(part["data"], ensure_ascii=False)))
        elif "raw" in part or "url" in part:
            blocks.append(_file(part, task_id))
    if structured is not None and all(block["type"] == "text" for block in blocks):
        text = json.dumps(structured, ensure_ascii=False)
        if all(_is_same(str(block["text"]), structured) for block in blocks):
            return ToolResult(structured, text, error)
    if structured is not None and not blocks:
        blocks.append(content.text(json.dumps(structured, ensure_ascii=False)))
    return ToolResult(structured, content.text_of_blocks(blocks) if blocks else "", error, content=tuple(blocks))


def _is_same(text: str, value: Any) -> bool:
    """Whether a text is but the JSON of the value beside it."""
    try:
        return same(json.loads(text), value)
    except ValueError:
        return False


def _file(part: Json, task_id: Any) -> Mapping[str, Any]:
    kind = str(part.get("mediaType") or "application/octet-stream")
    name = str(part.get("filename") or "file")
    if "url" in part:
        return {"type": "resource_link", "uri": part["url"], "name": name, "mimeType": kind}
    data = b64decode(part["raw"])
    if kind.startswith("image/"):
        return content.image(data, kind)
    if kind.startswith("audio/"):
        return content.audio(data, kind)
    return content.resource(f"a2a:{task_id or 'message'}/{name}", data, kind)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
