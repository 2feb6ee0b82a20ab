# ruff: noqa: ASYNC110, ASYNC220  other processes and their files can only be looked at, again and again
"""The models' child and its supervisor, around a cluster of sleeping processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from agentmesh.adapters.model_child import ModelChild, Pace
from agentmesh.adapters.model_link import Home, to_line
from agentmesh.adapters.processes import end_marked, listeners, marked, process
from agentmesh.core.model import Deploy, Model, ModelState
from agentmesh.errors import ModelFailed, ModelUnavailable

pytestmark = pytest.mark.anyio

FAKE = (sys.executable, str(Path(__file__).with_name("fake_child.py")))
READY = ("http://127.0.0.1:1/tiny/v1",)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def mesh(tmp_path):
    """A mesh folder with something that looks like weights; nothing of it runs on afterwards."""
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (weights / name).write_text("{}")
    home = Home(tmp_path / ".agentmesh" / "models")
    home.prepare()
    yield tmp_path
    end_marked(home.mesh_id)
    home.remove_runs()


def child(mesh: Path, *, source: str = "./weights", **options) -> ModelChild:
    models = {"tiny": Model(source=source, deploy=Deploy())}
    return ModelChild(mesh, models, program=FAKE, pace=Pace(backoff=0.05), **options)


def home_of(mesh: Path) -> Home:
    return Home(mesh / ".agentmesh" / "models")


def behave(mesh: Path, **behaviour) -> None:
    (home_of(mesh).folder / "fake.json").write_text(json.dumps(behaviour))


async def gone(mesh: Path) -> None:
    """Wait until no process of the mesh is left."""
    while await anyio.to_thread.run_sync(marked, home_of(mesh).mesh_id):
        await anyio.sleep(0.02)


async def until(models: ModelChild, state: ModelState) -> None:
    while models.status()["tiny"].state is not state:
        await anyio.sleep(0.01)


async def test_a_model_becomes_ready_and_says_what_it_waits_for(mesh):
    """Entering returns at once; `wait_ready` tells its progress and returns the replicas' addresses."""
    behave(mesh, delay=0.3)
    said: list[str] = []
    with anyio.fail_after(20):
        async with child(mesh) as models:
            assert models.status()["tiny"].state is ModelState.STARTING
            assert await models.wait_ready("tiny", said.append) == READY
            assert models.status()["tiny"].replicas == 1
    assert "waiting for model 'tiny': loading the weights" in said


async def test_leaving_leaves_nothing(mesh):
    """No process, no run folder, no state: whatever the child had started, in whatever session."""
    with anyio.fail_after(20):
        async with child(mesh) as models:
            await models.wait_ready("tiny")
            state = home_of(mesh).load()
            while len(marked(home_of(mesh).mesh_id)) < 3:  # child, raylet and replica, when the last has its program
                await anyio.sleep(0.01)
    assert marked(home_of(mesh).mesh_id) == []
    assert not Path(state.run).exists()
    assert home_of(mesh).load() is None
    assert models.status()["tiny"].state is ModelState.STOPPED


async def test_what_it_writes_is_its_owners_alone(mesh):
    """Token and state are 0600; the run folder, with the socket in it, is 0700."""
    with anyio.fail_after(20):
        async with child(mesh) as models:
            await models.wait_ready("tiny")
            home = home_of(mesh)
            assert (home.folder / "token").stat().st_mode & 0o777 == 0o600
            assert (home.folder / "state.json").stat().st_mode & 0o777 == 0o600
            assert Path(home.load().run).stat().st_mode & 0o777 == 0o700
            assert listeners([home.load().pid]) == []


async def test_secrets_of_the_mesh_do_not_reach_the_models(mesh):
    """The child's environment has the mark, and none of the server's own settings."""
    environ = {**os.environ, "AGENTMESH_SECRET_KEY": "do-not-pass", "HF_TOKEN": "theirs"}
    with anyio.fail_after(20):
        async with child(mesh, environ=environ) as models:
            await models.wait_ready("tiny")
            given = Path(f"/proc/{home_of(mesh).load().pid}/environ").read_bytes()
    assert b"do-not-pass" not in given
    assert b"HF_TOKEN=theirs" in given


async def test_a_missing_folder_fails_before_anything_starts(mesh):
    """The error names the folder and what to put there; no process is started for it."""
    with anyio.fail_after(20):
        async with child(mesh, source="./nowhere") as models:
            with pytest.raises(ModelFailed, match=rf"{mesh}/nowhere is missing; put config.json"):
                await models.wait_ready("tiny")
            assert marked(home_of(mesh).mesh_id) == []


async def test_an_incomplete_folder_says_what_it_lacks(mesh):
    (mesh / "weights" / "model.safetensors").unlink()
    with anyio.fail_after(20):
        async with child(mesh) as models:
            with pytest.raises(ModelFailed, match="has no weights"):
                await models.wait_ready("tiny")


async def test_a_model_that_cannot_start_says_why(mesh):
    """The cause the replica gave stands in the error, with the log that says more."""
    behave(mesh, fails=True)
    with anyio.fail_after(20):
        async with child(mesh) as models:
            with pytest.raises(ModelFailed, match=r"ValueError: bad weights; its log is .*tiny\.log"):
                await models.wait_ready("tiny")


