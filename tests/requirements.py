"""What the protocols ask of us, clause by clause, and the tests that hold it.

An entry's id begins with the protocol and its revision, and ends with the page and heading of the specification. A
test says which entries it holds with `@covers("ID", …)`; `test_requirements.py` fails when an entry has no test, or a
test names no entry. Each protocol has its table in `requirements_NAME.py`: `ENTRIES`, from id to what must hold.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

TESTS = Path(__file__).parent

Test = TypeVar("Test", bound=Callable[..., object])


def covers(*ids: str) -> Callable[[Test], Test]:
    """Says that a test holds these entries. Read from the source, not at run time: a partial run knows them all."""
    assert ids

    def unchanged(test: Test) -> Test:
        return test

    return unchanged


def entries() -> dict[str, str]:
    """Every entry of every protocol: id to what must hold."""
    found: dict[str, str] = {}
    for file in sorted(TESTS.glob("requirements_*.py")):
        table: dict[str, str] = importlib.import_module(f"tests.{file.stem}").ENTRIES
        twice = found.keys() & table.keys()
        assert not twice, f"{file.name} repeats {sorted(twice)}"
        found |= table
    return found


def covered() -> dict[str, list[str]]:
    """Ids that tests name, each with the tests: `tests/mcp/test_server.py::test_x`."""
    found: dict[str, list[str]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for test, name in _decorated(file):
            found.setdefault(name, []).append(f"{file.relative_to(TESTS.parent)}::{test}")
    return found


def _decorated(file: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "covers":
                assert node.name.startswith("test_"), f"{file}: {node.name} is not a test"
                for argument in call.args:
                    assert isinstance(argument, ast.Constant), f"{file}: covers() takes literal ids"
                    yield node.name, str(argument.value)
