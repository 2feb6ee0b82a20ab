"""Signatures on our cards, by what the official SDKs make of them; and the key set they are checked with."""

from __future__ import annotations

import copy
import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest
from a2a.client.card_resolver import A2ACardResolver, parse_agent_card
from a2a.types import a2a_pb2 as pb
from a2a.utils.signing import InvalidSignaturesError, _canonicalize_agent_card, create_signature_verifier
from google.protobuf.json_format import ParseDict

from agentmesh.a2a.cards import Cards
from agentmesh.a2a.signing import payload_of, signature_of
from agentmesh.adapters.card_keys import AHEAD, OVERLAP, PERIOD, DerivedKeys
from agentmesh.adapters.upstream_a2a_card import verify
from agentmesh.core.agent import Json
from tests.a2a.calling import V
from tests.a2a.conftest import Serving, serving_mesh
from tests.a2a.test_card import WELL_KNOWN, agents_mesh, billing
from tests.engine.meshes import LOCAL, Clock, serving
from tests.requirements import covers

pytestmark = pytest.mark.anyio

KEY_SET = "/.well-known/jwks.json"
START = 200 * PERIOD
CARDS = ["", "/a2a/shop", "/a2a/billing"]


def keys(clock: Clock | None = None, *secrets: str) -> DerivedKeys:
    return DerivedKeys([secret.encode() * 16 for secret in secrets or ("k",)], clock=clock or Clock())


@pytest.fixture
async def on() -> AsyncIterator[Serving]:
    async with serving_mesh(agents_mesh(), peers=[billing()], grpc="127.0.0.1:4711", card_keys=keys()) as serving:
        yield serving


def header_of(card: Json) -> dict[str, Any]:
    [signature] = card["signatures"]
    text = signature["protected"]
    return dict(json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4))))


def verifier(key_set: Json) -> Any:
    """The SDK's, with the keys of a set."""
    found = {key["kid"]: jwt.PyJWK(dict(key)) for key in key_set["keys"]}
    return create_signature_verifier(lambda kid, _: found[kid or ""], ["ES256"])


@covers("A2A-1.0.1 8.4#signature")
@pytest.mark.parametrize("where", CARDS)
async def test_the_sdk_verifies_our_cards_as_they_are_served(on: Serving, where: str) -> None:
    """By the key set that the signature names, which is ours; a changed card it refuses."""
    card = (await on.http.get(where + WELL_KNOWN)).json()
    header = header_of(card)
    assert header == {"alg": "ES256", "typ": "JOSE", "kid": header["kid"], "jku": on.url + KEY_SET}
    key_set = (await on.http.get(header["jku"])).json()
    assert [key["kid"] for key in key_set["keys"]] == [header["kid"]]
    async with httpx.AsyncClient() as http:
        resolver = A2ACardResolver(http, on.url + where)
        await resolver.get_agent_card(signature_verifier=verifier(key_set))
    changed = copy.deepcopy(card)
    changed["skills"][0]["description"] += "!"
    with pytest.raises(InvalidSignaturesError):
        verifier(key_set)(parse_agent_card(changed))


@covers("A2A-1.0.1 8.4#signature")
@pytest.mark.parametrize("agent", [None, "shop", "billing"])
async def test_the_extended_card_is_signed_too(on: Serving, agent: str | None) -> None:
    """With the schemas in it, whose empty values nobody signs."""
    address = "/a2a" + (f"/{agent}" if agent else "")
    card = (await on.http.get(f"{address}/extendedAgentCard", headers=V)).json()
    verifier((await on.http.get(KEY_SET)).json())(ParseDict(card, pb.AgentCard()))


async def test_a_peer_that_is_such_a_mesh_is_verified(on: Serving) -> None:
    """What one mesh signs another takes for verified, by the key set at the card's own origin."""

    async def fetch(url: str) -> Json:
        return dict((await on.http.get(url)).json())

    for where in CARDS:
        url = on.url + where + WELL_KNOWN
        card = (await on.http.get(url)).json()
        assert await verify(card, jwks=None, card_url=url, fetch=fetch) == "verified"


