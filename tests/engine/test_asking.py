"""Functions that ask while they work, and runs whose questions go to whoever called."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentmesh.adapters.memory import MemoryStore
from agentmesh.adapters.memory_caller import ScriptedCaller
from agentmesh.core.caller import ELICITATION, ROOTS, SAMPLING, InputRequest, InputRequired
from agentmesh.core.content import Content, image, text
from agentmesh.core.context import Context
from agentmesh.core.policy import PolicyFile, Principal
from agentmesh.core.question import Reply
from agentmesh.core.run import Run, RunState
from agentmesh.core.store import RunFilter
from agentmesh.core.tool import ToolCall
from agentmesh.engine import Engine
from agentmesh.errors import InvalidInput, MissingCapability
from tests.engine.meshes import LOCAL, Clock, ended, mesh, serving, workflow

pytestmark = pytest.mark.anyio

NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
ANN = {"action": "accept", "content": {"name": "Ann"}}


async def greet(ctx: Context) -> str:
    answer = await ctx.elicit("who", "What is your name?", NAME)
    return f"Hello, {answer['content']['name']}!" if answer["action"] == "accept" else "Hello, nobody!"


async def both(ctx: Context) -> list[Any]:
    form = {"mode": "form", "message": "?", "requestedSchema": NAME}
    answers = await ctx.ask({key: InputRequest(ELICITATION, form) for key in ("a", "b")})
    return [answers[key].get("content", {}).get("name") for key in ("a", "b")]


def tool(function: str = "t:greet", **more: Any) -> dict[str, Any]:
    return {"greet": {"description": "Greets.", "python": function, **more}}


async def log_in(ctx: Context) -> str:
    request = InputRequest(ELICITATION, {"mode": "url", "message": "Log in to desk.", "url": "http://mesh/login"})
    return str((await ctx.ask({"login:desk": request}))["login:desk"]["action"])


TASK = {"taskSupport": "optional"}
FUNCTIONS = {"t:greet": greet, "t:both": both, "t:log_in": log_in}


async def call(engine: Engine, caller: ScriptedCaller | None = None, **more: Any) -> Any:
    return await engine.tools.call(LOCAL, ToolCall("desk.greet", more.pop("arguments", {}), caller=caller, **more))


async def waiting(engine: Engine, run_id: str, count: int = 1) -> Run:
    """The run, once it asks so many questions."""
    while len(await engine.runs.questions(LOCAL, run_id)) < count:
        await anyio.lowlevel.checkpoint()
    return await engine.runs.get(LOCAL, run_id)


async def test_a_function_asks_the_client_that_called() -> None:
    """In passing: one that answers at once, one that comes again, one that declines."""
    async with serving(mesh(tools=tool()), functions=FUNCTIONS) as engine:
        assert (await call(engine, ScriptedCaller({"who": ANN}))).structured == "Hello, Ann!"
        assert (await call(engine, ScriptedCaller({"who": {"action": "decline"}}))).structured == "Hello, nobody!"
        with pytest.raises(InputRequired) as required:
            await call(engine, ScriptedCaller(again=True))
        assert required.value.requests["who"].params["message"] == "What is your name?"
        assert required.value.run_id is None


@pytest.mark.parametrize("answer", [{}, {"action": "yes"}, {"action": "accept", "content": {"name": 3}}])
async def test_an_answer_that_is_none_is_the_clients_mistake(answer: dict[str, Any]) -> None:
    """A function never sees what does not fit its form."""
    async with serving(mesh(tools=tool()), functions=FUNCTIONS) as engine:
        with pytest.raises(InvalidInput, match="'who'"):
            await call(engine, ScriptedCaller({"who": answer}))


async def test_a_client_that_cannot_be_asked_is_told_so() -> None:
    """The error names the capability; nobody at all is such a client."""
    async with serving(mesh(tools=tool()), functions=FUNCTIONS) as engine:
        for caller in (None, ScriptedCaller(can=[SAMPLING, ROOTS])):
            with pytest.raises(MissingCapability) as error:
                await call(engine, caller)
            assert error.value.data == {"requiredCapabilities": {"elicitation": {}}}


async def test_a_function_samples_and_reads_roots_progresses_and_logs() -> None:
    """Everything that a context offers reaches the client."""

    async def f(ctx: Context) -> Any:
        ctx.progress("half", done=1, total=2)
        ctx.log("info", {"a": 1}, "f")
        said = await ctx.sample("q", [{"role": "user", "content": text("Capital?")}], 10)
        return [said["content"]["text"], [root["uri"] for root in await ctx.roots()]]

    caller = ScriptedCaller(
        {"q": {"content": {"type": "text", "text": "Paris"}}, "roots": {"roots": [{"uri": "file:///x"}]}},
        can=[SAMPLING, ROOTS],
    )
    async with serving(mesh(tools=tool("t:f")), functions={"t:f": f}) as engine:
        assert (await call(engine, caller)).structured == ["Paris", ["file:///x"]]
    assert caller.told == [(1, 2, "half")]
    assert caller.logged == [("info", {"a": 1}, "f")]


async def test_a_function_answers_blocks() -> None:
    """As they are, with their text as text; a failure in blocks is one."""

    async def f(ctx: Context, bad: bool = False) -> Content:
        return Content([text("look"), image(b"x", "image/png")], is_error=bad)

    tools = tool("t:f", input={"type": "object", "properties": {"bad": {"type": "boolean"}}})
    async with serving(mesh(tools=tools), functions={"t:f": f}) as engine:
        result = await call(engine)
        assert [block["type"] for block in result.content] == ["text", "image"]
        assert (result.text, result.is_error) == ("look", False)
        assert (await call(engine, arguments={"bad": True})).is_error


async def test_what_is_elicited_first_is_an_argument() -> None:
    """The user is asked before anything runs, and a caller cannot answer in their place."""
    tools = {
        "greet": {
            "description": "Greets.", "python": "t:f",
            "input": {"type": "object", "properties": {"title": {"type": "string"}}},
            "elicit": {"user": {"message": "Who is ${{ input.title }}?", "form": NAME}},
        }
    }  # fmt: skip
    given = {"title": "Dr"}
    async with serving(mesh(tools=tools), functions={"t:f": lambda title, user: f"{title} {user['name']}"}) as engine:
        with pytest.raises(InputRequired) as required:
            await call(engine, ScriptedCaller(again=True), arguments=given)
        assert required.value.requests["user"].params["message"] == "Who is Dr?"
        assert (await call(engine, ScriptedCaller({"user": ANN}), arguments=given)).structured == "Dr Ann"
        with pytest.raises(InvalidInput, match="cannot be given"):
            await call(engine, ScriptedCaller({"user": ANN}), arguments={**given, "user": {"name": "Eve"}})
        with pytest.raises(InvalidInput, match="nothing was done"):
            await call(engine, ScriptedCaller({"user": {"action": "cancel"}}), arguments=given)


async def test_a_tool_that_may_be_a_task_is_a_run() -> None:
    """Its question is durable, anybody who may answers it, and the function is called again from its beginning."""
    async with serving(mesh(tools=tool(execution=TASK)), functions=FUNCTIONS) as engine:
        run = await engine.tools.begin(LOCAL, ToolCall("desk.greet", {}))
        (question,) = await engine.runs.questions(LOCAL, (await waiting(engine, run.id)).id)
        assert (question.id, question.kind, question.ask) == ("call/ask[who]#1", "input", "What is your name?")
        with pytest.raises(InvalidInput, match="name"):
            await engine.runs.answer(LOCAL, run.id, value={"name": 3})
        await engine.runs.answer(LOCAL, run.id, value={"name": "Ann"})
        run = await ended(engine, run)
        assert (run.state, run.output) == (RunState.COMPLETED, "Hello, Ann!")


async def test_a_question_of_a_function_can_be_declined() -> None:
    """The function hears it; it is no failure of the run."""
    async with serving(mesh(tools=tool(execution=TASK)), functions=FUNCTIONS) as engine:
        run = await engine.tools.begin(LOCAL, ToolCall("desk.greet", {}))
        await waiting(engine, run.id)
        await engine.runs.answer(LOCAL, run.id, yes=False)
        assert (await ended(engine, run)).output == "Hello, nobody!"


async def test_an_address_to_open_is_a_question_of_the_run() -> None:
    """Whoever answers sees the address, and says when they have been there."""
    async with serving(mesh(tools=tool("t:log_in", execution=TASK)), functions=FUNCTIONS) as engine:
        run = await engine.tools.begin(LOCAL, ToolCall("desk.greet", {}))
        await waiting(engine, run.id)
        (question,) = await engine.runs.questions(LOCAL, run.id)
        assert question.ask == "Log in to desk. Open http://mesh/login and answer then."
        await engine.runs.answer(LOCAL, run.id, yes=True)
        assert (await ended(engine, run)).output == "accept"


async def test_two_questions_are_open_at_once_and_survive_the_worker() -> None:
    """Each is answered for itself; another worker goes on where the first was stopped."""
    clock = Clock()
    async with MemoryStore(clock=clock) as store:

        class Kept(MemoryStore):
            async def __aenter__(self) -> Any:
                return store

            async def __aexit__(self, *exc: object) -> None:
                pass

        of = mesh(tools=tool("t:both", execution=TASK))
        async with serving(of, functions=FUNCTIONS, store=Kept(clock=clock), clock=clock) as engine:
            run = await engine.tools.begin(LOCAL, ToolCall("desk.greet", {}))
            await waiting(engine, run.id, 2)
            await engine.runs.answer(LOCAL, run.id, question="call/ask[b]#1", value={"name": "Bob"})
        async with serving(of, functions=FUNCTIONS, store=Kept(clock=clock), clock=clock) as engine:
            assert next(q.id for q in await engine.runs.questions(LOCAL, run.id)) == "call/ask[a]#1"
            await engine.runs.answer(LOCAL, run.id, question="call/ask[a]#1", value={"name": "Ann"})
            assert (await ended(engine, run)).output == ["Ann", "Bob"]


APPROVAL = workflow(
    "w", {"id": "ok", "approve": {"ask": "Send it?"}}, {"id": "x", "set": "sent"}, on={"mcp": {}}, input={"type": "object"}
)  # fmt: skip


async def ask_of(engine: Engine, caller: ScriptedCaller, run_id: str | None = None, who: Principal = LOCAL) -> Any:
    return await engine.tools.call(who, ToolCall("w", {}, caller=caller, run_id=run_id))


async def test_a_runs_question_goes_to_whoever_called() -> None:
    """Answered during the call."""
    async with serving(mesh(APPROVAL)) as engine:
        result = await ask_of(engine, ScriptedCaller({"ok#1": Reply(yes=True)}))
        assert result.structured == "sent"
        result = await ask_of(engine, ScriptedCaller({"ok#1": Reply(yes=False)}))
        assert (result.is_error, result.error["code"]) == (True, "declined")


async def test_a_client_that_comes_again_goes_on_with_the_same_run() -> None:
    """The run waits meanwhile; there is no second one."""
    async with serving(mesh(APPROVAL)) as engine:
        with pytest.raises(InputRequired) as required:
            await ask_of(engine, ScriptedCaller(again=True))
        run_id = required.value.run_id
        assert run_id is not None
        assert list(required.value.requests) == ["ok#1"]
        assert (await engine.runs.get(LOCAL, run_id)).state is RunState.INPUT_REQUIRED
        caller = ScriptedCaller({"ok#1": Reply(yes=True)}, again=True)
        result = await ask_of(engine, caller, run_id)
        assert (result.structured, result.run_id) == ("sent", run_id)


async def test_nobody_approves_what_they_asked_for() -> None:
    """Unless a rule says so by name, the question waits for somebody else; the call goes on when they have answered."""
    policy = PolicyFile.model_validate({"rules": [{"allow": ["*"]}]})
    ide, boss = Principal("token:ide"), Principal("local")
    async with serving(mesh(APPROVAL, policies=(policy,))) as engine:
        caller = ScriptedCaller({"ok#1": Reply(yes=True)})
        results: list[Any] = []

        async def asking() -> None:
            results.append(await ask_of(engine, caller, who=ide))

        async with anyio.create_task_group() as group:
            group.start_soon(asking)
            while not (page := await engine.runs.list(boss, RunFilter())).runs:
                await anyio.lowlevel.checkpoint()
            run = await waiting(engine, page.runs[0].id)
            assert caller.asked == []
            await engine.runs.answer(boss, run.id)
        assert results[0].structured == "sent"


async def test_what_a_run_within_asks_goes_to_whoever_called() -> None:
    """Under the path of the step that it does the work of, so that two questions of one name are told apart."""
    inner = workflow("inner", {"id": "ok", "approve": {"ask": "Really?"}}, input={"type": "object"})
    outer = workflow(
        "w", {"id": "both", "parallel": {"a": [{"id": "x", "workflow": "inner"}], "b": [{"id": "y", "workflow": "inner"}]}},
        {"id": "ok", "approve": {"ask": "Send it?"}}, {"id": "end", "set": "sent"}, on={"mcp": {}}, input={"type": "object"},
    )  # fmt: skip
    yes = Reply(yes=True)
    names = ["both/a/x/ok#1", "both/b/y/ok#1", "ok#1"]
    async with serving(mesh(inner, outer)) as engine:
        caller = ScriptedCaller(dict.fromkeys(names, yes))
        assert (await ask_of(engine, caller)).structured == "sent"
        assert sorted(caller.asked) == names
        with pytest.raises(InputRequired) as required:
            await ask_of(engine, ScriptedCaller(again=True))
        answers = dict.fromkeys(required.value.requests, yes)
        with pytest.raises(InputRequired) as again:
            await ask_of(engine, ScriptedCaller(answers, again=True), required.value.run_id)
        assert again.value.run_id == required.value.run_id
        caller = ScriptedCaller(dict.fromkeys(names, yes), again=True)
        assert (await ask_of(engine, caller, required.value.run_id)).structured == "sent"


async def test_a_run_that_nobody_will_know_of_is_ended() -> None:
    """Whoever leaves while their call is being recorded has no id to find it by; one with a key has."""

    class Slow(MemoryStore):
        async def start_run(self, *args: Any, **more: Any) -> Any:
            await super().start_run(*args, **more)
            leave.cancel()
            await anyio.lowlevel.checkpoint()
            raise AssertionError("the caller has left")

    clock = Clock()
    for key in (None, "k"):
        leave = anyio.CancelScope()
        of = mesh(tools=tool(execution=TASK))
        async with serving(of, functions=FUNCTIONS, store=Slow(clock=clock), concurrency=0) as engine:
            with leave:
                await engine.tools.begin(LOCAL, ToolCall("desk.greet", {}, key))
            (run,) = (await engine.runs.list(LOCAL, RunFilter())).runs
            assert run.cancel_requested is (key is None)
