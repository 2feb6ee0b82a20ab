"""The operations of A2A (section 3.1), over Agents and Runs: what every binding and version ends in.

A task is a run: sending starts one, and whatever happens to the connection afterwards, the run goes on. Requests are the SDK's
messages, whose types have been checked; answers are JSON in the protocol's spelling. Nothing but A2AError leaves a method here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import anyio
from a2a.server.context import ServerCallContext
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import (
    ExtensionSupportRequiredError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    UnsupportedOperationError,
)
from google.protobuf.json_format import MessageToDict

from agentmesh.a2a import convert
from agentmesh.a2a.card import EXTENSIONS
from agentmesh.a2a.errors import AgentNotFoundError, missing, to_a2a_error
from agentmesh.a2a.events import stream_responses
from agentmesh.a2a.guarded import answers, cancel_error, streams, task_error
from agentmesh.a2a.request import at_leisure
from agentmesh.core.agent import IDEMPOTENCY, PEER, Agent, Message, Sending
from agentmesh.core.policy import Principal
from agentmesh.core.push import PushConfig
from agentmesh.core.question import questions
from agentmesh.core.run import FROM_OUTSIDE, Run, RunEvent, RunState
from agentmesh.core.store import RunFilter
from agentmesh.engine import Engine
from agentmesh.engine.push import Push
from agentmesh.errors import Conflict, InvalidInput, NotFound

PAGE, MAX_PAGE = 50, 100
"""Tasks in one answer of ListTasks (A2A 1.0.1 section 3.1.4)."""
FIRST_WORD: Final = 1.0
"""Seconds that a stream waits for an agent elsewhere to say whether it answers by a message, before it shows a task."""
ACTIVATED: Final = "activated"
"""Key in a context's state: the extensions that were activated, for the response's `A2A-Extensions`."""
INTERRUPTED: Final = frozenset({RunState.INPUT_REQUIRED, RunState.AUTH_REQUIRED})
"""A blocking call ends here too: it is the client's turn."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, whom, and with which extensions."""

    principal: Principal
    agent: str | None
    """The agent that is addressed, which there is; None: the mesh."""
    known: Agent | None
    """The same as the caller may see it."""
    requested: frozenset[str]
    """URIs of extensions that the client asks for."""


