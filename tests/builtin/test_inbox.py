"""The inbox hands each file on once, and only reads."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from agentmesh.builtin.inbox import LARGEST, new_files, read
from agentmesh.core.context import Context
from agentmesh.errors import Fail


def put(folder: Path, name: str, data: bytes, *, at: float = 1000.0) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    os.utime(folder / name, (at, at))


def look(root: Path, state: dict[str, Any], *, now: float = 2000.0, **more: Any) -> dict[str, Any]:
    """Looks once, and keeps what would be committed."""
    context = Context(key="k", folder=root, state=state)
    found = new_files(context, now=lambda: now, **more)
    state.update(context.puts)
    return found


def test_a_file_is_told_once(tmp_path: Path) -> None:
    """Name, size and hash; then not again until its content changes."""
    state: dict[str, Any] = {}
    put(tmp_path / "inbox", "a.log", b"one")
    expected = {"name": "a.log", "size": 3, "sha256": hashlib.sha256(b"one").hexdigest()}
    assert look(tmp_path, state) == {"files": [expected], "skipped": []}
    assert look(tmp_path, state)["files"] == []
    put(tmp_path / "inbox", "a.log", b"one", at=1500)
    assert look(tmp_path, state)["files"] == []
    put(tmp_path / "inbox", "a.log", b"two", at=1600)
    assert [f["sha256"] for f in look(tmp_path, state)["files"]] == [hashlib.sha256(b"two").hexdigest()]


def test_what_was_not_committed_is_told_again(tmp_path: Path) -> None:
    """A step that died before its commit lost nothing."""
    put(tmp_path / "inbox", "a.log", b"one")
    assert len(look(tmp_path, {})["files"]) == len(look(tmp_path, {})["files"]) == 1


def test_a_file_that_still_changes_is_left_for_later(tmp_path: Path) -> None:
    """Until it has rested for `settle` seconds."""
    state: dict[str, Any] = {}
    put(tmp_path / "inbox", "a.log", b"one", at=1998)
    assert look(tmp_path, state, now=2000, settle=5)["files"] == []
    assert len(look(tmp_path, state, now=2003, settle=5)["files"]) == 1


def test_there_are_bounds(tmp_path: Path) -> None:
    """Too many wait for the next time, too large is told once with a note; oldest first."""
    state: dict[str, Any] = {}
    for i in range(5):
        put(tmp_path / "inbox", f"{i}.log", b"x%d" % i, at=1000.0 - i)
    put(tmp_path / "inbox", "big.log", b"x" * (LARGEST + 1), at=1.0)
    first = look(tmp_path, state, most=3)
    assert [f["name"] for f in first["files"]] == ["4.log", "3.log", "2.log"]
    assert [s["name"] for s in first["skipped"]] == ["big.log", ""]
    assert "1,000,001 bytes are more than 1,000,000" in first["skipped"][0]["note"]
    second = look(tmp_path, state, most=3)
    assert [f["name"] for f in second["files"]] == ["1.log", "0.log"]
    assert second["skipped"] == []


def test_only_ordinary_files_that_match(tmp_path: Path) -> None:
    """No links, no hidden files, no folders; a missing folder is empty."""
    inbox = tmp_path / "inbox"
    put(inbox, "a.log", b"one")
    put(inbox, "a.txt", b"one")
    put(inbox, ".hidden.log", b"one")
    (inbox / "folder.log").mkdir()
    (inbox / "link.log").symlink_to("/etc/passwd")
    os.mkfifo(inbox / "pipe.log")
    assert [f["name"] for f in look(tmp_path, {}, pattern="*.log")["files"]] == ["a.log"]
    assert look(tmp_path, {}, folder="nowhere") == {"files": [], "skipped": []}


@pytest.mark.parametrize("folder", ["..", "../x", "/etc", "inbox/../.."])
def test_nothing_outside_the_mesh_is_read(tmp_path: Path, folder: str) -> None:
    """The folder is inside the mesh's; a name is no path."""
    context = Context(key="k", folder=tmp_path)
    with pytest.raises(Fail, match="not inside"):
        new_files(context, folder=folder)
    with pytest.raises(Fail):
        read(context, name="../x")
    with pytest.raises(Fail):
        read(context, name="passwd", folder=folder)


def test_read_gives_the_text_that_was_listed(tmp_path: Path) -> None:
    """What is not UTF-8 is replaced; a file that changed in between fails."""
    put(tmp_path / "inbox", "a.log", b"caf\xe9")
    context = Context(key="k", folder=tmp_path)
    digest = hashlib.sha256(b"caf\xe9").hexdigest()
    assert read(context, name="a.log", sha256=digest) == "caf\ufffd"
    with pytest.raises(Fail, match="changed"):
        read(context, name="a.log", sha256="0" * 64)
    (tmp_path / "inbox" / "link").symlink_to("/etc/passwd")
    with pytest.raises(Fail, match="cannot be read"):
        read(context, name="link")
