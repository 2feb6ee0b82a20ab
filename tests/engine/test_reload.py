"""Reload: other files are taken over as a whole while the mesh is served, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_source import MemorySource
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.server_file import ServerFile
from agentmesh.core.source import Source
from agentmesh.core.store import RunFilter
from agentmesh.core.tool import ToolCall
from agentmesh.core.workflow import Workflow
from agentmesh.engine import Engine
from agentmesh.errors import Fault, NotFound, PolicyDenied, ProjectError
from tests.engine.meshes import LOCAL, Clock, serving, workflow

pytestmark = pytest.mark.anyio
FILE: dict[str, Any] = {
    "name": "test", "models": {"m": {"url": "http://127.0.0.1:1/v1", "model": "m"}}, "default_model": "m",
}  # fmt: skip


def mesh_of(
    *workflows: Workflow, tools: Any = None, policies: Sequence[PolicyFile] = (), file: Any = None, **more: Any
) -> Mesh:
    server = ServerFile.model_validate({"name": "desk", "tools": tools or {}, **more})
    return assemble(PurePath("mesh"), MeshFile.model_validate(FILE | (file or {})), [server], workflows, policies)


def tool(description: str) -> dict[str, Any]:
    return {"description": description, "python": "shop:echo"}


async def take(engine: Engine, new: Mesh | ProjectError) -> bool:
    def load() -> Mesh:
        if isinstance(new, ProjectError):
            raise new
        return new

    engine.reload.load = load
    return await engine.reload.now()


async def test_tools_prompts_resources_skills_and_policies_are_the_new_files() -> None:
    """All at once; whoever listens hears which lists changed."""
    old = mesh_of(workflow("answer", {"id": "a", "set": 1}, on={"a2a": {}}), tools={"echo": tool("Old.")})
    rules = [{"allow": "*"}, {"deny": "tools.call", "on": ["tool:desk.more"]}]
    new = mesh_of(
        workflow("ask", {"id": "a", "set": 1}, on={"a2a": {"skill": "asking"}, "mcp": {}}),
        tools={"echo": tool("New."), "more": tool("More.")},
        policies=[PolicyFile.model_validate({"name": "p", "rules": rules})],
        resources={"r": {"uri": "desk://r", "description": "R.", "text": "r"}},
        prompts={"p": {"description": "P.", "messages": [{"text": "p"}]}},
    )
    async with serving(old, functions={"shop:echo": lambda: "x"}) as engine:
        with engine.changes.subscribe() as heard:
            assert await take(engine, new)
            with anyio.fail_after(5):
                assert {(await anext(heard))[0] for _ in range(3)} == {"tools", "prompts", "resources"}
        assert [(one.name, one.description) for one in engine.tools.list(LOCAL)][:2] == [
            ("ask", "Runs the workflow ask."), ("desk.echo", "New."),
        ]  # fmt: skip
        assert [skill.id for skill in engine.agents.skills(LOCAL)] == ["asking"]
        assert [one.name for one in engine.prompts.list(LOCAL)] == ["desk.p"]
        assert "desk://r" in [one.uri for one in engine.resources.list(LOCAL)]
        assert (await engine.tools.call(LOCAL, ToolCall("desk.echo", {}))).structured == "x"
        with pytest.raises(PolicyDenied):
            await engine.tools.call(LOCAL, ToolCall("desk.more", {}))
        with pytest.raises(NotFound):
            await engine.runs.start(LOCAL, "answer", {"text": "x"})
        assert (engine.reload.state.revision, engine.mesh.revision) == (1, 1)


async def test_files_with_faults_change_nothing_and_are_told_until_they_are_right() -> None:
    """The faults stand in the state; the first sound files take them away."""
    old, new = mesh_of(tools={"echo": tool("Old.")}), mesh_of(tools={"echo": tool("New.")})
    fault = Fault("servers/desk.yaml", 3, 1, "unknown key 'x'")
    async with serving(old) as engine:
        assert not await take(engine, ProjectError([fault]))
        assert engine.reload.state.faults == (fault,)
        assert [one.description for one in engine.tools.list(LOCAL)] == ["Old."]
        assert engine.reload.state.to_json()["faults"] == ["servers/desk.yaml:3:1: unknown key 'x'"]
        assert await take(engine, new)
        assert not engine.reload.state.faults
        assert [one.description for one in engine.tools.list(LOCAL)] == ["New."]


async def test_files_that_say_the_same_change_nothing() -> None:
    """Nobody is told, and what was worked out stays."""
    async with serving(mesh_of(tools={"echo": tool("Old.")})) as engine:
        with engine.changes.subscribe() as heard:
            assert await take(engine, mesh_of(tools={"echo": tool("Old.")}))
            with anyio.move_on_after(0.05) as waited:
                await anext(heard)
        assert waited.cancelled_caught
        assert engine.mesh.revision == 0


async def test_a_run_in_flight_keeps_what_it_was_pinned_to() -> None:
    """Its workflow changes, then goes: it ends by the words it began with. The next one begins with the new ones."""

    def flow(said: str) -> Workflow:
        return workflow(
            "wait", {"id": "a", "wait": {"signal": "go"}}, {"id": "b", "set": said}, output="${{ steps.b.output }}"
        )

    async with serving(mesh_of(flow("old"))) as engine:
        first = await engine.runs.start(LOCAL, "wait", {"text": "x"})
        assert await take(engine, mesh_of(flow("new")))
        second = await engine.runs.start(LOCAL, "wait", {"text": "x"})
        assert await take(engine, mesh_of())
        for run in (first, second):
            await engine.runs.signal(LOCAL, run.id, "go")
        assert [(await engine.runs.wait(LOCAL, run.id)).output for run in (first, second)] == ["old", "new"]


async def test_what_a_process_is_built_around_waits_for_the_next_start() -> None:
    """Models, store and address keep their values and are told; the rest is taken over."""
    changed = {"store": "sqlite:///other.db", "url": "https://x.example.com", "retention": "3d"}
    new = mesh_of(
        tools={"echo": tool("New.")}, file=changed | {"models": {"m": {"url": "http://127.0.0.1:2/v1", "model": "m"}}}
    )
    async with serving(mesh_of(tools={"echo": tool("Old.")})) as engine:
        assert await take(engine, new)
        assert [said.split("`")[1] for said in engine.reload.state.restart] == ["store", "url", "models"]
        assert (engine.mesh.file.store, engine.mesh.file.url) == ("sqlite:///agentmesh.db", None)
        assert engine.mesh.file.models["m"].url == "http://127.0.0.1:1/v1"
        assert engine.mesh.file.retention == "3d"
        assert [one.description for one in engine.tools.list(LOCAL)] == ["New."]


async def test_files_that_use_a_model_that_is_not_there_yet_are_not_taken() -> None:
    """Else every call of theirs would fail until somebody starts the server anew."""
    more = FILE["models"] | {"big": {"url": "http://127.0.0.1:2/v1", "model": "b"}}
    asks = workflow("asks", {"id": "a", "llm": {"model": "big", "prompt": "p"}})
    async with serving(mesh_of()) as engine:
        assert not await take(engine, mesh_of(asks, file={"models": more}))
        (fault,) = engine.reload.state.faults
        assert "the model 'big' is new and in use" in fault.message
        assert "asks" not in engine.mesh.workflows
        assert await take(engine, mesh_of(file={"models": more}))  # there, and not in use: for the next start
        assert engine.reload.state.restart


async def test_sources_come_and_go_with_the_files() -> None:
    """Those that stay are the same; one that cannot be opened leaves everything as it was."""
    kept, gone, fresh = MemorySource("kept"), MemorySource("gone"), MemorySource("fresh")
    given: dict[str, Sequence[Source]] = {"now": [kept, fresh]}

    async def sources(new: Mesh) -> Sequence[Source]:
        if not given:
            raise OSError("no room")
        return given["now"]

    async with serving(mesh_of(tools={"echo": tool("Old.")}), sources=[kept, gone]) as engine:
        engine.reload.sources = sources
        assert await take(engine, mesh_of(tools={"echo": tool("New.")}))
        assert list(engine.sources.all()) == [fresh, kept]
        given.clear()
        assert not await take(engine, mesh_of(tools={"echo": tool("Newer.")}))
        assert "no room" in engine.reload.state.faults[0].message
        assert [one.description for one in engine.tools.list(LOCAL)] == ["New."]


async def test_schedules_follow_the_files() -> None:
    """A new one begins, one that stays goes on where it was, one that is gone starts nothing more."""

    def flow(name: str, *lines: str) -> Workflow:
        schedules = [{"schedule": line, "input": {"text": "x"}} for line in lines]
        return workflow(name, {"id": "a", "set": 1}, on={"cron": schedules})

    clock = Clock(1_700_000_000.0)  # 22:13:20
    async with serving(mesh_of(flow("stays", "*/5 * * * *"), flow("goes", "*/5 * * * *")), clock=clock) as engine:
        await engine.scheduler.tick()
        clock.now += 300
        await engine.scheduler.tick()
        before = {one["workflow"]: one for one in engine.scheduler.status()}
        assert {name: one["run"] is not None for name, one in before.items()} == {"stays": True, "goes": True}
        assert await take(engine, mesh_of(flow("stays", "*/5 * * * *", "0 * * * *"), flow("comes", "*/5 * * * *")))
        await engine.scheduler.tick()
        after = {(one["workflow"], one["index"]): one for one in engine.scheduler.status()}
        assert set(after) == {("stays", 0), ("stays", 1), ("comes", 0)}
        assert after["stays", 0]["last"] == before["stays"]["last"]
        clock.now += 300
        await engine.scheduler.tick()
        runs = (await engine.runs.list(LOCAL, RunFilter())).runs
        assert sorted(run.workflow for run in runs) == ["comes", "goes", "stays", "stays"]


async def test_a_mesh_without_schedules_gets_its_first_one() -> None:
    """The scheduler waits for that too."""
    cron = workflow("tick", {"id": "a", "set": 1}, on={"cron": [{"schedule": "* * * * *", "input": {"text": "x"}}]})
    clock = Clock(1_700_000_000.0)
    async with serving(mesh_of(), clock=clock) as engine, anyio.create_task_group() as group:
        await group.start(engine.scheduler.run)
        assert await take(engine, mesh_of(cron))
        with anyio.fail_after(5):
            while not (await engine.runs.list(LOCAL, RunFilter())).runs:
                await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


async def test_limits_of_runs_at_once_follow_the_files() -> None:
    """`concurrency` of a workflow that got one while the mesh was served."""

    def flow(**more: Any) -> Workflow:
        return workflow("one", {"id": "a", "wait": {"signal": "go"}}, **more)

    async with serving(mesh_of(flow())) as engine:
        assert engine.worker._at_once is None
        assert await take(engine, mesh_of(flow(concurrency=1)))
        assert engine.worker._at_once == {"one": 1}


async def test_calls_in_flight_do_not_notice() -> None:
    """Fifty of them, of a tool, of a workflow and of one that goes, while the files change again and again."""
    go = anyio.Event()

    async def wait_for(n: int) -> int:
        await go.wait()
        return n

    number = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    waits = {"input": number, "python": "shop:wait", "description": "Waits."}

    def files(i: int) -> Mesh:
        flow = workflow("flow", {"id": "a", "tool": "desk.wait", "with": {"n": "${{ input.n }}"}}, {"id": "b", "set": i},
                        input=number, on={"mcp": {}}, output="${{ steps.a.output }}")  # fmt: skip
        tools = {"wait": waits, f"other{i}": tool(f"No {i}.")} | ({"gone": waits} if i == 0 else {})
        return mesh_of(flow, tools=tools)

    answers: dict[int, Any] = {}
    async with serving(files(0), functions={"shop:wait": wait_for}) as engine:

        async def call(n: int) -> None:
            name = ("desk.wait", "flow", "desk.gone")[n % 3]
            answers[n] = (await engine.tools.call(Principal(f"token:{n}"), ToolCall(name, {"n": n}))).structured

        async with anyio.create_task_group() as group:
            for n in range(50):
                group.start_soon(call, n)
            for i in range(1, 11):
                assert await take(engine, files(i))
            go.set()
    assert answers == {n: n for n in range(50)}
