"""Signatures of peers' cards: what is taken for verified, and every way to pretend."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from a2a.types import a2a_pb2 as pb
from a2a.utils.signing import create_agent_card_signer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.json_format import MessageToDict, ParseDict
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from agentmesh.a2a.signing import payload_of, signature_of
from agentmesh.adapters.card_keys import DerivedKeys
from agentmesh.adapters.upstream_a2a_card import AGAIN, FRESH, STALE, CardVerifier, verify
from agentmesh.core.agent import Json
from agentmesh.core.canonical import canonical
from agentmesh.errors import Fail, NotSent
from tests.engine.meshes import Clock
from tests.requirements import covers

pytestmark = pytest.mark.anyio

URL = "https://agent.example.com/.well-known/agent-card.json"
JWKS = "https://agent.example.com/.well-known/jwks.json"
OPERATORS = "https://keys.example.org/set.json"
EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 # that is what is tested
ED = ed25519.Ed25519PrivateKey.generate()
P384 = ec.generate_private_key(ec.SECP384R1())


def jwk(key: Any, kid: str = "k", **more: Any) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        found = json.loads(ECAlgorithm.to_jwk(public))
    elif isinstance(key, rsa.RSAPrivateKey):
        found = json.loads(RSAAlgorithm.to_jwk(public))
    else:
        found = json.loads(OKPAlgorithm.to_jwk(public))
    return {name: value for name, value in found.items() if name != "key_ops"} | {"kid": kid, **more}


def card(**more: Any) -> dict[str, Any]:
    return {
        "name": "Agent", "description": "Ünusual, 價.", "version": "1",
        "supportedInterfaces": [{"url": "https://agent.example.com/rpc", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
        "capabilities": {"streaming": False, "extensions": [{"uri": "urn:x", "params": {"n": 1e21, "m": 5, "": None, "e": {}}}]},
        "defaultInputModes": ["text/plain"], "defaultOutputModes": ["text/plain"],
        "skills": [{"id": "pay", "name": "Pay", "description": "Pays.", "tags": ["money"]}], **more,
    }  # fmt: skip


def sdk_signed(of: Mapping[str, Any], key: Any = EC, alg: str = "ES256", **header: Any) -> dict[str, Any]:
    """Signed by the SDK, as it serves it."""
    made = ParseDict(of, pb.AgentCard())
    protected: Any = {"kid": "k", "alg": alg, "jku": None, "typ": "JOSE", **header}
    create_agent_card_signer(key, protected)(made)
    return dict(MessageToDict(made))


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def signed_as(
    of: Mapping[str, Any], header: Mapping[str, Any] | bytes, key: Any = EC, alg: str = "ES256"
) -> dict[str, Any]:
    """With a protected header of one's own; the signature is right, over the card as it stands."""
    protected = text(header if isinstance(header, bytes) else json.dumps(header).encode())
    algorithm = jwt.get_algorithm_by_name(alg)
    value = algorithm.sign(f"{protected}.{text(canonical(dict(of)))}".encode(), algorithm.prepare_key(key))
    return {**of, "signatures": [{"protected": protected, "signature": text(value)}]}


class Fetch:
    """Key sets by their address; counts who asks for what."""

    def __init__(self, *keys: Json, at: str = JWKS) -> None:
        self.sets: dict[str, Any] = {at: {"keys": list(keys)}}
        self.asked: list[str] = []

    async def __call__(self, url: str) -> Json:
        self.asked.append(url)
        found = self.sets.get(url, NotSent("nobody is there"))
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]


async def judged(of: Json, fetch: Fetch, jwks: str | None = None) -> str:
    return await verify(of, jwks=jwks, card_url=URL, fetch=fetch)


