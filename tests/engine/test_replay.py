"""Replay: a journal walked again comes out the same, and what was changed in it is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel, use
from agentmesh.core.casebook import Case
from agentmesh.core.run import Entry, Kind, Run
from agentmesh.engine import Engine
from agentmesh.engine.casebook import Table
from agentmesh.engine.definitions import Definition, load
from agentmesh.engine.recording import Deck
from agentmesh.engine.replay import Replayed, replay
from agentmesh.errors import Fail, Retry
from tests.engine.meshes import LOCAL, Clock, finished, mesh, serving, workflow

pytestmark = pytest.mark.anyio

QUEUE = {
    "type": "object",
    "properties": {"queue": {"enum": ["bug", "billing"]}, "why": {"type": "string"}},
    "required": ["queue"],
}
SORT = workflow(
    "sort",
    {"id": "cut", "python": "t:cut", "with": {"text": "${{ input.text }}"}, "effect": "read"},
    {
        "id": "choose",
        "llm": {"prompt": "Sort ${{ steps.cut.output }}", "output": QUEUE, "temperature": 0},
        "validate": [{"ensure": "output.queue == 'bug'", "message": "only bugs today"}],
        "on_invalid": [{"repair": 1}, "fail"],
    },
    {"id": "loud", "if": "steps.choose.output.queue == 'bug'", "set": "${{ steps.choose.output.queue }}!"},
    {
        "id": "each",
        "map": {"over": "${{ ['a', 'b', 'c'] }}", "as": "letter", "at_once": 2},
        "steps": [{"id": "up", "python": "t:up", "with": {"letter": "${{ letter }}"}}],
    },
    output={"queue": "${{ steps.loud.output }}", "each": "${{ steps.each.output }}"},
)
FUNCTIONS = {"t:cut": lambda text: text[:3], "t:up": lambda letter: letter.upper()}


def sorting() -> ScriptedModel:
    return ScriptedModel([{"queue": "billing"}, {"queue": "bug", "why": "it says so"}])


async def recorded(engine: Engine, run: Run) -> tuple[list[Entry], Definition]:
    document = await engine.store.get_definition(run.definition)
    assert document is not None
    return list(await engine.store.entries(run.id)), load(run.definition, document)


async def of_sort() -> tuple[Run, list[Entry], Definition]:
    """A run of `sort`, as a store has it."""
    async with serving(mesh(SORT), model=sorting(), functions=FUNCTIONS) as engine:
        run = await finished(engine, "sort")
        return run, *await recorded(engine, run)


def changed(entries: Sequence[Entry], kind: Kind, path: str, nth: int = 0, **payload: Any) -> list[Entry]:
    """The journal with one row's payload changed."""
    at = [i for i, e in enumerate(entries) if e.kind is kind and e.path == path][nth]
    rows = list(entries)
    rows[at] = replace(rows[at], payload={**rows[at].payload, **payload})
    return rows


async def test_a_run_replays_to_the_same_digest() -> None:
    """Repairs, blocks and all; nothing is asked and nothing is called."""
    run, entries, definition = await of_sort()
    found = await replay(run, entries, definition)
    assert found.difference is None
    assert found.same
    assert found.digest == found.again
    assert found.rows == len(entries)


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ((Kind.STEP_COMPLETED, "cut", 0, {"output": "xyz"}), "choose", "prompt_hash"),
        ((Kind.STEP_ATTEMPT, "choose", 0, {"verdicts": []}), "choose", "verdicts"),
        ((Kind.STEP_ATTEMPT, "choose", 1, {"output": {"queue": "billing"}}), "choose", "verdicts"),
        ((Kind.STEP_ATTEMPT, "choose", 1, {"output": {"queue": "bug", "why": "x"}}), "choose", 'output.why: the journal says "it'),
        ((Kind.STEP_STARTED, "choose", 1, {"why": "retry"}), "choose", 'why: the journal says "retry", the replay "repair"'),
        ((Kind.STEP_COMPLETED, "loud", 0, {"output": "quiet"}), "loud", 'output: the journal says "quiet", the replay "bug!"'),
        ((Kind.STEP_COMPLETED, "each[1]/up", 0, {"output": "Z"}), "each", 'output[1]: the journal says "B", the replay "Z"'),
        ((Kind.STEP_INTENT, "each[0]/up", 0, {"key": "other"}), "each[0]/up", "key"),
        ((Kind.STEP_STARTED, "each", 0, {"items": 4}), "each", "items: the journal says 4, the replay 3"),
        ((Kind.RUN_COMPLETED, "", 0, {"output": {}}), "", "output.queue: the journal says nothing"),
    ],
)  # fmt: skip
async def test_a_changed_row_is_found(
    change: tuple[Kind, str, int, Mapping[str, Any]], path: str, message: str
) -> None:
    """The first place where the journal contradicts itself is named: the row, or what should have followed from it."""
    run, entries, definition = await of_sort()
    kind, where, nth, payload = change
    found = await replay(run, changed(entries, kind, where, nth, **payload), definition)
    assert not found.same
    assert found.difference is not None
    assert (found.difference.path, message in found.difference.message) == (path, True), found.difference.message


