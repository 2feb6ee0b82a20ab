"""DerivedKeys: the keys that agent cards are signed with, worked out of the mesh's own keys and of the calendar.

Nothing is kept: servers of one mesh have the same keys (AGENTMESH_KEYS, else `.agentmesh/key`, which is made at the first start with 0600)
and so sign with the same ones, after a restart too. There is a new one every PERIOD. Whoever prepends a new key to AGENTMESH_KEYS has a
new one at once, and the public parts of the old one's stay published for as long as it stands there.

ES256, since every JOSE library has it; with nonces worked out of key and data (RFC 6979), so that one card has one signature.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from agentmesh.adapters.keyring import derive

DAY: Final = 86400.0
PERIOD: Final = 90 * DAY
OVERLAP: Final = 7 * DAY
"""How long the key of the last period stays published."""
AHEAD: Final = 1 * DAY
"""How long the key of the next period is published before it signs: longer than anybody keeps a key set."""
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256."""
_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class DerivedKey:
    """One P-256 key."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    kid: str
    jwk: Mapping[str, Any]
    """Its public part."""
    alg: str = "ES256"

    def sign(self, data: bytes) -> bytes:
        """See CardKey.sign."""
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(SHA256(), deterministic_signing=True)))
        return r.to_bytes(_SIZE) + s.to_bytes(_SIZE)


class DerivedKeys:
    """See CardKeys."""

    def __init__(self, keys: Sequence[bytes], *, clock: Callable[[], float]) -> None:
        """`keys`: the mesh's (see keyring.load_keys); what comes of the first signs. `clock`: Unix seconds."""
        self._keys = keys
        self._clock = clock
        self._made: dict[tuple[int, int], DerivedKey] = {}

    def current(self) -> DerivedKey:
        return self._key(0, int(self._clock() // PERIOD))

    def published(self) -> Sequence[Mapping[str, Any]]:
        """Those of older keys of the mesh last."""
        period, since = divmod(self._clock(), PERIOD)
        periods = [int(period)]
        if since < OVERLAP:
            periods.append(int(period) - 1)
        if PERIOD - since <= AHEAD:
            periods.append(int(period) + 1)
        return [self._key(place, one).jwk for place in range(len(self._keys)) for one in periods]

    def _key(self, place: int, period: int) -> DerivedKey:
        found = self._made.get((place, period))
        if found is None:
            if len(self._made) > 16 * len(self._keys):
                self._made.clear()
            found = self._made[place, period] = _made(self._keys[place], period)
        return found


def _made(key: bytes, period: int) -> DerivedKey:
    # 16 bytes more than the order has: what is left of the division favours no number (FIPS 186-5, A.2.1).
    number = int.from_bytes(derive(key, f"card/1/{period}", _SIZE + 16)) % (_ORDER - 1) + 1
    private = ec.derive_private_key(number, ec.SECP256R1())
    public = private.public_key().public_numbers()
    part = {"crv": "P-256", "kty": "EC", "x": _text(public.x), "y": _text(public.y)}
    # The thumbprint (RFC 7638): these members in this order, without spaces.
    text = ",".join(f'"{name}":"{value}"' for name, value in part.items())
    kid = urlsafe_b64encode(hashlib.sha256(f"{{{text}}}".encode()).digest()).rstrip(b"=").decode()
    return DerivedKey(private, kid, {**part, "kid": kid, "alg": "ES256", "use": "sig"})


def _text(number: int) -> str:
    return urlsafe_b64encode(number.to_bytes(_SIZE)).rstrip(b"=").decode()
