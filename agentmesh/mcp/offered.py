"""resources/*, prompts/*, completion/complete and logging/setLevel, over engine.resources and engine.prompts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CompleteRequestParams,
    GetPromptRequestParams,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    SetLevelRequestParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentmesh.core.resource import Prompt, PromptArgument, Resource, ResourceTemplate
from agentmesh.errors import NotFound
from agentmesh.mcp.blocks import TITLES_SINCE, clean, to_annotations, to_contents, to_messages, trim
from agentmesh.mcp.convert import check_arguments, cut
from agentmesh.mcp.exchange import Exchange, reported
from agentmesh.mcp.sessions import set_level

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from agentmesh.engine import Engine
    from agentmesh.mcp.caller import ModernCaller, OlderCaller
    from agentmesh.mcp.listen import Hub
    from agentmesh.mcp.state import Carried

NO_RESOURCE: Final = -32002
"""No such resource, before 2026-07-28 (2025-11-25 server/resources, Error Handling); since then it is -32602."""
VALUES: Final = 100
"""Values in one completion."""

S = TypeVar("S")
P = TypeVar("P")
Handler = Callable[[S, "ServerRequestContext[Any]", P], Awaitable[Any]]


def _reporting(handler: Handler[S, P]) -> Handler[S, P]:
    """What a handler raises, as an error of the protocol."""

    @wraps(handler)
    async def reporting(self: S, ctx: ServerRequestContext[Any], params: P) -> Any:
        try:
            return await handler(self, ctx, params)
        except Exception as error:
            raise reported(error, ctx.method) from error

    return reporting


class Offered:
    """The handlers. What the mesh has is looked up anew for each request: files and upstreams change."""

    def __init__(self, engine: Engine, exchange: Exchange, hub: Hub) -> None:
        self._engine = engine
        self._exchange = exchange
        self._hub = hub

    @_reporting
    async def list_resources(self, ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> Any:
        found = self._engine.resources.list(self._exchange.principal(ctx))
        return self._exchange.page(ctx, params, found, lambda one: one.uri, to_resource, "resources")

    @_reporting
    async def list_templates(self, ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> Any:
        found = self._engine.resources.templates(self._exchange.principal(ctx))
        return self._exchange.page(ctx, params, found, lambda one: one.uri_template, to_template, "resourceTemplates")

    @_reporting
    async def read_resource(self, ctx: ServerRequestContext[Any], params: ReadResourceRequestParams) -> Any:
        principal, uri = self._exchange.principal(ctx), str(params.uri)
        check_arguments({"uri": uri}, self._exchange.depth)

        async def read(caller: ModernCaller | OlderCaller, carried: Carried) -> dict[str, Any]:
            contents = await self._engine.resources.read(principal, uri, caller)
            return {"resultType": "complete", "contents": to_contents(contents, ctx.protocol_version)}

        try:
            return await self._exchange.serve(ctx, principal, uri, {}, read)
        except NotFound as error:
            raise _no_resource(error, uri, ctx.protocol_version) from error

    @_reporting
    async def subscribe(self, ctx: ServerRequestContext[Any], params: SubscribeRequestParams) -> Any:
        uri = str(params.uri)
        check_arguments({"uri": uri}, self._exchange.depth)
        try:
            await self._hub.subscribe(ctx, self._exchange.principal(ctx), uri)
        except NotFound as error:
            raise _no_resource(error, uri, ctx.protocol_version) from error
        return {}

    @_reporting
    async def unsubscribe(self, ctx: ServerRequestContext[Any], params: UnsubscribeRequestParams) -> Any:
        await self._hub.unsubscribe(ctx, self._exchange.principal(ctx), str(params.uri))
        return {}

    @_reporting
    async def listen(self, ctx: ServerRequestContext[Any], params: SubscriptionsListenRequestParams) -> Any:
        return await self._hub.listen(ctx, self._exchange.principal(ctx), params)

    @_reporting
    async def list_prompts(self, ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> Any:
        found = self._engine.prompts.list(self._exchange.principal(ctx))
        return self._exchange.page(ctx, params, found, lambda one: one.name, to_prompt, "prompts")

    @_reporting
    async def get_prompt(self, ctx: ServerRequestContext[Any], params: GetPromptRequestParams) -> Any:
        principal, given = self._exchange.principal(ctx), params.arguments or {}
        check_arguments(given, self._exchange.depth)

        async def get(caller: ModernCaller | OlderCaller, carried: Carried) -> dict[str, Any]:
            found = await self._engine.prompts.get(principal, params.name, given, caller)
            wire: dict[str, Any] = {
                "resultType": "complete",
                "messages": to_messages(found.messages, ctx.protocol_version),
            }
            return {**wire, "description": clean(found.description)} if found.description else wire

        return await self._exchange.serve(ctx, principal, params.name, given, get)

    @_reporting
    async def complete(self, ctx: ServerRequestContext[Any], params: CompleteRequestParams) -> Any:
        principal = self._exchange.principal(ctx)
        ref = params.ref.model_dump(by_alias=True, mode="json", exclude_none=True)
        argument = {"name": params.argument.name, "value": params.argument.value}
        known = (params.context.arguments or {}) if params.context is not None else {}
        check_arguments({"ref": ref, "argument": argument, "known": known}, self._exchange.depth)
        found = await self._engine.resources.complete(principal, ref, argument, known)
        values = list(found.values[:VALUES])
        completion: dict[str, Any] = {"values": values, "hasMore": found.has_more or len(found.values) > VALUES}
        if found.total is not None:
            completion["total"] = found.total
        return {"resultType": "complete", "completion": completion}

    @_reporting
    async def set_level(self, ctx: ServerRequestContext[Any], params: SetLevelRequestParams) -> Any:
        set_level(ctx, params.level)
        return {}


def _no_resource(error: NotFound, uri: str, version: str) -> MCPError:
    code = INVALID_PARAMS if version in MODERN_PROTOCOL_VERSIONS else NO_RESOURCE
    return MCPError(code, cut(error.message), {"code": error.code, **cut(error.data), "uri": cut(uri)})


def to_resource(resource: Resource, version: str) -> dict[str, Any]:
    """`Resource`."""
    return _entry(resource, version, {"uri": resource.uri, "size": resource.size})


def to_template(template: ResourceTemplate, version: str) -> dict[str, Any]:
    """`ResourceTemplate`."""
    return _entry(template, version, {"uriTemplate": template.uri_template})


def _entry(one: Resource | ResourceTemplate, version: str, address: Mapping[str, Any]) -> dict[str, Any]:
    wire = {
        **address, "name": one.name, "title": one.title, "description": one.description or None, "mimeType": one.mime_type,
        "annotations": to_annotations(one.annotations, version) or None, "_meta": dict(one.meta) or None,
    }  # fmt: skip
    return trim(wire, version)


def to_prompt(prompt: Prompt, version: str) -> dict[str, Any]:
    """`Prompt`."""
    wire = {
        "name": prompt.name, "title": prompt.title, "description": prompt.description or None,
        "arguments": [_argument(one, version) for one in prompt.arguments] or None, "_meta": dict(prompt.meta) or None,
    }  # fmt: skip
    return trim(wire, version)


def _argument(argument: PromptArgument, version: str) -> dict[str, Any]:
    wire: dict[str, Any] = {"name": argument.name, "required": argument.required}
    if argument.description:
        wire["description"] = argument.description
    if argument.title is not None and version >= TITLES_SINCE:
        wire["title"] = argument.title
    return wire
