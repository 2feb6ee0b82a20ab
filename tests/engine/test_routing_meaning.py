"""Messages and skills compared by what they mean, with a scripted model of two subjects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.agent import AgentHealth, Route
from agentmesh.core.model import ModelStatus
from agentmesh.engine.choosing import NoAgent
from agentmesh.engine.meaning import OFF_TOPIC, Meanings
from agentmesh.engine.routing import Router
from agentmesh.errors import ModelUnavailable
from tests.engine.test_routing import peer, skill, text

pytestmark = pytest.mark.anyio

SUBJECTS = (
    ("refund", "money", "reimburse", "dough"),
    ("parcel", "shipment", "box", "delivery"),
    ("penguins", "song", "rain"),
    ("cellar",),
)
AGENTS = [
    peer("billing", skill("issue-refund", "Gives customers their money back.")),
    peer("post", skill("track-parcel", "Tells where a shipment is.")),
]


def vector(said: str) -> list[float]:
    """How much of each subject is in a text, and a little of something else."""
    low = said.lower()
    return [sum(word in low for word in subject) + 0.05 for subject in SUBJECTS] + [0.3]


def mesh(embed: str | None = "near") -> Any:
    return SimpleNamespace(file=SimpleNamespace(a2a=SimpleNamespace(embed=embed)))


@asynccontextmanager
async def routed(
    model: Any, agents=AGENTS, of: Any = None, patience: float = 5.0
) -> AsyncIterator[tuple[Router, Meanings]]:
    """A router that has read everything."""
    meanings = Meanings(of or mesh(), model, patience=patience, sleep=lambda _: anyio.sleep_forever())
    router = Router(meanings)
    async with anyio.create_task_group() as tasks:
        await tasks.start(meanings.run)
        await router.read(agents)
        yield router, meanings
        tasks.cancel_scope.cancel()


async def ask(router: Router, words: str, agents=AGENTS, **more) -> Route:
    return await router.choose(
        text(words, **more), agents, health=lambda _: AgentHealth(), allowed=more.get("allowed", lambda _: True)
    )


async def test_a_message_without_a_word_of_the_skill_finds_it_by_meaning():
    """And the reason says that it was the meaning."""
    with anyio.fail_after(5):
        async with routed(ScriptedModel(vectors=vector)) as (router, meanings):
            await meanings.settled.wait()
            found = await ask(router, "I demand my dough returned")
            assert (found.agent, found.skill) == ("billing", "issue-refund")
            assert "by its meaning" in found.reason
            with pytest.raises(NoAgent):
                await ask(router, "sing a song about penguins")


async def test_skills_are_embedded_once_and_away_from_messages():
    """A message costs one text; the same message none. A card that changes costs its own skill."""
    with anyio.fail_after(5):
        model = ScriptedModel(vectors=vector)
        async with routed(model) as (router, meanings):
            await meanings.settled.wait()
            assert sum(map(len, model.embedded)) == len(OFF_TOPIC) + 2
            await ask(router, "my dough")
            await ask(router, "my dough")
            assert model.embedded[-1] == ("my dough",)
            assert sum(map(len, model.embedded)) == len(OFF_TOPIC) + 3
            now = [AGENTS[0], peer("post", skill("collect-box", "Fetches a box from your door."))]
            await router.read(now)
            await meanings.settled.wait()
            assert [len(texts) for texts in model.embedded[-1:]] == [1]
            assert (await ask(router, "delivery", now)).skill == "collect-box"


async def test_before_the_skills_are_read_words_decide_and_the_reason_says_so():
    router = Router(Meanings(mesh(), ScriptedModel(vectors=vector)))
    found = await ask(router, "I want a refund of my money")
    assert found.agent == "billing"
    assert found.reason.endswith("by words alone: model 'near' has not read the skills yet")


@pytest.mark.parametrize("how", ["slow", "broken"])
async def test_a_model_that_does_not_answer_leaves_it_to_the_words(how):
    """Within the time that a message may wait."""
    stuck = False

    async def script(said: str) -> list[float] | BaseException:
        if stuck and how == "slow":
            await anyio.sleep_forever()
        return ModelUnavailable("gone") if stuck else vector(said)

    with anyio.fail_after(5):
        async with routed(ScriptedModel(vectors=script), patience=0.05) as (router, meanings):
            await meanings.settled.wait()
            stuck = True
            found = await ask(router, "I want a refund of my money")
            assert found.agent == "billing"
            assert "by words alone: model 'near' did not answer" in found.reason


async def test_new_weights_are_a_new_model():
    """Vectors of another revision are not compared with."""

    class Changing(ScriptedModel):
        revision = "1"

        def status(self):
            return {"near": ModelStatus("near", "ready", revision=self.revision)}

    with anyio.fail_after(5):
        model = Changing(vectors=vector)
        async with routed(model) as (router, meanings):
            await meanings.settled.wait()
            first = len(model.embedded)
            model.revision = "2"
            assert "has not read the skills yet" in (await ask(router, "refund money")).reason
            await meanings.settled.wait()
            assert len(model.embedded) > first
            assert "words alone" not in (await ask(router, "refund money")).reason


async def test_without_a_model_nothing_is_embedded():
    model = ScriptedModel(vectors=vector)
    async with routed(model, of=mesh(None)) as (router, _):
        assert "words alone" not in (await ask(router, "I want a refund of my money")).reason
    assert model.embedded == []


async def test_many_skills_are_compared_by_signs_first():
    """What is nearest is found among thousands."""
    many = [
        peer(f"p{i}", *(skill(f"chore-{i}-{j}", f"Does chore {i} {j} in the cellar.") for j in range(10)))
        for i in range(40)
    ]
    with anyio.fail_after(20):
        async with routed(ScriptedModel(vectors=vector), [*AGENTS, *many]) as (router, meanings):
            await meanings.settled.wait()
            found = await ask(router, "my dough", [*AGENTS, *many])
            assert found.agent == "billing"
