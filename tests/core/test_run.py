"""Folding a journal: any journal gives a legal run, and one by one gives what all at once gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentmesh.core.model import Usage
from agentmesh.core.run import (
    STATE_AFTER,
    Entry,
    Folder,
    Kind,
    Run,
    RunState,
    StepState,
    apply,
    fold,
    new_run_id,
    usage_from_json,
    usage_to_json,
)

NEW = Run("r1", "triage", "d1", {"log": "x"})

_usage = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 9), "completion_tokens": st.none() | st.integers(0, 9)},
    optional={"seconds": st.integers(0, 9).map(float)},
)
_payloads: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.STEP_STARTED: st.fixed_dictionaries(
        {"verb": st.sampled_from(["llm", "set"]), "why": st.sampled_from(["first", "retry", "resume"])}
    ),
    Kind.STEP_CHILD: st.fixed_dictionaries({"run": st.sampled_from(["c1", "c2"])}),
    Kind.STEP_ATTEMPT: st.fixed_dictionaries({"model": st.just("tiny"), "usage": st.none() | _usage}),
    Kind.STEP_COMPLETED: st.fixed_dictionaries({"verb": st.just("set"), "output": st.integers()}),
    Kind.STEP_FAILED: st.fixed_dictionaries({"error": st.just({"code": "x", "message": "y"})}),
    Kind.RUN_COMPLETED: st.fixed_dictionaries({"output": st.integers()}),
    Kind.RUN_REJECTED: st.fixed_dictionaries({"error": st.just({"code": "x", "message": "y"})}),
    Kind.STEP_TASK: st.fixed_dictionaries({"peer": st.just("p"), "task": st.just("t"), "context": st.just("c")}),
    Kind.STEP_ARTIFACT: st.fixed_dictionaries(
        {
            "artifact": st.fixed_dictionaries(
                {"artifactId": st.sampled_from(["a", "b"]), "parts": st.just([{"text": "x"}])}
            )
        },
        optional={"append": st.booleans()},
    ),
    Kind.STEP_SAID: st.fixed_dictionaries({"state": st.just("working")}),
    Kind.RUN_FAILED: st.fixed_dictionaries({"error": st.just({"code": "x", "message": "y", "path": ""})}),
}


@st.composite
def _entry(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(list(Kind)))
    path = "" if kind.value.startswith("run.") else draw(st.sampled_from(["cut", "ask", "each[0]/ask"]))
    return Entry(kind, path, draw(st.integers(0, 3)), draw(_payloads.get(kind, st.just({}))))


@st.composite
def _journal(draw: st.DrawFn) -> list[Entry]:
    """Any entries in any order: the fold must stand more than an engine ever writes."""
    drawn = draw(st.lists(_entry(), max_size=40))
    times = sorted(draw(st.lists(st.floats(1, 100), min_size=len(drawn), max_size=len(drawn))))
    return [
        Entry(entry.kind, entry.path, entry.attempt, entry.payload, seq=i, at=at)
        for i, (entry, at) in enumerate(zip(drawn, times, strict=True), start=1)
    ]


def _legal(run: Run, entries: Sequence[Entry]) -> None:
    ends = [i for i, entry in enumerate(entries) if entry.kind in STATE_AFTER and STATE_AFTER[entry.kind].terminal]
    counted = entries[: ends[0] + 1] if ends else entries
    spent = [usage_from_json(entry.payload.get("usage")) for entry in counted if entry.kind is Kind.STEP_ATTEMPT]
    assert run.usage == sum(spent, Usage())
    assert run.state.terminal == bool(ends)
    assert run.seq == len(entries)
    assert run.updated_at == (entries[-1].at if entries else 0)
    assert (run.error is not None) == (run.state in (RunState.FAILED, RunState.REJECTED))
    for path, step in run.steps.items():
        assert step.path == path
        assert step.state.ended == (step.ended_at is not None)
        assert not run.state.terminal or step.state.ended
        assert step.error is None or step.state is not StepState.COMPLETED
        assert all(entry.kind is Kind.STEP_ATTEMPT and entry.path == path for entry in step.attempts)
        if step.started_at is not None and step.ended_at is not None:
            assert step.started_at <= step.ended_at


@given(_journal())
def test_every_prefix_gives_a_legal_run(journal: list[Entry]) -> None:
    """Whatever stands in a journal, the run after any number of its entries contradicts itself nowhere."""
    for length in range(len(journal) + 1):
        _legal(fold(NEW, journal[:length]), journal[:length])


@given(_journal(), st.integers(0, 40))
def test_one_by_one_equals_all_at_once(journal: list[Entry], cut: int) -> None:
    """Entries folded singly, in two parts or together give the same run."""
    single = NEW
    for entry in journal:
        single = apply(single, entry)
    assert single == fold(NEW, journal) == fold(fold(NEW, journal[:cut]), journal[cut:])


@given(_journal())
def test_the_end_is_the_end(journal: list[Entry]) -> None:
    """After a terminal entry only `seq` and `updated_at` move; a completed step keeps its output."""
    folder = Folder(NEW)
    for entry in journal:
        before = folder.run
        after = folder.add(entry).run
        if before.state.terminal:
            assert (after.state, after.output, after.steps, after.usage) == (
                before.state, before.output, before.steps, before.usage,
            )  # fmt: skip
        for path, step in before.steps.items():
            if step.state is StepState.COMPLETED:
                assert after.steps[path] == step


def test_a_snapshot_does_not_change() -> None:
    """A run read from a Folder stays what it was when more is folded in."""
    folder = Folder(NEW).add(Entry(Kind.STEP_STARTED, "cut", 1, {"verb": "set"}))
    early = folder.run
    folder.add(Entry(Kind.STEP_COMPLETED, "cut", 1, {"output": 1}))
    assert early.steps["cut"].state is StepState.RUNNING
    assert folder.run.steps["cut"].state is StepState.COMPLETED
    assert folder.run is folder.run


def test_a_repair_is_folded() -> None:
    """Two attempts of one step: both counted and kept, the last one's verdicts and model shown."""
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 0, "seconds": 0.5}
    verdict = {"result": "fail", "message": "not in the log"}
    run = fold(
        NEW,
        [
            Entry(Kind.RUN_SUBMITTED, seq=1, at=1),
            Entry(Kind.RUN_WORKING, payload={"worker": "w"}, seq=2, at=2),
            Entry(Kind.STEP_STARTED, "ask", 1, {"verb": "llm", "why": "first"}, 3, 3),
            Entry(Kind.STEP_ATTEMPT, "ask", 1, {"model": "tiny", "verdicts": [verdict], "usage": usage}, 4, 4),
            Entry(Kind.STEP_STARTED, "ask", 2, {"verb": "llm", "why": "repair"}, 5, 5),
            Entry(Kind.STEP_ATTEMPT, "ask", 2, {"model": "tiny", "verdicts": [], "usage": usage}, 6, 6),
            Entry(Kind.STEP_COMPLETED, "ask", 2, {"verb": "llm", "output": "ok"}, 7, 7),
        ],
    )
    step = run.steps["ask"]
    assert (step.state, step.attempt, step.why, step.output) == (StepState.COMPLETED, 2, "repair", "ok")
    assert (step.started_at, step.ended_at) == (3, 7)
    assert [entry.attempt for entry in step.attempts] == [1, 2]
    assert step.verdicts == ()
    assert run.usage == step.usage == Usage(10, 4, 0, 1.0)
    assert (run.state, run.seq, run.updated_at) == (RunState.WORKING, 7, 7)