async def test_a_wait_ends(mesh):
    """A model that is not ready in time is unavailable, with what it was doing."""
    behave(mesh, delay=60)
    with anyio.fail_after(20):
        async with child(mesh) as models:
            await until(models, ModelState.LOADING)
            with pytest.raises(ModelUnavailable, match=r"not ready within 0 s \(loading the weights|starting"):
                await models.wait_ready("tiny", timeout=0.05)


async def test_kept_models_are_found_warm(mesh):
    """With `keep_models` the child stays, and the next server finds it ready without starting anything."""
    with anyio.fail_after(20):
        async with child(mesh, keep_models=True) as first:
            await first.wait_ready("tiny")
        kept = home_of(mesh).load()
        assert kept.process.alive()
        async with child(mesh) as second:
            assert await second.wait_ready("tiny") == READY
            assert second.attached
            assert home_of(mesh).load() == kept
    assert marked(home_of(mesh).mesh_id) == []


async def test_a_child_without_a_server_stops(mesh):
    """After `grace` seconds alone it ends everything it started, and itself."""
    with anyio.fail_after(20):
        async with child(mesh, keep_models=True, grace=0.4) as models:
            await models.wait_ready("tiny")
        await gone(mesh)
    assert home_of(mesh).load() is None


async def test_a_server_killed_leaves_its_models(mesh):
    """kill -9 of the server: the child goes on, and the next server attaches."""
    script = (
        "import anyio, sys, os, pathlib\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from tests.adapters.test_model_child import child\n"
        "async def main():\n"
        "    async with child(pathlib.Path(sys.argv[1])) as models:\n"
        "        await models.wait_ready('tiny')\n"
        "        print('ready', flush=True)\n"
        "        await anyio.sleep(60)\n"
        "anyio.run(main)\n"
    )
    root = str(Path(__file__).parents[2])
    with anyio.fail_after(30):
        server = subprocess.Popen([sys.executable, "-c", script, str(mesh), root], stdout=subprocess.PIPE)
        try:
            assert await anyio.to_thread.run_sync(server.stdout.readline) == b"ready\n"
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
        async with child(mesh) as models:
            await models.wait_ready("tiny")
            assert models.attached


async def test_a_killed_child_is_replaced(mesh):
    """kill -9 of the child: what it left is ended, and another one brings the models back."""
    with anyio.fail_after(30):
        async with child(mesh) as models:
            await models.wait_ready("tiny")
            before = set(marked(home_of(mesh).mesh_id))
            os.kill(home_of(mesh).load().pid, signal.SIGKILL)
            await until(models, ModelState.STARTING)
            assert "died" in models.status()["tiny"].message
            await models.wait_ready("tiny")
            assert not before & set(marked(home_of(mesh).mesh_id))


async def test_a_lost_cluster_is_built_again(mesh):
    """kill -9 of the raylet: the child ends the rest of the cluster, and starts another in the same process."""
    with anyio.fail_after(30):
        async with child(mesh) as models:
            await models.wait_ready("tiny")
            pid = home_of(mesh).load().pid
            before = set(marked(home_of(mesh).mesh_id)) - {pid}
            os.kill(int((home_of(mesh).folder / "raylet.pid").read_text()), signal.SIGKILL)
            await until(models, ModelState.STARTING)
            await models.wait_ready("tiny")
            assert home_of(mesh).load().pid == pid
            assert not before & set(marked(home_of(mesh).mesh_id))


async def test_a_dead_replica_is_not_offered(mesh):
    """Serve may take seconds to notice; the child looks at the process itself."""
    with anyio.fail_after(20):
        async with child(mesh) as models:
            await models.wait_ready("tiny")
            known = {home_of(mesh).load().pid, int((home_of(mesh).folder / "raylet.pid").read_text())}
            while not (others := set(marked(home_of(mesh).mesh_id)) - known):
                await anyio.sleep(0.01)
            (replica,) = others
            os.kill(replica, signal.SIGKILL)
            await until(models, ModelState.LOADING)
            assert models.status()["tiny"].urls == ()


async def test_a_child_of_another_release_is_replaced(mesh):
    """A child that says another version in its greeting is ended, not talked to."""
    behave(mesh, version="0.0.1")
    home = home_of(mesh)
    with anyio.fail_after(30):
        async with child(mesh):
            while home.load() is None or home.load().pid == 0:
                await anyio.sleep(0.01)
            old = home.load()
            while home.load() is None or home.load().pid in {0, old.pid}:
                await anyio.sleep(0.01)
            assert process(old.pid) != old.process


async def test_the_link_asks_for_the_token(mesh):
    """A connection that does not show the mesh's token is closed without a word."""
    with anyio.fail_after(20):
        async with child(mesh) as models:
            await models.wait_ready("tiny")
            async with await anyio.connect_unix(home_of(mesh).load().socket) as stream:
                await stream.send(to_line({"token": "guess"}))
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()


async def test_the_server_never_imports_ray():
    """Nor vLLM, nor torch: the supervisor and the backend start in a fraction of a second."""
    code = (
        "import sys, agentmesh.adapters.model_child, agentmesh.adapters.openai_http\n"
        "print(sorted({'ray', 'vllm', 'torch', 'transformers', 'agentmesh.adapters.ray_deploy'} & set(sys.modules)))"
    )
    done = await anyio.run_process([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert done.stdout == b"[]\n"
