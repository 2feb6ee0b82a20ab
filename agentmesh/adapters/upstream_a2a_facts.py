"""What a card says, in the nouns of the core: the agent and its skills, and each skill as the definition of a tool."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from a2a.client.card_resolver import parse_agent_card
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseError

from agentmesh.adapters.upstream_a2a_client import Interface
from agentmesh.core.agent import MODES, Agent, Extension, Json, Skill
from agentmesh.errors import Fail

MAX_SKILLS: Final = 500
WORDS: Final = 4000
"""Characters of a skill's description, and of the agent's."""
_ILLEGAL = re.compile(r"[^A-Za-z0-9_.-]+")
Signed = Literal["", "verified", "unsigned", "unknown key"]


def card_of(card: Json) -> pb.AgentCard:
    """The SDK's card, of either version. Fail when it is none."""
    try:
        found = parse_agent_card(copy.deepcopy(dict(card)))
    except (ParseError, TypeError, AttributeError, KeyError, ValueError, RecursionError) as error:
        raise Fail(f"what is there is no agent card: {str(error)[:300]}") from None
    if not found.name and not found.supported_interfaces:
        raise Fail("what is there is no agent card: it has neither a name nor an interface")
    return found


def tool_name(peer: str, skill: str) -> str:
    """A skill as a tool's name: legal, and short enough with the peer's before it."""
    most = 63 - len(peer)
    legal = _ILLEGAL.sub("_", skill).strip("_.") or "skill"
    if legal != skill or len(legal) > most:
        legal = f"{legal[: most - 7]}_{hashlib.sha256(skill.encode()).hexdigest()[:6]}"
    return f"{peer}.{legal}"


def skills_of(peer: str, card: pb.AgentCard) -> dict[str, Skill]:
    """Its skills by the name of the tool that each is; of two with one name the first."""
    found: dict[str, Skill] = {}
    for skill in list(card.skills)[:MAX_SKILLS]:
        name = tool_name(peer, skill.id)
        takes = list(skill.input_modes) or list(card.default_input_modes) or list(MODES)
        gives = list(skill.output_modes) or list(card.default_output_modes) or list(MODES)
        tool = name if _input(takes) is not None else ""
        found.setdefault(name, Skill(
            id=skill.id, name=skill.name or skill.id, description=(skill.description.strip() or skill.name)[:WORDS], workflow="",
            tags=tuple(skill.tags[:50]), examples=tuple(skill.examples[:20]), agent=peer, input_modes=tuple(takes[:50]),
            output_modes=tuple(gives[:50]), tool=tool,
        ))  # fmt: skip
    return found


def definition_of(skill: Skill, where: str) -> dict[str, Any]:
    """A skill as a tool's definition, for operators to agree to; without `inputSchema` when it is none: it takes files only."""
    words = [skill.description]
    if skill.examples:
        words.append("For example: " + "; ".join(skill.examples[:5]))
    found: dict[str, Any] = {
        "name": skill.id, "title": skill.name, "description": "\n\n".join(words)[:WORDS],
        "annotations": {"readOnlyHint": False, "openWorldHint": True}, "request": {"url": where},
    }  # fmt: skip
    schema = _input(skill.input_modes)
    return found if schema is None else {**found, "inputSchema": schema}


def agent_of(
    peer: str, card: pb.AgentCard, interfaces: Sequence[Interface], skills: Sequence[Skill], *, signed: Signed,
    price: float | None,
) -> Agent:  # fmt: skip
    """The agent as callers of this mesh see it. `interfaces`: the one that is spoken to first."""
    can = card.capabilities
    return Agent(
        name=peer, title=card.name or peer, description=card.description.strip()[:WORDS], skills=tuple(skills), version=card.version,
        peer=True, streaming=can.streaming, push=can.push_notifications, extended_card=can.extended_agent_card,
        extensions=tuple(Extension(one.uri, one.description[:500], one.required) for one in list(can.extensions)[:50]),
        speaks=tuple(dict.fromkeys(one.title for one in interfaces if not one.why_not)), signed=signed, price=price,
        documentation_url=card.documentation_url, provider=card.provider.organization,
    )  # fmt: skip


def _input(modes: Sequence[str]) -> dict[str, Any] | None:
    """The input of a skill by what it takes; None when that is neither text nor JSON."""
    plain = [mode.partition(";")[0].strip().lower() for mode in modes]
    text = any(mode.startswith("text") or mode == "*/*" for mode in plain)
    data = any(mode.endswith("json") or mode in {"*/*", "application/*", "data"} for mode in plain)
    if not text and not data:
        return None
    properties: dict[str, Any] = {}
    if text:
        properties["message"] = {"type": "string", "description": "What the agent is asked, in words."}
    if data:
        properties["data"] = {"type": "object", "description": "Data for the agent, as an object."}
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if len(properties) == 1:
        found["required"] = list(properties)
    else:
        found["minProperties"] = 1
    return found


def as_approved(skill: Skill, approved: Mapping[str, Any]) -> Skill:
    """A skill in the words that an operator has agreed to, while others wait."""
    return replace(
        skill, name=str(approved.get("title") or skill.name), description=str(approved.get("description") or ""), examples=(),
    )  # fmt: skip
