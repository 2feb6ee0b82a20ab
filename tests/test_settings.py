"""What a server is told by its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentmesh.errors import ServeError
from agentmesh.settings import Lease, read_settings


def test_lease() -> None:
    """Seconds; a third of them between two heartbeats. Thirty when nothing is said."""
    assert read_settings(Path(), {}).lease == Lease(30.0, 10.0)
    assert read_settings(Path(), {"AGENTMESH_LEASE": "6"}).lease == Lease(6.0, 2.0)


@pytest.mark.parametrize("text", ["soon", "0", "-3", "86400", "nan", "inf"])
def test_no_lease(text: str) -> None:
    """What is no time that a lease can have is refused, with what would be right."""
    with pytest.raises(ServeError, match="seconds from 1 to 3600"):
        read_settings(Path(), {"AGENTMESH_LEASE": text})


def test_crash_at() -> None:
    """Handed on as it stands; the store's wrapper reads it."""
    assert read_settings(Path(), {}).crash_at is None
    assert read_settings(Path(), {"AGENTMESH_CRASH_AT": "after:3"}).crash_at == "after:3"


def test_concurrency() -> None:
    """A whole number of runs; what is none is refused."""
    assert read_settings(Path(), {}).concurrency == 512
    assert read_settings(Path(), {"AGENTMESH_CONCURRENCY": "8"}).concurrency == 8
    for text in ("0", "-1", "many", "1.5"):
        with pytest.raises(ServeError, match="from 1 to 100000"):
            read_settings(Path(), {"AGENTMESH_CONCURRENCY": text})
