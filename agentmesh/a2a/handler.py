"""The A2A request handler: what every binding of the SDK calls, over Agents and Runs.

On one side the SDK's types and bindings; on the other the engine. A task is a run: sending starts one, and whatever
happens to the connection afterwards, the run goes on. Nothing but A2AError leaves a method here, since the SDK shows
any other exception to the caller in Python's words.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar
from zlib import crc32

from a2a.server.context import ServerCallContext
from a2a.server.events.event_queue import Event
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.server.routes.common import ServerCallContextBuilder
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import (
    ContentTypeNotSupportedError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    UnsupportedOperationError,
)
from a2a.utils.proto_utils import validate_proto_required_fields
from google.protobuf.json_format import MessageToDict
from starlette.requests import Request

from agentmesh.a2a import convert
from agentmesh.core.agent import Sending
from agentmesh.core.policy import Principal
from agentmesh.core.question import questions
from agentmesh.core.run import FROM_OUTSIDE, Run, RunEvent, RunState, new_run_id
from agentmesh.core.store import RunFilter
from agentmesh.engine import Engine
from agentmesh.errors import InvalidInput

PAGE, MAX_PAGE = 50, 100
"""Tasks in one answer of ListTasks (A2A 1.0.1 section 3.1.4)."""
INTERRUPTED = frozenset({RunState.INPUT_REQUIRED, RunState.AUTH_REQUIRED})
"""A blocking call and a stream end here too: it is the client's turn."""

Params = TypeVar("Params")
Result = TypeVar("Result")
Self = TypeVar("Self", bound="Handler")


class ContextBuilder(ServerCallContextBuilder):
    """Hands the principal that http/auth.py found to the handler, and the headers to the SDK's version check."""

    def build(self, request: Request) -> ServerCallContext:
        principal = getattr(request.state, "principal", None)
        if not isinstance(principal, Principal):
            raise RuntimeError("a request reached /a2a without a principal; mount it behind http/auth.py")  # noqa: TRY004
        return ServerCallContext(state={"headers": dict(request.headers), "principal": principal})


def _answers(
    *, task: bool = False
) -> Callable[
    [Callable[[Self, Params, ServerCallContext], Awaitable[Result]]],
    Callable[[Self, Params, ServerCallContext], Coroutine[Any, Any, Result]],
]:
    """A method that checks required fields first and lets nothing but A2AError out. `task`: its request names one."""

    def decorate(
        method: Callable[[Self, Params, ServerCallContext], Awaitable[Result]],
    ) -> Callable[[Self, Params, ServerCallContext], Coroutine[Any, Any, Result]]:
        @functools.wraps(method)
        async def answered(self: Self, params: Params, context: ServerCallContext) -> Result:
            try:
                _check(params)
                return await method(self, params, context)
            except Exception as error:
                raise convert.to_a2a_error(error, task=task) from None

        return answered

    return decorate


def _streams(
    *, task: bool = False
) -> Callable[
    [Callable[[Self, Params, ServerCallContext], AsyncGenerator[Event]]],
    Callable[[Self, Params, ServerCallContext], AsyncGenerator[Event]],
]:
    """The same for a method that streams."""

    def decorate(
        method: Callable[[Self, Params, ServerCallContext], AsyncGenerator[Event]],
    ) -> Callable[[Self, Params, ServerCallContext], AsyncGenerator[Event]]:
        @functools.wraps(method)
        async def streamed(self: Self, params: Params, context: ServerCallContext) -> AsyncGenerator[Event]:
            try:
                _check(params)
                async with aclosing(method(self, params, context)) as events:
                    async for event in events:
                        yield event
            except Exception as error:
                raise convert.to_a2a_error(error, task=task) from None

        return streamed

    return decorate


