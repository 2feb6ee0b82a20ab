"""The shorter path: a plain `tools/call` of 2026-07-28 answered without the SDK, with one JSON response.

Most calls are one small object in and one out. The SDK's path builds a session, a connection, streams and a task group for each; this
one reads the body, compares, asks `engine.tools` and writes. It answers only what it knows exactly to be right. All else goes on to
the SDK's path as it came (the body is read again there): what is wrong in any way, so that every refusal is the SDK's, and what needs
more than one response: progress, logging, a client that may be asked, calls that are runs (and so may be tasks), mirrored arguments,
sessions and the older era. Leaving this path out changes no answer, which tests/mcp/test_fast_same.py holds it to.

Some refusals are its own, and for every POST of both eras: an object with a name twice, which two readers take for two different
calls, text that is not UTF-8, and more values than can be looked through while others wait.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskGroup
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS, x_mcp_header_map
from mcp_types import INVALID_REQUEST, PARSE_ERROR, SERVER_INFO_META_KEY
from mcp_types import methods as wire
from mcp_types.version import LATEST_MODERN_VERSION
from pydantic import ValidationError

from agentmesh.core.caller import CAPABILITY, InputRequired
from agentmesh.core.json_text import NotUtf8, RepeatedName, parse_once, write_json
from agentmesh.core.policy import Principal
from agentmesh.core.tool import Tool, ToolCall, ToolResult
from agentmesh.core.trace import trace_of, traced
from agentmesh.engine.meter import CANCELLED, TOOL_ERROR
from agentmesh.errors import MeshError, TooLarge
from agentmesh.mcp.convert import is_tool_failure, to_mcp_error, to_mcp_failure, to_mcp_result

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agentmesh.engine import Engine

log = logging.getLogger("agentmesh.mcp")

VERSION: Final = LATEST_MODERN_VERSION
METHOD: Final = "tools/call"
_VERSION: Final = VERSION.encode()
_METHOD: Final = METHOD.encode()
_MESSAGE: Final = frozenset({"jsonrpc", "id", "method", "params"})
_PARAMS: Final = frozenset({"name", "arguments", "_meta"})
_VERSION_META: Final = "io.modelcontextprotocol/protocolVersion"
_INFO_META: Final = "io.modelcontextprotocol/clientInfo"
_CAPABILITIES_META: Final = "io.modelcontextprotocol/clientCapabilities"
_META: Final = frozenset({_VERSION_META, _INFO_META, _CAPABILITIES_META, "traceparent", "tracestate", "baggage"})
"""All that may stand in `_meta` here; a progress token, a log level, an idempotency key and what nobody knows go on."""
_ASKABLE: Final = frozenset(CAPABILITY.values())
_LARGEST_ID: Final = 2**53
MIRRORED: Final = 4096
"""Tools of which it is remembered whether they mirror arguments into headers."""


class Fast:
    """Stands before `front`, the whole edge, and answers what it can."""

    def __init__(self, engine: Engine, server: Server[Any], front: ASGIApp, *, body: int, depth: int) -> None:
        """`body`: most bytes, `depth`: most levels, as the whole edge has them."""
        self._engine = engine
        self._front = front
        self._body = body
        self._depth = depth
        self._stamp = {SERVER_INFO_META_KEY: server.server_info_stamp}
        self._group: TaskGroup | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mirrors: dict[int, tuple[Tool, bool]] = {}

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Holds what watches for clients that leave. Before and after, everything goes the SDK's way."""
        async with anyio.create_task_group() as group:
            self._group, self._loop = group, asyncio.get_running_loop()
            try:
                yield
            finally:
                self._group = None
                group.cancel_scope.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or self._group is None:
            await self._front(scope, receive, send)
            return
        read: list[Message] = []
        body = await self._whole(receive, read)
        if body is not None:
            message: Any = None
            try:
                message = parse_once(body)
            except (RepeatedName, NotUtf8) as error:
                await _write(send, 400, {"error": {"code": PARSE_ERROR, "message": error.message}, "id": None})
                return
            except TooLarge as error:
                await _write(send, 413, {"error": {"code": INVALID_REQUEST, "message": error.message}, "id": None})
                return
            except (ValueError, RecursionError):
                pass  # the SDK says what is wrong with it
            if isinstance(message, dict) and await self._answered(scope, body, message, receive, send):
                return
        await self._front(scope, _again(read, receive), send)

    async def _whole(self, receive: Receive, read: list[Message]) -> bytes | None:
        """The body, its messages kept in `read`; None when it is too large or the client left."""
        message = await receive()
        read.append(message)
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            return body if len(body) <= self._body else None
        size = len(message.get("body", b""))
        while message["type"] == "http.request" and size <= self._body and message.get("more_body", False):
            message = await receive()
            read.append(message)
            size += len(message.get("body", b""))
        if message["type"] != "http.request" or size > self._body:
            return None
        return b"".join(message.get("body", b"") for message in read)

    async def _answered(self, scope: Scope, body: bytes, message: dict[str, Any], receive: Receive, send: Send) -> bool:
        """Answers a message that is exactly a plain call; False when it is anything else, and nothing was done."""
        if message.get("method") != METHOD or message.keys() != _MESSAGE:
            return False
        principal = scope.get("state", {}).get("principal")
        call = _call_of(message, body, self._depth)
        if call is None or not isinstance(principal, Principal) or not _fits(scope["headers"], call.name):
            return False
        tool = self._engine.tools.find(call.name)
        if tool is None or not self._plain(tool, message["params"]["_meta"][_CAPABILITIES_META]):
            return False
        began = time.perf_counter()
        result: dict[str, Any] | None = None
        error: MCPError | None = None
        watch = self._watch(receive)
        try:
            try:
                trace = trace_of(message["params"]["_meta"])  # before what the headers say, which is there already
                if trace is None:
                    answered = await self._engine.tools.call(principal, call, source="mcp")
                else:
                    with traced(trace):
                        answered = await self._engine.tools.call(principal, call, source="mcp")
            finally:
                watch.end()
            result = self._wire(answered)
        except asyncio.CancelledError:
            if not watch.took_back():
                raise
        except MeshError as failure:
            if is_tool_failure(failure, VERSION):
                result = to_mcp_failure(failure)
            else:
                error = to_mcp_error(failure)
        except InputRequired:
            return (
                False  # nobody can be asked here, yet somebody asks: the function is called again, and finds a caller
            )
        except Exception as failure:
            log.exception("tools/call of %r failed", call.name)
            error = to_mcp_error(failure)
        self._engine.meter.operations.record(
            (METHOD, call.name, VERSION, _kind(result, error)), time.perf_counter() - began
        )
        if error is not None:
            said = error.error.model_dump(mode="json", exclude_none=True)
            status = ERROR_CODE_HTTP_STATUS.get(error.error.code, 200)
            await _write(send, status, {"id": message["id"], "error": said})
        elif result is not None:  # else the client left, and nobody waits
            meta = result.get("_meta")
            result["_meta"] = self._stamp if meta is None else {**meta, **self._stamp}
            await _write(send, 200, {"id": message["id"], "result": result})
        return True

    def _plain(self, tool: Tool, capabilities: Mapping[str, Any]) -> bool:
        """Whether a call of the tool is one question and one answer for this client."""
        tools = self._engine.tools
        if tools.is_run(tool) or self._is_mirrored(tool):
            return False
        return _ASKABLE.isdisjoint(capabilities) or not tools.may_ask(tool)

    def _is_mirrored(self, tool: Tool) -> bool:
        known = self._mirrors.get(id(tool))
        if known is not None and known[0] is tool:
            return known[1]
        if len(self._mirrors) >= MIRRORED:
            self._mirrors.clear()
        mirrored = bool(x_mcp_header_map(tool.input_schema))
        self._mirrors[id(tool)] = (tool, mirrored)  # holds the tool, so that its id stays its own
        return mirrored

    def _wire(self, result: ToolResult) -> dict[str, Any]:
        """CallToolResult. What a function or somebody else made of it is checked as the SDK checks it."""
        answer = to_mcp_result(result, VERSION)
        if result.content is None and result.meta is None:
            return answer  # our own making: text, and JSON that the engine has looked through
        return wire.serialize_server_result(METHOD, VERSION, answer)

    def _watch(self, receive: Receive) -> _Watch:
        """Cancels this task when the client leaves, until the watch is ended."""
        task = asyncio.current_task(self._loop)
        assert self._group is not None
        assert self._loop is not None
        assert task is not None
        return _Watch(self._group, self._loop, receive, task)


