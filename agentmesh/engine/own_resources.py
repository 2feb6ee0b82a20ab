"""Own resources: what the mesh shows of itself: its runs, their logs, its workflows and its agent card.

    mesh://runs                 the newest runs of the caller
    mesh://runs/{id}            one of them, with its steps and what it asks
    mesh://runs/{id}/log        what happened in it, a line each
    mesh://workflows/{name}     a workflow's file, as JSON
    mesh://agents/{name}        the A2A card of this mesh, or of one of its agents

Whoever may read a resource sees in it what `Runs` and the card would show them, and no more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from agentmesh.core.content import contents
from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Principal
from agentmesh.core.question import questions
from agentmesh.core.resource import Resource, ResourceTemplate
from agentmesh.core.run import JSON, Run, StepRun
from agentmesh.core.store import RunFilter
from agentmesh.core.uri_template import uri_template
from agentmesh.core.workflow import Workflow
from agentmesh.engine.runs import Runs, describe
from agentmesh.errors import NotFound

SCHEME: Final = "mesh://"
RUNS: Final = "mesh://runs"
NEWEST = 50
"""Runs in `mesh://runs`."""
LINES = 1000
"""Lines of a log: the newest."""
JSON_TYPE: Final = "application/json"
_RUN = uri_template("mesh://runs/{id}")
_LOG = uri_template("mesh://runs/{id}/log")
_WORKFLOW = uri_template("mesh://workflows/{name}")
_AGENT = uri_template("mesh://agents/{name}")
_SECRET = re.compile(r"auth|cookie|key|secret|token|password", re.IGNORECASE)
"""Headers whose values are not shown, should somebody have written one down."""

Card = Callable[[Principal, str | None], Awaitable[Mapping[str, Any]]]


class OwnResources:
    """The part of `Resources` that speaks of the mesh itself."""

    def __init__(self, mesh: Mesh, runs: Runs) -> None:
        self._mesh = mesh
        self._runs = runs
        self.card: Card | None = None
        """The card of an agent, None for the mesh, as one caller may see it (NotFound); app.py gives it, since an edge writes cards.
        None: there is none to show.
        """

    def has(self, uri: str) -> bool:
        """Whether the URI is of this kind; it may still mean nothing."""
        return uri.startswith(SCHEME)

    def list(self) -> Sequence[Resource]:
        """Those with a URI of their own; what one may see of them, policies say."""
        found = [
            Resource(RUNS, "runs", f"The newest {NEWEST} runs of whoever reads it.", "Runs", JSON_TYPE, source="mesh")
        ]
        for name, workflow in self._mesh.workflows.items():
            found.append(
                Resource(
                    _WORKFLOW.fill({"name": name}), name,
                    workflow.description or f"The file of the workflow {name}, as JSON.", workflow.title, JSON_TYPE,
                    source="mesh",
                )
            )  # fmt: skip
        if self.card is not None:
            name = self._mesh.name
            said = f"The A2A agent card of {name}."
            found.append(Resource(_AGENT.fill({"name": name}), name, said, mime_type=JSON_TYPE, source="mesh"))
        return found

    def templates(self) -> Sequence[ResourceTemplate]:
        """Those that mean many."""
        found = [
            (_RUN.text, "run", "A run: its state, steps, output and open questions.", JSON_TYPE),
            (_LOG.text, "run-log", f"What happened in a run, a line each, at most the newest {LINES:,}.", "text/plain"),
            (_WORKFLOW.text, "workflow", "The file of a workflow, as JSON.", JSON_TYPE),
        ]
        if self.card is not None:
            found.append((_AGENT.text, "agent-card", "The A2A card of an agent of this mesh.", JSON_TYPE))
        return [ResourceTemplate(uri, name, said, mime_type=mime, source="mesh") for uri, name, said, mime in found]

    async def read(self, principal: Principal, uri: str) -> dict[str, Any]:
        """NotFound for a run of somebody else, too; PolicyDenied (runs.read)."""
        if uri == RUNS:
            return _json(uri, await self._newest(principal))
        if (values := _LOG.match(uri)) is not None:
            return contents(uri, await self._log(principal, values["id"]), "text/plain")
        if (values := _RUN.match(uri)) is not None:
            return _json(uri, run_to_json(await self._runs.get(principal, values["id"])))
        if (values := _WORKFLOW.match(uri)) is not None and values["name"] in self._mesh.workflows:
            return _json(uri, workflow_to_json(self._mesh.workflows[values["name"]]))
        if (values := _AGENT.match(uri)) is not None and self.card is not None:
            name = values["name"]
            return _json(uri, await self.card(principal, None if name == self._mesh.name else name))
        raise NotFound(f"there is no resource {uri!r}", uri=uri)

    async def run_of(self, principal: Principal, uri: str) -> str | None:
        """The id of the run that the URI shows, which is the principal's to read; None when it shows none."""
        values = _LOG.match(uri) or _RUN.match(uri)
        if values is None:
            await self.read(principal, uri)  # NotFound for what there is not
            return None
        return (await self._runs.get(principal, values["id"])).id

    async def values(self, principal: Principal, template: str) -> Sequence[str]:
        """What its one name may be: newest runs first, names in order."""
        if template in (_RUN.text, _LOG.text):
            page = await self._runs.list(principal, RunFilter(limit=100, longest=0))
            return [run.id for run in page.runs]
        return sorted(self._mesh.workflows) if template == _WORKFLOW.text else [self._mesh.name]

    async def _newest(self, principal: Principal) -> JSON:
        page = await self._runs.list(principal, RunFilter(limit=NEWEST, longest=0))
        return {"runs": [_head(run) for run in page.runs], "more": page.next is not None}

    async def _log(self, principal: Principal, run_id: str) -> str:
        entries = await self._runs.journal(principal, run_id)
        left_out = len(entries) - LINES
        lines = [f"... {left_out:,} earlier lines"] if left_out > 0 else []
        return "\n".join([*lines, *(f"{_iso(entry.at)} {describe(entry)}" for entry in entries[-LINES:])])


