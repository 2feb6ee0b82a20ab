"""Script: a small YAML file that says what a model answers, and the choice of the answer to one question.

    revision: weights-1               # of the model; default `scripted`
    latency: 20ms                     # before every answer
    answers:                          # the first that fits is given
      - match: refund                 # a regular expression in the last user message
        say: {queue: billing}         # a text, or a value that is said as JSON
      - match: order [0-9]+
        turn: 1                       # the model's first turn in this conversation
        tools: [{name: desk.find, arguments: {order: "7"}}]
      - attempt: 1                    # the first time that this Idempotency-Key asks
        fault: lose                   # hang | cut | lose, or error: {status: 503}
      - say: anything else

Nothing here does I/O or knows a protocol. What is said is said as it stands: a `response_format` of the request is not
looked at, so that a script can break it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from agentmesh.core.workflow import Duration, seconds

Fault = Literal["hang", "cut", "lose"]
"""`hang`: no answer until the caller leaves. `cut`: half an answer, then the connection ends. `lose`: the work is done and counted,
then the connection ends without a byte of the answer."""


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return text


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


def _duration(value: Duration) -> Duration:
    seconds(value)
    return value


Time = Annotated[Duration, AfterValidator(_duration)]
Numbers = Annotated[tuple[Annotated[int, Field(ge=1)], ...] | None, BeforeValidator(_numbers)]
"""One number or several, from 1."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScriptedTool(_Part):
    """A tool that the model asks for. A name with `.` also finds the tool that the request offers with other signs in its place."""

    name: str
    arguments: Any = {}
    """A text is handed on as it is, so that a script can send arguments that are not JSON."""
    id: str | None = None


class ScriptedError(_Part):
    status: int = Field(500, ge=400, le=599)
    message: str = "the script says so"
    retry_after: float | None = Field(None, ge=0)
    """Seconds, sent as Retry-After."""


class ScriptedUsage(_Part):
    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)
    cached_tokens: int = Field(0, ge=0)


class ScriptedAnswer(_Part):
    """What is said to the questions that fit every condition given."""

    # conditions
    match: Annotated[str, AfterValidator(_pattern)] | None = None
    """Regular expression, searched in the last user message."""
    model: str | None = None
    """The name that the request asks for."""
    call: Numbers = None
    """The how-manieth request to this server it is."""
    attempt: Numbers = None
    """The how-manieth request with this Idempotency-Key; without the header, with the same messages."""
    turn: Numbers = None
    """The how-manieth answer of the model in this conversation."""
    times: int | None = Field(None, ge=1)
    """Given so often at most; None: always."""
    # the answer
    say: Any = None
    tools: tuple[ScriptedTool, ...] = ()
    finish: str | None = None
    """finish_reason; None: `tool_calls` with tools, else `stop`."""
    usage: ScriptedUsage | None = None
    """None: words are counted."""
    latency: Time | None = None
    pace: Time = 0.0
    """Between the pieces of a stream."""
    # or not
    error: ScriptedError | None = None
    fault: Fault | None = None


