"""No file crashes the loader: whatever stands in it, it loads or is told as faults, each at a line."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from agentmesh.adapters.files import load_mesh
from agentmesh.adapters.yaml_document import read_yaml
from agentmesh.errors import Fault, ProjectError
from agentmesh.settings import Secrets
from tests.docs_examples import EXAMPLES

ROUNDS = 60
FILES = {
    path.relative_to(EXAMPLES).as_posix(): read_yaml(path.read_bytes(), path.name).value
    for path in sorted(EXAMPLES.rglob("*.yaml"))
}
FILES |= {
    "servers/theirs.yaml": {
        "name": "theirs",
        "upstream": {
            "url": "https://a.example.com/mcp", "headers": {"X": "${{ secrets.DESK_HOOK }}"}, "timeout": "5s", "at_once": 3,
            "oauth": {"flow": "authorization_code", "client_id": "x", "scopes": ["a"], "issuer": "https://b.example.com"},
        },
        "expose": ["get_*"], "reads": ["get_*"], "approve": "never", "offer": "search", "pin": ["get_x"],
    },
    "servers/child.yaml": {
        "name": "child",
        "upstream": {"command": ["a", "b"], "env": {"A": "b"}, "cwd": "workflows", "memory": "64MiB"},
    },
    "servers/api.yaml": {
        "name": "api",
        "openapi": {
            "document": "https://a.example.com/openapi.json", "url": "https://a.example.com", "token": "t",
            "operations": {"x": {"name": "y", "description": "Y.", "arguments": {"a": 1}, "rename": {"b": "c"}}},
        },
    },
    "servers/shows.yaml": {
        "name": "shows",
        "tools": {
            "asks": {
                "description": "Asks.", "input": {"type": "object", "properties": {"a": {"type": "string"}}},
                "python": "os:getpgid", "execution": {"taskSupport": "optional"},
                "elicit": {"pid": {"message": "${{ input.a }}", "form": {"type": "object", "properties": {"b": {"type": "string"}}}}},
            }
        },
        "resources": {
            "text": {"uri": "s://a/{b}", "description": "A.", "text": "${{ input.b }}", "mime": "text/plain"},
            "file": {"uri": "s://f", "description": "F.", "file": "agentmesh.yaml", "subscribe": True},
            "python": {"uri": "s://p/{pid}", "description": "P.", "python": "os:getpgid"},
        },
        "prompts": {
            "p": {
                "description": "P.", "arguments": {"a": {"required": True, "values": ["x"]}},
                "messages": [{"text": "${{ input.a }}"}, {"role": "assistant", "resource": "s://f"}, {"file": "agentmesh.yaml"}],
            }
        },
    },
}  # fmt: skip
ODD: list[Any] = [
    *(None, True, 0, -1, 1.5, 10**18, "", "x", "${{ ", "}}", "${{ input.text }}", "${{ secrets.X }}", "${{ steps.a.output }}"),
    *("steps.x.output.y == null", "output.x", "loop.last.x", "error.code", "5m", "*", "input.text.matches('(')", "$ref"),
    *([], {}, [[]], {"a": {}}, {"$ref": "#/$defs/a"}, {"type": ["string"]}, {"enum": "${{ input.text }}"}, {"anyOf": []}),
    *({"allOf": [{}]}, {"type": "object", "properties": []}, {"properties": {"a": False}}, {"items": [{}]}),
]  # fmt: skip


def _parts(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(part for one in inner for part in _parts(one))]


PARTS = [part for value in FILES.values() for part in _parts(value)]
KEYS = sorted({key for part in PARTS if isinstance(part, dict) for key in part})


def mutated(value: Any, dice: random.Random) -> Any:
    """Some parts left out, renamed, doubled, or put in the place of others."""
    fate = dice.random()
    if fate < 0.06:
        return copy.deepcopy(dice.choice(ODD))
    if fate < 0.1:
        return copy.deepcopy(dice.choice(PARTS))
    if isinstance(value, list):
        return [mutated(one, dice) for one in value] + value[: dice.random() < 0.1]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, inner in value.items():
        fate = dice.random()
        if fate >= 0.02:
            found[key if fate >= 0.04 else dice.choice(KEYS)] = mutated(inner, dice)
    if dice.random() < 0.05:
        found[dice.choice(KEYS)] = copy.deepcopy(dice.choice(PARTS + ODD))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_no_file_crashes_the_loader(tmp_path: Path, seed: int) -> None:
    """JSON is YAML: the mutated files are written as that, one changed at a time."""
    dice = random.Random(seed)
    (tmp_path / "workflows").mkdir()
    (tmp_path / "servers").mkdir()
    base = ("agentmesh.yaml", "servers/desk.yaml", "workflows/trigger-a2a.yaml")
    for n in range(ROUNDS):
        name = dice.choice(base if dice.random() < 0.2 else list(FILES))
        for other in {*base, name}:
            value = mutated(FILES[other], dice) if other == name else FILES[other]
            (tmp_path / other).write_text(json.dumps(value, indent=1))
        told: list[Fault] = []
        try:
            load_mesh(tmp_path, Secrets({"DESK_HOOK": "k"}))
        except ProjectError as error:
            told = error.faults
        assert all(fault.line or fault.file == "agentmesh.yaml" for fault in told), (seed, n)
        if name not in base:
            (tmp_path / name).unlink()
