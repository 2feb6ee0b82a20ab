"""Agent loop: an `llm` step with tools: turns of the model and calls of tools, until the model answers.

Each turn and each call is a step of its own in the journal, below the agent's: `PATH/turn[i]` and `PATH/turn[i]/call[j]`; of the k-th
answer that is wanted (a repair, say) `PATH/try[k]/turn[i]`. What has completed is not done again after a crash or a retry; a call that was
cut off is made again under the same key. What goes wrong with a call is told to the model: it may do better, or without.

A question offers tools or asks for a schema, never both: under a schema most endpoints cannot let the model call anything. An answer that
does not fit the schema as it came is asked for once more under it, without tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from agentmesh.core.model import ChatRequest, ToolUse
from agentmesh.core.run import JSON, Entry, Kind, StepState, Why
from agentmesh.core.tool import matching_tools
from agentmesh.engine.attempts import NOTHING_SPENT, Attempt, Done, usage_row
from agentmesh.engine.calls import (
    CallFault,
    arguments_of,
    as_function,
    distinct,
    exchange,
    legal_names,
    shown,
    told_error,
    uses_of,
)
from agentmesh.engine.faults import GaveUp, Leaving, error_of
from agentmesh.engine.journal import NOTHING, Recorded
from agentmesh.engine.limit import Limit
from agentmesh.engine.models import Answer
from agentmesh.engine.steps import (
    conversation,
    done_of,
    hash_of,
    key_header,
    objection,
    parse,
    question,
    watching,
)
from agentmesh.engine.validators import faults
from agentmesh.errors import BudgetExceeded, MeshError, StepError, StoreError

if TYPE_CHECKING:
    from agentmesh.engine.execution import Execution

TURNS = 8
"""Turns in one attempt when the step does not say."""
AT_ONCE = 8
"""Calls of one turn at once."""
CALLS = 64
"""Calls of one turn that are made; a model that asks for more is told so."""
_ANSWER_NOW = "Give your answer now."


class TurnsExhausted(StepError):
    """The model still asked for tools in its last turn."""

    code = "max_turns"


async def converse(run: Execution, a: Attempt) -> Done:
    """One attempt of an agent: its answer."""
    return await _Conversation(run, a).to_the_answer()


class _Conversation:
    def __init__(self, run: Execution, a: Attempt) -> None:
        assert a.step.llm is not None
        self._run = run
        self._a = a
        self._spec = a.step.llm
        self._names = legal_names(matching_tools(self._spec.tools or (), sorted(run.definition.tools)))
        self._legal = {tool: name for name, tool in self._names.items()}
        self._offered = [as_function(name, run.definition.tools[tool]) for name, tool in self._names.items()]
        self._asked = question(run, replace(a, prior=None))
        self._base = self._base_of(len(a.tries) + 1)

    def _base_of(self, number: int) -> str:
        return f"{self._a.path}/" if number == 1 else f"{self._a.path}/try[{number}]/"

    async def to_the_answer(self) -> Done:
        messages = self._opening()
        most = self._spec.max_turns or TURNS
        for turn in range(most):
            path = f"{self._base}turn[{turn}]"
            request = replace(self._asked, messages=tuple(messages), schema=None, tools=tuple(self._offered))
            said = await self._turn(path, request)
            uses = uses_of(said)
            if not uses:
                return await self._answer(turn, messages, request, said)
            if turn + 1 == most:
                raise TurnsExhausted(
                    f"step {self._a.path} did not answer within its {most} turns; raise `max_turns`, or ask for less"
                )
            results = await self._calls(path, uses)
            messages += exchange(said, uses, results)
        raise AssertionError("a turn answers, goes on or is the last")

    def _opening(self) -> list[dict[str, Any]]:
        """What is said before the first turn. A repair goes on from the conversations whose answer was not accepted."""
        a = self._a
        messages = conversation(self._spec, a.scope, None)
        if a.prior is None:
            return messages
        first = len(a.tries) - 1
        while first > 0 and a.tries[first][0] is Why.REPAIR:
            first -= 1
        for number in range(first + 1, len(a.tries) + 1):
            messages += self._recorded_exchanges(self._base_of(number))
        return messages + objection(a.prior)

    def _recorded_exchanges(self, base: str) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        turn = 0
        while (known := self._recorded(f"{base}turn[{turn}]")).state is StepState.COMPLETED:
            uses = uses_of(known.output)
            results = [_result(self._recorded(f"{base}turn[{turn}]/call[{j}]")) for j in range(len(uses))]
            if not uses or None in results:
                break
            messages += exchange(known.output, uses, [result or "" for result in results])
            turn += 1
        return messages

    def _recorded(self, path: str) -> Recorded:
        return self._run.recorded.get(path, NOTHING)

    # Turns

    async def _turn(self, path: str, request: ChatRequest) -> Mapping[str, JSON]:
        """What the model said: recorded, and asked for once."""
        known = self._recorded(path)
        if known.state is StepState.COMPLETED:
            return known.output  # type: ignore[no-any-return]
        if self._run.bench.stopping():
            raise Leaving
        run, number = self._run, known.attempt + 1
        why = Why.RESUME if known.open else Why.RETRY if known.begun else Why.FIRST
        run.recorded[path] = Recorded(attempt=number, begun=True, open=True)
        await run.journal.write(Entry(Kind.STEP_STARTED, path, number, {"verb": "llm", "why": why.value}))
        part = replace(self._a, path=path, number=number, spent=NOTHING_SPENT)
        try:
            answer = await self._in_time(part, replace(request, headers=key_header(f"{run.run.id}/{path}")))
        except StoreError:
            raise
        except MeshError as fault:
            error = error_of(fault)
            await self._record(path, number, {"usage": {}, "error": error}, StepState.FAILED, error)
            raise
        self._a.budget.spend_seconds(answer.usage.seconds)
        said: dict[str, JSON] = {
            "text": answer.text, "finish_reason": answer.finish_reason, "model": answer.model or request.model,
            "tool_uses": [
                {"id": u.id, "name": self._legal.get(u.name, u.name), "arguments": u.arguments}
                for u in distinct(answer.tool_uses, path.rpartition("[")[2][:-1])
            ],
        }  # fmt: skip
        done = done_of(request, answer)
        row = {
            "usage": usage_row(answer.usage), "model": done.model, "prompt_hash": done.prompt_hash, "output": said
        }  # fmt: skip
        await self._record(path, number, row, StepState.COMPLETED, said)
        return said

    async def _in_time(self, part: Attempt, request: ChatRequest) -> Answer:
        """The model's answer, within the seconds that the run has left."""
        left = part.budget.seconds_left()
        if left is None:
            return await part.ask(self._run, request, watching(self._run, self._a))
        limit = Limit(left)

        def on_progress(line: str) -> None:
            watching(self._run, self._a)(line)
            limit.suspend()

        with limit:
            return await part.ask(self._run, request, on_progress)
        part.budget.spend_seconds(left)
        raise part.budget.exceeded_seconds()

    async def _record(
        self, path: str, number: int, row: Mapping[str, JSON] | None, state: StepState, what: JSON, verb: str = "llm"
    ) -> None:
        """The end of a turn or a call, in the journal and in what this execution knows of it."""
        rows = [] if row is None else [Entry(Kind.STEP_ATTEMPT, path, number, row)]
        if state is StepState.COMPLETED:
            rows.append(Entry(Kind.STEP_COMPLETED, path, number, {"verb": verb, "output": what}))
        else:
            # A call that failed is told to the model; a turn that failed fails the attempt, which may be made again.
            failed = {"verb": verb, "error": _plain(what), "tolerated": verb == "tool"}
            rows.append(Entry(Kind.STEP_FAILED, path, payload=failed))
        await self._run.journal.write(*rows, hold=True)
        self._remember(path, number, state, what)

    def _remember(self, path: str, number: int, state: StepState, what: JSON) -> None:
        known = Recorded(state=state, attempt=number, begun=True)
        if state is StepState.COMPLETED:
            known.output = what
        else:
            known.error = what
        self._run.recorded[path] = known

    # The answer

    async def _answer(
        self, turn: int, messages: list[dict[str, Any]], request: ChatRequest, said: Mapping[str, JSON]
    ) -> Done:
        schema = self._asked.schema
        # What a vote would ask again: the same conversation, its answer wanted at once.
        plain = replace(request, tools=(), schema=schema)
        if schema is not None and not _fits(schema, said):
            if said["text"]:
                messages = [*messages, {"role": "assistant", "content": said["text"]}]
            plain = replace(plain, messages=(*messages, {"role": "user", "content": _ANSWER_NOW}))
            request = plain
            said = await self._turn(f"{self._base}turn[{turn + 1}]", request)
        done = done_of(replace(request, schema=schema), _answer_of(said))
        done.request, done.prompt_hash = plain, hash_of(request)
        return done

    # Calls

    async def _calls(self, path: str, uses: Sequence[ToolUse]) -> list[str]:
        """What the model is told of each call, in its order."""
        # What was asked for is on its way to the disk before anything of it is: a child run must not outlive the turn it came from.
        await self._run.journal.flush()
        results = [""] * len(uses)
        if len(uses) == 1:
            results[0] = await self._call(f"{path}/call[0]", uses[0], 0)
            return results
        failure: BaseException | None = None
        left = iter(enumerate(uses))
        workers = min(AT_ONCE, len(uses))
        branches = self._run.waits.branches(workers)

        async def work(group: anyio.CancelScope) -> None:
            nonlocal failure
            try:
                for index, use in left:
                    try:
                        results[index] = await self._call(f"{path}/call[{index}]", use, index)
                    except Exception as error:
                        failure = failure or error
                        if not isinstance(error, Leaving):  # a call in flight may end when the worker stops
                            branches.stop()
                            group.cancel()
                        return
            finally:
                branches.ended()

        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(work, group.cancel_scope)
        if failure is not None:
            if not isinstance(
                failure, (Leaving, StoreError)
            ):  # with those the run goes on, and finds its children again
                await self._run.cancel_children(path + "/")
            raise failure
        return results

    async def _call(self, path: str, use: ToolUse, index: int) -> str:
        """What the model is told of one call: the tool's answer, or what is wrong with the call."""
        from agentmesh.engine.perform import perform  # which stands on this module

        known = self._recorded(path)
        told = _result(known)
        if told is not None:
            return told
        run, a = self._run, self._a
        known = run.recorded.setdefault(path, Recorded())
        try:
            if run.bench.stopping():
                raise Leaving
            tool, arguments = self._understood(use, index)
            step = run.definition.call_of(a.step, tool)
            output = await perform(run, a.budget, step, path, dict(a.scope), known, arguments=arguments)
        except GaveUp as gave_up:
            error = gave_up.error
        except CallFault as fault:
            error = error_of(fault)
        else:
            self._remember(path, known.attempt, StepState.COMPLETED, output)
            return shown(output)
        await self._record(path, known.attempt, None, StepState.FAILED, error, "tool")
        if error.get("code") == BudgetExceeded.code:
            raise BudgetExceeded(error.get("message"))
        return told_error(error)

    def _understood(self, use: ToolUse, index: int) -> tuple[str, dict[str, JSON]]:
        """The tool that is meant and its arguments; CallFault."""
        if index >= CALLS:
            raise CallFault(f"only the first {CALLS} calls of a turn are made; ask for this one again")
        tool = self._names.get(use.name)
        if tool is None:
            raise CallFault(f"there is no tool {use.name!r}; there are: {', '.join(self._names) or 'none'}")
        arguments, wrong = arguments_of(use)
        if wrong is not None:
            raise CallFault(wrong)
        return tool, arguments


def _result(known: Recorded) -> str | None:
    """What the model is told of a call that has ended; None when it has not."""
    if known.state is StepState.COMPLETED:
        return shown(known.output)
    if known.state is StepState.FAILED and known.error is not None:
        return told_error(known.error)
    return None


def _plain(error: JSON) -> JSON:
    return {k: v for k, v in error.items() if k not in ("retry", "after")}


def _answer_of(said: Mapping[str, JSON]) -> Answer:
    return Answer(said["text"], NOTHING_SPENT, said["finish_reason"], said["model"])


def _fits(schema: Mapping[str, Any], said: Mapping[str, JSON]) -> bool:
    value, fault = parse(_answer_of(said), None)
    return fault is None and not faults(schema, value, "output")