async def test_another_server_of_the_mesh_shows_the_same_bytes() -> None:
    """With the same keys; after a restart, too."""
    bodies = set()
    for _ in range(2):
        async with serving(agents_mesh()) as engine:
            card = await Cards(engine, "http://127.0.0.1:9", keys=keys()).of(LOCAL)
            bodies.add((card.body, card.etag))
    assert len(bodies) == 1


async def test_a_card_without_keys_is_not_signed_and_the_key_set_is_empty() -> None:
    """Nothing pretends."""
    async with serving_mesh(agents_mesh()) as on:
        assert "signatures" not in (await on.http.get(WELL_KNOWN)).json()
        assert (await on.http.get(KEY_SET)).json() == {"keys": []}


async def test_the_key_set_can_be_kept_and_asked_for_again(on: Serving) -> None:
    """For far less than a key is published before it signs. Nothing private stands in it."""
    answer = await on.http.get(KEY_SET)
    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert AHEAD > 10 * 300
    again = await on.http.get(KEY_SET, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert all("d" not in key for key in answer.json()["keys"])


async def test_keys_change_and_every_card_can_be_verified_all_along() -> None:
    """Whoever keeps a key set for a day, or a card for a week, finds the key of one in the other."""
    clock = Clock(START + PERIOD - 2 * AHEAD)
    made = keys(clock)
    async with serving(agents_mesh()) as engine:
        cards = Cards(engine, "http://127.0.0.1:9", keys=made)
        seen: list[tuple[float, str, Json]] = []
        sets: list[tuple[float, list[Any]]] = []
        for _ in range(int((2 * AHEAD + OVERLAP + AHEAD) / 3600)):
            card = (await cards.of(LOCAL)).json
            kid = header_of(card)["kid"]
            now = {key["kid"] for key in made.published()}
            sets.append((clock.now, sorted(now)))
            seen.append((clock.now, kid, card))
            assert kid in now
            assert all(kid in old for at, old in sets if at >= clock.now - AHEAD / 2)
            assert all(old in now for at, old, _ in seen if at > clock.now - OVERLAP)
            clock.now += 3600
        assert len({kid for _, kid, _ in seen}) == 2
        assert len({(await cards.of(LOCAL)).etag, *(str(kid) for _, kid, _ in seen)}) == 3
        first, last = seen[0], seen[-1]
        assert first[0] < START + PERIOD < last[0]
        verifier({"keys": made.published()})(ParseDict(last[2], pb.AgentCard()))


def test_the_payload_of_the_specifications_example_is_signed_alike() -> None:
    """What the SDK canonicalizes of a card is what we do, for all that a card may hold."""

    card = {
        "name": "é", "description": "d", "version": "1", "documentationUrl": "https://x", "iconUrl": "https://i",
        "provider": {"organization": "o", "url": "https://p"},
        "supportedInterfaces": [{"url": "u", "protocolBinding": "JSONRPC", "protocolVersion": "1.0", "tenant": "t"}],
        "capabilities": {
            "streaming": False, "extendedAgentCard": True,
            "extensions": [{"uri": "urn:x", "params": {"a": [1, 2.5, 1e22, "", None, {}], "Z": {"b": False}, "😀": 1, "ﬀ": 2}}],
        },
        "defaultInputModes": ["a/b"], "defaultOutputModes": ["a/b"],
        "skills": [{"id": "s", "name": "n", "description": "d", "tags": ["t"], "inputModes": ["c/d"]}],
    }  # fmt: skip
    assert payload_of(card).decode() == _canonicalize_agent_card(ParseDict(card, pb.AgentCard()))
    signature = signature_of(payload_of(card), keys().current(), "https://x/keys")
    verifier({"keys": keys().published()})(ParseDict({**card, "signatures": [signature]}, pb.AgentCard()))