class Handler(RequestHandler):
    """The mesh as an A2A agent."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @_answers()
    async def on_message_send(self, params: pb.SendMessageRequest, context: ServerCallContext) -> pb.Task:
        """SendMessage: blocks until the task ends or waits for the client, unless `returnImmediately`."""
        run, goes_on = await self._send(params, context)
        if not params.configuration.return_immediately:
            async with aclosing(self._follow(context, run, goes_on=goes_on)) as events:
                async for event in events:
                    run = event.run
        return convert.to_task(
            run,
            history_length=_history_length(params.configuration),
            accepted=params.configuration.accepted_output_modes,
        )

    @_streams()
    async def on_message_send_stream(
        self, params: pb.SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """SendStreamingMessage: the Task, its updates, its artifact, its last status."""
        run, goes_on = await self._send(params, context)
        accepted = params.configuration.accepted_output_modes
        yield convert.to_task(run, history_length=_history_length(params.configuration), accepted=accepted)
        async with aclosing(self._updates(context, run, accepted, goes_on=goes_on)) as events:
            async for event in events:
                yield event

    @_streams(task=True)
    async def on_subscribe_to_task(
        self, params: pb.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """SubscribeToTask: the Task as it is now, then what happens to it."""
        run = await self._engine.agents.get_task(_principal(context), params.id)
        if run.state.terminal:
            raise UnsupportedOperationError(f"task {run.id} is {run.state.value}; read it with GetTask")
        yield convert.to_task(run)
        async with aclosing(self._updates(context, run)) as events:
            async for event in events:
                yield event

    @_answers(task=True)
    async def on_get_task(self, params: pb.GetTaskRequest, context: ServerCallContext) -> pb.Task:
        length = _history_length(params)
        run = await self._engine.agents.get_task(_principal(context), params.id)
        return convert.to_task(run, history_length=length)

    @_answers(task=True)
    async def on_cancel_task(self, params: pb.CancelTaskRequest, context: ServerCallContext) -> pb.Task:
        run = await self._engine.agents.cancel_task(_principal(context), params.id)
        return convert.to_task(run)

    @_answers()
    async def on_list_tasks(self, params: pb.ListTasksRequest, context: ServerCallContext) -> pb.ListTasksResponse:
        """ListTasks: the caller's tasks, those that steps of other tasks started left out.

        Without `historyLength` there is no history: a message may be a megabyte, and a page a hundred of them.
        """
        size = params.page_size if params.HasField("page_size") else PAGE
        if not 1 <= size <= MAX_PAGE:
            raise InvalidParamsError(f"pageSize is {size}; it must be from 1 to {MAX_PAGE}")
        length = _history_length(params) or 0
        after = None
        if params.HasField("status_timestamp_after"):
            # The filter includes the moment itself; the store's does not, and stamps are cut to microseconds.
            after = convert.from_timestamp(params.status_timestamp_after) - 5e-7
        principal = _principal(context)
        where = RunFilter(
            tenant=principal.tenant,
            context_id=params.context_id or None,
            states=(convert.RUN_STATES[params.status],) if params.status else (),
            roots=True,
            updated_after=after,
            limit=size,
            cursor=params.page_token or None,
        )
        page = await self._engine.runs.list(principal, where)
        return pb.ListTasksResponse(
            tasks=[
                convert.to_task(run, history_length=length, artifacts=params.include_artifacts) for run in page.runs
            ],
            next_page_token=page.next or "",
            page_size=size,
            total_size=page.total,
        )

    async def on_create_task_push_notification_config(
        self, params: pb.TaskPushNotificationConfig, context: ServerCallContext
    ) -> pb.TaskPushNotificationConfig:
        _no_push()

    async def on_get_task_push_notification_config(
        self, params: pb.GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> pb.TaskPushNotificationConfig:
        _no_push()

    async def on_list_task_push_notification_configs(
        self, params: pb.ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> pb.ListTaskPushNotificationConfigsResponse:
        _no_push()

    async def on_delete_task_push_notification_config(
        self, params: pb.DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        _no_push()

    async def on_get_extended_agent_card(
        self, params: pb.GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> pb.AgentCard:
        raise UnsupportedOperationError("this agent has no extended card; the one at the well-known path is all")

    async def _send(self, params: pb.SendMessageRequest, context: ServerCallContext) -> tuple[Run, bool]:
        """Starts the run of a message, or gives it to the run it names; it is durable when this returns.

        Whether the run goes on from here though it stands at a question: the message has answered it.
        """
        configuration, wire = params.configuration, params.message
        _history_length(configuration)
        if configuration.HasField("task_push_notification_config"):
            _no_push()
        modes = configuration.accepted_output_modes
        if not any(convert.accepts(modes, offered) for offered in (convert.TEXT, convert.JSON_TYPE)):
            offered = f"{convert.TEXT} and {convert.JSON_TYPE}"
            raise ContentTypeNotSupportedError(f"none of acceptedOutputModes is offered; this agent answers {offered}")
        principal = _principal(context)
        if wire.task_id:
            return await self._follow_up(principal, wire), True
        ident = new_run_id(self._engine.clock(), self._engine.random.randbytes(10))
        message = convert.from_message(wire, ident)
        skill = convert.skill_of((message.metadata, MessageToDict(params.metadata)))
        return await self._engine.agents.send(principal, Sending(message, skill=skill)), False

    async def _follow_up(self, principal: Principal, wire: pb.Message) -> Run:
        """A message to a task: a signal, or the answer to what it asks; refused when it does neither."""
        agents = self._engine.agents
        try:
            run = await agents.get_task(principal, wire.task_id)
        except Exception as error:
            raise convert.to_a2a_error(error, task=True) from None
        if wire.context_id and wire.context_id != convert.context_of(run):
            raise InvalidParamsError(f"task {run.id} belongs to another context; leave contextId out, or name its own")
        if run.state.terminal:
            raise UnsupportedOperationError(
                f"task {run.id} is {run.state.value}; send the message without taskId to start a new task"
            )
        message = convert.from_message(wire, convert.context_of(run))
        if signal := convert.signal_of(message.metadata):
            name, value, key = signal
            return await agents.signal(principal, run.id, name, value, key=key)
        question, digest = convert.answer_of(message.metadata)
        if question is None and not questions(run):
            raise UnsupportedOperationError(
                f"task {run.id} asks nothing now: it takes no messages while it works; "
                "send the message without taskId to start a new task"
            )
        return await agents.follow_up(principal, run.id, message, question=question, digest=digest)

    async def _follow(self, context: ServerCallContext, run: Run, *, goes_on: bool = False) -> AsyncGenerator[RunEvent]:
        """What happens to a run after `run`, until it ends or waits for the client.

        `goes_on`: not to stop because `run` itself waits, but when it waits again.
        """
        if _settled(run) and not (goes_on and run.state is RunState.INPUT_REQUIRED):
            return
        watch = self._engine.runs.watch(_principal(context), run.id, after=run.seq)
        async with aclosing(watch) as events:  # type: ignore[type-var]
            async for event in events:
                yield event
                goes_on = goes_on and (event.entry is None or event.entry.kind in FROM_OUTSIDE)
                if _settled(event.run) and not (goes_on and event.run.state is RunState.INPUT_REQUIRED):
                    return

    async def _updates(
        self, context: ServerCallContext, run: Run, accepted: Any = (), *, goes_on: bool = False
    ) -> AsyncGenerator[pb.TaskStatusUpdateEvent | pb.TaskArtifactUpdateEvent]:
        """The same as A2A's events. Two clients that look at one run see the same events in the same order."""
        task, context_id = run.id, convert.context_of(run)
        async with aclosing(self._follow(context, run, goes_on=goes_on)) as events:
            async for event in events:
                now = event.run
                if now.state is RunState.COMPLETED:
                    artifact = convert.to_artifact(now.output, accepted)
                    yield pb.TaskArtifactUpdateEvent(
                        task_id=task, context_id=context_id, artifact=artifact, last_chunk=True
                    )
                line = event.message if not now.state.terminal else None
                notice = "" if event.entry else f".{crc32(event.message.encode()):08x}"
                status = convert.to_status(now, line, f"{task}.{now.seq}{notice}")
                yield pb.TaskStatusUpdateEvent(task_id=task, context_id=context_id, status=status)


