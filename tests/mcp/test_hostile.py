"""Whatever stands where something else should: refused in plain words, never our failure, never silence, in both eras."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import PurePath
from typing import Any

import anyio
import httpx2
import pytest

from agentmesh.adapters.memory_outside import MemoryFiles
from agentmesh.core.mesh import MeshFile, assemble
from agentmesh.core.server_file import ServerFile
from agentmesh.core.workflow import Workflow
from tests.engine import meshes
from tests.mcp.conftest import mcp_server
from tests.mcp.test_wire import BOTH, CAPABILITIES, VERSION, answer, opened
from tests.requirements import covers

pytestmark = pytest.mark.anyio

TASKS: dict[str, Any] = {"extensions": {"io.modelcontextprotocol/tasks": {}}, "elicitation": {}}
META = {VERSION: "2026-07-28", CAPABILITIES: TASKS}
NO_TASK = "0190c0de-0000-7000-8000-000000000000"
SECRET = "not for callers"

CALLS: dict[str, dict[str, Any]] = {
    "tools/call": {"name": "desk.echo", "arguments": {"text": "x"}, "requestState": None, "inputResponses": None},
    "tools/list": {"cursor": None},
    "resources/list": {"cursor": None},
    "resources/templates/list": {"cursor": None},
    "resources/read": {"uri": "desk://hours", "requestState": None},
    "prompts/list": {"cursor": None},
    "prompts/get": {"name": "desk.reply", "arguments": {"message": "x"}, "requestState": None},
    "completion/complete": {
        "ref": {"type": "ref/prompt", "name": "desk.reply"},
        "argument": {"name": "tone", "value": "f"},
        "context": {"arguments": {"message": "x"}},
    },
}
MODERN = {
    **CALLS,
    "server/discover": {},
    "subscriptions/listen": {"notifications": {"toolsListChanged": "x", "resourceSubscriptions": None, "taskIds": None}},
    "tasks/get": {"taskId": NO_TASK},
    "tasks/update": {"taskId": NO_TASK, "inputResponses": {"a": {"action": "accept", "content": {}}}},
    "tasks/cancel": {"taskId": NO_TASK},
}  # fmt: skip
OLDER = {
    **CALLS,
    "resources/subscribe": {"uri": "desk://book"},
    "resources/unsubscribe": {"uri": "desk://book"},
    "logging/setLevel": {"level": "info"},
}

WRONG: dict[str, str] = {
    "null": "null", "true": "true", "number": "-1", "fraction": "1.5", "text": '"x"', "empty": '""', "list": "[]",
    "object": "{}", "huge text": '"' + "x" * 300_000 + '"', "long list": "[" + "0," * 100_000 + "0]",
    "many objects": "[" + "{}," * 30_000 + "{}]", "NaN": "NaN", "infinite": "-Infinity", "too large": "1e999",
    "half a pair": '"\\ud800"', "half a pair in a name": '{"\\udfff": 1}', "digits": "9" * 5000,
    "deep": "[" * 200 + "]" * 200, "deeper": "[" * 5000 + "]" * 5000, "nul": '"a\\u0000b"',
    "prototype": '{"__proto__": {"a": 1}, "constructor": {"prototype": {}}, "__class__": "x"}',
    "control": '"\\u202e\\u0007\\r\\nX: y"',
}  # fmt: skip
"""As JSON text, or as what some take for it."""

URIS = (
    "file:///etc/passwd", "mesh://runs/../../x", "mesh://runs/%2e%2e/%2e%2e/x", f"mesh://runs/{NO_TASK}", "mesh://runs/{id}",
    "mesh://workflows/../secret", "desk://pages/../secret", "desk://pages/..%2fsecret", "desk://pages/%2e%2e%2fsecret",
    "desk://pages/..%5csecret", "desk://pages/..", "desk://pages/.", "desk://pages/.hidden", "desk://pages/%00", "desk://pages/one%00",
    "desk://pages/", "desk://pages//etc/passwd", "desk://pages/%2fetc%2fpasswd", "desk://pages/\uff4fne", "desk://pages/\u043ene",
    "desk://pages/one\u202e", "desk://pages/%ff%fe", "desk://pages/%ed%a0%80", "desk://pages/one%", "desk://pages/%zz",
    "desk://pages/" + "a" * 5000, "DESK://hours", "desk://hours/", "desk://hours#x", " desk://hours", "desk://hours\n", "", "x", "://",
    "http://169.254.169.254/latest", "javascript:alert(1)", "desk://pages/${{ secrets.x }}", "desk://pages/one/two",
)  # fmt: skip
"""None of which there is."""


def places(params: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every place in the params."""
    for name, value in params.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from places(value, (*before, name))


