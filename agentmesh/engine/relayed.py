"""Relayed: what an agent elsewhere made and asks, in the nouns of this mesh. Everything here is JSON in A2A 1.0's spelling."""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agentmesh.core import content
from agentmesh.core.agent import Json
from agentmesh.core.json_text import write_json
from agentmesh.core.run import JSON
from agentmesh.engine.conversation import text_of_parts
from agentmesh.errors import Fail

LARGEST: Final = 16 * 1024 * 1024
"""Bytes of JSON that the artifacts of one task may have together."""
ARTIFACTS: Final = 1000
PARTS: Final = 10_000
"""Of all artifacts of a task: whoever folds the journal copies an artifact at each piece of it."""
_ANSWER: Final = "urn:agentmesh:a2a:answer:1"
"""Key in a message's metadata by which an answer to a mesh names its question."""
_WORDS: Final = 4000


class Made:
    """The artifacts of one task, put together from their pieces."""

    def __init__(self, known: Mapping[str, Json]) -> None:
        self._artifacts: dict[str, dict[str, Any]] = {ident: dict(artifact) for ident, artifact in known.items()}
        self._pieces = sum(len(one.get("parts") or ()) for one in self._artifacts.values())
        self._size = sum(len(write_json(one)) for one in self._artifacts.values())

    def has(self, artifact: Json) -> bool:
        """Whether it is here just so already."""
        known = self._artifacts.get(str(artifact.get("artifactId", "")))
        return known is not None and known.get("parts") == artifact.get("parts")

    def add(self, artifact: Json, *, append: bool = False) -> None:
        """Fail when there are too many, or they are too large together."""
        ident = str(artifact.get("artifactId", ""))
        self._size += len(write_json(artifact))
        known = self._artifacts.get(ident)
        if append and known is not None:
            self._artifacts[ident] = {**known, "parts": [*known.get("parts", ()), *artifact.get("parts", ())]}
        else:
            if known is not None:
                self._size -= len(write_json(known))
            self._artifacts[ident] = dict(artifact)
        self._pieces += len(artifact.get("parts") or ())
        if self._size > LARGEST or len(self._artifacts) > ARTIFACTS or self._pieces > PARTS:
            most = f"{LARGEST // 1024 // 1024} MB, {ARTIFACTS} artifacts or {PARTS} parts"
            raise Fail(f"the task made more than {most}; it is given up")

    def parts(self) -> list[Json]:
        """Of all of them, in order; text that came in pieces is one."""
        found: list[Json] = []
        for artifact in self._artifacts.values():
            texts: list[str] = []
            for part in artifact.get("parts") or ():
                if set(part) <= {"text", "mediaType"} and isinstance(part.get("text"), str):
                    texts.append(part["text"])
                    continue
                if texts:
                    found.append({"text": "".join(texts)})
                    texts = []
                found.append(part)
            if texts:
                found.append({"text": "".join(texts)})
        return found


def blocks_of(parts: Sequence[Json], task: str) -> list[content.Block]:
    """An agent's parts as MCP content blocks."""
    found: list[content.Block] = []
    data = [part for part in parts if "data" in part]
    for part in parts:
        if "text" in part:
            found.append(content.text(str(part["text"])))
        elif "raw" in part or "url" in part:
            found.append(_file(part, task))
    if data and (len(data) > 1 or not found):
        found += [content.text(json.dumps(part["data"], ensure_ascii=False)) for part in data]
    return found


def _file(part: Json, task: str) -> content.Block:
    kind = str(part.get("mediaType") or "application/octet-stream")
    name = str(part.get("filename") or "file")
    if "url" in part:
        return {"type": "resource_link", "uri": part["url"], "name": name, "mimeType": kind}
    try:
        data = b64decode(str(part["raw"]))
    except (NotBase64, ValueError):
        raise Fail(f"the agent sent a file {name[:100]!r} that is not base64") from None
    if kind.startswith("image/"):
        return content.image(data, kind)
    if kind.startswith("audio/"):
        return content.audio(data, kind)
    return content.resource(f"a2a:{task}/{name}", data, kind)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a task asks."""

    words: str
    mark: str
    """Tells it from any other question of the task."""
    show: JSON = None
    form: Mapping[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    """Of the answer: which question of a mesh it is for."""
    approval: bool = False

    def parts_of(self, value: JSON) -> list[Json]:
        """An answer as the agent gets it: a message's own parts, else the values of the form."""
        if isinstance(value, Mapping) and isinstance(value.get("parts"), list):
            return list(value["parts"])
        if isinstance(value, Mapping) and list(value) == ["answer"] and isinstance(value["answer"], str):
            return [{"text": value["answer"]}]
        if isinstance(value, str):
            return [{"text": value}]
        if self.approval:
            return [{"data": {"approved": True, **(value if isinstance(value, Mapping) else {})}}]
        return [{"data": value if value is not None else {}}]


_OPEN: Final = {"type": "object", "properties": {"answer": {"type": "string", "title": "Answer"}}}
"""The form of a question in words."""


def question_of(message: Json) -> Asked:
    """What a task that waits for input asks by its status message: a mesh's one question as it is, of others their words."""
    parts: Sequence[Json] = message.get("parts") or ()
    asked = [
        part["data"]["question"]
        for part in parts
        if isinstance(part.get("data"), Mapping) and isinstance(part["data"].get("question"), Mapping)
    ]
    words = text_of_parts(parts)[:_WORDS] or "The agent needs more to go on."
    if len(asked) != 1 or not isinstance(asked[0].get("id"), str):
        files = [part for part in parts if "text" not in part]
        return Asked(words, f"{message.get('messageId', '')} {words}", files or None, _OPEN)
    question = asked[0]
    approval = question.get("kind") == "approval"
    form = question.get("form")
    return Asked(
        str(question.get("ask") or words)[:_WORDS], f"{question['id']} {question.get('digest')}", question.get("show"),
        _loosened(form) if isinstance(form, Mapping) else {"type": "object", "properties": {}} if approval else _OPEN,
        {_ANSWER: {"question": question["id"], "digest": str(question.get("digest") or "")}}, approval,
    )  # fmt: skip


def _loosened(form: Mapping[str, Any]) -> Mapping[str, Any]:
    """A form that takes a message's own parts too: who asked checks the answer."""
    return {"type": "object", "properties": form.get("properties") or {}}
