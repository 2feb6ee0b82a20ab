"""Webhooks of runs: whose they are, what arrives there and in what order, and what becomes of those that do not answer."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_outside import Notified, ScriptedWebhooks
from agentmesh.adapters.vault import Seals
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.push import GIVEN_UP_AFTER, LEASE, PER_RUN, Delivery, PushConfig, retry_after
from agentmesh.core.run import Entry, Kind, Run, RunEvent
from agentmesh.core.store import Store
from agentmesh.core.trace import traced
from agentmesh.engine import Engine, build_engine
from agentmesh.engine.delivering import LOOK, PER_HOST
from agentmesh.engine.push import PushPorts
from agentmesh.errors import Fail, InvalidInput, NotBuilt, NotFound, NotSent, PolicyDenied, Unanswered
from tests.engine.meshes import LOCAL, Clock, mesh, workflow
from tests.requirements import covers

pytestmark = pytest.mark.anyio
KEY = b"k" * 32
URL = "https://hooks.example/a"
PARENT = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}


def told(event: RunEvent, run: Run) -> Sequence[Mapping[str, Any]]:
    """Steps that ended are two events, everything else is one; claims are nobody's news."""
    assert event.entry is not None
    body = {"seq": event.entry.seq, "kind": event.entry.kind.value, "state": run.state.value}
    if event.entry.kind is Kind.RUN_WORKING:
        return []
    return [body, body | {"part": 2}] if event.entry.kind is Kind.STEP_COMPLETED else [body]


class Dying(MemoryStore):
    """A store that a process which was killed says nothing more to."""

    dying = False

    async def keep_delivery(self, delivery: Delivery, *, after: float | None, held: bool = False) -> bool:
        return False if self.dying else await super().keep_delivery(delivery, after=after, held=held)


class Bench:
    """An engine without a worker: the test writes the journals."""

    def __init__(self, engine: Engine, hooks: ScriptedWebhooks, clock: Clock) -> None:
        self.engine, self.push, self.store = engine, engine.push, engine.store
        self.hooks, self.clock = hooks, clock
        self._epochs: dict[str, int] = {}
        self._numbers = iter(range(1000))

    async def run(self, **fields: Any) -> Run:
        given = {"workflow": "w", "definition": "d", "input": {}, **fields}
        run, _ = await self.store.start_run(Run(f"r{next(self._numbers)}", **given))
        (claim,) = await self.store.claim("w1", limit=1, only=[run.id])
        self._epochs[run.id] = claim.epoch
        return claim.run

    async def add(self, run: Run, *entries: Entry) -> None:
        await self.store.append(run.id, self._epochs[run.id], entries)

    async def step(self, run: Run, path: str = "cut") -> None:
        await self.add(run, Entry(Kind.STEP_COMPLETED, path, 1, {"verb": "set", "output": None}))

    async def end(self, run: Run) -> None:
        await self.add(run, Entry(Kind.RUN_COMPLETED, payload={"output": 1}))

    async def configured(self, run: Run, ident: str = "c1", **fields: Any) -> PushConfig:
        return await self.push.create(LOCAL, run, PushConfig(**{"id": ident, "run_id": "", "url": URL, **fields}))

    async def until(self, true: Callable[[], Any]) -> None:
        """Looks after every turn of the loop."""
        with anyio.fail_after(10):
            while not true():
                await anyio.lowlevel.checkpoint()

    async def settled(self, run: Run, where: Callable[[Delivery], bool], ident: str = "c1") -> Delivery:
        with anyio.fail_after(10):
            while True:
                for one in await self.store.deliveries(run.id):
                    if one.id == ident and where(one) and self.push.deliverer.active == 0:  # type: ignore[union-attr]
                        return one
                await anyio.lowlevel.checkpoint()

    def seen(self, url: str = URL) -> list[tuple[int, int]]:
        return [(n.body["seq"], n.body.get("part", 1)) for n in self.hooks.got if n.url == url]


