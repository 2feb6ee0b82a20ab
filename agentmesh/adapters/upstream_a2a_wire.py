"""The wires to an agent elsewhere: JSON-RPC and HTTP+JSON of A2A 1.0. Those of 0.3 and gRPC stand in modules of their own.

A wire takes the methods and parameters of A2A 1.0 as JSON, and gives its answers so, read and bounded. It knows of one interface, not of
the agent behind it.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote, urlencode

from agentmesh.adapters import upstream_a2a_read as read
from agentmesh.adapters.upstream_a2a_errors import Asked, NotOffered, of_jsonrpc, of_rest, of_status
from agentmesh.adapters.upstream_a2a_http import TIME, Left, PeerHttp, read_json
from agentmesh.core.agent import Json
from agentmesh.core.json_text import write_json
from agentmesh.errors import Fail

Method = Literal["SendMessage", "GetTask", "ListTasks", "CancelTask", "GetExtendedAgentCard"]
Stream = Literal["SendStreamingMessage", "SubscribeToTask"]
AGAIN: Final = frozenset({"GetTask", "ListTasks", "CancelTask", "GetExtendedAgentCard", "SubscribeToTask"})
"""What may be sent a second time when a kept connection turns out to be closed."""
IDLE: Final = 300.0
"""Seconds without an event after which a stream is left; whoever wants to know more asks for the task."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: what for, with which headers, and for how long."""

    asked: Asked
    headers: Mapping[str, str] = field(default_factory=dict)
    time: float = TIME
    idle: float = IDLE


class Wire(Protocol):
    """One interface of an agent. NotSent, Unanswered, Retry, and what `upstream_a2a_errors` makes of a refusal."""

    async def ask(self, method: Method, params: Json, ask: Ask) -> Any:
        """The result, checked: a Task, a SendMessageResponse, (tasks, next page), or a card as it is."""

    def stream(self, method: Stream, params: Json, ask: Ask) -> AsyncGenerator[Json, None]:
        """Each StreamResponse, checked."""

    async def reach(self) -> None:
        """Makes sure that it is there. NotSent."""

    async def aclose(self) -> None: ...


READERS: Final[Mapping[Method, Any]] = {
    "SendMessage": read.answer, "GetTask": read.task, "ListTasks": read.tasks, "CancelTask": read.task,
    "GetExtendedAgentCard": lambda card: card,
}  # fmt: skip


class HttpWire:
    """What both bindings over HTTP have in common. They say what is sent, and where in an answer the result is."""

    version = "1.0"

    def __init__(self, http: PeerHttp, url: str, tenant: str) -> None:
        """`http` outlives it. `tenant` of the interface goes with every request (A2A 1.0.1 section 4.4.6)."""
        self._http, self._url, self._tenant = http, url, tenant
        self._headers = {"content-type": "application/json", "a2a-version": self.version}

    async def reach(self) -> None:
        await self._http.reach(self._url)

    async def aclose(self) -> None:
        """The connections are `http`'s."""

    def _plain(self, ask: Ask) -> dict[str, str]:
        return {**self._headers, "accept": "application/json", **ask.headers}

    def _streamed(self, ask: Ask) -> dict[str, str]:
        return {**self._headers, "accept": "text/event-stream", "cache-control": "no-store", **ask.headers}


class JsonRpc(HttpWire):
    """JSON-RPC 2.0 over HTTP (A2A 1.0.1 section 9)."""

    def __init__(self, http: PeerHttp, url: str, tenant: str) -> None:
        super().__init__(http, url, tenant)
        self._numbers = itertools.count(1)

    async def ask(self, method: Method, params: Json, ask: Ask) -> Any:
        ident, body = self._request(method, params)
        status, headers, answer = await self._http.ask(
            "POST", self._url, self._plain(ask), body, again=method in AGAIN, time=ask.time
        )
        return self._read(method, await self._result(status, headers, answer, ident, ask.asked))

    async def stream(self, method: Stream, params: Json, ask: Ask) -> AsyncGenerator[Json, None]:
        ident, body = self._request(method, params)
        left = Left()
        found = self._http.stream(
            "POST", self._url, self._streamed(ask), body, again=method in AGAIN, idle=ask.idle, time=ask.time, left=left
        )
        async with aclosing(found) as answers:
            async for status, headers, answer in answers:
                event = self._read_event(await self._result(status or 200, headers, answer, ident, ask.asked))
                left.at_the_end = read.has_ended(event) is True
                yield event

    def _request(self, method: str, params: Json) -> tuple[str, bytes]:
        ident = str(next(self._numbers))
        given = {"tenant": self._tenant, **params} if self._tenant else params
        return ident, write_json({"jsonrpc": "2.0", "id": ident, "method": method, "params": given})

    async def _result(self, status: int, headers: Mapping[str, str], body: bytes, ident: str, asked: Asked) -> Any:
        if not 200 <= status < 300:
            found = await _json_of(body)
            if isinstance(found, dict) and isinstance(found.get("error"), dict) and "code" in found["error"]:
                raise of_jsonrpc(found["error"], asked)
            raise of_status(status, headers, _words(body), asked)
        found = await read_json(body)
        if not isinstance(found, dict):
            raise Fail("the agent answered with what cannot be read: it is no answer of JSON-RPC")
        if found.get("error") is not None:
            raise of_jsonrpc(found["error"], asked)
        if found.get("id") != ident:
            raise Fail("the agent answered another request than the one that was sent")
        if "result" not in found:
            raise Fail("the agent answered with what cannot be read: it has neither a result nor an error")
        return found["result"]

    def _read(self, method: Method, result: Any) -> Any:
        return READERS[method](result)

    def _read_event(self, result: Any) -> Json:
        return read.event(result)


