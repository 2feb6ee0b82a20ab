"""Golden cases: what is recorded is what is played; what changed is stale; validators that sleep are named."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_model import ScriptedModel
from agentmesh.core.casebook import Case, mismatches, wilson
from agentmesh.core.context import Context
from agentmesh.core.mesh import Mesh
from agentmesh.core.model import ChatRequest
from agentmesh.core.mutation import mutations
from agentmesh.core.policy import PolicyFile
from agentmesh.core.workflow import Workflow
from agentmesh.engine.casebook import Played, Table, World
from agentmesh.engine.mutants import mutate
from agentmesh.engine.recording import Deck, recorded_functions
from agentmesh.engine.resample import Sampled
from agentmesh.errors import Fail
from tests.engine.meshes import mesh, workflow

pytestmark = pytest.mark.anyio

FINDING = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["bug", "billing", "shipping"]},
        "quote": {"type": "string"},
        "note": {"type": "string"},
    },
    "required": ["queue", "quote"],
    "additionalProperties": False,
}


def sorting(prompt: str = "Sort: ${{ input.text }}", *validators: Any) -> Workflow:
    return workflow(
        "sort",
        {"id": "ask", "llm": {"prompt": prompt, "output": FINDING}, "validate": list(validators)},
        output="${{ steps.ask.output }}",
    )


ANSWER = {"queue": "bug", "quote": "it crashes", "note": "urgent"}
INPUT = {"text": "help, it crashes"}


def table(of: Mesh, **world: Any) -> Table:
    return Table(of, lambda clock: MemoryStore(clock=clock), World(**world))


def case(**more: Any) -> Case:
    return Case.model_validate({"name": "c", "input": INPUT} | more)


async def record(of: Mesh, of_case: Case, name: str = "sort", **world: Any) -> list[Any]:
    deck = Deck(record=True)
    played = await table(of, **world).play(name, of_case, of_case.input, deck)
    assert played.passed, played
    return list(deck.made)


async def test_what_was_recorded_is_played_without_a_model() -> None:
    """The same run comes of it, and the case is held against it."""
    model = ScriptedModel([ANSWER])
    calls = await record(mesh(sorting()), case(), models=model)
    (call,) = calls
    assert (call["ask"], call["what"], call["answer"]) == ("model", "tiny", ANSWER)
    expect = {"output": {"queue": "bug"}, "that": ["output.quote in ['it crashes']", "steps.ask.attempts == 1"]}
    good = case(expect=expect | {"steps": {"ask": {"state": "completed", "attempts": 1, "output": {"note": "urgent"}}}})
    played = await table(mesh(sorting())).play("sort", good, INPUT, Deck(calls))
    assert (played.failures, played.stale, played.unused) == ((), (), ())
    assert len(model.requests) == 1


@pytest.mark.parametrize(
    ("expect", "failure"),
    [
        ({"output": {"queue": "billing"}}, 'output.queue is "bug", expected "billing"'),
        ({"output": {"none": 1}}, "output.none is missing, expected 1"),
        ({"state": "failed"}, "the run completed, expected failed"),
        ({"that": ["output.queue == 'billing'"]}, "does not hold: output.queue == 'billing'"),
        ({"steps": {"other": {}}}, "there was no step other; there were ask"),
        ({"steps": {"ask": {"attempts": 2}}}, "step ask took 1 attempts, expected 2"),
    ],
)
async def test_what_is_not_as_expected_is_said(expect: dict[str, Any], failure: str) -> None:
    """One sentence each."""
    calls = await record(mesh(sorting()), case(), models=ScriptedModel([ANSWER]))
    played = await table(mesh(sorting())).play("sort", case(expect=expect), INPUT, Deck(calls))
    assert played.failures == (failure,)


async def test_a_changed_prompt_is_stale() -> None:
    """Another question has no answer; what was recorded and is not asked any more is told."""
    calls = await record(mesh(sorting()), case(), models=ScriptedModel([ANSWER]))
    played = await table(mesh(sorting("Sort it: ${{ input.text }}"))).play("sort", case(), INPUT, Deck(calls))
    assert not played.passed
    assert (played.stale, played.unused, played.failures) == (("model tiny",), ("model tiny",), ())


async def test_functions_that_write_are_recorded_and_those_that_read_are_called() -> None:
    """What a function kept for later runs is part of its answer; what it raised is raised again."""
    called: list[str] = []

    def send(ctx: Context, text: str) -> int:
        called.append("send")
        ctx.put("sent", text)
        return 7

    def fail() -> None:
        called.append("fail")
        raise Fail("the desk is closed")

    functions: dict[str, Any] = {"t:send": send, "t:read": lambda: called.append("read"), "t:fail": fail}
    flow = workflow(
        "w",
        {"id": "r", "python": "t:read", "effect": "read"},
        {"id": "s", "python": "t:send", "with": {"text": "hi"}},
        {"id": "f", "python": "t:fail", "on_error": "continue"},
        output="${{ steps.s.output }}",
    )
    of = mesh(flow)
    deck = Deck(record=True)
    find = recorded_functions(of, deck, functions.__getitem__)
    ctx = Context(key="k", folder=of.folder)
    assert await find("t:send")(ctx, text="hi") == 7
    with pytest.raises(Fail, match="closed"):
        await find("t:fail")(ctx)
    find("t:read")()
    assert called == ["send", "fail", "read"]
    again = Deck(deck.made)
    find = recorded_functions(of, again, functions.__getitem__)
    ctx = Context(key="k", folder=of.folder)
    assert await find("t:send")(ctx, text="hi") == 7
    assert ctx.puts == {"sent": "hi"}
    with pytest.raises(Fail, match="the desk is closed"):
        await find("t:fail")(ctx)
    find("t:read")()
    assert called == ["send", "fail", "read", "read"]
    with pytest.raises(Fail, match="was not asked when the case was recorded"):
        await find("t:send")(ctx, text="other")


async def test_live_runs_ask_models_and_write_nothing() -> None:
    """What may write is answered as it was recorded, whatever it is asked; what reads is really called."""
    sent: list[str] = []
    functions: dict[str, Any] = {"t:send": sent.append, "t:read": lambda: "read"}
    of = mesh(
        workflow(
            "w",
            {"id": "s", "python": "t:send", "with": {"text": "hi"}},
            {"id": "r", "python": "t:read", "effect": "read"},
        )
    )
    calls = [{"ask": "python", "what": "t:send", "key": "another question", "answer": 7}]
    deck = Deck(calls, lenient=True)
    find = recorded_functions(of, deck, functions.__getitem__)
    ctx = Context(key="k", folder=of.folder)
    assert [await find("t:send")(ctx, text=text) for text in ("a", "b")] == [7, 7]
    assert find("t:read")() == "read"
    assert (sent, deck.stale) == ([], [])


async def test_a_case_is_started_by_whom_it_says() -> None:
    """What the policies do not allow them fails the case, in the policies' words."""
    policy = PolicyFile.model_validate(
        {"rules": [{"allow": "*", "to": ["desk"]}], "roles": {"desk": {"subjects": ["token:d"]}}}
    )
    of = mesh(workflow("w", {"id": "a", "set": 1}), policies=(policy,))
    assert (await table(of).play("w", case(**{"as": "token:d"}), INPUT, Deck([]))).failures == ()
    (failure,) = (await table(of).play("w", case(**{"as": "token:x"}), INPUT, Deck([]))).failures
    assert failure.startswith("token:x may not do runs.start on workflow:w")


