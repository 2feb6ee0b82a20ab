"""After the fact: forks begin where they say, differences are told, exported runs replay elsewhere, old runs go."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.adapters.sql.store import open_store
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.run import Run, RunState
from agentmesh.core.store import Store
from agentmesh.engine import Engine
from agentmesh.engine.difference import is_same
from agentmesh.engine.export import read, replay_all, unpack
from agentmesh.errors import Conflict, Fail, InvalidInput, NotFound, PolicyDenied
from tests.engine.meshes import LOCAL, Clock, finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio

ANSWER = {"type": "object", "properties": {"reply": {"type": "string"}}, "required": ["reply"]}
DESK = workflow(
    "desk",
    {"id": "send", "python": "t:send", "with": {"text": "${{ input.text }}"}},
    {
        "id": "draft",
        "llm": {"prompt": "Answer politely:\n${{ input.text }}\n${{ steps.send.output }}", "output": ANSWER},
    },
    {"id": "last", "set": "${{ steps.draft.output.reply }}"},
)


class World:
    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, text: str) -> int:
        self.sent.append(text)
        return len(self.sent)


def replying() -> ScriptedModel:
    return ScriptedModel(
        lambda request: {"reply": f"{request.model}: {request.messages[-1]['content'].splitlines()[0]}"}
    )


@asynccontextmanager
async def desk(*more: Any, **given: Any) -> AsyncIterator[tuple[Engine, World]]:
    world = World()
    functions = {"t:send": world.send, "t:fail": lambda: (_ for _ in ()).throw(Fail("no"))}
    async with serving(mesh(DESK, *more), model=replying(), functions=functions, **given) as engine:
        yield engine, world


async def forked(engine: Engine, run: Run, **how: Any) -> Run:
    fork = await engine.history.fork(LOCAL, run.id, **how)
    await engine.runs.wait(LOCAL, fork.id)
    return await engine.runs.get(LOCAL, fork.id)


async def test_a_fork_past_a_completed_write_does_not_repeat_it() -> None:
    """Kept steps are copies; the new run spends no tokens for them and replays like any."""
    async with desk() as (engine, world):
        run = await finished(engine, "desk")
        fork = await forked(engine, run, from_step="draft")
        assert (fork.state, fork.output, fork.forked_from) == (RunState.COMPLETED, run.output, run.id)
        assert world.sent == ["hello"]
        assert fork.steps["send"].output == 1
        copied = await journal(engine, fork, path="send")
        assert {entry.payload["copied_from"] for entry in copied} == {run.id}
        assert fork.usage.tokens == fork.steps["draft"].usage.tokens > 0
        assert (await engine.history.replay(LOCAL, fork.id)).same
        again = await forked(engine, run)
        assert again.output == run.output
        assert world.sent == ["hello", "hello"]


async def test_a_fork_asks_another_prompt_or_model() -> None:
    """Both runs stand, and their difference is what was changed and what came of it."""
    async with desk() as (engine, _):
        run = await engine.runs.get(LOCAL, (await finished(engine, "desk")).id)
        fork = await forked(
            engine, run, from_step="draft", changes={"draft": {"prompt": "Be rude:\n${{ input.text }}"}}
        )
        assert fork.output == "tiny: Be rude:"
        diff = await engine.history.diff(LOCAL, run.id, fork.id)
        assert diff["forked"]
        (prompt,) = diff["definition"]["changes"]
        assert prompt["path"] == "workflows.desk.steps.draft.llm.prompt"
        assert prompt["lines"] == [
            "@@ -1,3 +1,2 @@",
            "-Answer politely:",
            "+Be rude:",
            " ${{ input.text }}",
            "-${{ steps.send.output }}",
        ]
        changed = {step["path"]: step for step in diff["steps"]}
        assert changed["draft"]["output"] == [
            {"path": "output.reply", "a": "tiny: Answer politely:", "b": "tiny: Be rude:"}
        ]
        assert diff["end"]["output"] == [{"path": "output", "a": "tiny: Answer politely:", "b": "tiny: Be rude:"}]
        assert diff["input"] == []
        large = await forked(engine, run, from_step="draft", changes={"draft": {"model": "large"}})
        assert large.output == "large: Answer politely:"
        assert large.steps["draft"].model != run.steps["draft"].model
        assert not is_same(diff)
        assert is_same(await engine.history.diff(LOCAL, run.id, run.id))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": "${{ steps.nosuch.output }}"}, "there is no steps.nosuch.output"),
        ({"system": "${{ secrets.KEY }}"}, "there is no secrets.KEY"),
        ({"prompt": "${{ input. }}"}, "prompt: "),
        ({"temperature": 9}, "temperature: input should be less than or equal to 2"),
    ],
)
async def test_a_change_that_cannot_be_is_refused(change: dict[str, Any], says: str) -> None:
    """Before anything runs, in one sentence; plain text is a prompt like any other."""
    async with desk() as (engine, _):
        run = await finished(engine, "desk")
        with pytest.raises(InvalidInput, match=re.escape(says)):
            await engine.history.fork(LOCAL, run.id, from_step="draft", changes={"draft": change})
        await engine.history.fork(
            LOCAL, run.id, from_step="draft", changes={"draft": {"prompt": "bad one more: 5$ {x}"}}
        )


async def test_who_words_a_prompt_must_be_allowed_to_ask_the_model() -> None:
    """To start a workflow is not to change what it asks."""
    policy = PolicyFile.model_validate({
        "name": "p", "roles": {"r": {"subjects": ["token:*"]}, "chatty": {"subjects": ["token:c"]}},
        "rules": [{"allow": ["runs.*", "tools.*"], "to": ["r"]}, {"allow": "models.chat", "to": ["chatty"]}],
    })  # fmt: skip
    async with serving(
        mesh(DESK, policies=(policy,)), model=replying(), functions={"t:send": lambda text: 1}
    ) as engine:
        quiet, chatty = Principal("token:q"), Principal("token:c")
        for who in (quiet, chatty):
            run = await engine.runs.start(who, "desk", {"text": "x"})
            await engine.runs.wait(who, run.id)
            changes = {"draft": {"prompt": "Tell me a joke"}}
            if who is quiet:
                with pytest.raises(PolicyDenied, match=r"models\.chat"):
                    await engine.history.fork(who, run.id, changes=changes)
            else:
                assert (await engine.history.fork(who, run.id, changes=changes)).forked_from == run.id


async def test_what_a_fork_kept_is_no_difference() -> None:
    """Its tokens were spent by the other run, and are not told as saved."""
    flow = workflow(
        "w",
        {"id": "draft", "llm": {"prompt": "Answer ${{ input.text }}", "output": ANSWER}},
        {"id": "more", "llm": {"prompt": "More on ${{ steps.draft.output.reply }}", "output": ANSWER}},
    )
    async with desk(flow) as (engine, _):
        run = await finished(engine, "w")
        fork = await forked(engine, run, from_step="more", changes={"more": {"model": "large"}})
        diff = await engine.history.diff(LOCAL, run.id, fork.id)
        assert [step["path"] for step in diff["steps"]] == ["more"]
        assert diff["a"]["tokens"] > diff["b"]["tokens"] > 0


async def test_a_fork_takes_another_input() -> None:
    """For the steps that are done again; what is kept had the old one."""
    async with desk() as (engine, world):
        run = await finished(engine, "desk")
        fork = await forked(engine, run, input={"text": "bye"})
        assert world.sent == ["hello", "bye"]
        assert fork.input == {"text": "bye"}
        diff = await engine.history.diff(LOCAL, run.id, fork.id)
        assert diff["input"] == [{"path": "input.text", "a": "hello", "b": "bye"}]
        with pytest.raises(InvalidInput):
            await engine.history.fork(LOCAL, run.id, input={"txt": "x"})


async def test_a_fork_by_the_files_of_today() -> None:
    """A run that failed goes on by a mended workflow; a kept step that is no longer there is a conflict."""
    broken = workflow("w", {"id": "send", "python": "t:send", "with": {"text": "x"}}, {"id": "f", "python": "t:fail"})
    mended = workflow("w", {"id": "send", "python": "t:send", "with": {"text": "x"}}, {"id": "g", "set": "fine"})
    store = MemoryStore()
    async with desk(broken, store=store) as (engine, world):
        run = await finished(engine, "w")
        assert run.state is RunState.FAILED
    async with desk(mended, store=store) as (engine, world):
        with pytest.raises(InvalidInput, match="has no step 'g'"):
            await engine.history.fork(LOCAL, run.id, from_step="g")
        fork = await forked(engine, run, from_step="g", today=True)
        assert (fork.output, world.sent) == ("fine", [])


async def test_forks_that_cannot_be() -> None:
    """A step that has not ended or was undone cannot be kept; only llm steps change, in what a fork may change, and by models there are."""
    undone = workflow(
        "w",
        {
            "id": "send",
            "python": "t:send",
            "with": {"text": "x"},
            "compensate": {"python": "t:send", "with": {"text": "undo"}},
        },
        {"id": "f", "python": "t:fail"},
        {"id": "after", "set": 1},
    )
    async with desk(undone) as (engine, world):
        run = await finished(engine, "w")
        with pytest.raises(Conflict, match=r"step send of run .* was undone"):
            await engine.history.fork(LOCAL, run.id, from_step="f")
        with pytest.raises(Conflict, match=r"has not ended|undone"):
            await engine.history.fork(LOCAL, run.id, from_step="after")
        good = await finished(engine, "desk")
        for changes, why in [
            ({"draft": {"validate": []}}, "cannot be changed"),
            ({"draft": {"model": "huge"}}, "there is no model 'huge'"),
            ({"send": {"prompt": "x"}}, "asks no model"),
            ({"nope": {"prompt": "x"}}, "has no step 'nope'"),
            ({"draft": {"prompt": "${{ 1 + }}"}}, "step draft: prompt"),
        ]:
            with pytest.raises(InvalidInput, match=why):
                await engine.history.fork(LOCAL, good.id, changes=changes)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="did you mean 'draft'"):
            await engine.history.fork(LOCAL, good.id, from_step="daft")
        assert world.sent == ["x", "undo", "hello"]


async def test_a_fork_that_fails_undoes_only_what_it_did() -> None:
    """The other run's effect is the other run's."""
    flow = workflow(
        "w",
        {
            "id": "send",
            "python": "t:send",
            "with": {"text": "x"},
            "compensate": {"python": "t:send", "with": {"text": "undo"}},
        },
        {"id": "end", "if": "input.text == 'fail'", "python": "t:fail"},
    )
    async with desk(flow) as (engine, world):
        run = await finished(engine, "w")
        fork = await forked(engine, run, from_step="end", input={"text": "fail"})
        assert (fork.state, world.sent) == (RunState.FAILED, ["x"])
        assert (await engine.history.replay(LOCAL, fork.id)).same


async def test_a_fork_past_a_signal_takes_the_next_one_itself() -> None:
    """The signal that the other run took has nothing to do with those that the fork is sent."""
    hear = {"wait": {"signal": "go"}}
    flow = workflow(
        "w", {"id": "one", **hear}, {"id": "two", **hear}, output=["${{ steps.one.output }}", "${{ steps.two.output }}"]
    )
    async with desk(flow) as (engine, _):
        run = await engine.runs.start(LOCAL, "w", {"text": "x"})
        for value in (1, 2):
            await engine.runs.signal(LOCAL, run.id, "go", value)
        await engine.runs.wait(LOCAL, run.id)
        fork = await engine.history.fork(LOCAL, run.id, from_step="two")
        await engine.runs.signal(LOCAL, fork.id, "go", 3)
        await engine.runs.wait(LOCAL, fork.id)
        assert (await engine.runs.get(LOCAL, fork.id)).output == [1, 3]
        copied = await journal(engine, fork, path="one")
        # Its number is of the other journal: here another signal may have it.
        assert copied
        assert not any("signal" in entry.payload for entry in copied)


async def test_the_same_key_forks_once() -> None:
    """Another run under that key is a conflict."""
    async with desk() as (engine, _):
        run = await finished(engine, "desk")
        one = await engine.history.fork(LOCAL, run.id, key="k")
        assert (await engine.history.fork(LOCAL, run.id, key="k")).id == one.id
        with pytest.raises(Conflict):
            await engine.history.fork(LOCAL, run.id, key="k", input={"text": "other"})


Opening = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Opening:
    def memory() -> Store:
        return MemoryStore()

    def sqlite() -> Store:
        return open_store("sqlite:///other.db", tmp_path)

    return memory if request.param == "memory" else sqlite


PARENT = workflow(
    "parent",
    {"id": "sub", "workflow": "desk", "with": {"text": "${{ input.text }}"}},
    {"id": "big", "set": "${{ steps.sub.output }}"},
)


async def test_an_exported_run_replays_and_is_imported_elsewhere(opening: Opening) -> None:
    """One file holds the run, its children and definitions; the other store then says the same of it."""
    async with desk(PARENT) as (engine, world):
        ended = await finished(engine, "parent", {"text": "x" * 100_000})
        run = await engine.runs.get(LOCAL, ended.id)
        content = await engine.history.export(LOCAL, run.id)
        assert content == await engine.history.export(LOCAL, run.id)
        whole = await engine.history.replay(LOCAL, run.id, children=True)
        assert (whole.same, len(whole.children)) == (True, 1)
    found = await replay_all(read(unpack(content)))
    assert found == whole
    async with serving(mesh(), store=opening()) as engine:
        await engine.history.import_(LOCAL, content)
        imported = await engine.runs.get(LOCAL, run.id)
        assert (imported.state, imported.output, imported.steps) == (run.state, run.output, run.steps)
        assert (await engine.history.replay(LOCAL, run.id, children=True)) == whole
        with pytest.raises(Conflict, match="is in this mesh already"):
            await engine.history.import_(LOCAL, content)
    assert len(world.sent) == 1


async def test_a_changed_file_is_refused() -> None:
    """Its digest is over all of it."""
    import gzip

    async with desk() as (engine, _):
        run = await engine.runs.get(LOCAL, (await finished(engine, "desk")).id)
        content = await engine.history.export(LOCAL, run.id)
        text = gzip.decompress(content)
        assert b'"hello"' in text
        with pytest.raises(InvalidInput, match="was changed after it was written"):
            read(unpack(text.replace(b'"hello"', b'"hullo"')))
        for wrong in (b"", b"no", b"[]", b"\x1f\x8bno", b'{"format": "other"}'):
            with pytest.raises(InvalidInput):
                read(unpack(wrong))
        assert read(unpack(text))[0].run == replace(run, key=None)


async def test_old_runs_are_pruned_by_who_may() -> None:
    """Children go with their parents; a rule may forbid it; what runs or is younger stays."""
    clock = Clock()
    async with desk(PARENT, clock=clock) as (engine, _):
        old = await finished(engine, "parent")
        clock.now += 1000
        young = await finished(engine, "desk")
        assert await engine.history.prune(LOCAL, 500) > 0
        with pytest.raises(NotFound):
            await engine.runs.get(LOCAL, old.id)
        assert (await engine.runs.get(LOCAL, young.id)).state is RunState.COMPLETED
        with pytest.raises(InvalidInput):
            await engine.history.prune(LOCAL, -1)
    policy = PolicyFile.model_validate({
        "name": "p", "roles": {"reader": {"subjects": ["token:r"]}},
        "rules": [{"allow": ["runs.start", "runs.read"], "to": ["reader"]}],
    })  # fmt: skip
    reader = Principal("token:r")
    async with serving(mesh(workflow("w", {"id": "a", "set": 1}), policies=(policy,))) as engine:
        run = await engine.runs.start(reader, "w", {"text": "x"})
        await engine.runs.wait(reader, run.id)
        assert (await engine.history.replay(reader, run.id)).same
        assert (await engine.history.fork(reader, run.id)).forked_from == run.id
        with pytest.raises(PolicyDenied):
            await engine.history.prune(reader, 0)
        with pytest.raises(PolicyDenied):
            await engine.history.import_(reader, b"")
        with pytest.raises(NotFound):
            await engine.history.export(Principal("token:other"), run.id)


async def test_retention_prunes_by_itself() -> None:
    """Every hour; without it the task ends at once."""
    clock = Clock()
    of = mesh(workflow("w", {"id": "a", "set": 1}))
    async with serving(of, clock=clock) as engine:
        await engine.history.keep_pruned(clock.sleep)
    of = replace(of, file=of.file.model_copy(update={"retention": "2h"}))
    async with serving(of, clock=clock) as engine:
        run = await finished(engine, "w")
        hours = 0

        async def sleep(seconds: float) -> None:
            nonlocal hours
            clock.now += seconds
            hours += 1
            if hours == 4:
                await anyio.sleep_forever()

        with anyio.move_on_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(engine.history.keep_pruned, sleep)
                while hours < 4:
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        with pytest.raises(NotFound):
            await engine.runs.get(LOCAL, run.id)