class Rest(HttpWire):
    """HTTP+JSON (A2A 1.0.1 section 11)."""

    def __init__(self, http: PeerHttp, url: str, tenant: str) -> None:
        super().__init__(http, url.rstrip("/") + (f"/{quote(tenant, safe='')}" if tenant else ""), tenant)
        self._subscribe: Literal["POST", "GET"] = "POST"
        """The text of the specification has POST, its proto GET; agents have one, the other, or both."""

    async def ask(self, method: Method, params: Json, ask: Ask) -> Any:
        verb, path, body = self._request(method, params)
        status, headers, answer = await self._http.ask(
            verb, self._url + path, self._plain(ask), body, again=method in AGAIN, time=ask.time
        )
        return self._read(method, await self._result(status, headers, answer, ask.asked))

    async def stream(self, method: Stream, params: Json, ask: Ask) -> AsyncGenerator[Json, None]:
        ways = [self._request(method, params)]
        if method == "SubscribeToTask":
            path = ways[0][1]
            ways = [("POST", path, b""), ("GET", path, None)]
            ways = ways if self._subscribe == "POST" else ways[::-1]
        for number, (verb, path, body) in enumerate(ways):
            left = Left()
            found = self._http.stream(
                verb, self._url + path, self._streamed(ask), body, again=method in AGAIN, idle=ask.idle, time=ask.time, left=left
            )  # fmt: skip
            try:
                async with aclosing(found) as answers:
                    async for status, headers, answer in answers:
                        event = self._read_event(await self._result(status or 200, headers, answer, ask.asked))
                        if number:
                            self._subscribe = "GET" if verb == "GET" else "POST"
                        left.at_the_end = read.has_ended(event) is True
                        yield event
                return
            except NotOffered:
                if number == len(ways) - 1:
                    raise

    def _request(self, method: str, params: Json) -> tuple[str, str, bytes | None]:
        """Verb, path and body."""
        if method in {"SendMessage", "SendStreamingMessage"}:
            return "POST", "/message:send" if method == "SendMessage" else "/message:stream", write_json(params)
        if method == "ListTasks":
            return "GET", f"/tasks{_query(params)}", None
        if method == "GetExtendedAgentCard":
            return "GET", "/extendedAgentCard", None
        path = f"/tasks/{quote(str(params['id']), safe='')}"
        if method == "GetTask":
            return "GET", path + _query({k: v for k, v in params.items() if k != "id"}), None
        if method == "SubscribeToTask":
            return "POST", f"{path}:subscribe", None
        return "POST", f"{path}:cancel", write_json({k: v for k, v in params.items() if k != "id"})

    async def _result(self, status: int, headers: Mapping[str, str], body: bytes, asked: Asked) -> Any:
        if not 200 <= status < 300:
            error = of_rest(await _json_of(body), status, asked)
            raise error or of_status(status, headers, _words(body), asked)
        found = await read_json(body)
        if isinstance(found, dict) and isinstance(found.get("error"), dict):  # on a stream
            raise of_rest(found, 0, asked) or Fail(f"the agent ended with an error: {str(found['error'])[:300]}")
        return found

    def _read(self, method: Method, result: Any) -> Any:
        return READERS[method](result)

    def _read_event(self, result: Any) -> Json:
        return read.event(result)


def _query(params: Json) -> str:
    given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in params.items()}
    return f"?{urlencode(given)}" if given else ""


async def _json_of(body: bytes) -> Any:
    """What an error's body says; None when it is no JSON."""
    try:
        return await read_json(body)
    except Fail:
        return None


def _words(body: bytes) -> str:
    """The beginning of an error's body, for people."""
    return " ".join(body[:500].decode("utf-8", "replace").split())
