"""Signed cards: JWS over the canonical form of a card (A2A 1.0.1 section 8.4).

The SDK's own signer is what tests hold this to; it is not used here, since it makes another signature of the same card each time, so that
two servers of one mesh would never show the same card.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

from agentmesh.core.canonical import canonical, without_empty
from agentmesh.core.card_key import CardKey
from agentmesh.core.json_text import write_json


def payload_of(card: Mapping[str, Any]) -> bytes:
    """What a signature of the card is over: all of it but signatures, and nothing empty."""
    return canonical(without_empty({name: value for name, value in card.items() if name != "signatures"}))


def signature_of(payload: bytes, key: CardKey, jku: str) -> dict[str, Any]:
    """An entry of `signatures`. `jku`: where the key set is that has the key."""
    header = {"alg": key.alg, "jku": jku, "kid": key.kid, "typ": "JOSE"}
    protected = _encoded(write_json(header))
    signature = key.sign(f"{protected}.{_encoded(payload)}".encode())
    return {"protected": protected, "signature": _encoded(signature)}


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
