"""Functions: installed Python functions named `package.module:function`, found and called."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter

from agentmesh.core.caller import Caller
from agentmesh.core.context import Context
from agentmesh.errors import Fail


def resolve_function(name: str) -> Callable[..., Any]:
    """The function behind `package.module:function`; Fail says which part of the name is wrong."""
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise Fail(f"{name!r} does not name a function; write package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise Fail(
            f"cannot import {module_name!r} for the function {name!r}: {error}; is the package installed?"
        ) from error
    function: Any = module
    for part in attribute.split("."):
        function = getattr(function, part, None)
        if function is None:
            raise Fail(f"module {module_name!r} has no {attribute!r}")
    if not callable(function):
        raise Fail(f"{name!r} is not a function")
    return function  # type: ignore[no-any-return]


@lru_cache(maxsize=1024)
def _shape(function: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether the function takes a `ctx` first, and whether it is a coroutine function."""
    try:
        first = next(iter(inspect.signature(function).parameters), None)
    except (TypeError, ValueError):
        first = None
    called = function if inspect.isfunction(function) or inspect.ismethod(function) else type(function).__call__
    return first == "ctx", inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def wants_context(function: Callable[..., Any]) -> bool:
    """Whether the function's first parameter is named `ctx`."""
    return _shape(function)[0]


def from_thread(tell: Callable[..., None]) -> Callable[..., None]:
    """`tell` for use from the event loop's thread and from a function's own."""
    loop = asyncio.get_running_loop()
    home = threading.get_ident()

    def call(*said: Any) -> None:
        if threading.get_ident() == home:
            tell(*said)
        else:
            loop.call_soon_threadsafe(tell, *said)

    return call


class ThreadSafe:
    """A caller that may be told things from a function's own thread. Asking is for coroutines."""

    def __init__(self, caller: Caller) -> None:
        self.state = caller.state
        self.progress = from_thread(caller.progress)
        self.log = from_thread(caller.log)
        self.can = caller.can
        self.ask = caller.ask
        self.answer = caller.answer


async def call_function(
    function: Callable[..., Any], context: Context | None, arguments: Mapping[str, Any], limiter: CapacityLimiter
) -> Any:
    """Calls it with the arguments by name; `context` is for one that wants it.

    A plain function runs in a thread, and is left to itself there when cancelled.
    """
    takes_context, is_async = _shape(function)
    given = (context,) if takes_context else ()
    if is_async:
        return await function(*given, **arguments)
    return await anyio.to_thread.run_sync(
        lambda: function(*given, **arguments), abandon_on_cancel=True, limiter=limiter
    )