@covers("A2A-1.0.1 8.4.3#verification")
@pytest.mark.parametrize(
    ("key", "alg"), [(EC, "ES256"), (P384, "ES384"), (RSA, "RS256"), (RSA, "PS256"), (ED, "EdDSA")]
)
async def test_a_card_signed_by_the_sdk_is_verified(key: Any, alg: str) -> None:
    """With each algorithm; by a key of the card's own origin, and by one of the operator's set."""
    signed = sdk_signed(card(), key, alg)
    assert await judged(signed, Fetch(jwk(key))) == "verified"
    assert await judged(signed, Fetch(jwk(key), at=OPERATORS), OPERATORS) == "verified"
    assert await judged(signed, Fetch(jwk(ec.generate_private_key(ec.SECP256R1()), "other"), jwk(key))) == "verified"


async def test_our_own_cards_are_verified() -> None:
    """By what our own keys publish."""
    keys = DerivedKeys([b"x" * 32], clock=Clock())
    signed = {**card(), "signatures": [signature_of(payload_of(card()), keys.current(), JWKS)]}
    assert await judged(signed, Fetch(*keys.published())) == "verified"


async def test_makers_differ_in_what_of_the_empty_is_signed() -> None:
    """As the specification has it: what is required stands though it is empty; or just as it is sent, in any order of members."""
    for of in (
        card(skills=[], description=""),
        card(iconUrl="", skills=[{"id": "a", "name": "A", "description": "", "tags": []}]),
        dict(reversed(card(skills=[], description="").items())),
    ):
        assert await judged(signed_as(of, {"alg": "ES256", "kid": "k"}), Fetch(jwk(EC))) == "verified"
    spec = card(skills=[], description="", capabilities={"streaming": False})
    sent = {name: value for name, value in spec.items() if name not in ("skills", "description")}
    sent["signatures"] = signed_as(spec, {"alg": "ES256", "kid": "k"})["signatures"]
    assert await judged(sent, Fetch(jwk(EC))) == "verified"


async def test_a_card_of_0_3_is_verified() -> None:
    """Its SDK signed all but defaults, in the words of 0.3."""
    old = {"name": "Old", "description": "d", "version": "1", "url": "https://agent.example.com/rpc", "capabilities": {},
           "defaultInputModes": ["text/plain"], "defaultOutputModes": ["text/plain"], "skills": [], "protocolVersion": "0.3.0",
           "preferredTransport": "JSONRPC"}  # fmt: skip
    kept = {name: value for name, value in old.items() if value not in ({}, []) and name[:3] not in ("pro", "pre")}
    signatures = signed_as(kept, {"alg": "ES256", "kid": "k"})["signatures"]
    assert await judged({**old, "signatures": signatures}, Fetch(jwk(EC))) == "verified"
    with pytest.raises(Fail, match="wrong"):
        await judged({**old, "preferredTransport": "GRPC", "signatures": signatures}, Fetch(jwk(EC)))


async def test_without_a_signature() -> None:
    """Let pass, unless the operator asked for one: then nobody comes through by leaving it out."""
    nothings: list[dict[str, Any]] = [{}, {"signatures": []}, {"signatures": None}]
    for nothing in nothings:
        fetch = Fetch(jwk(EC))
        assert await judged(card(**nothing), fetch) == "unsigned"
        with pytest.raises(Fail, match="not signed"):
            await judged(card(**nothing), fetch, JWKS)
        assert fetch.asked == []


def in_skill(of: dict[str, Any]) -> None:
    of["skills"][0]["description"] = "Pays somebody else."


def in_url(of: dict[str, Any]) -> None:
    of["supportedInterfaces"][0]["url"] = "https://evil.example.net/rpc"


def in_extension(of: dict[str, Any]) -> None:
    of["capabilities"]["extensions"][0]["required"] = True


def one_more_skill(of: dict[str, Any]) -> None:
    of["skills"].append({"id": "b", "name": "B", "description": "b", "tags": ["b"]})


def one_skill_less(of: dict[str, Any]) -> None:
    of["skills"] = []


