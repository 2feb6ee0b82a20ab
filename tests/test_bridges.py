"""From one protocol to the other: tasks, questions, answers, progress, cancellation and content, over real sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import PurePath
from typing import Any

import anyio
import pytest
from mcp import Client as SdkClient
from mcp_types import ElicitResult

from agentmesh.adapters.memory_peer import MemoryPeer, MemoryTask
from agentmesh.core import content
from agentmesh.core.mesh import Mesh, MeshFile, assemble
from agentmesh.core.policy import PolicyFile
from agentmesh.core.server_file import ServerFile
from tests.adapters.upstreams import desk_at, upstream
from tests.bridges import bridged
from tests.engine.meshes import TEXT, mesh, workflow
from tests.mcp.tasks import accept, client_of

pytestmark = pytest.mark.anyio
Act = Callable[[MemoryTask], Awaitable[None]]
BOTH = {"a2a": {}, "mcp": {}}
PIXEL = "iVBORw0KGgo="
FORMS: dict[str, Any] = {"elicitation": {}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def text_of(task: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in task["status"].get("message", {}).get("parts", ()))


# A run is a task of both


async def test_a_run_is_a_task_of_both_protocols_by_one_id() -> None:
    """Begun over one, seen and cancelled over the other, both ways."""
    async with bridged(mesh(workflow("hold", {"id": "w", "wait": {"signal": "go"}}, on=BOTH))) as on:
        task = (await on.send({"text": "hello"}))["id"]
        assert (await on.mcp.until(task, "working"))["taskId"] == task
        await on.mcp.result("tasks/cancel", {"taskId": task})
        await on.until(task, "CANCELED")
        assert (await on.mcp.get(task))["status"] == "cancelled"

        task = await on.mcp.task("hold", {"text": "hello"})
        assert (await on.until(task, "WORKING"))["id"] == task
        assert "result" in await on.rpc("CancelTask", {"id": task})
        assert (await on.mcp.get(task))["status"] == "cancelled"


# An agent elsewhere as an MCP tool and task


@pytest.mark.parametrize(
    ("parts", "structured", "kinds"),
    [
        ([{"text": "you said hello"}], "you said hello", ["text"]),
        ([{"data": {"total": 3}}], {"total": 3}, ["text"]),
        ([{"text": "see"}, {"raw": PIXEL, "mediaType": "image/png"}], None, ["text", "image"]),
        ([{"url": "https://files.example.com/a.pdf", "mediaType": "application/pdf"}], None, ["resource_link"]),
        ([{"raw": PIXEL, "mediaType": "application/pdf", "filename": "a.pdf"}], None, ["resource"]),
    ],
)  # fmt: skip
async def test_artifacts_of_an_agent_are_a_tools_content(parts: list[Any], structured: Any, kinds: list[str]) -> None:
    """Text and data as structured content too; files as blocks; the same by a plain call and by a task."""
    go = anyio.Event()

    async def act(task: MemoryTask) -> None:
        if task.text == "later":
            await go.wait()
        task.artifact("a", *parts)

    async with bridged(mesh(), sources=[MemoryPeer("far", act)]) as on:
        at_once = await on.mcp.call("far.ask", {"message": "hello"}, can={})
        task = await on.mcp.task("far.ask", {"message": "later"})
        go.set()
        later = (await on.mcp.until(task, "completed"))["result"]
        for result in (at_once, later):
            assert not result["isError"]
            assert [block["type"] for block in result["content"]] == kinds
            assert result.get("structuredContent") == structured


@pytest.mark.parametrize("state", ["FAILED", "REJECTED"])
async def test_a_task_that_does_not_complete_is_the_tools_error(state: str) -> None:
    """With what the agent said, which a model may read."""

    async def act(task: MemoryTask) -> None:
        task.status(state, "no invoices on Sundays")

    async with bridged(mesh(), sources=[MemoryPeer("far", act)]) as on:
        result = await on.mcp.call("far.ask", {"message": "hello"}, can={})
        assert result["isError"]
        assert "no invoices on Sundays" in result["content"][0]["text"]


async def asking(task: MemoryTask) -> None:
    answer = await task.ask("Which invoice?")
    task.artifact("a", {"text": f"sent {answer['parts'][0]['text']}"})


async def test_what_an_agent_asks_is_input_of_the_mcp_task() -> None:
    """Answered by tasks/update; the agent's own task goes on."""
    peer = MemoryPeer("far", asking)
    async with bridged(mesh(), sources=[peer]) as on:
        task = await on.mcp.task("far.ask", {"message": "send it"})
        ((key, asked),) = (await on.mcp.until(task, "input_required"))["inputRequests"].items()
        assert asked["params"]["message"].startswith("Which invoice?")
        assert (await on.until(task, "INPUT_REQUIRED"))["id"] == task
        await on.mcp.update(task, {key: accept(answer="number 7")})
        assert (await on.mcp.until(task, "completed"))["result"]["structuredContent"] == "sent number 7"
        assert [message.get("taskId") for message in peer.sent] == [None, "far-1"]


