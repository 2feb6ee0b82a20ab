"""What others serve: called by clients and by steps, pinned, offered to models only where that is safe."""

from __future__ import annotations

from typing import Any

import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.adapters.memory_source import MemorySource
from agentmesh.core.content import image, text
from agentmesh.core.policy import PolicyFile
from agentmesh.core.run import Kind, RunState
from agentmesh.core.source import SourceCall, SourceStatus
from agentmesh.core.tool import ToolCall, ToolResult
from agentmesh.errors import InvalidInput, NotFound, NotSent, PolicyDenied, Unanswered
from tests.engine.meshes import LOCAL, finished, journal, mesh, serving, workflow

pytestmark = pytest.mark.anyio

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


async def double(call: SourceCall) -> ToolResult:
    value = {"n": 2 * call.arguments["n"]}
    return ToolResult(value, str(value))


def upstream(*, reads: tuple[str, ...] = ()) -> MemorySource:
    source = MemorySource("far", reads=reads)
    source.offer("double", double, NUMBER)
    return source


async def test_a_foreign_tool_is_listed_and_called_like_an_own_one() -> None:
    """Its arguments are checked here, before the source hears of them; the caller's key goes with the call."""
    source = upstream()
    async with serving(mesh(), sources=[source]) as engine:
        assert [tool.name for tool in engine.tools.list(LOCAL)] == ["far.double"]
        result = await engine.tools.call(LOCAL, ToolCall("far.double", {"n": 4}, key="k"))
        assert result.structured == {"n": 8}
        assert source.calls[0].key == "k"
        assert source.calls[0].writes
        with pytest.raises(InvalidInput, match="'n' is missing"):
            await engine.tools.call(LOCAL, ToolCall("far.double", {}))
        assert len(source.calls) == 1


async def test_policies_reach_what_others_serve() -> None:
    """What no rule allows is neither listed nor called."""
    policy = PolicyFile.model_validate({"rules": [{"allow": "*", "on": ["tool:own.*"]}]})
    source = upstream()
    async with serving(mesh(policies=(policy,)), sources=[source]) as engine:
        assert engine.tools.list(LOCAL) == []
        with pytest.raises(PolicyDenied):
            await engine.tools.call(LOCAL, ToolCall("far.double", {"n": 1}))
        assert source.calls == []


async def test_a_source_that_fails_is_a_tool_that_failed() -> None:
    """In the words of whoever knows; a caller's own mistake stays one."""
    source = MemorySource("far")

    async def gone(call: SourceCall) -> ToolResult:
        raise NotSent("far cannot be reached: connection refused")

    async def wrong(call: SourceCall) -> ToolResult:
        raise InvalidInput("n must be even")

    source.offer("gone", gone)
    source.offer("wrong", wrong)
    async with serving(mesh(), sources=[source]) as engine:
        result = await engine.tools.call(LOCAL, ToolCall("far.gone", {}))
        assert (result.is_error, result.text) == (True, "far cannot be reached: connection refused")
        with pytest.raises(InvalidInput, match="even"):
            await engine.tools.call(LOCAL, ToolCall("far.wrong", {}))


async def test_tools_come_and_go() -> None:
    """What is told of a change is told once, and lists follow at once."""
    source = upstream()
    async with serving(mesh(), sources=[source]) as engine:
        with engine.changes.subscribe() as heard:
            source.offer("half", double)
            source.withdraw("double")
            assert await anext(aiter(heard)) == ("tools", None)
        assert [tool.name for tool in engine.tools.list(LOCAL)] == ["far.half"]
        with pytest.raises(NotFound, match=r"did you mean 'far\.half'"):
            await engine.tools.call(LOCAL, ToolCall("far.haf", {}))
        engine.sources.replace([])
        assert engine.tools.list(LOCAL) == []


