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


class Vault:
    """Sealed JSON objects in the store, by scope and key."""

    def __init__(self, store: Store, keys: Sequence[bytes]) -> None:
        """`keys`: the mesh's (see keyring.load_keys); the first seals."""
        self._store = store
        self._boxes = [AESGCM(derive(key, PURPOSE)) for key in keys]
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
        nonce = os.urandom(_NONCE)
        text = json.dumps(value, separators=(",", ":")).encode()
        box = nonce + self._boxes[0].encrypt(nonce, text, _place(scope, key))
        return {"v": 1, "box": urlsafe_b64encode(box).decode()}

    async def _open(self, scope: str, key: str, row: Any) -> dict[str, Any] | None:
        if row is None:
            return None
        box = _box(row)
        for age, opener in enumerate(self._boxes):
            try:
                value = json.loads(opener.decrypt(box[:_NONCE], box[_NONCE:], _place(scope, key)))
            except (InvalidTag, ValueError):
                continue
            if age:
                await self.put(scope, key, value)
            return value if isinstance(value, dict) else None
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


def _box(row: Any) -> bytes:
    """What was sealed; nothing that could be opened when the row is no row of ours."""
    if isinstance(row, Mapping) and row.get("v") == 1 and isinstance(row.get("box"), str):
        try:
            return urlsafe_b64decode(row["box"])
        except ValueError:
            pass
    return b""
