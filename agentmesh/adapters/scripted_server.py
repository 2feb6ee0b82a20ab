"""A scripted model over HTTP: an OpenAI-compatible endpoint that says what a file tells it to, for tests without a model.

    agentmesh models script answers.yaml --port 9000

and `url: http://127.0.0.1:9000/v1` for a model in agentmesh.yaml. The file is `adapters.model_script`'s. Beside /v1/chat/completions
and /v1/models there are GET /requests, which says what was asked (`?key=` for one idempotency key), and DELETE /requests, which
begins to count anew. A test so counts how often the model was really asked, whatever the mesh believes.

`ScriptedServer` is a plain ASGI application: in a test it can be served by anything. To lose an answer it needs the connection
itself, which only `serving` hands to it.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import parse_qs

import anyio
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agentmesh.adapters.model_script import Answered, Asked, Script, ScriptedAnswer, ScriptFile, answer_to
from agentmesh.adapters.yaml_document import read_yaml
from agentmesh.core.shape import read_shape
from agentmesh.core.workflow import seconds
from agentmesh.errors import Fault, MeshError, ProjectError, ServeError

KEPT = 10_000
"""Requests that GET /requests shows at most; the file has them all."""
LONGEST_HANG = 3600.0
BODY_LIMIT = 64 * 1024 * 1024
CLOSE = "agentmesh.close"
"""Key in `scope["extensions"]`: a function that ends the connection without another byte."""


def read_script(file: Path) -> Script:
    """The script in a file; ProjectError says what is wrong with it, and where."""
    try:
        document = read_yaml(file.read_bytes(), file.name)
    except OSError as error:
        raise ProjectError(
            [Fault(str(file), 0, 0, f"cannot be read: {(error.strerror or str(error)).lower()}")]
        ) from None
    source, faults = read_shape(document, ScriptFile, "script")
    if faults or source is None:
        raise ProjectError(faults)
    return Script(source.value)


class ScriptedServer:
    """The ASGI application. `requests` keeps what was asked, as GET /requests shows it."""

    def __init__(self, script: Script, *, log: TextIO | None = None, clock: Callable[[], float] = time.time) -> None:
        """`log`: a line of JSON for each request when it has come, and one when it has ended."""
        self._script = script
        self._log = log
        self._clock = clock
        self.requests: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.by_key: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        match (scope["method"], scope["path"].rstrip("/")):
            case ("POST", "/v1/chat/completions"):
                await self._chat(scope, receive, send)
            case ("GET", "/v1/models"):
                file = self._script.file
                model = {
                    "id": file.model,
                    "object": "model",
                    "created": 0,
                    "owned_by": "script",
                    "revision": file.revision,
                }
                await _json(send, 200, {"object": "list", "data": [model]})
            case ("GET", "/requests"):
                await _json(send, 200, self._account(parse_qs(scope["query_string"].decode("latin-1"))))
            case ("DELETE", "/requests"):
                self._script.forget()
                self.requests.clear()
                self.by_key.clear()
                await _json(send, 200, {"forgotten": True})
            case _:
                await _refuse(
                    send, 404, f"there is no {scope['method']} {scope['path']} here; see /requests and /v1/models"
                )

    def _account(self, asked: Mapping[str, list[str]]) -> dict[str, Any]:
        keys = asked.get("key")
        found = [r for r in self.requests if keys is None or r["key"] in keys]
        return {"total": self._script.calls, "by_key": dict(self.by_key), "requests": found}

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        data = await _body(receive)
        try:
            body = json.loads(data or b"")
            if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
                raise ValueError("an object with `messages` is needed")  # noqa: TRY004  told to the caller like the rest
        except ValueError as error:
            await _refuse(send, 400, f"the body is no chat request: {error}")
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        asked, place, answer = self._script.ask(body, headers.get("idempotency-key"))
        record = self._record(asked, place)
        fate = "disconnected"
        try:
            fate = await self._give(scope, receive, send, asked, answer)
        finally:
            self._ended(record, fate)

    async def _give(
        self, scope: Scope, receive: Receive, send: Send, asked: Asked, answer: ScriptedAnswer | None
    ) -> str:
        """What became of the request."""
        if answer is None:
            await _refuse(send, 422, f"the script has no answer for {asked.last[:200]!r}")
            return "no answer"
        gone = True
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            await anyio.sleep(LONGEST_HANG if answer.fault == "hang" else self._script.latency(answer))
            fate = await self._say(scope, send, asked, answer)
            gone = False
            tasks.cancel_scope.cancel()
        return "disconnected" if gone else fate

    async def _say(self, scope: Scope, send: Send, asked: Asked, answer: ScriptedAnswer) -> str:
        if answer.error is not None:
            after = [] if answer.error.retry_after is None else [(b"retry-after", b"%g" % answer.error.retry_after)]
            await _refuse(send, answer.error.status, answer.error.message, after)
            return f"error {answer.error.status}"
        completion = answer_to(asked, answer, self._script.file)
        if answer.fault == "lose":
            _close(scope)
            return "lost"
        if asked.body.get("stream"):
            await self._stream(scope, send, asked, answer, completion)
        else:
            document = json.dumps(completion.whole()).encode()
            if answer.fault == "cut":
                await _start(send, 200, [(b"content-length", b"%d" % len(document))])
                await send({"type": "http.response.body", "body": document[: len(document) // 2], "more_body": True})
                _close(scope)
            else:
                await _json(send, 200, document)
        return "cut" if answer.fault == "cut" else "answered"

    async def _stream(
        self, scope: Scope, send: Send, asked: Asked, answer: ScriptedAnswer, completion: Answered
    ) -> None:
        options = asked.body.get("stream_options")
        pieces = completion.pieces(with_usage=isinstance(options, Mapping) and bool(options.get("include_usage")))
        if answer.fault == "cut":
            pieces = pieces[: max(1, len(pieces) // 2)]
        await _start(send, 200, [], kind=b"text/event-stream")
        for piece in pieces:
            await send(
                {"type": "http.response.body", "body": b"data: %s\n\n" % json.dumps(piece).encode(), "more_body": True}
            )
            await anyio.sleep(seconds(answer.pace))
        if answer.fault == "cut":
            _close(scope)
            return
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    # The record

    def _record(self, asked: Asked, place: int) -> dict[str, Any]:
        if asked.key is not None:
            self.by_key[asked.key] += 1
        body = asked.body
        record = {
            "number": asked.number, "attempt": asked.attempt, "key": asked.key, "at": self._clock(), "model": body.get("model"),
            "last": asked.last, "messages": body["messages"], "tools": body.get("tools"), "stream": bool(body.get("stream")),
            "response_format": body.get("response_format"), "temperature": body.get("temperature"), "seed": body.get("seed"),
            "max_tokens": body.get("max_tokens"), "answer": place, "fate": None,
        }  # fmt: skip
        self.requests.append(record)
        self._write(record)
        return record

    def _ended(self, record: dict[str, Any], fate: str) -> None:
        record["fate"] = fate
        self._write({"number": record["number"], "key": record["key"], "ended": self._clock(), "fate": fate})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()


# On a socket


class _Protocol(HttpToolsProtocol):
    """uvicorn's, with the connection's end in the hands of the application."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CLOSE: self.transport.close}  # type: ignore[dict-item]