def _settled(run: Run) -> bool:
    return run.state.terminal or run.state in INTERRUPTED


def _principal(context: ServerCallContext) -> Principal:
    principal: Principal = context.state["principal"]
    return principal


def _no_push() -> NoReturn:
    raise PushNotificationNotSupportedError(
        "this agent sends no push notifications; stream with SendStreamingMessage or ask with GetTask"
    )


def _history_length(params: Any) -> int | None:
    if not params.HasField("history_length"):
        return None
    length: int = params.history_length
    if length < 0:
        raise InvalidParamsError(f"historyLength is {length}; it must not be negative")
    return length


def _camel(field: str) -> str:
    """A field as it stands in JSON."""
    return re.sub(r"_(\w)", lambda match: match[1].upper(), field)


def _check(params: Any) -> None:
    """The fields that the specification requires, named if they are missing; and no tenant, since there is none."""
    try:
        validate_proto_required_fields(params)
    except InvalidParamsError as error:
        missing = [_camel(fault["field"]) for fault in (error.data or {}).get("errors", ())]
        raise InvalidParamsError(f"these fields are missing or empty: {', '.join(missing)}", error.data) from None
    if getattr(params, "tenant", ""):
        raise InvalidInput(f"this agent has no tenant {params.tenant!r}; leave `tenant` empty, as its card does")
