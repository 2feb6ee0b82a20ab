"""Skill index: the skills of agents by the words that they say of themselves.

BM25 over fields, as in `engine.search`, but what a word counts does not depend on who else has it: another agent then never changes
how two others compare, nobody learns from an order what they may not see, and one floor holds for a mesh of two skills and of ten
thousand. Words that everybody uses count less by a table (`engine.skill_words`); on the messages of `benchmarks/routing.py` rarity
among the skills there are found no more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Final

from agentmesh.core.agent import Agent, Skill
from agentmesh.engine.skill_words import LIKE, SAME, said

AGENT, NAME, TAG, DESCRIPTION, EXAMPLE, ABOUT = range(6)
WEIGHTS: Final = (1.0, 5.0, 3.0, 2.5, 2.0, 0.3)
"""Of the fields: a skill's own name says most; ABOUT, what the agent says of itself, is shared by all of its skills."""
EVENNESS: Final = (0.0, 0.4, 0.3, 0.3, 0.3, 0.3)
"""By how much a word counts less in a field that is longer than usual (BM25's `b`)."""
USUAL: Final = (2.0, 4.0, 3.0, 9.0, 8.0, 10.0)
"""Words of a field in the 126 skills of `benchmarks/routing_agents.yaml`."""
SATURATION: Final = 1.2
"""How soon more of the same word adds nothing (BM25's `k1`)."""
WELL: Final = 0.7
"""A skill does as well as the best when it has this part of its score."""
FIRST: Final = 64
"""Skills that a search brings, unless more are wanted."""
EXAMPLES: Final = 20
TAGS: Final = 50
"""Examples and tags that are read of a skill."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One skill as the index knows it."""

    agent: Agent
    skill: Skill
    terms: Mapping[str, float]
    """What it has to say for a term, from 0 to 1."""
    tags: frozenset[str]
    order: tuple[str, str]
    """By which skills that are equal in everything are told apart."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search brings."""

    best: Sequence[tuple[float, Entry]]
    """Highest score first, then by name."""
    missed: float
    """A skill that is not among them has at most this score."""


def skills_of(agent: Agent) -> Sequence[Skill]:
    """The skills of an agent. An agent elsewhere whose card names none is one itself, without an id."""
    if agent.skills or not agent.peer:
        return agent.skills
    return (Skill("", agent.title, agent.description, "", agent=agent.name),)


def entry_of(agent: Agent, skill: Skill) -> Entry:
    """Reads a skill; 0.1 ms for a usual one."""
    named = skill.agent is not None
    fields = (
        dict.fromkeys(said(f"{agent.name} {agent.title}"), 1) if named else {},
        dict.fromkeys(said(f"{skill.id} {skill.name}"), 1),
        _counted(said(" ".join(skill.tags[:TAGS]))),
        _counted(said(skill.description)),
        _counted(said("\n".join(skill.examples[:EXAMPLES]))),
        _counted(said(agent.description)) if named and agent.peer else {},
    )
    weighed: dict[str, float] = {}
    for weight, evenness, usual, counts in zip(WEIGHTS, EVENNESS, USUAL, fields, strict=True):
        length = 1 - evenness + evenness * sum(counts.values()) / usual
        for term, count in counts.items():
            weighed[term] = weighed.get(term, 0.0) + weight * count / length
    terms = {term: weight / (SATURATION + weight) for term, weight in weighed.items()}
    return Entry(
        agent, skill, terms, frozenset(tag.casefold() for tag in skill.tags), (agent.name if named else "", skill.id)
    )


