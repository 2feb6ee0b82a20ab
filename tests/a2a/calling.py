"""Calls of the A2A edge on the wire: one request over either binding, and what came of it in one form."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.a2a.conftest import Serving

V = {"A2A-Version": "1.0"}
BINDINGS = ["JSONRPC", "HTTP+JSON"]
PATHS: dict[str, tuple[str, str]] = {
    "SendMessage": ("POST", "/message:send"),
    "SendStreamingMessage": ("POST", "/message:stream"),
    "GetTask": ("GET", "/tasks/{id}"),
    "ListTasks": ("GET", "/tasks"),
    "CancelTask": ("POST", "/tasks/{id}:cancel"),
    "SubscribeToTask": ("POST", "/tasks/{id}:subscribe"),
    "GetExtendedAgentCard": ("GET", "/extendedAgentCard"),
    "CreateTaskPushNotificationConfig": ("POST", "/tasks/{taskId}/pushNotificationConfigs"),
    "ListTaskPushNotificationConfigs": ("GET", "/tasks/{taskId}/pushNotificationConfigs"),
    "GetTaskPushNotificationConfig": ("GET", "/tasks/{taskId}/pushNotificationConfigs/{id}"),
    "DeleteTaskPushNotificationConfig": ("DELETE", "/tasks/{taskId}/pushNotificationConfigs/{id}"),
}


@dataclass(frozen=True)
class Outcome:
    """What came of a call: a result, or the reason of the error."""

    status: int
    result: Any = None
    reason: str | None = None
    code: int = 0
    message: str = ""
    details: Any = ()
    headers: Mapping[str, str] = field(default_factory=dict)


async def call(
    on: Serving, binding: str, method: str, params: Mapping[str, Any] | None = None, *, agent: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Outcome:  # fmt: skip
    """One request, not streamed. `agent`: at whose address."""
    answer = await on.http.send(request(on, binding, method, params or {}, agent, headers or {}))
    return outcome(binding, answer)


@asynccontextmanager
async def streaming(
    on: Serving, binding: str, method: str, params: Mapping[str, Any], *, agent: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:  # fmt: skip
    """The events of a stream, as StreamResponse objects."""
    asked = request(on, binding, method, params, agent, headers or {})
    answer = await on.http.send(asked, stream=True)
    try:
        assert answer.headers["content-type"].startswith("text/event-stream"), await answer.aread()
        yield _events(binding, answer)
    finally:
        await answer.aclose()


async def events_of(on: Serving, binding: str, method: str, params: Mapping[str, Any], **more: Any) -> list[Any]:
    """All of them."""
    async with streaming(on, binding, method, params, **more) as events:
        return [event async for event in events]


async def _events(binding: str, answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data:"):
            event = json.loads(line[5:])
            yield event["result"] if binding == "JSONRPC" else event


def request(
    on: Serving, binding: str, method: str, params: Mapping[str, Any], agent: str | None, headers: Mapping[str, str]
) -> httpx.Request:
    base = "/a2a" + (f"/{agent}" if agent else "")
    sent = {**V, **headers}
    if binding == "JSONRPC":
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": dict(params)}
        return on.http.build_request("POST", base, json=body, headers=sent)
    verb, path = PATHS[method]
    left = dict(params)
    for name in ("taskId", "id"):
        if "{" + name + "}" in path:
            path = path.replace("{" + name + "}", str(left.pop(name, "")))
    if verb == "POST":
        content = json.dumps(left).encode()
        return on.http.build_request(
            verb, base + path, content=content, headers={"Content-Type": "application/a2a+json", **sent}
        )
    query = {k: str(v).lower() if isinstance(v, bool) else v for k, v in left.items()}
    return on.http.build_request(verb, base + path, params=query, headers=sent)


def outcome(binding: str, answer: httpx.Response) -> Outcome:
    told = answer.json()
    headers = dict(answer.headers)
    if binding == "JSONRPC":
        assert (told["jsonrpc"], ("result" in told) != ("error" in told)) == ("2.0", True)
        if "result" in told:
            return Outcome(answer.status_code, told["result"], headers=headers)
        error, details = told["error"], told["error"].get("data") or []
    else:
        if answer.status_code < 400:
            return Outcome(answer.status_code, told, headers=headers)
        error = told["error"]
        details = error["details"]
        assert error["code"] == answer.status_code
    info = details[0]
    assert (info["@type"], info["domain"]) == ("type.googleapis.com/google.rpc.ErrorInfo", "a2a-protocol.org")
    return Outcome(
        answer.status_code, None, info["reason"], error["code"], error["message"], details, headers
    )  # fmt: skip


def sent(text: str = "hi", **message: Any) -> dict[str, Any]:
    """A message as its request has it."""
    return {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": text}], **message}}
