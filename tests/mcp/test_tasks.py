"""A run as a task: made, looked at, canceled, and gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

from agentmesh.core.policy import PolicyFile
from agentmesh.core.run import RunState
from agentmesh.core.store import RunFilter
from agentmesh.engine import Engine
from tests.engine import meshes
from tests.mcp.tasks import EXTENSION, KNOWS, Client, Gate, client_of, mesh, tasks_of
from tests.mcp.test_wire import BOTH, legacy, opened
from tests.requirements import covers

pytestmark = pytest.mark.anyio

NEVER = "01900000-0000-7000-8000-000000000000"


@asynccontextmanager
async def slow_task(**more: Any) -> AsyncIterator[tuple[Engine, Client, Gate, str]]:
    """A task at work."""
    gate = Gate()
    async with tasks_of(gate=gate, **more) as (engine, client, _):
        yield engine, client, gate, await client.task("slow", {"text": "hi"})


async def test_a_run_that_ends_at_once_is_no_task() -> None:
    """The answer is what a client without tasks gets; nothing is left to ask for."""
    async with tasks_of() as (_, client, _):
        known = await client.call("quick")
        plain = await client.call("quick", can={})
        passing = await client.call("passing")
    assert known == plain == passing
    assert known["resultType"] == "complete"
    assert known["structuredContent"] == {"quick": True}


@covers("MCP-EXT-TASKS-draft tasks#task-creation", "MCP-EXT-TASKS-draft tasks#task-polling")
async def test_a_run_that_outlasts_a_moment_is_a_task() -> None:
    """The handle is flat and says nothing of the result; the same id is the run's; the end has what a call would have given."""
    gate = Gate()
    async with tasks_of(gate=gate) as (engine, client, _):
        made = await client.call("slow", {"text": "hi"})
        assert set(made) == {
            "resultType", "taskId", "status", "createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs",
        }  # fmt: skip
        assert (made["resultType"], made["status"], made["ttlMs"]) == ("task", "working", None)
        assert made["createdAt"] == "2023-11-14T22:13:20.000Z"
        first = await client.get(made["taskId"])
        assert (first["resultType"], first["status"], first["taskId"]) == ("complete", "working", made["taskId"])
        assert not {"result", "error", "inputRequests"} & set(first)
        gate.go.set()
        last = await client.until(made["taskId"], "completed")
        run = await engine.runs.get(meshes.LOCAL, made["taskId"])
        plain = await client.call("slow", {"text": "hi"}, can={})
    assert (run.state, run.source) == (RunState.COMPLETED, "mcp")
    assert last["result"].pop("_meta") == {"io.agentmesh/run": run.id}
    assert last["result"] == plain
    assert plain["structuredContent"] == {"said": "hi"}


@covers("MCP-EXT-TASKS-draft tasks#capability-negotiation")
async def test_who_knows_tasks_says_so_in_each_request() -> None:
    """Without the extension a call waits for its run; the server says in its capabilities that it has it."""
    gate = Gate()
    async with tasks_of(gate=gate) as (_, client, _):
        async with anyio.create_task_group() as group:
            results: list[Any] = []

            async def wait() -> None:
                results.append(await client.call("slow", {"text": "plain"}, can={"elicitation": {}}))

            group.start_soon(wait)
            await gate.started.wait()
            task = await client.task("slow", {"text": "task"})
            gate.go.set()
        assert results[0]["structuredContent"] == {"said": "plain"}
        assert (await client.until(task, "completed"))["result"]["structuredContent"] == {"said": "task"}
        capabilities = (await client.result("server/discover", {}))["capabilities"]
    assert capabilities["extensions"] == {EXTENSION: {}}
    assert "tasks" not in capabilities


