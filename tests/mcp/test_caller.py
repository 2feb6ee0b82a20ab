"""A client that is asked while its call runs, in both eras; progress and logs on the way."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp_types import (
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestParams,
    ElicitResult,
    ListRootsResult,
    Root,
    TextContent,
)

from agentmesh.core.context import Context
from agentmesh.mcp.caller import NOTICES
from tests.engine import meshes
from tests.mcp.conftest import LEGACY, MODERN, mcp_server
from tests.mcp.everything import ANSWERS, everything, modern_client
from tests.mcp.test_wire import answer, legacy
from tests.requirements import covers

pytestmark = pytest.mark.anyio
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
ADA = {"action": "accept", "content": {"name": "Ada"}}


class User:
    """Who sits at the client."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def elicit(self, context: Any, params: ElicitRequestParams) -> ElicitResult:
        self.asked.append(params.message)
        return ElicitResult(action="accept", content={"name": "Ada", "color": "green", "ok": True})

    async def sample(self, context: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text="Paris"), model="m")

    async def roots(self, context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri="file:///home/ada", name="home")])  # type: ignore[arg-type]

    def client(self, url: str, era: str) -> Client:
        return Client(
            url,
            mode=era,
            elicitation_callback=self.elicit,
            sampling_callback=self.sample,
            list_roots_callback=self.roots,
        )


@pytest.mark.parametrize("era", [pytest.param(MODERN, id="2026"), pytest.param(LEGACY, id="2025")])
@covers("MCP-2026-07-28 basic/patterns/mrtr#basic-workflow", "MCP-2025-11-25 client/elicitation")
async def test_a_function_asks_whatever_era_its_client_speaks(era: str) -> None:
    """One after the other, and several at once; the function is the same."""
    user = User()
    async with everything() as (_, url), user.client(url, era) as client:
        twice = await client.call_tool("test_input_required_result_multi_round", {})
        several = await client.call_tool("test_input_required_result_multiple_inputs", {})
    assert twice.content[0].text == "Ada likes green."  # type: ignore[union-attr]
    assert several.content[0].text == "Ada: Paris; roots: home file:///home/ada"  # type: ignore[union-attr]
    assert user.asked == ["What is your name?", "Which color do you like, Ada?", "What is your name?"]


@covers("MCP-2026-07-28 basic/patterns/mrtr#basic-workflow")
async def test_each_round_carries_what_was_answered() -> None:
    """The second round asks only what is new; its state is another; answers that nobody asked for are left out."""
    async with everything() as (_, url), modern_client(url) as client:
        call: dict[str, Any] = {"name": "test_input_required_result_multi_round", "arguments": {}}
        first = (await client.post("tools/call", call, capabilities=ANSWERS))["result"]
        assert first["resultType"] == "input_required"
        assert list(first["inputRequests"]) == ["step1"]
        more = {"inputResponses": {"step1": ADA, "other": ADA}, "requestState": first["requestState"]}
        second = (await client.post("tools/call", call | more, capabilities=ANSWERS))["result"]
        assert list(second["inputRequests"]) == ["step2"]
        assert second["requestState"] != first["requestState"]
        color = {"action": "accept", "content": {"color": "red"}}
        more = {"inputResponses": {"step2": color}, "requestState": second["requestState"]}
        third = (await client.post("tools/call", call | more, capabilities=ANSWERS))["result"]
        assert third["content"] == [{"type": "text", "text": "Ada likes red."}]


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": {"x": 1}},
        {"name": "test_input_required_result_elicitation"},
        {"requestState": "v1.AAAA"},
        {"who": "mallory"},
    ],
)
@covers("MCP-2026-07-28 basic/patterns/mrtr#replay")
async def test_state_of_another_call_is_an_error_of_the_protocol(change: dict[str, Any]) -> None:
    """-32602, HTTP 400; never a tool's result, and the tool is not called."""
    async with everything() as (_, url), modern_client(url) as client:
        call: dict[str, Any] = {"name": "test_input_required_result_request_state", "arguments": {}}
        first = (await client.post("tools/call", call, capabilities=ANSWERS))["result"]
        client.who = change.get("who", client.who)
        more = {"inputResponses": {"confirm": {"action": "accept", "content": {"ok": True}}}}
        again = call | more | {"requestState": first["requestState"]}
        again |= {name: value for name, value in change.items() if name != "who"}
        error = (await client.post("tools/call", again, capabilities=ANSWERS))["error"]
    assert (error["code"], error["data"]["reason"]) == (-32602, "invalid_request_state")