class Operations:
    """The mesh, and each of its agents, as A2A has them."""

    def __init__(
        self, engine: Engine, extended: Callable[[Principal, str | None], Awaitable[Mapping[str, Any]]]
    ) -> None:
        """`extended`: the card that a caller sees of an agent, or of the mesh, once it is known who asks."""
        self._engine = engine
        self._extended = extended

    def versions(self) -> tuple[str, ...]:
        """Of the protocol, that are offered now."""
        return tuple(self._engine.mesh.file.a2a.versions)

    @answers()
    async def send(self, params: pb.SendMessageRequest, context: ServerCallContext) -> Json:
        """SendMessage: {task} or {message}. Blocks until the task ends or waits for the client, unless `returnImmediately`."""
        run, goes_on = await self._send(params, context)
        configuration, agents = params.configuration, self._engine.agents
        replies = agents.replies(run)
        if configuration.return_immediately:
            if replies is None:
                run = await self._first_word(run)
                replies = agents.replies(run)
            wait = replies is True
        else:
            wait = True
        if wait:
            run = await self._settled(run, goes_on=goes_on)
        accepted = configuration.accepted_output_modes
        if not params.message.task_id and _by_message(run, replies=replies is True):
            return {"message": convert.to_reply(run, accepted)}
        return {"task": convert.to_task(run, history_length=_history_length(configuration), accepted=accepted)}

    @streams()
    async def stream(self, params: pb.SendMessageRequest, context: ServerCallContext) -> AsyncGenerator[Json]:
        """SendStreamingMessage: the Task, its updates, its artifacts, its last status; or the one Message."""
        run, goes_on = await self._send(params, context, streaming=True)
        agents, accepted = self._engine.agents, params.configuration.accepted_output_modes
        if not params.message.task_id:
            if agents.replies(run) is None:
                run = await self._first_word(run)
            if agents.replies(run):
                run = await self._settled(run)
                if _by_message(run, replies=True):
                    yield {"message": convert.to_reply(run, accepted)}
                    return
        yield {"task": convert.to_task(run, history_length=_history_length(params.configuration), accepted=accepted)}
        async with aclosing(self._updates(run, accepted, goes_on=goes_on)) as events:
            async for event in events:
                yield event

    @streams(task_error)
    async def subscribe(self, params: pb.SubscribeToTaskRequest, context: ServerCallContext) -> AsyncGenerator[Json]:
        """SubscribeToTask: the Task as it is now, then what happens to it. One that waits for its client is waited with."""
        caller = self._caller(params, context)
        run = await self._task(caller, params.id)
        if run.state.terminal:
            raise UnsupportedOperationError(f"task {run.id} is {run.state.value}; read it with GetTask")
        yield {"task": convert.to_task(run)}
        async with aclosing(self._updates(run, goes_on=True)) as events:
            async for event in events:
                yield event

    @answers(task_error)
    async def get_task(self, params: pb.GetTaskRequest, context: ServerCallContext) -> Json:
        length = _history_length(params)
        run = await self._task(self._caller(params, context), params.id)
        return convert.to_task(run, history_length=length)

    @answers(cancel_error)
    async def cancel_task(self, params: pb.CancelTaskRequest, context: ServerCallContext) -> Json:
        caller = self._caller(params, context)
        ident = _ident(params.id)
        run = await self._engine.agents.cancel_task(caller.principal, ident, agent=caller.agent)
        return convert.to_task(run)

    @answers()
    async def list_tasks(self, params: pb.ListTasksRequest, context: ServerCallContext) -> Json:
        """ListTasks: the caller's tasks, those that steps of other tasks started left out.

        Without `historyLength` there is no history: a message may be a megabyte, and a page a hundred of them.
        """
        size = params.page_size if params.HasField("page_size") else PAGE
        if not 1 <= size <= MAX_PAGE:
            raise InvalidParamsError(f"pageSize is {size}; it must be from 1 to {MAX_PAGE}")
        if "\0" in params.context_id:
            raise InvalidParamsError("contextId holds a NUL; leave it out")
        length = _history_length(params) or 0
        after = None
        if params.HasField("status_timestamp_after"):
            # The filter includes the moment itself; the store's does not, and stamps are cut to microseconds.
            after = convert.from_timestamp(params.status_timestamp_after) - 5e-7
        caller = self._caller(params, context)
        where = RunFilter(
            tenant=caller.principal.tenant,
            context_id=params.context_id or None,
            states=(convert.RUN_STATES[params.status],) if params.status else (),
            roots=True,
            updated_after=after,
            limit=size,
            cursor=params.page_token or None,
        )
        page = await self._engine.agents.list_tasks(caller.principal, where, agent=caller.agent)
        artifacts = params.include_artifacts
        tasks = []
        for head in page.runs:
            run = await self._whole(caller.principal, head, all_of_it=bool(length) or artifacts)
            task = convert.to_task(run, history_length=length, artifacts=artifacts)
            tasks.append({"artifacts": [], **task} if artifacts else task)
        return {"tasks": tasks, "nextPageToken": page.next or "", "pageSize": size, "totalSize": page.total}

    @answers()
    async def extended_card(self, params: pb.GetExtendedAgentCardRequest, context: ServerCallContext) -> Json:
        caller = self._caller(params, context)
        return dict(await self._extended(caller.principal, caller.agent))

    # Push notifications

    @answers(task_error)
    async def create_push_config(self, params: pb.TaskPushNotificationConfig, context: ServerCallContext) -> Json:
        push = self._push()
        if not params.url:
            raise missing("url")
        run, principal = await self._configured(params, context)
        return _push_config(await push.create(principal, run, _asked_config(params, run.id, context)))

    @answers(task_error)
    async def get_push_config(
        self, params: pb.GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> Json:
        push = self._push()
        run, principal = await self._configured(params, context)
        return _push_config(await push.get(principal, run, _ident(params.id)))

    @answers(task_error)
    async def list_push_configs(
        self, params: pb.ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> Json:
        """All of them on one page: a task has few."""
        push = self._push()
        run, principal = await self._configured(params, context)
        if params.page_size < 0 or params.page_token:
            raise InvalidParamsError("there is one page of push configurations; leave pageToken out")
        return {"configs": [_push_config(config) for config in await push.list(principal, run)]}

    @answers(task_error)
    async def delete_push_config(
        self, params: pb.DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        push = self._push()
        run, principal = await self._configured(params, context)
        await push.delete(principal, run, _ident(params.id))

    async def _configured(self, params: Any, context: ServerCallContext) -> tuple[Run, Principal]:
        caller = self._caller(params, context)
        ident = _ident(params.task_id, "taskId")
        return await self._engine.agents.get_task(caller.principal, ident, agent=caller.agent), caller.principal

    def _push(self) -> Push:
        push = self._engine.push
        if not push.offered:
            raise PushNotificationNotSupportedError(
                "this agent sends no push notifications; stream with SendStreamingMessage or ask with GetTask"
            )
        return push

    # Whom it is about

    def _caller(self, params: Any, context: ServerCallContext) -> Caller:
        """Who asks whom. AgentNotFoundError for an agent that is not there, or not for them."""
        principal: Principal = context.state["principal"]
        if params.tenant and context.tenant and params.tenant != context.tenant:
            raise InvalidParamsError(
                f"tenant is {params.tenant[:100]!r}, and this is the address of agent {context.tenant[:100]!r}; send either alone"
            )
        name = params.tenant or context.tenant or None
        known = None
        if name is not None:
            try:
                known = self._engine.agents.agent(principal, name)
            except NotFound as error:
                raise AgentNotFoundError(error.message, {"code": error.code}) from None
        requested = frozenset(context.requested_extensions)
        if requested:
            theirs = (extension.uri for extension in (known.extensions if known is not None else ()))
            if active := sorted(requested & {*EXTENSIONS, *theirs}):
                context.state[ACTIVATED] = tuple(active)
        return Caller(principal, name, known, requested)

    async def _task(self, caller: Caller, ident: str) -> Run:
        return await self._engine.agents.get_task(caller.principal, _ident(ident), agent=caller.agent)

    async def _whole(self, principal: Principal, head: Run, *, all_of_it: bool) -> Run:
        """The run with what its head has not: what a task elsewhere says and makes, what an own one asks, later messages."""
        if head.state.terminal and not head.workflow.startswith(PEER) and not all_of_it:
            return head
        try:
            return await self._engine.runs.owned(principal, head.id)
        except NotFound:
            return head  # pruned meanwhile

    def _require(self, caller: Caller, wire: pb.Message) -> None:
        """ExtensionSupportRequiredError when an extension is not declared that has to be."""
        required = {uri for uri in self._engine.mesh.file.a2a.required_extensions if uri in EXTENSIONS}
        required |= {one.uri for one in (caller.known.extensions if caller.known is not None else ()) if one.required}
        if lacking := sorted(required - caller.requested - set(wire.extensions)):
            raise ExtensionSupportRequiredError(
                f"this agent requires extensions that the request does not declare; send A2A-Extensions: {', '.join(lacking)}",
                {"required": ", ".join(lacking)},
            )

    # Sending

    async def _send(
        self, params: pb.SendMessageRequest, context: ServerCallContext, *, streaming: bool = False
    ) -> tuple[Run, bool]:
        """Starts the run of a message, or gives it to the run it names; it is durable when this returns.

        Whether the run goes on from here though it stands at a question: the message has answered it.
        """
        _check_message(params)
        configuration, wire = params.configuration, params.message
        _history_length(configuration)
        caller = self._caller(params, context)
        self._require(caller, wire)
        hook = None
        if configuration.HasField("task_push_notification_config"):
            hook = configuration.task_push_notification_config
            self._push().check(_asked_config(hook, "", context))  # before anything is started
        if wire.task_id:
            run = await self._follow_up(caller, wire)
            goes_on = bool(run.messages) and run.messages[-1].get("messageId") == wire.message_id
        else:
            run, goes_on = await self._start(params, caller, context, streaming=streaming), False
        if hook is not None and not run.state.terminal:
            await self._push().create(caller.principal, run, _asked_config(hook, run.id, context))
        return run, goes_on

    async def _start(
        self, params: pb.SendMessageRequest, caller: Caller, context: ServerCallContext, *, streaming: bool
    ) -> Run:
        message = await _message(params.message)
        metadata = [message.metadata]
        if params.HasField("metadata"):
            metadata.append(MessageToDict(params.metadata))
        sending = Sending(
            message,
            agent=caller.agent,
            skill=convert.skill_of(metadata),
            tags=convert.tags_of(metadata),
            accepted=tuple(params.configuration.accepted_output_modes),
            streaming=streaming,
            extensions=tuple(sorted(caller.requested)),
            idempotent=IDEMPOTENCY in caller.requested,
        )
        return await self._engine.agents.send(caller.principal, sending)

    async def _follow_up(self, caller: Caller, wire: pb.Message) -> Run:
        """A message to a task: a signal, or the answer to what it asks; refused when it does neither."""
        agents, principal = self._engine.agents, caller.principal
        try:
            run = await self._task(caller, wire.task_id)
        except Exception as error:
            raise to_a2a_error(error, task=True) from None
        if wire.context_id and wire.context_id != convert.context_of(run):
            raise InvalidParamsError(f"task {run.id} belongs to another context; leave contextId out, or name its own")
        message = await _message(wire)
        if IDEMPOTENCY in caller.requested and _was_sent(run, message):
            return run
        if run.state.terminal:
            raise UnsupportedOperationError(
                f"task {run.id} is {run.state.value}; send the message without taskId to start a new task"
            )
        if signal := convert.signal_of(message.metadata):
            name, value, key = signal
            return await agents.signal(principal, run.id, name, value, key=key, message=message)
        question, digest = convert.answer_of(message.metadata)
        if question is None and not questions(run):
            raise UnsupportedOperationError(
                f"task {run.id} asks nothing now: it takes no messages while it works; "
                "send the message without taskId to start a new task"
            )
        return await agents.follow_up(principal, run.id, message, question=question, digest=digest, agent=caller.agent)

    # Following

    async def _first_word(self, run: Run) -> Run:
        """The run when the agent that does it has said whether there will be a task, or after a moment."""
        with anyio.move_on_after(FIRST_WORD):
            async with aclosing(self._engine.runs.follow(run, after=run.seq)) as events:
                async for event in events:
                    run = event.run
                    if run.state.terminal or self._engine.agents.replies(run) is not None:
                        break
        return run

    async def _settled(self, run: Run, *, goes_on: bool = False) -> Run:
        """The run when it has ended or waits for its client; `goes_on`: see `_follow`."""
        if run.state.terminal or (run.state in INTERRUPTED and not goes_on):
            return run
        return await self._engine.runs.reached(run, INTERRUPTED, goes_on=goes_on)

    async def _updates(self, run: Run, accepted: Sequence[str] = (), *, goes_on: bool = False) -> AsyncGenerator[Json]:
        """What happens to a task after it was shown, until it ends or waits for its client.

        One that waits for a log-in is waited with: nobody has to send anything for it to go on (section 7.6.1).
        """
        until = frozenset({RunState.INPUT_REQUIRED})
        async with aclosing(self._follow(run, goes_on=goes_on, until=until)) as events:
            async for event in events:
                for response in stream_responses(event, accepted, as_task=True):
                    yield response

    async def _follow(self, run: Run, *, goes_on: bool, until: frozenset[RunState]) -> AsyncGenerator[RunEvent]:
        """What happens to a run after `run`, until it ends or is in one of those states.

        `goes_on`: not to stop because `run` itself is, but when it is again.
        """
        if run.state.terminal or (run.state in until and not goes_on):
            return
        async with aclosing(self._engine.runs.follow(run, after=run.seq)) as events:
            async for event in events:
                yield event
                goes_on = goes_on and (event.entry is None or event.entry.kind in FROM_OUTSIDE)
                if event.run.state.terminal or (event.run.state in until and not goes_on):
                    return


def _by_message(run: Run, *, replies: bool) -> bool:
    """Whether a run that has settled is shown as the message that answers it, and not as a task."""
    return run.state is RunState.COMPLETED and (run.replied or replies)


def _ident(ident: str, field: str = "id") -> str:
    """The id of a task. One that no store can hold is nobody's."""
    if "\0" in ident:
        raise NotFound(f"there is no run {ident!r}")
    if not ident:
        raise missing(field)
    return ident


def _was_sent(run: Run, message: Message) -> bool:
    """Whether a task has this very message already. Conflict when it has another one under the same id."""
    for said in run.messages:
        if said.get("messageId") == message.message_id and said.get("role") == "user":
            if said.get("parts") != [part.to_json() for part in message.parts]:
                raise Conflict(f"task {run.id} has another message with the id {message.message_id[:100]!r}")
            return True
    return False


async def _message(wire: pb.Message) -> Message:
    return await at_leisure(wire.ByteSize(), lambda: convert.from_message(wire))


def _asked_config(wire: pb.TaskPushNotificationConfig, run_id: str, context: ServerCallContext) -> PushConfig:
    if wire.HasField("authentication") and not wire.authentication.scheme:
        raise missing("authentication.scheme")
    return PushConfig(
        wire.id, run_id, wire.url, wire.token, wire.authentication.scheme, wire.authentication.credentials,
        context.state.get("version", "1.0"),
    )  # fmt: skip


def _push_config(config: PushConfig) -> Json:
    """A configuration as it is shown: credentials go to the webhook and nowhere else."""
    found: Json = {"id": config.id, "taskId": config.run_id, "url": config.url}
    if config.token:
        found["token"] = config.token
    if config.scheme:
        found["authentication"] = {"scheme": config.scheme}
    return found


def _check_message(params: pb.SendMessageRequest) -> None:
    """The fields that the specification requires, named if they are missing (section 5.7)."""
    if not params.HasField("message"):
        raise missing("message")
    wire = params.message
    absent = [
        name
        for name, given in (("messageId", wire.message_id), ("role", wire.role), ("parts", len(wire.parts)))
        if not given
    ]
    if absent:
        raise missing(*(f"message.{name}" for name in absent))


def _history_length(params: Any) -> int | None:
    if not params.HasField("history_length"):
        return None
    length: int = params.history_length
    if length < 0:
        raise InvalidInput(f"historyLength is {length}; it must not be negative")
    return length
