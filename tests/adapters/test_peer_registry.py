"""Registered agents: sealed in the store, seen by every server of it, opened beside declared ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_outside import ScriptedHttp
from agentmesh.adapters.peer_registry import SCOPE, PeerRegistry
from agentmesh.adapters.sources import SourceSet
from agentmesh.adapters.upstream_a2a import PeerSource
from agentmesh.adapters.vault import Vault
from agentmesh.core.mesh import Mesh, Peer
from tests.adapters.a2a_agents import WELL_KNOWN, Liar, card, interface
from tests.engine.meshes import mesh, workflow
from tests.http.serving import served

pytestmark = pytest.mark.anyio
KEY = b"k" * 32
PEER = Peer(card="https://x.example/card", token="s3cret", price=2.0)


def registry_of(store: MemoryStore, key: bytes = KEY) -> PeerRegistry:
    return PeerRegistry(store, Vault(store, [key]))


async def test_what_is_registered_is_there_for_every_server() -> None:
    """And its token is nowhere to be read; a server with other keys has none of it."""
    async with MemoryStore() as store:
        one, other = registry_of(store), registry_of(store)
        assert await other.all() == {}
        await one.put("billing", PEER)
        assert await other.all() == {"billing": PEER}
        assert "s3cret" not in str(await store.scan(f"vault:{SCOPE}"))
        assert await registry_of(store, b"x" * 32).all() == {}
        await other.remove("billing")
        assert await one.all() == {}


@asynccontextmanager
async def sources_of(store: MemoryStore, registry: PeerRegistry, sleep: object = None) -> AsyncIterator[SourceSet]:
    async with SourceSet(
        Path(), store, ScriptedHttp([]), registry=registry, sleep=sleep or anyio.sleep  # type: ignore[arg-type]
    ) as sources:  # fmt: skip
        yield sources


async def test_registered_agents_are_opened_beside_declared_ones() -> None:
    """As long as no file has taken the name; one that is registered at another address is another."""
    async with MemoryStore() as store:
        registry = registry_of(store)
        async with sources_of(store, registry) as sources:
            of = mesh()
            await registry.put("billing", PEER)
            await registry.put("desk", PEER)  # a server of that mesh
            [one] = await sources.replace(of)
            assert isinstance(one, PeerSource)
            assert one.name == "billing"
            assert list(await sources.replace(of)) == [one]
            taken = mesh(workflow("w", {"id": "s", "set": {"a": 1}}, on={"a2a": {"agent": "billing"}}))
            assert await sources.replace(taken) == []
            [again] = await sources.replace(of)
            assert again is not one


async def test_another_server_sees_what_was_registered() -> None:
    """By a mark that it looks at every other second."""
    looks = 0

    async def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        assert seconds == 2.0
        if looks == 3:
            await registry_of(store).put("billing", PEER)
        await anyio.lowlevel.checkpoint()

    async with MemoryStore() as store, sources_of(store, registry_of(store), sleep) as sources:
        assert await sources.replace(mesh()) == []
        with anyio.fail_after(10):
            await sources.changed()
        assert looks == 3
        assert [source.name for source in await sources.replace(mesh())] == ["billing"]


async def test_a_token_that_is_registered_names_no_secret_of_the_mesh() -> None:
    """It is a token: whoever registers agents may not have the mesh's secrets sent to them."""
    made = Liar()
    async with MemoryStore() as store, served(made.app) as url:
        made.card = card(interface(f"{url}/rpc", "JSONRPC"))
        registry = registry_of(store)
        await registry.put("echo", Peer(card=url + WELL_KNOWN, token="plain"))
        async with SourceSet(
            Path(), store, ScriptedHttp([]), registry=registry, secrets={"TOP": "top-secret"}
        ) as sources:
            [source] = await sources.replace(Mesh(mesh().folder, mesh().file))
            assert isinstance(source, PeerSource)
            with anyio.fail_after(10):
                await source.looked.wait()
        assert made.headers[0]["authorization"] == "Bearer plain"


async def test_what_was_approved_of_one_that_is_removed_is_forgotten() -> None:
    """Another agent that gets the name later is looked at anew."""
    async with MemoryStore() as store:
        await store.put("peer:billing", "billing.pay", {"name": "pay"})
        for key in ("billing", "billing~0", "billing2"):
            await store.put("a2a-card", key, {"card": {}})
        registry = registry_of(store)
        await registry.put("billing", PEER)
        await registry.remove("billing")
        assert set((await store.scan("peer:billing")).values()) == {None}
        assert [key for key, card in (await store.scan("a2a-card")).items() if card is not None] == ["billing2"]
