"""Meaning: how near messages are to skills by a model's embeddings.

The vectors of skills are worked out ahead, in a task of the application; a message waits for its own only as long as `PATIENCE`. What
is near is told from what is not by everyday sentences that no agent is for: a skill has to be nearer to the message than it is to
those, and than skills usually are. So the floors are the model's own, whichever model it is.
"""

from __future__ import annotations

import hashlib
import logging
import math
import statistics
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nlargest
from operator import mul
from typing import Final, NamedTuple

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ModelBackend
from agentmesh.engine.skill_index import Entry
from agentmesh.errors import MeshError

log = logging.getLogger("agentmesh.engine")

PATIENCE: Final = 0.5
"""Seconds that a message waits for its vector; then it is judged by its words alone."""
TEXT: Final = 2000
"""Characters of a message or a skill that are embedded."""
KEPT: Final = 512
"""Vectors of messages that are kept."""
BATCH: Final = 64
"""Skills that are asked for at once: what was made before an error is kept."""
AGAIN: Final = 30.0
"""Seconds until a model that did not answer is asked again."""
EXACT: Final = 100
"""Skills whose vectors are compared number by number; more are first compared by the signs of the numbers alone."""
FIRST: Final = 20
"""Skills that are told of at most."""
OFF_TOPIC: Final = (
    "Good morning, how are you?", "Tell me something funny.", "What is the capital of Australia?", "I am a little tired today.",
    "Which team won the final?", "Play my favourite song.", "Will it rain tomorrow?", "Sing a song for the children.",
    "What is the meaning of life?", "The quick brown fox jumps over the lazy dog.", "How do I bake bread?", "Who wrote Hamlet?",
)  # fmt: skip
"""Sentences that no agent is for."""


class Vector(NamedTuple):
    """A vector of length 1."""

    numbers: array[float]
    signs: int
    """Of its numbers, as bits."""


@dataclass(frozen=True, slots=True)
class Meant:
    """What is near a message. `note`: why it could not be told."""

    best: Sequence[tuple[float, Entry]] = ()
    """How far above what is by chance, the nearest first."""
    note: str = ""


