"""The keys that cards are signed with: the same everywhere, changed by the calendar, published in time."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import jwt
import pytest

from agentmesh.adapters.card_keys import AHEAD, OVERLAP, PERIOD, DerivedKeys
from tests.engine.meshes import Clock

START = 200 * PERIOD
"""The first second of a period."""


def keys(*secrets: str, at: float = START + PERIOD / 2) -> DerivedKeys:
    return DerivedKeys([secret.encode() * 8 for secret in secrets or ("one",)], clock=Clock(at))


def kids(of: DerivedKeys) -> list[Any]:
    return [jwk["kid"] for jwk in of.published()]


def test_servers_of_one_mesh_have_the_same_keys() -> None:
    """After a restart, too; another mesh has others. The same data has the same signature."""
    one, other = keys(), keys()
    assert one.published() == other.published()
    assert one.current().sign(b"card") == other.current().sign(b"card")
    assert one.current().kid != keys("two").current().kid


def test_signatures_are_those_of_es256() -> None:
    """Another library verifies them by the published part, in which nothing private stands."""
    key = keys()
    [jwk] = key.published()
    assert set(jwk) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    public = jwt.PyJWK(dict(jwk))
    assert public.Algorithm.verify(b"card", public.key, key.current().sign(b"card"))
    assert not public.Algorithm.verify(b"cart", public.key, key.current().sign(b"card"))
    assert "private" not in repr(key.current())


def test_the_name_of_a_key_is_its_thumbprint() -> None:
    """RFC 7638: the digest of these members, in this order."""
    [jwk] = keys().published()
    text = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    assert jwk["kid"] == base64.urlsafe_b64encode(digest).decode().rstrip("=")


@pytest.mark.parametrize(
    ("at", "periods"),
    [
        (START, (0, -1)),
        (START + OVERLAP - 1, (0, -1)),
        (START + OVERLAP, (0,)),
        (START + PERIOD - AHEAD - 1, (0,)),
        (START + PERIOD - AHEAD, (0, 1)),
        (START + PERIOD - 1, (0, 1)),
    ],
)
def test_a_key_is_published_before_it_signs_and_after(at: float, periods: tuple[int, ...]) -> None:
    """The next one for a day before, the last one for a week after."""
    wanted = [keys(at=START + (n + 0.5) * PERIOD).current().kid for n in periods]
    assert kids(keys(at=at)) == wanted
    assert keys(at=at).current().kid == wanted[0]


def test_a_key_that_is_prepended_signs_at_once_and_the_old_one_stays_published() -> None:
    """As what tokens are sealed with: the first seals, all open."""
    before, after = keys("old"), keys("new", "old")
    assert kids(after) == [*kids(keys("new")), *kids(before)]
    assert after.current().kid == keys("new").current().kid


def test_a_year_of_use_keeps_few_keys() -> None:
    """Those of long ago are forgotten."""
    clock = Clock(START)
    of = DerivedKeys([b"one" * 11], clock=clock)
    for _ in range(40):
        assert of.current().kid == of.published()[0]["kid"]
        clock.now += PERIOD
    assert len(of._made) <= 17
