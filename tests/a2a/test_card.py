"""What cards say and to whom, that every way in leads to the agent of the card, and that asking again is cheap."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver, parse_agent_card
from a2a.compat.v0_3 import types as v03
from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import ParseDict

from agentmesh.a2a.cards import Cards
from agentmesh.adapters.memory_peer import MemoryPeer, MemoryTask
from agentmesh.core.agent import IDEMPOTENCY, ROUTE, Skill
from agentmesh.core.mesh import MeshFile
from agentmesh.core.policy import PolicyFile, Principal
from tests.a2a.calling import BINDINGS, call
from tests.a2a.conftest import Serving, serving_mesh
from tests.engine.meshes import LOCAL, TEXT, mesh, serving, workflow
from tests.requirements import covers

pytestmark = pytest.mark.anyio

WELL_KNOWN = "/.well-known/agent-card.json"
REQUIRED = (
    "name", "description", "supportedInterfaces", "version", "capabilities", "defaultInputModes", "defaultOutputModes",
    "skills",
)  # fmt: skip


def agents_mesh(**more: Any) -> Any:
    """Skill `hello` of the mesh itself, and `sell` of its agent `shop`."""

    def skill(name: str, agent: str | None) -> Any:
        trigger = {"a2a": {"agent": agent} if agent else {}}
        return workflow(name, {"id": "a", "set": {"by": name}}, on=trigger, description=f"Does {name}.")

    return mesh(skill("hello", None), skill("sell", "shop"), **more)


async def echo(task: MemoryTask) -> None:
    task.artifact("answer", {"text": f"you said {task.text}"})


def billing() -> MemoryPeer:
    refund = Skill(
        "refund", "Refund", "Gives money back.", "", agent="billing", input_modes=("image/png",), tool="billing.refund"
    )
    again = Skill("hello", "Hello", "Says hello, too.", "", agent="billing", tool="billing.hello")
    return MemoryPeer("billing", echo, skills=[refund, again], idempotent=True)


@pytest.fixture
async def on() -> AsyncIterator[Serving]:
    async with serving_mesh(agents_mesh(), peers=[billing()], grpc="127.0.0.1:4711") as serving:
        yield serving


async def card_at(on: Serving, where: str = "", **headers: str) -> dict[str, Any]:
    answer = await on.http.get(where + WELL_KNOWN, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ways(card: Mapping[str, Any]) -> set[tuple[str, str, str, str | None]]:
    return {
        (i["url"], i["protocolBinding"], i["protocolVersion"], i.get("tenant")) for i in card["supportedInterfaces"]
    }


def ids(card: Mapping[str, Any]) -> list[str]:
    return [skill["id"] for skill in card["skills"]]


@covers("A2A-1.0.1 4.4.1#card")
@pytest.mark.parametrize("where", ["", "/a2a", "/a2a/shop", "/a2a/billing"])
async def test_a_card_has_all_that_is_required_and_nothing_empty(on: Serving, where: str) -> None:
    """The SDK reads it, with every field that the proto knows."""
    card = await card_at(on, where)
    assert [name for name in REQUIRED if not card.get(name)] == []
    assert all(skill[name] for skill in card["skills"] for name in ("id", "name", "description", "tags"))
    made = ParseDict({name: value for name, value in card.items() if name not in V03_MEMBERS}, pb.AgentCard())
    assert made.capabilities.streaming
    assert made.capabilities.extended_agent_card
    assert not made.capabilities.push_notifications  # nobody sends them in this mesh
    assert {IDEMPOTENCY, ROUTE} <= {one.uri for one in made.capabilities.extensions}
    assert all(one.description and not one.required for one in made.capabilities.extensions)

    def empty(value: Any) -> bool:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return value in ("", [], {}, None) or any(map(empty, inside))

    assert not empty(card)


V03_MEMBERS = {
    "protocolVersion", "url", "preferredTransport", "additionalInterfaces", "supportsAuthenticatedExtendedCard",
}  # fmt: skip


async def test_the_mesh_card_gathers_all_skills_and_an_agents_card_its_own(on: Serving) -> None:
    """Of two skills with one id the mesh's card shows one: who names it means whoever does it best."""
    mesh_card, shop, peer = [await card_at(on, where) for where in ("", "/a2a/shop", "/a2a/billing")]
    assert (mesh_card["name"], ids(mesh_card)) == ("test", ["hello", "sell", "refund"])
    assert (shop["name"], ids(shop)) == ("shop", ["sell"])
    assert (peer["name"], peer["description"], ids(peer)) == ("billing", "The agent billing.", ["refund", "hello"])
    refund = mesh_card["skills"][2]
    assert refund["inputModes"] == ["image/png"]
    assert "inputModes" not in mesh_card["skills"][0]
    assert mesh_card["defaultInputModes"] == ["text/plain", "application/json"]


