# ruff: noqa: ASYNC110, ASYNC220  processes can only be looked at, and the server that is killed is one
"""Real vLLM on real Ray, on the CPU: deployed, asked, killed part by part, found again and stopped.

The tests share one mesh, whose models are kept between them (which is one of the things tested); each also runs alone.
"""

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

from agentmesh.adapters.model_child import ModelChild
from agentmesh.adapters.model_link import Home
from agentmesh.adapters.openai_http import OpenAiHttp
from agentmesh.adapters.processes import end_marked, listeners, marked
from agentmesh.core.model import ChatRequest, Deploy, Model, ModelState
from tests.real.weights import write_model

pytestmark = [pytest.mark.anyio, pytest.mark.real, pytest.mark.timeout(240)]

MODELS = {"tiny": Model(source="./weights", deploy=Deploy())}
SCHEMA = {
    "type": "object",
    "properties": {"cause": {"enum": ["assertion", "network"]}, "sure": {"type": "boolean"}},
    "required": ["cause", "sure"],
    "additionalProperties": False,
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    """A mesh folder with a small random model; whatever a test leaves is ended at last."""
    folder = tmp_path_factory.mktemp("mesh")
    write_model(folder / "weights")
    yield folder
    home = home_of(folder)
    end_marked(home.mesh_id)
    home.remove_runs()


def home_of(mesh: Path) -> Home:
    return Home(mesh / ".agentmesh" / "models")


def child(mesh: Path, *, keep_models: bool = True) -> ModelChild:
    return ModelChild(mesh, MODELS, keep_models=keep_models)


async def ask(models: ModelChild, said: list[str] | None = None, prompt: str = "why?", **fields) -> str:
    async with OpenAiHttp(MODELS, models, model_wait=200) as backend:
        request = ChatRequest("tiny", [{"role": "user", "content": prompt}], seed=1, **{"max_tokens": 16, **fields})
        progress = None if said is None else said.append
        return "".join([chunk.text async for chunk in backend.chat(request, progress)])


def pid_of(mesh: Path, *names: str) -> int:
    """The mesh's process whose command or title has one of these names."""
    for pid in marked(home_of(mesh).mesh_id):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        if any(name in command.rsplit("/", 1)[-1] for name in names):
            return pid
    raise AssertionError(f"no process named {names}")


async def test_a_model_answers_and_nothing_listens_beyond_loopback(mesh):
    """The first call waits for the model and is told so; every listener of Ray, Serve and vLLM is on loopback."""
    said: list[str] = []
    async with child(mesh) as models:
        await ask(models, said, "x", max_tokens=4)  # so short that nothing has used the processor's tiles before
        assert any("vLLM" in line for line in said) or models.attached
        pids = marked(home_of(mesh).mesh_id)
        bound = listeners(pids)
        assert len({pid for pid, _, _ in bound}) >= 4
        assert {address for _, address, _ in bound} <= {"127.0.0.1", "::1"}
        token = next(Path(home_of(mesh).load().run).glob("ray-token"))
        assert token.stat().st_mode & 0o777 == 0o600
        status = models.status()["tiny"]
        assert (status.state, status.replicas) == (ModelState.READY, 1)
        assert "Starting to load model" in Path(status.log).read_text()


async def test_ray_asks_for_its_token(mesh):
    """A process of the same machine that does not hold the token is not let into the cluster."""
    async with child(mesh) as models:
        await models.wait_ready("tiny")
        gcs = pid_of(mesh, "gcs_server")
        port = next(port for pid, _, port in listeners([gcs]) if pid == gcs)
        code = (
            "from ray._raylet import GcsClient\n"
            f"print(GcsClient(address='127.0.0.1:{port}').internal_kv_keys(b'', b'serve', timeout=5))\n"
        )
        environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_AUTH_MODE": "disabled"}
        done = await anyio.run_process([sys.executable, "-c", code], check=False, env=environ)
        assert done.returncode != 0
        assert b"nauth" in done.stderr + done.stdout


async def test_answers_keep_to_a_schema_without_free_whitespace(mesh):
    """A model of random weights can only say what the schema allows, in as few characters as JSON takes."""
    async with child(mesh) as models:
        text = await ask(models, schema=SCHEMA, max_tokens=60)
        answer = json.loads(text)
        assert answer["cause"] in SCHEMA["properties"]["cause"]["enum"]
        assert text == json.dumps(answer, separators=(",", ":"))


async def test_a_stream_gives_the_whole_answers_text(mesh):
    """Streamed or whole, the same seed at temperature 0 gives the same text."""
    async with child(mesh) as models:
        assert await ask(models, stream=True, temperature=0.0) == await ask(models, temperature=0.0)


async def test_a_killed_server_leaves_the_model_warm(mesh):
    """kill -9 of the server: the next one finds the model ready within two seconds."""
    code = (
        "import anyio, sys, pathlib\n"
        "from tests.real.test_models_real import child\n"
        "async def main():\n"
        "    async with child(pathlib.Path(sys.argv[1]), keep_models=False) as models:\n"
        "        await models.wait_ready('tiny')\n"
        "        print('ready', flush=True)\n"
        "        await anyio.sleep(600)\n"
        "anyio.run(main)\n"
    )
    arguments = [sys.executable, "-c", code, str(mesh)]
    server = subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        assert await anyio.to_thread.run_sync(server.stdout.readline) == b"ready\n"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    with anyio.fail_after(2):
        async with child(mesh) as models:
            await models.wait_ready("tiny")
            assert models.attached


async def test_two_meshes_live_on_one_machine(mesh, tmp_path):
    """Each has ports and processes of its own; stopping one leaves the other warm."""
    write_model(tmp_path / "weights", seed=2)
    try:
        async with child(mesh) as first:
            await first.wait_ready("tiny")
            async with child(tmp_path, keep_models=False) as second:
                with anyio.fail_after(150):
                    assert await ask(second)
                assert await ask(first)
                assert not set(first.status()["tiny"].urls) & set(second.status()["tiny"].urls)
                assert {address for _, address, _ in listeners(marked(home_of(tmp_path).mesh_id))} <= {
                    "127.0.0.1",
                    "::1",
                }
            assert marked(home_of(tmp_path).mesh_id) == []
            assert await ask(first)
    finally:
        end_marked(home_of(tmp_path).mesh_id)
        home_of(tmp_path).remove_runs()


@pytest.mark.parametrize("victim", ["VLLM::EngineCore", "raylet", "child"])
async def test_what_is_killed_comes_back_and_calls_are_answered(mesh, victim):
    """kill -9 of the engine, of the raylet, of the child: a call made at that moment waits and is answered."""
    async with child(mesh) as models:
        await models.wait_ready("tiny")
        before = set(marked(home_of(mesh).mesh_id))
        pid = home_of(mesh).load().pid if victim == "child" else pid_of(mesh, victim)
        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(150):
            if victim != "VLLM::EngineCore":
                # The replica may answer a moment longer; what counts is that the rebuilt one does.
                while models.status()["tiny"].state is ModelState.READY:
                    await anyio.sleep(0.01)
            assert await ask(models)
        after = set(marked(home_of(mesh).mesh_id))
        if victim == "child":
            assert not before & after
        elif victim == "raylet":
            assert before & after == {home_of(mesh).load().pid}
        assert pid not in after


async def test_stopping_leaves_no_process_and_no_folder(mesh):
    """Leaving without `keep_models` ends raylet, GCS, agents, replicas and engines within seconds."""
    async with child(mesh, keep_models=False) as models:
        await models.wait_ready("tiny")
        run = home_of(mesh).load().run
        assert len(marked(home_of(mesh).mesh_id)) > 8
        with anyio.fail_after(10):
            await models.stop()
    assert marked(home_of(mesh).mesh_id) == []
    assert not Path(run).exists()
