"""PeerSource: every skill of an A2A agent elsewhere as a tool, `PEER.SKILL`.

A call sends one message and follows the task to its end. What the agent asks meanwhile is put to the client behind the call; a client
that has to come again takes the same task up where it stood. What the card says of a skill is held back when it changes, as an upstream's
tools are.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, Self

import anyio
from anyio.abc import TaskGroup

from agentmesh.adapters.approvals import Approvals, same
from agentmesh.adapters.looking import Looking
from agentmesh.adapters.tools_only import ToolsOnly
from agentmesh.adapters.upstream_a2a_client import PeerClient, PeerHttp
from agentmesh.adapters.upstream_a2a_task import Following
from agentmesh.core.mesh import Peer
from agentmesh.core.secret import fill_secrets, hide
from agentmesh.core.source import Held, OnChange, SourceCall, SourceStatus
from agentmesh.core.store import Store
from agentmesh.core.tool import Tool, ToolResult
from agentmesh.errors import Fail, MeshError

log = logging.getLogger("agentmesh.sources")

REFRESH: Final = 300.0
"""Seconds between two looks at the card."""
MAX_SKILLS: Final = 500
_WORDS: Final = 4000
SCOPE: Final = "a2a-card"
"""Of the store: the last card of each peer."""
_ILLEGAL = re.compile(r"[^A-Za-z0-9_.-]+")

Json = Mapping[str, Any]


class PeerSource(ToolsOnly):
    """One entry of `agents:`. `async with` it, and leave it in the task that entered it; entering waits for no network."""

    def __init__(
        self, name: str, peer: Peer, *, store: Store, secrets: Mapping[str, str] = MappingProxyType({}),
        clock: Callable[[], float] = time.time, sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:  # fmt: skip
        self.title = f"the agent {name}"
        self._name, self._peer, self._store, self._clock, self._sleep = name, peer, store, clock, sleep
        token = fill_secrets(peer.token, secrets) if peer.token is not None else None
        self._secrets = [token] if token else []
        self._http = PeerHttp(token)
        self._approvals = Approvals(store, f"peer:{name}")
        self._looking = Looking(name, peer.card, sleep=sleep, secrets=self._secrets)
        self.looked = self._looking.looked
        """Set when the card was looked for once, with whatever success."""
        self._client: PeerClient | None = None
        self._skills: Mapping[str, str] = {}
        self._left_out: Mapping[str, str] = {}
        self._offered: Mapping[str, Json] = {}
        self._tools: Mapping[str, Tool] = {}
        self._hearers: list[OnChange] = []
        self._etag = ""
        self._group: TaskGroup | None = None
        self.busy = 0
        """Calls that somebody waits for."""

    async def __aenter__(self) -> Self:
        await self._approvals.load()
        self._publish()
        await self._http.__aenter__()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._looking.run, self._look, REFRESH, self._recall)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._group is not None
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)
        await self._http.__aexit__(None, None, None)

    # What is known

    @property
    def name(self) -> str:
        return self._name

    def tools(self) -> Mapping[str, Tool]:
        return self._tools

    def held(self) -> Sequence[Held]:
        return self._approvals.held()

    def on_change(self, hear: OnChange) -> None:
        self._hearers.append(hear)

    def status(self) -> SourceStatus:
        trouble = self._looking.trouble
        left_out = next((f"skill {skill} is left out: {why}" for skill, why in self._left_out.items()), "")
        spoken = f"A2A {self._client.version}" if self._client is not None and not trouble else ""
        known = self._client is not None or bool(self._tools)
        state: Literal["connecting", "ready", "failed"] = "ready" if known else "failed" if trouble else "connecting"
        detail = "; ".join(filter(None, [trouble, spoken, left_out]))
        return SourceStatus(self._name, "peer", state, detail, len(self._tools), len(self._approvals.held()))

    async def approve(self, names: Sequence[str]) -> Sequence[str]:
        done = await self._approvals.approve(names)
        if done:
            self._publish()
            self._tell()
        return done

    # The card

    async def _recall(self) -> None:
        kept = await self._store.get(SCOPE, self._name)
        if isinstance(kept, Mapping) and kept.get("address") == self._peer.card:
            await self._take(kept["card"])
            self._etag = str(kept.get("etag") or "")

    async def _look(self) -> None:
        found = await self._http.card(self._peer.card, self._etag)
        if found is None:
            return
        card, etag = found
        await self._take(card)
        self._etag = etag
        await self._store.put(SCOPE, self._name, {"address": self._peer.card, "etag": etag, "card": dict(card)})

    async def _take(self, card: Json) -> None:
        client = PeerClient(card, self._http, address=self._peer.card, secret=bool(self._secrets))
        offered: dict[str, Json] = {}
        skills: dict[str, str] = {}
        left_out: dict[str, str] = {}
        for skill in list(client.card.skills)[:MAX_SKILLS]:
            name = f"{self._name}.{self._legal(skill.id)}"
            modes = list(skill.input_modes) or list(client.card.default_input_modes)
            schema = _input(modes)
            if schema is None:
                left_out[skill.id] = f"it takes {', '.join(modes)[:100]} only, which is not built"
            elif name not in offered:
                skills[name] = skill.id
                offered[name] = _definition(skill, schema, client.where)
        self._client, self._skills, self._left_out, self._offered = client, skills, left_out, offered
        if await self._approvals.offer(offered):
            self._publish()
            self._tell()

    def _legal(self, skill: str) -> str:
        """A skill's id as a tool's name: short enough with the peer's before it."""
        most = 63 - len(self._name)
        legal = _ILLEGAL.sub("_", skill).strip("_.") or "skill"
        if legal != skill or len(legal) > most:
            legal = f"{legal[: most - 7]}_{hashlib.sha256(skill.encode()).hexdigest()[:6]}"
        return legal

    def _publish(self) -> None:
        self._tools = MappingProxyType({
            name: Tool(
                name=name,
                description=str(one.get("description", "")),
                input_schema=one["inputSchema"],
                title=one.get("title"),
                annotations=one.get("annotations", {}),
                source=f"peer:{self._name}",
            )
            for name, one in sorted(self._approvals.visible.items())
        })  # fmt: skip

    def _tell(self) -> None:
        for hear in self._hearers:
            hear("tools", None)

    # Calling

    async def call(self, call: SourceCall) -> ToolResult:
        """See `Source.call`. A cancelled call cancels the task it started."""
        self.busy += 1
        try:
            return await self._call(call)
        finally:
            self.busy -= 1

    async def _call(self, call: SourceCall) -> ToolResult:
        name = call.tool.name
        skill = self._skills.get(name)
        if self._client is None or skill is None:
            raise Fail(f"{name} cannot be called now: {self.status().detail or 'its card is not read yet'}")
        approved = self._approvals.visible.get(name)
        refusal = self._approvals.refusal(name)
        if refusal is None and approved and not same(approved.get("request"), self._offered[name].get("request")):
            refusal = f"{name} is at another address since it was approved; see `agentmesh tools diff {name}`"
        if refusal is not None:
            raise Fail(refusal)
        try:
            found = await Following(self._client, self._name, skill, call, self._sleep).to_the_end()
        except MeshError as error:
            error.args = (hide(f"{self._name}: {error.message}", self._secrets),)
            raise
        return found