@covers("MCP-EXT-TASKS-draft tasks#capability-negotiation")
async def test_a_tool_that_must_be_a_task() -> None:
    """It is one however quick it is; a client that knows none is told what it lacks, in both eras."""
    async with tasks_of() as (engine, client, url):
        made = await client.call("must")
        assert (made["resultType"], "structuredContent" in made) == ("task", False)
        assert (await client.until(made["taskId"], "completed"))["result"]["structuredContent"] == {"quick": True}
        before = (await engine.runs.list(meshes.LOCAL, RunFilter())).total
        error = await client.error("tools/call", {"name": "must"}, can={"elicitation": {}})
        assert error["code"] == -32021
        assert error["data"]["requiredCapabilities"] == {"extensions": {EXTENSION: {}}}
        async with httpx2.AsyncClient(base_url=url, headers=BOTH) as http:
            session = await opened(http)
            old = await http.post("", json=legacy("tools/call", {"name": "must"}), headers=session)
        assert "-32021" in old.text
        assert (await engine.runs.list(meshes.LOCAL, RunFilter())).total == before


@covers("MCP-EXT-TASKS-draft tasks#protocol-errors")
async def test_a_client_without_the_extension_has_no_tasks() -> None:
    """-32021, whether or not there is such a task; an older client has no such method."""
    async with slow_task() as (_, client, _, task):
        for method in ("tasks/get", "tasks/cancel", "tasks/update"):
            more: dict[str, Any] = {"inputResponses": {}} if method == "tasks/update" else {}
            for asked in (task, NEVER):
                error = await client.error(method, {"taskId": asked, **more}, can={})
                assert error["code"] == -32021
                assert error["data"]["requiredCapabilities"] == {"extensions": {EXTENSION: {}}}
        for gone in ("tasks/list", "tasks/result"):
            assert (await client.error(gone, {"taskId": task}))["code"] == -32601
        session = await opened(client.http)
        for method in ("tasks/get", "tasks/result", "tasks/list"):
            old = await client.http.post("", json=legacy(method, {"taskId": task}), headers=session)
            assert "-32601" in old.text


async def test_the_older_experiment_is_ignored() -> None:
    """`task` in the params of a call makes no task, in neither era."""
    async with tasks_of() as (_, client, url):
        params = {"name": "quick", "arguments": {}, "task": {"ttl": 60000}}
        assert (await client.result("tools/call", params))["resultType"] == "complete"
        async with httpx2.AsyncClient(base_url=url, headers=BOTH) as http:
            session = await opened(http)
            old = await http.post("", json=legacy("tools/call", params), headers=session)
        assert '"quick":true' in old.text.replace(" ", "").replace("\\", "")


@covers("MCP-EXT-TASKS-draft tasks#streamable-http-routing-headers")
@pytest.mark.parametrize("name", [NEVER, "", None, "=?base64?eA==?="])
async def test_the_header_says_the_task(name: str | None) -> None:
    """Another one, or none: -32020, and nothing is done."""
    async with slow_task() as (_, client, _, task):
        for method in ("tasks/get", "tasks/cancel", "tasks/update"):
            more: dict[str, Any] = {"inputResponses": {}} if method == "tasks/update" else {}
            params = {"taskId": task, **more}
            request = client.http.build_request("POST", "", json=await body(client, method, params))
            request.headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
            if name is not None:
                request.headers["mcp-name"] = name
            response = await client.http.send(request)
            assert (response.status_code, response.json()["error"]["code"]) == (400, -32020)
        assert (await client.get(task))["status"] == "working"


async def body(client: Client, method: str, params: dict[str, Any]) -> dict[str, Any]:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": client.capabilities,
    }
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}


@covers("MCP-EXT-TASKS-draft tasks#security-considerations", "MCP-EXT-TASKS-draft tasks#protocol-errors")
async def test_what_is_not_yours_is_not_there() -> None:
    """Somebody else's task, one that never was and one whose id is none are refused alike, in all three methods."""
    gate = Gate()
    async with tasks_of(gate=gate) as (engine, _, url), client_of(url, "ann") as ann, client_of(url, "bob") as bob:
        task = await ann.task("slow")
        refusals = []
        for method in ("tasks/get", "tasks/cancel", "tasks/update"):
            more: dict[str, Any] = {"inputResponses": {}} if method == "tasks/update" else {}
            for asked in (task, NEVER, "x", "../x", task.upper(), f"{task}\u0000"):
                params = {"taskId": asked, **more}
                header = {} if asked.isprintable() else {"mcp-name": "=?base64?" + b64(asked) + "?="}
                refusals.append(await bob.error(method, params, **header))
        assert all(refusal == refusals[0] for refusal in refusals)
        assert refusals[0]["code"] == -32602
        assert (await ann.get(task))["status"] == "working"
        gate.go.set()
        assert (await ann.until(task, "completed"))["status"] == "completed"
        assert (await bob.error("tasks/get", {"taskId": task})) == refusals[0]
        assert (await engine.runs.get(meshes.LOCAL, task)).owner == "ann"


