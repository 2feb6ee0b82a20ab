"""ScriptedModel: a ModelBackend that answers from a script, for tests of workflows without a model."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import anyio.lowlevel

from agentmesh.core.model import ChatChunk, ChatRequest, ModelState, ModelStatus, Progress, ToolUse, Usage
from agentmesh.errors import ModelUnavailable

Said = str | Mapping[str, Any] | list[Any] | ToolUse | BaseException
"""A text, a JSON value that is said as text, a tool (or a list of tools) that the model asks for, or an error that is raised."""
Script = Callable[[ChatRequest], "Said | Awaitable[Said]"]
Vectors = Callable[[str], "Sequence[float] | BaseException | Awaitable[Sequence[float] | BaseException]"]


class ScriptedModel:
    """Answers every model of the mesh from `script`: a function of the request, or answers that are given one after another.

    `requests` keeps what was asked, `embedded` the texts of each call of `embed`. When a list of answers is at its end the model is
    unavailable.
    """

    def __init__(
        self, script: Script | Iterable[Said] = (), *, revision: str = "scripted", loading: Iterable[str] = (),
        vectors: Vectors | None = None,
    ) -> None:  # fmt: skip
        """`loading`: lines of progress that the first request hears before its answer. `vectors`: the vector of a text; None: it makes
        no embeddings.
        """
        if callable(script):
            self._script: Script = script
        else:
            answers = iter(tuple(script))
            self._script = lambda _: next(answers, ModelUnavailable("the script has no more answers"))
        self._revision = revision
        self._loading = list(loading)
        self._vectors = vectors
        self.requests: list[ChatRequest] = []
        self.embedded: list[tuple[str, ...]] = []

    async def chat(self, request: ChatRequest, progress: Progress | None = None) -> AsyncIterator[ChatChunk]:
        self.requests.append(request)
        await anyio.lowlevel.checkpoint()  # an answer never comes without waiting
        while self._loading:
            line = self._loading.pop(0)
            if progress is not None:
                progress(line)
        said = self._script(request)
        if inspect.isawaitable(said):
            said = await said
        if isinstance(said, BaseException):
            raise said
        asked = sum(len(str(message.get("content") or "").split()) for message in request.messages)
        model = f"{request.model}@{self._revision}"
        uses = tools_asked_for(said)
        if uses:
            usage = Usage(prompt_tokens=asked, completion_tokens=sum(len(use.arguments.split()) + 1 for use in uses))
            yield ChatChunk(finish_reason="tool_calls", model=model, usage=usage, tool_uses=uses)
            return
        text = said if isinstance(said, str) else json.dumps(said)
        pieces = text.split(" ") if request.stream else [text]
        for piece in pieces[:-1]:
            yield ChatChunk(text=piece + " ")
        yield ChatChunk(
            text=pieces[-1], finish_reason="stop", model=model,
            usage=Usage(prompt_tokens=asked, completion_tokens=len(text.split())),
        )  # fmt: skip

    async def embed(self, model: str, texts: Sequence[str], *, timeout: float = 60.0) -> Sequence[Sequence[float]]:
        self.embedded.append(tuple(texts))
        await anyio.lowlevel.checkpoint()
        if self._vectors is None:
            raise ModelUnavailable(f"model {model!r} of the script makes no embeddings")
        found = []
        try:
            with anyio.fail_after(timeout):
                for text in texts:
                    said = self._vectors(text)
                    said = await said if inspect.isawaitable(said) else said
                    if isinstance(said, BaseException):
                        raise said
                    found.append(said)
        except TimeoutError:
            raise ModelUnavailable(f"model {model!r} did not answer within {timeout:g} s") from None
        return found

    def status(self) -> Mapping[str, ModelStatus]:
        return _Always(self._revision)


def use(name: str, /, *, id: str = "", **arguments: Any) -> ToolUse:
    """A tool that a scripted model asks for: `use("desk.find", order=7)`. The mesh's own name will do."""
    return ToolUse(id, name, json.dumps(arguments))


def tools_asked_for(said: Said) -> tuple[ToolUse, ...]:
    """The tools that an answer of a script asks for."""
    if isinstance(said, ToolUse):
        return (said,)
    if isinstance(said, list) and said and all(isinstance(item, ToolUse) for item in said):
        return tuple(said)
    return ()


class _Always(dict[str, ModelStatus]):
    """Every model is ready, whatever its name."""

    def __init__(self, revision: str) -> None:
        super().__init__()
        self._revision = revision

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __missing__(self, name: str) -> ModelStatus:
        return ModelStatus(name, ModelState.READY, revision=self._revision, replicas=1)
