"""PeerRegistry: registered agents in the store, sealed whole, because their tokens are secrets. See core.registry."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from agentmesh.adapters.vault import Vault
from agentmesh.core.mesh import Peer
from agentmesh.core.store import Store

SCOPE: Final = "peers"
CARDS: Final = "a2a-card"
"""Scope of the cards that were read, and of those that one credential was shown."""
MARK: Final = "peers-mark"
"""Scope of the mark that is another after each change, so that servers need not open everything to see one."""


class PeerRegistry:
    """Of one store. `vault` seals with the mesh's keys, which all its servers share."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store, self._vault = store, vault
        self._known: tuple[Any, Mapping[str, Peer]] = (object(), {})

    async def mark(self) -> Any:
        """Equal as long as nothing has changed."""
        return await self._store.get(MARK, "at")

    async def all(self) -> Mapping[str, Peer]:
        """See Registry.all."""
        mark = await self.mark()
        if mark != self._known[0]:
            found: dict[str, Peer] = {}
            for name, value in sorted((await self._vault.scan(SCOPE)).items()):
                try:
                    found[name] = Peer.model_validate(value)
                except ValidationError:
                    continue  # of a later release
            self._known = (mark, found)
        return self._known[1]

    async def put(self, name: str, peer: Peer) -> None:
        """See Registry.put."""
        await self._vault.put(SCOPE, name, peer.model_dump(mode="json"))
        await self._changed()

    async def remove(self, name: str) -> None:
        """See Registry.remove."""
        await self._vault.forget(SCOPE, name)
        for key in await self._store.scan(f"peer:{name}"):
            await self._store.put(f"peer:{name}", key, None)
        for key in await self._store.scan(CARDS):
            if key == name or key.startswith(f"{name}~"):
                await self._store.put(CARDS, key, None)
        await self._changed()

    async def _changed(self) -> None:
        await self._store.put(MARK, "at", secrets.token_hex(8))