@asynccontextmanager
async def pushing(
    script: Callable[[Notified], Any] | None = None, *, store: Store | None = None, working: bool = True,
    policies: tuple[PolicyFile, ...] = (), url: str | None = None, keys: Sequence[bytes] = (KEY,),
) -> AsyncIterator[Bench]:  # fmt: skip
    clock = Clock()
    hooks = ScriptedWebhooks(script)
    of = mesh(workflow("w", {"id": "cut", "set": {"a": 1}}), policies=policies)
    of.file = of.file.model_copy(update={"url": url})
    async with store if store is not None else MemoryStore(clock=clock) as opened:
        engine = build_engine(
            of, opened, None, clock=clock, random=random.Random(1),  # type: ignore[arg-type]
            push=PushPorts(hooks, Seals(keys), [b"push" + key for key in keys]),
        )  # fmt: skip
        engine.push.render = told
        async with anyio.create_task_group() as group:
            if working:
                await group.start(engine.push.run)
            yield Bench(engine, hooks, clock)
            group.cancel_scope.cancel()


# Configurations


@covers("A2A-1.0.1 3.1.7#push-configurations")
async def test_a_configuration_is_kept_and_found_again() -> None:
    """With everything it was given, by its id or one that was made; deleting it twice is as good as once."""
    async with pushing(working=False) as b:
        run = await b.run()
        first = await b.configured(run, token="tok", scheme="Bearer", credentials="cred")
        made = await b.configured(run, "")
        assert re.fullmatch(r"[0-9a-f]{16}", made.id)
        assert first == PushConfig("c1", run.id, URL, "tok", "Bearer", "cred")
        assert await b.push.get(LOCAL, run, "c1") == first
        assert {one.id for one in await b.push.list(LOCAL, run)} == {"c1", made.id}
        await b.push.delete(LOCAL, run, "c1")
        await b.push.delete(LOCAL, run, "c1")
        assert [one.id for one in await b.push.list(LOCAL, run)] == [made.id]
        with pytest.raises(NotFound):
            await b.push.get(LOCAL, run, "c1")


@covers("A2A-1.0.1 3.1.7#push-configurations")
async def test_what_is_anothers_is_as_what_is_absent() -> None:
    """Of another owner or tenant: the same error, in the same words but for the name, and nothing is changed."""
    async with pushing(working=False) as b:
        run = await b.run(owner="token:ann", tenant="acme")
        ann = Principal("token:ann", "acme")
        await b.push.create(ann, run, PushConfig("c1", "", URL))
        for stranger in (Principal("token:bob", "acme"), Principal("token:ann", "other"), Principal("local", "other")):
            said = set()
            for call in (
                b.push.create(stranger, run, PushConfig("c2", "", URL)),
                b.push.get(stranger, run, "c1"),
                b.push.list(stranger, run),
                b.push.delete(stranger, run, "c1"),
            ):
                with pytest.raises(NotFound) as caught:
                    await call
                said.add(caught.value.message)
            assert said == {f"there is no run {run.id!r}"}
        assert [one.id for one in await b.push.list(ann, run)] == ["c1"]


@pytest.mark.parametrize(
    "fields",
    [
        {"url": ""}, {"url": "http://inside/x"}, {"url": "ftp://hooks.example/"}, {"token": "a\r\nx: y"}, {"token": "\u2603"},
        {"credentials": "x"}, {"credentials": "x", "scheme": "Bearer x"}, {"scheme": "Be\narer"}, {"token": "x" * 5000},
        {"ident": "a/b"}, {"ident": "x" * 200}, {"ident": "a\0b"}, {"token": " x"},
    ],
)  # fmt: skip
async def test_what_cannot_be_sent_is_refused_at_once(fields: dict[str, Any]) -> None:
    """Before a task is begun for it, too."""
    async with pushing(working=False) as b:
        run = await b.run()
        with pytest.raises(InvalidInput):
            await b.configured(run, **fields)
        given = {"url": URL, **fields}
        with pytest.raises(InvalidInput):
            b.push.check(PushConfig(given.pop("ident", ""), "", **given))
        assert await b.push.list(LOCAL, run) == []


async def test_a_run_has_so_many_webhooks_and_no_more() -> None:
    """The next one is the caller's mistake."""
    async with pushing(working=False) as b:
        run = await b.run()
        for number in range(PER_RUN):
            await b.configured(run, f"c{number}")
        with pytest.raises(InvalidInput, match="20 push configurations"):
            await b.configured(run, "more")
        await b.configured(run, "c3", url="https://hooks.example/other")
        assert (await b.push.get(LOCAL, run, "c3")).url == "https://hooks.example/other"


