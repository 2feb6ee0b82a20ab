"""Agent: who takes messages; Message, Part and Artifact as A2A 1.0 has them, without its SDK's types."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from agentmesh.core.policy import Principal

Json = Mapping[str, Any]
"""A message of the protocol as JSON, in the spelling of A2A 1.0 (ProtoJSON: `messageId`, `TASK_STATE_WORKING`)."""
TEXT, JSON_TYPE = "text/plain", "application/json"
MODES = (TEXT, JSON_TYPE)
"""Media types that a skill takes and gives when nobody says otherwise."""
PEER = "agent:"
"""What `Run.workflow` begins with when the run is one message to an agent elsewhere."""


@dataclass(frozen=True, slots=True)
class Skill:
    """One thing an agent can be asked to do (A2A 1.0.1 section 4.4.5): a workflow with `on.a2a`, or what a peer's card names."""

    id: str
    name: str
    description: str
    workflow: str
    """Empty for a peer's."""
    tags: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    input_schema: Mapping[str, Any] = field(default_factory=dict)
    agent: str | None = None
    """The agent that has it: a peer's name, or the own agent's that its file names; None: the mesh itself."""
    input_modes: tuple[str, ...] = MODES
    output_modes: tuple[str, ...] = MODES
    reply: bool | str = False
    """See `A2aTrigger.reply`."""
    tool: str = ""
    """Of a peer's: the name of the tool that it is, too."""


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension of the protocol that an agent declares (A2A 1.0.1 section 4.6)."""

    uri: str
    description: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as callers of this mesh may see it: the mesh's own, or a peer by its card."""

    name: str
    """In this mesh: the last part of its address, and the wire's `tenant`."""
    title: str
    description: str
    skills: tuple[Skill, ...] = ()
    version: str = ""
    peer: bool = False
    """It is elsewhere."""
    streaming: bool = True
    push: bool = True
    extended_card: bool = False
    extensions: tuple[Extension, ...] = ()
    speaks: tuple[str, ...] = ()
    """Of a peer: `JSONRPC 1.0`, `GRPC 0.3`, ...; what it is spoken to by comes first."""
    signed: Literal["", "verified", "unsigned", "unknown key"] = ""
    """What is known of the signature of a peer's card."""
    price: float | None = None
    documentation_url: str = ""
    provider: str = ""

    @property
    def idempotent(self) -> bool:
        """Whether the same message sent twice is one task to it."""
        return any(extension.uri == IDEMPOTENCY for extension in self.extensions)


IDEMPOTENCY = "urn:agentmesh:a2a:idempotency:1"
"""URI of the extension by which the same messageId of the same caller to the same agent is one task."""
HOPS = "urn:agentmesh:a2a:hops:1"
"""Key in a message's metadata: how often meshes have passed it on."""
MOST_HOPS = 8
"""A message that was passed on so often goes round in a circle."""
ROUTE = "urn:agentmesh:a2a:route:1"
"""Key in a Task's metadata: who took the message, and why."""

EXTENSIONS = (
    "urn:agentmesh:a2a:skill:1", "urn:agentmesh:a2a:answer:1", "urn:agentmesh:a2a:signal:1", IDEMPOTENCY, ROUTE,
)  # fmt: skip
"""URIs of the extensions that this mesh has; an operator may require them of clients."""


@dataclass(frozen=True, slots=True)
class AgentHealth:
    """How a peer is, as far as is known now. The mesh's own agents are always `up`."""

    state: Literal["up", "down", "unknown"] = "up"
    detail: str = ""
    """One sentence, when it is not up."""
    latency: float = 0.0
    """Seconds until it answers, lately (a moving average); 0: not known."""
    busy: int = 0
    """Messages that it works on for this mesh now."""