async def test_a_row_that_is_gone_is_found() -> None:
    """Nothing may be missing in a run that has ended."""
    run, entries, definition = await of_sort()
    for gone in range(2, len(entries) - 1):
        rest = [e for i, e in enumerate(entries) if i != gone]
        assert (await replay(run, rest, definition)).difference is not None, entries[gone]
        renumbered = [replace(e, seq=seq) for seq, e in enumerate(rest, 1)]
        assert entries[gone].kind is Kind.STEP_INTENT or not (await replay(run, renumbered, definition)).same, entries[
            gone
        ]


async def test_another_definition_is_another_way() -> None:
    """An `if` that would be false now is the first difference, not what follows from it."""
    run, entries, definition = await of_sort()
    document = {**definition.document}
    steps = [dict(step) for step in document["workflows"]["sort"]["steps"]]
    steps[2]["if"] = "steps.choose.output.queue == 'billing'"
    document["workflows"] = {"sort": {**document["workflows"]["sort"], "steps": steps}}
    found = await replay(run, entries, load("other", document))
    assert found.difference is not None
    assert found.difference.path == "loud"
    assert found.difference.message == "kind: the journal says step.completed, the replay step.skipped"


async def every_prefix(run: Run, entries: list[Entry], definition: Definition) -> list[Replayed]:
    return [await replay(run, entries[:count], definition) for count in range(1, len(entries) + 1)]


async def test_a_run_is_replayed_to_where_it_stands() -> None:
    """Cut off after any row, the journal is walked as far as it goes."""
    run, entries, definition = await of_sort()
    for count, found in enumerate(await every_prefix(run, entries, definition), 1):
        assert found.same, (count, found.difference)
        assert bool(found.open) == (count < len(entries))


@pytest.mark.parametrize("rows", [3, 8, 13, -1])
async def test_a_canceled_run_replays(rows: int) -> None:
    """Cancelled wherever it was, after its last step too; but not when nobody asked for it."""
    run, entries, definition = await of_sort()
    last = entries[rows - 1]
    asked = Entry(Kind.RUN_CANCEL_REQUESTED, payload={"by": "local"}, seq=last.seq + 1, at=last.at)
    end = Entry(Kind.RUN_CANCELED, payload={"by": "local"}, seq=last.seq + 2, at=last.at)
    found = await replay(run, [*entries[:rows], asked, end], definition)
    assert found.same, found.difference
    unasked = await replay(run, [*entries[:rows], replace(end, seq=last.seq + 1)], definition)
    assert not unasked.same