async def test_what_an_agent_asks_ends_a_call_that_comes_again() -> None:
    """A client of 2026 that shows forms and knows no tasks."""
    async with bridged(mesh(), sources=[MemoryPeer("far", asking)]) as on:
        asked = await on.mcp.call("far.ask", {"message": "send it"}, can=FORMS)
        assert asked["resultType"] == "input_required"
        (key,) = asked["inputRequests"]
        again = {"inputResponses": {key: accept(answer="number 7")}, "requestState": asked["requestState"]}
        given = {"name": "far.ask", "arguments": {"message": "send it"}, **again}
        done = await on.mcp.result("tools/call", given, can=FORMS)
        assert done["structuredContent"] == "sent number 7"


async def test_what_an_agent_asks_is_asked_of_an_older_client_there_and_then() -> None:
    """By elicitation on the stream of its call; and what the task says meanwhile is progress."""

    async def act(task: MemoryTask) -> None:
        task.status("WORKING", "looking for it")
        await told.wait()
        await asking(task)

    heard: list[str] = []
    told = anyio.Event()

    async def answer(ctx: Any, params: Any) -> ElicitResult:
        assert params.message.startswith("Which invoice?")
        return ElicitResult(action="accept", content={"answer": "number 7"})

    async def progress(done: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")
        if message == "looking for it":
            told.set()

    async with bridged(mesh(), sources=[MemoryPeer("far", act)]) as on:
        async with SdkClient(f"{on.url}/mcp", mode="legacy", elicitation_callback=answer) as client:
            result = await client.call_tool("far.ask", {"message": "send it"}, progress_callback=progress)
        assert result.content[0].text == "sent number 7"  # type: ignore[union-attr]
        assert "looking for it" in heard


async def test_a_client_that_shows_no_forms_answers_by_a_tool() -> None:
    """`runs.answer` is there where an agent elsewhere may ask."""
    async with bridged(mesh(), sources=[MemoryPeer("far", asking)]) as on:
        task = (await on.send({"text": "send it"}, agent="far"))["id"]
        await on.until(task, "INPUT_REQUIRED")
        await on.mcp.call("runs.answer", {"run": task, "value": {"answer": "number 7"}}, can={})
        done = await on.until(task, "COMPLETED")
        assert done["artifacts"][0]["parts"][0]["text"] == "sent number 7"


async def test_cancelling_an_mcp_task_ends_the_agents_task() -> None:
    """By tasks/cancel; and an agent that cancels by itself cancels the MCP task."""

    async def act(task: MemoryTask) -> None:
        task.status("WORKING")
        if task.text == "give up":
            task.status("CANCELED", "not today")
            return
        await anyio.sleep_forever()

    peer = MemoryPeer("far", act)
    async with bridged(mesh(), sources=[peer]) as on:
        task = await on.mcp.task("far.ask", {"message": "hello"})
        await on.mcp.result("tasks/cancel", {"taskId": task})
        assert (await on.mcp.until(task, "cancelled"))["status"] == "cancelled"
        await on.until(task, "CANCELED")
        assert peer.cancelled == ["far-1"]


async def test_a_client_that_leaves_its_call_ends_the_agents_task() -> None:
    """Nobody would hear its result."""
    begun, over = anyio.Event(), anyio.Event()

    async def act(task: MemoryTask) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            over.set()

    peer = MemoryPeer("far", act)
    async with bridged(mesh(), sources=[peer]) as on:
        async with anyio.create_task_group() as group, client_of(f"{on.url}/mcp", "local/local") as other:
            group.start_soon(lambda: other.call("far.ask", {"message": "hello"}, can={}))
            await begun.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(10):
            await over.wait()
        assert peer.cancelled == ["far-1"]


async def test_a_login_that_an_agent_waits_for_is_said_by_both() -> None:
    """AUTH_REQUIRED in A2A; an MCP task works and says what it waits for, since nobody of this mesh can answer it."""
    go = anyio.Event()

    async def act(task: MemoryTask) -> None:
        task.status("AUTH_REQUIRED", "log in at https://far.example.com")
        await go.wait()
        task.status("WORKING")
        task.artifact("a", {"text": "done"})

    async with bridged(mesh(), sources=[MemoryPeer("far", act)]) as on:
        task = await on.mcp.task("far.ask", {"message": "hello"})
        shown = await on.until(task, "AUTH_REQUIRED")
        assert "https://far.example.com" in text_of(shown)
        there = await on.mcp.get(task)
        assert there["status"] == "working"
        assert "https://far.example.com" in there["statusMessage"]
        go.set()
        assert (await on.mcp.until(task, "completed"))["result"]["structuredContent"] == "done"


# MCP tools as skills of A2A


def offering(*names: str, policies: tuple[PolicyFile, ...] = (), **tools: dict[str, Any]) -> Mesh:
    """A mesh whose tools are skills too."""
    common = {"description": "A tool.", "input": TEXT}
    server = ServerFile.model_validate({"name": "desk", "tools": {name: common | tools[name] for name in tools}})
    file = MeshFile.model_validate({"name": "test", "a2a": {"tools": list(names)}})
    return assemble(PurePath("mesh"), file, [server], (), policies)


def shout(text: str) -> dict[str, Any]:
    return {"said": text.upper()}


async def test_a_tool_is_a_skill_by_its_name() -> None:
    """Text fills its input, data is its input, anything else is refused; it stands in the card; a call and a message are runs alike."""
    of = offering("desk.shout", shout={"python": "x:shout", "output": {"type": "object"}})
    async with bridged(of, functions={"x:shout": shout}) as on:
        card = (await on.http.get("/.well-known/agent-card.json")).json()
        assert [skill["id"] for skill in card["skills"]] == ["desk.shout"]
        for part in ({"text": "hello"}, {"data": {"text": "hello"}}):
            task = await on.send(part, wait=True, metadata={"skill": "desk.shout"})
            assert task["status"]["state"] == "TASK_STATE_COMPLETED", task
            assert task["artifacts"][0]["parts"][1]["data"] == {"said": "HELLO"}
        message = {"messageId": "x", "role": "ROLE_USER", "parts": [{"data": {"txt": 1}}]}
        refused = await on.rpc("SendMessage", {"message": message})
        assert refused["error"]["code"] == -32602
        called = await on.mcp.call("desk.shout", {"text": "hello"}, can={})
        assert called["structuredContent"] == {"said": "HELLO"}


async def test_who_may_not_call_a_tool_may_not_send_it_a_message() -> None:
    """A rule about the tool holds for both."""
    rules = [
        {"allow": ["agents.send", "agents.list", "runs.read", "tools.call"], "on": ["*:*"]},
        {"deny": "tools.call", "on": ["tool:desk.shout"]},
    ]
    policy = PolicyFile.model_validate({"rules": rules})
    of = offering("desk.shout", shout={"python": "x:shout"}, policies=(policy,))
    async with bridged(of, functions={"x:shout": shout}) as on:
        message = {
            "messageId": "x",
            "role": "ROLE_USER",
            "parts": [{"text": "hello"}],
            "metadata": {"skill": "desk.shout"},
        }
        refused = await on.rpc("SendMessage", {"message": message})
        assert "desk.shout" in refused["error"]["message"]


async def test_pictures_files_and_links_of_a_tool_are_parts() -> None:
    """Not the JSON of MCP's blocks."""

    def show(text: str) -> content.Content:
        link = {
            "type": "resource_link",
            "uri": "https://files.example.com/a.pdf",
            "name": "a.pdf",
            "mimeType": "application/pdf",
        }
        blocks = [content.text("see"), content.image(b"\x89PNG\r\n\x1a\n", "image/png"), link]
        return content.Content([*blocks, content.resource("desk://notes/n.txt", "note", "text/plain")])

    async with bridged(offering("desk.show", show={"python": "x:show"}), functions={"x:show": show}) as on:
        task = await on.send({"text": "hello"}, wait=True)
        assert task["artifacts"][0]["parts"] == [
            {"text": "see", "mediaType": "text/plain"},
            {"raw": PIXEL, "mediaType": "image/png"},
            {"url": "https://files.example.com/a.pdf", "mediaType": "application/pdf", "filename": "a.pdf"},
            {"text": "note", "mediaType": "text/plain", "filename": "n.txt"},
        ]


CALLS = {"id": "call", "tool": "up.ask", "effect": "read"}


@pytest.mark.parametrize("modern", [True, False])
async def test_what_an_mcp_server_asks_in_a_workflow_is_input_of_the_a2a_task(*, modern: bool) -> None:
    """The form comes with the question; an answer as data goes back to the server, and the task completes."""
    async with (
        desk_at(modern=modern) as (_, url),
        upstream("up", {"url": url}) as source,
        bridged(mesh(workflow("paint", CALLS, on=BOTH)), given=[source]) as on,
    ):
        task = (await on.send({"text": "hello"}))["id"]
        asked = await on.until(task, "INPUT_REQUIRED")
        (question,) = [p["data"]["question"] for p in asked["status"]["message"]["parts"] if "data" in p]
        assert "colour" in question["form"]["properties"]
        await on.send({"data": {"colour": "red"}}, taskId=task)
        done = await on.until(task, "COMPLETED")
        assert "red" in str(done["artifacts"])


async def test_cancelling_an_a2a_task_ends_the_call_of_the_mcp_server() -> None:
    """It hears that nobody waits any more."""
    slow = {"id": "call", "tool": "up.slow", "effect": "read"}
    async with (
        desk_at(modern=True) as (desk, url),
        upstream("up", {"url": url}) as source,
        bridged(mesh(workflow("dawdle", slow, on=BOTH)), given=[source]) as on,
    ):
        task = (await on.send({"text": "hello"}))["id"]
        with anyio.fail_after(10):
            await desk.started.wait()
            assert (await on.rpc("CancelTask", {"id": task}))["result"]["status"]["state"] == "TASK_STATE_CANCELED"
            await desk.cancelled.wait()