def _input(modes: Sequence[str]) -> dict[str, Any] | None:
    """The input of a skill by what it takes; None when that is neither text nor JSON."""
    plain = [mode.partition(";")[0].strip().lower() for mode in modes] or ["text/plain", "application/json"]
    text = any(mode.startswith("text") or mode == "*/*" for mode in plain)
    data = any(mode.endswith("json") or mode in {"*/*", "application/*", "data"} for mode in plain)
    if not text and not data:
        return None
    properties: dict[str, Any] = {}
    if text:
        properties["message"] = {"type": "string", "description": "What the agent is asked, in words."}
    if data:
        properties["data"] = {"type": "object", "description": "Data for the agent, as an object."}
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if len(properties) == 1:
        found["required"] = list(properties)
    else:
        found["minProperties"] = 1
    return found


def _definition(skill: Any, schema: Json, where: str) -> dict[str, Any]:
    words = [skill.description.strip() or skill.name]
    if skill.examples:
        words.append("For example: " + "; ".join(skill.examples[:5]))
    return {
        "name": skill.id, "title": skill.name or skill.id, "description": "\n\n".join(words)[:_WORDS], "inputSchema": schema,
        "annotations": {"readOnlyHint": False, "openWorldHint": True}, "request": {"url": where},
    }  # fmt: skip
