"""Recording: what a case's run asked of the outside, and what it was answered; played back when nothing outside may be asked.

Each call is known by a digest of what was asked: a prompt that has changed finds no answer, and the recording is stale. Answers to
the same question are given in the order in which they were recorded.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anyio import CapacityLimiter

from agentmesh.core.context import Context
from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ChatChunk, ChatRequest, ModelBackend, ModelState, ModelStatus, Progress, ToolUse, Usage
from agentmesh.core.outside import Cluster, Databases, HttpAnswer, HttpClient, HttpRequest, Rows
from agentmesh.core.run import JSON
from agentmesh.engine.definitions import steps_of
from agentmesh.engine.faults import as_json, error_of
from agentmesh.engine.functions import call_function, resolve_function, wants_context
from agentmesh.engine.steps import hash_of
from agentmesh.engine.tape import digest_of
from agentmesh.errors import Fail, MeshError, ModelUnavailable

Call = Mapping[str, JSON]
"""{ask, what, key} and what was answered: {answer, ...} or {error: {code, message}}."""
STALE = "this was not asked when the case was recorded; run `agentmesh test --record`"
SHORT = 16
"""Letters of a key, in a file that people read."""
_READS = ("GET", "HEAD")


@dataclass
class Deck:
    """The calls of one case. `calls` None: nothing was recorded. With `record` the real ones are made, and kept in `made`."""

    calls: Sequence[Call] | None = None
    record: bool = False
    lenient: bool = False
    """What was recorded answers any question of its kind to the same address: live models say another thing each time."""
    made: list[Call] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    """What was asked and had no answer."""
    _left: dict[str, deque[Call]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for call in self.calls or ():
            self._left.setdefault(str(call["key"]), deque()).append(call)

    @property
    def unused(self) -> list[str]:
        """What was recorded and not asked now."""
        return [f"{call['ask']} {call['what']}" for left in self._left.values() for call in left]

    async def call(
        self, ask: str, what: str, key: str, do: Callable[[], Awaitable[dict[str, JSON]]]
    ) -> Mapping[str, JSON]:
        """The answer to one question: recorded, or now. What was raised then is raised again."""
        key = key[:SHORT]
        if self.record:
            head: dict[str, JSON] = {"ask": ask, "what": what, "key": key}
            try:
                answer = await do()
            except Exception as error:
                said = error_of(error)
                self.made.append(head | {"error": {"code": said["code"], "message": said["message"]}})
                raise
            self.made.append(head | answer)
            return answer
        left = self._left.get(key)
        if not left and self.lenient:
            left = deque(call for call in self.calls or () if (call["ask"], call["what"]) == (ask, what))
        if not left:
            self.stale.append(f"{ask} {what}")
            raise Fail(f"{ask} {what}: {STALE}")
        found = left.popleft()
        told = found.get("error")
        if told is not None:
            raise _errors().get(str(told.get("code")), Fail)(str(told.get("message")))
        return found


def _errors() -> dict[str, type[MeshError]]:
    """Every kind of error by its code."""
    found: dict[str, type[MeshError]] = {}
    waiting: list[type[MeshError]] = [MeshError]
    while waiting:
        kind = waiting.pop()
        found.setdefault(kind.code, kind)
        waiting += kind.__subclasses__()
    return found


class RecordedModels:
    """ModelBackend: `live` is asked when recording."""

    def __init__(self, deck: Deck, live: ModelBackend | None = None) -> None:
        self._deck = deck
        self._live = live

    async def chat(self, request: ChatRequest, progress: Progress | None = None) -> AsyncIterator[ChatChunk]:
        async def ask() -> dict[str, JSON]:
            return _of_chunks([chunk async for chunk in _required(self._live, "a model").chat(request, progress)])

        yield _chunk(await self._deck.call("model", request.model, hash_of(request), ask))

    async def embed(self, model: str, texts: Sequence[str], *, timeout: float = 60.0) -> Sequence[Sequence[float]]:
        """Not recorded: messages find their skill by their words in a recording."""
        raise ModelUnavailable(f"model {model!r} is not asked for embeddings in a recording")

    def status(self) -> Mapping[str, ModelStatus]:
        return self._live.status() if self._live is not None else _Recorded()


class _Recorded(dict[str, ModelStatus]):
    """Every model is there: its answers are."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __missing__(self, name: str) -> ModelStatus:
        return ModelStatus(name, ModelState.READY, revision="recorded", replicas=1)


def _of_chunks(chunks: Sequence[ChatChunk]) -> dict[str, JSON]:
    text = "".join(chunk.text for chunk in chunks)
    last = chunks[-1]
    found: dict[str, JSON] = {"said_by": last.model, "answer": _parsed(text)}
    if last.finish_reason not in (None, "stop"):
        found["finish_reason"] = last.finish_reason
    uses = [use for chunk in chunks for use in chunk.tool_uses]
    if uses:
        found["tools"] = [{"id": use.id, "name": use.name, "arguments": _parsed(use.arguments)} for use in uses]
    usage = next((chunk.usage for chunk in reversed(chunks) if chunk.usage), Usage())
    return found | {"tokens": [usage.prompt_tokens, usage.completion_tokens]}