def with_wrong(params: dict[str, Any], place: tuple[str, ...], wrong: str) -> str:
    """The params as JSON text, with something wrong in one place; what is None elsewhere is left out."""

    def written(value: Any, at: tuple[str, ...]) -> str:
        if at == place:
            return wrong
        if not isinstance(value, dict):
            return json.dumps(value)
        members = {name: (*at, name) for name, inner in value.items() if inner is not None or (*at, name) == place}
        return "{" + ", ".join(f"{json.dumps(name)}: {written(value[name], to)}" for name, to in members.items()) + "}"

    return written(params, ())


@asynccontextmanager
async def hostile_mesh() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a mesh with one of each."""

    async def echo(text: str) -> dict[str, Any]:
        return {"text": text}

    desk = ServerFile.model_validate(
        {
            "name": "desk",
            "tools": {"echo": {"description": "Echo.", "input": meshes.TEXT, "python": "app:echo"}},
            "resources": {
                "hours": {"uri": "desk://hours", "description": "Hours.", "text": "9 to 17"},
                "book": {"uri": "desk://book", "description": "Book.", "file": "book.md", "subscribe": True},
                "page": {"uri": "desk://pages/{name}", "description": "Page.", "file": "pages/${{ input.name }}.md"},
            },
            "prompts": {
                "reply": {
                    "description": "Reply.",
                    "arguments": {"message": {"required": True}, "tone": {"values": ["friendly"]}},
                    "messages": [{"text": "Answer: ${{ input.message }}"}],
                }
            },
        }
    )
    quick = Workflow.model_validate({"name": "quick", "on": {"mcp": {}}, "steps": [{"id": "a", "set": {"ok": True}}]})
    mesh = assemble(PurePath("mesh"), MeshFile(name="test"), [desk], [quick], ())
    pages = {
        "book.md": b"Book.",
        "pages/one.md": b"One.",
        "pages/.hidden.md": SECRET.encode(),
        "secret.md": SECRET.encode(),
    }
    async with (
        meshes.serving(mesh, functions={"app:echo": echo}, files=MemoryFiles(pages)) as engine,
        mcp_server(engine) as url,
        httpx2.AsyncClient(base_url=url, headers=BOTH, timeout=20) as http,
    ):
        yield http


def modern_headers(method: str, params: str) -> dict[str, str]:
    """The standard headers of a request, right where they can be."""
    try:
        said = json.loads(params)
    except (ValueError, RecursionError):
        said = {}
    key = "taskId" if method.startswith("tasks/") else "uri" if method == "resources/read" else "name"
    name = said.get(key) if isinstance(said, dict) and method in {*CALLS, *MODERN} and "list" not in method else None
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
    if isinstance(name, str) and method in {
        "tools/call",
        "prompts/get",
        "resources/read",
        "tasks/get",
        "tasks/update",
        "tasks/cancel",
    }:
        plain = name.isascii() and name.isprintable() and name.strip() == name and len(name) < 4000
        headers["mcp-name"] = name if plain else "other"
    return headers


async def sent(http: httpx2.AsyncClient, body: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """The status and the first message that is an answer, or says that a stream began."""
    with anyio.fail_after(20):
        async with http.stream("POST", "", content=body.encode("utf-8", "surrogatepass"), headers=headers) as response:
            if response.headers.get("content-type", "").startswith("application/json"):
                return response.status_code, json.loads(await response.aread())
            async for line in response.aiter_lines():
                if line.startswith("data:") and line[5:].strip():
                    message = json.loads(line[5:])
                    if "method" not in message or message["method"].endswith("acknowledged"):
                        return response.status_code, message
    raise AssertionError("nothing was answered")


def check(what: str, status: int, message: dict[str, Any], ident: str) -> None:
    """An answer to the very request, no failure of ours, and nothing of our insides."""
    if "method" in message:
        return  # a stream began
    error = message.get("error")
    assert status < 500, (what, message)
    assert message["id"] == ident or (message["id"] is None and error is not None), (what, message)
    said = json.dumps(message)
    assert SECRET not in said, what
    if error is not None:
        assert error["code"] != -32603, (what, message)
        assert len(said) < 5000, what
        for insides in ("Traceback", "pydantic", "\n", "RecursionError", "agentmesh/"):
            assert insides not in error["message"], (what, message)


@covers("MCP-2026-07-28 basic#bad-params")
@pytest.mark.parametrize("method", sorted(MODERN))
async def test_wrong_values_anywhere_in_a_request(method: str) -> None:
    """Each value in each place of the params, and in place of them: an answer of its own, and the next call is served."""
    async with hostile_mesh() as http:
        for place in [(), *places(MODERN[method])]:
            for what, wrong in WRONG.items():
                params = with_wrong(MODERN[method], place, wrong)
                whole = (
                    params
                    if not place
                    else params[:-1] + ("" if params == "{}" else ", ") + f'"_meta": {json.dumps(META)}}}'
                )
                ident = f"{'.'.join(place)}={what}"
                body = f'{{"jsonrpc": "2.0", "id": {json.dumps(ident)}, "method": "{method}", "params": {whole}}}'
                status, message = await sent(http, body, modern_headers(method, params))
                check(ident, status, message, ident)


@covers("MCP-2025-11-25 basic#bad-params")
@pytest.mark.parametrize("method", sorted(OLDER))
async def test_wrong_values_anywhere_in_a_session(method: str) -> None:
    """The same in a session of the older era, which is served on after all of it."""
    async with hostile_mesh() as http:
        session = await opened(http)
        for place in [(), *places(OLDER[method])]:
            for what, wrong in WRONG.items():
                ident = f"{'.'.join(place)}={what}"
                params = with_wrong(OLDER[method], place, wrong)
                body = f'{{"jsonrpc": "2.0", "id": {json.dumps(ident)}, "method": "{method}", "params": {params}}}'
                status, message = await sent(http, body, session)
                check(ident, status, message, ident)
        last = await http.post("", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers=session)
        assert answer(last)["result"] == {}


@covers("MCP-2026-07-28 server/resources#security")
@pytest.mark.parametrize("era", ["2026", "2025"])
@pytest.mark.parametrize("uri", URIS)
async def test_a_uri_leads_nowhere_else(uri: str, era: str) -> None:
    """What is no resource is not found, however it is spelt; nothing outside the templates is read, completed or subscribed to."""
    async with hostile_mesh() as http:
        session = await opened(http) if era == "2025" else {}
        asked: list[tuple[str, dict[str, Any]]] = [
            ("resources/read", {"uri": uri}),
            (
                "completion/complete",
                {"ref": {"type": "ref/resource", "uri": uri}, "argument": {"name": "name", "value": uri}},
            ),
            ("resources/subscribe", {"uri": uri})
            if era == "2025"
            else ("subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}}),
        ]
        for method, params in asked:
            text = json.dumps(params if era == "2025" else {**params, "_meta": META})
            headers = session or modern_headers(method, json.dumps(params))
            status, message = await sent(
                http, f'{{"jsonrpc": "2.0", "id": "{method}", "method": "{method}", "params": {text}}}', headers
            )
            check(f"{method} {uri}", status, message, method)
            if method == "subscriptions/listen":
                if "method" in message:
                    assert "resourceSubscriptions" not in message["params"]["notifications"]
            elif not uri.startswith("mesh://runs/{id}") and uri != "desk://pages/one":
                assert "error" in message, message


async def test_a_name_of_megabytes_is_not_given_back() -> None:
    """An error quotes the beginning and the end of what was wrong."""
    async with hostile_mesh() as http:
        session = await opened(http)
        name = "desk." * 700_000
        for method, params in (
            ("tools/call", {"name": name}),
            ("prompts/get", {"name": name}),
            ("prompts/get", {"name": "desk.reply", "arguments": {"message": "x", name: "x"}}),
            ("resources/read", {"uri": name}),
            (
                "completion/complete",
                {"ref": {"type": "ref/prompt", "name": name}, "argument": {"name": "a", "value": "x"}},
            ),
        ):
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            status, message = await sent(http, json.dumps(body), session)
            check(method, status, message, 1)  # type: ignore[arg-type]
            assert message["error"]["code"] in {-32602, -32002}


async def test_a_prompt_is_no_larger_than_a_model_reads() -> None:
    """Arguments of a megabyte are the caller's error, not ours."""
    async with hostile_mesh() as http:
        session = await opened(http)
        params = {"name": "desk.reply", "arguments": {"message": "x" * 1_000_000}}
        _, message = await sent(
            http, json.dumps({"jsonrpc": "2.0", "id": 1, "method": "prompts/get", "params": params}), session
        )
        assert message["error"]["code"] == -32602
        assert "200,000 bytes" in message["error"]["message"]


