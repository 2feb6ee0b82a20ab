"""Around: what stands beside a step's verb: retry, timeout, cache, compensate, effect, and where each belongs."""

from __future__ import annotations

from agentmesh import errors
from agentmesh.core.document import Path
from agentmesh.core.effect import writes_within
from agentmesh.core.inference import closest
from agentmesh.core.scope import Scope
from agentmesh.core.verb import VerbChecker
from agentmesh.core.workflow import VERBS, Step, Workflow, seconds

BLOCKS = ("switch", "map", "parallel", "loop")
ACTING = ("tool", "python", "http", "sql", "agent", "workflow")
"""Verbs that may change the world, and so may be undone, and may undo."""
_ASKING = (*ACTING, "llm")
_BELONGS = {
    "steps": ("map", "loop"),
    "else": ("switch",),
    "output": ("python", "http", "agent"),
    "with": ("tool", "python", "workflow", "sql"),
    "on": ("python",),
    "effect": _ASKING,
    "idempotent": ACTING,
    "retry": _ASKING,
    "cache": ("llm", "tool", "python", "http", "sql"),
    "compensate": _ASKING,
}
_BESIDE_COMPENSATION = ("with", "retry", "timeout", "effect", "idempotent", "output", "on")


def error_codes() -> list[str]:
    """Codes that an error of a step may have."""
    found: set[str] = set()
    waiting: list[type[errors.MeshError]] = [errors.MeshError]
    while waiting:
        kind = waiting.pop()
        found.add(kind.code)
        waiting += kind.__subclasses__()
    return sorted(found)


class AroundChecker(VerbChecker):
    """Checks of one step that do not depend on what its verb yields."""

    workflow: Workflow

    def one_verb(self, step: Step, path: Path) -> str | None:
        given = [v for v in VERBS if v in step.model_fields_set]
        if not given and self.damaged(path):
            return None
        if len(given) != 1:
            says = f"this has {' and '.join(given)}" if given else "this has none"
            self.fault(path, f"a step has exactly one verb ({', '.join(VERBS)}); {says}")
            return None
        verb = given[0]
        if verb != "set" and getattr(step, verb) is None:
            self.fault((*path, verb), f"{verb!r} has no value", key=True)
            return None
        return verb

    def around(self, step: Step, path: Path, verb: str | None, scope: Scope) -> None:
        """What stands beside the verb."""
        for name, verbs in _BELONGS.items():
            if self.document.get((*path, name)) is None or verb is None or verb in verbs:
                continue
            more = "; an llm's output schema stands inside `llm`" if name == "output" and verb == "llm" else ""
            if name == "retry" and verb in BLOCKS:
                more = f"; a {verb} step is not tried again: put `retry` on the steps inside"
            self.fault((*path, name), f"`{name}` belongs to {' and '.join(verbs)} steps{more}", key=True)
        self.span((*path, "timeout"))
        wait = self.document.get((*path, "wait"))
        self.span((*path, "wait") if isinstance(wait, (str, int, float)) else (*path, "wait", "for"), checked=True)
        for verb_name in ("wait", "approve"):
            self.span((*path, verb_name, "expires"), checked=True)
        self.tokens(step, path)
        if step.retry is not None:
            self.retry(step, (*path, "retry"))
        if step.cache is not None and step.cache is not True:
            self.duration((*path, "cache", "ttl"))
        if step.cache is not None and verb in _BELONGS["cache"] and writes_within(step, self.world.mesh):
            way = "say `effect: read` if it changes nothing" if step.effect is None else "leave the cache out"
            self.fault(
                (*path, "cache"), f"a step that writes is not cached: it has to be done each time; {way}", key=True
            )
        if step.idempotent is not None and verb in ACTING and not writes_within(step, self.world.mesh):
            self.fault((*path, "idempotent"), "`idempotent` belongs to a write; this step only reads", key=True)

    def retry(self, step: Step, path: Path) -> None:
        self.duration((*path, "backoff"))
        self.duration((*path, "max_backoff"))
        known = error_codes()
        for i, code in enumerate(step.retry.on or () if step.retry is not None else ()):
            if code not in known and (hint := closest(code, known)):
                self.fault((*path, "on", i), f"no error has the code {code!r}{hint}")
        if step.retry is not None and step.retry.on == ():
            self.fault((*path, "on"), "must not be empty: nothing would be tried again", key=True)

    def span(self, path: Path, *, checked: bool = False) -> None:
        """A duration, and that the run lives long enough for it. `checked`: the duration itself was looked at."""
        value = self.document.get(path)
        if value is None:
            return
        if not checked:
            self.duration(path)
            if value == 0:
                self.fault(path, "a time of 0 is over before anything can be done")
        if self.workflow.deadline is None:
            return
        try:
            if isinstance(value, (str, int, float)) and seconds(value) > seconds(self.workflow.deadline):
                message = f"{value} is longer than the run may take: its deadline is {self.workflow.deadline}"
                self.fault(path, message)
        except ValueError:
            return

    def tokens(self, step: Step, path: Path) -> None:
        """An answer that the budget cannot hold would never come."""
        budget = self.workflow.budget.tokens
        if budget is None:
            return
        asked = [((*path, "llm", "max_tokens"), step.llm.max_tokens if step.llm is not None else None)]
        for i, validator in enumerate(step.validate_):
            if validator.judge is not None and "max_tokens" in validator.judge.model_fields_set:
                asked.append(((*path, "validate", i, "judge", "max_tokens"), validator.judge.max_tokens))
        for at, wanted in asked:
            if wanted is not None and wanted > budget:
                self.fault(at, f"{wanted} is more than the run's whole budget of {budget} tokens")

    def may_compensate(self, step: Step, path: Path) -> str | None:
        """The verb of what undoes a step; None after a fault."""
        undo, at = step.compensate, (*path, "compensate")
        if undo is None or self.damaged(at):
            return None
        given = [v for v in VERBS if v in undo.model_fields_set]
        if len(given) != 1 or given[0] not in ACTING or getattr(undo, given[0]) is None:
            says = f"this has {' and '.join(given)}" if given else "this has none"
            self.fault(at, f"what undoes a step has exactly one verb of {', '.join(ACTING)}; {says}", key=True)
            return None
        for name in self.document.get(at) or {}:
            if name != given[0] and name not in _BESIDE_COMPENSATION:
                self.fault(
                    (*at, name),
                    f"`{name}` may not stand in `compensate`; {', '.join(_BESIDE_COMPENSATION)} may",
                    key=True,
                )
            elif name in _BELONGS and given[0] not in _BELONGS[name]:
                self.fault((*at, name), f"`{name}` belongs to {' and '.join(_BELONGS[name])} steps", key=True)
        self.span((*at, "timeout"))
        if undo.retry is not None:
            self.retry(undo, (*at, "retry"))
        return given[0]
