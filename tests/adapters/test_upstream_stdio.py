"""An upstream that is a child process: of either era, with its own environment, and never left behind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import anyio
import pytest

from agentmesh.adapters.memory_caller import ScriptedCaller
from agentmesh.adapters.processes import process
from agentmesh.adapters.upstream_stdio import ChildSpec, child_wire
from agentmesh.errors import Fail, NotSent, Unanswered
from tests.adapters.upstreams import LOCAL, call, until, upstream

pytestmark = pytest.mark.anyio
CHILD = str(Path(__file__).with_name("upstream_child.py"))


def command(kind: str = "good") -> dict[str, object]:
    return {"command": [sys.executable, CHILD, kind]}


@pytest.mark.parametrize("kind", ["good", "modern", "dies-at-discover"])
async def test_a_child_of_either_era_is_spoken_to(kind: str) -> None:
    """Also one that ends when it is asked what it does not know: it is begun again and asked as the older era does."""
    async with upstream("child", command(kind)) as source:
        assert (await call(source, "child.echo", {"text": "hé"})).text == "hé"
        assert source.status().detail == ("MCP 2026-07-28" if kind == "modern" else "MCP 2025-11-25")


async def test_the_child_has_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its file says and what any program needs; not the server's secrets, nor anything else of ours."""
    monkeypatch.setenv("AGENTMESH_SECRET_X", "s3cret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    async with upstream("child", {**command(), "env": {"TOKEN": "given"}}) as source:
        found = json.loads((await call(source, "child.environment")).text)
        assert found["TOKEN"] == "given"
        assert found["PATH"] == os.environ["PATH"]
        assert "s3cret" not in found.values()


async def test_the_child_works_in_its_folder(tmp_path: Path) -> None:
    """Its `cwd` under the mesh's folder."""
    (tmp_path / "work").mkdir()
    async with upstream("child", {**command(), "cwd": "work"}, folder=tmp_path) as source:
        await call(source, "child.count", {"file": "here"})
        assert (tmp_path / "work" / "here").read_text() == "x"


async def test_a_program_that_is_not_there_is_said_so() -> None:
    """By its name, in the status and to who calls; nothing else is harmed."""
    async with upstream("child", {"command": ["no-such-program-xyz"]}, ready=False) as source:
        await until(lambda: source.status().state in ("failed", "open"))
        assert "no program 'no-such-program-xyz'" in source.status().detail
        assert source.tools() == {}


async def test_a_question_goes_to_the_one_call_that_is_open() -> None:
    """On a shared pipe nothing says which call a question belongs to: with one open there is no doubt, with two nobody is asked."""
    yes = {"action": "accept", "content": {}}
    async with upstream("child", command()) as source:
        one = await call(source, "child.ask", caller=ScriptedCaller({"elicitation-1": yes}))
        assert json.loads(one.text) == yes
        async with anyio.create_task_group() as group:
            group.start_soon(_hang, source)
            await until(lambda: source.busy == 1)
            two = await call(source, "child.ask", caller=ScriptedCaller({"elicitation-1": yes}))
            assert "cannot be told which call" in two.text
            group.cancel_scope.cancel()


async def _hang(source: object) -> None:
    await call(source, "child.hang", caller=ScriptedCaller())  # type: ignore[arg-type]


async def test_no_process_is_left_when_it_ends() -> None:
    """Not even one that the child put into a session of its own."""
    async with upstream("child", command()) as source:
        pid = int((await call(source, "child.spawn")).text)
        assert process(pid) is not None
    assert process(pid) is None


async def test_a_child_that_dies_in_a_call_is_begun_again(tmp_path: Path) -> None:
    """The call is unanswered and not made again by us; the next one finds a new child."""
    async with upstream("child", command()) as source:
        with pytest.raises(Unanswered, match="may have been done"):
            await call(source, "child.die")
        await until(lambda: source.status().state == "ready")
        await call(source, "child.count", {"file": str(tmp_path / "n")})
        assert (tmp_path / "n").read_text() == "x"


async def test_a_message_that_cannot_be_sent_is_not_sent() -> None:
    """Where no child runs, no byte can have left."""
    async with upstream("child", command("exits"), ready=False) as source:
        await until(lambda: source.status().state in ("failed", "open"))
        with pytest.raises((NotSent, Fail)):
            await source.read("x://y", principal=LOCAL)


async def test_a_child_that_does_not_read_holds_nobody_longer_than_they_wait() -> None:
    """Its pipe fills up; calls end at their time, and after a grace it is known to be deaf, so that it is begun again."""
    spec = ChildSpec("deaf", [sys.executable, "-c", "import time; time.sleep(60)"], {}, Path(), 10**9, "deaf-test")
    async with child_wire(spec) as wire:

        async def one(number: int) -> None:
            message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"x": "y" * 30_000}}
            with anyio.move_on_after(0.05):
                await wire.request(message, {}, _deaf, again=False)

        async def many() -> None:
            for number in range(100):
                await one(number)

        with anyio.fail_after(10), pytest.raises(NotSent, match="does not read"):
            await many()


async def _deaf(_: object) -> None:
    """Hears nothing."""
