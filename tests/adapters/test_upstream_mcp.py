"""An upstream MCP server as a source: everything passes through, in both eras of the upstream."""

from __future__ import annotations

import anyio
import mcp_types as types
import pytest

from agentmesh.adapters.memory_caller import ScriptedCaller
from agentmesh.adapters.upstream_mcp_listing import names
from agentmesh.core.caller import ELICITATION, SAMPLING, InputRequired
from agentmesh.core.content import text_of_blocks
from agentmesh.core.policy import Principal
from agentmesh.core.source import Change
from agentmesh.errors import Fail, InvalidInput, MissingCapability, NotFound, NotSent, Unanswered
from tests.adapters.upstreams import FORM, LOCAL, PIXEL, call, desk_at, server_file, until, upstream

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("modern", [pytest.param(True, id="2026"), pytest.param(False, id="2025")])
RED = {"action": "accept", "content": {"colour": "red"}}


@ERAS
async def test_tools_are_listed_page_by_page_under_the_servers_name(modern: bool) -> None:
    """All pages, by `server.tool`; a hint of the upstream's that it only reads is not taken."""
    async with desk_at(modern=modern) as (desk, url), upstream("desk", {"url": url}, reads=["log"]) as source:
        assert set(source.tools()) == {f"desk.{name}" for name in desk.tools}
        echo = source.tools()["desk.echo"]
        assert echo.description == "Says it again."
        assert echo.annotations == {"title": "Echo"}
        assert echo.meta == {"example.com/kind": "test"}
        assert echo.source == "upstream:desk"
        assert echo.foreign
        assert source.tools()["desk.log"].annotations == {"readOnlyHint": True}
        status = source.status()
        assert (status.state, status.tools) == ("ready", len(desk.tools))
        assert status.detail == ("MCP 2026-07-28" if modern else "MCP 2025-11-25")


@ERAS
async def test_a_call_brings_back_content_structure_and_meta(modern: bool) -> None:
    """What the upstream answered reaches the caller whole; the key of the call reaches the upstream."""
    async with desk_at(modern=modern) as (desk, url), upstream("desk", {"url": url}) as source:
        result = await call(source, "desk.echo", {"text": "hello"}, key="run/step")
        assert result.structured == {"text": "hello"}
        assert result.content == ({"type": "text", "text": "hello"},)
        assert result.meta == {"example.com/seen": True}
        assert desk.calls[-1].name == "echo"
        assert desk.metas[-1]["io.agentmesh/idempotency-key"] == "run/step"
        picture = await call(source, "desk.picture")
        assert picture.content is not None
        assert [block["type"] for block in picture.content] == ["image", "resource_link"]
        assert picture.content[0] == {"type": "image", "data": PIXEL, "mimeType": "image/png"}
        failed = await call(source, "desk.fail")
        assert (failed.is_error, failed.text) == (True, "no paper")


@ERAS
async def test_progress_and_logs_reach_the_caller(modern: bool) -> None:
    """In order, and only of the call that they belong to."""
    async with desk_at(modern=modern) as (_, url), upstream("desk", {"url": url}) as source:
        caller, other = ScriptedCaller(), ScriptedCaller()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: call(source, "desk.echo", {"text": "x"}, caller=other))
            await call(source, "desk.progress", caller=caller)
        assert caller.told == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
        assert other.told == []
        await call(source, "desk.log", caller=caller)
        assert caller.logged == [("warning", {"said": "careful"}, "desk")]


@ERAS
async def test_a_cancelled_call_is_cancelled_at_the_upstream(modern: bool) -> None:
    """The caller that leaves does not leave work behind."""
    async with desk_at(modern=modern) as (desk, url), upstream("desk", {"url": url}) as source:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: call(source, "desk.slow"))
                await desk.started.wait()
                group.cancel_scope.cancel()
            await desk.cancelled.wait()


@ERAS
async def test_a_call_that_takes_too_long_is_unanswered_and_ended(modern: bool) -> None:
    """Its timeout is the call's; the upstream hears of it."""
    async with desk_at(modern=modern) as (desk, url), upstream("desk", {"url": url}) as source:
        with anyio.fail_after(10):
            with pytest.raises(Unanswered, match=r"within its timeout of 0\.2 s"):
                await call(source, "desk.slow", timeout=0.2)
            await desk.cancelled.wait()
        assert source.status().state == "ready"