def b64(text: str) -> str:
    from base64 import b64encode

    return b64encode(text.encode()).decode()


@covers("MCP-EXT-TASKS-draft tasks#task-cancellation")
async def test_cancelling_is_acknowledged_and_done() -> None:
    """The acknowledgement is empty; the task is cancelled soon after; again, and after its end, it is the same."""
    async with slow_task() as (engine, client, _, task):
        assert await client.result("tasks/cancel", {"taskId": task}) == {"resultType": "complete"}
        found = await client.until(task, "cancelled", "completed")
        assert found["status"] == "cancelled"
        assert not {"result", "error"} & set(found)
        assert await client.result("tasks/cancel", {"taskId": task}) == {"resultType": "complete"}
        assert await client.update(task, {"x": {}}) == {"resultType": "complete"}
        assert (await engine.runs.get(meshes.LOCAL, task)).state is RunState.CANCELED


@covers("MCP-EXT-TASKS-draft tasks#task-execution-errors")
async def test_a_tools_error_is_a_completed_task() -> None:
    """isError, with what the tool said; what a plain call gives."""
    gate = Gate()
    async with tasks_of(gate=gate) as (_, client, _):
        task = await client.task("fails")
        gate.go.set()
        found = await client.until(task, "completed", "failed")
        plain = await client.call("fails", can={})
    found["result"].pop("_meta")
    assert (found["status"], found["result"]["isError"]) == ("completed", True)
    assert found["result"] == plain
    assert "the disk is full" in plain["content"][0]["text"]
    assert "error" not in found


@covers("MCP-EXT-TASKS-draft tasks#task-execution-errors")
async def test_a_bug_in_a_tool_is_a_failed_task() -> None:
    """A JSON-RPC error, whether the tool broke within the moment, later, or in a plain call."""
    gate = Gate()
    async with tasks_of(gate=gate) as (_, client, _):
        task = await client.task("breaks")
        gate.go.set()
        found = await client.until(task, "completed", "failed")
        at_once = await client.error("tools/call", {"name": "quick_break"})
        plain = await client.error("tools/call", {"name": "quick_break"}, can={})
    assert found["status"] == "failed"
    assert found["error"] == {"code": -32603, "message": "ZeroDivisionError: insides"}
    assert found["statusMessage"] == "ZeroDivisionError: insides"
    assert "result" not in found
    assert at_once == plain == {"code": -32603, "message": "ZeroDivisionError: division by zero"}


async def test_who_may_not_read_runs_gets_results() -> None:
    """A task that its caller could never look at is none: the call waits; a tool that must be one is denied before anything runs."""
    rules = [{"allow": "tools.*"}, {"allow": "runs.read", "on": ["tool:quick"]}]
    policy = PolicyFile.model_validate({"name": "few", "rules": rules})
    gate = Gate()
    async with tasks_of(mesh((policy,)), gate=gate) as (engine, _, url), client_of(url, "ann") as ann:
        gate.go.set()
        assert (await ann.call("slow", {"text": "hi"}))["structuredContent"] == {"said": "hi"}
        before = (await engine.store.list_runs(RunFilter(tenant="local"))).total
        assert (await ann.error("tools/call", {"name": "must"}))["code"] == -32003
        assert (await engine.store.list_runs(RunFilter(tenant="local"))).total == before


