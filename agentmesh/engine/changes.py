"""Changes: tells whoever listens that a list, or a resource, is not what it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio

from agentmesh.core.source import Change

URIS = 1000
"""Changed resources remembered for a listener that is slow; past that it hears that the list changed, which covers them."""

Heard = tuple[Change, str | None]


class Changes:
    """One for a mesh. What a slow listener missed is told once: a change is news, not a count."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def publish(self, change: Change, uri: str | None = None) -> None:
        """Tells everybody; never waits. `uri`: of the resource with `updated`."""
        for listener in self._listeners:
            listener.hear(change, uri)

    @contextmanager
    def subscribe(self) -> Iterator[AsyncIterator[Heard]]:
        """What changes from now on, for one reader."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class _Listener:
    """What one reader has not read yet, each once and in order."""

    def __init__(self) -> None:
        self._waiting: dict[Heard, None] = {}
        self._news = anyio.Event()

    def hear(self, change: Change, uri: str | None) -> None:
        if len(self._waiting) >= URIS:
            change, uri = ("resources", None) if change == "updated" else (change, None)
        self._waiting.setdefault((change, uri))
        self._news.set()

    def __aiter__(self) -> _Listener:
        return self

    async def __anext__(self) -> Heard:
        while not self._waiting:
            self._news = anyio.Event()
            await self._news.wait()
        first = next(iter(self._waiting))
        del self._waiting[first]
        return first