@ERAS
async def test_a_question_is_put_to_a_client_that_can_be_asked_there_and_then(modern: bool) -> None:
    """An elicitation of the upstream, of either era, is the caller's; its answer goes back."""
    async with desk_at(modern=modern) as (_, url), upstream("desk", {"url": url}) as source:
        caller = ScriptedCaller({"colour": RED, "elicitation-1": RED})
        result = await call(source, "desk.ask", caller=caller)
        assert result.text.endswith("accept {'colour': 'red'}")
        assert caller.asked == ["colour" if modern else "elicitation-1"]


@ERAS
async def test_a_client_that_has_to_come_again_goes_on_with_the_same_call(modern: bool) -> None:
    """The upstream is not called anew where it waits; where it keeps nothing, its own state comes back to it unchanged."""
    async with desk_at(modern=modern) as (desk, url), upstream("desk", {"url": url}) as source:
        with pytest.raises(InputRequired) as first:
            await call(source, "desk.ask", caller=ScriptedCaller(again=True))
        ((key, request),) = first.value.requests.items()
        assert request.method == ELICITATION
        assert request.params["message"] == "Which colour?"
        assert request.params["requestedSchema"] == FORM
        before = len(desk.calls)
        again = ScriptedCaller({key: RED}, again=True, state=first.value.state)
        result = await call(source, "desk.ask", caller=again)
        assert result.text.endswith("accept {'colour': 'red'}")
        assert len(desk.calls) - before == (1 if modern else 0)
        assert not modern or result.text.startswith("opaque-1")


async def test_a_parked_call_is_nobody_elses() -> None:
    """Who brings back another's state gets nothing of the call, which waits on."""
    async with desk_at(modern=False) as (_, url), upstream("desk", {"url": url}) as source:
        with pytest.raises(InputRequired) as first:
            await call(source, "desk.ask", caller=ScriptedCaller(again=True))
        ((key, _request),) = first.value.requests.items()
        again = ScriptedCaller({key: RED}, state=first.value.state)
        with pytest.raises(Unanswered, match="not waiting here"):
            await call(source, "desk.ask", caller=again, principal=Principal(subject="mallory"))
        assert (await call(source, "desk.ask", caller=again)).text.startswith("accept")


async def test_state_of_another_call_is_refused() -> None:
    """Sealed as it is, a state fits one call only."""
    async with desk_at(modern=True) as (_, url), upstream("desk", {"url": url}) as source:
        with pytest.raises(InputRequired) as first:
            await call(source, "desk.ask", caller=ScriptedCaller(again=True))
        caller = ScriptedCaller({"colour": RED}, state=first.value.state)
        with pytest.raises(InvalidInput, match="another call"):
            await source.read("desk://today", principal=LOCAL, caller=caller)


@ERAS
async def test_who_cannot_be_asked_is_not_asked(modern: bool) -> None:
    """A modern upstream hears what the client can; one of the older era is told that this client cannot."""
    async with desk_at(modern=modern) as (desk, url), upstream("desk", {"url": url}) as source:
        if modern:
            with pytest.raises(MissingCapability):
                await call(source, "desk.ask")
            await call(source, "desk.echo", {"text": "x"}, caller=ScriptedCaller(can=[ELICITATION]))
            able = desk.metas[-1]["io.modelcontextprotocol/clientCapabilities"]
            assert able == {"elicitation": {"form": {}, "url": {}}}
        else:
            with pytest.raises(Fail, match="declares elicitation"):
                await call(source, "desk.ask")


async def test_sampling_of_an_older_upstream_is_the_callers() -> None:
    """The client's own model answers what the upstream asks for."""
    said = {"role": "assistant", "content": {"type": "text", "text": "well"}, "model": "m", "stopReason": "endTurn"}
    async with desk_at(modern=False) as (_, url), upstream("desk", {"url": url}) as source:
        caller = ScriptedCaller({"sampling-1": said}, can=[SAMPLING])
        assert (await call(source, "desk.sample", caller=caller)).text == "well"


@ERAS
async def test_resources_prompts_and_completion_pass_through(modern: bool) -> None:
    """By URI, by the mesh's name, and with what the upstream completes."""
    async with desk_at(modern=modern) as (_, url), upstream("desk", {"url": url}) as source:
        await until(lambda: bool(source.resources() and source.prompts()))
        assert [r.uri for r in source.resources()] == ["desk://today"]
        assert [t.uri_template for t in source.templates()] == ["desk://orders/{id}"]
        assert await source.read("desk://today", principal=LOCAL) == [
            {"uri": "desk://today", "text": "read desk://today"}
        ]
        with pytest.raises(NotFound, match="desk://none"):
            await source.read("desk://none", principal=LOCAL)
        assert source.prompts()["desk.reply"].arguments[0].required
        found = await source.prompt("desk.reply", {"tone": "kind"}, principal=LOCAL)
        assert text_of_blocks([message["content"] for message in found.messages]) == "Be kind."
        ref = {"type": "ref/prompt", "name": "desk.reply"}
        done = await source.complete(ref, {"name": "tone", "value": "k"}, {}, principal=LOCAL)
        assert done.values == ("reply:k!",)


