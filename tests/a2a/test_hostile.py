"""Requests that no well-behaved client sends, over both bindings: each has its error, and none is a fault of the server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.a2a.calling import BINDINGS, V, call, sent
from tests.a2a.conftest import Serving
from tests.http.serving import raw
from tests.requirements import covers

pytestmark = pytest.mark.anyio

PYTHON = (
    "Traceback",
    "object has no",
    "literal for",
    "expected string",
    "codec",
    "recursion",
    "validation error",
    "binascii",
    "0x",
)


def parts(*these: Any) -> dict[str, Any]:
    return sent(parts=list(these))


def configured(**configuration: Any) -> dict[str, Any]:
    return {**sent(), "configuration": configuration}


def nested(levels: int, leaf: Any = 1) -> Any:
    for _ in range(levels):
        leaf = {"a": leaf}
    return leaf


INVALID: list[tuple[str, Any]] = [
    ("SendMessage", {}),
    ("SendMessage", {"message": None}),
    ("SendMessage", {"message": []}),
    ("SendMessage", {"message": "hi"}),
    ("SendMessage", parts()),
    ("SendMessage", parts({})),
    ("SendMessage", parts(5)),
    ("SendMessage", parts(None)),
    ("SendMessage", parts({"text": 5})),
    ("SendMessage", parts({"text": None})),
    ("SendMessage", parts({"text": "a", "data": {}})),
    ("SendMessage", parts({"text": "a", "url": "http://x"})),
    ("SendMessage", parts({"raw": "aGk=", "url": "http://x"})),
    ("SendMessage", parts({"raw": "%%%"})),
    ("SendMessage", parts({"raw": "a"})),
    ("SendMessage", parts({"raw": "aGk=aGk="})),
    ("SendMessage", parts({"raw": "aG k="})),
    ("SendMessage", parts({"raw": "aGk==="})),
    ("SendMessage", parts({"raw": 5})),
    ("SendMessage", parts({"text": "x", "metadata": []})),
    ("SendMessage", parts({"text": "x", "mediaType": {}})),
    ("SendMessage", parts({"data": {"n": 2**53}})),
    ("SendMessage", parts({"data": {"n": 10**400}})),
    ("SendMessage", parts({"data": nested(52)})),
    ("SendMessage", sent(role="ROLE_AGENT")),
    ("SendMessage", sent(role="ROLE_UNSPECIFIED")),
    ("SendMessage", sent(role="user")),
    ("SendMessage", sent(role=2)),
    ("SendMessage", sent(role=77)),
    ("SendMessage", sent(role=None)),
    ("SendMessage", sent(messageId="")),
    ("SendMessage", sent(messageId=7)),
    ("SendMessage", sent(messageId="m" * 513)),
    ("SendMessage", sent(messageId="a\0b")),
    ("SendMessage", sent(contextId="c" * 513)),
    ("SendMessage", sent(contextId="a\0b")),
    ("SendMessage", sent(contextId=["c"])),
    ("SendMessage", sent(metadata=[1])),
    ("SendMessage", sent(metadata={"skill": 5})),
    ("SendMessage", sent(metadata={"skill": "nosuch"})),
    ("SendMessage", sent(metadata={"skill": {"tags": "x"}})),
    ("SendMessage", sent(metadata={"n": 2**60})),
    ("SendMessage", sent(extensions="urn:x")),
    ("SendMessage", sent(extensions=[5])),
    ("SendMessage", sent(referenceTaskIds={})),
    ("SendMessage", {**sent(), "metadata": {"skill": []}}),
    ("SendMessage", configured(historyLength=-1)),
    ("SendMessage", configured(historyLength=2**31)),
    ("SendMessage", configured(historyLength=1.5)),
    ("SendMessage", configured(historyLength="many")),
    ("SendMessage", configured(returnImmediately="yes")),
    ("SendMessage", configured(returnImmediately=1)),
    ("SendMessage", configured(acceptedOutputModes="text/plain")),
    ("SendMessage", {**sent(), "configuration": []}),
    ("GetTask", {"id": "x", "historyLength": -1}),
    ("GetTask", {"id": "x", "historyLength": 1e300}),
    ("ListTasks", {"pageSize": 0}),
    ("ListTasks", {"pageSize": -1}),
    ("ListTasks", {"pageSize": 101}),
    ("ListTasks", {"pageSize": 2**40}),
    ("ListTasks", {"pageToken": "no-such"}),
    ("ListTasks", {"pageToken": "a\0b"}),
    ("ListTasks", {"contextId": "a\0b"}),
    ("ListTasks", {"status": "WORKING"}),
    ("ListTasks", {"status": "task_state_working"}),
    ("ListTasks", {"statusTimestampAfter": "yesterday"}),
    ("ListTasks", {"statusTimestampAfter": "2025-13-01T00:00:00Z"}),
    ("ListTasks", {"statusTimestampAfter": "99999-01-01T00:00:00Z"}),
    ("ListTasks", {"includeArtifacts": "banana"}),
    ("ListTasks", {"historyLength": -1}),
]


@covers("A2A-1.0.1 5.4#error-codes", "A2A-1.0.1 4.1.4#role", "A2A-1.0.1 11.5#query")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_wrong_parameters_are_the_callers(on: Serving, binding: str) -> None:
    """-32602 and 400 with INVALID_PARAMS, in few words and none of Python's; nothing is started."""
    for method, params in INVALID:
        refused = await call(on, binding, method, params)
        wanted = ("INVALID_PARAMS", -32602 if binding == "JSONRPC" else 400)
        assert (refused.reason, refused.code) == wanted, (method, params, refused)
        assert refused.status == (200 if binding == "JSONRPC" else 400)
        assert len(refused.message) <= 2000
        assert not [word for word in PYTHON if word in refused.message], refused.message
    assert (await call(on, binding, "ListTasks")).result["totalSize"] == 0


BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"nope", 400),
    (b'{"message": ', 400),
    (b"\xff\xfe", 400),
    (b'{"message": "\xff"}', 400),
    (b'{"message": {"parts": [{"data": NaN}]}}', 400),
    (b'{"message": {"parts": [{"data": Infinity}]}}', 400),
    (b'{"message": {"parts": [{"data": 1e400}]}}', 400),
    (b'{"message": {"parts": [{"data": -1e999}]}}', 400),
    (b'{"message": {"parts": [{"data": ' + b"9" * 5000 + b"}]}}", 400),
    (b'{"message": "\\ud800"}', 400),
    (b"[" * 100_000 + b"]" * 100_000, 400),
    (b'{"a":' * 1000 + b"1" + b"}" * 1000, 400),
    (b"[]", 400),
    (b"42", 400),
    (b"null", 400),
    (b'"hi"', 400),
]


@covers("A2A-1.0.1 9#json-rpc")
async def test_bodies_that_are_no_json(on: Serving) -> None:
    """-32700 or -32600 over JSON-RPC, 400 over HTTP+JSON; never a fault of ours."""
    for body, status in BODIES:
        enveloped = b'{"jsonrpc":"2.0","id":1,"method":"SendMessage","params":' + (body or b"") + b"}"
        for content in (body, enveloped):
            rpc = await on.http.post("/a2a", content=content, headers={"Content-Type": "application/json", **V})
            error = rpc.json()["error"]
            assert (rpc.status_code, error["code"] in (-32700, -32600, -32602)) == (200, True), (content[:60], rpc.text)
            assert not [word for word in PYTHON if word in rpc.text], rpc.text
        for path in ("/a2a/message:send", "/a2a/message:stream", "/a2a/tasks/x/pushNotificationConfigs"):
            rest = await on.http.post(path, content=body, headers={"Content-Type": "application/a2a+json", **V})
            assert (rest.status_code, rest.json()["error"]["code"]) == (status, status), (path, body[:60], rest.text)
            assert not [word for word in PYTHON if word in rest.text], rest.text
            assert rest.json()["error"]["details"][0]["domain"] == "a2a-protocol.org"
    assert (await on.http.get("/v1/runs")).json()["total"] == 0