@asynccontextmanager
async def serving(
    script: Script, *, port: int = 0, log: TextIO | None = None
) -> AsyncIterator[tuple[str, ScriptedServer]]:
    """Serves a script on loopback: its URL (with `/v1`) and the application. ServeError when the port is taken."""
    app = ScriptedServer(script, log=log)
    with _listen(port) as listener:
        config = uvicorn.Config(
            app, http=_Protocol, ws="none", lifespan="off", access_log=False, log_config=None, server_header=False,
            date_header=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        # It calls an answer that is cut short an error of the application; here it is the point.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server = _Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            with anyio.fail_after(10):
                await server.listens.wait()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", app
            finally:
                server.should_exit = True


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listens.set()


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ServeError(
            f"port {port} of 127.0.0.1 cannot be used ({error.strerror}); choose another with --port"
        ) from None
    listener.listen(1024)
    return listener


async def serve(file: Path, *, port: int = 0, log: Path | None = None, announce: Callable[[str], None] = print) -> None:
    """Serves a script until cancelled; `announce` is told the URL once it listens. `log` is appended to."""
    script = await anyio.to_thread.run_sync(read_script, file)
    with log.open("a") if log is not None else _NoFile() as lines:
        async with serving(script, port=port, log=lines) as (url, _):
            announce(url)
            await anyio.sleep_forever()


class _NoFile:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


# Small parts


async def _body(receive: Receive) -> bytes:
    parts = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message.get("body", b""))
        total += len(parts[-1])
        if total > BODY_LIMIT or not message.get("more_body"):
            return b"".join(parts)


async def _start(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], kind: bytes = b"application/json"
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), *headers]})


async def _json(send: Send, status: int, value: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    await _start(send, status, [(b"content-length", b"%d" % len(body)), *(headers or [])])
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, status: int, message: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await _json(send, status, {"error": {"message": message, "type": "scripted", "code": status}}, headers)


def _close(scope: Scope) -> None:
    close = (scope.get("extensions") or {}).get(CLOSE)
    if close is None:
        raise RuntimeError("a connection can only be ended under `serving`")
    close()


def main(arguments: list[str] | None = None) -> int:
    """`python -m agentmesh.adapters.scripted_server FILE --port N`: prints its URL and serves until it is ended."""
    parser = argparse.ArgumentParser(prog="agentmesh.adapters.scripted_server", description="Serve a scripted model.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, help="a file for a line of JSON about each request")
    given = parser.parse_args(arguments)
    try:
        with suppress(KeyboardInterrupt):
            anyio.run(lambda: serve(given.file, port=given.port, log=given.log, announce=_announce))
    except MeshError as error:
        sys.stderr.write(f"{error.message}\n")
        return 2
    return 0


def _announce(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
