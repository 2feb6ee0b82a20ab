"""The client behind a call, in both eras: `core.caller.Caller` over what the SDK gives a handler.

A client of 2026-07-28 is asked by ending its call with `input_required`; its answers come with the next one. An older client is
asked by a request on the stream of the call itself. Progress and log messages go out on that stream too, all of them before the
result; what a slow client does not read in time is dropped, so that nothing here ever waits for one.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, get_args

import anyio
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    LOG_LEVEL_META_KEY,
    REQUEST_TIMEOUT,
    ClientCapabilities,
    CreateMessageResult,
    CreateMessageResultWithTools,
    ElicitResult,
    ListRootsResult,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    ProgressNotification,
    ProgressNotificationParams,
    Request,
)
from mcp_types import methods as wire
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from agentmesh.core.caller import (
    CAPABILITY,
    ELICITATION,
    ROOTS,
    SAMPLING,
    InputRequest,
    InputRequired,
    Level,
    Method,
)
from agentmesh.core.question import Question, Reply
from agentmesh.core.run import JSON
from agentmesh.errors import Expired, Fail, MissingCapability
from agentmesh.mcp.asking import from_elicitation, key_of, to_elicitation
from agentmesh.mcp.sessions import level_of
from agentmesh.mcp.state import NOTHING, Carried

log = logging.getLogger("agentmesh.mcp")

NOTICES: Final = 64
"""Notices that wait for a slow client; further ones are dropped, the call goes on."""
ASK_SECONDS: Final = 600.0
"""How long an older client may take over one question; the call holds its stream open meanwhile."""
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
_MESSAGE_SINCE: Final = "2025-03-26"
"""Progress has words since this revision."""
_PLAIN_FORMS: Final = "2025-06-18"
"""Revision whose elicitation has neither `mode` nor choices with titles."""
_RESULTS: Final[Mapping[str, tuple[type[BaseModel], ...]]] = {
    ELICITATION: (ElicitResult,),
    SAMPLING: (CreateMessageResult, CreateMessageResultWithTools),
    ROOTS: (ListRootsResult,),
}


class _Notices:
    """Progress and log messages of one call on their way out."""

    def __init__(self, ctx: ServerRequestContext[Any]) -> None:
        meta: Mapping[str, Any] = ctx.meta or {}
        self._ctx = ctx
        self._token = meta.get("progress_token")
        self._words = ctx.protocol_version >= _MESSAGE_SINCE
        self._last: float | None = None
        self._total: float | None = None
        self._send, self.receive = anyio.create_memory_object_stream[Callable[[], Awaitable[None]]](NOTICES)
        self.log_level: Level | None = None
        """The least that the client wants to hear; None: nothing."""
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            wanted = meta.get(LOG_LEVEL_META_KEY)
            self.log_level = wanted if wanted in LEVELS else None
        else:
            self.log_level = level_of(ctx)

    @property
    def wants_progress(self) -> bool:
        return self._token is not None

    @property
    def wanted(self) -> bool:
        """Whether anything can go out at all."""
        return self._token is not None or self.log_level is not None

    def progress(self, progress: float, total: float | None, message: str) -> None:
        if self._token is None:
            return
        self._total = total if total is not None else self._total
        # It has to grow with every notice (basic/patterns/progress), whatever the tool counts.
        self._last = progress if self._last is None or progress > self._last else self._next()
        self._put_progress(self._last, total, message)

    def line(self, message: str) -> None:
        """A line that tells no number: one more than before, or a little where there is an end to reach."""
        if self._token is not None:
            self._last = self._next()
            self._put_progress(self._last, None, message)

    def _next(self) -> float:
        last = self._last or 0.0
        return last + (1 if self._total is None else max(self._total, 1.0) / 1000)

    def _put_progress(self, progress: float, total: float | None, message: str) -> None:
        params = ProgressNotificationParams(
            progress_token=self._token, progress=progress, total=total,
            message=message.encode("utf-8", "replace").decode() if message and self._words else None,
        )  # fmt: skip
        notice = ProgressNotification(params=params)
        self._put(lambda: self._ctx.session.send_notification(notice, related_request_id=self._ctx.request_id))

    def log(self, level: Level, data: JSON, logger: str | None) -> None:
        if self.log_level is None or LEVELS.index(level) < LEVELS.index(self.log_level):
            return
        params = LoggingMessageNotificationParams(level=level, data=data, logger=logger)
        notice = LoggingMessageNotification(params=params)
        self._put(lambda: self._ctx.session.send_notification(notice, related_request_id=self._ctx.request_id))

    def _put(self, send: Callable[[], Awaitable[None]]) -> None:
        try:
            self._send.send_nowait(send)
        except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            log.debug("dropped a notice of %s", self._ctx.method)

    def end(self) -> None:
        self._send.close()


class _EdgeCaller:
    """What both eras share."""

    def __init__(self, ctx: ServerRequestContext[Any], notices: _Notices) -> None:
        self._ctx = ctx
        self._notices = notices
        self._declared = ctx.session.client_capabilities
        self.wants_progress = notices.wants_progress
        self.log_level = notices.log_level
        self.state: JSON = None

    def progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        self._notices.progress(progress, total, message)

    def line(self, message: str) -> None:
        """Tells a line that has no number."""
        self._notices.line(message)

    def log(self, level: Level, data: JSON, logger: str | None = None) -> None:
        self._notices.log(level, data, logger)

    def can(self, method: Method) -> bool:
        return _lacks(self._declared, InputRequest(method, {})) is None

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        raise NotImplementedError

    async def answer(self, question: Question) -> Reply | None:
        request = InputRequest(ELICITATION, to_elicitation(question, self._ctx.protocol_version))
        key = key_of(question)
        try:
            answers = await self.ask({key: request})
        except Expired:  # the question stays open, for whoever else may answer it
            return None
        return from_elicitation(question, answers[key])

    def _require(self, requests: Mapping[str, InputRequest]) -> None:
        """MissingCapability, naming all that the client has not declared."""
        lacking: dict[str, JSON] = {}
        for request in requests.values():
            lacking |= _lacks(self._declared, request) or {}
        if lacking:
            raise MissingCapability(
                f"this call needs a client that declares {' and '.join(sorted(lacking))}; "
                "call it from one, or give what it asks for as arguments",
                requiredCapabilities=lacking,
            )


class ModernCaller(_EdgeCaller):
    """A client of 2026-07-28. It is asked by coming again: what it has not answered yet leaves as InputRequired."""

    def __init__(
        self, ctx: ServerRequestContext[Any], notices: _Notices, carried: Carried, responses: Mapping[str, Any]
    ) -> None:
        super().__init__(ctx, notices)
        self._known: dict[str, Any] = {**carried.answers, **responses}
        self.used: dict[str, Mapping[str, Any]] = {}
        """Answers that were asked for, which the next round needs again: the call begins from its beginning."""
        self.state = carried.state

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        self._require(requests)
        missing: dict[str, InputRequest] = {}
        for key, request in requests.items():
            answer = self._known.get(key)
            if answer is None or not _answers(request, answer):
                missing[key] = request  # what answers something else is no answer (mrtr, Error Handling)
            else:
                self.used[key] = answer
        if missing:
            raise InputRequired(missing)
        return {key: self.used[key] for key in requests}


class _Asked(Request[dict[str, Any], str]):
    """A request just as it is to go out: the SDK's own models say today's `mode` to revisions that know none."""

    params: dict[str, Any]


class OlderCaller(_EdgeCaller):
    """A client of a revision with a handshake: requests go to it on the stream of the call, and it has a while to answer."""

    async def ask(self, requests: Mapping[str, InputRequest]) -> Mapping[str, Mapping[str, Any]]:
        self._require(requests)
        answers: dict[str, Mapping[str, Any]] = {}
        if len(requests) == 1:
            ((key, request),) = requests.items()
            return {key: await self._one(request)}
        failure: Exception | None = None

        async def one(key: str, request: InputRequest, scope: anyio.CancelScope) -> None:
            nonlocal failure
            try:
                answers[key] = await self._one(request)
            except Exception as error:
                failure = failure or error
                scope.cancel()

        async with anyio.create_task_group() as group:
            for key, request in requests.items():
                group.start_soon(one, key, request, group.cancel_scope)
        if failure is not None:
            raise failure
        return answers

    async def _one(self, request: InputRequest) -> Mapping[str, Any]:
        version = self._ctx.protocol_version
        params = _older(request, version)
        try:
            wire.parse_server_request(request.method, version, params)
        except (KeyError, ValidationError):
            raise MissingCapability(
                f"the client speaks {version}, in which it cannot be asked this ({request.method}); "
                "call it from a newer one, or give what it asks for as arguments",
                requiredCapabilities={CAPABILITY[request.method]: {}},
            ) from None
        last: Exception | None = None
        kinds = _RESULTS[request.method]
        kind = kinds[-1] if request.params.get("tools") else kinds[0]
        try:
            answer = await self._ctx.session.send_request(
                _Asked(method=request.method, params=dict(params)),  # type: ignore[arg-type]
                kind,
                ASK_SECONDS,
                ServerMessageMetadata(related_request_id=self._ctx.request_id),
            )
        except MCPError as error:
            if error.error.code == REQUEST_TIMEOUT:
                raise Expired(f"the client did not answer {request.method} within {ASK_SECONDS:g} seconds") from None
            raise Fail(f"the client refused {request.method}: {error.error.message}") from None
        except ValidationError as error:
            last = error
        else:
            return answer.model_dump(by_alias=True, mode="json", exclude_none=True)
        raise Fail(f"what the client answered to {request.method} is no {kind.__name__}") from last


@asynccontextmanager
async def caller_of(
    ctx: ServerRequestContext[Any], carried: Carried = NOTHING, responses: Mapping[str, Any] | None = None
) -> AsyncIterator[ModernCaller | OlderCaller]:
    """The client of a call, for as long as the call runs; leaving sends out all that it was told."""
    notices = _Notices(ctx)
    caller: ModernCaller | OlderCaller
    if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        caller = ModernCaller(ctx, notices, carried, responses or {})
    else:
        caller = OlderCaller(ctx, notices)
    if not notices.wanted:
        notices.end()
        notices.receive.close()
        yield caller
        return

    async def forward() -> None:
        with notices.receive:
            async for send in notices.receive:
                try:
                    await send()
                except Exception:  # what a function logged is no JSON, say: that is no reason to end its call
                    log.exception("a notice of %s could not be sent", ctx.method)

    failure: BaseException | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(forward)
        try:
            yield caller
        except (Exception, InputRequired) as error:  # carried past the group, which would wrap it
            failure = error
        finally:
            notices.end()
    if failure is not None:
        raise failure


def _lacks(declared: ClientCapabilities | None, request: InputRequest) -> dict[str, JSON] | None:
    """The capability that a client would have to declare for a request; None when it has."""
    name = CAPABILITY[request.method]
    has = getattr(declared, name, None) if declared is not None else None
    if has is None:
        return {name: {}}
    if request.method == ELICITATION:
        form, url = has.form is not None, has.url is not None
        if request.params.get("mode") == "url":
            return None if url else {name: {"url": {}}}
        return None if form or not url else {name: {"form": {}}}  # `{}` is form mode (client/elicitation)
    if request.method == SAMPLING and (request.params.get("tools") or request.params.get("toolChoice")):
        return None if has.tools is not None else {name: {"tools": {}}}
    return None


def _answers(request: InputRequest, answer: Any) -> bool:
    """Whether an answer is of the kind that the request wants."""
    for kind in _RESULTS[request.method]:
        try:
            kind.model_validate(answer, by_name=False)
        except ValidationError:
            continue
        return True
    return False


def _older(request: InputRequest, version: str) -> Mapping[str, Any]:
    """The params as that revision has them."""
    if request.method != ELICITATION or version > _PLAIN_FORMS:
        return request.params
    if request.params.get("mode", "form") != "form":
        raise MissingCapability(
            f"the client speaks {version}, in which nobody can be sent to a page; call it from a newer one",
            requiredCapabilities={"elicitation": {"url": {}}},
        )
    form = request.params.get("requestedSchema", {})
    fields = {name: _plain_field(schema) for name, schema in form.get("properties", {}).items()}
    return {"message": request.params.get("message", ""), "requestedSchema": {**form, "properties": fields}}


def _plain_field(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = schema.get("oneOf")
    if choices is not None:
        titles = [choice.get("title", choice["const"]) for choice in choices]
        rest = {name: value for name, value in schema.items() if name != "oneOf"}
        return {**rest, "enum": [choice["const"] for choice in choices], "enumNames": titles}
    if schema.get("type") == "array":
        raise MissingCapability(
            f"the client speaks {_PLAIN_FORMS}, in which nobody can be asked for several choices; call it from a newer one",
            requiredCapabilities={"elicitation": {}},
        )
    return schema