async def test_the_store_holds_nothing_to_read() -> None:
    """Neither credentials nor what stands in the url after the host; with another key there is nothing."""
    store = MemoryStore()
    async with pushing(working=False, store=store) as b:
        run = await b.run()
        await b.configured(
            run, url="https://hooks.example/secret-path", token="tok", scheme="Bearer", credentials="cred"
        )
        (row,) = await b.store.deliveries(run.id)
        assert all(word not in row.box for word in ("secret-path", "tok", "cred"))
        assert row.host == "hooks.example"
        assert "cred" not in repr(await b.push.get(LOCAL, run, "c1"))
    async with pushing(working=False, store=store, keys=[b"n" * 32, KEY]) as b:
        assert (await b.push.get(LOCAL, run, "c1")).credentials == "cred"
    async with pushing(working=False, store=store, keys=[b"n" * 32]) as b:
        assert await b.push.list(LOCAL, run) == []


async def test_without_ports_nothing_is_offered() -> None:
    """And whoever asks is told so."""
    async with MemoryStore() as store:
        engine = build_engine(mesh(), store, None)  # type: ignore[arg-type]
        assert not engine.push.offered
        with pytest.raises(NotBuilt):
            await engine.push.list(LOCAL, Run("r", "w", "d", {}))
        assert engine.push.receive_url("r") is None
        with pytest.raises(NotFound):
            await engine.push.received("r", "")


async def test_what_the_files_leave_out_is_not_offered() -> None:
    """What was configured before waits until they take it in again."""
    async with pushing() as b:
        run = await b.run()
        await b.configured(run)
        file = b.engine.mesh.file
        b.engine.mesh.file = file.model_copy(update={"a2a": file.a2a.model_copy(update={"push": False})})
        assert not b.push.offered
        with pytest.raises(NotBuilt):
            await b.configured(run, "c2")
        await b.end(run)
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        assert b.hooks.got == []
        b.engine.mesh.file = file
        b.push.deliverer.look()
        await b.settled(run, lambda one: one.ended)
        assert b.seen() == [(3, 1)]


# Delivery


@covers("A2A-1.0.1 4.3.3#push-payload")
async def test_everything_after_the_configuration_arrives_in_order() -> None:
    """One request for each event, with what the caller configured and an id of its own; then it is over."""
    async with pushing() as b:
        with traced(PARENT):
            run = await b.run()
        await b.add(run, Entry(Kind.RUN_TRACED, payload=PARENT))
        seen = await b.store.get_run(run.id)
        await b.configured(seen, token="tok", scheme="Bearer", credentials="cred")
        for number in range(3):
            await b.step(run, f"s{number}")
        await b.end(run)
        last = await b.settled(run, lambda one: one.ended)
        assert b.seen() == [(4, 1), (4, 2), (5, 1), (5, 2), (6, 1), (6, 2), (7, 1)]
        assert last.cursor == 7
        headers = [n.headers for n in b.hooks.got]
        assert [h["a2a-notification-id"] for h in headers] == [f"{run.id}/{s}/{p}" for s, p in b.seen()]
        for h in headers:
            assert h["content-type"] == "application/a2a+json"
            assert (h["authorization"], h["x-a2a-notification-token"]) == ("Bearer cred", "tok")
            assert h["traceparent"] == PARENT["traceparent"]


async def test_what_was_configured_before_the_first_step_misses_nothing() -> None:
    """The run as it was sent is the mark, however far it is by then."""
    async with pushing() as b:
        run = await b.run()
        await b.end(run)
        await b.configured(replace(run, seq=1))
        await b.settled(run, lambda one: one.ended)
        assert b.seen() == [(3, 1)]
        assert b.hooks.got[0].body["state"] == "completed"


async def test_a_task_that_is_over_has_nothing_to_tell() -> None:
    """A webhook may be configured all the same."""
    async with pushing() as b:
        run = await b.run()
        await b.end(run)
        over = await b.store.get_run(run.id)
        await b.configured(over)
        await b.until(lambda: b.push.deliverer.active == 0)
        assert b.hooks.got == []