def from_0_3(of: dict[str, Any]) -> None:
    """A member that 0.3 has, and which readers of 1.0 take for theirs."""
    of["supportsAuthenticatedExtendedCard"] = True


def security_of_0_3(of: dict[str, Any]) -> None:
    of["security"] = [{"oauth": ["admin"]}]


def the_other_spelling(of: dict[str, Any]) -> None:
    """Readers of protobuf's JSON take the proto's own names, too."""
    of["documentation_url"] = "https://evil.example.net"


@covers("A2A-1.0.1 8.4.3#verification")
@pytest.mark.parametrize(
    "change",
    [in_skill, in_url, in_extension, one_more_skill, one_skill_less, from_0_3, security_of_0_3, the_other_spelling],
)
async def test_a_card_that_was_changed_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    """Whatever readers take from a card is signed."""
    signed = sdk_signed(card())
    change(signed)
    for jwks in (None, JWKS):
        with pytest.raises(Fail, match="is wrong"):
            await judged(signed, Fetch(jwk(EC)), jwks)


async def test_what_no_reader_knows_may_be_added() -> None:
    """It is not read either."""
    assert await judged({**sdk_signed(card()), "x-note": "hello"}, Fetch(jwk(EC))) == "verified"


HMAC = {"alg": "HS256", "kid": "k"}


@covers("A2A-1.0.1 8.4.3#verification")
@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "kid": "k"}, {"alg": "None", "kid": "k"}, {"alg": "", "kid": "k"}, {"kid": "k"}, {"alg": ["ES256"], "kid": "k"},
        HMAC, {"alg": "ES256K", "kid": "k"}, {"alg": "RS1", "kid": "k"},
        {"alg": "ES256", "kid": "k", "crit": ["exp"], "exp": 1}, {"alg": "ES256", "kid": "k", "crit": []},
        {"alg": "ES256", "kid": "k", "b64": False}, {"alg": "ES256"}, {"alg": "ES256", "kid": ""}, {"alg": "ES256", "kid": 5},
        {"alg": "ES256", "kid": "k", "jku": 5}, b'{"alg":"ES256","kid":"other","kid":"k"}', b'{"alg":"none","alg":"ES256","kid":"k"}',
        b"[]", b'"ES256"', b"{", b"\xff", b'{"alg":"ES256","kid":"k","x":NaN}', b"[" * 6000,
    ],
)  # fmt: skip
async def test_headers_that_prove_nothing_are_refused(header: Any) -> None:
    """Though the signature beside them is right: symmetric and weak algorithms, names that stand twice, what we do not understand."""
    signed = signed_as(card(), header)
    fetch = Fetch(jwk(EC))
    for jwks in (None, JWKS):
        with pytest.raises(Fail, match="signature"):
            await judged(signed, fetch, jwks)
    assert fetch.asked == []


async def test_a_public_key_is_no_secret_of_an_hmac() -> None:
    """The old confusion: the published key as the password."""
    pem = EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    protected = text(json.dumps(HMAC).encode())
    value = base64.urlsafe_b64encode(hmac.digest(pem, f"{protected}.{text(canonical(card()))}".encode(), "sha256"))
    forged = {**card(), "signatures": [{"protected": protected, "signature": value.decode().rstrip("=")}]}
    with pytest.raises(Fail, match="HS256"):
        await judged(forged, Fetch(jwk(EC)), JWKS)


@pytest.mark.parametrize(
    "key",
    [
        jwk(RSA), jwk(P384), jwk(EC, use="enc"), jwk(EC, alg="ES384"), jwk(EC, key_ops=["encrypt"]), jwk(EC, key_ops="verify"),
        {"kty": "oct", "k": "eA", "kid": "k"}, {"kty": "EC", "kid": "k"}, {**jwk(EC), "x": "AAAA"}, {**jwk(EC), "y": jwk(EC)["x"]},
        {**jwk(EC), "kty": "RSA"}, {**jwk(EC), "x": 5},
    ],
)  # fmt: skip
async def test_a_key_of_another_kind_verifies_nothing(key: Json) -> None:
    """Its type, curve, use and algorithm have to be the signature's, and its point on the curve."""
    with pytest.raises(Fail, match="wrong"):
        await judged(sdk_signed(card()), Fetch(key), JWKS)


