"""Programs: small random workflows over all verbs, and what a client must say for them to end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

GRADED = {
    "llm": {
        "prompt": "grade ${{ input.text }}",
        "output": {
            "type": "object",
            "properties": {"grade": {"type": "integer"}},
            "required": ["grade"],
            "additionalProperties": False,
        },
    },
    "validate": [{"ensure": "output.grade > 0", "message": "the grade must be above 0"}],
    "on_invalid": [{"repair": 2}],
}
TOOLS: Mapping[str, Mapping[str, Any]] = {
    "act": {
        "description": "acts",
        "input": {"type": "object", "properties": {"step": {"type": "string"}}, "required": ["step"]},
        "python": "sim:work",
    }
}


@dataclass
class Program:
    """One workflow."""

    name: str
    steps: list[dict[str, Any]] = field(default_factory=list)
    signals: Counter[str] = field(default_factory=Counter)
    """Name -> how many waits take one, at most."""
    fails: bool = False
    """It ends in a step that never works, and undoes what can be undone."""
    chancy: bool = False
    """What comes out depends on what went wrong."""
    concurrency: int | None = None

    def document(self) -> dict[str, Any]:
        more = {} if self.concurrency is None else {"concurrency": self.concurrency}
        return {"name": self.name, "steps": self.steps, **more}


class Generator:
    """Draws programs. `children`: names of the programs that a step may start."""

    def __init__(self, rng: random.Random, verbs: frozenset[str] | None = None) -> None:
        self._rng = rng
        self._verbs = verbs
        self._number = 0
        self._children: list[str] = []

    def programs(self) -> list[Program]:
        """One that is started, and the children it may start, last first."""
        rng = self._rng
        found = [self.program(f"child{number}", rng.randint(1, 3)) for number in range(rng.randint(0, 2))]
        self._children = [child.name for child in found]
        main = self.program("main", rng.randint(1, 7), ending=True)
        if rng.random() < 0.2:
            main.concurrency = rng.randint(1, 2)
        return [main, *found]

    def program(self, name: str, length: int, *, ending: bool = False) -> Program:
        self._program = Program(name)
        self._number = 0
        self._program.steps = self._block(length, 2, 1)
        if ending and self._may("compensate") and self._rng.random() < 0.15:
            self._program.fails = True
            self._program.steps.append({"id": "end", "python": "sim:refuse"})
        return self._program

    def _may(self, verb: str) -> bool:
        return self._verbs is None or verb in self._verbs

    def _block(self, length: int, depth: int, times: int) -> list[dict[str, Any]]:
        return [self._step(depth, times) for _ in range(length)]

    def _inner(self, depth: int, times: int) -> list[dict[str, Any]]:
        return self._block(self._rng.randint(1, 2), depth - 1, times)

    def _step(self, depth: int, times: int) -> dict[str, Any]:
        self._number += 1
        step: dict[str, Any] = {"id": f"s{self._number}"}
        simple: dict[str, Callable[[dict[str, Any], int], None]] = {
            "set": self._set, "http": self._http, "python": self._python, "tool": self._tool, "llm": self._llm,
            "agent": self._agent, "slow": self._slow, "timer": self._timer, "signal": self._signal,
            "approve": self._approve, "broken": self._broken,
        }  # fmt: skip
        blocks = {"map": self._map, "parallel": self._parallel, "switch": self._switch, "loop": self._loop}
        names = [name for name in simple if self._may(name)]
        if self._children and self._may("workflow"):
            names.append("workflow")
        if depth > 0:
            names += [name for name in blocks if self._may(name)]
        kind = self._rng.choice(names)
        if kind == "workflow":
            step |= {"workflow": self._rng.choice(self._children), "with": {"text": "${{ input.text }}"}}
        elif kind in simple:
            simple[kind](step, times)
        else:
            blocks[kind](step, depth, times)
        if self._rng.random() < 0.08:
            step["if"] = self._rng.choice(["true", "false", "input.text == 'hello'"])
        return step

    def _set(self, step: dict[str, Any], times: int) -> None:
        step["set"] = {"of": step["id"]}

    def _http(self, step: dict[str, Any], times: int) -> None:
        kind = self._rng.choices(("do", "away", "lose"), (8, 1, 1))[0]
        step["http"] = {"method": "POST", "url": f"http://up/{kind}/{step['id']}", "json": {"of": step["id"]}}
        if kind == "away":
            step["retry"] = {"attempts": 5, "backoff": 0.5}
        elif kind == "lose":
            if self._rng.random() < 0.5:
                step |= {"idempotent": True, "retry": {"attempts": 5, "backoff": 0.5}}
            else:
                step["on_error"] = "continue"
                self._program.chancy = True
        elif self._may("compensate") and self._rng.random() < 0.3:
            undo = f"http://up/do/{step['id']}-undo"
            step["compensate"] = {"http": {"method": "POST", "url": undo}, "retry": {"attempts": 3, "backoff": 0.5}}

    def _python(self, step: dict[str, Any], times: int) -> None:
        step |= {"python": "sim:work", "with": {"step": step["id"]}}

    def _tool(self, step: dict[str, Any], times: int) -> None:
        step |= {"tool": "desk.act", "with": {"step": step["id"]}}

    def _llm(self, step: dict[str, Any], times: int) -> None:
        step |= GRADED

    def _agent(self, step: dict[str, Any], times: int) -> None:
        prompt = f"agent {step['id']}"
        step["llm"] = {"prompt": prompt, "tools": ["desk.*"], "max_turns": 5, "output": GRADED["llm"]["output"]}

    def _slow(self, step: dict[str, Any], times: int) -> None:
        """Its answer comes long after its timeout."""
        step |= {
            "http": {"method": "POST", "url": f"http://up/slow/{step['id']}"},
            "timeout": 2,
            "on_error": "continue",
        }

    def _timer(self, step: dict[str, Any], times: int) -> None:
        step["wait"] = {"for": self._rng.choice((0.01, 1, 4.9, 7, 20))}

    def _signal(self, step: dict[str, Any], times: int) -> None:
        name = self._rng.choice(("go", "on"))
        self._program.signals[name] += times
        step["wait"] = {"signal": name, "expires": "30d"}

    def _approve(self, step: dict[str, Any], times: int) -> None:
        step["approve"] = {"ask": f"{step['id']}?", "expires": "30d"}

    def _broken(self, step: dict[str, Any], times: int) -> None:
        step |= {"python": "sim:refuse"}
        if self._may("on_error") and self._rng.random() < 0.6:
            step["on_error"] = {"steps": [self._plain()]}
        else:
            step["on_error"] = "continue"

    def _plain(self) -> dict[str, Any]:
        self._number += 1
        step: dict[str, Any] = {"id": f"s{self._number}"}
        self._python(step, 1)
        return step

    def _map(self, step: dict[str, Any], depth: int, times: int) -> None:
        count = self._rng.randint(1, 3)
        step |= {
            "map": {"over": f"[{', '.join(map(str, range(count)))}]", "as": "item", "at_once": self._rng.randint(1, 3)},
            "steps": self._inner(depth, times * count),
        }

    def _parallel(self, step: dict[str, Any], depth: int, times: int) -> None:
        step["parallel"] = {name: self._inner(depth, times) for name in ("a", "b", "c")[: self._rng.randint(2, 3)]}

    def _switch(self, step: dict[str, Any], depth: int, times: int) -> None:
        step |= {
            "switch": [{"when": self._rng.choice(("true", "false")), "steps": self._inner(depth, times)}],
            "else": self._inner(depth, times),
        }

    def _loop(self, step: dict[str, Any], depth: int, times: int) -> None:
        rounds = self._rng.randint(1, 3)
        step |= {"loop": {"max": rounds}, "steps": self._inner(depth, times * rounds)}
