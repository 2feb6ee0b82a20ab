"""What leads inside is known in every spelling."""

from __future__ import annotations

import pytest

from agentmesh.adapters.reach import names_inside

INSIDE = (
    "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "017700000001", "0", "localhost",
    "LOCALHOST", "localhost.", "a.localhost", "printer.local", "db.internal", "10.0.0.1", "10.1", "172.16.0.1", "192.168.1.1",
    "169.254.169.254", "[::1]", "::1", "::", "::ffff:127.0.0.1", "::ffff:7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "fd00::1",
    "fe80::1%eth0", "",
)  # fmt: skip


@pytest.mark.parametrize("host", INSIDE)
def test_a_place_inside_is_one_in_every_spelling(host: str) -> None:
    """As resolvers take it."""
    assert names_inside(host)


@pytest.mark.parametrize(
    "host", ["example.com", "1.1.1.1", "2606:4700::1111", "127.example.com", "localhost.example.com"]
)
def test_a_public_place_is_none(host: str) -> None:
    """What only looks like one, too."""
    assert not names_inside(host)
