"""Difference: what changed from one run to another, by path: definition, input, steps, end."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentmesh.core.run import JSON, Run, StepRun
from agentmesh.engine.journal import COPIED

CHANGES = 200
"""Places told of one value; two outputs may have nothing in common."""
LONGEST = 4000
"""Characters of a value that is told."""
LINES = 400
"""Lines of one text's difference."""
CONTEXT = 3


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs. `document`: of its definition, None when the store has lost it."""

    run: Run
    document: Mapping[str, Any] | None


def compare(a: Side, b: Side) -> dict[str, JSON]:
    """What is not the same, and nothing of what is. Values are {path, a, b}, texts {path, lines} as `diff -u` writes them."""
    return {
        "a": _head(a.run),
        "b": _head(b.run),
        "forked": b.run.forked_from == a.run.id or a.run.forked_from == b.run.id,
        "definition": _definition(a, b),
        "input": changes(a.run.input, b.run.input, "input"),
        "steps": _steps(a.run, b.run),
        "end": _end(a.run, b.run),
    }


def _head(run: Run) -> dict[str, JSON]:
    return {
        "id": run.id, "workflow": run.workflow, "definition": run.definition, "state": run.state.value,
        "forked_from": run.forked_from, "created_at": run.created_at, "tokens": run.usage.tokens,
        "seconds": round(run.usage.seconds, 6), "steps": len(run.steps),
    }  # fmt: skip


def _definition(a: Side, b: Side) -> dict[str, JSON]:
    if a.run.definition == b.run.definition:
        return {"same": True, "changes": []}
    if a.document is None or b.document is None:
        return {"same": False, "changes": [], "missing": [s.run.definition for s in (a, b) if s.document is None]}
    return {"same": False, "changes": changes(_by_id(a.document), _by_id(b.document), "")}


def _by_id(value: JSON) -> JSON:
    """The document with lists of steps as objects by id, so that one step more does not change all that follow."""
    if isinstance(value, Mapping):
        return {key: _by_id(item) for key, item in value.items()}
    if isinstance(value, list):
        ids = [item.get("id") if isinstance(item, Mapping) else None for item in value]
        if value and all(isinstance(i, str) for i in ids) and len(set(ids)) == len(ids):
            return {i: _by_id(item) for i, item in zip(ids, value, strict=True)} | {"(order)": " ".join(map(str, ids))}
        return [_by_id(item) for item in value]
    return value


def _steps(a: Run, b: Run) -> list[JSON]:
    """Each step that is not the same, in the order of the first run, then those that only the second has."""
    found: list[JSON] = []
    for path in [*a.steps, *(path for path in b.steps if path not in a.steps)]:
        one, other = a.steps.get(path), b.steps.get(path)
        changed = _step(one, other)
        if changed:
            found.append({"path": path, **changed})
    return found


def _step(a: StepRun | None, b: StepRun | None) -> dict[str, JSON]:
    if a is None or b is None:
        only = a or b
        assert only is not None
        return {"only": "a" if b is None else "b", "state": only.state.value, "output": _cut(only.output)}
    found: dict[str, JSON] = {}
    pairs = {
        "state": (a.state.value, b.state.value), "verb": (a.verb, b.verb), "model": (a.model, b.model),
        "error": (_plain(a.error), _plain(b.error)), "attempts": (_attempts(a), _attempts(b)),
        "verdicts": (_verdicts(a), _verdicts(b)),
    }  # fmt: skip
    found |= {name: {"a": one, "b": other} for name, (one, other) in pairs.items() if one != other}
    if output := changes(a.output, b.output, "output"):
        found["output"] = output
    if not (_copied(a) or _copied(b)) and (found or a.usage.tokens != b.usage.tokens):
        spent = {
            "tokens": (a.usage.tokens, b.usage.tokens),
            "seconds": (round(a.usage.seconds, 3), round(b.usage.seconds, 3)),
        }
        found |= {name: {"a": one, "b": other} for name, (one, other) in spent.items() if one != other}
    return found


def _copied(step: StepRun) -> bool:
    """Whether the step was kept by a fork, which has spent nothing for it."""
    return any(COPIED in entry.payload for entry in step.attempts)


def _attempts(step: StepRun) -> list[str]:
    """How each attempt came to its end, such as `failed: timeout`."""
    found: list[str] = []
    for entry in step.attempts:
        error = entry.payload.get("error") or {}
        failed = [v for v in entry.payload.get("verdicts") or () if v.get("outcome") != "pass"]
        found.append(f"error: {error.get('code')}" if error else "not accepted" if failed else "passed")
    return found


def _verdicts(step: StepRun) -> list[str]:
    """The last attempt's, one a line."""
    lines = []
    for verdict in step.verdicts:
        where = f" {verdict['path']}" if verdict.get("path") else ""
        score = f" ({verdict['score']:g})" if verdict.get("score") is not None else ""
        message = f": {verdict['message']}" if verdict.get("message") else ""
        lines.append(f"{verdict.get('validator')}{where} {verdict.get('outcome')}{score}{message}")
    return lines


