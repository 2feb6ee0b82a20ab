"""A backup is whole, made while others write, and can be restored."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from pathlib import Path

import anyio
import pytest
from typer.testing import CliRunner

from agentmesh.adapters.sql.store import SqlStore, open_store
from agentmesh.cli.main import app
from agentmesh.core.run import Entry, Kind, Run
from agentmesh.core.store import RunFilter
from agentmesh.errors import NotBuilt, StoreError
from tests.postgres import Postgres, find

pytestmark = pytest.mark.anyio
URL = "sqlite:///mesh.db"


def _done(path: str, output: object = None) -> Entry:
    return Entry(Kind.STEP_COMPLETED, path, 1, {"verb": "set", "output": output})


async def _begun(store: SqlStore) -> int:
    await store.start_run(Run("r", "w", "d", {"log": "x" * 50_000}), {"name": "w"})
    (claim,) = await store.claim("w1", limit=1)
    await store.append("r", claim.epoch, [_done("before", 1)], put={("s", "k"): 1})
    return claim.epoch


async def _restored(store: SqlStore) -> list[str]:
    """The steps it knows; it takes new ones."""
    (claim,) = await store.claim("w2", limit=1)
    assert claim.run.input == {"log": "x" * 50_000}
    assert await store.get("s", "k") == 1
    assert await store.get_definition("d") == {"name": "w"}
    await store.append("r", claim.epoch, [_done("after")])
    entries = await store.entries("r")
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    return [entry.path for entry in entries if entry.path]


async def test_backup_while_writing_is_one_moment(tmp_path: Path) -> None:
    """Copies made while rows are written each hold a whole beginning of the journal, and a restored one goes on."""
    copies = [tmp_path / f"copy{i}" / "mesh.db" for i in range(4)]
    async with open_store(URL, tmp_path) as store:
        epoch = await _begun(store)
        ended = anyio.Event()

        async def write() -> None:
            n = 0
            while not ended.is_set():
                await store.append("r", epoch, [_done(f"s{n}", "y" * 500), _done(f"t{n}")], put={("n", "n"): n})
                n += 1

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                for copy in copies:
                    copy.parent.mkdir()
                    assert await store.backup(copy) > 10_000
                    await store.put("s", "between", str(copy))
                ended.set()
        written = [entry.path for entry in await store.entries("r") if entry.path]
    lengths = []
    for copy in copies:
        assert [file.name for file in copy.parent.iterdir()] == ["mesh.db"]
        async with open_store(URL, copy.parent) as store:
            n = await store.get("n", "n")
            paths = await _restored(store)
        assert paths[:-1] == written[: len(paths) - 1]
        assert paths[-2:] == [f"t{n}", "after"] if n is not None else paths == ["before", "after"]
        lengths.append(len(paths))
    assert lengths == sorted(lengths)


async def test_a_copy_that_fails_changes_nothing(tmp_path: Path) -> None:
    """No such folder, a folder in its place, or the database itself: one sentence, and an earlier copy stays."""
    async with open_store(URL, tmp_path) as store:
        await _begun(store)
        await store.backup(tmp_path / "copy.db")
        before = (tmp_path / "copy.db").read_bytes()
        (tmp_path / "folder").mkdir()
        for place in (tmp_path / "nowhere" / "x.db", tmp_path / "folder"):
            with pytest.raises(StoreError, match="could not be copied"):
                await store.backup(place)
        with pytest.raises(StoreError, match="the database itself"):
            await store.backup(tmp_path / "mesh.db")
    assert (tmp_path / "copy.db").read_bytes() == before
    assert not list(tmp_path.glob("**/*.part"))


def test_the_command_needs_no_server(tmp_path: Path) -> None:
    """`agentmesh backup FILE` copies the store that agentmesh.yaml names, whatever else is wrong in the folder."""
    (tmp_path / "agentmesh.yaml").write_text("name: x\nstore: sqlite:///data.db\n")
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "bad.yaml").write_text("steps: [")
    runner = CliRunner()
    missing = runner.invoke(app, ["backup", str(tmp_path / "copy.db"), "--mesh", str(tmp_path)])
    assert isinstance(missing.exception, StoreError)
    with sqlite3.connect(tmp_path / "data.db") as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    made = runner.invoke(app, ["backup", str(tmp_path / "copy.db"), "--mesh", str(tmp_path), "--json"])
    assert made.exit_code == 0
    assert f'"bytes": {(tmp_path / "copy.db").stat().st_size}' in made.stdout


async def test_postgresql_is_backed_up_by_its_own_tools(postgres: Postgres, postgres_url: str, tmp_path: Path) -> None:
    """`pg_dump` and `pg_restore`, as docs/backup.md has them; our own command says so."""
    programs = find()
    assert programs is not None
    dump = tmp_path / "backup.dump"
    async with open_store(postgres_url, tmp_path) as store:
        epoch = await _begun(store)
        with pytest.raises(NotBuilt, match="pg_dump"):
            await store.backup(tmp_path / "copy.db")
        subprocess.run(  # noqa: ASYNC221 - nothing else is to happen meanwhile
            [programs / "pg_dump", "--format=custom", f"--file={dump}", postgres_url], check=True, timeout=60
        )
        await store.append("r", epoch, [_done("forgotten")])
        await store.release("r", epoch)
    restore = [programs / "pg_restore", "--clean", "--if-exists", "--no-owner", f"--dbname={postgres_url}", dump]
    subprocess.run(restore, check=True, timeout=60)  # noqa: ASYNC221
    async with SqlStore(store._url, clock=lambda: 4e9, own_clock=True) as store:
        assert (await store.list_runs(RunFilter())).total == 1
        assert await _restored(store) == ["before", "after"]


async def test_restoring_over_an_old_file(tmp_path: Path) -> None:
    """As docs/backup.md has it: the old file's companions are removed, and the copy takes its place."""
    async with open_store(URL, tmp_path) as store:
        epoch = await _begun(store)
        await store.backup(tmp_path / "backup.db")
        await store.append("r", epoch, [_done("forgotten")])
    for name in ("mesh.db-wal", "mesh.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup.db", tmp_path / "mesh.db")
    async with open_store(URL, tmp_path) as store:
        assert await _restored(store) == ["before", "after"]
