"""Push: webhooks that callers configure for their runs, and the address at which agents elsewhere tell this mesh of theirs."""

from __future__ import annotations

import hashlib
import hmac
import os
import random as random_
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import anyio
from anyio.abc import TaskStatus

from agentmesh.core.mesh import Mesh
from agentmesh.core.policy import Action, Principal
from agentmesh.core.push import PER_RUN, Delivery, PushConfig, Seal, Webhooks
from agentmesh.core.run import Run
from agentmesh.core.store import Store
from agentmesh.engine.bus import Bus
from agentmesh.engine.delivering import Deliverer, Render
from agentmesh.engine.guard import Guard, owns
from agentmesh.engine.meter import Meter
from agentmesh.errors import Conflict, InvalidInput, NotBuilt, NotFound

SCOPE: Final = "push"
PATH: Final = "/a2a-push/"
"""Below the mesh's own address: where agents elsewhere send their notifications to, by run."""


@dataclass(frozen=True, slots=True)
class PushPorts:
    """What push notifications need of the outside."""

    webhooks: Webhooks
    seal: Seal
    keys: Sequence[bytes] = field(default=(), repr=False)
    """For the tokens that agents elsewhere are given; the first makes them, all are taken."""


class Push:
    """Configurations are the run's: who may not see it finds none, as where there is none."""

    def __init__(
        self, mesh: Mesh, store: Store, guard: Guard, bus: Bus, ports: PushPorts | None,
        *, clock: Callable[[], float], random: random_.Random, meter: Meter | None = None,
    ) -> None:  # fmt: skip
        """`ports` None: nothing is sent, and nobody may configure it."""
        self._mesh = mesh
        self._store = store
        self._guard = guard
        self._bus = bus
        self._ports = ports
        self._random = random
        self.render: Render = lambda event, run: ()
        """What an entry is in the protocol; the edge's."""
        self.render_v03: Render | None = None
        """The same for those who configured it in version 0.3; None: as `render` says."""
        self.deliverer: Deliverer | None = None
        if ports is not None:
            self.deliverer = Deliverer(
                store, ports.webhooks, self._open, self._rendering, lambda: self.offered,
                name=f"push-{os.getpid()}-{random.getrandbits(32):08x}", clock=clock, random=random,
                meter=meter or Meter(),
            )  # fmt: skip

    @property
    def offered(self) -> bool:
        """Whether notifications are sent at all, as the files say now. What is due while they say no waits until they say yes."""
        return self._ports is not None and self._mesh.file.a2a.push

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """The workers, and what passes pokes on; `await tg.start(push.run)`, cancel it to stop."""
        pokes = self._store.pokes()
        async with anyio.create_task_group() as group:
            if self.deliverer is not None:
                await group.start(self.deliverer.run)
            task_status.started()
            async for run_id in pokes:
                self._bus.poke(run_id)

    # For callers

    def check(self, config: PushConfig) -> None:
        """InvalidInput, NotBuilt: what `create` would refuse of it, before anything is begun."""
        ports = self._ported()
        config.check()
        ports.webhooks.check(config.url)

    async def create(self, principal: Principal, run: Run, config: PushConfig) -> PushConfig:
        """Has everything told that happens to the run after `run`, as it was seen then; with its id, made when there is none.

        NotFound for a run of somebody else, InvalidInput for a url that is plainly not to be sent to, NotBuilt where nothing is sent.
        """
        ports = self._ported()
        self._own(principal, run)
        config = replace(config, run_id=run.id, id=config.id or f"{self._random.getrandbits(64):016x}")
        self.check(config)
        box = ports.seal.seal(SCOPE, _place(run.id, config.id), config.to_json())
        new = Delivery(run.id, config.id, run.tenant, principal.subject, config.host, box, cursor=run.seq)
        try:
            await self._store.add_delivery(new, most=PER_RUN)
        except Conflict as error:
            raise InvalidInput(error.message) from None
        if self.deliverer is not None:
            self.deliverer.watch(run.id)
        return config

    async def get(self, principal: Principal, run: Run, config_id: str) -> PushConfig:
        """NotFound, too, for what cannot be opened any more."""
        for config in await self.list(principal, run):
            if config.id == config_id:
                return config
        raise NotFound(f"there is no push configuration {config_id!r} of task {run.id}")

    async def list(self, principal: Principal, run: Run) -> Sequence[PushConfig]:
        """Those of the run, the oldest first."""
        self._ported()
        self._own(principal, run)
        opened = [self._open(one) for one in await self._store.deliveries(run.id)]
        return [config for config in opened if config is not None]

    async def delete(self, principal: Principal, run: Run, config_id: str) -> None:
        """Nothing more is told there. Does nothing when there is none."""
        self._ported()
        self._own(principal, run)
        await self._store.remove_delivery(run.id, config_id)

    # For operators

    async def troubled(self, principal: Principal, *, dead: bool, limit: int = 100) -> Sequence[Delivery]:
        """Deliveries of the principal's tenant that were given up (`dead`), or that fail now. PolicyDenied without admin.read on run:*."""
        self._guard.authorize(principal, Action("admin.read", "run:*"))
        return await self._store.find_deliveries(tenant=principal.tenant, dead=dead, limit=limit)

    async def retry(self, principal: Principal, run_id: str, config_id: str) -> None:
        """Has a delivery tried again at once, from the event on that was not delivered. NotFound, PolicyDenied (admin.write)."""
        self._guard.authorize(principal, Action("admin.write", f"run:{run_id}"))
        there = [one for one in await self._store.deliveries(run_id) if one.tenant == principal.tenant]
        if config_id not in {one.id for one in there} or not await self._store.revive_delivery(run_id, config_id):
            raise NotFound(f"there is no push configuration {config_id!r} of run {run_id!r}")
        if self.deliverer is not None:
            self.deliverer.look()

    # For agents elsewhere

    def receive_url(self, run_id: str) -> tuple[str, str] | None:
        """(URL, token) for an agent elsewhere to tell of the task that works for this run.

        None when nobody would find the way: the mesh's files have to say its `url`.
        """
        if self._mesh.file.url is None or self._ports is None or not self._ports.keys:
            return None
        return f"{self._mesh.file.url.rstrip('/')}{PATH}{run_id}", _token(self._ports.keys[0], run_id)

    async def received(self, run_id: str, token: str) -> None:
        """Somebody says that a task has changed: whoever executes the run looks again. NotFound for a token that is not the run's."""
        keys = self._ports.keys if self._ports is not None else ()
        given = token.encode("utf-8", "replace")
        if not any(hmac.compare_digest(_token(key, run_id).encode(), given) for key in keys):
            raise NotFound(f"there is no run {run_id!r}")
        if not self._bus.poke(run_id):
            await self._store.poke(run_id)

    def _ported(self) -> PushPorts:
        if self._ports is None or not self.offered:
            raise NotBuilt("this mesh sends no push notifications")
        return self._ports

    @staticmethod
    def _own(principal: Principal, run: Run) -> None:
        if not owns(principal, run):
            raise NotFound(f"there is no run {run.id!r}")

    def _open(self, one: Delivery) -> PushConfig | None:
        assert self._ports is not None
        value = self._ports.seal.open(SCOPE, _place(one.run_id, one.id), one.box)
        return None if value is None else PushConfig.from_json(one.id, one.run_id, value)

    def _rendering(self, version: str) -> Render:
        return self.render_v03 if version.startswith("0.") and self.render_v03 is not None else self.render


def _place(run_id: str, config_id: str) -> str:
    return f"{run_id}/{config_id}"


def _token(key: bytes, run_id: str) -> str:
    return hmac.digest(key, run_id.encode("utf-8", "replace"), hashlib.sha256).hex()
