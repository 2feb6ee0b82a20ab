"""Upstream MCP servers for tests: the SDK's own server of either era on a real socket, and one made of raw answers."""

from __future__ import annotations

import random
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged
from starlette.types import ASGIApp, Receive, Scope, Send

from agentmesh.adapters.breaker import BreakerPace
from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.upstream_mcp import UpstreamMcp
from agentmesh.adapters.upstream_mcp_link import LinkPace
from agentmesh.core.caller import NOBODY, Caller
from agentmesh.core.policy import Principal
from agentmesh.core.server_file import ServerFile
from agentmesh.core.source import SourceCall
from agentmesh.core.store import Store
from agentmesh.core.tool import ToolResult

LOCAL = Principal()
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
PIXEL = "iVBORw0KGgo="
FORM: dict[str, Any] = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
BREAKER = BreakerPace()
FAST = LinkPace(connect=10, probe=5, wait=5, backoff=0.05, backoff_limit=0.5, settled=30, again=0.02)


@dataclass
class Desk:
    """An MCP server with one of everything."""

    modern: bool
    bus: InMemorySubscriptionBus = field(default_factory=InMemorySubscriptionBus)
    calls: list[types.CallToolRequestParams] = field(default_factory=list)
    metas: list[dict[str, Any]] = field(default_factory=list)
    started: anyio.Event = field(default_factory=anyio.Event)
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    watching: anyio.Event = field(default_factory=anyio.Event)
    sessions: list[Any] = field(default_factory=list)
    tools: dict[str, types.Tool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("echo", "progress", "log", "slow", "fail", "picture", "ask", "lie", "sample"):
            self.tools[name] = types.Tool(name=name, description=f"The tool {name}.", input_schema={"type": "object"})
        self.tools["echo"] = types.Tool(
            name="echo", description="Says it again.", input_schema=TEXT, output_schema=TEXT,
            annotations=types.ToolAnnotations(read_only_hint=True, title="Echo"), _meta={"example.com/kind": "test"},
        )  # fmt: skip
        self.tools["lie"] = types.Tool(
            name="lie", description="Does not keep its word.", input_schema={"type": "object"}, output_schema=TEXT
        )

    @property
    def server(self) -> Server[Any]:
        more: dict[str, Any] = {"on_subscriptions_listen": ListenHandler(self.bus)} if self.modern else {}
        return Server(
            "desk",
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
            on_list_resources=self.list_resources,
            on_list_resource_templates=self.list_templates,
            on_read_resource=self.read,
            on_subscribe_resource=self.subscribe,
            on_unsubscribe_resource=self.unsubscribe,
            on_list_prompts=self.list_prompts,
            on_get_prompt=self.get_prompt,
            on_completion=self.complete,
            get_tool_input_schema=lambda name: self.tools[name].input_schema if name in self.tools else None,
            **more,
        )

    async def list_tools(self, ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        """Two a page."""
        self.sessions.append(ctx.session)
        names = list(self.tools)
        at = int(params.cursor) if params is not None and params.cursor else 0
        page = [self.tools[name] for name in names[at : at + 2]]
        return types.ListToolsResult(tools=page, next_cursor=str(at + 2) if at + 2 < len(names) else None)

    async def call_tool(
        self, ctx: Any, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        self.calls.append(params)
        self.metas.append(dict(ctx.meta or {}))
        arguments = params.arguments or {}
        match params.name:
            case "echo":
                return types.CallToolResult(
                    content=[types.TextContent(type="text", text=arguments["text"])],
                    structured_content={"text": arguments["text"]}, _meta={"example.com/seen": True},
                )  # fmt: skip
            case "progress":
                for step in (1, 2, 3):
                    await ctx.session.report_progress(step, 3, f"step {step}")
                return _text("done")
            case "log":
                await ctx.session.send_log_message(
                    level="warning", data={"said": "careful"}, logger="desk", related_request_id=ctx.request_id
                )
                return _text("logged")
            case "slow":
                self.started.set()
                try:
                    await anyio.sleep_forever()
                except BaseException:
                    self.cancelled.set()
                    raise
            case "fail":
                return types.CallToolResult(content=[types.TextContent(type="text", text="no paper")], is_error=True)
            case "picture":
                return types.CallToolResult(
                    content=[types.ImageContent(type="image", data=PIXEL, mime_type="image/png"),
                             types.ResourceLink(type="resource_link", name="more", uri="desk://more")]
                )  # fmt: skip
            case "ask":
                return await self._ask(ctx, params)
            case "sample":
                found = await ctx.session.create_message(
                    messages=[types.SamplingMessage(role="user", content=types.TextContent(type="text", text="hi"))],
                    max_tokens=5, related_request_id=ctx.request_id,
                )  # fmt: skip
                return _text(found.content.text)
            case "lie":
                return types.CallToolResult(content=[], structured_content={"text": 7})
        raise AssertionError(params.name)

    async def _ask(
        self, ctx: Any, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        if not self.modern:
            answer = await ctx.session.elicit_form("Which colour?", FORM, related_request_id=ctx.request_id)
            return _text(f"{answer.action} {answer.content}")
        if params.request_state is None:
            question = types.ElicitRequest(
                params=types.ElicitRequestFormParams(mode="form", message="Which colour?", requested_schema=FORM)
            )
            return types.InputRequiredResult(input_requests={"colour": question}, request_state="opaque-1")
        answer = (params.input_responses or {})["colour"]
        assert isinstance(answer, types.ElicitResult)
        return _text(f"{params.request_state} {answer.action} {answer.content}")

    async def list_resources(self, ctx: Any, params: Any) -> types.ListResourcesResult:
        return types.ListResourcesResult(
            resources=[types.Resource(uri="desk://today", name="today", mime_type="text/plain")]
        )

    async def list_templates(self, ctx: Any, params: Any) -> types.ListResourceTemplatesResult:
        found = types.ResourceTemplate(uri_template="desk://orders/{id}", name="order")
        return types.ListResourceTemplatesResult(resource_templates=[found])

    async def read(self, ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        if str(params.uri) == "desk://none":
            from mcp.shared.exceptions import MCPError

            raise MCPError(code=types.INVALID_PARAMS, message="no such thing")
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=params.uri, text=f"read {params.uri}")]
        )

    async def subscribe(self, ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        self.watching.set()
        return types.EmptyResult()

    async def unsubscribe(self, ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        self.watching = anyio.Event()
        return types.EmptyResult()

    async def list_prompts(self, ctx: Any, params: Any) -> types.ListPromptsResult:
        argument = types.PromptArgument(name="tone", required=True)
        return types.ListPromptsResult(
            prompts=[types.Prompt(name="reply", description="A reply.", arguments=[argument])]
        )

    async def get_prompt(self, ctx: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        said = types.TextContent(type="text", text=f"Be {(params.arguments or {})['tone']}.")
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=said)])

    async def complete(self, ctx: Any, params: types.CompleteRequestParams) -> types.CompleteResult:
        name = getattr(params.ref, "name", None) or getattr(params.ref, "uri", "")
        return types.CompleteResult(completion=types.Completion(values=[f"{name}:{params.argument.value}!"], total=1))

    async def tools_changed(self) -> None:
        """Tells the clients."""
        if self.modern:
            await self.bus.publish(ToolsListChanged())
        else:
            await self.sessions[-1].send_tool_list_changed()

    async def resource_changed(self, uri: str) -> None:
        if self.modern:
            await self.bus.publish(ResourceUpdated(uri=uri))
        else:
            await self.sessions[-1].send_resource_updated(uri)

    def app(self) -> ASGIApp:
        return self.server.streamable_http_app()


def _text(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


def only_older(app: ASGIApp) -> ASGIApp:
    """The same server as one of 2025 would be: it knows no revision of 2026."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (b"mcp-protocol-version", b"2026-07-28") in scope["headers"]:
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"Bad Request: unsupported protocol version"})
            return
        await app(scope, receive, send)

    return serve


@asynccontextmanager
async def listening(app: ASGIApp, *, port: int = 0) -> AsyncIterator[str]:
    """Serves an app; its MCP address."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(100)
    config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=0, ws="none")
    server = uvicorn.Server(config)
    stopped = anyio.Event()

    async def serve() -> None:
        with listener:
            await server.serve([listener])
        stopped.set()

    async with anyio.create_task_group() as group:
        group.start_soon(serve)
        try:
            while not server.started:
                await anyio.lowlevel.checkpoint()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            server.should_exit = server.force_exit = True
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await stopped.wait()


@asynccontextmanager
async def desk_at(*, modern: bool, port: int = 0) -> AsyncIterator[tuple[Desk, str]]:
    desk = Desk(modern)
    app = desk.app()
    async with listening(app if modern else only_older(app), port=port) as url:
        yield desk, url


def server_file(name: str, upstream: Mapping[str, Any], **more: Any) -> ServerFile:
    return ServerFile.model_validate({"name": name, "upstream": dict(upstream), **more})


@asynccontextmanager
async def upstream(
    name: str, given: Mapping[str, Any], *, store: Store | None = None, folder: Path | None = None, ready: bool = True,
    pace: LinkPace = FAST, breaker: BreakerPace = BREAKER, mark: str = "test-", **more: Any,
) -> AsyncIterator[UpstreamMcp]:  # fmt: skip
    """An upstream of the mesh, connected and looked at unless `ready` is False."""
    source = UpstreamMcp(
        server_file(name, given, **more), folder=folder or Path.cwd(), store=store or MemoryStore(), mark=mark,
        rng=random.Random(7), pace=pace, breaker=breaker,
    )  # fmt: skip
    heard = anyio.Event()
    source.on_change(lambda change, uri: heard.set() if change == "tools" else None)
    async with source:
        if ready:
            with anyio.fail_after(10):
                await heard.wait()
        yield source


async def call(
    source: UpstreamMcp, name: str, arguments: Mapping[str, Any] | None = None, *, caller: Caller = NOBODY, writes: bool = True,
    key: str = "", timeout: float | None = None, principal: Principal = LOCAL,
) -> ToolResult:  # fmt: skip
    return await source.call(
        SourceCall(source.tools()[name], arguments or {}, principal, key, caller, writes, timeout=timeout)
    )


async def until(true: Callable[[], bool], what: str = "") -> None:
    """Waits for something that has no event; fails after 10 s."""
    with anyio.move_on_after(10):
        while not true():  # noqa: ASYNC110 - it has no event
            await anyio.sleep(0.01)
        return
    raise AssertionError(what or "it did not come true")


Answer = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
