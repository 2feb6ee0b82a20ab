"""The mesh's keys: where they come from, and what is derived of them."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentmesh.adapters.keyring import derive, load_keys
from agentmesh.errors import ServeError
from agentmesh.settings import Settings, read_settings

OLD, NEW = "o" * 32, "n" * 40


def test_keys_of_the_environment(tmp_path: Path) -> None:
    """AGENTMESH_KEYS in their order, blanks around them aside; no file is made, and no repr shows them."""
    settings = read_settings(tmp_path, {"AGENTMESH_KEYS": f"{NEW}, {OLD}"})
    assert load_keys(settings) == (NEW.encode(), OLD.encode())
    assert not (tmp_path / ".agentmesh").exists()
    assert NEW not in repr(settings)
    assert OLD not in repr(settings)


@pytest.mark.parametrize("text", ["short", f"{NEW},", f"{NEW},short"])
def test_no_key(text: str, tmp_path: Path) -> None:
    """A key that is too short to be one is refused, and not shown."""
    with pytest.raises(ServeError, match="shorter than 32 characters") as refusal:
        read_settings(tmp_path, {"AGENTMESH_KEYS": text})
    assert "short," not in str(refusal.value)
    assert NEW not in str(refusal.value)


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """Without any a key is made, for its owner's eyes only, and is there at the next start."""
    settings = Settings(tmp_path)
    (key,) = load_keys(settings)
    file = tmp_path / ".agentmesh" / "key"
    assert len(key) >= 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert load_keys(settings) == (key,)
    assert [f.name for f in file.parent.iterdir()] == ["key"]


def test_two_meshes_have_two_keys(tmp_path: Path) -> None:
    """A key is drawn, not worked out."""
    assert load_keys(Settings(tmp_path / "a")) != load_keys(Settings(tmp_path / "b"))


def test_servers_that_begin_at_once(tmp_path: Path) -> None:
    """However many begin at once, they have the same key."""
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_keys(Settings(tmp_path)), range(32)))
    assert len(keys) == 1


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    """A key that is open to others is no key any more; what to do is said."""
    load_keys(Settings(tmp_path))
    (tmp_path / ".agentmesh" / "key").chmod(0o644)
    with pytest.raises(ServeError, match="chmod 600"):
        load_keys(Settings(tmp_path))


def test_a_damaged_key(tmp_path: Path) -> None:
    """An empty file is refused rather than taken for a key, or silently replaced: what it sealed would be lost."""
    load_keys(Settings(tmp_path))
    (tmp_path / ".agentmesh" / "key").write_text("")
    with pytest.raises(ServeError, match="restore it"):
        load_keys(Settings(tmp_path))


def test_a_shared_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a database that others share the log says that they need the key; with one of its own it does not."""
    with caplog.at_level(logging.WARNING):
        load_keys(Settings(tmp_path), store_url="sqlite:///x.db")
        assert not caplog.records
        load_keys(Settings(tmp_path), store_url="postgresql://db/mesh")
    assert "AGENTMESH_KEYS" in caplog.text
    caplog.clear()
    load_keys(read_settings(tmp_path, {"AGENTMESH_KEYS": NEW}), store_url="postgresql://db/mesh")
    assert not caplog.records


def test_derived_keys() -> None:
    """One for each purpose and each key, always the same."""
    key = OLD.encode()
    assert derive(key, "vault") == derive(key, "vault")
    assert len({derive(key, "vault"), derive(key, "mcp"), derive(NEW.encode(), "vault"), key}) == 4
    assert len(derive(key, "vault", 16)) == 16
