"""What a peer's signature does to the peer: before anybody is spoken to whom a card names, and after it is known."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from a2a.types import a2a_pb2 as pb
from a2a.utils.signing import create_agent_card_signer
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.json_format import MessageToDict, ParseDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.upstream_a2a import PeerSource
from agentmesh.core.mesh import Peer
from agentmesh.core.source import SourceStatus
from tests.adapters.a2a_agents import WELL_KNOWN, Liar, card, interface
from tests.adapters.test_upstream_a2a_card import EC, jwk
from tests.http.serving import served
from tests.requirements import covers

pytestmark = pytest.mark.anyio

OTHER = ec.generate_private_key(ec.SECP256R1())


class Signer(Liar):
    """A Liar with a key set."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.keys: Any = {"keys": [jwk(EC)]}
        self.raw = b""
        self.app.router.routes += [Route("/keys", self.show_keys), Route("/raw", self.show_raw)]
        self.key_headers: list[Any] = []

    async def show_keys(self, request: Request) -> Response:
        self.key_headers.append(request.headers)
        return JSONResponse(self.keys) if self.keys else Response(status_code=503)

    async def show_raw(self, request: Request) -> Response:
        return Response(self.raw, media_type="application/json")


def signed(of: dict[str, Any], key: Any = EC, **header: Any) -> dict[str, Any]:
    made = ParseDict(of, pb.AgentCard())
    protected: Any = {"kid": "k", "alg": "ES256", "jku": None, "typ": "JOSE", **header}
    create_agent_card_signer(key, protected)(made)
    return dict(MessageToDict(made))


@asynccontextmanager
async def known(url: str, store: MemoryStore, naps: Any = None, **given: Any) -> AsyncIterator[PeerSource]:
    """The peer, when it has looked once."""
    secrets = {"T": "sesame"}
    peer = Peer(card=url + given.pop("path", WELL_KNOWN), **given)
    async with PeerSource("echo", peer, store=store, sleep=naps or anyio.sleep, secrets=secrets) as source:
        with anyio.fail_after(10):
            await source.looked.wait()
        yield source


def status(source: PeerSource) -> SourceStatus:
    return source.status()


@covers("A2A-1.0.1 8.4.3#verification")
async def test_what_is_known_of_a_signature_stands_at_the_agent() -> None:
    """Verified by the operator's keys, and by those of its own origin; unsigned; by somebody nobody knows."""
    agent = Signer()
    async with served(agent.app) as url, MemoryStore() as store:
        plain = card(interface(f"{url}/rpc", "JSONRPC"))
        for made, given, verdict in (
            (signed(plain), {"jwks": f"{url}/keys"}, "verified"),
            (signed(plain, jku=f"{url}/keys"), {}, "verified"),
            (plain, {}, "unsigned"),
            (signed(plain, OTHER, jku="https://evil.example.net/keys", kid="e"), {}, "unknown key"),
        ):
            agent.card = made
            async with known(url, store, **given) as source:
                found = source.agent()
                assert found is not None
                assert found.signed == verdict


@covers("A2A-1.0.1 8.4.3#verification")
@pytest.mark.parametrize("kind", ["unsigned", "stranger", "changed"])
async def test_a_card_that_is_not_what_the_operator_asked_for_makes_no_agent(kind: str) -> None:
    """It is not used, nobody whom it names hears of it, and the token goes neither there nor to the keys."""
    agent, thief = Signer(), Liar()
    async with served(agent.app) as url, served(thief.app) as elsewhere, MemoryStore() as store:
        plain = card(
            interface(f"{elsewhere}/rpc", "JSONRPC"), capabilities={"streaming": True, "extendedAgentCard": True}
        )
        changed = signed(plain) | {"description": "It does something else."}
        agent.card = {"unsigned": plain, "stranger": signed(plain, OTHER), "changed": changed}[kind]
        async with known(url, store, jwks=f"{url}/keys", token="${{ secrets.T }}") as source:
            assert source.agent() is None
            assert "sign" in status(source).detail
        assert thief.headers == []
        assert all("authorization" not in headers for headers in agent.key_headers)


async def test_what_is_known_stays_when_a_later_card_is_forged() -> None:
    """And after a restart it is what was verified, without anybody being asked; not so with other keys."""
    wake, slept = anyio.Event(), [anyio.Event(), anyio.Event()]
    naps = iter(slept)

    async def nap(_: float) -> None:
        next(naps).set()
        await wake.wait() if not slept[1].is_set() else await anyio.sleep_forever()

    agent = Signer()
    async with served(agent.app) as url, MemoryStore() as store:
        agent.card = signed(card(interface(f"{url}/rpc", "JSONRPC")))
        async with known(url, store, nap, jwks=f"{url}/keys") as source:
            first = source.agent()
            agent.card = signed(card(interface("http://127.0.0.1:1/rpc", "JSONRPC"), name="Thief"), OTHER)
            with anyio.fail_after(10):
                await slept[0].wait()
                wake.set()
                await slept[1].wait()
            assert source.agent() is first
            assert "wrong" in status(source).detail
        agent.down, agent.keys = True, None
        async with known(url, store, jwks=f"{url}/keys") as source:
            again = source.agent()
            assert again is not None
            assert (again.title, again.signed) == ("Echo", "verified")
        async with known(url, store, jwks=f"{url}/other-keys") as source:
            assert source.agent() is None


async def test_a_key_set_that_is_down_is_asked_again() -> None:
    """The agent is not known before, and says why."""
    agent = Signer()
    async with served(agent.app) as url, MemoryStore() as store:
        agent.card, agent.keys = signed(card(interface(f"{url}/rpc", "JSONRPC"))), None
        async with known(url, store, jwks=f"{url}/keys") as source:
            assert source.agent() is None
            assert source.health().state != "up"


async def test_a_name_that_stands_twice_is_refused() -> None:
    """In a card and in a key set: of two values readers could take either."""
    agent = Signer()
    async with served(agent.app) as url, MemoryStore() as store:
        text = '{"name":"a","description":"d","name":"b","supportedInterfaces":[],"version":"1","capabilities":{}}'
        agent.raw = text.encode()
        async with known(url, store, path="/raw") as source:
            assert source.agent() is None
            assert "twice" in status(source).detail
        agent.card = signed(card(interface(f"{url}/rpc", "JSONRPC")))
        agent.raw = b'{"keys":[],"keys":[]}'
        async with known(url, store, jwks=f"{url}/raw") as source:
            assert source.agent() is None
            assert "twice" in status(source).detail
