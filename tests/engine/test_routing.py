"""Which agent takes a message: a table of rules as users read them, and what must hold for any agents."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmesh.core.agent import Agent, AgentHealth, Extension, Message, Part, Route, Sending, Skill
from agentmesh.core.policy import PolicyFile
from agentmesh.core.run import RunState
from agentmesh.engine.choosing import NoAgent
from agentmesh.engine.routing import Router
from agentmesh.errors import NotFound
from tests.engine.meshes import LOCAL, serving, workflow
from tests.engine.meshes import mesh as mesh_of

pytestmark = pytest.mark.anyio
UP = AgentHealth()


def skill(id: str, description: str = "", **more) -> Skill:
    return Skill(id, id.replace("-", " "), description, more.pop("workflow", ""), **more)


def peer(name: str, *skills: Skill, **more) -> Agent:
    own = tuple(
        Skill(
            s.id,
            s.name,
            s.description,
            s.workflow,
            s.tags,
            s.examples,
            s.input_schema,
            name,
            s.input_modes,
            s.output_modes,
        )
        for s in skills
    )
    return Agent(name, name, more.pop("description", ""), own, peer=True, **more)


def mesh(*skills: Skill) -> Agent:
    return Agent("acme", "acme", "The acme mesh", skills)


def text(words: str, *parts: Part, **more) -> Sending:
    said = [Part(text=words)] if words else []
    return Sending(Message("m1", "user", [*said, *parts]), **more)


async def route(
    sending: Sending, agents: Sequence[Agent], health: Mapping[str, AgentHealth] | None = None,
    allowed: Callable[[Skill], bool] = lambda _: True,
) -> Route:  # fmt: skip
    return await Router().choose(sending, agents, health=lambda name: (health or {}).get(name, UP), allowed=allowed)


REFUND = skill("issue-refund", "Gives a customer their money back for an order.", tags=("payments", "refunds"))
INVOICE = skill("explain-invoice", "Says what each position of an invoice is.", tags=("payments",))
TRACK = skill("track-parcel", "Tells where a shipment is now.", tags=("delivery",))
SCAN = skill("read-scan", "Reads scanned pages.", input_modes=("image/png",), output_modes=("text/csv",))
BILLING, POST, OCR = peer("billing", REFUND, INVOICE), peer("post", TRACK), peer("ocr", SCAN)
ALL = (mesh(skill("triage", "Sorts tickets of support by urgency.", workflow="triage")), BILLING, POST, OCR)
PNG, CSV = Part(raw="AA==", media_type="image/png"), Part(raw="AA==", media_type="text/csv")

TABLE = [
    # what is sent, who takes it, what the reason says
    (
        text("Please give me my money back for order 12"),
        "billing",
        "issue-refund",
        "fits 'issue-refund' of billing best",
    ),
    (text("where is my shipment"), "post", "track-parcel", "shipment"),
    (text("this ticket for support is of which urgency?"), None, "triage", "fits 'triage' best"),
    (
        text("where is my shipment", skill="explain-invoice"),
        "billing",
        "explain-invoice",
        "skill 'explain-invoice' was named",
    ),
    (text("", tags=("delivery",)), "post", "track-parcel", "has the tag delivery"),
    (text("my money back please", tags=("Payments",)), "billing", "issue-refund", "has the tag Payments"),
    (text("", tags=("payments", "refunds")), "billing", "issue-refund", "has the tags payments, refunds"),
    (text("", PNG), "ocr", "read-scan", "is the only one that takes image/png"),
    (text("", Part(data={"order": 7, "reason": "money back to the customer"})), "billing", "issue-refund", "customer"),
    (text("where is my shipment", accepted=("text/plain",)), "post", "track-parcel", "shipment"),
]


@pytest.mark.parametrize(("sending", "agent", "wanted", "says"), TABLE)
async def test_rules_say_who_takes_a_message(sending, agent, wanted, says):
    """The rules in the order in which the documentation has them."""
    found = await route(sending, ALL)
    assert (found.agent, found.skill) == (agent, wanted)
    assert says in found.reason
    assert "\n" not in found.reason


REFUSED = [
    (text("Tell me a joke about penguins"), "its words do not fit"),
    (text("my money back", accepted=("image/png",)), "answers text/plain, application/json, not image/png"),
    (text("my money back", CSV, PNG), "takes text/plain, application/json, not text/plain, text/csv, image/png"),
    (text("", skill="issue-refund", accepted=("image/png",)), "nobody who has it can take the message"),
    (text("", tags=("cooking",)), "no skill has the tags cooking"),
    (text("", Part(data=7)), "name a skill"),
    (text("12 34 !"), "name a skill"),
    (text("", Part(raw="AA==", media_type="audio/wav")), "nobody can take it"),
]


@pytest.mark.parametrize(("sending", "says"), REFUSED)
async def test_what_nobody_can_take_is_refused_with_the_nearest(sending, says):
    """The message names them and what keeps each out; `data.nearest` is for machines."""
    with pytest.raises(NoAgent) as refused:
        await route(sending, ALL)
    assert says in refused.value.message
    nearest = refused.value.data["nearest"]
    assert 0 < len(nearest) <= 5
    assert all(repr(one["skill"]) in refused.value.message for one in nearest)


async def test_a_skill_that_is_nowhere_is_not_found():
    """Like one that the caller may not use."""
    with pytest.raises(NotFound):
        await route(text("", skill="bake-bread"), ALL)
    with pytest.raises(NotFound):
        await route(text("", skill="issue-refund"), ALL, allowed=lambda s: s.id != "issue-refund")


async def test_what_is_not_allowed_does_not_exist():
    """It is neither chosen, nor among the others, nor among the nearest."""

    def may(one: Skill) -> bool:
        return one.id != "issue-refund"

    with pytest.raises(NoAgent) as refused:
        await route(text("money back"), ALL, allowed=may)
    assert "issue-refund" not in refused.value.message
    assert {"agent": "billing", "skill": "issue-refund"} not in refused.value.data["nearest"]
    with pytest.raises(NoAgent, match="no skill has the tags refunds"):
        await route(text("", tags=("refunds",)), ALL, allowed=may)
    with pytest.raises(NoAgent) as nothing:
        await route(text("money back"), ALL, allowed=lambda _: False)
    assert nothing.value.data["nearest"] == []


async def test_policies_are_asked_only_about_what_is_about_to_be_chosen():
    """Of many agents that do not fit none is asked about."""
    asked: list[str] = []
    others = [peer(f"p{i}", skill(f"chore-{i}", "Waters plants in the office.")) for i in range(50)]
    found = await route(text("give me my money back"), [*ALL, *others], allowed=lambda s: not asked.append(s.id))
    assert found.skill == "issue-refund"
    assert asked == ["issue-refund"]


def desks(*names: str, **more) -> list[Agent]:
    return [peer(name, REFUND, **more) for name in names]


async def test_of_equals_the_one_in_the_best_shape_takes_it():
    """Down goes last, then unknown, work, latency, price, name."""
    asking = text("", skill="issue-refund")
    a, b = desks("a", "b")
    cases = [
        ({}, "a", "comes first by name"),
        ({"a": AgentHealth("down", "refused")}, "b", "'issue-refund' of a is down"),
        ({"a": AgentHealth("unknown")}, "b", "is up"),
        ({"a": AgentHealth(busy=5)}, "b", "has the least to do"),
        ({"a": AgentHealth(latency=2.0), "b": AgentHealth(latency=0.1)}, "b", "answers soonest"),
        ({"a": AgentHealth(latency=0.101), "b": AgentHealth(latency=0.1)}, "a", "comes first by name"),
        ({"a": AgentHealth(busy=3), "b": AgentHealth(busy=2)}, "a", "comes first by name"),
    ]
    for health, who, says in cases:
        found = await route(asking, [a, b], health)
        assert (found.agent, says in found.reason) == (who, True), (health, found.reason)
        assert found.others == (("b" if who == "a" else "a", "issue-refund"),)
    cheap = await route(asking, [*desks("a", price=2.0), *desks("b", price=0.5)])
    assert cheap.agent == "b"
    assert "costs least" in cheap.reason


async def test_who_is_down_takes_it_when_nobody_else_can():
    """The reason says so, and why it is down."""
    found = await route(text("money back"), ALL, {"billing": AgentHealth("down", "connection refused.")})
    assert found.agent == "billing"
    assert "billing is down now (connection refused), and nothing else fits" in found.reason


async def test_work_done_elsewhere_goes_on_elsewhere():
    """Other candidates of a peer's skill are peers."""
    own = mesh(skill("issue-refund", REFUND.description, tags=REFUND.tags, workflow="refund"))
    found = await route(text("", skill="issue-refund"), [own, *desks("a", "b")], {"a": AgentHealth(busy=1)})
    assert (found.agent, found.others) == (None, (("b", "issue-refund"), ("a", "issue-refund")))
    may = await route(text("", skill="issue-refund"), [own, *desks("a", "b")], allowed=lambda s: s.agent is not None)
    assert (may.agent, may.others) == ("a", (("b", "issue-refund"),))