@pytest.mark.parametrize(
    ("tool", "capabilities", "required"),
    [
        ("test_missing_capability", {}, {"sampling": {}}),
        ("test_input_required_result_elicitation", {"sampling": {}}, {"elicitation": {}}),
        ("test_input_required_result_elicitation", {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        ("test_input_required_result_multiple_inputs", {"sampling": {}}, {"elicitation": {}, "roots": {}}),
    ],
)
@covers("MCP-2026-07-28 basic/patterns/mrtr#capabilities")
async def test_only_what_the_client_declares_is_asked(
    tool: str, capabilities: dict[str, Any], required: dict[str, Any]
) -> None:
    """Else -32021 with all that is missing, HTTP 400."""
    async with everything() as (_, url), modern_client(url) as client:
        request = client.request("tools/call", {"name": tool, "arguments": {}}, capabilities=capabilities)
        response = await client.http.post("", **request)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["data"]["requiredCapabilities"]) == (-32021, required)


async def test_an_older_client_that_cannot_be_asked_reads_why() -> None:
    """There is no code for it in that era: the tool's result says what is missing."""
    async with everything() as (_, url), Client(url, mode=LEGACY) as client:
        result = await client.call_tool("test_elicitation", {"message": "Who?"})
    assert result.is_error
    assert "elicitation" in result.content[0].text  # type: ignore[union-attr]


@covers("MCP-2026-07-28 basic/patterns/mrtr#errors")
async def test_an_answer_of_another_kind_is_asked_for_again() -> None:
    """A sampling result is no answer to a form, and what does not fit the form is told."""
    async with everything() as (_, url), modern_client(url) as client:
        call: dict[str, Any] = {"name": "test_input_required_result_elicitation", "arguments": {}}
        sampled = {"role": "assistant", "content": {"type": "text", "text": "Ada"}, "model": "m"}
        wrong = call | {"inputResponses": {"user_name": sampled}}
        result = (await client.post("tools/call", wrong, capabilities=ANSWERS))["result"]
        assert list(result["inputRequests"]) == ["user_name"]
        number = call | {"inputResponses": {"user_name": {"action": "accept", "content": {"name": 3}}}}
        result = (await client.post("tools/call", number, capabilities=ANSWERS))["result"]
        assert result["isError"]


@covers("MCP-2026-07-28 basic/patterns/mrtr#basic-workflow")
async def test_a_prompt_asks_too() -> None:
    """prompts/get may end with input_required as tools/call does."""
    async with everything() as (_, url), modern_client(url) as client:
        get: dict[str, Any] = {"name": "test_input_required_result_prompt"}
        first = (await client.post("prompts/get", get, capabilities=ANSWERS))["result"]
        said = {"user_context": {"action": "accept", "content": {"context": "rain"}}}
        again = get | {"inputResponses": said, "requestState": first["requestState"]}
        result = (await client.post("prompts/get", again, capabilities=ANSWERS))["result"]
    assert "rain" in result["messages"][0]["content"]["text"]


@covers("MCP-2026-07-28 server/utilities/logging")
async def test_logs_go_to_who_asked_for_them() -> None:
    """Without logLevel none; with it that level and what is worse, before the result, on the call's own stream."""
    call = {"name": "test_logging_tool", "arguments": {}}
    async with everything() as (_, url), modern_client(url) as client:
        assert [m for m in await client.messages("tools/call", call) if "method" in m] == []
        told = await client.messages("tools/call", call, **{LOG_LEVEL: "error"})
    levels = [m["params"]["level"] for m in told[:-1]]
    assert levels == ["error", "critical", "alert", "emergency"]
    assert told[0]["params"]["logger"] == "conformance"
    assert "result" in told[-1]


@covers("MCP-2025-11-25 server/utilities/logging")
async def test_an_older_session_sets_its_level() -> None:
    """Info before it says anything; what it says holds for the session."""
    heard: list[str] = []

    async def hear(params: Any) -> None:
        heard.append(params.level)

    async with everything() as (_, url), Client(url, mode=LEGACY, logging_callback=hear) as client:
        await client.call_tool("test_logging_tool", {})
        with anyio.fail_after(5):
            while len(heard) < 7:
                await anyio.lowlevel.checkpoint()
        assert sorted(heard) == sorted(["info", "notice", "warning", "error", "critical", "alert", "emergency"])
        heard.clear()
        with pytest.warns(MCPDeprecationWarning):
            await client.set_logging_level("alert")
        await client.call_tool("test_logging_tool", {})
        with anyio.fail_after(5):
            while len(heard) < 2:
                await anyio.lowlevel.checkpoint()
        assert sorted(heard) == ["alert", "emergency"]


@covers("MCP-2026-07-28 basic/patterns/progress")
async def test_progress_counts_up_and_ends_before_the_result() -> None:
    """0, 50 and 100 of 100 with their words; nothing without a token."""
    call = {"name": "test_tool_with_progress", "arguments": {}}
    async with everything() as (_, url), modern_client(url) as client:
        told = await client.messages("tools/call", call, progressToken="t1")
        assert len(await client.messages("tools/call", call)) == 1
    params = [m["params"] for m in told[:-1]]
    assert [(p["progressToken"], p["progress"], p["total"]) for p in params] == [("t1", n, 100) for n in (0, 50, 100)]
    assert params[1]["message"] == "50 of 100"


async def test_a_client_that_refuses_is_the_tools_failure() -> None:
    """An error from the client is told in a sentence, and the session goes on."""

    async def refuse(context: Any, params: ElicitRequestParams) -> Any:
        raise MCPError(-1, "the user closed the window")

    async with everything() as (_, url), Client(url, mode=LEGACY, elicitation_callback=refuse) as client:
        result = await client.call_tool("test_elicitation", {"message": "Who?"})
        assert result.is_error
        assert "refused elicitation/create" in result.content[0].text  # type: ignore[union-attr]
        assert not (await client.call_tool("test_simple_text", {})).is_error


class _Talks:
    """Functions that say more than a client can read."""

    @staticmethod
    async def odd(ctx: Context) -> str:
        ctx.log("info", object())
        ctx.log("info", "fine")
        return "done"

    @staticmethod
    async def much(ctx: Context) -> str:
        for n in range(10_000):
            ctx.progress(f"line {n}")
            ctx.progress(done=5, total=10)
        return "done"


@pytest.mark.parametrize("era", [pytest.param(MODERN, id="2026"), pytest.param(LEGACY, id="2025")])
async def test_what_a_function_tells_never_breaks_or_stops_its_call(era: str) -> None:
    """A log that is no JSON is dropped; of ten thousand lines those are told that find room, and progress only grows."""
    heard: list[Any] = []
    told: list[float] = []

    async def log(params: Any) -> None:
        heard.append(params.data)

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(done)

    tools = {name: {"description": "Talks.", "python": f"app:{name}"} for name in ("odd", "much")}
    functions = {"app:odd": _Talks.odd, "app:much": _Talks.much}
    async with (
        meshes.serving(meshes.mesh(tools=tools), functions=functions) as engine,
        mcp_server(engine) as url,
        Client(url, mode=era, logging_callback=log) as client,
    ):
        result = await client.call_tool("desk.odd", {})
        assert not result.is_error
        result = await client.call_tool("desk.much", {}, progress_callback=progress)
        assert not result.is_error
        with anyio.fail_after(5):
            while not told:
                await anyio.lowlevel.checkpoint()
    assert len(set(told)) == len(told)  # the client's callbacks may run in another order
    assert 1 <= len(told) <= 2 * NOTICES
    assert object not in [type(data) for data in heard]


@covers("MCP-2025-06-18 client/elicitation")
async def test_a_client_of_june_2025_gets_a_form_of_its_revision() -> None:
    """Choices with titles as `enumNames`, and no `mode`; what it cannot be asked at all is the tool's failure."""
    initialize = {
        "protocolVersion": "2025-06-18",
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "t", "version": "1"},
    }
    form = {"type": "object", "properties": {"one": {"type": "string", "oneOf": [{"const": "a", "title": "A"}]}}}

    async def asks(ctx: Context) -> str:
        return str((await ctx.elicit("k", "Which?", form))["content"])

    async def asks_for_several(ctx: Context) -> str:
        several = {"type": "array", "items": {"type": "string", "enum": ["a"]}}
        return str(await ctx.elicit("k", "Which?", {"type": "object", "properties": {"some": several}}))

    tools = {name: {"description": "Asks.", "python": f"app:{name}"} for name in ("asks", "several")}
    functions = {"app:asks": asks, "app:several": asks_for_several}
    async with (
        meshes.serving(meshes.mesh(tools=tools), functions=functions) as engine,
        mcp_server(engine) as url,
        modern_client(url) as client,
    ):
        http = client.http
        opened = await http.post("", json=legacy("initialize", initialize))
        session = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
        await http.post("", json=legacy("notifications/initialized", ident=None), headers=session)
        several = answer(await http.post("", json=legacy("tools/call", {"name": "desk.several"}), headers=session))
        assert several["result"]["isError"]
        assert "several choices" in several["result"]["content"][0]["text"]
        call = legacy("tools/call", {"name": "desk.asks"}, ident=2)
        async with http.stream("POST", "", json=call, headers=session) as response:
            events = (json.loads(line[5:]) async for line in response.aiter_lines() if line.startswith("data: {"))
            asked = await anext(events)
            assert asked["params"] == {
                "message": "Which?",
                "requestedSchema": {
                    "type": "object", "properties": {"one": {"type": "string", "enum": ["a"], "enumNames": ["A"]}},
                },
            }  # fmt: skip
            said = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"one": "a"}}}
            assert (await http.post("", json=said, headers=session)).status_code == 202
            assert (await anext(events))["result"]["content"][0]["text"] == "{'one': 'a'}"
