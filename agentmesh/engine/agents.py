"""Agents: messages to the skills of this mesh; a task is a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import anyio

from agentmesh.core.agent import Message, Part, Skill
from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Action, Principal
from agentmesh.core.question import Reply, questions
from agentmesh.core.run import JSON, Run
from agentmesh.engine.definitions import Definitions
from agentmesh.engine.guard import Guard
from agentmesh.engine.replies import reply_of
from agentmesh.engine.runs import Runs
from agentmesh.errors import InvalidInput, NotFound

CANCEL_WAIT = 5.0
"""Seconds that `cancel_task` waits for the end of what it has cancelled."""


class Agents:
    """The mesh as one agent: each workflow with `on.a2a` is a skill."""

    def __init__(self, mesh: Mesh, runs: Runs, definitions: Definitions, guard: Guard) -> None:
        self._mesh = mesh
        self._runs = runs
        self._definitions = definitions
        self._guard = guard

    def skills(self, principal: Principal) -> list[Skill]:
        """The skills that the principal may list, by id. Does not wait."""
        return [
            skill
            for _, skill in sorted(self._mesh.skills.items())
            if self._guard.allows(principal, Action("agents.list", f"agent:{skill.id}", listing=True))
        ]

    async def send_message(
        self, principal: Principal, message: Message, *, skill: str | None = None, key: str | None = None
    ) -> Run:
        """Starts the skill's workflow; the run is durable when this returns.

        `skill` None: `a2a.default` of agentmesh.yaml, else the only skill there is. An object data part is the input, else the
        joined text fills the only required string property, else InvalidInput names what is missing. `key`: see Runs.start.
        """
        chosen = self._choose(skill)
        definition = self._definitions.pin(chosen.workflow)
        input = input_of([part.to_json() for part in message.parts], definition.workflow.input, chosen.id)
        self._guard.authorize(principal, Action("agents.send", f"agent:{chosen.id}", input))
        run, _ = await self._runs.begin(
            principal,
            definition,
            input,
            key=key,
            source="a2a",
            context_id=message.context_id,
            message=message.to_json(),
        )
        return run

    async def follow_up(
        self, principal: Principal, run_id: str, parts: Sequence[Part], *,
        question: str | None = None, digest: str | None = None,
    ) -> Run:  # fmt: skip
        """Takes a message to a task for the answer to what it asks. `question`: None is the only open one.

        InvalidInput for a message that is no answer; NotFound, Conflict, PolicyDenied as `Runs.answer` says.
        """
        run = await self._runs.get(principal, run_id)
        asked = [one for one in questions(run) if question is None or one.id == question]
        reply = reply_of(parts, asked[0]) if len(asked) == 1 else Reply(yes=True)  # else `answer` says what is wrong
        return await self._runs.answer(
            principal, run_id, question=question, yes=reply.yes, value=reply.value, digest=digest
        )

    async def signal(
        self, principal: Principal, run_id: str, name: str, value: JSON = None, *, key: str | None = None
    ) -> Run:
        """See Runs.signal."""
        return await self._runs.signal(principal, run_id, name, value, key=key)

    async def get_task(self, principal: Principal, run_id: str) -> Run:
        return await self._runs.get(principal, run_id)

    async def cancel_task(self, principal: Principal, run_id: str) -> Run:
        """Cancels and waits a moment for the end. Conflict when it has ended already."""
        run = await self._runs.cancel(principal, run_id)
        if not run.state.terminal:
            with anyio.move_on_after(CANCEL_WAIT):
                await self._runs.end_of(run_id)
        return await self._runs.get(principal, run_id)

    def _choose(self, skill: str | None) -> Skill:
        named = skill or self._mesh.file.a2a.default
        if named is None and len(self._mesh.skills) == 1:
            named = next(iter(self._mesh.skills))
        there = ", ".join(sorted(self._mesh.skills)) or "none"
        if named is None:
            raise InvalidInput(f"the message names no skill and the mesh has no default; name one of: {there}")
        if named not in self._mesh.skills:
            close = get_close_matches(named[:200], self._mesh.skills, 1)
            raise NotFound(
                f"there is no skill {named!r}" + (f"; did you mean {close[0]!r}?" if close else f"; there are: {there}")
            )
        return self._mesh.skills[named]


def input_of(parts: list[Mapping[str, Any]], schema: Mapping[str, Any], skill: str) -> JSON:
    """The input that a message's parts are, by the rule of A2A messages and runs. Not yet checked against the schema."""
    data = [part["data"] for part in parts if isinstance(part.get("data"), Mapping)]
    if len(data) > 1:
        raise InvalidInput(f"the message has {len(data)} data parts; skill {skill!r} takes one object as its input")
    if data:
        return data[0]
    text = "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    properties = schema.get("properties", {})
    required = list(schema.get("required", ()))
    if text and len(required) == 1 and properties.get(required[0], {}).get("type") == "string":
        return {required[0]: text}
    if not text and not required:
        return {}
    missing = ", ".join(required) or "nothing by itself"
    raise InvalidInput(
        f"skill {skill!r} needs a data part with an object as its input (required: {missing}); "
        + ("text alone does not say which is which" if text else "the message has neither text nor such a part")
    )
