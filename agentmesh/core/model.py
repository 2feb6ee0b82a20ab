"""Model: a language model behind an OpenAI-compatible endpoint, ours to deploy or somebody else's to call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Replicas(BaseModel):
    """How many copies of a model run; `min: 0` is not built yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    min: int = Field(1, ge=0, le=1024)
    max: int = Field(1, ge=1, le=1024)


class Deploy(BaseModel):
    """How AgentMesh serves a model itself: Ray Serve with an engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    engine: Literal["vllm"] = "vllm"
    device: Literal["cpu", "gpu"] | None = None
    """None: gpu when `gpus` is set, else cpu."""
    gpus: float = Field(0, ge=0)
    replicas: Replicas = Replicas()
    max_model_len: int | None = Field(None, ge=16)
    tool_parser: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """vLLM's name of the form in which the model writes calls of tools, such as `hermes`; None: it is offered no tools."""
    adapters: dict[str, str] = {}


class Price(BaseModel):
    """Money per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    input: float = Field(0, ge=0)
    output: float = Field(0, ge=0)


class Model(BaseModel):
    """One entry of `models:`; either `source` with `deploy`, or `url` with `model`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str | None = None
    """`builtin:NAME`, a folder, or a Hugging Face id."""
    deploy: Deploy | None = None
    url: str | None = None
    """Base address ending in `/v1`."""
    model: str | None = None
    """The name the endpoint knows it by."""
    key: str | None = None
    price: Price | None = None
    concurrency: int = Field(64, ge=1)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that a model asks for. `arguments` is the model's own text, which may not be JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat completion. `schema`: a JSON Schema the answer is decoded under, or None for free text."""

    model: str
    """The mesh's name of the model."""
    messages: Sequence[Mapping[str, Any]]
    """OpenAI chat messages: `role` and `content`; `tool_calls` of an assistant, `tool_call_id` of a tool."""
    tools: Sequence[Mapping[str, Any]] = ()
    """OpenAI function tools that the model may ask for: `{type: function, function: {name, description, parameters}}`."""
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    stream: bool = False
    """False: the backend may answer in one chunk, which is faster."""
    timeout: float = 120.0
    """Seconds for the whole answer once the model is ready."""
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further members of the request body in OpenAI's words, such as `stop` and `tool_choice`; those above go before them."""


@dataclass(
    slots=True, unsafe_hash=True
)  # not to be changed; `frozen` makes it four times slower to make: steps make many
class Usage:
    """What an answer cost, by the endpoint's own count."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.seconds + other.seconds,
        )

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class ChatChunk:
    """A piece of an answer. The last has `finish_reason` and `usage`."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None
    """The endpoint's own name for what answered, with its revision where it tells."""
    tool_uses: tuple[ToolUse, ...] = ()
    """Whole ones; in the last chunk."""


class ModelState(StrEnum):
    """Where a model stands. `REMOTE`: a `url` we do not manage."""

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What `agentmesh models status` shows of one model."""

    name: str
    state: ModelState
    message: str = ""
    """Plain words: `starting Ray`, `loading weights`, or why it failed and what to do."""
    urls: tuple[str, ...] = ()
    """Base addresses that answer now, each ending in `/v1`."""
    replicas: int = 0
    source: str = ""
    revision: str = ""
    """Identifies the weights; part of what a run is pinned to."""
    since: float = 0.0
    """Unix seconds of the last change of `state`."""
    log: str = ""
    """Path of the log that says more."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name, "state": self.state.value, "message": self.message, "urls": list(self.urls),
            "replicas": self.replicas, "source": self.source, "revision": self.revision, "since": self.since, "log": self.log,
        }  # fmt: skip


Progress = Callable[[str], None]
"""Called with a line in plain words while something long goes on; must not block."""


class ModelBackend(Protocol):
    """Whatever answers chat requests: an endpoint over HTTP, or a script in memory."""

    def chat(self, request: ChatRequest, progress: Progress | None = None) -> AsyncIterator[ChatChunk]:
        """Streams the answer. Waits for a model that is still loading, saying so to `progress`.

        Raises ModelUnavailable (may be retried), ModelRefused (the request is at fault) or ModelFailed.
        """
        ...

    async def embed(self, model: str, texts: Sequence[str], *, timeout: float = 60.0) -> Sequence[Sequence[float]]:
        """The vectors of texts, in their order and all of one length. `timeout`: seconds for all of it, loading included.

        Raises as `chat` does; ModelUnavailable also when `timeout` has passed.
        """
        ...

    def status(self) -> Mapping[str, ModelStatus]:
        """Where each model stands now; never waits."""
        ...