async def test_several_webhooks_of_one_run_get_everything_each() -> None:
    """Without a header that was not configured for them."""
    async with pushing() as b:
        run = await b.run()
        other = "https://other.example/b"
        await b.configured(run)
        await b.configured(run, "c2", url=other)
        await b.step(run)
        await b.end(run)
        await b.settled(run, lambda one: one.ended)
        await b.settled(run, lambda one: one.ended, "c2")
        assert b.seen() == b.seen(other) == [(3, 1), (3, 2), (4, 1)]
        assert all(
            "authorization" not in n.headers and "x-a2a-notification-token" not in n.headers for n in b.hooks.got
        )


async def test_callers_of_version_0_3_are_told_in_its_words() -> None:
    """When the edge has such words."""
    async with pushing() as b:
        b.push.render_v03 = lambda event, run: [{"seq": event.entry.seq, "old": True}]
        run = await b.run()
        await b.configured(run, version="0.3")
        await b.end(run)
        await b.settled(run, lambda one: one.ended)
        (got,) = b.hooks.got
        assert (got.body, got.headers["content-type"]) == ({"seq": 3, "old": True}, "application/json")


async def test_nothing_is_told_that_was_deleted() -> None:
    """From the moment on at which the deletion returns."""
    async with pushing() as b:
        run = await b.run()
        await b.configured(run)
        await b.step(run)
        await b.until(lambda: len(b.hooks.got) == 2)
        await b.push.delete(LOCAL, run, "c1")
        await b.until(lambda: b.push.deliverer.active == 0)
        await b.end(run)
        b.push.deliverer.look()
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        assert len(b.hooks.got) == 2


# Trouble


@pytest.mark.parametrize("trouble", [500, 503, 408, 425, 429, NotSent("away"), Unanswered("late")])
async def test_what_may_pass_is_tried_again_with_growing_pauses(trouble: Any) -> None:
    """The same event first, and the others after it in order."""
    said = [trouble] * 4
    async with pushing(lambda _: said.pop() if said else 200) as b:
        run = await b.run()
        await b.configured(run)
        await b.step(run)
        await b.end(run)
        pauses = []
        for attempts in range(1, 5):
            one = await b.settled(run, lambda one, n=attempts: one.attempts == n)
            assert one.cursor == 1 or one.cursor == 2
            pauses.append(await _pause_of(b, run))
        assert [round(p / 2**n, 2) for n, p in enumerate(pauses)] == [pytest.approx(1.0, abs=0.5) for _ in pauses]
        assert len(set(pauses)) == 4
        counted = {labels: sum(counts) for labels, _, counts in b.engine.meter.notifications.series()}
        code = getattr(trouble, "code", str(trouble))
        assert counted == {("" if code != str(trouble) else code, code): 4}
        one = await b.settled(run, lambda one: one.ended)
        assert (one.attempts, one.error, one.failing_since) == (0, "", None)
        assert b.seen() == [(3, 1)] * 5 + [(3, 2), (4, 1)]
        ids = [n.headers["a2a-notification-id"] for n in b.hooks.got]
        assert len(set(ids)) == 3


async def _pause_of(b: Bench, run: Run) -> float:
    """Moves the clock until the delivery is due, and how far that was; half a second at a time would miss the jitter."""
    row = b.store._rows[run.id].deliveries["c1"]  # type: ignore[attr-defined]
    pause = row.due_at - b.clock.now
    b.clock.now = row.due_at - 0.001
    b.push.deliverer.look()
    for _ in range(50):
        await anyio.lowlevel.checkpoint()
    assert b.push.deliverer.active == 0
    assert row.said.attempts > 0
    b.clock.now += 0.001
    b.push.deliverer.look()
    return pause


async def test_a_receiver_says_when_to_come_again() -> None:
    """Not earlier than it says, and an hour at most."""
    said: list[Any] = [(429, "100"), (503, "Tue, 14 Nov 2023 22:20:00 GMT"), (503, "999999999")]
    async with pushing(lambda _: said.pop(0) if said else 200) as b:
        run = await b.run()
        await b.configured(run)
        await b.end(run)
        pauses = []
        for attempts in range(1, 4):
            await b.settled(run, lambda one, n=attempts: one.attempts == n)
            if attempts == 2:
                assert b.clock.now == pytest.approx(1_700_000_100)
            pauses.append(await _pause_of(b, run))
        assert pauses == [pytest.approx(100), pytest.approx(1_700_000_400 - 1_700_000_100), pytest.approx(3600)]
        await b.settled(run, lambda one: one.ended)


