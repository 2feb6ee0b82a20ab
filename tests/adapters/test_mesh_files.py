"""Files of resources: what is shown, and what never is, whatever the path says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentmesh.adapters.mesh_files import LARGEST, FolderFiles
from agentmesh.errors import NotFound, TooLarge

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A mesh folder with things in and around it that nobody may see."""
    mesh = tmp_path / "mesh"
    for name, text in {
        "docs/a.md": "# A", "docs/.hidden.md": "h", ".env": "KEY=1", ".agentmesh/server.json": "{}", "mesh.db": "rows",
        "mounted/KEY": "s3cret", "docs/deep/b.md": "B",
    }.items():  # fmt: skip
        (mesh / name).parent.mkdir(parents=True, exist_ok=True)
        (mesh / name).write_text(text)
    (tmp_path / "outside.md").write_text("outside")
    (mesh / "docs" / "link.md").symlink_to(tmp_path / "outside.md")
    (mesh / "linked").symlink_to(tmp_path)
    os.mkfifo(mesh / "docs" / "pipe.md")
    return mesh


async def test_files_in_the_folder_are_read(folder: Path) -> None:
    """With or without ./ before them."""
    files = FolderFiles(folder)
    assert [await files.read(path) for path in ("docs/a.md", "./docs/a.md", "docs/deep/b.md")] == [b"# A", b"# A", b"B"]


@pytest.mark.parametrize(
    "path",
    [
        "docs/none.md", "docs", "docs/", "", "/etc/passwd", "../outside.md", "docs/../../outside.md", "docs/link.md",
        "linked/outside.md", "docs/.hidden.md", ".env", ".agentmesh/server.json", "mesh.db", "MESH.DB", "mounted/KEY",
        "docs//a.md", "docs/a.md\0", "docs\\a.md", "docs/pipe.md", "docs/a.md/b", "x" * 5000,
    ],
)  # fmt: skip
async def test_nothing_else_is(folder: Path, path: str) -> None:
    """One answer for what is not there and for what may not be seen; a pipe is not waited for."""
    files = FolderFiles(folder, folder / "mounted")
    with pytest.raises(NotFound):
        await files.read(path)
    assert await files.stamp(path) is None


async def test_a_file_that_is_too_large_is_refused(folder: Path) -> None:
    """It is one message."""
    with (folder / "docs" / "large.bin").open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(TooLarge):
        await FolderFiles(folder).read("docs/large.bin")


async def test_a_stamp_is_another_when_the_file_is(folder: Path) -> None:
    """Written anew, replaced, removed."""
    files, path = FolderFiles(folder), folder / "docs" / "a.md"
    stamps = [await files.stamp("docs/a.md")]
    path.write_text("# AA")
    stamps.append(await files.stamp("docs/a.md"))
    draft = folder / "docs" / "draft"
    draft.write_text("# AA")
    draft.replace(path)
    stamps.append(await files.stamp("docs/a.md"))
    path.unlink()
    stamps.append(await files.stamp("docs/a.md"))
    assert len(set(stamps)) == 4
    assert stamps[-1] is None
