"""Each clause we claim to follow has a test, and each test that claims a clause names one."""

from __future__ import annotations

from tests.requirements import covered, entries


def test_every_entry_has_a_test() -> None:
    """A clause without a test is a claim."""
    missing = sorted(entries().keys() - covered().keys())
    assert not missing, "no test says @covers() of:\n" + "\n".join(missing)


def test_every_claim_names_an_entry() -> None:
    """A misspelt id would leave its clause without a test."""
    unknown = {name: tests for name, tests in covered().items() if name not in entries()}
    assert not unknown, f"not in any requirements_*.py: {unknown}"


def test_entries_say_where_they_come_from() -> None:
    """An id is protocol and revision, then page and heading."""
    for name, text in entries().items():
        protocol, _, clause = name.partition(" ")
        assert protocol.split("-")[0] in {"MCP", "A2A"}, name
        assert clause, name
        assert text.endswith("."), f"{name}: write a sentence"
