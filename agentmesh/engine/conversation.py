"""Conversation: the messages of one A2A context, as a workflow may read them (`context.message`, `context.messages`).

What a run reads of its context is read once, when it starts, and kept with its message: a resume, a fork and a replay see the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentmesh.core.json_text import write_json
from agentmesh.core.policy import Principal
from agentmesh.core.run import JSON, Run, RunState
from agentmesh.core.store import RunFilter, Store
from agentmesh.engine.guard import LOCAL

RUNS: Final = 20
"""Earlier tasks of the context that are looked at, the newest."""
MESSAGES: Final = 20
SIZE: Final = 32 * 1024
"""Characters of text and data of all messages together; the oldest are left out first."""


def context_of(run: Run) -> dict[str, JSON]:
    """What `context` is to a run's expressions."""
    message = run.message
    if message is None:
        return {"id": run.context_id, "message": None, "messages": []}
    parts: Sequence[Mapping[str, Any]] = message.get("parts") or ()
    shown = {
        "id": message.get("messageId") or "", "role": message.get("role") or "user", "text": text_of_parts(parts),
        "data": data_of_parts(parts), "metadata": message.get("metadata") or {}, "parts": list(parts),
    }  # fmt: skip
    return {"id": run.context_id, "message": shown, "messages": message.get("messages") or []}


async def earlier_messages(store: Store, principal: Principal, context_id: str) -> list[dict[str, JSON]]:
    """What was said in the principal's context so far, oldest first: {role, text, data, task} each, bounded."""
    owner = None if principal.subject == LOCAL else principal.subject
    where = RunFilter(tenant=principal.tenant, owner=owner, context_id=context_id, roots=True, limit=RUNS)
    found: list[dict[str, JSON]] = []
    left = SIZE
    for head in (await store.list_runs(where)).runs:
        run = await store.get_run(head.id) or head
        for said in reversed(_said_in(run)):
            left -= len(str(said["text"])) + (0 if said["data"] is None else len(write_json(said["data"])))
            if left < 0 or len(found) >= MESSAGES:
                return found[::-1]
            found.append(said)
    return found[::-1]


def _said_in(run: Run) -> list[dict[str, JSON]]:
    """The messages of one task, oldest first, its outcome last."""
    said = [run.message, *run.messages] if run.message is not None else [*run.messages]
    found = [_message(one, run.id) for one in said]
    if run.state is RunState.COMPLETED:
        parts = [part for artifact in run.artifacts.values() for part in artifact.get("parts") or ()]
        if not parts:
            parts = [{"text": run.output} if isinstance(run.output, str) else {"data": run.output}]
        found.append(_message({"role": "agent", "parts": parts}, run.id))
    return found


def _message(message: Mapping[str, Any], task: str) -> dict[str, JSON]:
    parts: Sequence[Mapping[str, Any]] = message.get("parts") or ()
    data = data_of_parts(parts)
    text = text_of_parts(parts) or ("" if data is None else write_json(data).decode())
    role = "agent" if str(message.get("role", "user")).lower().endswith("agent") else "user"
    return {"role": role, "text": text, "data": data, "task": task}


def text_of_parts(parts: Sequence[Mapping[str, Any]]) -> str:
    """The text parts of a message as JSON, joined by line breaks."""
    return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def data_of_parts(parts: Sequence[Mapping[str, Any]]) -> JSON:
    """What its first data part holds; None when it has none."""
    return next((part["data"] for part in parts if "data" in part), None)
