"""Approvals: what an operator has agreed to of somebody else's tools, kept in the store.

A tool's words are instructions to a model. Whoever may change them later may tell every model of this mesh what to do, so
what a server said when it was first seen stays what callers see, until an operator has looked at the difference.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from agentmesh.core.source import Held
from agentmesh.core.store import Store
from agentmesh.errors import NotFound

log = logging.getLogger("agentmesh.sources")

Definition = Mapping[str, Any]
"""A tool as MCP has it (schema `Tool`), as JSON."""
COMPARED: Final = ("description", "title", "inputSchema", "outputSchema", "annotations", "request")
"""Members whose change is held back: what a model reads, and what decides what may be sent and believed.

`request` is no member of MCP's: where an API's operation is, and what stands where in its request.
"""
_FIRST: Final = "~first-look"
"""Key that says that the server was looked at before; `~` stands in no tool's name."""


class Approvals:
    """Of one source. `load` before anything else; the rest but `offer` and `approve` never waits."""

    def __init__(self, store: Store, scope: str, *, mode: Literal["changed", "never"] = "changed") -> None:
        """`scope`: of the store, such as `upstream:github`. `never`: whatever is offered is taken, and nothing is kept."""
        self._store, self._scope, self._mode = store, scope, mode
        self._approved: dict[str, Definition] = {}
        self._offered: dict[str, Definition] = {}
        self._looked = False
        self._known = False
        """Whether there was a look before, of this process or an earlier one."""

    async def load(self) -> None:
        """Reads what was approved by earlier processes."""
        if self._mode == "never":
            return
        kept = {key: value for key, value in (await self._store.scan(self._scope)).items() if value is not None}
        self._known = kept.pop(_FIRST, None) is not None
        self._approved = kept

    async def offer(self, definitions: Mapping[str, Definition]) -> bool:
        """Takes what the source offers now, by the mesh's names; whether what callers see, or what is held, is another.

        At the very first look all of it is approved. Later, what is new or changed waits.
        """
        before, held = dict(self.visible), list(self.held())
        self._offered, looked, self._looked = dict(definitions), self._looked, True
        if self._mode == "changed" and not self._known:
            for name, definition in definitions.items():
                await self._keep(name, definition)
            await self._store.put(self._scope, _FIRST, True)
            self._known = True
            log.info("%s: first look: %d tools approved as they are", self._scope, len(definitions))
        for one in self.held() if self._mode == "changed" else ():
            if one not in held:
                what = "is new" if one.approved is None else "has changed"
                log.warning(
                    "%s: %s %s and waits: see `agentmesh tools diff`, then `agentmesh tools approve %s`",
                    self._scope, one.name, what, one.name,
                )  # fmt: skip
        return not looked or before != dict(self.visible) or held != list(self.held())

    @property
    def visible(self) -> Mapping[str, Definition]:
        """What callers see: approved, and offered still. Before the first look of this process, all that is approved."""
        if not self._looked:
            return self._approved
        if self._mode == "never":
            return self._offered
        return {name: self._approved[name] for name in self._offered if name in self._approved}

    def held(self) -> Sequence[Held]:
        """What changed or is new, by name."""
        if self._mode == "never":
            return ()
        return [
            Held(name, self._approved.get(name), offered)
            for name, offered in sorted(self._offered.items())
            if name not in self._approved or changed(self._approved[name], offered)
        ]

    def refusal(self, name: str) -> str | None:
        """Why a tool may not be called until its change is approved: its input is another. None when it may."""
        approved, offered = self._approved.get(name), self._offered.get(name)
        if self._mode == "never" or approved is None or offered is None:
            return None
        if same(approved.get("inputSchema"), offered.get("inputSchema")):
            return None
        return (
            f"the input of {name} has changed at its server since it was approved; "
            f"an operator has to look at it: `agentmesh tools diff {name}`, then `agentmesh tools approve {name}`"
        )

    async def approve(self, names: Sequence[str]) -> Sequence[str]:
        """Takes what is offered now for approved; those which waited. NotFound when a name is not offered."""
        unknown = sorted(set(names) - set(self._offered))
        if unknown:
            raise NotFound(f"{unknown[0]!r} is not offered now; `agentmesh tools diff` shows what waits")
        waiting = {one.name for one in self.held()}
        taken = {name: self._offered[name] for name in names if name in waiting}
        for name, definition in taken.items():
            await self._keep(name, definition)
        return list(taken)

    async def _keep(self, name: str, definition: Definition) -> None:
        await self._store.put(self._scope, name, definition)
        self._approved[name] = definition


def changed(approved: Definition, offered: Definition) -> bool:
    """Whether the two differ in what an operator agrees to."""
    return any(not same(approved.get(member), offered.get(member)) for member in COMPARED)


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: Python takes 1 for true."""
    return one is other or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