async def test_failures_and_what_was_cut_off_replay() -> None:
    """A map that fails cuts its other items off; an error that is tolerated is a row like any."""

    def f(n: int) -> int:
        if n == 2:
            raise Fail("two is too many")
        if n == 5:
            raise Retry("later", after=1)
        return n

    flow = workflow(
        "w",
        {"id": "may", "python": "t:f", "with": {"n": 2}, "on_error": "continue"},
        {
            "id": "again",
            "python": "t:f",
            "with": {"n": 5},
            "effect": "read",
            "retry": {"attempts": 3},
            "on_error": "continue",
        },
        {
            "id": "all",
            "map": {"over": "${{ [0, 1, 2, 3, 4] }}", "as": "n", "at_once": 3},
            "steps": [{"id": "f", "python": "t:f", "with": {"n": "${{ n }}"}}, {"id": "s", "set": "${{ n }}"}],
        },
    )
    async with serving(mesh(flow), functions={"t:f": f}) as engine:
        run = await finished(engine, "w")
        entries, definition = await recorded(engine, run)
        assert run.state.value == "failed"
        for found in await every_prefix(run, entries, definition):
            assert found.same, found.difference


async def test_waits_signals_and_answers_come_from_the_journal() -> None:
    """A replay waits for nobody, and knows what was said."""
    flow = workflow(
        "w",
        {"id": "soon", "wait": "1s"},
        {"id": "paid", "wait": {"signal": "paid"}},
        {"id": "ok", "approve": {"ask": "Send ${{ steps.paid.output.n }}?", "expires": "1d"}},
        {"id": "done", "set": "${{ steps.ok.output.by }}"},
    )
    async with serving(mesh(flow), clock=Clock()) as engine:
        run = await engine.runs.start(LOCAL, "w", {"text": "x"})
        await engine.runs.signal(LOCAL, run.id, "paid", {"n": 3})
        async for event in engine.runs.watch(LOCAL, run.id):
            if event.run.state.value == "input_required":
                break
        await engine.runs.answer(LOCAL, run.id)
        run = await engine.runs.wait(LOCAL, run.id)
        assert run.output == "local"
        entries, definition = await recorded(engine, run)
        for found in await every_prefix(run, entries, definition):
            assert found.same, found.difference
        no = changed(entries, Kind.RUN_ANSWERED, "", yes=False)
        found = await replay(run, no, definition)
        assert found.difference is not None
        assert (found.difference.path, found.difference.message) == (
            "ok", "kind: the journal says step.completed, the replay step.failed"
        )  # fmt: skip


async def test_an_agents_conversation_is_gone_through_again() -> None:
    """What a turn or a call said is part of what the model was asked next."""
    agent = workflow("w", {"id": "ask", "llm": {"prompt": "Help: ${{ input.text }}", "tools": ["desk.*"]}})
    tools = {"find": {"description": "Finds.", "python": "t:find", "annotations": {"readOnlyHint": True}}}
    model = ScriptedModel([use("desk_find"), use("desk_find"), "It is on its way."])
    async with serving(mesh(agent, tools=tools), model=model, functions={"t:find": lambda: "shipped"}) as engine:
        run = await finished(engine, "w")
        assert run.output == "It is on its way."
        entries, definition = await recorded(engine, run)
    for found in await every_prefix(run, entries, definition):
        assert found.same, found.difference
    call = changed(entries, Kind.STEP_COMPLETED, "ask/turn[1]/call[0]", output="lost")
    told = await replay(run, call, definition)
    assert told.difference is not None
    assert (told.difference.path, told.difference.message[:11]) == ("ask", "prompt_hash")


async def test_a_replay_is_out_of_time_when_the_journal_says_so() -> None:
    """The time of a block and of the run itself, though no clock goes."""
    flow = workflow(
        "w",
        {
            "id": "both",
            "parallel": {"a": [{"id": "x", "wait": {"signal": "never"}}], "b": [{"id": "y", "set": 1}]},
            "timeout": "10m",
            "on_error": "continue",
        },
        {"id": "after", "set": "${{ steps.both.error.code }}"},
        {"id": "long", "wait": "2d"},
        deadline="1d",
    )
    late = Case.model_validate(
        {"name": "late", "input": {"text": "x"}, "expect": {"state": "failed", "error": {"code": "deadline"}}}
    )
    played = await Table(mesh(flow), lambda clock: MemoryStore(clock=clock)).play("w", late, late.input, Deck([]))
    assert played.failures == ()
    assert played.run is not None
    assert played.definition is not None
    assert played.run.steps["after"].output == "timeout"
    for found in await every_prefix(played.run, list(played.entries), played.definition):
        assert found.same, found.difference