async def test_a_case_answers_signals_and_lets_time_pass() -> None:
    """Days go by in no time; a question without an answer fails the case."""
    flow = workflow(
        "w",
        {"id": "later", "wait": "3d"},
        {"id": "paid", "wait": {"signal": "paid"}},
        {"id": "ok", "approve": {"ask": "Send it?"}},
        output="${{ steps.paid.output }}",
    )
    signals = [{"name": "paid", "value": 3}]
    good = case(signals=signals, answers=[{"step": "ok"}], expect={"output": 3})
    assert (await table(mesh(flow)).play("w", good, INPUT, Deck([]))).failures == ()
    no = case(
        signals=signals,
        answers=[{"step": "ok", "yes": False}],
        expect={"state": "failed", "error": {"code": "declined"}},
    )
    assert (await table(mesh(flow)).play("w", no, INPUT, Deck([]))).failures == ()
    mute = await table(mesh(flow)).play("w", case(signals=signals), INPUT, Deck([]))
    assert mute.failures[0] == "step ok asks 'Send it?', and the case has no answer for it"
    lost = await table(mesh(flow)).play("w", case(answers=[{"step": "ok"}]), INPUT, Deck([]))
    assert lost.failures[0] == "step paid waits for signal 'paid' that the case does not give"


async def played_with(*validators: Any) -> Played:
    of = mesh(sorting("Sort: ${{ input.text }}", *validators))
    return await table(of, models=ScriptedModel([ANSWER])).play("sort", case(), INPUT, Deck(record=True))


