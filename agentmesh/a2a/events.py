"""What one entry of a run's journal is on the wire: the same for streams, for push notifications and for every binding.

A task's stream is its Task, then what these functions make of each entry that follows. Two clients that look at one run see the same
events in the same order, whenever each of them came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

from agentmesh.a2a.convert import (
    context_of,
    has_output,
    is_relayed,
    output_artifact,
    said_of,
    to_artifact,
    to_reply,
    to_route,
    to_status,
)
from agentmesh.core.agent import ROUTE
from agentmesh.core.run import STATE_AFTER, Kind, Run, RunEvent, RunState

SILENT: Final = frozenset({Kind.RUN_SUBMITTED, Kind.RUN_TRACED})
"""Entries that are nobody's news: a task's first event is the Task itself."""
TOLD: Final = frozenset({RunState.INPUT_REQUIRED, RunState.AUTH_REQUIRED})
"""States of a task elsewhere that the run's own entry tells, which follows."""


def stream_responses(event: RunEvent, accepted: Sequence[str] = (), *, as_task: bool = False) -> list[dict[str, Any]]:
    """The StreamResponse objects that an entry or a notice is, in order; often one, sometimes none (A2A 1.0.1 section 3.2.3).

    The terminal status comes last. `accepted`: the media types that the client takes, all when empty. `as_task`: the client was shown
    a task, so that what the run was answered by is no message any more.
    """
    run, entry = event.run, event.entry
    if entry is None:
        return [_status(run, event.message, f"{run.id}.{run.seq}.{crc32(event.message.encode()):08x}")]
    kind = entry.kind
    if kind in SILENT:
        return []
    if kind is Kind.STEP_ARTIFACT:
        return [_artifact(run, entry.payload)]
    if is_relayed(run) and kind not in STATE_AFTER:
        return _of_a_relayed_task(event)
    if kind is not Kind.RUN_COMPLETED:
        line = event.message if not run.state.terminal and kind is not Kind.RUN_AUTH_REQUIRED else None
        return [_status(run, line)]
    if run.replied and not as_task:
        return [{"message": to_reply(run, accepted)}]
    if not has_output(run):
        return [_status(run)]
    made = output_artifact(run.output, accepted)
    update = {"taskId": run.id, "contextId": context_of(run), "artifact": made, "lastChunk": True}
    return [{"artifactUpdate": update}, _status(run)]


def _of_a_relayed_task(event: RunEvent) -> list[dict[str, Any]]:
    """What the agent elsewhere says, in its words; nothing of what the mesh does about it."""
    run, entry = event.run, event.entry
    assert entry is not None
    if entry.kind is Kind.RUN_ROUTED:
        return [_status(run, event.message)]
    if entry.kind is not Kind.STEP_SAID or entry.payload.get("reply"):
        return []
    state = RunState(entry.payload.get("state", RunState.WORKING.value))
    if state.terminal or state in TOLD:
        return []
    return [_status(run, None if said_of(run) is not None else event.message)]


def _status(run: Run, line: str | None = None, ident: str | None = None) -> dict[str, Any]:
    update: dict[str, Any] = {"taskId": run.id, "contextId": context_of(run), "status": to_status(run, line, ident)}
    if run.route is not None:
        update["metadata"] = {ROUTE: to_route(run.route)}
    return {"statusUpdate": update}


def _artifact(run: Run, payload: Any) -> dict[str, Any]:
    update: dict[str, Any] = {"taskId": run.id, "contextId": context_of(run)}
    update["artifact"] = to_artifact(payload.get("artifact") or {})
    if payload.get("append"):
        update["append"] = True
    if payload.get("last"):
        update["lastChunk"] = True
    return {"artifactUpdate": update}