async def test_a_short_rsa_key_verifies_nothing() -> None:
    """1,024 bits are not enough."""
    algorithm = RSAAlgorithm(RSAAlgorithm.SHA256)
    protected = text(json.dumps({"alg": "RS256", "kid": "k"}).encode())
    value = algorithm.sign(f"{protected}.{text(canonical(card()))}".encode(), WEAK)
    forged = {**card(), "signatures": [{"protected": protected, "signature": text(value)}]}
    with pytest.raises(Fail, match="wrong"):
        await judged(forged, Fetch(jwk(WEAK)), JWKS)


@covers("A2A-1.0.1 8.4.3#verification")
@pytest.mark.parametrize(
    "jku",
    [
        "https://evil.example.net/jwks.json", "http://agent.example.com/jwks.json", "https://agent.example.com:444/jwks.json",
        "https://agent.example.com@evil.example.net/jwks.json", "https://agent.example.com.evil.net/jwks.json",
        "https://evil.example.net/https://agent.example.com/", "https://agent.example.com\\@evil.example.net/", "//agent.example.com/x",
        "file:///etc/passwd", "/jwks.json", "https://sub.agent.example.com/jwks.json", "https://user@agent.example.com/jwks.json",
        "https://agent.example.com:99999/", "https://agent.example.com /", "https://[::1/",
    ],
)  # fmt: skip
async def test_a_key_set_elsewhere_is_never_asked(jku: str) -> None:
    """Whoever forges a card can publish a key for it; it is then known of nobody. With the operator's set jku says nothing."""
    forger = ec.generate_private_key(ec.SECP256R1())
    forged = sdk_signed(card(), forger, jku=jku)
    fetch = Fetch(jwk(forger), at=jku)
    assert await judged(forged, fetch) == "unknown key"
    assert fetch.asked == []
    fetch = Fetch(jwk(EC), at=OPERATORS)
    with pytest.raises(Fail, match="wrong"):
        await judged(forged, fetch, OPERATORS)
    assert fetch.asked == [OPERATORS]


@pytest.mark.parametrize(
    "jku",
    ["https://agent.example.com/keys", "https://AGENT.example.com:443/keys", "https://agent.example.com/a/../keys?x=1"],
)
async def test_a_key_set_at_the_cards_origin_is_asked(jku: str) -> None:
    """However the same origin is spelled."""
    fetch = Fetch(jwk(EC), at=jku)
    assert await judged(sdk_signed(card(), jku=jku), fetch) == "verified"
    assert fetch.asked == [jku]


async def test_a_key_that_nobody_knows() -> None:
    """Without the operator's word it is just not known; with it the card is refused, and the forger's name for a key helps nothing."""
    fetch = Fetch(jwk(EC, "other"))
    assert await judged(sdk_signed(card()), fetch) == "unknown key"
    assert await judged(sdk_signed(card()), Fetch(at="https://x.example.com/")) == "unknown key"
    with pytest.raises(Fail, match="not in the key set"):
        await judged(sdk_signed(card()), fetch, JWKS)


async def test_a_key_set_that_cannot_be_read_is_trouble_only_where_it_is_asked_for() -> None:
    """What went wrong is told as it is, so that one that is down now is tried again."""
    with pytest.raises(NotSent):
        await judged(sdk_signed(card()), Fetch(), OPERATORS)
    sets: list[Any] = [[], {"keys": {}}, {"keys": [{}] * 101}, {}]
    for broken in sets:
        fetch = Fetch()
        fetch.sets[JWKS] = broken
        with pytest.raises(Fail, match="no key set"):
            await judged(sdk_signed(card()), fetch, JWKS)
        assert await judged(sdk_signed(card()), fetch) == "unknown key"


