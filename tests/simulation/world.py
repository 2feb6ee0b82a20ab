"""World: what the simulated processes share: the clock, the outside with its memory of what was done, and the database."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import Said, use
from agentmesh.core.model import ChatRequest
from agentmesh.core.outside import HttpAnswer, HttpRequest
from agentmesh.errors import NotSent, StoreError, Unanswered
from tests.simulation.loop import SimulatedLoop

EPOCH = 1_700_000_000.0


class Gone(StoreError):
    """The simulated process that asks is dead."""


@dataclass
class Effects:
    """What was done outside, by key; survives every process."""

    done: Counter[str] = field(default_factory=Counter)
    what: dict[str, str] = field(default_factory=dict)
    """Key -> the step it was for, by URL."""
    clashes: list[str] = field(default_factory=list)
    """Keys that were used for two different things."""
    refused: Counter[str] = field(default_factory=Counter)

    def do(self, key: str, what: str) -> None:
        self.done[key] += 1
        if self.what.setdefault(key, what) != what:
            self.clashes.append(f"{key}: {self.what[key]} and {what}")


class World:
    """Lives as long as one schedule."""

    def __init__(self, loop: SimulatedLoop, rng: random.Random, database: Callable[..., MemoryStore]) -> None:
        self.loop = loop
        self.rng = rng
        self.jump = 0.0
        """Seconds that the machines' clocks were moved."""
        self.database = database(clock=self.now)
        self.effects = Effects()
        self.out_until = 0.0
        """The database answers nothing before that time of the loop."""
        self.slow = rng.choice((0.0005, 0.004, 0.05))
        self.trace: list[str] = []

    def now(self) -> float:
        return EPOCH + self.loop.time() + self.jump

    @property
    def out(self) -> bool:
        return self.loop.time() < self.out_until

    def note(self, line: str) -> None:
        self.trace.append(f"{self.loop.time():10.4f} {line}")

    def pause(self) -> float:
        """A time that something takes: mostly short, now and then long."""
        return self.rng.expovariate(1 / self.slow) if self.rng.random() < 0.97 else self.rng.uniform(0, 3)


class Life:
    """Whether one simulated process is there, and whether it moves at all. Everything it does outside passes `gate`."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.frozen_until = 0.0
        self.skew = 0.0

    def clock(self) -> float:
        """This machine's clock."""
        return self.world.now() + self.skew

    def check(self) -> None:
        if self.dead:
            raise Gone(f"{self.name} is dead")

    async def gate(self, seconds: float | None = None) -> None:
        """Takes so long (by default a moment), longer while the process is stopped (SIGSTOP); Gone when it is dead."""
        self.check()
        if seconds is None:
            seconds = self.world.pause()
        if seconds:
            await anyio.sleep(seconds)
        while self.frozen_until > self.world.loop.time():  # noqa: ASYNC110 - it may be stopped again
            await anyio.sleep(self.frozen_until - self.world.loop.time())
        self.check()


class Outside:
    """The HttpClient, the model and the functions of one process."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._world = life.world

    async def send(self, request: HttpRequest) -> HttpAnswer:
        """`http://up/KIND/STEP`: `do` works; `lose` does it and loses each key's first answer; `away` refuses each key's first two;
        `slow` does it and takes a minute.
        """
        key = next((v for k, v in request.headers.items() if k.lower() == "idempotency-key"), "no key")
        kind, _, step = request.url.removeprefix("http://up/").partition("/")
        await self._life.gate()
        if kind == "away":
            self._world.effects.refused[key] += 1
            if self._world.effects.refused[key] <= 2:
                raise NotSent("nobody listens there")
        self._do(key, step)
        await self._life.gate()
        if kind == "slow":
            await self._life.gate(60)
        if kind == "lose" and self._world.effects.done[key] == 1:
            raise Unanswered("the answer was lost")
        return HttpAnswer(200, {"content-type": "application/json"}, {"step": step})

    async def work(self, ctx: Any, *, step: str) -> dict[str, Any]:
        """A `python` function."""
        await self._life.gate()
        self._do(ctx.key, step)
        await self._life.gate()
        return {"step": step}

    async def refuse(self, ctx: Any) -> None:
        """A `python` function that never works."""
        await self._life.gate()
        raise ValueError("this never works")

    async def model(self, request: ChatRequest) -> Said:
        """Grades: wrong at first, right when told so. `agent STEP`: two calls of a tool, then one, then the grade."""
        await self._life.gate()
        kind, _, step = str(request.messages[0].get("content")).partition(" ")
        if kind == "agent":
            turn = sum(message["role"] == "assistant" for message in request.messages)
            if turn < 2:
                return [use("desk.act", step=f"{step} turn {turn} call {n}") for n in range(2 - turn)]
            return {"grade": 5}
        return {"grade": 0 if len(request.messages) <= 1 else 5}

    async def sleep(self, seconds: float) -> None:
        await self._life.gate(seconds)

    def _do(self, key: str, step: str) -> None:
        self._world.effects.do(key, step)
        self._world.note(f"{self._life.name} did {key}")
