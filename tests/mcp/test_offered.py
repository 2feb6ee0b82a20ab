"""resources/*, prompts/* and completion as clients of both eras see them."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from agentmesh.core.resource import Prompt, PromptResult, Resource, ResourceTemplate
from agentmesh.mcp.exchange import PAGE
from tests.mcp.conftest import ERAS, client, fake_engine, mcp_server
from tests.mcp.everything import everything, modern_client
from tests.mcp.test_wire import BOTH, answer, legacy, opened
from tests.requirements import covers

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/resources#listing", "MCP-2026-07-28 server/resources#reading")
async def test_resources_are_listed_and_read(era: str) -> None:
    """Text as text, bytes as base64; a template's values reach its function."""
    async with everything() as (_, url), client(url, era) as c:
        found = {str(r.uri): r for r in (await c.list_resources()).resources}
        assert found["test://static-text"].mime_type == "text/plain"
        templates = [t.uri_template for t in (await c.list_resource_templates()).resource_templates]
        assert "test://template/{id}/data" in templates
        text = (await c.read_resource("test://static-text")).contents[0]
        assert text.text == "This is the content of the static text resource."  # type: ignore[union-attr]
        image = (await c.read_resource("test://static-binary")).contents[0]
        assert image.blob.startswith("iVBOR")  # type: ignore[union-attr]
        data = (await c.read_resource("test://template/7/data")).contents[0]
        assert '"Data for ID: 7"' in data.text  # type: ignore[union-attr]


@covers("MCP-2026-07-28 server/resources#not-found", "MCP-2025-11-25 server/resources#not-found")
async def test_a_resource_that_is_not_there_is_an_error() -> None:
    """-32602 today, -32002 before; the URI is in the error, in both."""
    async with everything() as (_, url), modern_client(url) as m:
        error = (await m.post("resources/read", {"uri": "test://nothing"}))["error"]
        assert (error["code"], error["data"]["uri"]) == (-32602, "test://nothing")
        session = await opened(m.http)
        for method in ("resources/read", "resources/subscribe"):
            asked = legacy(method, {"uri": "test://nothing"})
            error = answer(await m.http.post("", json=asked, headers=session))["error"]
            assert (error["code"], error["data"]["uri"]) == (-32002, "test://nothing")


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/prompts#listing", "MCP-2026-07-28 server/prompts#getting")
async def test_prompts_are_listed_and_got(era: str) -> None:
    """With their arguments; one that needs more is told what."""
    async with everything() as (_, url), client(url, era) as c:
        found = {p.name: p for p in (await c.list_prompts()).prompts}
        arguments = found["test_prompt_with_arguments"].arguments or []
        assert [(a.name, a.required) for a in arguments] == [("arg1", True), ("arg2", True)]
        got = await c.get_prompt("test_prompt_with_arguments", {"arg1": "a", "arg2": "b"})
        assert got.messages[0].content.text == "Prompt with arguments: arg1='a', arg2='b'"  # type: ignore[union-attr]
        image = (await c.get_prompt("test_prompt_with_image")).messages[0].content
        assert image.mime_type == "image/png"  # type: ignore[union-attr]
        for name, given in (("test_prompt_with_arguments", {"arg1": "a"}), ("nothing", {})):
            with pytest.raises(MCPError) as caught:
                await c.get_prompt(name, given)
            assert caught.value.code == -32602


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/utilities/completion")
async def test_arguments_are_completed(era: str) -> None:
    """Values that begin so; none for a template that has none; an unknown prompt is an error."""
    async with everything() as (_, url), client(url, era) as c:
        ref = PromptReference(type="ref/prompt", name="test_prompt_with_arguments")
        values = (await c.complete(ref, {"name": "arg1", "value": "par"})).completion.values
        assert values == ["paris", "park", "party"]
        template = ResourceTemplateReference(type="ref/resource", uri="test://template/{id}/data")
        assert (await c.complete(template, {"name": "id", "value": "1"})).completion.values == []
        with pytest.raises(MCPError) as caught:
            await c.complete(PromptReference(type="ref/prompt", name="none"), {"name": "a", "value": ""})
        assert caught.value.code == -32602