def test_a_resumed_step_keeps_its_child() -> None:
    """A crash does not orphan the child run of a step; a retry starts one of its own."""
    begun = [
        Entry(Kind.STEP_STARTED, "hand", 1, {"verb": "agent", "why": "first"}),
        Entry(Kind.STEP_CHILD, "hand", 1, {"run": "c1"}),
    ]
    resumed = fold(NEW, [*begun, Entry(Kind.STEP_STARTED, "hand", 1, {"verb": "agent", "why": "resume"})])
    retried = fold(NEW, [*begun, Entry(Kind.STEP_STARTED, "hand", 2, {"verb": "agent", "why": "retry"})])
    assert resumed.steps["hand"].child == "c1"
    assert retried.steps["hand"].child is None


def test_the_end_of_a_run_ends_its_steps() -> None:
    """Steps in flight when their run ends are canceled; finished ones are left alone."""
    begun = [
        Entry(Kind.STEP_STARTED, "a", 1, {"verb": "llm"}, at=1),
        Entry(Kind.STEP_COMPLETED, "b", 1, {"output": 1}, at=2),
        Entry(Kind.STEP_SKIPPED, "c", 0, {"reason": "if"}, at=2),
    ]
    run = fold(NEW, [*begun, Entry(Kind.RUN_CANCELED, payload={"by": "ann"}, at=3)])
    assert {path: (step.state.value, step.ended_at) for path, step in run.steps.items()} == {
        "a": ("canceled", 3), "b": ("completed", 2), "c": ("skipped", 2),
    }  # fmt: skip


def test_entries_without_a_number_count_on() -> None:
    """Entries the store has not numbered yet follow the last one."""
    assert fold(NEW, [Entry(Kind.RUN_SUBMITTED, seq=4), Entry(Kind.STEP_COMPLETED, "a")]).seq == 5


def test_folding_many_is_linear() -> None:
    """A run of 20,000 steps is folded without copying all steps for each entry."""
    folder = Folder(NEW)
    for i in range(20_000):
        folder.add(Entry(Kind.STEP_COMPLETED, f"each[{i}]/x", 1, {"output": i}, i + 1, 1.0))
    assert len(folder.run.steps) == folder.seq == 20_000


def test_every_state_and_kind_is_drawn() -> None:
    """docs/run-states.md names every kind of entry and every state."""
    page = (Path(__file__).parents[2] / "docs" / "run-states.md").read_text()
    names = [
        *(kind.value for kind in Kind),
        *(state.value for state in RunState),
        *(state.value for state in StepState),
    ]
    assert [name for name in names if name not in page] == []


def test_usage_survives_json() -> None:
    """Usage is read back as it was written."""
    assert usage_from_json(usage_to_json(Usage(1, 2, 3, 0.5))) == Usage(1, 2, 3, 0.5)
    assert usage_from_json(None) == Usage()


def test_run_ids_are_uuid7_in_order_of_time() -> None:
    """Ids are version 7, variant RFC 9562, and sort by their time."""
    early, late = new_run_id(1_700_000_000.0, b"\xff" * 10), new_run_id(1_700_000_000.001, b"\x00" * 10)
    assert early < late
    assert early == "018bcfe5-6800-7fff-bfff-ffffffffffff"


def test_what_comes_from_outside_is_no_step() -> None:
    """Signals, answers and parking stand in the journal, not among the steps."""
    run = Run("r", "w", "d", {})
    entries = [
        Entry(Kind.RUN_SIGNALED, payload={"name": "go", "value": 1, "by": "a"}),
        Entry(Kind.RUN_ANSWERED, payload={"question": "q#1", "yes": True, "by": "a"}),
        Entry(Kind.RUN_INPUT_REQUIRED),
        Entry(Kind.RUN_UNDOING, payload={"by": "a"}),
    ]
    assert not fold(run, entries).steps
