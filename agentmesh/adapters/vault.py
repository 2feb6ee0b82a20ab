"""Vault: what the mesh keeps for others and nobody may read in its database: tokens, registrations of clients, logins under way.

Values are sealed with AES-256-GCM under a key derived from the mesh's first key, and bound to their place: a row that is moved to
another scope or another user's key does not open. A row that does not open (a key that is gone, a changed byte) is as good as none:
what was in it is asked for again. One that an older key opens is sealed anew with the first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentmesh.adapters.keyring import derive
from agentmesh.core.policy import Principal
from agentmesh.core.store import Store

log = logging.getLogger(__name__)

PURPOSE: Final = "vault/1"
_NONCE = 12
"""Bytes. Random: a key seals far fewer than 2^32 values, up to where that is safe."""


def key_of(principal: Principal) -> str:
    """What a principal's values lie under: one for each subject of each tenant, and no name to be read."""
    who = json.dumps([principal.tenant, principal.subject]).encode()
    return hashlib.sha256(who).hexdigest()


class Seals:
    """Seals JSON objects for those who keep them in rows of their own; see `core.push.Seal`."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """`keys`: the mesh's (see keyring.load_keys); the first seals, all open."""
        self._boxes = [AESGCM(derive(key, PURPOSE)) for key in keys]

    def seal(self, scope: str, key: str, value: Mapping[str, Any]) -> str:
        nonce = os.urandom(_NONCE)
        text = json.dumps(value, separators=(",", ":")).encode()
        return urlsafe_b64encode(nonce + self._boxes[0].encrypt(nonce, text, _place(scope, key))).decode()

    def open(self, scope: str, key: str, box: str) -> dict[str, Any] | None:
        found = self.opened(scope, key, box)
        return None if found is None else found[0]

    def opened(self, scope: str, key: str, box: str) -> tuple[dict[str, Any], bool] | None:
        """What was sealed, and whether that was done with the first key."""
        try:
            data = urlsafe_b64decode(box)
        except ValueError:
            return None
        for age, opener in enumerate(self._boxes):
            try:
                value = json.loads(opener.decrypt(data[:_NONCE], data[_NONCE:], _place(scope, key)))
            except (InvalidTag, ValueError):
                continue
            return (value, age == 0) if isinstance(value, dict) else None
        return None


class Vault:
    """Sealed JSON objects in the store, by scope and key."""

    def __init__(self, store: Store, keys: Sequence[bytes]) -> None:
        """`keys`: the mesh's (see keyring.load_keys); the first seals."""
        self._store = store
        self._seals = Seals(keys)
        self._warned: set[str] = set()
        """Scopes of which the log has said it."""

    async def get(self, scope: str, key: str) -> dict[str, Any] | None:
        """The value; None when there is none, or none that can be opened."""
        row = await self._store.get(_scope(scope), key)
        return await self._open(scope, key, row)

    async def put(self, scope: str, key: str, value: Mapping[str, Any]) -> None:
        """Keeps a JSON object."""
        await self._store.put(_scope(scope), key, self._seal(scope, key, value))

    async def forget(self, scope: str, key: str) -> None:
        """Leaves nothing of the value behind."""
        await self._store.put(_scope(scope), key, None)

    async def scan(self, scope: str) -> dict[str, dict[str, Any]]:
        """Every value of a scope that can be opened."""
        opened: dict[str, dict[str, Any]] = {}
        for key, row in (await self._store.scan(_scope(scope))).items():
            if (value := await self._open(scope, key, row)) is not None:
                opened[key] = value
        return opened

    def _seal(self, scope: str, key: str, value: Mapping[str, Any]) -> dict[str, Any]:
        return {"v": 1, "box": self._seals.seal(scope, key, value)}

    async def _open(self, scope: str, key: str, row: Any) -> dict[str, Any] | None:
        if row is None:
            return None
        found = self._seals.opened(scope, key, _box(row))
        if found is not None:
            value, first = found
            if not first:
                await self.put(scope, key, value)
            return value
        if scope not in self._warned:
            self._warned.add(scope)
            log.warning(
                "a sealed value of %s cannot be opened with this mesh's keys; it will be asked for again", scope
            )
        return None


def _scope(scope: str) -> str:
    return f"vault:{scope}"


def _place(scope: str, key: str) -> bytes:
    return json.dumps([scope, key]).encode()


def _box(row: Any) -> str:
    """What was sealed; nothing that could be opened when the row is no row of ours."""
    return row["box"] if isinstance(row, Mapping) and row.get("v") == 1 and isinstance(row.get("box"), str) else ""