@covers("MCP-2026-07-28 basic#repeated-names")
@pytest.mark.parametrize("version", ["2026-07-28", None])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_no_encoding_hides_a_name_twice(encoding: str, version: str | None) -> None:
    """What another reader would make of other bytes is not asked."""
    async with hostile_mesh() as http:
        headers = {"mcp-protocol-version": version, "mcp-method": "tools/list"} if version else await opened(http)
        body = (
            f'{{"jsonrpc": "2.0", "id": 1, "id": 2, "method": "tools/list", "params": {{"_meta": {json.dumps(META)}}}}}'
        )
        response = await http.post("", content=body.encode(encoding), headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32700)


@pytest.mark.parametrize("version", ["2026-07-28", None])
async def test_more_values_than_can_be_looked_through(version: str | None) -> None:
    """413 before they are made; a text that holds as many brackets is a text."""
    async with hostile_mesh() as http:
        headers = modern_headers("tools/call", '{"name": "desk.echo"}') if version else await opened(http)
        for text, status in (("[" + "{}," * 500_000 + "{}]", 413), (json.dumps("[{}]," * 100_000), 200)):
            params = f'{{"name": "desk.echo", "arguments": {{"text": {text}}}, "_meta": {json.dumps(META)}}}'
            got, message = await sent(
                http, f'{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {params}}}', headers
            )
            assert got == status, message
