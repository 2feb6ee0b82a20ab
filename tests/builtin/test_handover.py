"""The three agents' first plans."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from agentmesh.builtin.handover import fix_code, fix_dependency, look_at_machine


def finding(cause: str, **more: Any) -> dict[str, Any]:
    return {
        "cause": cause,
        "summary": "what was seen",
        "file": None,
        "line": None,
        "subject": None,
        "quotes": [],
        **more,
    }


@pytest.mark.parametrize(
    ("quote", "command"),
    [
        ("ModuleNotFoundError: No module named 'yaml.nodes'", "pip install PyYAML"),
        ("ERROR: No matching distribution found for foo[x]==9.9", "pip index versions foo"),
        ("Error: Cannot find module '@scope/left-pad'", "npm install @scope/left-pad"),
        ("a.c:1:10: fatal error: zlib.h: No such file or directory", "apt-file search zlib.h"),
        ("/usr/bin/ld: cannot find -lssl: No such file", "ldconfig -p | grep -F ssl"),
    ],
)
def test_what_is_missing_is_named_in_the_command(quote: str, command: str) -> None:
    """The package comes from the quoted line."""
    assert fix_dependency(finding("dependency", quotes=[quote]))["run"] == [command]


def test_a_plan_opens_the_place_and_shows_the_fault_again() -> None:
    """File and line, and the failing test by name."""
    plan = fix_code(finding("assertion", file="tests/test_a.py", line=3, subject="tests/test_a.py::test_x[1.5]"))
    assert plan["open"] == [{"file": "tests/test_a.py", "line": 3}]
    assert plan["run"] == ["python -m pytest -x -k test_x"]
    assert plan["agent"] == "fix-code"


def test_text_of_a_log_is_only_ever_one_word_of_a_command() -> None:
    """A file, subject or host from a log cannot add a command or an option."""
    evil = "--x $(touch /tmp/x); rm -rf ~"
    plans = [
        fix_code(finding("type", file=f"{evil}.py", subject=evil)),
        fix_code(finding("type", file="-rf.js")),
        fix_dependency(finding("dependency", quotes=[f"No module named '{evil}'", f"Cannot find module '{evil}'"])),
        look_at_machine(finding("permission", quotes=[f"Permission denied: '/etc/{evil}'"])),
        look_at_machine(finding("network", quotes=[f"could not resolve host: a.example.org{evil}"])),
    ]
    for plan in plans:
        for command in plan["run"]:
            words = shlex.split(command)
            assert "touch" not in words
            assert "rm" not in words
            assert not any(w.startswith(("--x", "-rf")) for w in words)


@pytest.mark.parametrize("cause", ["network", "timeout", "memory", "permission", "crash", "other"])
def test_every_cause_has_a_plan(cause: str) -> None:
    """Also without a place, a subject or a quote."""
    plan = look_at_machine(finding(cause))
    assert plan["steps"]
    assert plan["open"] == []
