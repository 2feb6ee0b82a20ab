"""Watch: that project files have changed is noticed, once they are still."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from agentmesh.adapters.watch import FolderWatch

pytestmark = pytest.mark.anyio


class Sleeps:
    """A `sleep` that does what a test says at each call, and takes no time."""

    def __init__(self, *does: Callable[[], object]) -> None:
        self.left = list(does)
        self.count = 0

    async def __call__(self, seconds: float) -> None:
        self.count += 1
        await anyio.lowlevel.checkpoint()
        if self.left:
            self.left.pop(0)()
        elif self.count > 100:
            await anyio.sleep_forever()


def nothing() -> None:
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agentmesh.yaml").write_text("name: a\n")
    (tmp_path / "servers").mkdir()
    (tmp_path / "servers" / "desk.yaml").write_text("name: desk\n")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("servers/desk.yaml", "name: desks\n"),
        ("servers/new.yaml", "x"),
        ("workflows/w.yml", "x"),
        ("agentmesh.yaml", None),
    ],
)
async def test_a_file_that_changes_comes_or_goes_is_noticed(folder: Path, path: str, text: str | None) -> None:
    """In a folder that was not there before, too."""

    def change() -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).unlink() if text is None else (folder / path).write_text(text)

    watch = FolderWatch(folder, sleep=Sleeps(nothing, change))
    with anyio.fail_after(5):
        await watch.changed()


@pytest.mark.parametrize("path", ["notes.md", "servers/notes.txt", "servers/.desk.yaml.swp", ".agentmesh/server.json"])
async def test_other_files_are_none_of_its_business(folder: Path, path: str) -> None:
    """Nor those that an editor leaves while it writes."""

    def change() -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text("x")

    sleeps = Sleeps(change)
    with anyio.move_on_after(1):
        await FolderWatch(folder, sleep=sleeps).changed()
        pytest.fail("nothing has changed")
    assert sleeps.count > 100


async def test_it_waits_until_the_files_are_still(folder: Path) -> None:
    """Of an update of many files no half is read; files that never come to rest are read in the end."""
    path = folder / "servers" / "desk.yaml"
    steps = [lambda i=i: path.write_text("x" * i) for i in range(5)]
    sleeps = Sleeps(*steps)
    with anyio.fail_after(5):
        await FolderWatch(folder, sleep=sleeps).changed()
    assert sleeps.count == 6
    restless = Sleeps(*[lambda i=i: path.write_text("y" * (i + 10)) for i in range(90)])
    with anyio.fail_after(5):
        await FolderWatch(folder, sleep=restless).changed()


async def test_what_changed_before_it_was_asked_is_not_lost(folder: Path) -> None:
    """It compares with what was there when it was made."""
    watch = FolderWatch(folder, sleep=Sleeps())
    (folder / "agentmesh.yaml").write_text("name: another\n")
    with anyio.fail_after(5):
        await watch.changed()