async def test_a_client_that_leaves_within_the_moment_ends_the_run() -> None:
    """Nobody would know the task's id; with an idempotency key somebody does, and the run goes on."""
    gate = Gate()
    async with tasks_of(gate=gate) as (engine, client, _):
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(client.call, "slow")
                await gate.started.wait()
                group.cancel_scope.cancel()
        (run,) = (await engine.runs.list(meshes.LOCAL, RunFilter())).runs
        with anyio.fail_after(5):
            assert (await engine.runs.wait(meshes.LOCAL, run.id)).state is RunState.CANCELED
        gate.started = anyio.Event()
        keyed = {"name": "slow", "arguments": {}, "_meta": {"io.agentmesh/idempotency-key": "k1"}}
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(client.result, "tools/call", keyed)
                await gate.started.wait()
                group.cancel_scope.cancel()
        made = await client.result("tools/call", keyed)
        assert made["resultType"] == "task"
        gate.go.set()
        assert (await client.until(made["taskId"], "completed"))["status"] == "completed"


async def test_the_same_key_is_the_same_task() -> None:
    """Sent twice, begun once; once it has ended the answer comes at once."""
    gate = Gate()
    async with tasks_of(gate=gate) as (_, client, _):
        keyed = {"name": "slow", "arguments": {}, "_meta": {"io.agentmesh/idempotency-key": "k1"}}
        first, second = [await client.result("tools/call", keyed) for _ in range(2)]
        assert first["taskId"] == second["taskId"]
        gate.go.set()
        await client.until(first["taskId"], "completed")
        assert (await client.result("tools/call", keyed))["structuredContent"] == {"said": ""}


@pytest.mark.parametrize("file", [{"mcp": {"task_ttl": "10m"}}, {"retention": "10m"}])
async def test_a_task_expires_after_its_end(file: dict[str, Any]) -> None:
    """While it works it is kept; from its end on for task_ttl (or as runs are); then it is refused like one that never was."""
    clock = meshes.Clock()
    gate = Gate()
    async with tasks_of(mesh(**file), gate=gate, clock=clock) as (_, client, _):
        task = await client.task("slow")
        assert (await client.get(task))["ttlMs"] == 600_000
        clock.now += 3600
        assert (await client.get(task))["ttlMs"] == 4_200_000
        assert (await client.get(task))["pollIntervalMs"] == 5000
        gate.go.set()
        found = await client.until(task, "completed")
        assert found["ttlMs"] == 4_200_000
        clock.now += 599
        assert (await client.get(task))["ttlMs"] == 4_200_000
        clock.now += 2
        expired = await client.error("tasks/get", {"taskId": task})
        assert expired == await client.error("tasks/get", {"taskId": NEVER})
        assert expired == await client.error("tasks/cancel", {"taskId": task})


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tasks/get", {}),
        ("tasks/get", {"taskId": 1}),
        ("tasks/get", {"taskId": None}),
        ("tasks/cancel", {"taskId": ["x"]}),
        ("tasks/update", {"taskId": NEVER}),
        ("tasks/update", {"taskId": NEVER, "inputResponses": []}),
        ("tasks/update", {"taskId": NEVER, "inputResponses": None}),
    ],
)
async def test_params_that_are_none(method: str, params: dict[str, Any]) -> None:
    """-32602, and no insides."""
    async with tasks_of() as (_, client, _):
        error = await client.error(method, params)
    assert error["code"] == -32602
    assert "pydantic" not in str(error).lower()


async def test_forty_tasks_at_once() -> None:
    """Each has an id of its own, and its own result."""
    gate = Gate()
    async with tasks_of(gate=gate) as (_, client, _):
        tasks: dict[str, str] = {}

        async def one(text: str) -> None:
            tasks[await client.task("slow", {"text": text})] = text

        async with anyio.create_task_group() as group:
            for n in range(40):
                group.start_soon(one, str(n))
        assert len(tasks) == 40
        gate.go.set()
        for task, text in tasks.items():
            found = await client.until(task, "completed")
            assert found["result"]["structuredContent"] == {"said": text}


async def test_a_client_may_declare_more() -> None:
    """Settings of the extension and other extensions are no matter; what is no object is no declaration."""
    async with tasks_of() as (_, client, _):
        can = {"extensions": {EXTENSION: {"later": 1}, "com.example/x": {}}}
        assert (await client.call("must", can=can))["resultType"] == "task"
        others: list[dict[str, Any]] = [
            {"extensions": {"com.example/x": {}}},
            {"tasks": {}},
            {**KNOWS, "extensions": {}},
        ]
        for not_it in others:
            assert (await client.error("tools/call", {"name": "must"}, can=not_it))["code"] == -32021
