"""What stands on the wire: the card, and the answers to requests that no client library would send."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.a2a.conftest import Serving
from tests.requirements import covers

pytestmark = pytest.mark.anyio

V = {"A2A-Version": "1.0"}
JSON = {"Content-Type": "application/json", **V}


def call(method: Any, params: Any = None, **more: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params or {}, **more}


def sent(**message: Any) -> dict[str, Any]:
    return {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}], **message}}


async def rpc(on: Serving, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await on.http.post("/a2a", content=content, headers={**JSON, **headers})


BAD_CALLS: list[tuple[Any, int, Any]] = [
    (b'{"jsonrpc": "2.0", ', -32700, None),
    (b'{"id":"\xff"}', -32700, None),
    (b"[" * 5000 + b"]" * 5000, -32700, None),
    (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":' + b"9" * 5000 + b"}}", -32700, None),
    (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":"\\ud800"}}', -32700, None),
    (b'{"jsonrpc":"2.0","id":1,"method":"ListTasks","params":{"pageSize":NaN}}', -32700, None),
    (b"", -32700, None),
    ([], -32600, None),
    ([call("ListTasks")], -32600, None),
    (42, -32600, None),
    ({"id": 7, "method": "GetTask"}, -32600, 7),
    (call("GetTask", jsonrpc="1.0"), -32600, 7),
    (call("GetTask", id={}), -32600, None),
    (call("GetTask", id=True), -32600, None),
    (call("GetTask", id=1.5), -32600, None),
    ({"jsonrpc": "2.0", "method": "ListTasks"}, -32600, None),
    (call({}), -32600, 7),
    (call("Nope"), -32601, 7),
    (call("tasks/get", {"id": "x"}), -32601, 7),
    (call("GetTask", ["x"]), -32602, 7),
    (call("GetTask", {"id": {"a": 1}}), -32602, 7),
    (call("GetTask"), -32602, 7),
    (call("ListTasks", {"status": "NOPE"}), -32602, 7),
    (call("ListTasks", {"status": 3}), -32602, 7),
    (call("ListTasks", {"pageSize": 101}), -32602, 7),
    (call("ListTasks", {"statusTimestampAfter": "yesterday"}), -32602, 7),
    (call("SendMessage", sent(parts=[{"data": {"n": 2**60}}])), -32602, 7),
    (call("SendMessage", sent(parts=[{"data": json.loads("[" * 50 + "]" * 50)}])), -32602, 7),
    (call("SendMessage", {**sent(), "tenant": "acme"}), -32602, 7),
    (call("SendMessage", sent(contextId="a\0b")), -32602, 7),
    (call("SendMessage", sent(contextId="c" * 513)), -32602, 7),
    (call("SendMessage", {**sent(), "configuration": {"historyLength": 2**40}}), -32602, 7),
    (call("SendMessage", {**sent(), "configuration": {"acceptedOutputModes": ["image/png"]}}), -32005, 7),
    (call("GetTask", {"id": "x" * 100_000}), -32001, 7),
]


@covers("A2A-1.0.1 9#json-rpc")
async def test_what_is_not_a_good_request_has_its_code(on: Serving) -> None:
    """Never -32603, never Python's words, and the id is echoed where there is one."""
    for body, code, ident in BAD_CALLS:
        answer = await rpc(on, body)
        told = answer.json()
        assert (answer.status_code, told["error"]["code"], told["id"]) == (200, code, ident), (body, answer.text)
        assert len(answer.content) < 5000, body
        for word in ("Traceback", "expected string", "object has no", "literal for", "bytes-like", "recursion"):
            assert word not in answer.text, body


@covers("A2A-1.0.1 3.6.2#version")
async def test_any_version_but_ours_is_refused(on: Serving) -> None:
    """Major and minor are compared exactly, over both bindings, in the header and in the query."""
    for version in ("99.0", "1.99", "1", "banana", "0.2", "1.0.0.0", "1.0-rc", "\u0661.0", "1.0, 0.3"):
        headers = {} if not version.isascii() else {"A2A-Version": version}
        query = {} if version.isascii() else {"A2A-Version": version}
        for path in ("/a2a", "/a2a?x=1"):
            told = await on.http.post(path, json=call("ListTasks"), headers=headers, params=query or None)
            assert told.json()["error"]["code"] == -32009, version
        for path in ("/a2a/tasks", "/a2a/v1/card"):
            rest = await on.http.get(path, headers=headers, params=query)
            reason = rest.json()["error"]["details"][0]["reason"]
            assert (rest.status_code, reason) == (400, "VERSION_NOT_SUPPORTED"), version


@covers("A2A-1.0.1 3.6.2#no-version")
async def test_no_version_means_0_3(on: Serving) -> None:
    """None, or an empty one: the methods and paths of 1.0 are not 0.3's, and the other way round."""
    for version in ("0.3", "0.3.0", "", None):
        headers = {} if version is None else {"A2A-Version": version}
        told = await on.http.post("/a2a", json=call("ListTasks"), headers=headers)
        assert told.json()["error"]["code"] == -32601, version
        rest = await on.http.get("/a2a/tasks", headers=headers)
        assert rest.json()["error"]["details"][0]["reason"] == "VERSION_NOT_SUPPORTED", version
        old = await on.http.post("/a2a", json=call("tasks/get", {"id": "no-such"}), headers=headers)
        assert old.json()["error"]["code"] == -32001, version
    assert (await rpc(on, call("tasks/get", {"id": "no-such"}))).json()["error"]["code"] == -32601
    assert (await on.http.get("/a2a/v1/tasks/x", headers=V)).json()["error"]["details"][0][
        "reason"
    ] == "VERSION_NOT_SUPPORTED"


