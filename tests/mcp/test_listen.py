"""Who is told of changes: listen streams of 2026-07-28 and sessions of the older era."""

from __future__ import annotations

from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client

from agentmesh.core.policy import Principal
from agentmesh.core.source import Change
from agentmesh.mcp.server import build_mcp
from tests.mcp.conftest import LEGACY, FakeEngine, fake_engine, mcp_server, serving, settings, with_principal
from tests.mcp.everything import everything, modern_client
from tests.mcp.test_wire import BOTH, legacy, opened
from tests.requirements import covers

pytestmark = pytest.mark.anyio
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


class Resources:
    """Counts who subscribed to what."""

    def __init__(self) -> None:
        self.subscribed: list[str] = []

    async def subscribe(self, principal: Principal, uri: str) -> None:
        self.subscribed.append(uri)

    async def unsubscribe(self, principal: Principal, uri: str) -> None:
        self.subscribed.remove(uri)


def listened() -> FakeEngine:
    engine = fake_engine()
    engine.resources = Resources()
    return engine


@covers(
    "MCP-2026-07-28 basic/patterns/subscriptions#acknowledgment", "MCP-2026-07-28 basic/patterns/subscriptions#filter"
)
async def test_a_stream_hears_what_it_asked_for() -> None:
    """First the agreed part of what it wants, then that and nothing else, each frame with the request's id."""
    async with everything() as (engine, url), modern_client(url) as client:
        wanted = {"toolsListChanged": True, "resourceSubscriptions": ["test://watched-resource", "test://nothing"]}
        async with client.listening(wanted) as events:
            first = await anext(events)
            assert first["method"] == "notifications/subscriptions/acknowledged"
            assert first["params"]["notifications"] == wanted | {"resourceSubscriptions": ["test://watched-resource"]}
            engine.changes.publish("prompts")
            engine.changes.publish("resources")
            engine.changes.publish("updated", "test://static-text")
            engine.changes.publish("updated", "test://watched-resource")
            updated = await anext(events)
            assert updated["params"]["uri"] == "test://watched-resource"
            await client.post("tools/call", {"name": "test_trigger_tool_change", "arguments": {}})
            changed = await anext(events)
            assert changed["method"] == "notifications/tools/list_changed"
        assert {e["params"]["_meta"][SUBSCRIPTION] for e in (first, updated, changed)} == {1}


@covers("MCP-2026-07-28 basic/patterns/subscriptions#graceful-closure")
async def test_a_server_that_stops_ends_its_streams() -> None:
    """The last frame is the request's result, and what it subscribed to is given up."""
    engine = listened()
    edge = build_mcp(engine, settings())  # type: ignore[arg-type]
    async with (
        edge.run(),
        serving(with_principal(edge.app)) as base,
        modern_client(f"{base}/mcp") as client,
        client.listening({"resourceSubscriptions": ["r:1", "r:1", "r:2"]}) as events,
    ):
        await anext(events)
        assert engine.resources.subscribed == ["r:1", "r:2"]
        edge.close_streams()
        last = await anext(events)
    assert (last["id"], last["result"]["resultType"], last["result"]["_meta"][SUBSCRIPTION]) == (1, "complete", 1)
    assert engine.resources.subscribed == []


async def test_a_client_that_leaves_is_told_no_more() -> None:
    """Its place and its subscriptions are free again."""
    engine = listened()
    edge = build_mcp(engine, settings())  # type: ignore[arg-type]
    async with edge.run(), serving(with_principal(edge.app)) as base, modern_client(f"{base}/mcp") as client:
        async with client.listening({"resourceSubscriptions": ["r:1"], "toolsListChanged": True}) as events:
            await anext(events)
        with anyio.fail_after(5):
            while engine.resources.subscribed:
                await anyio.lowlevel.checkpoint()
        engine.changes.publish("tools")


@covers("MCP-2026-07-28 basic/patterns/subscriptions#bounds")
async def test_one_caller_leaves_room_for_others() -> None:
    """A caller's streams are counted, and so are all; what is refused says so at once, and a place that is left is free."""
    async with (
        mcp_server(listened(), max_streams=3, max_streams_of_one=2) as url,
        modern_client(url, "one") as one,
        modern_client(url, "two") as two,
    ):
        async with one.listening({}) as a, one.listening({}) as b:
            await anext(a)
            await anext(b)
            async with one.listening({}) as refused:
                assert (await anext(refused))["error"]["code"] == -32004
            async with two.listening({}) as c:
                assert (await anext(c))["method"] == "notifications/subscriptions/acknowledged"
                async with two.listening({}) as refused:
                    assert "the server has" in (await anext(refused))["error"]["message"]
            assert "result" in await one.post("tools/list")
        with anyio.fail_after(5):
            while True:
                async with one.listening({}) as again:
                    if "method" in await anext(again):
                        break


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
@covers("MCP-2025-11-25 server/resources#subscriptions", "MCP-2025-11-25 server/tools#list-changed")
async def test_an_older_session_is_told_of_changes() -> None:
    """Of lists, and of the resources that it subscribed to until it unsubscribes; what it had is given up at its end."""
    heard: list[str] = []
    engine = listened()

    async def hear(message: Any) -> None:
        uri = getattr(getattr(message, "params", None), "uri", None)
        heard.append(f"{type(message).__name__} {uri or ''}".strip())

    async def until(count: int) -> None:
        with anyio.fail_after(5):
            while len(heard) < count:
                await anyio.lowlevel.checkpoint()

    async with mcp_server(engine) as url:
        async with Client(url, mode=LEGACY, message_handler=hear) as client:
            await client.subscribe_resource("r:1")
            await client.subscribe_resource("r:1")
            assert engine.resources.subscribed == ["r:1"]
            with anyio.fail_after(5):
                while not heard:  # its GET stream opens when it opens
                    engine.changes.publish("tools")
                    await anyio.sleep(0.01)
            heard.clear()
            changes: list[tuple[Change, str | None]] = [
                ("prompts", None), ("resources", None), ("updated", "r:2"), ("updated", "r:1"),
            ]  # fmt: skip
            for change, uri in changes:
                engine.changes.publish(change, uri)
            await until(3)
            told = [name for name in heard if not name.startswith("Tool")]
            assert sorted(told) == [
                "PromptListChangedNotification", "ResourceListChangedNotification", "ResourceUpdatedNotification r:1",
            ]  # fmt: skip
            await client.unsubscribe_resource("r:1")
            await client.unsubscribe_resource("r:1")
            assert engine.resources.subscribed == []
            await client.subscribe_resource("r:3")
        with anyio.fail_after(5):
            while engine.resources.subscribed:
                await anyio.lowlevel.checkpoint()


async def test_one_caller_has_half_of_the_sessions() -> None:
    """The next one is told to end one; another caller finds room, and so does the first when it has ended one."""
    async with mcp_server(listened(), max_sessions=4) as url, httpx2.AsyncClient(base_url=url, headers=BOTH) as http:
        params: dict[str, Any] = {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "b", "version": "1"},
        }  # fmt: skip
        session = await opened(http)
        await opened(http)
        response = await http.post("", json=legacy("initialize", params))
        assert (response.status_code, response.json()["error"]["code"]) == (503, -32004)
        assert (await http.post("", json=legacy("tools/list"), headers=session)).status_code == 200
        await opened(http, **{"x-who": "other"})
        await http.delete("", headers=session)
        with anyio.fail_after(5):
            while (await http.post("", json=legacy("initialize", params))).status_code == 503:
                await anyio.lowlevel.checkpoint()
