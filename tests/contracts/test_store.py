"""Every Store keeps the contract: memory, SQLite and PostgreSQL.

A rule is a public coroutine function of a module listed here; it takes the Bench, and its docstring says what must hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.sql.store import open_store
from tests.contracts import (
    appending,
    bench,
    canceling,
    delivering,
    hearing,
    holding,
    listing,
    parking,
    posting,
    pruning,
    starting,
)

pytestmark = pytest.mark.anyio
Rule = Callable[[bench.Bench], Awaitable[None]]
SUBJECTS = (starting, holding, appending, parking, posting, canceling, listing, hearing, pruning, delivering)
RULES: list[Rule] = [
    rule
    for subject in SUBJECTS
    for name, rule in vars(subject).items()
    if inspect.iscoroutinefunction(rule) and rule.__module__ == subject.__name__ and not name.startswith("_")
]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def given(request: pytest.FixtureRequest, tmp_path: Path) -> bench.Bench:
    """One store of each kind, empty."""
    kind: str = request.param
    if kind == "memory":
        store = MemoryStore(clock=lambda: made.now)
        made = bench.Bench(lambda: store, durable=False)
        return made
    url = "sqlite:///mesh.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    made = bench.Bench(lambda: open_store(url, tmp_path, clock=lambda: made.now, own_clock=True), durable=True)
    return made


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_store(rule: Rule, given: bench.Bench) -> None:
    """The store keeps this rule of the contract."""
    if rule is starting.restart_finds_everything and not given.durable:
        pytest.skip("what is in memory ends with the process")
    await rule(given)


def test_every_file_of_rules_is_run() -> None:
    """No file of this folder is left out of the list."""
    files = {file.stem for file in Path(__file__).parent.glob("*.py")} - {"__init__", "bench", "test_store"}
    assert files == {subject.__name__.rpartition(".")[2] for subject in SUBJECTS}
    assert len(RULES) > 40
