"""The open sources of a mesh: all of the new ones, or none, before any of the old ones goes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_outside import ScriptedHttp
from agentmesh.adapters.memory_source import MemorySource
from agentmesh.adapters.sources import SourceSet
from agentmesh.errors import Fail

pytestmark = pytest.mark.anyio


class Living(MemorySource):
    """One that can be opened and closed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.opened = False
        self.closed = anyio.Event()

    async def __aenter__(self) -> Living:
        self.opened = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.closed.set()


class Scripted(SourceSet):
    """Opens what its mesh says, and fails where that says `bad`."""

    async def _make(self, name: str, made_of: Any) -> Any:
        if made_of.bad:
            raise Fail("it cannot be opened")
        return Living(name)


def mesh(**servers: tuple[int, bool]) -> Any:
    made = {name: SimpleNamespace(is_source=True, version=v, bad=bad) for name, (v, bad) in servers.items()}
    return SimpleNamespace(servers=made, file=SimpleNamespace(agents={}))


async def test_a_source_that_cannot_be_opened_leaves_all_as_it_was() -> None:
    """What was to come beside it is closed again; what was served goes on, and the next try finds it."""
    async with Scripted(Path(), MemoryStore(), ScriptedHttp([])) as sources:
        one, two = await sources.replace(mesh(a=(1, False), b=(1, False)))
        with pytest.raises(Fail):
            await sources.replace(mesh(a=(2, False), b=(2, True)))
        again = await sources.replace(mesh(a=(1, False), b=(1, False)))
        assert [one, two] == list(again)
        assert isinstance(one, Living)
        assert not one.closed.is_set()


async def test_one_that_has_gone_is_closed_when_nobody_waits_for_it() -> None:
    """A call that was begun before ends first."""
    async with Scripted(Path(), MemoryStore(), ScriptedHttp([])) as sources:
        (one,) = await sources.replace(mesh(a=(1, False)))
        assert isinstance(one, Living)
        one.busy = 1
        assert await sources.replace(mesh()) == []
        with anyio.move_on_after(1.2) as waited:
            await one.closed.wait()
        assert waited.cancelled_caught
        one.busy = 0
        with anyio.fail_after(5):
            await one.closed.wait()
