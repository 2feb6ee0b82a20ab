"""What is written in one turn of the loop leaves in one write, all of it and in its order."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from agentmesh.http.joined import LARGE, Joined

pytestmark = pytest.mark.anyio


class Fake(asyncio.Transport):
    """Remembers what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("close")
        self.closed = True

    def abort(self) -> None:
        self.done.append("abort")
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 7


def joined() -> tuple[Fake, Joined]:
    fake = Fake()
    return fake, Joined(fake, asyncio.get_running_loop())


async def test_writes_of_one_turn_are_one() -> None:
    """Later turns have writes of their own."""
    fake, transport = joined()
    transport.write(b"head")
    transport.write(b"body")
    assert fake.done == []
    assert transport.get_write_buffer_size() == 7 + 8
    await anyio.lowlevel.checkpoint()
    assert fake.done == [b"headbody"]
    transport.writelines([b"a", b"b"])
    await anyio.lowlevel.checkpoint()
    assert fake.done == [b"headbody", b"ab"]


async def test_what_is_held_is_written_before_the_end() -> None:
    """Closing loses nothing; aborting does, as it says."""
    fake, transport = joined()
    transport.write(b"last words")
    transport.close()
    assert fake.done == [b"last words", "close"]
    fake, transport = joined()
    transport.write(b"last words")
    transport.abort()
    await anyio.lowlevel.checkpoint()
    assert fake.done == ["abort"]


async def test_large_writes_are_not_kept() -> None:
    """They leave at once, behind what was written before them."""
    fake, transport = joined()
    transport.write(b"head")
    transport.write(b"x" * (LARGE + 1))
    assert [len(data) for data in fake.done] == [LARGE + 5]


async def test_nothing_is_written_to_somebody_who_has_gone() -> None:
    """The event loop would only complain."""
    fake, transport = joined()
    transport.write(b"head")
    fake.closed = True
    await anyio.lowlevel.checkpoint()
    assert fake.done == []