@dataclass(frozen=True, slots=True)
class Route:
    """Who takes a message, and why."""

    agent: str | None
    """A peer's name, or an own agent's; None: the mesh itself."""
    skill: str | None
    """None: left to the peer."""
    reason: str
    """One sentence: `skill 'refund' was named`, `its words fit 'refund' of billing best (4.1; next: ...)`."""
    score: float = 0.0
    others: tuple[tuple[str | None, str | None], ...] = ()
    """(agent, skill) that would have done too, the best first: where it may go on when nothing has been sent yet."""

    def to_json(self) -> dict[str, Any]:
        """Payload of RUN_ROUTED."""
        return {
            "agent": self.agent, "skill": self.skill, "reason": self.reason, "score": round(self.score, 3),
            "others": [{"agent": agent, "skill": skill} for agent, skill in self.others],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message or an artifact (A2A 1.0.1 section 4.1.6): exactly one of `text`, `data`, `raw` and `url`."""

    text: str | None = None
    data: Any = None
    media_type: str | None = None
    raw: str | None = None
    """Bytes of a file, as base64."""
    url: str | None = None
    """Where a file is. It is never fetched unless a step does so."""
    filename: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_data(self) -> bool:
        return self.text is None and self.raw is None and self.url is None

    def to_json(self) -> dict[str, Any]:
        """As A2A has it."""
        found: dict[str, Any]
        if self.text is not None:
            found = {"text": self.text}
        elif self.raw is not None:
            found = {"raw": self.raw}
        elif self.url is not None:
            found = {"url": self.url}
        else:
            found = {"data": self.data}
        if self.filename:
            found["filename"] = self.filename
        if self.media_type:
            found["mediaType"] = self.media_type
        if self.metadata:
            found["metadata"] = dict(self.metadata)
        return found

    @staticmethod
    def from_json(part: Mapping[str, Any]) -> Part:
        """From what `to_json` wrote, or an agent sent."""
        return Part(
            part.get("text"), part.get("data"), part.get("mediaType"), part.get("raw"), part.get("url"), part.get("filename"),
            part.get("metadata") or {},
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """A message from a user or an agent (A2A 1.0.1 section 4.1.4)."""

    message_id: str
    role: Literal["user", "agent"]
    parts: Sequence[Part]
    context_id: str | None = None
    task_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    extensions: tuple[str, ...] = ()
    reference_task_ids: tuple[str, ...] = ()

    @property
    def hops(self) -> int:
        """How often meshes have passed it on."""
        return hops_of(self.metadata)

    @property
    def text(self) -> str:
        """Its text parts, joined by line breaks."""
        return "\n".join(part.text for part in self.parts if part.text is not None)

    def to_json(self) -> dict[str, Any]:
        """As a run keeps it: A2A's Message, but `role` is user or agent."""
        found: dict[str, Any] = {
            "messageId": self.message_id,
            "role": self.role,
            "parts": [p.to_json() for p in self.parts],
            "contextId": self.context_id,
            "taskId": self.task_id,
            "metadata": dict(self.metadata),
        }
        if self.extensions:
            found["extensions"] = list(self.extensions)
        if self.reference_task_ids:
            found["referenceTaskIds"] = list(self.reference_task_ids)
        return found


@dataclass(frozen=True, slots=True)
class Sending:
    """A message with what its sender asks of whoever takes it."""

    message: Message
    agent: str | None = None
    """The agent it was sent to; None: the mesh, which chooses among all of them."""
    skill: str | None = None
    tags: tuple[str, ...] = ()
    """Of the skill, when no skill is named."""
    accepted: tuple[str, ...] = ()
    """`acceptedOutputModes`; empty: any."""
    streaming: bool = False
    extensions: tuple[str, ...] = ()
    """URIs that the client activates (`A2A-Extensions`)."""
    idempotent: bool = False
    """The same messageId of this caller to this agent is the same task."""


@dataclass(frozen=True, slots=True)
class PeerCall:
    """On whose behalf a peer is spoken to, and how."""

    principal: Principal
    extensions: tuple[str, ...] = ()
    """URIs to activate, where the peer's card declares them."""
    accepted: tuple[str, ...] = ()
    """`acceptedOutputModes`; empty: any."""
    push: tuple[str, str] | None = None
    """(URL, token) to send push notifications to, when the peer can and the task is not streamed."""
    timeout: float | None = None
    """Seconds without a word; None: the peer's own."""


@runtime_checkable
class AgentPeer(Protocol):
    """An agent elsewhere. What it says is JSON in A2A 1.0's spelling, whichever version and binding it speaks.

    Raises NotSent when no byte of a request can have left, Unanswered when it may have been done and no answer came, Retry when it said
    that trying again may help, NotFound for a task it does not know, InvalidInput for what it calls the caller's mistake, Conflict for a
    task that cannot be cancelled or takes no message, UnsupportedMedia, Fail for every other refusal and for an answer that is none.
    """

    @property
    def name(self) -> str: ...

    def agent(self) -> Agent | None:
        """By its card as it is known now; None before it was read for the first time."""

    def health(self) -> AgentHealth: ...

    def send(self, message: Json, call: PeerCall) -> AsyncGenerator[Json, None]:
        """Sends a Message. What comes back: `{message}` alone, or `{task}` and then `{statusUpdate}`, `{artifactUpdate}` or `{task}`.

        Streams where the peer streams; else the one answer to SendMessage with `returnImmediately`. It may end before the task does: then
        `follow`, or `get` now and then. Closing it tells the peer nothing.
        """

    def follow(self, task_id: str, call: PeerCall) -> AsyncGenerator[Json, None]:
        """The task as it is now, then what happens to it; Conflict when it has ended, Fail when the peer does not stream."""

    async def get(self, task_id: str, call: PeerCall, *, history_length: int | None = None) -> Json:
        """The Task as it stands."""

    async def find(self, message_id: str, since: float, call: PeerCall) -> Json | None:
        """The Task that a message began, among those changed since then (Unix seconds); None: it has none, or cannot be asked."""

    async def cancel(self, task_id: str, call: PeerCall) -> Json:
        """Asks the peer to end a task: the Task afterwards."""


@runtime_checkable
class Inspected(Protocol):
    """An agent elsewhere that operators can look into."""

    def facts(self) -> Json:
        """{card, trouble, why_not, etag, requires, interfaces: [{url, binding, version, tenant, used, why_not}]}: where its card is, what
        was wrong at the last look, why messages are not sent to it, and every way to it with what keeps it from being used.
        """


def hops_of(metadata: Mapping[str, Any]) -> int:
    """How often meshes have passed on the message with this metadata."""
    said = metadata.get(HOPS)
    return said if isinstance(said, int) and not isinstance(said, bool) and said > 0 else 0
