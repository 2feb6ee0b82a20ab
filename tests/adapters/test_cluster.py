# ruff: noqa: ASYNC110  another process and its files can only be looked at, again and again
"""Functions on a cluster: the supervised child's side and the server's, around a cluster that is a thread pool."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentmesh.adapters.cluster import RayTasks, runs_on_ray
from agentmesh.adapters.model_child import ModelChild, Pace
from agentmesh.adapters.model_link import Home
from agentmesh.adapters.processes import end_marked, marked, process
from agentmesh.core.model import Deploy, Model, ModelState
from agentmesh.core.workflow import Workflow
from agentmesh.errors import Fail, InvalidInput, NotSent, Retry, StepError, Unanswered

pytestmark = pytest.mark.anyio

FAKE = (sys.executable, str(Path(__file__).with_name("fake_child.py")))
HERE = "tests.adapters.ray_functions"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def home(tmp_path):
    """Where the child keeps its state; nothing of it runs on afterwards."""
    home = Home(tmp_path / ".agentmesh" / "models")
    home.prepare()
    yield home
    end_marked(home.mesh_id)
    home.remove_runs()


def child(home: Home, **options: Any) -> ModelChild:
    options = {"tasks": True, **options}
    return ModelChild(home.folder.parents[1], {}, program=FAKE, pace=Pace(backoff=0.05), **options)


async def call(tasks: RayTasks, name: str, key: str = "run/step", **arguments: Any) -> Any:
    return await tasks.call(f"{HERE}:{name}", arguments, key=key, timeout=None)


async def test_a_function_runs_in_the_cluster(home):
    """Without any model the child runs all the same, without Serve; the result comes back as JSON."""
    with anyio.fail_after(20):
        async with child(home) as models:
            tasks = RayTasks(models, "/mesh")
            answer = await call(tasks, "add", a=1, b=2)
            assert answer["sum"] == 3
            assert answer["pid"] != os.getpid()
            assert await call(tasks, "later", n=4) == 4
            assert await call(tasks, "about") == ["run/step", "run", "/mesh"]
    assert not (home.folder / "serves").exists()
    assert marked(home.mesh_id) == []


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("retry", Retry, "not yet"),
        ("fail", Fail, "never"),
        ("refuse", InvalidInput, "a is missing"),
        ("breaks", Fail, "ZeroDivisionError: by zero"),
        ("not_json", Fail, "is not JSON"),
        ("puts", Fail, r"no ctx\.put"),
        ("nothing", Fail, "does not name a function"),
    ],
)
async def test_what_a_function_raises_is_raised_here(home, name, error, message):
    """By its kind, with its words; a wish to be tried later keeps its time."""
    with anyio.fail_after(20):
        async with child(home) as models:
            with pytest.raises(error, match=message) as caught:
                await call(RayTasks(models, "/mesh"), name)
    assert getattr(caught.value, "after", None) == (7 if name == "retry" else None)


async def test_calls_run_beside_one_another(home, tmp_path):
    """A slow one holds up nobody."""
    with anyio.fail_after(20):
        async with child(home) as models, anyio.create_task_group() as group:
            tasks = RayTasks(models, "/mesh")
            group.start_soon(lambda: call(tasks, "sleep", "run/slow", folder=str(tmp_path), seconds=30))
            while not (tmp_path / "began").exists():
                await anyio.sleep(0.01)
            assert (await call(tasks, "add", a=1, b=1))["sum"] == 2
            group.cancel_scope.cancel()


async def test_a_cancelled_call_ends_its_task(home, tmp_path):
    """The cluster is told to interrupt it, and when that does not help to kill it."""
    with anyio.fail_after(20):
        async with child(home) as models:
            async with anyio.create_task_group() as group:
                tasks = RayTasks(models, "/mesh")
                group.start_soon(lambda: call(tasks, "sleep", "run/slow", folder=str(tmp_path), seconds=30))
                while not (tmp_path / "began").exists():
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()
            told = home.folder / "cancelled"
            while not told.exists() or len(told.read_text().splitlines()) < 2:
                await anyio.sleep(0.01)
            assert told.read_text().splitlines() == ["run/slow False", "run/slow True"]


async def test_a_task_that_is_lost_with_its_cluster_may_have_been_done(home, tmp_path):
    """Unanswered; the next call meets the child that was started again."""
    caught: list[StepError] = []
    with anyio.fail_after(30):
        async with child(home) as models, anyio.create_task_group() as group:
            tasks = RayTasks(models, "/mesh")

            async def slow() -> None:
                try:
                    await call(tasks, "sleep", "run/slow", folder=str(tmp_path), seconds=30)
                except StepError as error:
                    caught.append(error)

            group.start_soon(slow)
            while not (tmp_path / "began").exists():
                await anyio.sleep(0.01)
            os.kill(home.load().pid, signal.SIGKILL)
            while not caught:
                await anyio.sleep(0.01)
            assert isinstance(caught[0], Unanswered)
            assert (await call(tasks, "add", a=1, b=1))["sum"] == 2


async def test_a_cluster_that_does_not_come_was_not_sent_anything(home):
    """NotSent after the wait: the step may be tried again, whatever it does."""
    with anyio.fail_after(20):
        async with child(home, guest=True) as models:
            with pytest.raises(NotSent, match="was not there within"):
                await RayTasks(models, "/mesh", wait=0.3).call("a:b", {}, key="k", timeout=None)


async def test_a_mesh_without_a_cluster_says_so(home):
    """A run that is older than the files meets a clear refusal."""
    with anyio.fail_after(20):
        async with child(home, tasks=False) as models:
            with pytest.raises(Fail, match="no workflow of this mesh says"):
                await call(RayTasks(models, "/mesh"), "add", a=1, b=1)


async def test_arguments_may_be_large_but_not_too_large(home):
    """A few megabytes pass in both directions; more is refused before anything is sent."""
    with anyio.fail_after(20):
        async with child(home) as models:
            tasks = RayTasks(models, "/mesh")
            text = "x" * 3_000_000
            assert await tasks.call("json:loads", {"s": json.dumps(text)}, key="k", timeout=None) == text
            with pytest.raises(Fail, match="larger than 8 MB"):
                await tasks.call("json:loads", {"s": "x" * 9_000_000}, key="k", timeout=None)


async def test_a_guest_uses_the_child_of_another_and_leaves_it_running(home):
    """A further server of the same folder calls through the first one's child, and neither starts nor stops it."""
    with anyio.fail_after(20):
        async with child(home) as first:
            async with child(home, guest=True) as second:
                one, two = RayTasks(first, "/mesh"), RayTasks(second, "/mesh")
                assert (await call(one, "add", a=1, b=1))["pid"] == (await call(two, "add", a=1, b=1))["pid"]
            state = home.load()
            assert process(state.pid) == state.process


async def test_a_guest_hears_of_the_models_of_another(home, tmp_path):
    """It may ask them as soon as they are ready, and knows when they have gone."""
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (weights / name).write_text("{}")
    models = {"tiny": Model(source="./weights", deploy=Deploy())}

    def server(**options: Any) -> ModelChild:
        return ModelChild(tmp_path, models, program=FAKE, pace=Pace(backoff=0.05), **options)

    with anyio.fail_after(20):
        async with server(guest=True) as second:
            async with server() as first:
                assert await second.wait_ready("tiny") == await first.wait_ready("tiny")
            while second.status()["tiny"].state is not ModelState.STARTING:
                await anyio.sleep(0.01)
            assert "server of this folder that has the models" in second.status()["tiny"].message


def test_only_steps_that_say_so_want_a_cluster():
    """At any depth."""
    step = {"id": "a", "python": "m:f"}
    inner = {"id": "b", "map": {"over": "[1]"}, "steps": [{"id": "c", "switch": [{"when": "true", "steps": [step]}]}]}
    assert not runs_on_ray([Workflow.model_validate({"name": "w", "steps": [inner]})])
    step["on"] = "ray"
    assert runs_on_ray([Workflow.model_validate({"name": "w", "steps": [inner]})])