def run_to_json(run: Run) -> dict[str, Any]:
    """A run for reading: what was asked, how it stands, each step, and what it asks of a person."""
    return {
        **_head(run), "input": run.input, "output": run.output, "error": _plain(run.error),
        "usage": {"prompt_tokens": run.usage.prompt_tokens, "completion_tokens": run.usage.completion_tokens},
        "steps": [_step(step) for step in run.steps.values()],
        "questions": [{"id": asked.id, "kind": asked.kind, "ask": asked.ask} for asked in questions(run)],
    }  # fmt: skip


def _head(run: Run) -> dict[str, Any]:
    return {
        "id": run.id, "uri": _RUN.fill({"id": run.id}), "workflow": run.workflow, "state": run.state.value,
        "source": run.source, "owner": run.owner, "created_at": _iso(run.created_at), "updated_at": _iso(run.updated_at),
    }  # fmt: skip


def _step(step: StepRun) -> dict[str, Any]:
    return {
        "path": step.path, "verb": step.verb, "state": step.state.value, "attempt": step.attempt,
        "output": step.output, "error": _plain(step.error), "run": step.child,
    }  # fmt: skip


def workflow_to_json(workflow: Workflow) -> dict[str, Any]:
    """The file's keys as they were written; values that only the operator may know are left out."""
    said: dict[str, Any] = workflow.model_dump(mode="json", by_alias=True, exclude_unset=True)
    _hide(said)
    return said


def _hide(value: Any) -> None:
    if isinstance(value, list):
        for inner in value:
            _hide(inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name == "webhook" and isinstance(inner, dict):
                for secret in {"token", "key"} & inner.keys():
                    inner[secret] = "***"
            elif name == "headers" and isinstance(inner, dict):
                for header in [header for header in inner if _SECRET.search(header)]:
                    inner[header] = "***"
            else:
                _hide(inner)


def _json(uri: str, value: JSON) -> dict[str, Any]:
    return contents(uri, json.dumps(value, ensure_ascii=False, indent=1), JSON_TYPE)


def _plain(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if value is None else dict(value)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