@ERAS
async def test_a_changed_list_and_resource_are_told(modern: bool) -> None:
    """The upstream's notices, of the means of its era, become changes of the mesh."""
    heard: list[tuple[Change, str | None]] = []
    async with desk_at(modern=modern) as (desk, url), upstream("desk", {"url": url}, approve="never") as source:
        await until(lambda: bool(source.prompts() and source.resources()))
        source.on_change(lambda change, uri: heard.append((change, uri)))
        desk.tools["extra"] = types.Tool(name="extra", description="More.", input_schema={"type": "object"})
        with anyio.fail_after(10):
            while "desk.extra" not in source.tools():
                await desk.tools_changed()
                await anyio.sleep(0.05)
        assert ("tools", None) in heard
        await source.subscribe("desk://today")
        with anyio.fail_after(10):
            while ("updated", "desk://today") not in heard:
                await desk.resource_changed("desk://today")
                await anyio.sleep(0.05)
        await source.unsubscribe("desk://today")
        heard.clear()
        await desk.resource_changed("desk://today")
        await anyio.sleep(0.2)
        assert ("updated", "desk://today") not in heard


@ERAS
async def test_an_answer_that_does_not_keep_its_schema_is_an_error(modern: bool) -> None:
    """A lie is told as one: which tool, which member."""
    async with desk_at(modern=modern) as (_, url), upstream("desk", {"url": url}) as source:
        with pytest.raises(Fail, match=r"desk\.lie answered what does not fit its own output schema: output\.text"):
            await call(source, "desk.lie")


@ERAS
async def test_an_upstream_that_comes_back_is_found_again(modern: bool) -> None:
    """A restart between two calls costs no more than a call's failure; sessions of before are not asked for again."""
    async with desk_at(modern=modern) as (_, url):
        port = int(url.split(":")[2].split("/")[0])
    async with upstream("desk", {"url": url}, ready=False) as source:
        await until(lambda: source.status().state == "failed")
        assert "does not accept connections" in source.status().detail
        async with desk_at(modern=modern, port=port):
            await until(lambda: "desk.echo" in source.tools())
            assert (await call(source, "desk.echo", {"text": "1"})).text == "1"
        with pytest.raises((NotSent, Unanswered)):
            await call(source, "desk.echo", {"text": "2"})
        async with desk_at(modern=modern, port=port):
            await until(lambda: source.status().state == "ready")
            assert (await call(source, "desk.echo", {"text": "3"})).text == "3"


@ERAS
async def test_many_calls_at_once_each_get_their_own_answer(modern: bool) -> None:
    """And no more than `at_once` of them are in flight."""
    answers: dict[int, str] = {}
    async with desk_at(modern=modern) as (_, url), upstream("desk", {"url": url, "at_once": 8}) as source:

        async def one(number: int) -> None:
            answers[number] = (await call(source, "desk.echo", {"text": str(number)})).text

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(one, number)
    assert answers == {number: str(number) for number in range(100)}


async def test_no_call_waits_for_a_place_for_ever() -> None:
    """Where all places are taken for longer than its timeout, a call was not sent, and says so."""
    async with (
        desk_at(modern=True) as (desk, url),
        upstream("desk", {"url": url, "at_once": 1}) as source,
        anyio.create_task_group() as group,
    ):
        group.start_soon(lambda: call(source, "desk.slow"))
        await desk.started.wait()
        with pytest.raises(NotSent, match="at_once"):
            await call(source, "desk.echo", {"text": "x"}, timeout=0.1)
        group.cancel_scope.cancel()


def test_names_are_legal_unique_and_stable() -> None:
    """What is too long or illegal gets a piece of its hash; a legal name stays as it is."""
    server = server_file("desk", {"url": "http://127.0.0.1:1/mcp"})
    long = "x" * 100
    found = names(["echo", "a b", "a/b", long, long + "y"], server)
    assert found["echo"] == "desk.echo"
    assert len(set(found.values())) == 5
    assert all(len(name) <= 64 for name in found.values())
    assert found["a b"] != found["a/b"]
    assert found["a b"].startswith("desk.a_b_")
    assert names(["a b"], server)["a b"] == found["a b"]
