"""Agents: messages to the skills of this mesh and to agents elsewhere; a task is a run, whoever does it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import anyio
from anyio.abc import TaskStatus

from agentmesh.core.agent import MOST_HOPS, PEER, Agent, AgentHealth, Message, Part, PeerCall, Route, Sending, Skill
from agentmesh.core.expression import evaluate_bool
from agentmesh.core.json_text import write_json
from agentmesh.core.mesh import CALL_OF, Mesh
from agentmesh.core.policy import Action, Principal
from agentmesh.core.question import Question, Reply, questions
from agentmesh.core.run import JSON, Entry, Kind, Run, RunState
from agentmesh.core.store import RunFilter, RunPage, Store
from agentmesh.engine.conversation import context_of, data_of_parts, earlier_messages
from agentmesh.engine.definitions import TASK, Definitions
from agentmesh.engine.guard import Guard, resource_of
from agentmesh.engine.media import check_modes
from agentmesh.engine.replies import reply_of
from agentmesh.engine.routing import NoAgent, Router
from agentmesh.engine.runs import Runs
from agentmesh.engine.sources import Sources
from agentmesh.errors import Conflict, InvalidInput, MeshError, NotFound

log = logging.getLogger("agentmesh.engine")

CANCEL_WAIT = 5.0
"""Seconds that `cancel_task` waits for the end of what it has cancelled."""
NOBODY = "nobody"
"""In the place of the agent, of a message to the mesh that nobody takes."""
PEER_WAIT = 10.0
"""Seconds that an agent elsewhere gets to answer that it cancels."""


class Agents:
    """The mesh as agents: each workflow with `on.a2a` is a skill, and so is what peers' cards name."""

    def __init__(
        self,
        mesh: Mesh,
        store: Store,
        runs: Runs,
        definitions: Definitions,
        guard: Guard,
        sources: Sources,
        router: Router,
    ) -> None:
        self._mesh = mesh
        self._store = store
        self._runs = runs
        self._definitions = definitions
        self._guard = guard
        self._sources = sources
        self._router = router
        self._elsewhere: tuple[tuple[Agent, ...], frozenset[str]] = ((), frozenset())
        """The agents elsewhere, and the ids of all their skills."""
        self._own: tuple[int, Mapping[str | None, Agent]] = (-1, {})
        """The mesh's own agents by name, None the mesh itself; and the revision they are of."""

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keeps what messages are routed by in step with the agents, off their path; until it is cancelled."""
        await self._router.run(self._everybody, task_status=task_status)

    # Who there is

    def skills(self, principal: Principal) -> list[Skill]:
        """The mesh's own skills that the principal may list, by id. Does not wait."""
        return [skill for _, skill in sorted(self._mesh.skills.items()) if self._may_list(principal, skill)]

    def agents(self, principal: Principal) -> Sequence[Agent]:
        """The mesh's own agents, then those elsewhere that are known; with the skills that the principal may list. Does not wait."""
        return [agent for agent in map(self._visible(principal), self._everybody()) if agent is not None]

    def agent(self, principal: Principal, name: str | None) -> Agent:
        """One of them; None: the mesh, with the skills of all. NotFound."""
        if name is None:
            mine = self._own_agents()[None]
            skills = tuple(skill for agent in self.agents(principal) for skill in agent.skills)
            return mine if skills == mine.skills else replace(mine, skills=skills)
        found = self._visible(principal)(self._named(name))
        if found is None:
            raise self._absent(name)
        return found

    def health(self, name: str | None) -> AgentHealth:
        """How one of them is. The mesh's own are up."""
        peer = self._sources.peers().get(name or "")
        return AgentHealth() if peer is None else peer.health()

    # Tasks

    async def send(self, principal: Principal, sending: Sending) -> Run:
        """Starts the run that a message is: of a skill's workflow, or of a task elsewhere. It is durable when this returns.

        REJECTED at once when no agent fits. InvalidInput, NotFound, PolicyDenied, UnsupportedMedia before anything is recorded; Conflict
        when an idempotent message's id was used for another one.
        """
        message = sending.message
        if message.hops >= MOST_HOPS:
            raise InvalidInput(
                f"the message was passed on {message.hops} times and goes round in a circle; look at the cards of the agents"
            )
        run_id = self._runs.new_id()
        context = message.context_id or run_id
        kept: dict[str, Any] = {**message.to_json(), "contextId": context}
        key = None
        if sending.idempotent:
            asked = [message.to_json(), sending.agent, sending.skill, sorted(sending.tags), sorted(sending.accepted)]
            kept["digest"] = hashlib.sha256(write_json(asked)).hexdigest()
            key = f"a2a:{principal.subject}:{sending.agent or ''}:{message.message_id}"
        try:
            route = await self._route(principal, sending)
        except NoAgent as none:
            return await self._reject(principal, none, sending.agent or NOBODY, run_id, key, context, kept)
        entries = [Entry(Kind.RUN_ROUTED, payload=route.to_json())] if route.score or route.others else []
        if route.agent is not None and route.agent in self._sources.peers():
            return await self._to_peer(principal, sending, route, run_id, key, context, kept, entries)
        return await self._to_own(principal, sending, route, run_id, key, context, kept, entries)

    async def route(self, principal: Principal, sending: Sending) -> Route:
        """Who would take a message; nothing is sent. NoAgent, and NotFound as `send` says."""
        return await self._route(principal, sending)

    async def follow_up(
        self, principal: Principal, run_id: str, message: Message, *,
        question: str | None = None, digest: str | None = None, agent: str | None = None,
    ) -> Run:  # fmt: skip
        """Takes a message to a task for the answer to what it asks. `question`: None is the only open one.

        InvalidInput for a message that is no answer; NotFound, Conflict, PolicyDenied as `Runs.answer` says.
        """
        run = await self.get_task(principal, run_id, agent=agent)
        asked = [one for one in questions(run) if question is None or one.id == question]
        reply = (
            _reply(message.parts, asked[0]) if len(asked) == 1 else Reply(yes=True)
        )  # else `answer` says what is wrong
        return await self._runs.answer(
            principal, run_id, question=question, yes=reply.yes, value=reply.value, digest=digest,
            message={**message.to_json(), "taskId": run.id, "contextId": run.context_id or run.id},
        )  # fmt: skip

    async def signal(
        self, principal: Principal, run_id: str, name: str, value: JSON = None, *, key: str | None = None,
        message: Message | None = None,
    ) -> Run:  # fmt: skip
        """See Runs.signal. `message`: that it came in."""
        kept = None if message is None else {**message.to_json(), "taskId": run_id}
        return await self._runs.signal(principal, run_id, name, value, key=key, message=kept)

    async def get_task(self, principal: Principal, run_id: str, *, agent: str | None = None) -> Run:
        """NotFound also when it is another agent's than the one that is asked."""
        run = await self._runs.get(principal, run_id)
        if agent is not None and run.workflow not in self._workflows(agent):
            raise NotFound(f"there is no run {run_id!r}")
        return run

    async def list_tasks(self, principal: Principal, where: RunFilter, *, agent: str | None = None) -> RunPage:
        """See Runs.list; of one agent."""
        if agent is not None:
            where = replace(where, workflows=tuple(sorted(self._workflows(agent))))
        return await self._runs.list(principal, where)

    async def cancel_task(self, principal: Principal, run_id: str, *, agent: str | None = None) -> Run:
        """Cancels and waits a moment for the end. Conflict when it has ended already, or the agent that does it will not stop."""
        run = await self.get_task(principal, run_id, agent=agent)
        self._guard.authorize(principal, Action("runs.cancel", resource_of(run.workflow)))
        step = run.steps.get(TASK)
        if not run.state.terminal and run.workflow.startswith(PEER) and step is not None and step.task is not None:
            await self._cancel_elsewhere(principal, str(step.task["peer"]), str(step.task["task"]))
        try:
            run = await self._runs.cancel(principal, run_id)
        except Conflict:
            run = await self._runs.get(principal, run_id)
            if run.state is not RunState.CANCELED or step is None:
                raise
        if not run.state.terminal:
            with anyio.move_on_after(CANCEL_WAIT):
                await self._runs.end_of(run_id)
        return await self._runs.get(principal, run_id)

    def replies(self, run: Run) -> bool | None:
        """Whether a run is answered by a message, and not by a task; None: the agent that does it has not said yet."""
        if run.replied or (run.message or {}).get("reply"):
            return True
        if not run.workflow.startswith(PEER) or run.state is not RunState.WORKING:
            return None if run.state is RunState.SUBMITTED and run.workflow.startswith(PEER) else False
        step = run.steps.get(TASK)
        return None if step is None or step.task is None else False

    # Choosing

    async def _route(self, principal: Principal, sending: Sending) -> Route:
        """Who takes a message. `score` 0 and no `others`: nothing had to be chosen."""
        peers = self._sources.peers()
        if sending.agent is not None and sending.agent in peers:
            return Route(sending.agent, sending.skill, f"it was sent to {sending.agent}")
        mine = self._own_agents()
        if sending.agent is not None and sending.agent not in mine:
            raise self._absent(sending.agent)
        there = self._mesh.skills if sending.agent is None else {s.id: s for s in mine[sending.agent].skills}
        named = sending.skill
        _, theirs = self._known_elsewhere() if sending.agent is None else ((), frozenset())
        if named is None and not sending.tags:
            named = self._mesh.file.a2a.default if sending.agent is None else None
            if named is None and len(there) == 1 and not theirs:
                named = next(iter(there))
        if named is not None and named in there and named not in theirs:
            why = f"skill {named!r} was named" if sending.skill else f"{named!r} takes what names no skill"
            return Route(there[named].agent, named, why)
        if named is not None and named not in there and named not in theirs:
            raise self._no_skill(named, [skill.id for agent in self.agents(principal) for skill in agent.skills])
        agents = [a for a in self._everybody() if sending.agent is None or a.name == sending.agent]
        about = _asked(sending)
        try:
            return await self._router.choose(
                replace(sending, skill=named), agents, health=self.health,
                allowed=lambda skill: self._guard.allows(principal, Action("agents.send", resource_of_skill(skill), about)),
            )  # fmt: skip
        except NotFound:  # a skill that the caller may not use is told like one that is nowhere
            raise self._no_skill(
                str(named), [skill.id for agent in self.agents(principal) for skill in agent.skills]
            ) from None

    def _known_elsewhere(self) -> tuple[tuple[Agent, ...], frozenset[str]]:
        agents = tuple(a for peer in self._sources.peers().values() if (a := peer.agent()) is not None)
        known = self._elsewhere[0]
        if len(agents) != len(known) or any(a is not b for a, b in zip(agents, known, strict=True)):
            self._elsewhere = agents, frozenset(skill.id for agent in agents for skill in agent.skills)
        return self._elsewhere

    def _no_skill(self, named: str, skills: Sequence[str]) -> NotFound:
        close = get_close_matches(named[:200], skills, 1)
        there = ", ".join(sorted(set(skills))[:20]) or "none"
        return NotFound(
            f"there is no skill {named!r}" + (f"; did you mean {close[0]!r}?" if close else f"; there are: {there}")
        )

    def _absent(self, name: str) -> NotFound:
        return NotFound(f"there is no agent {name[:100]!r} in this mesh")

    def _named(self, name: str) -> Agent:
        found = self._own_agents().get(name)
        if found is None:
            peer = self._sources.peers().get(name)
            found = None if peer is None else peer.agent()
        if found is None:
            raise self._absent(name)
        return found

    def _everybody(self) -> list[Agent]:
        known = [peer.agent() for peer in self._sources.peers().values()]
        return [*self._own_agents().values(), *(agent for agent in known if agent is not None)]

    def _own_agents(self) -> Mapping[str | None, Agent]:
        """The mesh itself under None, and its named agents."""
        revision, found = self._own
        if revision != self._mesh.revision or not found:
            by_agent: dict[str | None, list[Skill]] = {None: []}
            for _, skill in sorted(self._mesh.skills.items()):
                by_agent.setdefault(skill.agent, []).append(skill)
            found = {name: self._own_agent(name, tuple(skills)) for name, skills in by_agent.items()}
            self._own = (self._mesh.revision, found)
        return found

    def _own_agent(self, name: str | None, skills: tuple[Skill, ...]) -> Agent:
        said = self._mesh.file.description or f"The {self._mesh.name} mesh of AgentMesh."
        if name is not None:
            said = "; ".join(skill.description for skill in skills)
        return Agent(name or self._mesh.name, name or self._mesh.name, said, skills, extended_card=True)

    def _visible(self, principal: Principal) -> Callable[[Agent], Agent | None]:
        """An agent with the skills that the principal may list; None when it has some and none may be listed."""

        def look(agent: Agent) -> Agent | None:
            skills = tuple(skill for skill in agent.skills if self._may_list(principal, skill))
            if agent.skills and not skills and agent.name != self._mesh.name:
                return None
            return agent if len(skills) == len(agent.skills) else replace(agent, skills=skills)

        return look

    def _may_list(self, principal: Principal, skill: Skill) -> bool:
        return self._guard.allows(principal, Action("agents.list", resource_of_skill(skill), listing=True))

    def _workflows(self, agent: str) -> set[str]:
        """What the runs of one agent are runs of."""
        if agent in self._sources.peers():
            return {PEER + agent}
        mine = self._own_agents().get(agent)
        if mine is None:
            raise self._absent(agent)
        return {skill.workflow for skill in mine.skills} | {PEER + agent}  # the latter: what it rejected

    # Starting

    async def _to_own(
        self, principal: Principal, sending: Sending, route: Route, run_id: str, key: str | None, context: str,
        kept: dict[str, Any], entries: Sequence[Entry],
    ) -> Run:  # fmt: skip
        assert route.skill is not None
        skill, message = self._mesh.skills[route.skill], sending.message
        check_modes(message.parts, sending.accepted, skill.input_modes, skill.output_modes, f"skill {skill.id!r}")
        definition = self._definitions.pin(skill.workflow)
        given = input_of([part.to_json() for part in message.parts], definition.workflow.input, skill.id)
        self._guard.authorize(principal, Action("agents.send", resource_of_skill(skill), given))
        if skill.workflow.startswith(CALL_OF):  # whoever may not call the tool may not send it a message either
            self._guard.authorize(principal, Action("tools.call", skill.workflow, given))
        if definition.reads_conversation and message.context_id:
            kept["messages"] = await earlier_messages(self._store, principal, message.context_id)
        if skill.reply:
            asked = Run(run_id, skill.workflow, "", given, context_id=context, message=kept)
            about = {"input": given, "context": context_of(asked)}
            if skill.reply is True or evaluate_bool(str(skill.reply), about):
                kept["reply"] = True
        run, _ = await self._runs.begin(
            principal, definition, given, run_id=run_id, key=key, source="a2a", context_id=context, message=kept,
            entries=entries,
        )  # fmt: skip
        return run

    async def _to_peer(
        self, principal: Principal, sending: Sending, route: Route, run_id: str, key: str | None, context: str,
        kept: dict[str, Any], entries: Sequence[Entry],
    ) -> Run:  # fmt: skip
        assert route.agent is not None
        known = self._sources.peer(route.agent).agent()
        about = next((s for s in known.skills if s.id == route.skill), None) if known is not None else None
        if route.skill is not None and known is not None and about is None:
            raise self._no_skill(route.skill, [s.id for s in known.skills])
        if about is not None:
            check_modes(
                sending.message.parts, sending.accepted, about.input_modes, about.output_modes, f"skill {about.id!r}"
            )
        resource = f"agent:{route.agent}" + (f".{route.skill}" if route.skill is not None else "")
        self._guard.authorize(principal, Action("agents.send", resource, _asked(sending)))
        given: dict[str, JSON] = {"skill": route.skill}
        if sending.accepted:
            given["accepted"] = list(sending.accepted)
        if sending.extensions:
            given["extensions"] = list(sending.extensions)
        run, _ = await self._runs.begin(
            principal, self._definitions.pin(PEER + route.agent), given, run_id=run_id, key=key, source="a2a",
            context_id=context, message=kept, entries=entries,
        )  # fmt: skip
        return run

    async def _reject(
        self, principal: Principal, none: NoAgent, asked: str, run_id: str, key: str | None, context: str,
        kept: dict[str, Any],
    ) -> Run:  # fmt: skip
        """A task that nobody takes: recorded, and over."""
        error = {"code": "no_agent", "message": none.message, "data": none.data}
        route = {"agent": None, "skill": None, "reason": none.message, "score": 0.0, "others": none.data["nearest"]}
        run, _ = await self._runs.begin(
            principal, self._definitions.pin(PEER + asked), {}, run_id=run_id, key=key, source="a2a", context_id=context,
            message=kept, entries=[Entry(Kind.RUN_ROUTED, payload=route), Entry(Kind.RUN_REJECTED, payload={"error": error})],
        )  # fmt: skip
        return run

    async def _cancel_elsewhere(self, principal: Principal, peer: str, task: str) -> None:
        """Has the agent itself end its task, before anything is recorded here. Conflict when it will not."""
        found = self._sources.peers().get(peer)
        if found is None:
            return
        try:
            with anyio.fail_after(PEER_WAIT):
                await found.cancel(task, PeerCall(principal))
        except Conflict:
            state = ""
            try:
                state = str(((await found.get(task, PeerCall(principal))).get("status") or {}).get("state"))
            except MeshError:
                pass
            if state not in _ENDED:
                raise
        except (MeshError, TimeoutError) as error:
            log.warning("%s did not say whether it cancels task %s: %s", peer, task, error)


