"""The wire to an upstream over Streamable HTTP, of either era (MCP 2026-07-28 and 2025-11-25, basic/transports).

Each request is a POST of its own, whose answer is JSON or a stream of events. So what the upstream asks or tells during a call is
known to belong to that call. Of the older era there is also a session, a stream for what belongs to no call, and the right to go
on with a stream that broke (`Last-Event-ID`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urljoin, urlsplit

import anyio
from pydantic_core import to_json

from agentmesh.adapters.server_events import events
from agentmesh.adapters.upstream_http import Dropped, Http, HttpAnswer, Oversized, Unreachable
from agentmesh.adapters.upstream_mcp_wire import Broken, Hear, HttpStatus, Message, Pace, SessionLost, parse, seconds_of
from agentmesh.errors import Fail, NotSent, Retry, Unanswered

ACCEPT: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
RESUMES: Final = 5
"""Times in a row that a broken stream is gone on with, without having heard anything."""
RESUME_WAIT: Final = 1.0
RESUME_LIMIT: Final = 30.0
"""Seconds before a stream is gone on with: unless the upstream names its own, and at most."""
PARTING: Final = 2.0
"""Seconds for telling an upstream that a call, or a session, is over."""


class HttpWire:
    """Speaks to one address. Many requests at once."""

    def __init__(
        self,
        name: str,
        url: str,
        http: Http,
        headers: Mapping[str, str],
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        """`http` lives longer than this. `headers` go with every request: the upstream's token among them, never a caller's."""
        self._name, self._url, self._http, self._sleep = name, url, http, sleep
        self._fixed = {**ACCEPT, **{k.lower(): v for k, v in headers.items()}}
        self._base = self._fixed
        self._modern = False
        self._session: str | None = None
        self._pace = Pace()

    def settle(self, version: str, *, modern: bool) -> None:
        self._modern = modern
        self._base = {**self._fixed, "mcp-protocol-version": version}
        if self._session is not None:
            self._base["mcp-session-id"] = self._session

    async def request(self, message: Message, headers: Mapping[str, str], hear: Hear, *, again: bool) -> Message:
        try:
            return await self._post(message, headers, hear, again=again)
        except Unreachable as error:
            raise NotSent(f"{self._name} cannot be reached: {error}") from error
        except Dropped as error:
            raise Broken(f"{self._name} did not answer {message['method']}: {error}; it may have been done") from error
        except Oversized as error:
            raise Fail(f"{self._name} sent {error} to {message['method']}; ask it for less") from None
        except anyio.get_cancelled_exc_class():
            if not self._modern and message["method"] not in ("initialize", "server/discover"):
                with anyio.move_on_after(PARTING, shield=True):
                    await self.send({
                        "jsonrpc": "2.0", "method": "notifications/cancelled",
                        "params": {"requestId": message["id"], "reason": "the caller no longer waits"},
                    })  # fmt: skip
            raise

    async def _post(self, message: Message, headers: Mapping[str, str], hear: Hear, *, again: bool) -> Message:
        body = to_json(message)
        for _ in range(3):
            async with self._http.send("POST", self._url, {**self._base, **headers}, body, again=again) as answer:
                if answer.status == 200:
                    if message["method"] == "initialize" and (session := answer.headers.get("mcp-session-id")):
                        self._session = session
                    return await self._answer(answer, message, hear)
                if not self._redirected(answer):
                    return await self._refusal(answer, message)
        raise Fail(f"{self._name} redirects in a circle")

    async def _answer(self, answer: HttpAnswer, message: Message, hear: Hear) -> Message:
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            raw = await answer.read()
            found = await parse(raw, self._name)
            if _answers(found, message):
                return found
            raise Fail(f"{self._name} answered {message['method']} with a message that is no answer to it")
        if kind == "text/event-stream":
            return await self._stream(answer, message, hear)
        raise Fail(
            f"{self._name} answered {message['method']} with {kind or 'no content type'}, not with JSON or events"
        )

    async def _stream(self, answer: HttpAnswer, message: Message, hear: Hear) -> Message:
        """The answer on a stream, gone on with when it breaks and may be."""
        last: str | None = None
        wait, silent = RESUME_WAIT, 0
        broken: Exception | None = None
        found, last, wait, broken = await self._until_answer(answer, message, hear, last, wait)
        while found is None:
            if last is None or silent >= RESUMES:
                raise Unanswered(
                    f"{self._name} ended its stream without an answer to {message['method']}; it may have been done"
                ) from broken
            await self._sleep(min(wait, RESUME_LIMIT))
            before, silent = last, silent + 1
            try:
                async with self._http.send(
                    "GET", self._url, {**self._base, "last-event-id": last}, None, again=True
                ) as more:
                    if more.status != 200:
                        raise Unanswered(
                            f"{self._name} does not go on with a stream that broke; the call may have been done"
                        )
                    found, last, wait, broken = await self._until_answer(more, message, hear, last, wait)
            except (Unreachable, Dropped) as error:
                broken = error
            if last != before:
                silent = 0
        return found

    async def _until_answer(
        self, answer: HttpAnswer, message: Message, hear: Hear, last: str | None, wait: float
    ) -> tuple[Message | None, str | None, float, Exception | None]:
        try:
            async for event in events(answer.parts()):
                if event.id:
                    last = event.id
                if event.retry is not None:
                    wait = event.retry
                if event.data:
                    found = await parse(event.data, self._name)
                    if _answers(found, message):
                        return found, last, wait, None
                    await self._pace.passing(len(event.data))
                    await hear(found)
        except Dropped as error:
            return None, last, wait, error
        return None, last, wait, None

    def _redirected(self, answer: HttpAnswer) -> bool:
        """Whether to send it again, to another path of the same server: redirected means not done."""
        if answer.status not in (307, 308):
            return False
        target = urljoin(self._url, answer.headers.get("location", ""))
        if urlsplit(target)[:2] != urlsplit(self._url)[:2]:
            raise Fail(
                f"{self._name} redirects to another server ({target}); write that address into its file if you trust it"
            )
        self._url = target
        return True

    async def _refusal(self, answer: HttpAnswer, message: Message) -> Message:
        """A JSON-RPC error that came with a status that is no success; raises when there is none."""
        status, method = answer.status, message["method"]
        if status == 202:
            raise Fail(f"{self._name} took {method} for a notice (HTTP 202) and will not answer it")
        if status == 404 and self._session is not None:
            raise SessionLost(f"{self._name} has forgotten our session")
        if answer.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
            try:
                found = await parse(await answer.read(), self._name)
            except (Fail, Dropped, Oversized):
                found = {}
            if isinstance(found.get("error"), dict):
                if self._session is not None and status == 400 and _of_session(found["error"]):
                    raise SessionLost(f"{self._name} has forgotten our session")
                return found
        if status in (401, 403):
            raise HttpStatus(
                f"{self._name} refuses our credentials (HTTP {status}); check `token`, `headers` or `oauth` of its file",
                status,
            )
        if status in (429, 503):
            raise Retry(f"{self._name} is busy (HTTP {status}); try again later", after=seconds_of(answer.headers))
        if status in (502, 504):
            raise Unanswered(f"{self._name} did not answer (HTTP {status} of what stands before it)")
        raise HttpStatus(f"{self._name} answered {method} with HTTP {status}", status)

    async def send(self, message: Message) -> None:
        try:
            async with self._http.send("POST", self._url, self._base, to_json(message), again=False) as answer:
                await answer.read()
        except (Unreachable, Dropped, Oversized) as error:
            raise Unanswered(f"{self._name} did not take {message.get('method', 'an answer')}: {error}") from error

    async def listen(self, hear: Hear) -> None:
        if self._modern or self._session is None:
            return
        last: str | None = None
        wait, failures = RESUME_WAIT, 0
        while True:
            headers = self._base if last is None else {**self._base, "last-event-id": last}
            try:
                async with self._http.send("GET", self._url, headers, None, again=True) as answer:
                    if answer.status == 404:
                        raise SessionLost(f"{self._name} has forgotten our session")
                    if answer.status != 200:
                        return  # it has no such stream (405), or does not say why
                    async for event in events(answer.parts()):
                        failures, last = 0, event.id or last
                        wait = event.retry if event.retry is not None else wait
                        if event.data:
                            await self._pace.passing(len(event.data))
                            await hear(await parse(event.data, self._name))
            except (Unreachable, Dropped, Oversized, Fail) as error:
                failures += 1
                if failures >= RESUMES:
                    raise NotSent(f"{self._name} is gone: {error}") from error
            await self._sleep(min(wait, RESUME_LIMIT))

    async def aclose(self) -> None:
        if self._session is None or self._modern:
            return
        with anyio.move_on_after(PARTING, shield=True):
            try:
                async with self._http.send("DELETE", self._url, self._base, None, again=True):
                    pass
            except (Unreachable, Dropped):
                pass  # a server that has gone has no session either


def _of_session(error: Mapping[str, object]) -> bool:
    """Whether an error says that our session is not known. The specification wants 404; servers after the SDKs' examples say 400."""
    return error.get("code") in (-32000, -32001) and "session" in str(error.get("message")).lower()


def _answers(found: Message, message: Message) -> bool:
    """Whether it is the answer to our request: an error may come without an id, when the upstream could not read ours."""
    if "method" in found:
        return False
    return found.get("id") == message["id"] or ("error" in found and found.get("id") is None)