class ScriptFile(_Part):
    """The file."""

    model: str = "scripted"
    """Its name at /v1/models."""
    revision: str = "scripted"
    """Identifies the weights that it pretends to have; sent as `system_fingerprint`, and at /v1/models."""
    latency: Time = 0.0
    answers: tuple[ScriptedAnswer, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, numbered."""

    number: int
    """From 1, over all requests."""
    attempt: int
    key: str | None
    last: str
    """The last user message."""
    body: Mapping[str, Any]


@dataclass
class Script:
    """The file and what was asked so far."""

    file: ScriptFile
    calls: int = 0
    attempts: Counter[str] = field(default_factory=Counter)
    given: Counter[int] = field(default_factory=Counter)

    def ask(self, body: Mapping[str, Any], key: str | None) -> tuple[Asked, int, ScriptedAnswer | None]:
        """Counts a request: it, and its answer with its place in the file (from 0); -1 and None when none fits."""
        self.calls += 1
        messages = [m for m in body.get("messages") or () if isinstance(m, Mapping)]
        told = key if key is not None else json.dumps(messages)
        self.attempts[told] += 1
        last = next((_text(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), "")
        asked = Asked(self.calls, self.attempts[told], key, last, body)
        turn = 1 + sum(1 for m in messages if m.get("role") == "assistant")
        for place, answer in enumerate(self.file.answers):
            if self._fits(answer, place, asked, turn):
                self.given[place] += 1
                return asked, place, answer
        return asked, -1, None

    def _fits(self, answer: ScriptedAnswer, place: int, asked: Asked, turn: int) -> bool:
        return (
            (answer.model is None or answer.model == asked.body.get("model"))
            and (answer.call is None or asked.number in answer.call)
            and (answer.attempt is None or asked.attempt in answer.attempt)
            and (answer.turn is None or turn in answer.turn)
            and (answer.times is None or self.given[place] < answer.times)
            and (answer.match is None or re.search(answer.match, asked.last) is not None)
        )

    def latency(self, answer: ScriptedAnswer) -> float:
        """Seconds before the answer."""
        return seconds(self.file.latency if answer.latency is None else answer.latency)

    def forget(self) -> None:
        """Counts from the beginning."""
        self.calls = 0
        self.attempts.clear()
        self.given.clear()


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as OpenAI's chat completions have it."""

    id: str
    model: str
    revision: str
    text: str | None
    tool_calls: list[dict[str, Any]]
    finish: str
    usage: dict[str, Any]

    def whole(self) -> dict[str, Any]:
        """A `chat.completion`."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        return self._document("chat.completion", choice) | {"usage": self.usage}

    def pieces(self, *, with_usage: bool) -> list[dict[str, Any]]:
        """`chat.completion.chunk`s: text word by word, a call's name first and its arguments in two pieces."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in re.findall(r"\s*\S+\s*$|\s*\S+", self.text or "")]
        for index, call in enumerate(self.tool_calls):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            head: dict[str, Any] = {
                "index": index,
                "id": call["id"],
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }
            deltas.append({"tool_calls": [head]})
            half = len(arguments) // 2
            for piece in (arguments[:half], arguments[half:]):
                deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        choices.append({"index": 0, "delta": {}, "finish_reason": self.finish})
        found = [self._document("chat.completion.chunk", choice) for choice in choices]
        if with_usage:
            found.append(self._document("chat.completion.chunk") | {"usage": self.usage})
        return found

    def _document(self, kind: str, *choices: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id, "object": kind, "created": 0, "model": self.model, "system_fingerprint": self.revision,
            "choices": list(choices),
        }  # fmt: skip


def answer_to(asked: Asked, answer: ScriptedAnswer, file: ScriptFile) -> Answered:
    """The completion that this answer is to this question."""
    text = answer.say if isinstance(answer.say, str) else None if answer.say is None else json.dumps(answer.say)
    offered = [
        str(tool["function"].get("name"))
        for tool in asked.body.get("tools") or ()
        if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping)
    ]
    calls = [_call(tool, offered, f"call_{asked.number}_{i}") for i, tool in enumerate(answer.tools)]
    finish = answer.finish or ("tool_calls" if calls else "stop")
    if answer.usage is not None:
        prompt, said, cached = answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.cached_tokens
    else:
        prompt = sum(len(_text(m.get("content")).split()) for m in asked.body.get("messages") or ())
        said, cached = len((text or "").split()) + sum(len(str(c["function"]).split()) for c in calls), 0
    usage: dict[str, Any] = {
        "prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip
    model = str(asked.body.get("model") or file.model)
    if text is None and not calls:
        text = ""
    return Answered(f"chatcmpl-{asked.number}", model, file.revision, text, calls, finish, usage)


def _call(tool: ScriptedTool, offered: list[str], call_id: str) -> dict[str, Any]:
    name = tool.name
    if name not in offered:
        plain = _plain(name)
        name = next((o for o in offered if _plain(o) == plain), name)
    arguments = tool.arguments if isinstance(tool.arguments, str) else json.dumps(tool.arguments)
    return {"id": tool.id or call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name)


def _text(content: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""
