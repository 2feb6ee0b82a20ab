"""Routing: which agent takes a message.

First what is able and allowed; then the skill or the tags that are named; else the skill that the message's words fit best, and what it
means too where a model makes embeddings; and among those that do about equally well the one in the best shape (`engine.choosing`). The
same agents, in whatever order, in the same shape take the same message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskStatus

from agentmesh.core.agent import Agent, AgentHealth, Route, Sending, Skill
from agentmesh.engine.choosing import Choice, NoAgent, Ranked
from agentmesh.engine.meaning import Meanings
from agentmesh.engine.skill_index import FIRST, Entry, SkillIndex, entry_of, skills_of
from agentmesh.engine.skill_words import asked_of

__all__ = ["NoAgent", "Router"]

FLOOR: Final = (0.4, 0.24, 2.0)
"""What a skill must have for the words of a message to be for it: the first, and the second for each word, of so many at most.

Calibrated on the messages of `benchmarks/routing.py`: where the tuned half loses fewest that fit and lets none in that do not.
"""
AT_ONCE: Final = 4
"""Agents that are read on the event loop (ten skills each are a millisecond); more are read in a thread."""
LOOK: Final = 5.0
"""Seconds between looks at whether agents have changed; a message looks too."""
STRETCH: Final = 16
"""Agents that are put into the index before others get a turn."""


class Router:
    """Chooses among agents. What it knows of them is kept as long as the Agent objects stay the same."""

    def __init__(self, meanings: Meanings | None = None) -> None:
        """`meanings`: compares messages and skills by embeddings; None: by words alone."""
        self._meanings = meanings
        self._index = SkillIndex()
        self._seen: Sequence[Agent] = ()
        self._lock = anyio.Lock()

    async def run(
        self, agents: Callable[[], Sequence[Agent]], *, sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:  # fmt: skip
        """Reads agents as they come and change, and works out what their skills mean, so that messages need not wait; until cancelled."""
        async with anyio.create_task_group() as tasks:
            if self._meanings is not None:
                await tasks.start(self._meanings.run)
            task_status.started()
            while True:
                await self.read(agents())
                await sleep(LOOK)

    async def choose(
        self, sending: Sending, agents: Sequence[Agent], *, health: Callable[[str], AgentHealth],
        allowed: Callable[[Skill], bool],
    ) -> Route:  # fmt: skip
        """Who takes a message. `agents`: all of them, unless it was sent to one. `health` is asked of agents elsewhere only.

        Raises NoAgent; NotFound for a skill that is named and not there. What `allowed` refuses does not exist: it is neither chosen nor
        named, and changes nothing for what else there is.
        """
        await self.read(agents, everybody=sending.agent is None)
        among = None if sending.agent is None else {agent.name for agent in agents}
        choice = Choice(sending, health, allowed)
        ranked = await self._rank(sending, among)
        found = choice.among(ranked)
        if choice.unsure:
            ranked = await self._rank(sending, among, whole=True)
            found = choice.among(ranked)
        if not found:
            raise choice.refused(ranked, [] if among is not None else self._index.everything())
        return choice.route(found, ranked)

    async def read(self, agents: Sequence[Agent], *, everybody: bool = True) -> None:
        """Brings the index in step with the agents. Those that are the same objects as before cost nothing."""
        if len(agents) == len(self._seen) and all(new is old for new, old in zip(agents, self._seen, strict=True)):
            return
        async with self._lock:  # one of several callers reads them
            changed = self._index.changed(agents)
            if len(changed) <= AT_ONCE:
                entries = _entries_of(changed)
            else:
                entries = await anyio.to_thread.run_sync(partial(_entries_of, changed))
            gone = self._index.keep({agent.name for agent in agents}) if everybody else False
            for place, (agent, read) in enumerate(zip(changed, entries, strict=True), 1):
                self._index.put(agent, read)
                if place % STRETCH == 0:
                    await anyio.lowlevel.checkpoint()
            if everybody:
                self._seen = tuple(agents)
            if self._meanings is not None and (changed or gone):
                self._meanings.of(self._index.everything())

    async def _rank(self, sending: Sending, among: set[str] | None, *, whole: bool = False) -> Ranked:
        index = self._index
        if sending.skill is not None:
            return Ranked([(1.0, entry) for entry in _among(index.named(sending.skill), among)])
        terms = asked_of(sending.message)
        asked = {term: weight for term, (weight, _) in terms.items()}
        words = {term: word for term, (_, word) in terms.items()}
        if sending.tags:
            tags = {tag.casefold() for tag in sending.tags}
            tagged = [entry for entry in _among(index.everything(), among) if tags <= entry.tags]
            return Ranked(
                sorted(((1.0 + index.score(asked, entry), entry) for entry in tagged), key=_by_score), words=words
            )
        if not asked:
            return Ranked([(0.0, entry) for entry in _among(index.everything(), among)])
        if among is None:
            searched = index.search(asked, None if whole else FIRST)
            best, missed = searched.best, searched.missed
        else:
            alone = ((index.score(asked, entry), entry) for name in among for entry in index.of(name))
            best, missed = sorted(alone, key=_by_score), 0.0
        base, each, most = FLOOR
        ranked = Ranked(best, missed, base + each * min(sum(asked.values()), most), words)
        if self._meanings is None or not self._meanings.model or not sending.message.text.strip():
            return ranked
        meant = await self._meanings.near(sending.message.text)
        if meant.note:
            return Ranked(ranked.best, ranked.missed, ranked.floor, words, meant.note)
        return self._fused(ranked, [one for one in meant.best if among is None or one[1].agent.name in among], asked)

    def _fused(self, ranked: Ranked, meant: Sequence[tuple[float, Entry]], asked: Mapping[str, float]) -> Ranked:
        """Half by words and half by meaning, each as a part of what its best has. Who passes neither floor is not for the message."""
        top = max(ranked.best[0][0] if ranked.best else 0.0, ranked.floor)
        closest = meant[0][0] if meant else 1.0
        by_meaning = {entry.order: score / closest for score, entry in meant}
        scores = {entry.order: (score, entry) for score, entry in ranked.best}
        for _, entry in meant:
            scores.setdefault(entry.order, (self._index.score(asked, entry), entry))
        fits: list[tuple[float, Entry]] = []
        rest: list[tuple[float, Entry]] = []
        for order, (score, entry) in scores.items():
            fused = (score / top + by_meaning.get(order, 0.0)) / 2
            (fits if score >= ranked.floor or order in by_meaning else rest).append((fused, entry))
        # Those that do not fit are kept at the end, below the floor, for a rejection to name them.
        fits.sort(key=_by_score)
        floor = fits[-1][0] if fits else 1.0
        below = sorted(((min(score, floor / 2), entry) for score, entry in rest), key=_by_score)
        return Ranked([*fits, *below], ranked.missed / top / 2, floor, ranked.words)


def _entries_of(agents: Sequence[Agent]) -> list[list[Entry]]:
    return [[entry_of(agent, skill) for skill in skills_of(agent)] for agent in agents]


def _by_score(one: tuple[float, Entry]) -> tuple[float, tuple[str, str]]:
    return -round(one[0], 9), one[1].order


def _among(entries: Sequence[Entry], among: set[str] | None) -> Sequence[Entry]:
    return entries if among is None else [entry for entry in entries if entry.agent.name in among]
