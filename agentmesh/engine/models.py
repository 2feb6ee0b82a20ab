"""Models: questions to the mesh's models, bounded per model, with progress while one is still loading."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from difflib import get_close_matches
from time import monotonic

import anyio

from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ChatChunk, ChatRequest, ModelBackend, ModelStatus, Progress, ToolUse, Usage
from agentmesh.core.policy import Action, Principal
from agentmesh.engine.guard import Guard
from agentmesh.errors import NotFound


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `usage.seconds` is the backend's own count, which leaves out the wait for a model that loads."""

    text: str
    usage: Usage
    finish_reason: str | None
    model: str | None
    tool_uses: tuple[ToolUse, ...] = ()


class Models:
    """Routes a question to its model. `concurrency` of a model bounds the questions at once from this process."""

    def __init__(self, mesh: Mesh, backend: ModelBackend, guard: Guard) -> None:
        self._mesh = mesh
        self._backend = backend
        self._guard = guard
        self._limits = {name: anyio.Semaphore(model.concurrency) for name, model in mesh.file.models.items()}

    async def chat(
        self, principal: Principal, request: ChatRequest, *, on_progress: Progress | None = None
    ) -> AsyncGenerator[ChatChunk, None]:
        """Streams the answer. NotFound for a model that the mesh does not have; PolicyDenied; errors of ModelBackend.chat."""
        request = replace(request, model=self.name(request.model))
        self._guard.authorize(principal, Action("models.chat", f"model:{request.model}"))
        # Closed at once when the reader leaves: a model must not go on writing for nobody.
        async with self._limits[request.model], aclosing(self._backend.chat(request, on_progress)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    async def ask(self, request: ChatRequest, on_progress: Progress | None = None) -> Answer:
        """The whole answer at once, for a step that has asked the policies itself."""
        request = replace(request, model=self.name(request.model))
        text: list[str] = []
        usage, finish_reason, model = Usage(), None, None
        tool_uses: tuple[ToolUse, ...] = ()
        begun = monotonic()
        async with self._limits[request.model]:
            async for chunk in self._backend.chat(request, on_progress):
                if chunk.text:
                    text.append(chunk.text)
                usage = chunk.usage or usage
                finish_reason = chunk.finish_reason or finish_reason
                model = chunk.model or model
                tool_uses += chunk.tool_uses
        seconds = usage.seconds or monotonic() - begun
        return Answer("".join(text), replace(usage, seconds=seconds), finish_reason, model, tool_uses)

    def list(self, principal: Principal) -> list[str]:
        """The models that the principal may ask, by name. Does not wait."""
        return [name for name in sorted(self._limits) if self._may_ask(principal, name)]

    def get(self, principal: Principal, name: str) -> str:
        """The model's name; NotFound when there is none that the principal may ask."""
        if name in self._limits and self._may_ask(principal, name):
            return name
        raise NotFound(f"there is no model {name!r}; there are: {', '.join(self.list(principal)) or 'none'}")

    def _may_ask(self, principal: Principal, name: str) -> bool:
        return self._guard.allows(principal, Action("models.chat", f"model:{name}", listing=True))

    def status(self) -> Mapping[str, ModelStatus]:
        """Where each model stands now."""
        return self._backend.status()

    def name(self, model: str | None) -> str:
        """The model meant: the one named, else the mesh's default. NotFound says what there is."""
        named = model or self._mesh.file.default_model
        if named is None and len(self._limits) == 1:
            named = next(iter(self._limits))
        if named is None:
            raise NotFound("no model is named and agentmesh.yaml has no `default_model`")
        if named not in self._limits:
            close = get_close_matches(named, self._limits, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(self._limits) or 'none'}"
            raise NotFound(f"there is no model {named!r} in agentmesh.yaml{hint}")
        return named
