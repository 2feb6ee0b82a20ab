"""Every promise of docs/promises.md is held by tests that exist, and every fault that is tested is promised."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "promises.md").read_text()
NAMED = re.findall(r"\[`(tests/[a-z0-9_/]+\.py)::([a-z_0-9]+)`\]\(\.\./([^)]+)\)", PAGE)


def _functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    """A promise whose test was renamed or removed is no promise."""
    assert len(NAMED) > 30
    for path, function, link in NAMED:
        assert link == path
        assert function in _functions(ROOT / path), f"{path} has no {function}; docs/promises.md names it"


def test_every_promise_has_a_test() -> None:
    """Each heading is followed by the tests that hold it."""
    for section in PAGE.split("\n## ")[1:]:
        assert "- [`tests/" in section, f"no test holds {section.splitlines()[0]!r}"


def test_every_fault_is_promised() -> None:
    """Each file of faults stands on the page, for some promise of its own."""
    named = {path for path, _, _ in NAMED}
    for file in (ROOT / "tests" / "faults").glob("test_*.py"):
        assert f"tests/faults/{file.name}" in named, f"docs/promises.md says nothing about {file.name}"
