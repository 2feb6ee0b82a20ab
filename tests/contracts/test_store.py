"""Every Store keeps the contract: memory, SQLite, and PostgreSQL where AGENTMESH_TEST_POSTGRES names a server."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.sql.database import resolve
from agentmesh.adapters.sql.store import open_store
from tests.contracts import store as contract

pytestmark = pytest.mark.anyio

POSTGRES = os.environ.get("AGENTMESH_TEST_POSTGRES")
KINDS = [
    "memory",
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.skipif(not POSTGRES, reason="AGENTMESH_TEST_POSTGRES is not set")),
]


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> contract.Bench:
    """One store of each kind, empty."""
    kind: str = request.param
    if kind == "memory":
        store = MemoryStore(clock=lambda: made.now)
        made = contract.Bench(lambda: store, durable=False)
        return made
    url = POSTGRES if kind == "postgres" and POSTGRES else "sqlite:///mesh.db"
    if kind == "postgres":
        _empty(url)
    made = contract.Bench(lambda: open_store(url, tmp_path, clock=lambda: made.now), durable=True)
    return made


def _empty(url: str) -> None:
    engine = create_engine(resolve(url, Path()))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()


@pytest.mark.parametrize("rule", contract.CONTRACT, ids=lambda rule: rule.__name__)
async def test_store(rule: Callable[[contract.Bench], Awaitable[None]], bench: contract.Bench) -> None:
    """The store keeps this rule of the contract."""
    if rule is contract.restart_finds_everything and not bench.durable:
        pytest.skip("what is in memory ends with the process")
    await rule(bench)


def test_every_rule_is_run() -> None:
    """No function of the contract is left out of the list."""
    public = {
        name for name, value in vars(contract).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == contract.__name__
    }  # fmt: skip
    assert public - {"Bench"} == {rule.__name__ for rule in contract.CONTRACT}