async def test_one_right_signature_of_several_is_enough() -> None:
    """As while keys change; but a wrong one by a known key is not made good by one of a stranger."""
    right, stranger = sdk_signed(card()), sdk_signed(card(), P384, "ES384", kid="stranger")
    none = signed_as(card(), HMAC)
    wrong = sdk_signed(card(name="Other"))
    entries = {name: of["signatures"][0] for name, of in
               (("right", right), ("stranger", stranger), ("none", none), ("wrong", wrong))}  # fmt: skip

    async def verdict(*names: str) -> str:
        return await judged(card(signatures=[entries[name] for name in names]), Fetch(jwk(EC)))

    assert await verdict("none", "stranger", "wrong", "right") == "verified"
    assert await verdict("none", "stranger") == "unknown key"
    with pytest.raises(Fail, match="wrong"):
        await verdict("stranger", "wrong")


@pytest.mark.parametrize(
    "signatures",
    [
        5, {}, "x", [5], [{}], [{"protected": "e30"}], [{"protected": 5, "signature": "x"}], [{"protected": "e30", "signature": "%"}],
        [{"protected": "e30=", "signature": "AA"}], [{"protected": "e3 0", "signature": "AA"}],
        [{"protected": "A" * 10_000, "signature": "AA"}], [{}] * 17,
    ],
)  # fmt: skip
async def test_what_is_no_signature_is_refused(signatures: Any) -> None:
    """Bounded in number and length."""
    with pytest.raises(Fail, match="signature"):
        await judged(card(signatures=signatures), Fetch(jwk(EC)))


async def test_two_headers_that_say_the_same_name_are_refused() -> None:
    """RFC 7515, section 4: what is not protected may say nothing of what is."""
    signed = sdk_signed(card())
    signed["signatures"][0]["header"] = {"note": "mine"}
    assert await judged(signed, Fetch(jwk(EC))) == "verified"
    signed["signatures"][0]["header"] = {"kid": "other"}
    with pytest.raises(Fail, match="headers"):
        await judged(signed, Fetch(jwk(EC)))


@pytest.mark.parametrize("change", [{"skills": 5}, {"skills": [5]}, {"supportedInterfaces": [{"url": 5}]}])
async def test_what_is_no_card_is_refused(change: dict[str, Any]) -> None:
    """In our words."""
    with pytest.raises(Fail, match="no agent card"):
        await judged({**sdk_signed(card()), **change}, Fetch(jwk(EC)))


async def test_key_sets_are_kept_and_read_again_with_measure() -> None:
    """A key that is not there is looked for at most once a minute; one that was taken back is forgotten in ten."""
    clock, fetch = Clock(), Fetch(jwk(EC))
    verifier = CardVerifier(clock)
    new = sdk_signed(card(), P384, "ES384", kid="new")

    async def verdict(of: Json) -> str:
        return await verifier.verify(of, jwks=None, card_url=URL, fetch=fetch)

    for _ in range(3):
        assert await verdict(sdk_signed(card())) == "verified"
    assert len(fetch.asked) == 1
    for _ in range(3):
        assert await verdict(new) == "unknown key"
    assert len(fetch.asked) == 1
    fetch.sets[JWKS] = {"keys": [jwk(P384, "new"), jwk(EC)]}
    clock.now += AGAIN
    assert await verdict(new) == "verified"
    assert len(fetch.asked) == 2
    fetch.sets[JWKS] = {"keys": [jwk(P384, "new")]}
    clock.now += FRESH
    assert await verdict(sdk_signed(card())) == "unknown key"
    assert len(fetch.asked) == 3
    fetch.sets[JWKS] = NotSent("down")
    clock.now += FRESH
    assert await verdict(new) == "verified"
    clock.now += STALE
    assert await verdict(new) == "unknown key"