def _counted(terms: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for term in terms:
        found[term] = found.get(term, 0) + 1
    return found


class SkillIndex:
    """The skills of agents, agent by agent: what changes costs only its own agent."""

    def __init__(self) -> None:
        self._agents: dict[str, tuple[Agent, tuple[int, ...]]] = {}
        self._entries: list[Entry | None] = []
        self._free: list[int] = []
        self._postings: dict[str, dict[int, float]] = {}
        self._by_id: dict[str, dict[int, None]] = {}
        self._everything: list[Entry] | None = None

    def __len__(self) -> int:
        return len(self._entries) - len(self._free)

    def changed(self, agents: Sequence[Agent]) -> list[Agent]:
        """Those among the agents that are not in the index as they are."""
        known = self._agents
        return [agent for agent in agents if (here := known.get(agent.name)) is None or here[0] is not agent]

    def keep(self, names: Collection[str]) -> bool:
        """Forgets all other agents; whether there were any."""
        others = [name for name in self._agents if name not in names]
        for name in others:
            self._forget(name)
        return bool(others)

    def put(self, agent: Agent, entries: Sequence[Entry]) -> None:
        """An agent as it is now, by `entry_of` each of its skills."""
        self._forget(agent.name)
        slots = []
        for entry in entries:
            if self._free:
                slot = self._free.pop()
                self._entries[slot] = entry
            else:
                slot = len(self._entries)
                self._entries.append(entry)
            slots.append(slot)
            self._by_id.setdefault(entry.skill.id, {})[slot] = None
            for term, part in entry.terms.items():
                self._postings.setdefault(term, {})[slot] = part
        self._agents[agent.name] = agent, tuple(slots)

    def _forget(self, name: str) -> None:
        _, slots = self._agents.pop(name, (None, ()))
        self._everything = None
        for slot in slots:
            entry = self._entries[slot]
            assert entry is not None
            for table, keys in ((self._postings, entry.terms), (self._by_id, (entry.skill.id,))):
                for key in keys:
                    del table[key][slot]
                    if not table[key]:
                        del table[key]
            self._entries[slot] = None
            self._free.append(slot)

    def of(self, name: str) -> list[Entry]:
        """The skills of one agent."""
        _, slots = self._agents.get(name, (None, ()))
        return [entry for slot in slots if (entry := self._entries[slot]) is not None]

    def named(self, skill: str) -> list[Entry]:
        """The skills with this id, by agent."""
        found = [entry for slot in self._by_id.get(skill, ()) if (entry := self._entries[slot]) is not None]
        return sorted(found, key=lambda entry: entry.order)

    def everything(self) -> list[Entry]:
        """All skills, by agent and id."""
        if self._everything is None:
            self._everything = sorted(filter(None, self._entries), key=lambda entry: entry.order)
        return self._everything

    def score(self, asked: Mapping[str, float], entry: Entry) -> float:
        """What one skill has for the terms."""
        has = entry.terms
        return sum(
            weight * max([has.get(term, 0.0), *(LIKE * has[like] for like in SAME.get(term, ()) if like in has)])
            for term, weight in asked.items()
        )

    def search(self, asked: Mapping[str, float], first: int | None = FIRST) -> Found:
        """The skills that have most for the terms (what each counts). `first`: how many; None: all that have anything.

        Not all are scored to the end: once those that have not been met cannot come near the best any more, only the others are.
        """
        parts = sorted(
            ((weight, variants) for term, weight in asked.items() if (variants := self._variants(term))),
            key=lambda part: (-part[0] * part[1][0][0], sum(len(posting) for _, posting in part[1])),
        )
        left = sum(weight for weight, _ in parts)
        missed = 0.0
        total: dict[int, float] = {}
        for weight, variants in parts:
            left -= weight
            if missed:
                self._add_to_known(total, weight, variants)
                continue
            self._add(total, weight, variants)
            if first is not None and len(total) > first and left and (top := max(total.values())) * WELL > left:
                missed = top * WELL
                least = missed - left
                total = {slot: score for slot, score in total.items() if score >= least}
        if first is not None and len(total) > first:
            least = nlargest(first, total.values())[-1]
            missed = max(missed, least)
            total = {slot: score for slot, score in total.items() if score >= least}
        found = [(score, entry) for slot, score in total.items() if (entry := self._entries[slot]) is not None]
        found.sort(key=lambda one: (-round(one[0], 9), one[1].order))
        return Found(found, missed)

    def _variants(self, term: str) -> list[tuple[float, dict[int, float]]]:
        """What is read for a term: (what it counts, who has it)."""
        found = [(1.0, posting)] if (posting := self._postings.get(term)) is not None else []
        return found + [(LIKE, there) for like in SAME.get(term, ()) if (there := self._postings.get(like)) is not None]

    @staticmethod
    def _add(total: dict[int, float], weight: float, variants: Sequence[tuple[float, dict[int, float]]]) -> None:
        if len(variants) == 1:
            best: dict[int, float] = variants[0][1]
            weight *= variants[0][0]
        else:
            best = {}
            for counts, posting in variants:
                for slot, part in posting.items():
                    if (score := counts * part) > best.get(slot, 0.0):
                        best[slot] = score
        for slot, part in best.items():
            total[slot] = total.get(slot, 0.0) + weight * part

    @staticmethod
    def _add_to_known(
        total: dict[int, float], weight: float, variants: Sequence[tuple[float, dict[int, float]]]
    ) -> None:
        for slot in total:
            has = max(counts * posting.get(slot, 0.0) for counts, posting in variants)
            if has:
                total[slot] += weight * has
