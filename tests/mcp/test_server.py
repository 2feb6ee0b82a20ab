"""tools/list and tools/call as clients of both eras see them, by the official client over real sockets."""

from __future__ import annotations

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from agentmesh import __version__
from agentmesh.core.policy import Principal
from agentmesh.mcp.exchange import PAGE
from agentmesh.mcp.server import build_mcp
from tests.mcp.conftest import ERAS, LEGACY, MODERN, FakeEngine, client, fake_engine, mcp_server, settings, tool
from tests.requirements import covers

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 basic/versioning#dual-era", "MCP-2025-11-25 basic/lifecycle#initialization")
async def test_one_url_serves_both_eras(url: str, era: str) -> None:
    """The same address answers a client that discovers and a client that initializes."""
    async with client(url, era) as c:
        assert c.protocol_version == ("2026-07-28" if era == MODERN else "2025-11-25")
        assert (await c.list_tools()).tools


@covers("MCP-2026-07-28 server/discover")
async def test_a_client_that_probes_is_told_who_serves(url: str) -> None:
    """server/discover names the mesh, its version and what a model should know."""
    async with client(url, "auto") as c:
        assert c.protocol_version == MODERN
        info = c.server_info
        assert info is not None
        assert (info.name, info.title, info.version) == ("acme", "acme", __version__)
        assert c.instructions == "Tools of acme.\ndesk.*: Support-desk tools."
        assert c.server_capabilities.tools is not None


@covers("MCP-2025-11-25 basic/lifecycle#initialization")
async def test_initialize_names_the_mesh(url: str) -> None:
    """An older client learns the same from initialize."""
    async with client(url, LEGACY) as c:
        info = c.server_info
        assert info is not None
        assert (info.name, info.version) == ("acme", __version__)
        assert c.instructions == "Tools of acme.\ndesk.*: Support-desk tools."


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/tools#listing", "MCP-2026-07-28 server/tools#deterministic-order")
async def test_tools_are_listed_by_name_with_their_schemas(url: str, era: str) -> None:
    """A tool shows title, description, both schemas and annotations; an enum filled at run time is left out."""
    async with client(url, era) as c:
        tools = (await c.list_tools()).tools
    assert [t.name for t in tools] == sorted(t.name for t in tools)
    echo = next(t for t in tools if t.name == "echo")
    assert (echo.title, echo.description) == ("Echo", "Does echo.")
    assert echo.input_schema["required"] == ["text"]
    assert echo.output_schema is not None
    assert echo.output_schema["properties"]["who"] == {}
    assert echo.annotations is not None
    assert echo.annotations.read_only_hint is True


@covers("MCP-2026-07-28 server/tools#output-schema", "MCP-2025-11-25 server/tools#structured-object")
async def test_an_output_that_is_no_object_is_structured_only_where_the_era_allows(url: str) -> None:
    """Any JSON value is structured content since 2026-07-28; before, the text carries it alone."""
    async with client(url, MODERN) as c:
        result = await c.call_tool("list")
        assert result.structured_content == [1, 2, 3]
    async with client(url, LEGACY) as c:
        listed = next(t for t in (await c.list_tools()).tools if t.name == "list")
        assert listed.output_schema is None
        result = await c.call_tool("list")
        assert result.structured_content is None
        assert result.content[0].text == "[1, 2, 3]"  # type: ignore[union-attr]


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/tools#visibility")
async def test_a_tool_that_is_not_the_callers_to_see_is_not_listed(url: str, era: str) -> None:
    """The list is the principal's own."""
    async with client(url, era) as c:
        assert "secret.delete" not in [t.name for t in (await c.list_tools()).tools]


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/utilities/pagination")
async def test_a_long_list_comes_in_pages(era: str) -> None:
    """Following nextCursor shows every tool once, in order."""
    engine = fake_engine([tool(f"t{n:04}") for n in reversed(range(PAGE * 2 + 5))])
    async with mcp_server(engine) as url, client(url, era) as c:
        names: list[str] = []
        page = await c.list_tools()
        while True:
            names += [t.name for t in page.tools]
            if page.next_cursor is None:
                break
            page = await c.list_tools(cursor=page.next_cursor)
    assert names == sorted(engine.tools.tools)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("cursor", ["nonsense!", "", "4oCm4oCm4oC", "dGVzdA=="])
