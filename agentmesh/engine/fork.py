"""Fork: what a new run keeps of an earlier one, and the definition it goes on with. Pure; `engine.history` records it."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from agentmesh.core.cel import ExpressionError
from agentmesh.core.expression import names
from agentmesh.core.mesh import definition_hash
from agentmesh.core.run import JSON, Entry, Kind
from agentmesh.core.workflow import COMPENSATE, Step, Workflow
from agentmesh.engine.definitions import ASK, TOOL, Definition, load, steps_of
from agentmesh.engine.journal import COPIED
from agentmesh.errors import Conflict, Fail, InvalidInput

CHANGEABLE = ("prompt", "system", "model", "temperature", "max_tokens", "seed")
"""What a fork may change of an `llm` step."""
_KEPT = frozenset({
    Kind.STEP_STARTED, Kind.STEP_INTENT, Kind.STEP_CHILD, Kind.STEP_WAITING, Kind.STEP_ATTEMPT, Kind.STEP_COMPLETED,
    Kind.STEP_FAILED, Kind.STEP_SKIPPED,
})  # fmt: skip
_TOP = re.compile(r"[/\[]")
_ENDS = (Kind.STEP_COMPLETED, Kind.STEP_FAILED, Kind.STEP_SKIPPED)


def top(path: str) -> str:
    """Id of the step of the workflow itself that a path is in: `each` of `each[3]/draft`."""
    return _TOP.split(path, 1)[0]


def kept_steps(workflow: Workflow, from_step: str | None) -> list[str]:
    """Ids of the steps before `from_step` (an id or a path; None: the first). InvalidInput when there is no such step."""
    if from_step is None:
        return []
    ids = [step.id for step in workflow.steps]
    wanted = top(from_step)
    if wanted not in ids:
        inside = next((s.id for s in workflow.steps if wanted in {i.id for i in _within(s)}), None)
        if inside is None:
            close = get_close_matches(wanted, ids, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(ids)}"
            raise InvalidInput(f"workflow {workflow.name} has no step {wanted!r}{hint}")
        wanted = inside  # a block is done again as a whole
    return ids[: ids.index(wanted)]


def _within(step: Step) -> Iterable[Step]:
    for _, steps in step.blocks():
        for inner in steps:
            yield inner
            yield from _within(inner)


def kept_entries(run_id: str, entries: Sequence[Entry], keep: Sequence[str]) -> list[Entry]:
    """Copies of the rows of these steps. Conflict when one of them has not ended, or was undone.

    They say whose they are, and count no tokens: the new run has not spent them.
    """
    ended = {entry.path for entry in entries if entry.kind in _ENDS}
    wanted = frozenset(keep)
    for step in keep:
        if step not in ended:
            raise Conflict(
                f"step {step} of run {run_id} has not ended, so that nothing can begin after it; fork from it or an earlier step"
            )
    rows: list[Entry] = []
    for entry in entries:
        if entry.kind not in _KEPT or top(entry.path) not in wanted:
            continue
        if entry.path.endswith(f"/{COMPENSATE}"):
            undone = entry.path.removesuffix(f"/{COMPENSATE}")
            raise Conflict(
                f"step {undone} of run {run_id} was undone when the run failed; fork from {top(undone)} or an earlier step"
            )
        # A signal is known by its number in the journal of the run that got it.
        payload = {name: value for name, value in entry.payload.items() if name not in ("usage", "signal")}
        rows.append(replace(entry, payload={**payload, COPIED: entry.payload.get(COPIED, run_id)}, seq=0))
    return rows


def same_steps(workflow: Workflow, keep: Sequence[str]) -> None:
    """Conflict unless the workflow begins with the kept steps."""
    ids = [step.id for step in workflow.steps]
    if ids[: len(keep)] != list(keep):
        raise Conflict(
            f"workflow {workflow.name} begins today with {', '.join(ids[: len(keep) + 1])}, and the run that is forked began with "
            f"{', '.join(keep)}; fork from an earlier step, or without today's definition"
        )


def changed(
    definition: Definition, changes: Mapping[str, Mapping[str, JSON]], revisions: Mapping[str, str]
) -> Definition:
    """The definition with `llm` steps changed, by id: {step: {prompt, model, ...}}. `revisions`: of the mesh's models now.

    InvalidInput for a step that is no `llm` step of the workflow, a member that cannot be changed, a model that the mesh does not have.
    """
    document = copy.deepcopy(dict(definition.document))
    ids = {inner.id for inner in steps_of(definition.workflow)}
    for step, values in changes.items():
        spec = _llm_of(document, definition.name, step)
        for name, value in values.items():
            _check(step, name, value, revisions, ids)
            if value is None and name != "prompt":
                spec.pop(name, None)
            else:
                spec[name] = value
        model = spec.get("model")
        if model is not None:
            document["revisions"] = {**document["revisions"], model: revisions.get(model, "")}
    try:
        return load(definition_hash(document), document)
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(str(part) for part in e['loc'][-2:])}: {e['msg'].lower()}" for e in error.errors()[:3]
        )
        raise InvalidInput(f"the changed definition does not fit: {said}") from None
    except Fail as error:
        raise InvalidInput(f"the changed definition does not fit: {error}") from None


def _check(step: str, name: str, value: JSON, revisions: Mapping[str, str], ids: Collection[str]) -> None:
    if name not in CHANGEABLE:
        raise InvalidInput(f"step {step}: {name!r} cannot be changed in a fork; what can: {', '.join(CHANGEABLE)}")
    if name == "model" and value is not None and value not in revisions:
        raise InvalidInput(
            f"step {step}: there is no model {value!r} in agentmesh.yaml; there are {', '.join(sorted(revisions)) or 'none'}"
        )
    if name in ("prompt", "system") and isinstance(value, str) and "${{" in value:
        try:
            read = names(value)
        except ExpressionError as error:
            raise InvalidInput(f"step {step}: {name}: {error.message}") from None
        for root, _, rest in (path.partition(".") for path in read):
            known = rest.partition(".")[0] in ids if root == "steps" and rest else root != "secrets"
            if not known:
                raise InvalidInput(f"step {step}: {name}: there is no {root}.{rest} to read here")


def _llm_of(document: Mapping[str, Any], name: str, step: str) -> dict[str, Any]:
    """The `llm` of a step in a definition's document, to be changed in place."""
    if name.startswith(TOOL):
        spec = document["specs"][name.removeprefix(TOOL)]
        if step == ASK:
            return spec["llm"]  # type: ignore[no-any-return]
        raise InvalidInput(f"the run of {name} has the one step {ASK!r}, not {step!r}")
    found = next((s for s in _steps(document["workflows"][name]["steps"]) if s.get("id") == step), None)
    if found is None:
        raise InvalidInput(f"workflow {name} has no step {step!r}")
    if not isinstance(found.get("llm"), dict):
        raise InvalidInput(f"step {step} asks no model: only `llm` steps can be changed in a fork")
    return found["llm"]  # type: ignore[no-any-return]


def _steps(value: Any) -> Iterable[dict[str, Any]]:
    """Every step in a part of a workflow's JSON."""
    if isinstance(value, list):
        for item in value:
            yield from _steps(item)
    elif isinstance(value, dict):
        if "id" in value:
            yield value
        for key in ("steps", "else", "on_error"):
            yield from _steps(value.get(key))
        for case in value.get("switch") or ():
            yield from _steps(case)
        for branch in (value.get("parallel") or {}).values():
            yield from _steps(branch)