async def test_a_source_that_was_never_reached_says_so() -> None:
    """Its tools are not known: a caller hears why, and not that they have mistyped a name."""

    class Away(MemorySource):
        def status(self) -> SourceStatus:
            return SourceStatus(self.name, "upstream", "failed", "127.0.0.1:9 does not accept connections")

    async with serving(mesh(), sources=[Away("far")]) as engine:
        with pytest.raises(NotFound, match=r"far has told of no tool 'far\.x' yet: 127\.0\.0\.1:9 does not"):
            await engine.tools.call(LOCAL, ToolCall("far.x", {}))


async def test_a_step_calls_a_foreign_tool_with_its_key() -> None:
    """The output is the structured value; the key is the step's, the same for every attempt."""
    source = upstream()
    of = mesh(workflow("w", {"id": "x", "tool": "far.double", "with": {"n": 21}}))
    async with serving(of, sources=[source]) as engine:
        run = await finished(engine, "w")
        assert (run.state, run.output) == (RunState.COMPLETED, {"n": 42})
        assert source.calls[0].key == f"{run.id}/x"
        assert source.calls[0].run_id == run.id
        assert await journal(engine, run, Kind.STEP_INTENT, path="x")  # nobody says that it only reads


async def test_blocks_are_a_value_for_a_step() -> None:
    """A lone text is that text, everything else {content: [...]}."""
    source = MemorySource("far")

    async def lone(call: SourceCall) -> ToolResult:
        return ToolResult(text="hi", content=(text("hi"),))

    async def several(call: SourceCall) -> ToolResult:
        return ToolResult(text="hi", content=(text("hi"), image(b"x", "image/png")))

    source.offer("lone", lone)
    source.offer("several", several)
    of = mesh(
        workflow("a", {"id": "x", "tool": "far.lone"}),
        workflow("b", {"id": "x", "tool": "far.several"}),
    )
    async with serving(of, sources=[source]) as engine:
        assert (await finished(engine, "a")).output == "hi"
        blocks: list[dict[str, Any]] = (await finished(engine, "b")).output["content"]
        assert [block["type"] for block in blocks] == ["text", "image"]


@pytest.mark.parametrize(("error", "calls"), [(NotSent("not there"), 3), (Unanswered("no answer came"), 1)])
async def test_a_write_is_sent_again_only_when_it_cannot_have_been_done(error: Exception, calls: int) -> None:
    """A call of which no byte left may be tried again; one that may have been done may not."""
    source = MemorySource("far")

    async def fail(call: SourceCall) -> ToolResult:
        raise error

    source.offer("x", fail)
    async with serving(mesh(workflow("w", {"id": "x", "tool": "far.x"})), sources=[source]) as engine:
        run = await finished(engine, "w")
        assert run.state is RunState.FAILED
        assert len(source.calls) == calls


async def test_a_tool_that_was_not_told_of_yet_can_be_pinned() -> None:
    """A workflow may start before an upstream was reached: its step finds the tool, or says that there is none."""
    source = MemorySource("far")
    of = mesh(workflow("w", {"id": "x", "tool": "far.double", "with": {"n": 1}}))
    async with serving(of, sources=[source]) as engine:
        run = await finished(engine, "w")
        assert run.error is not None
        assert "far has no tool 'far.double'" in run.error["message"]
        source.offer("double", double, NUMBER)
        assert (await finished(engine, "w")).output == {"n": 2}


async def test_a_pattern_offers_a_model_only_what_reads_or_bounds_what_it_is_given() -> None:
    """Of what others serve; what it may not call it is not told of."""
    source = MemorySource("far", reads=("look",))
    source.offer("look", double)
    source.offer("send", double, {"type": "object", "properties": {"text": {"type": "string"}}})
    source.offer("press", double, {"type": "object", "properties": {}, "additionalProperties": False})
    model = ScriptedModel(["done"])
    of = mesh(workflow("w", {"id": "x", "llm": {"prompt": "go", "tools": ["far.*"]}}))
    async with serving(of, sources=[source], model=model) as engine:
        assert (await finished(engine, "w")).output == "done"
    offered = [tool["function"]["name"] for tool in model.requests[0].tools]
    assert offered == ["far_look", "far_press"]
