"""Methods that let nothing but A2AError out: what the SDK's bindings show of any other exception is Python's words."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from a2a.server.context import ServerCallContext
from a2a.utils.errors import A2AError, TaskNotCancelableError

from agentmesh.a2a.errors import to_a2a_error
from agentmesh.errors import Conflict

Self = TypeVar("Self")
Params = TypeVar("Params")
Result = TypeVar("Result")
Event = TypeVar("Event")


def task_error(error: Exception) -> A2AError:
    return to_a2a_error(error, task=True)


def cancel_error(error: Exception) -> A2AError:
    if isinstance(error, Conflict):
        return TaskNotCancelableError(message=error.message, data={"code": error.code})
    return to_a2a_error(error, task=True)


def answers(
    turn: Callable[[Exception], A2AError] = to_a2a_error,
) -> Callable[
    [Callable[[Self, Params, ServerCallContext], Awaitable[Result]]],
    Callable[[Self, Params, ServerCallContext], Coroutine[Any, Any, Result]],
]:
    """A method that lets nothing but A2AError out. `turn`: what makes one of an error."""

    def decorate(
        method: Callable[[Self, Params, ServerCallContext], Awaitable[Result]],
    ) -> Callable[[Self, Params, ServerCallContext], Coroutine[Any, Any, Result]]:
        @functools.wraps(method)
        async def answered(self: Self, params: Params, context: ServerCallContext) -> Result:
            try:
                return await method(self, params, context)
            except Exception as error:
                raise turn(error) from None

        return answered

    return decorate


def streams(
    turn: Callable[[Exception], A2AError] = to_a2a_error,
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
                async with aclosing(method(self, params, context)) as events:
                    async for event in events:
                        yield event
            except Exception as error:
                raise turn(error) from None

        return streamed

    return decorate