@covers("A2A-1.0.1 4.4.6#interfaces")
async def test_interfaces_are_ours_with_the_agents_name_as_tenant(on: Serving) -> None:
    """An agent has its own address and the tenant beside it; over gRPC the tenant tells agents apart, which 0.3 does not have."""
    http = ("JSONRPC", "HTTP+JSON")
    assert ways(await card_at(on)) == {
        *((f"{on.url}/a2a", one, version, None) for one in http for version in ("1.0", "0.3")),
        *(("127.0.0.1:4711", "GRPC", version, None) for version in ("1.0", "0.3")),
    }
    for name in ("shop", "billing"):
        assert ways(await card_at(on, f"/a2a/{name}")) == {
            *((f"{on.url}/a2a/{name}", one, "1.0", name) for one in http),
            *((f"{on.url}/a2a/{name}", one, "0.3", None) for one in http),
            ("127.0.0.1:4711", "GRPC", "1.0", name),
        }


@covers("A2A-1.0.1 4.4.6#interfaces")
@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("heeds_tenant", [True, False])
@pytest.mark.parametrize("version", ["1.0", "0.3"])
async def test_every_way_in_leads_to_the_agent_of_the_card(
    on: Serving, binding: str, version: str, *, heeds_tenant: bool
) -> None:
    """The SDK's client, with the card as it comes, and with one whose tenants somebody threw away; of both versions."""
    async with httpx.AsyncClient(timeout=10) as http:
        found = await A2ACardResolver(http, f"{on.url}/a2a/billing").get_agent_card()
    kept = [one for one in found.supported_interfaces if one.protocol_version == version]
    del found.supported_interfaces[:]
    found.supported_interfaces.extend(kept)
    for one in found.supported_interfaces:
        one.tenant = one.tenant if heeds_tenant else ""
    config = ClientConfig(streaming=False, supported_protocol_bindings=[binding])
    message = pb.Message(message_id="m", role=pb.ROLE_USER, parts=[pb.Part(text="hi")])
    async with ClientFactory(config).create(found) as client:
        [answer] = [e async for e in client.send_message(pb.SendMessageRequest(message=message))]
        assert answer.task.artifacts[0].parts[0].text == "you said hi"
        extended = await client.get_extended_agent_card(pb.GetExtendedAgentCardRequest())
    assert [skill.id for skill in extended.skills] == ["refund", "hello"]


async def test_clients_of_0_3_find_the_agent_in_the_same_card(on: Serving) -> None:
    """The members of 0.3 name the same addresses, and to clients of 1.0 they say nothing new."""
    card = await card_at(on, "/a2a/shop")
    old = v03.AgentCard.model_validate(card)
    assert (old.protocol_version, old.url, old.preferred_transport) == ("0.3.0", f"{on.url}/a2a/shop", "JSONRPC")
    assert [(i.url, i.transport) for i in old.additional_interfaces or ()] == [
        (f"{on.url}/a2a/shop", "JSONRPC"), (f"{on.url}/a2a/shop", "HTTP+JSON"),
    ]  # fmt: skip
    assert old.supports_authenticated_extended_card
    assert [skill.id for skill in old.skills] == ["sell"]
    plain = ParseDict({name: value for name, value in card.items() if name not in V03_MEMBERS}, pb.AgentCard())
    assert parse_agent_card(dict(card)) == plain


async def test_what_the_file_leaves_out_is_not_offered() -> None:
    """Versions; and extensions that clients have to declare are marked, of those that are known."""
    of = agents_mesh()
    file = of.file.model_dump()
    file["a2a"] |= {"versions": ["1.0"], "required_extensions": [IDEMPOTENCY, "urn:no:such"]}
    of.file = MeshFile.model_validate(file)
    async with serving_mesh(of, grpc="127.0.0.1:4711") as on:
        card = await card_at(on)
    assert {i["protocolVersion"] for i in card["supportedInterfaces"]} == {"1.0"}
    assert not V03_MEMBERS & card.keys()
    required = [one["uri"] for one in card["capabilities"]["extensions"] if one.get("required")]
    assert required == [IDEMPOTENCY]