class _Watch:
    """Waits for a client to leave, and cancels its call then.

    A task of its own is only made for a call that waits for something: one that does not is over before the loop comes round. For
    the same reason the call stands in no cancel scope, which costs as much as a tool that echoes; its task is cancelled as asyncio
    does it, and the cancellation is taken back when it has come through.
    """

    __slots__ = ("_called", "_group", "_handle", "_receive", "_scope", "_task")

    def __init__(
        self, group: TaskGroup, loop: asyncio.AbstractEventLoop, receive: Receive, task: asyncio.Task[Any]
    ) -> None:
        self._group = group
        self._receive = receive
        self._task = task
        self._called = False
        self._scope: anyio.CancelScope | None = None
        self._handle = loop.call_soon(self._begin)

    def end(self) -> None:
        self._handle.cancel()
        if self._scope is not None:
            self._scope.cancel()

    def took_back(self) -> bool:
        """Whether the call was cancelled for its client alone; then the task goes on as if nothing had been."""
        return self._called and self._task.uncancel() == 0

    def _begin(self) -> None:
        self._scope = anyio.CancelScope()
        self._group.start_soon(self._wait, self._scope)

    async def _wait(self, scope: anyio.CancelScope) -> None:
        with scope:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self._called = True
            self._task.cancel()