class Many:
    """As many resources, templates and prompts as one likes."""

    def __init__(self, count: int) -> None:
        self.count = count

    def list(self, principal: Any) -> list[Any]:
        return [Resource(f"r:{n:05}", f"r{n}") for n in reversed(range(self.count))]

    def templates(self, principal: Any) -> list[Any]:
        return [ResourceTemplate(f"t:{n:05}/{{id}}", f"t{n}") for n in range(self.count)]


class ManyPrompts:
    def __init__(self, count: int) -> None:
        self.count = count

    def list(self, principal: Any) -> list[Prompt]:
        return [Prompt(f"p{n:05}") for n in range(self.count)]

    async def get(self, principal: Any, name: str, arguments: Any, caller: Any) -> PromptResult:
        return PromptResult(())


@pytest.mark.parametrize("era", ERAS)
@covers("MCP-2026-07-28 server/utilities/pagination")
async def test_every_list_comes_in_pages(era: str) -> None:
    """Each entry once and in order; a cursor of one list is refused by another."""
    count = PAGE * 2 + 3
    engine = fake_engine()
    engine.resources, engine.prompts = Many(count), ManyPrompts(count)
    async with mcp_server(engine) as url, client(url, era) as c:
        uris: list[str] = []
        cursor: str | None = None
        for _ in range(3):
            page = await c.list_resources(cursor=cursor)
            uris += [str(r.uri) for r in page.resources]
            cursor = page.next_cursor
        assert uris == [f"r:{n:05}" for n in range(count)]
        assert cursor is None
        first = await c.list_prompts()
        assert len(first.prompts) == PAGE
        for wrong in (first.next_cursor, "AAAA", "%%%", ""):
            with pytest.raises(MCPError) as caught:
                await c.list_resource_templates(cursor=wrong)
            assert caught.value.code == -32602


@covers("MCP-2026-07-28 server/utilities/caching")
async def test_every_list_says_how_long_it_may_be_kept() -> None:
    """ttlMs and cacheScope on lists and contents; not before 2026-07-28."""
    async with everything() as (_, url), modern_client(url) as m:
        for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
            result = (await m.post(method))["result"]
            assert (result["ttlMs"], result["cacheScope"]) == (10_000, "private")
        result = (await m.post("resources/read", {"uri": "test://static-text"}))["result"]
        assert (result["ttlMs"], result["cacheScope"]) == (0, "private")
        session = await opened(m.http)
        older = answer(await m.http.post("", json=legacy("resources/list"), headers=session))["result"]
        assert older.keys() == {"resources"}


@covers("MCP-2026-07-28 server/discover")
async def test_capabilities_are_what_is_served() -> None:
    """Lists that change, subscriptions, completion and logs; in both eras, and only those of the revision."""
    async with everything() as (_, url), modern_client(url) as m:
        found = (await m.post("server/discover"))["result"]["capabilities"]
        assert found["resources"] == {"listChanged": True, "subscribe": True}
        assert found["tools"] == found["prompts"] == {"listChanged": True}
        async with httpx2.AsyncClient(base_url=url, headers=BOTH) as http:
            for version, completes in (("2024-11-05", False), ("2025-03-26", True), ("2025-11-25", True)):
                params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
                told = answer(await http.post("", json=legacy("initialize", params)))["result"]
                assert told["protocolVersion"] == version
                assert told["capabilities"]["tools"] == {"listChanged": True}
                assert told["capabilities"]["resources"] == {"listChanged": True, "subscribe": True}
                assert ("completions" in told["capabilities"]) is completes
                assert ("title" in told["serverInfo"]) is (version == "2025-11-25")
