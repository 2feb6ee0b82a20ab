"""Every Store keeps the contract: memory, SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.sql.store import open_store
from tests.contracts import store as contract

pytestmark = pytest.mark.anyio

KINDS = ["memory", "sqlite", "postgres"]


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> contract.Bench:
    """One store of each kind, empty."""
    kind: str = request.param
    if kind == "memory":
        store = MemoryStore(clock=lambda: made.now)
        made = contract.Bench(lambda: store, durable=False)
        return made
    url = "sqlite:///mesh.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    made = contract.Bench(lambda: open_store(url, tmp_path, clock=lambda: made.now, own_clock=True), durable=True)
    return made


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