def _kind(result: Mapping[str, Any] | None, error: MCPError | None) -> str:
    """What OpenTelemetry calls `error.type`; empty for a call that went well."""
    if error is not None:
        return str(error.error.code)
    if result is None:
        return CANCELLED
    return TOOL_ERROR if result.get("isError") else ""


def _call_of(message: Mapping[str, Any], body: bytes, depth: int) -> ToolCall | None:
    """The call that a message makes, if all of it is as the specification has it and nothing is unusual."""
    ident, params = message["id"], message["params"]
    if message["jsonrpc"] != "2.0" or not isinstance(params, dict) or not params.keys() <= _PARAMS:
        return None
    if not (type(ident) is str or (type(ident) is int and abs(ident) <= _LARGEST_ID)):
        return None
    name, arguments, meta = params.get("name"), params.get("arguments", _NONE), params.get("_meta")
    if type(name) is not str or type(arguments) is not dict or type(meta) is not dict or not meta.keys() <= _META:
        return None
    if meta.get(_VERSION_META) != VERSION or type(meta.get(_CAPABILITIES_META)) is not dict:
        return None
    # Escapes may hide half a surrogate pair; few brackets cannot nest deeply. What cannot be told at once goes on.
    if b"\\u" in body or body.count(b"{") + body.count(b"[") > depth:
        return None
    if not _valid_client(write_json([meta.get(_INFO_META), meta[_CAPABILITIES_META]])):
        return None
    return ToolCall(name, arguments)


_NONE: Final[dict[str, Any]] = {}


@lru_cache(maxsize=1024)
def _valid_client(said: bytes) -> bool:
    """Whether `clientInfo` and `clientCapabilities`, as JSON, are what the schema has; a client says the same in every request."""
    info, capabilities = json.loads(said)
    meta = {_VERSION_META: VERSION, _CAPABILITIES_META: capabilities} | ({} if info is None else {_INFO_META: info})
    try:
        wire.validate_client_request(METHOD, VERSION, {"name": "", "_meta": meta})
    except ValidationError:
        return False
    return True


def _fits(headers: list[tuple[bytes, bytes]], name: str) -> bool:
    """Whether the headers say what the body says, and that the client takes what comes."""
    by_name = dict(headers)
    if len(by_name) != len(headers):
        return False  # one stands twice
    get = by_name.get
    return (
        get(b"mcp-protocol-version") == _VERSION
        and get(b"mcp-method") == _METHOD
        and _plain_name(get(b"mcp-name", b"")) == name
        and get(b"content-type", b"").lower() in _JSON
        and _takes_both(get(b"accept", b""))
        and b"mcp-session-id" not in by_name
    )


_JSON: Final = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})


@lru_cache(maxsize=1024)
def _plain_name(value: bytes) -> str | None:
    """A name that stands in its header as it is; None for one that is encoded or could be taken for it."""
    return None if value.startswith(b"=?") or not value.isascii() else value.decode()


@lru_cache(maxsize=256)
def _takes_both(accept: bytes) -> bool:
    types = {part.split(b";")[0].strip().lower() for part in accept.split(b",")}
    return b"*/*" in types or {b"application/json", b"text/event-stream"} <= types


def _again(read: list[Message], then: Receive) -> Receive:
    """A `receive` that gives what was read once more, then what comes."""
    messages = iter(read)

    async def receive() -> Message:
        message = next(messages, None)
        return await then() if message is None else message

    return receive


async def _write(send: Send, status: int, message: Mapping[str, Any]) -> None:
    body = write_json({"jsonrpc": "2.0", **message})
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
