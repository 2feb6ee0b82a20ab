"""Choosing: among skills in the order in which they fit a message, those that are able and allowed, and of these the one in the best shape.

It decides without I/O. What it says for a reason is read by people: on the run, in a task's metadata, in a rejection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agentmesh.core.agent import AgentHealth, Route, Sending, Skill
from agentmesh.engine.media import gives_some, mode_of, takes_all
from agentmesh.engine.skill_index import WELL, Entry
from agentmesh.errors import CallerError, NotFound

NEAR: Final = 0.95
"""Skills that have this part of the best score do about equally well: how their agents are decides among them."""
OTHERS: Final = 5
"""Other skills that a route names, and the nearest that a rejection names."""
ASKS: Final = 200
"""How many skills policies are asked about, to name the nearest."""
OURS: Final = "urn:agentmesh:a2a:"
"""What the mesh's own extensions begin with: the client of agents elsewhere activates those itself."""
DOWN: Final = 2
SHAPE: Final = (
    "is up",
    "has the least to do",
    "answers soonest",
    "costs least",
    "fits a little better",
    "comes first by name",
)
"""What may decide among those that do about equally well, in this order."""


class NoAgent(CallerError):
    """No agent fits the message. `data.nearest`: {agent, skill} of those that come nearest."""

    code = "no_agent"


@dataclass(frozen=True, slots=True)
class Ranked:
    """Skills in the order in which they fit, and how that was found out."""

    best: Sequence[tuple[float, Entry]]
    missed: float = 0.0
    """A skill that is not among them has at most this score."""
    floor: float = 0.0
    """Below it a skill is not for the message."""
    words: Mapping[str, str] = field(default_factory=dict)
    """The terms of the message that were looked for, as they were written."""
    note: str = ""
    """What was not as it is set up, for the reason."""