@covers("MCP-2026-07-28 server/utilities/pagination#invalid-cursor")
async def test_a_cursor_that_no_list_gave_is_refused(url: str, era: str, cursor: str) -> None:
    """An invalid cursor is -32602 with what to do."""
    async with client(url, era) as c:
        with pytest.raises(MCPError, match="list again without a cursor") as caught:
            await c.list_tools(cursor=cursor)
    assert caught.value.code == -32602


@covers("MCP-2026-07-28 server/utilities/caching")
async def test_a_list_says_how_long_it_may_be_kept(url: str) -> None:
    """tools/list carries ttlMs, and is private since policy may show another caller other tools."""
    async with client(url, MODERN) as c:
        result = await c.list_tools()
    assert result.ttl_ms == 10_000
    assert result.cache_scope == "private"


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/tools#calling", "MCP-2026-07-28 server/tools#structured-content")
async def test_arguments_reach_the_tool_and_its_value_comes_back(engine: FakeEngine, url: str, era: str) -> None:
    """The value is structured content, and the same JSON as text; the run behind it is named."""
    async with client(url, era) as c:
        result = await c.call_tool("echo", {"text": "grüß"})
    assert result.is_error is False
    assert result.structured_content == {"text": "grüß", "who": "local"}
    assert result.content[0].text == '{"text": "grüß", "who": "local"}'  # type: ignore[union-attr]
    assert result.meta is not None
    assert result.meta["io.agentmesh/run"] == "0190-run"
    assert engine.tools.called[0][1].arguments == {"text": "grüß"}


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_costs_no_list(engine: FakeEngine, url: str, era: str) -> None:
    """Checking mirrored headers does not walk tools/list."""
    async with client(url, era) as c:
        await c.list_tools()
        engine.tools.listed = 0
        await c.call_tool("echo", {"text": "x"})
    assert engine.tools.listed == 0


@pytest.mark.parametrize("era", ERAS)
async def test_an_idempotency_key_reaches_the_engine(engine: FakeEngine, url: str, era: str) -> None:
    """`_meta["io.agentmesh/idempotency-key"]` is the call's key."""
    async with client(url, era) as c:
        await c.call_tool("echo", {"text": "x"}, meta={"io.agentmesh/idempotency-key": "k-1"})  # type: ignore[typeddict-unknown-key]
    assert engine.tools.called[0][1].key == "k-1"


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/tools#execution-error")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fails", "The disk is full."),
        ("budget", "The run's 100 tokens are spent."),
        ("model", "Model tiny is still loading; try again."),
    ],
)
async def test_a_tool_that_fails_is_a_result(url: str, era: str, name: str, text: str) -> None:
    """A failure of the tool, its run or its model is isError with the sentence, for the model to read."""
    async with client(url, era) as c:
        result = await c.call_tool(name)
    assert result.is_error is True
    assert result.content[0].text == text  # type: ignore[union-attr]


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/tools#unknown-tool")
async def test_an_unknown_tool_is_a_protocol_error(url: str, era: str) -> None:
    """-32602 with a sentence that names what is wrong."""
    async with client(url, era) as c:
        with pytest.raises(MCPError, match="no tool 'eco'") as caught:
            await c.call_tool("eco", {"text": "x"})
    assert caught.value.code == -32602
    assert caught.value.data["code"] == "not_found"


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/tools#input-validation")
async def test_arguments_that_do_not_fit_are_a_tool_error_since_2025_11_25(url: str, era: str) -> None:
    """The model reads what is wrong and may correct itself (SEP-1303)."""
    async with client(url, era) as c:
        result = await c.call_tool("echo", {"txt": "x"})
    assert result.is_error is True
    assert result.content[0].text == "echo: 'text' is required."  # type: ignore[union-attr]


@pytest.mark.parametrize("era", ERAS)
async def test_a_denial_is_a_protocol_error(url: str, era: str) -> None:
    """A policy's no has a code of its own and names the rule."""
    async with client(url, era) as c:
        with pytest.raises(MCPError, match="may not call") as caught:
            await c.call_tool("denied")
    assert caught.value.code == -32003
    assert caught.value.data == {"code": "denied", "rule": "r0"}