def _chunk(found: Mapping[str, JSON]) -> ChatChunk:
    prompt, completion = found.get("tokens") or (0, 0)
    uses = tuple(ToolUse(use["id"], use["name"], _text(use["arguments"])) for use in found.get("tools") or ())
    return ChatChunk(
        _text(found.get("answer")), found.get("finish_reason") or "stop", Usage(prompt, completion),
        found.get("said_by"), uses,
    )  # fmt: skip


def _parsed(text: str) -> JSON:
    """A JSON object or list as itself, so that a recording reads well; any other text as it is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, (dict, list)) else text


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class RecordedHttp:
    """HttpClient. Headers are no part of the question: they may hold secrets and keys of the run."""

    def __init__(self, deck: Deck, live: HttpClient | None = None) -> None:
        self._deck = deck
        self._live = live

    async def send(self, request: HttpRequest) -> HttpAnswer:
        async def ask() -> dict[str, JSON]:
            answer = await _required(self._live, "an HTTP client").send(request)
            return {"answer": {"status": answer.status, "headers": dict(answer.headers), "body": answer.body}}

        if self._deck.lenient and self._live is not None and request.method in _READS:
            return await self._live.send(request)
        body = None if request.body is None else request.body.decode("utf-8", "replace")
        what = f"{request.method} {request.url}"
        found = (await self._deck.call("http", what, digest_of([request.method, request.url, body]), ask))["answer"]
        return HttpAnswer(found["status"], found["headers"], found["body"])


class RecordedDatabases:
    """Databases."""

    def __init__(self, deck: Deck, live: Databases | None = None) -> None:
        self._deck = deck
        self._live = live

    async def query(
        self, database: str, text: str, parameters: Mapping[str, Any], *, write: bool, rows: int, timeout: float | None
    ) -> Rows:
        async def ask() -> dict[str, JSON]:
            live = _required(self._live, "databases")
            found = await live.query(database, text, parameters, write=write, rows=rows, timeout=timeout)
            return {
                "answer": {
                    "rows": [dict(row) for row in found.rows], "count": found.count, "truncated": found.truncated,
                }
            }  # fmt: skip

        if self._deck.lenient and self._live is not None and not write:
            return await self._live.query(database, text, parameters, write=write, rows=rows, timeout=timeout)
        key = digest_of([database, text, dict(parameters), write, rows])
        found = (await self._deck.call("sql", f"{database}: {text.strip().splitlines()[0]}", key, ask))["answer"]
        return Rows(found["rows"], found["count"], found["truncated"])


class RecordedCluster:
    """Cluster."""

    def __init__(self, deck: Deck, live: Cluster | None = None) -> None:
        self._deck = deck
        self._live = live

    async def call(self, function: str, arguments: Mapping[str, Any], *, key: str, timeout: float | None) -> Any:
        async def ask() -> dict[str, JSON]:
            live = _required(self._live, "a cluster")
            return {"answer": await live.call(function, arguments, key=key, timeout=timeout)}

        return (await self._deck.call("ray", function, digest_of([function, dict(arguments)]), ask))["answer"]


def _required(live: Any, what: str) -> Any:
    if live is None:
        raise Fail(f"there is no {what.removeprefix('a ').removeprefix('an ')} here to record from")
    return live


def recorded_functions(
    mesh: Mesh, deck: Deck, resolve: Callable[[str], Callable[..., Any]] = resolve_function
) -> Callable[[str], Callable[..., Any]]:
    """`functions` of an engine: what only reads is called, what may change the world is recorded."""
    writes = _writing(mesh)
    limiter = CapacityLimiter(1)

    def find(name: str) -> Callable[..., Any]:
        if name not in writes:
            return resolve(name)

        async def recorded(ctx: Context, **arguments: Any) -> Any:
            async def do() -> dict[str, JSON]:
                function = resolve(name)
                result = await call_function(function, ctx, arguments, limiter)
                found: dict[str, JSON] = {"answer": as_json(result, f"the result of {name}")}
                if wants_context(function) and ctx.puts:
                    found["puts"] = {key: as_json(value, f"the value {key!r}") for key, value in ctx.puts.items()}
                return found

            found = await deck.call("python", name, digest_of([name, arguments]), do)
            for key, value in (found.get("puts") or {}).items():
                ctx.put(key, value)
            return found["answer"]

        return recorded

    return find


def _writing(mesh: Mesh) -> frozenset[str]:
    """Functions that some step or tool calls without saying that they only read."""
    found: set[str] = set()
    for workflow in mesh.workflows.values():
        for step in steps_of(workflow):
            if step.python is not None and step.on is None and step.effect != "read":
                found.add(step.python)
    for spec in mesh.specs.values():
        if spec.python is not None and spec.annotations.readOnlyHint is not True:
            found.add(spec.python)
    return frozenset(found)
