"""`a2a.webhooks`: places inside, as they are found again."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agentmesh.core.mesh import A2aSettings


@pytest.mark.parametrize(
    "entry", ["localhost", "hooks.internal", "127.0.0.1", "10.1.0.0/16", "::1", "[::1]", "fd00::/8", "::ffff:10.0.0.1", "my_host"]
)  # fmt: skip
def test_hosts_addresses_and_networks_are_taken(entry: str) -> None:
    """Names as well as numbers."""
    assert A2aSettings(webhooks=[entry]).webhooks == [entry]


@pytest.mark.parametrize(
    "entry", ["", "http://127.0.0.1", "127.0.0.1:8080", "hooks.internal:80", "hooks.internal/x", "*.internal", "a b", "hooks.internal/8"]
)  # fmt: skip
def test_what_would_never_be_found_is_a_fault(entry: str) -> None:
    """A permission that does nothing is noticed before somebody misses a notification."""
    with pytest.raises(ValidationError):
        A2aSettings(webhooks=[entry])