@pytest.mark.parametrize("era", ERAS)
async def test_a_store_that_fails_is_not_the_callers_fault(url: str, era: str) -> None:
    """What the mesh cannot do now says so, without being called internal."""
    async with client(url, era) as c:
        with pytest.raises(MCPError, match="free some space") as caught:
            await c.call_tool("store")
    assert caught.value.code == -32004


@pytest.mark.parametrize("era", ERAS)
async def test_a_bug_shows_nothing_of_the_inside(url: str, era: str, caplog: pytest.LogCaptureFixture) -> None:
    """What was not raised on purpose is in the log, and not in the answer."""
    async with client(url, era) as c:
        with pytest.raises(MCPError) as caught:
            await c.call_tool("bug")
    assert "secret" not in str(caught.value)
    assert "ZeroDivision" not in str(caught.value)
    assert "secret insides" in caplog.text


@pytest.mark.parametrize("era", ERAS)
async def test_half_a_surrogate_pair_from_a_tool_does_not_break_the_answer(url: str, era: str) -> None:
    """What UTF-8 cannot carry is replaced."""
    async with client(url, era) as c:
        result = await c.call_tool("surrogate")
    assert result.structured_content == {"text": "half ? pair"}


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 basic/patterns/progress")
async def test_progress_comes_while_steps_run(engine: FakeEngine, url: str, era: str) -> None:
    """The first notification arrives before the tool is done; all of them before the result, counting up."""
    seen: list[tuple[float, float | None, str | None]] = []
    first = anyio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))
        first.set()

    async with client(url, era) as c:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:

                async def gated() -> None:
                    await c.call_tool("steps.gated", progress_callback=on_progress)

                group.start_soon(gated)
                await first.wait()
                engine.tools.go.set()
        seen.clear()
        await c.call_tool("steps", progress_callback=on_progress)
        with anyio.fail_after(5):
            while len(seen) < 3:  # the client's callbacks may run after its result
                await anyio.lowlevel.checkpoint()
    assert sorted(seen) == [
        (1, None, "cut started"),
        (2, None, "cut completed"),
        (3, None, "waiting for model tiny: loading weights"),
    ]


@pytest.mark.parametrize("era", ERAS)
async def test_a_failure_under_progress_is_the_same_error(url: str, era: str) -> None:
    """Errors pass through the reporting of progress unwrapped."""

    async def on_progress(progress: float, total: float | None, message: str | None) -> None: ...

    async with client(url, era) as c:
        with pytest.raises(MCPError, match="may not call"):
            await c.call_tool("denied", progress_callback=on_progress)
        assert (await c.call_tool("budget", progress_callback=on_progress)).is_error


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("reports", [True, False])
@covers(
    "MCP-2026-07-28 basic/transports/streamable-http#cancellation",
    "MCP-2025-11-25 basic/utilities/cancellation",
)
async def test_a_client_that_goes_cancels_its_call(engine: FakeEngine, url: str, era: str, reports: bool) -> None:
    """Closing the stream (2026) or notifications/cancelled (older) cancels the call, with and without progress."""

    async def on_progress(progress: float, total: float | None, message: str | None) -> None: ...

    async with client(url, era) as c:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:

                async def call() -> None:
                    await c.call_tool("wait", progress_callback=on_progress if reports else None)

                group.start_soon(call)
                await engine.tools.started.wait()
                group.cancel_scope.cancel()
            await engine.tools.cancelled.wait()


@pytest.mark.parametrize("era", ["auto", LEGACY])
async def test_the_server_serves_in_process(engine: FakeEngine, era: str) -> None:
    """Without HTTP the caller is the one that the embedder names."""
    edge = build_mcp(engine, settings(), in_process=Principal(subject="root"))  # type: ignore[arg-type]
    async with Client(edge.server, mode=era) as c:
        assert "secret.delete" in [t.name for t in (await c.list_tools()).tools]
        assert (await c.call_tool("echo", {"text": "x"})).structured_content == {"text": "x", "who": "root"}


async def test_without_a_principal_nothing_is_served(engine: FakeEngine) -> None:
    """An edge that nobody put behind authentication fails closed."""
    edge = build_mcp(engine, settings())  # type: ignore[arg-type]
    async with Client(edge.server, mode="auto") as c:
        with pytest.raises(MCPError):
            await c.list_tools()
    assert engine.tools.listed == 0