@pytest.mark.parametrize("trouble", [400, 401, 403, 404, 410, 413, 302, Fail("leads to a loopback address")])
async def test_a_refusal_ends_it_and_is_shown(trouble: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing more is sent there until somebody has it tried again; then from the event on that was refused."""
    said = [200, trouble]
    async with pushing(lambda _: said.pop(0) if said else 200) as b:
        run = await b.run()
        await b.configured(run)
        await b.step(run)
        await b.end(run)
        one = await b.settled(run, lambda one: one.dead_at is not None)
        assert b.seen() == [(3, 1), (3, 2)]
        assert (one.cursor, one.part, one.dead_at) == (2, 1, b.clock.now)
        assert str(trouble) in one.error
        assert "is not told to hooks.example any more" in caplog.text
        b.clock.now += 1_000_000
        b.push.deliverer.look()
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        assert len(b.hooks.got) == 2
        (shown,) = await b.push.troubled(LOCAL, dead=True)
        assert shown == one
        await b.push.retry(LOCAL, run.id, "c1")
        await b.settled(run, lambda one: one.ended)
        assert b.seen() == [(3, 1), (3, 2), (3, 2), (4, 1)]
        assert await b.push.troubled(LOCAL, dead=True) == []


async def test_after_a_day_of_failures_it_is_given_up_and_kept() -> None:
    """An answer in between begins the day anew."""
    async with pushing(lambda _: 503) as b:
        run = await b.run()
        await b.configured(run)
        await b.end(run)
        tries = 0
        while True:
            tries += 1
            one = await b.settled(run, lambda one, n=tries: one.attempts == n)
            if one.dead_at is not None:
                break
            assert [d.id for d in await b.push.troubled(LOCAL, dead=False)] == ["c1"]
            await _pause_of(b, run)
        assert GIVEN_UP_AFTER <= one.dead_at - one.failing_since <= GIVEN_UP_AFTER + 5400
        assert 30 < tries <= 40
        assert one.error == "hooks.example answers 503"


async def test_operators_see_their_tenants_trouble_alone() -> None:
    """And only those who may; what there is not cannot be tried again."""
    rules = PolicyFile.model_validate({
        "name": "p", "roles": {"ops": {"subjects": ["token:op"]}},
        "rules": [{"allow": ["admin.read", "admin.write"], "on": ["run:*"], "to": ["ops"]}],
    })  # fmt: skip
    async with pushing(lambda _: 404, policies=(rules,)) as b:
        run = await b.run(tenant="acme", owner="token:op")
        op, other = Principal("token:op", "acme"), Principal("token:op", "other")
        await b.push.create(op, run, PushConfig("c1", "", URL))
        await b.end(run)
        await b.settled(run, lambda one: one.dead_at is not None)
        assert len(await b.push.troubled(op, dead=True)) == 1
        assert await b.push.troubled(other, dead=True) == []
        with pytest.raises(NotFound):
            await b.push.retry(other, run.id, "c1")
        with pytest.raises(NotFound):
            await b.push.retry(op, run.id, "c2")
        with pytest.raises(PolicyDenied):
            await b.push.troubled(Principal("token:ann", "acme"), dead=True)


async def test_what_no_key_opens_is_given_up_and_said() -> None:
    """Its address is gone with the key."""
    store = MemoryStore()
    async with pushing(working=False, store=store) as b:
        run = await b.run()
        await b.configured(run)
        await b.end(run)
    async with pushing(store=store, keys=[b"n" * 32]) as b:
        one = await b.settled(run, lambda one: one.dead_at is not None)
        assert "a key that this mesh has no more" in one.error
        assert b.hooks.got == []


# Beside each other


async def test_a_slow_webhook_holds_up_nobody_else() -> None:
    """However many runs it is configured for, other hosts are told at once, and those on it wait for each other."""
    slow = anyio.Event()
    most = 0

    async def script(got: Notified) -> int:
        nonlocal most
        if "slow" in got.url:
            most = max(most, b.push.deliverer.active)
            await slow.wait()
        return 200

    async with pushing(script) as b:
        runs = [await b.run() for _ in range(PER_HOST * 3)]
        for run in runs:
            await b.configured(run, url="https://slow.example/x")
            await b.end(run)
        await b.until(lambda: b.push.deliverer.active == PER_HOST)
        quick = await b.run()
        await b.configured(quick)
        await b.end(quick)
        await b.until(lambda: b.seen() == [(3, 1)])
        assert b.push.deliverer.active <= PER_HOST + 1
        slow.set()
        for run in runs:
            await b.settled(run, lambda one: one.ended)
        assert len(b.hooks.got) == len(runs) + 1
        assert most == PER_HOST


async def test_a_place_that_is_free_again_is_taken_at_once() -> None:
    """Also when it became free while the store was asked: nobody waits for the next look at everything."""

    class Pondering(MemoryStore):
        async def claim_deliveries(self, worker: str, **more: Any) -> Sequence[Delivery]:
            found = await super().claim_deliveries(worker, **more)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
            return found

    turns = random.Random(3)

    async def script(_: Notified) -> int:
        for _ in range(turns.randrange(20)):
            await anyio.lowlevel.checkpoint()
        return 200

    async with pushing(script, store=Pondering(clock=Clock()), working=False) as b:
        runs = [await b.run() for _ in range(PER_HOST * 12)]
        for run in runs:
            await b.configured(run)
            await b.end(run)
        with anyio.fail_after(LOOK * 0.9):
            async with anyio.create_task_group() as group:
                await group.start(b.push.run)
                while len(b.hooks.got) < len(runs):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()


async def test_a_slow_webhook_delays_a_stream_by_nothing() -> None:
    """Whoever watches the run has its end before the webhook has answered to its first event."""
    slow = anyio.Event()

    async def script(_: Notified) -> int:
        await slow.wait()
        return 200

    async with pushing(script) as b:
        run = await b.run()
        await b.configured(run)
        watched: list[int] = []
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                async for event in b.engine.runs.follow(run, after=run.seq):
                    watched.append(event.run.seq)

            group.start_soon(watch)
            with anyio.fail_after(1):
                for number in range(20):
                    await b.step(run, f"s{number}")
                    b.push._bus.changed(run.id)
                await b.end(run)
                b.push._bus.changed(run.id)
        assert watched == list(range(3, 24))
        assert len(b.hooks.got) == 1
        slow.set()
        await b.settled(run, lambda one: one.ended)
        assert b.seen()[-1] == (23, 1)


async def test_a_server_that_stops_gives_back_what_it_had() -> None:
    """Another goes on at once, with the event that was not answered."""
    store = MemoryStore(clock=Clock())
    never = anyio.Event()

    async def script(got: Notified) -> int:
        if len(b.hooks.got) == 2:
            await never.wait()
        return 200

    async with pushing(script, store=store) as b:
        run = await b.run()
        await b.configured(run)
        await b.step(run)
        await b.end(run)
        await b.until(lambda: len(b.hooks.got) == 2)
    async with pushing(store=store) as b:
        await b.settled(run, lambda one: one.ended)
        assert b.seen() == [(3, 2), (4, 1)]


async def test_another_process_takes_up_what_one_left() -> None:
    """After its lease; the event that was on its way may come twice, none is lost and none comes out of order."""
    store = Dying(clock=(clock := Clock()))
    never = anyio.Event()

    async def script(got: Notified) -> int:
        if got.body["seq"] == 4:
            await never.wait()
        return 200

    async with pushing(script, store=store) as b:
        run = await b.run()
        await b.configured(run)
        for number in range(3):
            await b.step(run, f"s{number}")
        await b.until(lambda: b.seen() and b.seen()[-1] == (4, 1))
        first = b.seen()
        store.dying = True
    store.dying = False
    clock.now += LEASE - 1
    async with pushing(store=store) as b:
        await b.until(lambda: b.push.deliverer.active == 0)
        assert b.hooks.got == []
    clock.now += 2
    async with pushing(store=store) as b:
        await b.until(lambda: len(b.hooks.got) == 4)
        assert first + b.seen() == [(3, 1), (3, 2), (4, 1), (4, 1), (4, 2), (5, 1), (5, 2)]


async def test_what_another_process_configured_is_found() -> None:
    """Within the time between two looks at everything."""
    told_there = anyio.Event()

    def script(_: Notified) -> int:
        told_there.set()
        return 200

    async with pushing(script) as b:
        run = await b.run()
        elsewhere = build_engine(
            mesh(),
            b.store,
            None,
            push=PushPorts(b.hooks, Seals([KEY])),
            clock=b.clock,  # type: ignore[arg-type]
        )
        await elsewhere.push.create(LOCAL, run, PushConfig("c1", "", URL))
        await b.end(run)
        with anyio.fail_after(LOOK * 3):
            await told_there.wait()


async def test_an_event_that_cannot_be_put_into_words_takes_nobody_along(caplog: pytest.LogCaptureFixture) -> None:
    """The others are told."""
    async with pushing() as b:
        broken = await b.run()

        def render(event: RunEvent, run: Run) -> Sequence[Mapping[str, Any]]:
            if run.id == broken.id:
                raise RuntimeError("no words")
            return told(event, run)

        b.push.render = render
        await b.configured(broken)
        await b.step(broken)
        one = await b.settled(broken, lambda one: one.attempts == 1)
        assert one.error == "entry 3 cannot be put into the protocol's words"
        assert "RuntimeError: no words" in caplog.text
        run = await b.run()
        await b.configured(run)
        await b.end(run)
        await b.settled(run, lambda one: one.ended)
        assert b.seen() == [(3, 1)]


# From agents elsewhere


async def test_an_agent_elsewhere_wakes_the_run_that_waits_for_it() -> None:
    """With the run's own token, which no other run takes; what is not executed here is said to the other processes."""
    async with pushing(url="https://mesh.example/base/") as b:
        url, token = b.push.receive_url("r7")  # type: ignore[misc]
        assert url == "https://mesh.example/base/a2a-push/r7"
        poked: list[str] = []

        class Executing:
            def poke(self) -> None:
                poked.append("here")

        pokes = b.store.pokes()
        bus = b.push._bus
        bus.own("r7", None, Executing())  # type: ignore[arg-type]
        await b.push.received("r7", token)
        assert poked == ["here"]
        bus.disown("r7")
        await b.push.received("r7", token)
        with anyio.fail_after(5):
            assert await anext(pokes) == "r7"
        bus.own("r7", None, Executing())  # type: ignore[arg-type]
        await b.store.poke("r7")  # as another process would
        await b.until(lambda: len(poked) == 2)
        for wrong in ("", token[:-1], token.upper(), b.push.receive_url("r8")[1], "\u2603"):  # type: ignore[index]
            with pytest.raises(NotFound, match="there is no run 'r7'"):
                await b.push.received("r7", wrong)


async def test_tokens_of_an_older_key_are_taken() -> None:
    """A key may be changed while agents elsewhere are at work."""
    async with pushing(url="https://mesh.example", keys=[KEY]) as b:
        _, token = b.push.receive_url("r1")  # type: ignore[misc]
    async with pushing(url="https://mesh.example", keys=[b"n" * 32, KEY]) as b:
        await b.push.received("r1", token)
        assert b.push.receive_url("r1")[1] != token  # type: ignore[index]
    async with pushing(url="https://mesh.example", keys=[b"n" * 32]) as b:
        with pytest.raises(NotFound):
            await b.push.received("r1", token)


async def test_nobody_is_sent_to_an_address_that_only_this_machine_has() -> None:
    """Without a `url` the mesh asks agents elsewhere, and is not told by them."""
    async with pushing() as b:
        assert b.push.receive_url("r1") is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), ("7", 7.0), (" 7 ", 7.0), ("-1", None), ("soon", None), ("1e9", None), ("9" * 50, 999999999.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("\u0667", None),
    ],
)  # fmt: skip
def test_retry_after_is_read_in_both_forms(value: str | None, seconds: float | None) -> None:
    """Seconds or a date (RFC 9110 section 10.2.3); anything else says nothing."""
    assert retry_after(value, 40.0) == seconds
