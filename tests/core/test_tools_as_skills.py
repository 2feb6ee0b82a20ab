"""Tools as skills (`a2a.tools` of agentmesh.yaml): what is offered, and what is refused when the files are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentmesh.adapters.files import load_mesh
from agentmesh.errors import ProjectError
from agentmesh.settings import Secrets

DESK = """
name: desk
tools:
  shout: {description: Says it louder., python: "json:dumps", input: {type: object, properties: {text: {type: string}}}}
  greet:
    description: Greets.
    python: "json:loads"
    elicit: {who: {message: "Who?", form: {type: object, properties: {name: {type: string}}}}}
  answer: {description: Answers., workflow: answer}
"""
ANSWER = """
name: answer
description: Answers.
on: {MORE}
input: {type: object, properties: {text: {type: string}}, required: [text]}
steps:
  - {id: one, STEP}
"""
SET = "set: {said: yes}"


def write(folder: Path, tools: str, on: str = "mcp: {name: reply}", step: str = SET) -> Path:
    (folder / "agentmesh.yaml").write_text(f"name: test\na2a: {{tools: [{tools}]}}\n")
    for name, text in (("servers/desk", DESK), ("workflows/answer", ANSWER.replace("MORE", on).replace("STEP", step))):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_tool_is_a_skill_under_its_own_name(tmp_path: Path) -> None:
    """Of a server file, of a workflow behind one, and of a workflow that is a tool; each with what a run of it is a run of."""
    skills = load_mesh(write(tmp_path, "desk.shout, desk.answer, reply"), Secrets()).skills
    assert {skill.id: skill.workflow for skill in skills.values()} == {
        "desk.shout": "tool:desk.shout", "desk.answer": "answer", "reply": "answer",
    }  # fmt: skip
    assert skills["desk.shout"].description == "Says it louder."


@pytest.mark.parametrize(
    ("tools", "on", "step", "said"),
    [
        ("desk.shoot", "mcp: {}", SET, "desk.shout"),
        ("desk.greet", "mcp: {}", SET, "asks its caller"),
        ("desk.shout", "a2a: {skill: desk.shout}", SET, "desk.shout"),
        ("desk.shout", "mcp: {}", 'agent: {skill: desk.shout, message: "${{ input.text }}"}', "tool: desk.shout"),
    ],
)
def test_what_cannot_be_a_skill_is_refused(tmp_path: Path, tools: str, on: str, step: str, said: str) -> None:
    """A name that is none, a tool that asks first, a skill's name twice; and a step that sends a message to what it may call."""
    with pytest.raises(ProjectError, match=said):
        load_mesh(write(tmp_path, tools, on, step), Secrets())