@pytest.mark.parametrize(
    ("url", "grpc", "shown"),
    [
        (None, None, "127.0.0.1:4711"),
        ("http://127.0.0.1:9", None, "127.0.0.1:4711"),
        ("https://mesh.example.com", None, None),
        ("https://mesh.example.com", "grpc.example.com:443", "grpc.example.com:443"),
    ],
)
async def test_the_address_over_grpc_is_one_where_clients_come(
    url: str | None, grpc: str | None, shown: str | None
) -> None:
    """Behind a proxy the operator says which; else none is named."""
    of = agents_mesh()
    of.file = MeshFile.model_validate(of.file.model_dump() | {"url": url, "a2a": {"grpc": grpc}})
    async with serving(of) as engine:
        card = (await Cards(engine, url or "http://127.0.0.1:9", "127.0.0.1:4711").of(LOCAL)).json
    assert {i["url"] for i in card["supportedInterfaces"] if i["protocolBinding"] == "GRPC"} == (
        {shown} if shown else set()
    )


async def test_there_is_no_card_of_an_agent_that_is_not_there(on: Serving) -> None:
    """Nor of one that the asker may not see."""
    for name in ("nobody", "hello", "test", "tasks"):
        assert (await on.http.get(f"/a2a/{name}{WELL_KNOWN}")).status_code == 404


# Who sees what


RULES = {"rules": [{"allow": "agents.*", "on": ["agent:hello", "agent:billing.*"], "to": ["some"]},
                   {"allow": "agents.*", "to": ["all"]}],
         "roles": {"some": {"subjects": ["token:some"]}, "all": {"subjects": ["token:all"]}}}  # fmt: skip


async def test_a_caller_sees_the_skills_that_they_may_list() -> None:
    """In the mesh's card and in an agent's; an agent of which nothing may be seen has none. Nobody gets the card made for another."""
    of = agents_mesh(policies=(PolicyFile.model_validate(RULES),))
    async with serving_mesh(of, peers=[billing()]) as on:
        for _ in range(2):  # as it is made, and as it is kept
            everything = await card_at(on, **{"X-Who": "local/token:all"})
            some = await card_at(on, **{"X-Who": "local/token:some"})
            assert (ids(everything), ids(some)) == (["hello", "sell", "refund"], ["hello", "refund"])
            shop = await on.http.get("/a2a/shop" + WELL_KNOWN, headers={"X-Who": "local/token:some"})
            assert shop.status_code == 404
            assert ids(await card_at(on, "/a2a/shop", **{"X-Who": "local/token:all"})) == ["sell"]
        answer = await on.http.get(WELL_KNOWN, headers={"X-Who": "local/token:some"})
        assert (answer.headers["vary"], answer.headers["cache-control"].split(",")[0]) == ("Authorization", "private")


async def test_callers_who_see_the_same_share_a_card() -> None:
    """One is made for both."""
    of = agents_mesh(policies=(PolicyFile.model_validate({"rules": [{"allow": "*"}]}),))
    async with serving(of) as engine:
        cards = Cards(engine, "http://127.0.0.1:9")
        ann, ben = [await cards.of(Principal(f"token:{name}", claims={"n": name})) for name in ("ann", "ben")]
        assert ann is ben


@covers("A2A-1.0.1 3.1.11#extended-card")
@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("agent", [None, "shop", "billing"])
async def test_the_extended_card_is_the_public_one_and_more(on: Serving, binding: str, agent: str | None) -> None:
    """The schema of each own skill's input, which agent has a skill, and where each agent's card is."""
    public = await card_at(on, f"/a2a/{agent}" if agent else "")
    more = (await call(on, binding, "GetExtendedAgentCard", agent=agent)).result
    [extension] = [e for e in more["capabilities"].pop("extensions") if e not in public["capabilities"]["extensions"]]
    public["capabilities"].pop("extensions")
    assert {name: value for name, value in public.items() if name not in V03_MEMBERS} == more
    params = extension["params"]
    if agent is None:
        assert params["skills"]["hello"] == {"input": TEXT}
        assert params["skills"]["refund"] == {"agent": "billing"}
        assert params["cards"] == {name: f"{on.url}/a2a/{name}{WELL_KNOWN}" for name in ("shop", "billing")}
        assert (await on.http.get(params["cards"]["billing"])).json()["name"] == "billing"
    elif agent == "shop":
        assert params == {"skills": {"sell": {"agent": "shop", "input": TEXT}}}
    ParseDict(extension, pb.AgentExtension())


