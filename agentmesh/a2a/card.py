"""What a card says: the mesh, or one of its agents, as an A2A agent (A2A 1.0.1 section 4.4). Plain JSON in the protocol's spelling.

An agent elsewhere has a card here, too: its words and its skills, at our address, with what we can do. Nothing empty stands in a card, so
that what is sent is what is signed, but for the members by which clients of 0.3 find it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from agentmesh import __version__
from agentmesh.a2a.convert import ANSWER_EXTENSION, EXTENSION, SIGNAL_EXTENSION
from agentmesh.core.agent import IDEMPOTENCY, MODES, ROUTE, Agent, Skill

WELL_KNOWN: Final = "/.well-known/agent-card.json"
V1, V03 = "1.0", "0.3"
HTTP_BINDINGS: Final = ("JSONRPC", "HTTP+JSON")
SKILLS: Final = "urn:agentmesh:a2a:skills:1"
"""URI of the extension whose `params` say more of each skill; it stands in extended cards."""
EXTENSIONS: Final[Mapping[str, str]] = {
    EXTENSION: f"metadata[{EXTENSION!r}], or metadata['skill'], names the skill a message is for.",
    ANSWER_EXTENSION: f"metadata[{ANSWER_EXTENSION!r}] of a message to a task: {{question, digest}} of what it answers.",
    SIGNAL_EXTENSION: f"metadata[{SIGNAL_EXTENSION!r}] of a message to a task: {{name, value, key}}, a signal to it.",
    IDEMPOTENCY: "Activated: the same messageId of the same caller to the same agent is one task, however often it is sent.",
    ROUTE: f"metadata[{ROUTE!r}] of a task: which agent and skill took the message, and why.",
}
"""What this server declares, of every agent."""
SCHEMA_DEPTH: Final = 16
"""Of an input schema that a card shows: readers of protobuf's JSON stop at depths that a deeper one may reach."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where clients reach this server, and what it can do for every agent."""

    url: str
    """Without a slash at the end."""
    grpc: str = ""
    """`HOST:PORT`; empty: A2A is not served over gRPC."""
    versions: tuple[str, ...] = (V1, V03)
    push: bool = False
    required: frozenset[str] = field(default=frozenset())
    """URIs of EXTENSIONS that a client has to declare."""

    @property
    def key_set(self) -> str:
        return f"{self.url}/.well-known/jwks.json"


def card_of(agent: Agent, place: Place, name: str | None) -> Json:
    """The card of an agent as it is visible to somebody; `name` is its name in the mesh, None for the mesh itself."""
    skills = distinct(agent.skills)
    takes = _usual(skill.input_modes for skill in skills)
    gives = _usual(skill.output_modes for skill in skills)
    card: Json = {
        "name": agent.title,
        "description": agent.description or agent.title,
        "supportedInterfaces": interfaces(place, name),
        "version": agent.version or __version__,
        "capabilities": {
            "streaming": True,
            "pushNotifications": place.push,
            "extensions": _extensions(agent, place),
            "extendedAgentCard": True,
        },
        "defaultInputModes": list(takes),
        "defaultOutputModes": list(gives),
        "skills": [_skill(skill, takes, gives) for skill in skills],
        **_security(),
    }
    if agent.documentation_url:
        card["documentationUrl"] = agent.documentation_url
    return card


def extended(card: Mapping[str, Any], agent: Agent, place: Place, names: Iterable[str]) -> Json:
    """The same card with what is told to whoever asks in person: of each skill which agent has it and the schema of its input, and where
    each agent's own card is. `names`: of the agents whose skills are gathered in it.
    """
    skills = {}
    for skill in distinct(agent.skills):
        more: Json = {"agent": skill.agent} if skill.agent is not None else {}
        if skill.input_schema and _is_flat(skill.input_schema):
            more["input"] = skill.input_schema
        if more:
            skills[skill.id] = more
    params = {"skills": skills, "cards": {one: f"{address_of(place, one)}{WELL_KNOWN}" for one in names}}
    if not any(params.values()):
        return dict(card)
    said = "params: of each skill by its id, the agent that has it and the JSON Schema of its input; and each agent's own card."
    capabilities = dict(card["capabilities"])
    capabilities["extensions"] = [
        *capabilities["extensions"],
        {"uri": SKILLS, "description": said, "params": {name: value for name, value in params.items() if value}},
    ]
    return {**card, "capabilities": capabilities}


