"""Asked: the questions that wait for people, over all the runs that somebody may see."""

from __future__ import annotations

from dataclasses import dataclass

from agentmesh.core.policy import Principal
from agentmesh.core.question import Question
from agentmesh.core.run import Run, RunState
from agentmesh.core.store import RunFilter
from agentmesh.engine.runs import Runs
from agentmesh.errors import NotFound, PolicyDenied

LOOKED = 500
"""Runs of each state that are looked through at most, newest first."""
PAGE = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """What was found. `more`: there are runs that were not looked through."""

    questions: tuple[tuple[Run, Question], ...]
    """Heads of runs, and what they ask; oldest question first."""
    more: bool


async def open_questions(runs: Runs, principal: Principal, *, limit: int = LOOKED) -> Asked:
    """Every open question of the principal's runs.

    Runs that only a person can take further come first; one that works or waits in another branch may ask something, too.
    """
    found: list[tuple[Run, Question]] = []
    more = False
    for state in (RunState.INPUT_REQUIRED, RunState.WORKING):
        looked, cursor = 0, None
        while looked < limit:
            where = RunFilter(states=(state,), limit=min(PAGE, limit - looked), cursor=cursor)
            page = await runs.list(principal, where)
            for run in page.runs:
                try:
                    found += [(run, question) for question in await runs.questions(principal, run.id)]
                except (NotFound, PolicyDenied):
                    continue  # pruned meanwhile, or may be listed but not read
            looked += PAGE
            cursor = page.next
            if cursor is None:
                break
        more = more or cursor is not None
    return Asked(tuple(sorted(found, key=lambda one: one[1].asked_at)), more)