async def test_mutants_name_validators_that_catch_nothing() -> None:
    """Each validator is asked of each fault; parts of the output that nobody guards are told."""
    asleep = {"ensure": "size(output.queue) > 0"}
    (subject,) = await mutate([await played_with({"grounded": ["output.quote"]}, asleep)])
    told = {guard.name: guard for guard in subject.guards.values()}
    assert list(told) == ["schema of the output", "ensure size(output.queue) > 0", "grounded output.quote"]
    assert told["schema of the output"].caught > 0
    assert told["grounded output.quote"].caught > 0
    assert subject.silent == ["ensure size(output.queue) > 0"]
    assert {"kind": "another value", "path": "output.queue", "value": '"billing"'} in subject.missed
    assert "output.quote" not in subject.unguarded
    (bare,) = await mutate([await played_with({"judge": {"rubric": "Polite", "model": "tiny"}})]) or [None]
    assert bare is None or bare.guards["judge"].runs is False


async def test_mutations_are_typed_and_change_something() -> None:
    """Each is another value than before, and only one part of it is."""
    value = {"queue": "bug", "n": 3, "on": True, "quote": "abcd", "list": [1, 2], "none": None}
    found = list(mutations(value, {"properties": {"queue": {"enum": ["bug", "x"]}}}))
    assert all(m.value != value for m in found)
    kinds = {(m.kind, m.path) for m in found}
    assert {
        ("another value", "output.queue"), ("changed number", "output.n"), ("flipped", "output.on"),
        ("truncated text", "output.quote"), ("foreign text", "output.quote"), ("dropped item", "output.list"),
        ("swapped items", "output.list"), ("dropped field", "output.none"), ("null", "output.n"), ("null", "output"),
    } <= kinds  # fmt: skip
    assert value["list"] == [1, 2]


async def test_live_runs_are_counted_by_validator() -> None:
    """First answers count; a repair is asked only of those that failed. The interval holds the rate."""
    of = mesh(
        workflow(
            "sort",
            {
                "id": "ask",
                "llm": {"prompt": "Sort: ${{ input.text }}", "output": FINDING},
                "validate": [{"ensure": "output.queue == 'bug'"}, {"ensure": "output.quote != ''"}],
                "on_invalid": [{"repair": 1}],
            },
        )
    )
    dice = random.Random(7)

    def answer(request: ChatRequest) -> dict[str, Any]:
        return ANSWER | {"queue": "bug" if len(request.messages) > 1 or dice.random() < 0.5 else "billing"}

    at = table(of, models=ScriptedModel(answer))
    sampled = Sampled()
    for _ in range(20):
        sampled.add(await at.play("sort", case(), INPUT, Deck(), live=True))
    told = sampled.to_json()
    assert told["cases"]["c"]["passed"] == 20
    rates = {(v["step"], v["validator"]): v for v in told["validators"]}
    bug = rates["ask", "ensure output.queue == 'bug'"]
    assert 0 < bug["passed"] < bug["of"] == 20
    assert bug["interval"][0] < bug["rate"] < bug["interval"][1]
    assert rates["ask", "ensure output.quote != ''"]["rate"] == 1.0
    assert told["attempts"]["ask"] == pytest.approx(1 + (20 - bug["passed"]) / 20)
    assert told["tokens"]["runs"] == 20
    assert told["tokens"]["mean"] > 0


@pytest.mark.parametrize(
    ("passed", "of", "low", "high"), [(0, 0, 0, 1), (10, 10, 0.722, 1), (5, 10, 0.237, 0.763), (0, 20, 0, 0.161)]
)
def test_wilson_interval(passed: int, of: int, low: float, high: float) -> None:
    """As in the tables."""
    assert wilson(passed, of) == pytest.approx((low, high), abs=0.001)


def test_partial_matches() -> None:
    """Members that are not named may be anything; lists and types are matched whole."""
    assert not [*mismatches({"a": 1}, {"a": 1, "b": 2}, "output")]
    assert not [*mismatches([{"a": 1}], [{"a": 1, "b": 2}], "output")]
    assert [*mismatches([1], [1, 2], "output")] == ["output is [1, 2], expected [1]"]
    assert [*mismatches(True, 1, "output")] == ["output is 1, expected true"]
    assert [*mismatches({"a": {}}, {"a": 3}, "output")] == ["output.a is 3, expected an object"]