def interfaces(place: Place, name: str | None) -> list[Json]:
    """Every way to an agent, what this server likes best first.

    Over HTTP an agent has an address of its own, so that a client which leaves `tenant` out comes to the right one, and one that sets it
    does, too. Over gRPC `tenant` alone tells agents apart, and 0.3 does not have it.
    """
    url = address_of(place, name)
    tenant = {"tenant": name} if name is not None else {}
    found = [{"url": url, "protocolBinding": one, **tenant, "protocolVersion": V1} for one in HTTP_BINDINGS]
    if place.grpc:
        found.append({"url": place.grpc, "protocolBinding": "GRPC", **tenant, "protocolVersion": V1})
    if V03 not in place.versions:
        return found
    found += [{"url": url, "protocolBinding": one, "protocolVersion": V03} for one in HTTP_BINDINGS]
    if place.grpc and name is None:
        found.append({"url": place.grpc, "protocolBinding": "GRPC", "protocolVersion": V03})
    return found


def address_of(place: Place, name: str | None) -> str:
    """Where the mesh, or one of its agents, is reached over HTTP."""
    return f"{place.url}/a2a" + (f"/{quote(name, safe='')}" if name is not None else "")


def for_v03(card: Mapping[str, Any]) -> Json:
    """The members by which clients of 0.3 find the same agent in the same card, if it speaks that; those of 1.0 know them not."""
    old = [one for one in card["supportedInterfaces"] if one["protocolVersion"] == V03]
    if not old:
        return {}
    return {
        "protocolVersion": "0.3.0",
        "url": old[0]["url"],
        "preferredTransport": old[0]["protocolBinding"],
        "additionalInterfaces": [{"url": one["url"], "transport": one["protocolBinding"]} for one in old],
        "supportsAuthenticatedExtendedCard": True,
    }


def distinct(skills: Sequence[Skill]) -> Sequence[Skill]:
    """The skills, of several with one id the first: to whoever names it they are one, and the mesh chooses who does it."""
    found: dict[str, Skill] = {}
    for skill in skills:
        found.setdefault(skill.id, skill)
    return skills if len(found) == len(skills) else tuple(found.values())


def _security() -> Json:
    """`securitySchemes` and `securityRequirements`: none, since this release serves loopback only and knows no callers apart."""
    return {}


def _extensions(agent: Agent, place: Place) -> list[Json]:
    """Ours, and of an agent elsewhere those that it declares: a client that activates one activates it there."""
    declared = {uri: (description, uri in place.required) for uri, description in EXTENSIONS.items()}
    for one in agent.extensions:
        said, required = declared.get(one.uri, (one.description, False))
        declared[one.uri] = said, required or one.required
    return [
        {"uri": uri, **({"description": said} if said else {}), **({"required": True} if required else {})}
        for uri, (said, required) in declared.items()
    ]


def _usual(modes: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The modes that most skills have."""
    [(found, _)] = Counter(map(tuple, modes)).most_common(1) or [(MODES, 0)]
    return found or MODES


def _skill(skill: Skill, takes: Sequence[str], gives: Sequence[str]) -> Json:
    found: Json = {
        "id": skill.id,
        "name": skill.name or skill.id,
        "description": skill.description or skill.name or skill.id,
        "tags": _given(skill.tags) or [_kind(skill)],
    }
    if examples := _given(skill.examples):
        found["examples"] = examples
    if tuple(skill.input_modes) != takes:
        found["inputModes"] = list(skill.input_modes)
    if tuple(skill.output_modes) != gives:
        found["outputModes"] = list(skill.output_modes)
    return found


def _kind(skill: Skill) -> str:
    """What a skill is tagged with that has no tags, since it has to have some."""
    return "agent" if not skill.workflow else "tool" if skill.workflow.startswith("tool:") else "workflow"


def _given(texts: Collection[str]) -> list[str]:
    return [text for text in texts if text]


def _is_flat(schema: Any) -> bool:
    level = [schema]
    for _ in range(SCHEMA_DEPTH):
        level = [one for value in level for one in (value.values() if isinstance(value, Mapping) else value)
                 if isinstance(one, (Mapping, list))]  # fmt: skip
        if not level:
            return True
    return False