def _end(a: Run, b: Run) -> dict[str, JSON]:
    found: dict[str, JSON] = {}
    pairs = {"state": (a.state.value, b.state.value), "error": (_plain(a.error), _plain(b.error))}
    found |= {name: {"a": one, "b": other} for name, (one, other) in pairs.items() if one != other}
    if output := changes(a.output, b.output, "output"):
        found["output"] = output
    spent = {
        "tokens": (a.usage.tokens, b.usage.tokens),
        "seconds": (round(a.usage.seconds, 3), round(b.usage.seconds, 3)),
    }
    return found | {name: {"a": one, "b": other} for name, (one, other) in spent.items() if one != other}


def changes(a: JSON, b: JSON, path: str) -> list[JSON]:
    """Where two JSON values differ, at most CHANGES places."""
    found: list[JSON] = []
    for change in _changes(a, b, path):
        if len(found) == CHANGES:
            found.append({"path": path, "more": True})
            break
        found.append(change)
    return found


_MISSING = object()


def _changes(a: Any, b: Any, path: str) -> Iterator[dict[str, JSON]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _changes(a.get(key, _MISSING), b.get(key, _MISSING), f"{path}.{key}" if path else str(key))
    elif isinstance(a, list) and isinstance(b, list):
        for i in range(max(len(a), len(b))):
            one, other = a[i] if i < len(a) else _MISSING, b[i] if i < len(b) else _MISSING
            yield from _changes(one, other, f"{path}[{i}]")
    elif isinstance(a, str) and isinstance(b, str) and a != b and ("\n" in a or "\n" in b):
        yield {"path": path, "lines": unified(a, b)}
    elif type(a) is not type(b) or a != b:
        change: dict[str, JSON] = {"path": path}
        if a is not _MISSING:
            change["a"] = _cut(a)
        if b is not _MISSING:
            change["b"] = _cut(b)
        yield change


def unified(a: str, b: str) -> list[str]:
    """Two texts as `diff -u` shows them, without its two head lines."""
    lines = list(difflib.unified_diff(a.splitlines(), b.splitlines(), lineterm="", n=CONTEXT))[2:]
    return lines if len(lines) <= LINES else [*lines[:LINES], f"… {len(lines) - LINES} more lines"]


def _cut(value: JSON) -> JSON:
    """The value; of a long one its text's beginning."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return value if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _plain(value: Mapping[str, JSON] | None) -> dict[str, JSON] | None:
    return None if value is None else dict(value)


def is_same(found: Mapping[str, Any]) -> bool:
    """Whether `compare` found nothing but times."""
    end: Sequence[str] = [name for name in found["end"] if name != "seconds"]
    return bool(found["definition"]["same"]) and not (found["input"] or found["steps"] or end)