_ENDED = frozenset({f"TASK_STATE_{state}" for state in ("COMPLETED", "FAILED", "CANCELED", "REJECTED")})


def resource_of_skill(skill: Skill) -> str:
    """What policies name a skill by: `agent:SKILL`, a peer's `agent:PEER.SKILL`."""
    if not skill.workflow:
        return f"agent:{skill.agent}.{skill.id}" if skill.id else f"agent:{skill.agent}"
    return f"agent:{skill.id}"


def _asked(sending: Sending) -> dict[str, JSON]:
    """A message to a peer, as a policy reads it."""
    parts = [part.to_json() for part in sending.message.parts]
    return {"text": sending.message.text, "data": data_of_parts(parts)}


def _reply(parts: Sequence[Part], question: Question) -> Reply:
    """The answer that a message is. What an agent elsewhere asks is answered by the parts as they are."""
    if question.subject.startswith(PEER):
        return Reply(yes=True, value={"parts": [part.to_json() for part in parts]})
    return reply_of(parts, question)


def input_of(parts: Sequence[Mapping[str, Any]], schema: Mapping[str, Any], skill: str) -> JSON:
    """The input that a message's parts are, by the rule of A2A messages and runs. Not yet checked against the schema."""
    data = [part["data"] for part in parts if isinstance(part.get("data"), Mapping)]
    if len(data) > 1:
        raise InvalidInput(f"the message has {len(data)} data parts; skill {skill!r} takes one object as its input")
    if data:
        return data[0]
    text = "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    files = any("raw" in part or "url" in part for part in parts)
    properties = schema.get("properties", {})
    required = list(schema.get("required", ()))
    if (text or files) and len(required) == 1 and properties.get(required[0], {}).get("type") == "string":
        return {required[0]: text}
    if not required and (not text or files):
        return {}
    missing = ", ".join(required) or "nothing by itself"
    raise InvalidInput(
        f"skill {skill!r} needs a data part with an object as its input (required: {missing}); "
        + ("text alone does not say which is which" if text else "the message has neither text nor such a part")
    )
