"""What webhooks are told: in 1.0 the events of a stream, in 0.3 the task as it then is (A2A 0.3.0 section 9.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentmesh.a2a.convert import to_task
from agentmesh.a2a.events import stream_responses
from agentmesh.a2a.v03 import dump
from agentmesh.a2a.v03 import to_task as to_task_of_v03
from agentmesh.core.run import Run, RunEvent


def notifications(event: RunEvent, _: Run) -> Sequence[dict[str, Any]]:
    """StreamResponse objects; an answer by a message is told as the end of the task that it was configured for."""
    return stream_responses(event, as_task=True)


def notifications_of_v03(event: RunEvent, run: Run) -> Sequence[dict[str, Any]]:
    """One Task for each entry that is news, without its history."""
    responses = stream_responses(event, as_task=True)
    if not responses:
        return []
    task = to_task(run, history_length=0)
    for update in (one["statusUpdate"] for one in responses if "statusUpdate" in one):
        task["status"] = update["status"]
    found: dict[str, Any] = dump(to_task_of_v03(task))
    return [found]