@covers("A2A-1.0.1 9.1#media-type", "A2A-1.0.1 11.1#media-type")
async def test_media_types(on: Serving) -> None:
    """What a form of a page elsewhere can send is not carried out; parameters and case of JSON's own types do not matter."""
    rpc = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": sent()})
    for wrong in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
        "application/jsonx",
        "text/json",
    ):
        for path, content in (("/a2a", rpc), ("/a2a/message:send", json.dumps(sent()))):
            answer = await on.http.post(path, content=content, headers={"Content-Type": wrong, **V})
            assert answer.status_code == 415, (wrong, path)
            error = answer.json()["error"]
            assert error["code"] == (-32005 if path == "/a2a" else 415)
    assert (await on.http.get("/v1/runs")).json()["total"] == 0
    for right in ("application/json", "APPLICATION/JSON; charset=utf-8", "application/a2a+json"):
        answer = await on.http.post(
            "/a2a/message:send", content=json.dumps(sent()), headers={"Content-Type": right, **V}
        )
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/a2a+json"), right
    assert (
        await on.http.post("/a2a", content=rpc, headers={"Content-Type": "application/json;x=y", **V})
    ).status_code == 200
    gone = await on.http.get("/a2a/tasks/x", headers=V)
    assert gone.headers["content-type"] == "application/a2a+json"


async def test_ids_are_echoed_as_they_were(on: Serving) -> None:
    """Strings and whole numbers of any size; others are no ids."""
    for ident in (0, -5, "x" * 200, 2**60, "", "\u2603"):
        body = {"jsonrpc": "2.0", "id": ident, "method": "ListTasks"}
        assert (await on.http.post("/a2a", json=body, headers=V)).json()["id"] == ident
    for ident in (None, True, 1.5, [], {}):
        body = {"jsonrpc": "2.0", "id": ident, "method": "ListTasks"}
        told = (await on.http.post("/a2a", json=body, headers=V)).json()
        assert (told["id"], told["error"]["code"]) == (None, -32600), ident


@covers("A2A-1.0.1 5.7#required-fields")
@pytest.mark.parametrize("binding", BINDINGS)
async def test_missing_fields_are_violations(on: Serving, binding: str) -> None:
    """google.rpc.BadRequest names each of them."""
    refused = await call(on, binding, "SendMessage", {"message": {"taskId": "x"}})
    kinds = [detail["@type"].rpartition(".")[2] for detail in refused.details]
    assert kinds == ["ErrorInfo", "BadRequest"]
    assert [v["field"] for v in refused.details[1]["fieldViolations"]] == [
        "message.messageId",
        "message.role",
        "message.parts",
    ]


@pytest.mark.parametrize("binding", BINDINGS)
async def test_unknown_fields_and_spellings_of_protobuf_are_let_pass(on: Serving, binding: str) -> None:
    """Names as the proto has them, numbers as strings, nulls; and what may come later."""
    odd = {
        "message": {"message_id": "m", "role": 1, "parts": [{"text": "hi", "new": {"a": [1]}}], "contextId": None},
        "also": 1,
    }
    assert "task" in (await call(on, binding, "SendMessage", {**odd, "configuration": {"historyLength": "3"}})).result


@pytest.mark.parametrize("path", ["/a2a", "/a2a/message:send", "/a2a/shop/message:send", "/a2a/v1/message:send"])
async def test_a_body_over_the_limit_is_refused_before_it_is_read(on: Serving, path: str) -> None:
    """By its length, while nothing of it was sent."""
    head = [f"POST {path} HTTP/1.1", f"Host: {on.url.removeprefix('http://')}", "Content-Type: application/json"]
    request = "\r\n".join([*head, "A2A-Version: 1.0", "Content-Length: 9000000", "", ""])
    status, answer = await raw(on.url, request.encode())
    assert (status, len(answer) < 2000) == (413, True)
