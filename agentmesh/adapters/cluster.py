"""Cluster: installed functions run as Ray tasks, by way of the models' child. Imports no Ray.

Each call has a connection of its own to the child, which ends the task when the connection ends: so cancellation, and the death
of this process, reach the function.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import anyio

from agentmesh.adapters.model_child import ModelChild, read_message
from agentmesh.adapters.model_link import LINE_LIMIT, to_line
from agentmesh.core.workflow import Step, Workflow
from agentmesh.errors import Fail, InvalidInput, ModelUnavailable, NotSent, Retry, Unanswered

WAIT = 600.0
"""Seconds to wait for a cluster that is starting."""


class RayTasks:
    """`core.outside.Cluster` over a ModelChild."""

    def __init__(self, child: ModelChild, folder: str, *, wait: float = WAIT) -> None:
        """`folder`: the mesh's, as `ctx.folder` shows it."""
        self._child, self._folder, self._wait = child, folder, wait

    async def call(self, function: str, arguments: Mapping[str, Any], *, key: str, timeout: float | None) -> Any:
        """See `Cluster.call`. NotSent before Ray has the task, Unanswered when it is lost after that."""
        if why := self._child.no_cluster:
            raise Fail(f"{function} cannot run on Ray: {why}")
        line = to_line(
            {"do": "call", "function": function, "arguments": dict(arguments), "key": key, "folder": self._folder}
        )
        if len(line) > LINE_LIMIT:
            raise Fail(f"the arguments of {function} are larger than {LINE_LIMIT // 1024 // 1024} MB")
        submitted = False
        deadline = time.monotonic() + self._wait
        try:
            stream, lines = await self._child.meet(self._wait)
            async with stream:
                await stream.send(line)
                while True:
                    message = await read_message(lines)
                    submitted = submitted or "submitted" in message
                    if "answer" in message:
                        return _result(message["answer"])
                    if not submitted and time.monotonic() > deadline:
                        raise NotSent(f"the Ray cluster was not up within {self._wait:.0f} s")
        except ModelUnavailable as error:
            raise NotSent(error.message) from None
        except (OSError, TimeoutError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            kind = Unanswered if submitted else NotSent
            raise kind(f"the Ray cluster was lost while {function} {'ran' if submitted else 'waited'}") from error


def _result(answer: Mapping[str, Any]) -> Any:
    """The value; or what the function raised, raised again."""
    error = answer.get("error")
    if error is None:
        return json.loads(answer["value"])
    message = str(error.get("message"))
    match error.get("code"):
        case "retry":
            raise Retry(message, after=error.get("after"))
        case "not_sent":
            raise NotSent(message, after=error.get("after"))
        case "unanswered":
            raise Unanswered(message)
        case "invalid_input":
            raise InvalidInput(message)
    raise Fail(message)


def runs_on_ray(workflows: Iterable[Workflow]) -> bool:
    """Whether some step of these says `on: ray`."""
    return any(_any_on_ray(workflow.steps) for workflow in workflows)


def _any_on_ray(steps: Iterable[Step]) -> bool:
    return any(step.on == "ray" or any(_any_on_ray(inner) for _, inner in step.blocks()) for step in steps)
