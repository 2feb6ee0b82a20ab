"""Calls: functions that servers ask the models' child to run on its cluster, one connection each.

A call ends with its connection: a server that leaves, or is killed, takes its tasks with it. On the wire, after the token:

    {"do": "call", "function", "arguments", "key", "folder"}     from the server
    {"submitted": true}                                          Ray is given it now; from here on it may have been done
    {"answer": {"value": JSON text} | {"error": {code, message, after?}}}
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from agentmesh.adapters.ray_deploy import Cluster, Task

log = logging.getLogger("agentmesh.models")
SOFT = 2.0
"""Seconds that a cancelled task gets before its worker is killed."""


class Calls:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.up = anyio.Event()
        """Set when the cluster has started; calls wait for it."""

    async def call(self, message: Mapping[str, Any], tell: Callable[[Mapping[str, Any]], Awaitable[None]]) -> None:
        """Has Ray run a function and tells its answer. Cancelled: ends the task."""
        await self.up.wait()
        await tell({"submitted": True})  # before it is: a death in between must not pass for a task that nobody had
        try:
            task = await anyio.to_thread.run_sync(
                self._cluster.submit, message["function"], message["arguments"], message["key"], message["folder"]
            )
        except Exception as error:  # a cluster that is being lost; whoever keeps it up will notice
            log.warning("a task was not taken: %s: %s", type(error).__name__, error)
            await tell(
                {"answer": {"error": {"code": "not_sent", "message": f"Ray did not take the task: {error}"[:500]}}}
            )
            return
        done = anyio.Event()
        loop = asyncio.get_running_loop()
        task.future.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._end(task, done)
            raise
        await tell({"answer": self._answer(task)})

    def _answer(self, task: Task) -> Mapping[str, Any]:
        """Of a task that is done."""
        try:
            answer: Mapping[str, Any] = task.future.result()
        except Exception as error:  # whatever Ray raises: the worker died, or could not even begin
            log.warning("a task failed: %s: %s", type(error).__name__, error)
            said = str(error).strip().splitlines() or [""]
            code = "unanswered" if self._cluster.may_have_run(error) else "failed"
            return {"error": {"code": code, "message": f"Ray: {type(error).__name__}: {said[0][:500]}"}}
        return answer

    async def _end(self, task: Task, done: anyio.Event) -> None:
        """Interrupts the function where it stands; when it does not heed that, its process is killed."""
        with suppress(Exception):
            await anyio.to_thread.run_sync(self._cluster.cancel, task, False)
        with anyio.move_on_after(SOFT):
            await done.wait()
            return
        with suppress(Exception):
            await anyio.to_thread.run_sync(self._cluster.cancel, task, True)