class Choice:
    """One choice. `unsure` after `among`: skills that are not among the ranked may have to be looked at too."""

    def __init__(
        self, sending: Sending, health: Callable[[str], AgentHealth], allowed: Callable[[Skill], bool]
    ) -> None:
        self._sending = sending
        self._modes = tuple(dict.fromkeys(mode_of(part) for part in sending.message.parts))
        self._health = health
        self._allowed = allowed
        self._asked: dict[tuple[str, str], bool] = {}
        self._shapes: dict[tuple[str, str], tuple[int, int, int, float]] = {}
        self.unsure = False

    def among(self, ranked: Ranked) -> list[tuple[float, Entry]]:
        """Who may take it, the best first, and at most `OTHERS` more; nobody, when none fits."""
        if self._sending.skill is None and not self._sending.tags and not ranked.words:
            return self._only(ranked)
        best = 0.0
        able: list[tuple[float, Entry]] = []
        for score, entry in ranked.best:
            if score < ranked.floor or score < best * WELL:
                break
            if self._missing(entry) or (not able and not self._may(entry)):
                continue
            best = best or score
            able.append((score, entry))
        up = [one for one in able if self._shape(one[1])[0] < DOWN]
        down = [one for one in able if self._shape(one[1])[0] >= DOWN]
        unseen = max(ranked.floor, best * (NEAR if up else WELL))
        self.unsure = 0.0 < ranked.missed >= unseen
        return self._first([*self._ordered(up), *self._ordered(down)])

    def _only(self, ranked: Ranked) -> list[tuple[float, Entry]]:
        """A message without words is for whoever is the only one that can take it."""
        able: list[tuple[float, Entry]] = []
        for one in ranked.best:
            if not self._missing(one[1]) and self._may(one[1]):
                able.append(one)
                if len(able) > 1:
                    return []
        return able

    def _ordered(self, those: list[tuple[float, Entry]]) -> list[tuple[float, Entry]]:
        """Those about as good as the best that is allowed by the shape they are in, the rest by how well they fit."""
        start = next((at for at, (_, entry) in enumerate(those) if self._may(entry)), len(those))
        those = those[start:]
        if not those:
            return []
        least = those[0][0] * NEAR
        near = [one for one in those if one[0] >= least]
        return [*sorted(near, key=self._order), *those[len(near) :]]

    def _first(self, those: Iterable[tuple[float, Entry]]) -> list[tuple[float, Entry]]:
        found: list[tuple[float, Entry]] = []
        for score, entry in those:
            if found and found[0][1].agent.peer and not entry.agent.peer:
                continue  # what was taken for elsewhere is not done here instead
            if self._may(entry):
                found.append((score, entry))
                if len(found) > OTHERS:
                    break
        return found

    def _order(self, one: tuple[float, Entry]) -> tuple[tuple[int, int, int, float], float, tuple[str, str]]:
        return self._shape(one[1]), -round(one[0], 9), one[1].order

    def _shape(self, entry: Entry) -> tuple[int, int, int, float]:
        """How an agent is: (up, unknown or down; work; latency; price), in steps: 3 messages are about as many as 2, 80 ms as 70."""
        found = self._shapes.get(entry.order)
        if found is None:
            health = self._health(entry.agent.name) if entry.agent.peer else AgentHealth()
            latency = int(health.latency * 50).bit_length()
            state = 0 if health.state == "up" else DOWN if health.state == "down" else 1
            found = state, health.busy.bit_length(), latency, entry.agent.price or 0.0
            self._shapes[entry.order] = found
        return found

    def _may(self, entry: Entry) -> bool:
        may = self._asked.get(entry.order)
        if may is None:
            may = self._asked[entry.order] = self._allowed(entry.skill)
        return may

    def _missing(self, entry: Entry) -> str:
        """What keeps a skill from taking the message; empty: nothing."""
        agent, skill = entry.agent, entry.skill
        if not takes_all(self._modes, skill.input_modes):
            return f"takes {_some(skill.input_modes)}, not {_some(self._modes)}"
        if not gives_some(self._sending.accepted, skill.output_modes):
            return f"answers {_some(skill.output_modes)}, not {_some(self._sending.accepted)}"
        if self._sending.streaming and not agent.streaming:
            return "does not stream"
        for extension in agent.extensions:
            if (
                extension.required
                and not extension.uri.startswith(OURS)
                and extension.uri not in self._sending.extensions
            ):
                return f"requires extension {extension.uri}"
        return ""

    def _near(self, those: Sequence[Entry]) -> list[Entry]:
        """The first of those that the caller may know of."""
        found: list[Entry] = []
        for entry in those[:ASKS]:
            if self._may(entry):
                found.append(entry)
                if len(found) == OTHERS:
                    break
        return found

    # Saying it

    def route(self, found: Sequence[tuple[float, Entry]], ranked: Ranked) -> Route:
        """What is recorded of the choice."""
        (score, entry), rest = found[0], found[1:]
        reason = self._why(found, ranked)
        if self._shape(entry)[0] >= DOWN:
            detail = self._health(entry.agent.name).detail.rstrip(".")
            reason += f"; {entry.agent.name} is down now{f' ({detail})' if detail else ''}, and nothing else fits"
        if ranked.note:
            reason += f"; {ranked.note}"
        return Route(_agent(entry), entry.skill.id or None, reason, max(score, 0.001), tuple(
            (_agent(other), other.skill.id or None) for _, other in rest
        ))  # fmt: skip

    def _why(self, found: Sequence[tuple[float, Entry]], ranked: Ranked) -> str:
        (score, entry), rest = found[0], found[1:]
        what = _named(entry)
        if self._sending.skill is not None:
            said = f"skill {self._sending.skill!r} was named"
        elif self._sending.tags:
            said = f"{what} has {'the tag' if len(self._sending.tags) == 1 else 'the tags'} {_some(self._sending.tags)}"
        elif not ranked.words:
            return f"{what} is the only one that takes {_some(self._modes)}"
        else:
            hits = sorted(
                (-entry.terms.get(term, 0.0), word) for term, word in ranked.words.items() if term in entry.terms
            )
            about = f" ({', '.join(word for _, word in hits[:4])})" if hits else " by its meaning"
            said = f"the message fits {what} best{about}, score {score:.2f}"
        if not rest:
            return said + (f", and only {_of(entry)} has it" if self._sending.skill is not None else "")
        second_score, second = rest[0]
        near = second_score >= score * NEAR and (second_score <= score or score >= second_score * NEAR)
        if not near or (self._shape(entry)[0] < DOWN <= self._shape(second)[0]):
            tail = f"next: {_named(second)}, {second_score:.2f}"
            if self._shape(second)[0] >= DOWN:
                tail = f"{_named(second)} is down"
            return f"{said} ({tail})"
        mine, others = self._order((score, entry)), self._order((second_score, second))
        pairs = zip((*mine[0], mine[1], mine[2]), (*others[0], others[1], others[2]), strict=True)
        decided = next(at for at, (own, other) in enumerate(pairs) if own != other)
        return f"{said}; of {len(rest) + 1} about as good {_of(entry)} {SHAPE[decided]} (next: {_named(second)})"

    def refused(self, ranked: Ranked, everything: Sequence[Entry]) -> CallerError:
        """Why nobody takes it, with the nearest that the caller may know of."""
        named = self._sending.skill
        met = near = self._near([entry for _, entry in ranked.best])
        if named is None and not near:
            near = self._near(everything)
        if named is not None and not near:
            return NotFound(f"there is no skill {named!r}")
        why = {entry.order: self._missing(entry) or "its words do not fit" for entry in near}
        if named is not None:
            told = f"skill {named!r} is there, but nobody who has it can take the message"
        elif self._sending.tags and not met:
            told = f"no skill has the tags {_some(self._sending.tags)}"
            why = dict.fromkeys(why, "other tags")
        elif not ranked.words and not self._sending.tags:
            several = not all(map(self._missing, near))
            told = "the message has no words to choose an agent by, and "
            told += "several could take it; name a skill" if several else "nobody can take it"
            why = {order: text if text != "its words do not fit" else "could take it" for order, text in why.items()}
        else:
            told = "no agent fits the message"
        nearest = "; nearest: " + ", ".join(f"{_named(one)} ({why[one.order]})" for one in near) if near else ""
        return NoAgent(
            told + nearest, nearest=[{"agent": _agent(one), "skill": one.skill.id or None} for one in near]
        )  # fmt: skip


def _agent(entry: Entry) -> str | None:
    return entry.agent.name if entry.agent.peer else entry.skill.agent


def _of(entry: Entry) -> str:
    return entry.agent.name


def _named(entry: Entry) -> str:
    agent = _agent(entry)
    if not entry.skill.id:
        return str(agent)
    return f"{entry.skill.id!r}" + (f" of {agent}" if agent is not None else "")


def _some(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (", ..." if len(texts) > 3 else "")