async def test_streaming_and_required_extensions_are_for_those_that_can():
    """The mesh's own extensions are activated by its client of peers."""
    deaf, odd = (
        peer("deaf", REFUND, streaming=False),
        peer("odd", REFUND, extensions=(Extension("urn:x", required=True),)),
    )
    ours = peer("ours", REFUND, extensions=(Extension("urn:agentmesh:a2a:skill:1", required=True),))
    asking = "give me my money back"
    assert (await route(text(asking), [deaf, odd])).agent == "deaf"
    assert (await route(text(asking, extensions=("urn:x",)), [odd])).agent == "odd"
    assert (await route(text(asking, streaming=True), [deaf, ours])).agent == "ours"
    with pytest.raises(NoAgent, match=r"does not stream.*requires extension urn:x"):
        await route(text(asking, streaming=True), [deaf, odd])


async def test_one_agent_is_asked_for_its_own_skills_only():
    """And the index of all is not lost by it."""
    router = Router()

    async def ask(sending: Sending, agents: Sequence[Agent]) -> Route:
        return await router.choose(sending, agents, health=lambda _: UP, allowed=lambda _: True)

    assert (await ask(text("where is my shipment"), ALL)).agent == "post"
    assert (
        await ask(text("what is this position of the invoice", agent="billing"), [BILLING])
    ).skill == "explain-invoice"
    with pytest.raises(NoAgent):
        await ask(text("where is my shipment", agent="billing"), [BILLING])
    assert (await ask(text("where is my shipment"), ALL)).agent == "post"


