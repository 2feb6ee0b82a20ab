"""The shipped example mesh over the real engine, with a model that is scripted: its files, functions and hand-overs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from agentmesh.adapters.files import load_mesh
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ChatRequest
from agentmesh.core.policy import Principal
from agentmesh.core.run import RunState
from agentmesh.core.tool import ToolCall
from agentmesh.engine.functions import resolve_function
from agentmesh.errors import PolicyDenied
from agentmesh.settings import Secrets
from tests.engine.meshes import LOCAL, Clock, finished, serving

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
LOG = """\
collected 2 items
tests/test_cart.py .F                                  [100%]
=================================== FAILURES ===================================
__________________________________ test_total __________________________________
    def test_total():
>       assert total([1, 2]) == 4
E       assert 3 == 4
tests/test_cart.py:9: AssertionError
=========================== short test summary info ============================
FAILED tests/test_cart.py::test_total - assert 3 == 4
"""


class Functions(dict[str, Any]):
    """The installed ones."""

    def __bool__(self) -> bool:
        return True

    def __missing__(self, name: str) -> Any:
        return resolve_function(name)


FUNCTIONS = Functions()


def example(folder: Path) -> Mesh:
    """The shipped files, as if they stood in another folder."""
    return dataclasses.replace(load_mesh(ROOT, Secrets()), folder=folder)


def first(request: ChatRequest) -> dict[str, Any]:
    """The first of every list that the schema allows; the cause is an assertion."""
    assert request.schema is not None
    return {name: schema["enum"][0] for name, schema in request.schema["properties"].items()}


async def test_triage_hands_its_finding_to_an_agent(tmp_path: Path) -> None:
    """The run shows the hand-over, and the agent answers with a plan."""
    async with serving(example(tmp_path), model=ScriptedModel(first), functions=FUNCTIONS) as engine:
        run = await finished(engine, "triage", {"log": LOG})
        assert (run.state, run.error) == (RunState.COMPLETED, None)
        assert run.output["cause"] == "assertion"
        assert (run.output["file"], run.output["line"]) == ("tests/test_cart.py", 9)
        assert all(quote in LOG for quote in run.output["quotes"])
        (step,) = [s for path, s in run.steps.items() if path.endswith("fix_code")]
        assert step.child is not None
        plan = (await engine.runs.get(LOCAL, step.child)).output
        assert plan["agent"] == "fix-code"
        assert plan["open"] == [{"file": "tests/test_cart.py", "line": 9}]


async def test_the_inbox_triages_each_new_file_once(tmp_path: Path) -> None:
    """A file is told once, across runs; the files are left as they are; a missing folder is empty."""
    inbox = tmp_path / "inbox"
    async with serving(example(tmp_path), model=ScriptedModel(first), functions=FUNCTIONS, clock=Clock()) as engine:
        assert (await finished(engine, "inbox", {"folder": "inbox"})).output == {"triaged": [], "skipped": []}
        inbox.mkdir()
        (inbox / "one.log").write_text(LOG)
        (inbox / "two.log").write_bytes(b"x" * 1_000_001)
        for name in ("one.log", "two.log"):
            os.utime(inbox / name, (1000, 1000))
        run = await finished(engine, "inbox", {"folder": "inbox", "settle": 1})
        assert (run.state, run.error) == (RunState.COMPLETED, None)
        (found,) = run.output["triaged"]
        assert (found["name"], found["size"], found["finding"]["cause"]) == ("one.log", len(LOG), "assertion")
        assert [s["name"] for s in run.output["skipped"]] == ["two.log"]
        again = await finished(engine, "inbox", {"folder": "inbox", "settle": 1})
        assert again.output == {"triaged": [], "skipped": []}
        assert (inbox / "one.log").read_text() == LOG


async def test_the_log_tools_are_the_halves_of_triage(tmp_path: Path) -> None:
    """What logs.cut answers, logs.choose can read."""
    async with serving(example(tmp_path), model=ScriptedModel(first), functions=FUNCTIONS) as engine:
        cut = await engine.tools.call(LOCAL, ToolCall("logs.cut", {"log": LOG}))
        assert not cut.is_error
        assert cut.structured["places"]
        chosen = await engine.tools.call(LOCAL, ToolCall("logs.choose", {"text": cut.structured["text"]}))
        assert not chosen.is_error, chosen.text
        assert set(chosen.structured) == {"quote", "cause", "place", "subject"}


async def test_the_example_policy_holds(tmp_path: Path) -> None:
    """A stranger may do nothing; an IDE's own call reaches the agents it is handed to."""
    stranger, ide = Principal("token:stranger"), Principal("token:ide-1")
    async with serving(example(tmp_path), model=ScriptedModel(first), functions=FUNCTIONS) as engine:
        assert engine.tools.list(stranger) == []
        with pytest.raises(PolicyDenied):
            await engine.tools.call(stranger, ToolCall("triage", {"log": LOG}))
        with pytest.raises(PolicyDenied):
            await engine.runs.start(ide, "inbox", {"folder": "inbox"})
        assert {t.name for t in engine.tools.list(ide)} == {"triage", "logs.cut", "logs.choose"}
        result = await engine.tools.call(ide, ToolCall("triage", {"log": LOG}))
        assert not result.is_error, result.text
        assert result.run_id is not None
        run = await engine.runs.get(ide, result.run_id)
        assert [s.child for path, s in run.steps.items() if path.endswith("fix_code")] != [None]