class Meanings:
    """Compares messages with skills by the model that `a2a.embed` names."""

    def __init__(
        self, mesh: Mesh, backend: ModelBackend, *, sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        self._mesh = mesh
        self._backend = backend
        self._sleep = sleep
        self._patience = patience
        self._entries: Sequence[Entry] = ()
        self._vectors: dict[str, Vector] = {}
        """By what is said of a skill, made by `_made`."""
        self._strange: dict[str, Sequence[float]] = {}
        """By what is said of a skill: how near it is to each of the sentences that no agent is for."""
        self._made = ""
        self._ready: tuple[Sequence[Entry], Sequence[Vector], Sequence[float]] = ((), (), ())
        """The skills, their vectors, and how near each has to be to a message."""
        self._messages: OrderedDict[str, Vector] = OrderedDict()
        self._changed = anyio.Event()
        self.settled = anyio.Event()
        """Set while every skill there is has been worked out."""

    @property
    def model(self) -> str | None:
        """The model's name in agentmesh.yaml; None: there is none."""
        return self._mesh.file.a2a.embed

    def of(self, entries: Sequence[Entry]) -> None:
        """These are the skills now. Does not wait."""
        self._entries = entries
        self._again()

    def _again(self) -> None:
        if self.settled.is_set():
            self.settled = anyio.Event()
        self._changed.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Works the skills' vectors out whenever skills or the model change; until it is cancelled."""
        task_status.started()
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            model = self.model
            if model is None:
                continue
            try:
                await self._work(model, self._entries)
            except MeshError as error:
                log.warning("skills are compared by words alone for now: %s", error)
                await self._sleep(AGAIN)
                self._changed.set()

    async def _work(self, model: str, entries: Sequence[Entry]) -> None:
        made = self._by(model)
        if made != self._made:
            self._vectors, self._strange, self._made, self._ready = {}, {}, made, ((), (), ())
            self._messages.clear()
        texts = [_text(entry) for entry in entries]
        lacking = list(dict.fromkeys([text for text in (*OFF_TOPIC, *texts) if text not in self._vectors]))
        for at in range(0, len(lacking), BATCH):
            some = lacking[at : at + BATCH]
            for text, vector in zip(some, await self._backend.embed(model, some), strict=True):
                self._vectors[text] = _vector(vector)
        kept = {text: self._vectors[text] for text in (*OFF_TOPIC, *texts)}
        vectors = [kept[text] for text in texts]
        strangers = [kept[text] for text in OFF_TOPIC]
        unknown = [text for text in dict.fromkeys(texts) if text not in self._strange]
        self._strange.update(await anyio.to_thread.run_sync(partial(_strange, unknown, kept, strangers)))
        self._strange = {text: self._strange[text] for text in texts}
        floors = _floors([self._strange[text] for text in texts])
        self._vectors = kept  # what is not there any more is forgotten
        self._ready = entries, vectors, floors
        if self._entries is entries:
            self.settled.set()

    def _by(self, model: str) -> str:
        """The model and its weights, as far as they are known."""
        status = self._backend.status().get(model)
        return f"{model}@{status.revision if status is not None else ''}"

    async def near(self, text: str) -> Meant:
        """The skills that are near a message by what it means. Waits no longer than `patience`."""
        model = self.model
        if model is None:
            return Meant(note="no model makes embeddings")
        if self._by(model) != self._made:
            self._again()
            return Meant(note=f"by words alone: model {model!r} has not read the skills yet")
        if self._ready[0] is not self._entries and not self._ready[0]:
            return Meant(note=f"by words alone: model {model!r} has not read the skills yet")
        key = hashlib.sha256(text[:TEXT].encode()).hexdigest()
        vector = self._messages.get(key)
        entries, vectors, floors = self._ready
        if vector is None:
            try:
                with anyio.fail_after(self._patience):
                    vector = _vector((await self._backend.embed(model, [text[:TEXT]], timeout=self._patience))[0])
            except (MeshError, TimeoutError, LookupError) as error:
                said = (
                    f"did not answer within {self._patience:g} s"
                    if isinstance(error, TimeoutError)
                    else "did not answer"
                )
                return Meant(note=f"by words alone: model {model!r} {said}")
            self._messages[key] = vector
            while len(self._messages) > KEPT:
                self._messages.popitem(last=False)
        if vectors and len(vector.numbers) != len(vectors[0].numbers):
            self._made = ""  # another model answers by this name now
            self._again()
            return Meant(note=f"by words alone: model {model!r} has changed")
        known = set(map(id, self._entries)) if entries is not self._entries else None
        found = [
            ((score - floors[at]) / max(1.0 - floors[at], 1e-6), entries[at])
            for score, at in _nearest(vector, vectors, FIRST)
            if score > floors[at] and (known is None or id(entries[at]) in known)
        ]
        return Meant(sorted(found, key=lambda one: (-one[0], one[1].order)))


def _text(entry: Entry) -> str:
    """What is embedded of a skill."""
    skill = entry.skill
    lines = [f"{skill.name}: {skill.description}", ", ".join(skill.tags[:20]), *skill.examples[:5]]
    return "\n".join(line for line in lines if line)[:TEXT]


def _vector(numbers: Sequence[float]) -> Vector:
    length = math.sqrt(sum(map(mul, numbers, numbers))) or 1.0
    bits = int("".join("1" if number > 0 else "0" for number in numbers) or "0", 2)
    return Vector(array("f", [number / length for number in numbers]), bits)


def _nearest(vector: Vector, among: Sequence[Vector], first: int) -> list[tuple[float, int]]:
    """(cosine, place) of the nearest. Of many, only those whose numbers have the same signs most often are compared: 1 ms for 10,000."""
    numbers, signs = vector
    places: Sequence[int] = range(len(among))
    if len(among) > EXACT:
        away = [(signs ^ other.signs).bit_count() for other in among]
        cut = sorted(away)[EXACT - 1]
        places = [place for place, far in enumerate(away) if far <= cut]
    return nlargest(first, ((sum(map(mul, numbers, among[place].numbers)), place) for place in places))


def _strange(
    texts: Sequence[str], vectors: Mapping[str, Vector], strangers: Sequence[Vector]
) -> dict[str, Sequence[float]]:
    return {text: [sum(map(mul, stranger.numbers, vectors[text].numbers)) for stranger in strangers] for text in texts}


def _floors(strange: Sequence[Sequence[float]]) -> list[float]:
    """How near each skill has to be: nearer than to the second of the sentences (one of them may be its subject), and than to
    sentences the nearest skill usually is.
    """
    if not strange:
        return []
    usual = statistics.median(max(near) for near in zip(*strange, strict=True))
    return [max(usual, sorted(near)[-2]) for near in strange]