async def test_an_agent_without_skills_is_one_itself():
    """What it does is left to it."""
    found = await route(
        text("translate this into Polish"), [*ALL, peer("lingua", description="Translates texts into Polish")]
    )
    with_title = Agent("lingua", "Translator", "Translates texts into Polish and Czech", peer=True)
    found = await route(text("translate this into Polish"), [*ALL, with_title])
    assert (found.agent, found.skill) == ("lingua", None)


async def test_a_card_that_changes_costs_only_its_own_agent():
    """New words are found at once, old ones are forgotten, and so are agents that have gone."""
    router = Router()

    async def ask(words: str, agents: Sequence[Agent]) -> str | None:
        return (await router.choose(text(words), agents, health=lambda _: UP, allowed=lambda _: True)).agent

    assert await ask("where is my shipment", ALL) == "post"
    moved = peer("post", skill("rent-van", "Rents vans by the hour."))
    now = (ALL[0], BILLING, moved, OCR)
    assert await ask("I want to rent a van", now) == "post"
    with pytest.raises(NoAgent):
        await ask("where is my shipment", now)
    with pytest.raises(NoAgent):
        await ask("I want to rent a van", ALL[:2])


async def test_many_choose_at_once_while_agents_change():
    """The index is read once, by one of them, and nobody sees half of it."""
    router = Router()
    many = [peer(f"p{i}", skill(f"paint-{i}", f"Paints walls in colour number{i}.")) for i in range(60)]
    got: list[str | None] = []

    async def ask(agents: Sequence[Agent]) -> None:
        found = await router.choose(text("give me my money back"), agents, health=lambda _: UP, allowed=lambda _: True)
        got.append(found.agent)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for i in range(20):
                tasks.start_soon(ask, [*ALL, *many[i:]])
    assert got == ["billing"] * 20


# What holds for any agents

VOCABULARY = "refund invoice parcel translate menu contract laptop flight visa chart forecast audit report email paint"
WORDS = st.sampled_from(VOCABULARY.split())
PHRASE = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)
MODES = st.sampled_from([("text/plain",), ("text/plain", "image/png"), ("application/json",)])
AGENTS = st.dictionaries(
    st.sampled_from([f"agent{i}" for i in range(12)]),
    st.lists(st.tuples(PHRASE, PHRASE, MODES), min_size=1, max_size=3, unique_by=lambda one: one[0]),
    min_size=1, max_size=8,
)  # fmt: skip
HEALTH = st.sampled_from(
    [UP, AgentHealth("down", "x"), AgentHealth("unknown"), AgentHealth(busy=3), AgentHealth(latency=1.0)]
)