async def test_a_schema_too_deep_for_readers_of_cards_is_left_out() -> None:
    """Protobuf's reader stops at a depth that it would reach."""
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(20):
        deep = {"type": "object", "properties": {"a": deep}}
    one = workflow("deep", {"id": "a", "set": 1}, input=deep, on={"a2a": {}})
    other = workflow("flat", {"id": "a", "set": 1}, on={"a2a": {}})
    async with serving(mesh(one, other)) as engine:
        card = (await Cards(engine, "http://127.0.0.1:9").of(LOCAL, more=True)).json
    assert set(card["capabilities"]["extensions"][-1]["params"]["skills"]) == {"flat"}


# Asking again


@covers("A2A-1.0.1 8.6#caching")
@pytest.mark.parametrize("where", ["", "/a2a/billing"])
async def test_the_card_can_be_asked_for_again(on: Serving, where: str) -> None:
    """304 for the tag that was given, also as one of several, weak, or `*`; the whole card for another."""
    first = await on.http.get(where + WELL_KNOWN)
    tag = first.headers["etag"]
    assert "max-age" in first.headers["cache-control"]
    assert not tag.startswith("W/")
    for given in (tag, f'"x", {tag}', f"W/{tag}", "*"):
        again = await on.http.get(where + WELL_KNOWN, headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert {"cache-control", "vary"} <= again.headers.keys()
    assert (await on.http.get(where + WELL_KNOWN, headers={"If-None-Match": '"x"'})).content == first.content
    head = await on.http.head(where + WELL_KNOWN)
    assert (head.status_code, head.headers["etag"], head.content) == (200, tag, b"")


async def test_the_tag_changes_with_what_is_there() -> None:
    """Files, agents elsewhere and who may see what; and with nothing else."""
    peer = billing()
    async with serving(agents_mesh(), sources=[peer]) as engine, peer:
        cards = Cards(engine, "http://127.0.0.1:9")
        other = Cards(engine, "http://127.0.0.1:9")

        async def tags() -> Sequence[str]:
            return [(await cards.of(LOCAL, name)).etag for name in (None, "billing")]

        before = await tags()
        assert await tags() == before == [(await other.of(LOCAL, name)).etag for name in (None, "billing")]
        engine.mesh.adopt(agents_mesh())
        assert await tags() == before
        peer._agent = billing()._agent  # the same card, read again
        assert await tags() == before
        peer._agent = MemoryPeer("billing", echo)._agent
        changed = await tags()
        assert not set(changed) & set(before)
        engine.mesh.adopt(mesh(workflow("bye", {"id": "a", "set": 1}, on={"a2a": {}})))
        assert (await tags())[0] not in {before[0], changed[0]}
        assert (await tags())[1] == changed[1]
        assert ids((await cards.of(LOCAL)).json) == ["bye", "ask"]


async def test_cards_that_are_kept_are_bounded() -> None:
    """By what they weigh, however many different ones callers may see."""
    names = [f"s{n}" for n in range(12)]
    skills = [workflow(name, {"id": "a", "set": 1}, on={"a2a": {}}, description="x" * 300) for name in names]
    rules = {
        "roles": {name: {"subjects": [f"token:{name}"]} for name in names},
        "rules": [{"allow": "*", "on": [f"agent:{name}"], "to": [name]} for name in names],
    }
    async with serving(mesh(*skills, policies=(PolicyFile.model_validate(rules),))) as engine:
        cards = Cards(engine, "http://127.0.0.1:9", most=20_000, callers=5)
        for name in names:
            assert ids((await cards.of(Principal(f"token:{name}"))).json) == [name]
        assert sum(len(card.body) for _, card in cards._kept.values()) == cards._size <= 20_000
        assert len(cards._kept) > 1
        assert len(cards._seen) == 5


async def test_a_card_of_ten_thousand_skills_is_made_once() -> None:
    """Asking again costs what a small one costs."""
    skills = [
        Skill(f"s{n}", f"Skill {n}", "Does something useful. " * 5, "", ("x",), agent="big") for n in range(10_000)
    ]
    peer = MemoryPeer("big", echo, skills=skills)
    async with serving(mesh(), sources=[peer]) as engine, peer:
        cards = Cards(engine, "http://127.0.0.1:9")
        first = await cards.of(LOCAL)
        assert len(first.json["skills"]) == 10_000
        began = time.perf_counter()
        for _ in range(100):
            assert await cards.of(LOCAL) is first
        assert time.perf_counter() - began < 0.5


def test_an_operator_may_require_what_cards_declare():
    """`check` knows the extensions that cards have."""
    from agentmesh.a2a.card import EXTENSIONS as DECLARED
    from agentmesh.core.agent import EXTENSIONS

    assert set(DECLARED) == set(EXTENSIONS)
