"""Fixtures of the fault tests, and their mark: they run in `make faults`, not in `make test-fast`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.mesh import write_mesh
from tests.faults.served import Served
from tests.faults.upstream import Upstream

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """The world outside, which counts what was done to it."""
    with Upstream().serving() as served:
        yield served


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest) -> str:
    """The address of an empty store: SQLite in the mesh folder, and a real PostgreSQL."""
    if request.param == "sqlite":
        return "sqlite:///mesh.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def folder(tmp_path: Path, upstream: Upstream, store: str) -> Path:
    """A mesh folder on that store."""
    return write_mesh(tmp_path / "mesh", upstream.url, store=store)


@pytest.fixture
def server(folder: Path) -> Iterator[Served]:
    """A server of that folder, not started yet."""
    with Served(folder) as served:
        yield served