def made(spec: Mapping[str, list[tuple[str, str, tuple[str, ...]]]]) -> list[Agent]:
    return [
        peer(name, *(skill(id.replace(" ", "-"), said, output_modes=modes) for id, said, modes in skills))
        for name, skills in spec.items()
    ]


async def outcome(sending, agents, health=None, allowed=lambda _: True):
    try:
        found = await route(sending, agents, health, allowed)
    except NoAgent:
        return None
    return found


def run(work, *args):
    return anyio.run(work, *args)


@settings(max_examples=150, deadline=None)
@given(AGENTS, PHRASE, st.dictionaries(st.sampled_from([f"agent{i}" for i in range(12)]), HEALTH), st.randoms())
def test_the_order_of_agents_never_matters(spec, words, health, rng: random.Random):
    agents = made(spec)
    mixed = rng.sample(agents, len(agents))
    assert run(outcome, text(words), agents, health) == run(outcome, text(words), mixed, health)


@settings(max_examples=150, deadline=None)
@given(AGENTS, PHRASE, PHRASE)
def test_an_agent_that_is_not_able_never_changes_the_choice(spec, words, said):
    """Nor one that is not allowed, however well it fits; not in the reason either."""
    agents = made(spec)
    extra = peer("zz", skill("extra", f"{words} {said}", output_modes=("audio/wav",)))
    barred = peer("yy", skill("barred", f"{words} {said}"))
    sending = text(words, accepted=("text/plain", "application/json"))
    alone = run(outcome, sending, agents)
    assert run(outcome, sending, [extra, *agents]) == alone
    assert run(outcome, sending, [barred, *agents], None, lambda s: s.id != "barred") == alone


@settings(max_examples=100, deadline=None)
@given(AGENTS, PHRASE, st.dictionaries(st.sampled_from([f"agent{i}" for i in range(12)]), HEALTH))
def test_who_is_chosen_is_able_and_others_are_not_chosen_twice(spec, words, health):
    sending = text(words, accepted=("text/plain",))
    found = run(outcome, sending, made(spec), health)
    if found is not None:
        named = [(found.agent, found.skill), *found.others]
        assert len(set(named)) == len(named) <= 6
        modes = {(name, id.replace(" ", "-")): m for name, skills in spec.items() for id, _, m in skills}
        assert all("text/plain" in modes[one] for one in named)


async def test_more_equals_than_a_search_brings_are_all_looked_at():
    """The least busy of hundreds of the same takes it, wherever it stands."""
    many = [peer(f"p{i:03}", REFUND) for i in range(300)]
    health = {f"p{i:03}": AgentHealth(busy=0 if i == 217 else 4) for i in range(300)}
    found = await route(text("give me my money back"), many, health)
    assert found.agent == "p217"
    unable = [peer(f"u{i:03}", REFUND, streaming=False) for i in range(300)]
    found = await route(text("give me my money back", streaming=True), [*unable, *many], health)
    assert found.agent == "p217"


async def test_a_message_to_a_mesh_is_a_run_of_the_skill_that_fits():
    """The reason is in its journal; what policies keep from the caller is not named when nobody fits."""
    flows = [
        workflow("refund", {"id": "a", "set": "done"}, description="Gives customers money back", on={"a2a": {}}),
        workflow("invoice", {"id": "a", "set": "done"}, description="Explains an invoice", on={"a2a": {}}),
    ]
    async with serving(mesh_of(*flows)) as engine:
        run = await engine.agents.send(LOCAL, text("please explain this invoice"))
        assert run.workflow == "invoice"
        assert run.route is not None
        assert "fits 'invoice' best" in str(run.route["reason"])
        found = await engine.agents.route(LOCAL, text("give me my money back"))
        assert (found.agent, found.skill) == (None, "refund")
    rules = [{"allow": "*"}, {"deny": "agents.*", "on": ["agent:refund"]}]
    policy = PolicyFile.model_validate({"rules": rules})
    async with serving(mesh_of(*flows, policies=(policy,))) as engine:
        run = await engine.agents.send(LOCAL, text("give me my money back"))
        assert run.state is RunState.REJECTED
        assert run.error is not None
        assert "'invoice' (its words do not fit)" in str(run.error["message"])
        assert "refund" not in str(run.error)