async def test_our_version_is_taken_with_any_patch(on: Serving) -> None:
    """In a header, or a query parameter."""
    for headers in (V, {"a2a-VERSION": "1.0.7"}):
        assert (await on.http.get("/a2a/tasks", headers=headers)).status_code == 200
    assert (await on.http.get("/a2a/tasks?A2A-Version=1.0")).status_code == 200
    assert "result" in (await on.http.post("/a2a?A2A-Version=1.0", json=call("ListTasks"))).json()


@covers("A2A-1.0.1 4.1.6#parts")
async def test_parts_that_cannot_be_read(on: Serving) -> None:
    """Each is refused before anything is started: what the skill does not take, and what is not one part."""
    cases: list[tuple[list[Any], int]] = [
        ([{"raw": "AAAA", "mediaType": "application/x-no-such"}], -32005),
        ([{"url": "http://127.0.0.1/x"}], -32005),
        ([{"text": "x", "mediaType": "image/png"}], -32005),
        ([{}], -32602),
        ([], -32602),
        ([{"data": [1]}], -32602),
    ]
    for parts, code in cases:
        assert (await rpc(on, call("SendMessage", sent(parts=parts)))).json()["error"]["code"] == code, parts


@covers("A2A-1.0.1 5.7#required-fields")
async def test_required_fields_are_named_when_they_miss(on: Serving) -> None:
    """And unknown ones are let pass."""
    for field in ("messageId", "role", "parts"):
        params = sent()
        del params["message"][field]
        error = (await rpc(on, call("SendMessage", params))).json()["error"]
        assert error["code"] == -32602, field
        assert f"message.{field}" in error["message"]
    extra = {**sent(futureField={"a": [1]}), "alsoNew": 1}
    assert "task" in (await rpc(on, call("SendMessage", extra))).json()["result"]


BAD_REQUESTS: list[tuple[str, str, bytes, int]] = [
    ("POST", "/message:send", b'{"message": ', 400),
    ("POST", "/message:send", b"\xff", 400),
    ("POST", "/message:send", b"[]", 400),
    ("POST", "/message:send", b"", 400),
    ("POST", "/message:send", b'{"message": 5}', 400),
    ("POST", "/message:stream", b"{}", 400),
    ("POST", "/tasks/x:cancel", b"", 404),
    ("POST", "/tasks/x:cancel", b"nope", 400),
    ("POST", "/tasks/x:subscribe", b"", 404),
    ("POST", "/tasks/x/pushNotificationConfigs", b'{"url": 5}', 400),
    ("GET", "/tasks?pageSize=abc", b"", 400),
    ("GET", "/tasks?status=NOPE", b"", 400),
    ("GET", "/tasks?pageToken=%00", b"", 400),
    ("GET", "/tasks?historyLength=99999999999", b"", 400),
    ("GET", "/tasks/x?historyLength=-1", b"", 400),
    ("GET", "/tasks/%ff", b"", 404),
    ("GET", "/nope/nope", b"", 404),
    ("PUT", "/tasks", b"", 405),
]


@covers("A2A-1.0.1 11#http-json")
async def test_errors_over_http_are_a_status(on: Serving) -> None:
    """google.rpc.Status with the HTTP status as its code, and no words of Python's."""
    headers = {"Content-Type": "application/a2a+json", **V}
    for method, path, body, status in BAD_REQUESTS:
        answer = await on.http.request(method, "/a2a" + path, content=body, headers=headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, status), (method, path, body, answer.text)
        assert error["status"]
        for word in ("literal for", "bytes-like", "Traceback"):
            assert word not in answer.text, (path, body)


@pytest.mark.parametrize("path", ["/a2a", "/a2a/message:send"])
async def test_a_form_of_a_browser_is_not_carried_out(on: Serving, path: str) -> None:
    """text/plain is what a page elsewhere can send without asking."""
    content = json.dumps(call("SendMessage", sent()) if path == "/a2a" else sent())
    answer = await on.http.post(path, content=content, headers={"Content-Type": "text/plain", **V})
    assert answer.status_code == 415
    assert "error" in answer.json()
    assert (await on.http.get("/v1/runs")).json()["total"] == 0


async def test_paths_that_are_not_ours_stay_unknown(on: Serving) -> None:
    """The SDK's tenant mount would have taken them."""
    for path in ("/acme/a2a/tasks", "/nope", "/a2ax", "/.well-known/agent.json"):
        answer = await on.http.get(path, headers=V)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path


async def test_get_on_the_json_rpc_path_says_what_it_takes(on: Serving) -> None:
    """405 with Allow."""
    for path, allow in (("/a2a", "POST"), ("/a2a/", "POST"), ("/a2a/message:send", "POST")):
        answer = await on.http.get(path, headers=V)
        assert (answer.status_code, answer.headers["allow"]) == (405, allow), path
        assert "error" in answer.json()
