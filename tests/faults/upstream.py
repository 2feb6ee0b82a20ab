"""Upstream: the world outside the mesh, as the fault tests see it. It counts what was done to it, and misbehaves on request.

A plain HTTP server in threads of the test's process, so that what it counted survives the death of the mesh:

    /effect/NAME        does the work and answers
    /hang/NAME          does the work, and answers when the test lets it (`release`) or never
    /lose/NAME          does the work; of each key's first request the answer is lost: the connection ends without a byte
    /late/NAME?s=2      does the work, and answers after so many seconds
    /flood/NAME         does the work, and answers with bytes without an end
    /down/NAME          says 503 to each key's first two requests, before any work
    /v1/chat/completions    a model, see `_said`; to `flood ...` it answers without an end
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

FLOOD = 1024 * 1024 * 1024
"""Bytes after which even a flood ends."""


class Upstream:
    """What was done, by name and by Idempotency-Key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done: dict[str, Counter[str]] = defaultdict(Counter)
        """NAME -> how often each key did it."""
        self.refused: Counter[str] = Counter()
        self.prompts: Counter[str] = Counter()
        """How often the model was asked each thing."""
        self.released = threading.Event()
        """Lets every hanging request go on."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.upstream = self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator[Upstream]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join(10)

    def count(self, name: str, key: str) -> int:
        """Notes that it was done; how often under this key by now."""
        with self._lock:
            self.done[name][key] += 1
            return self.done[name][key]

    def refuse(self, key: str) -> int:
        with self._lock:
            self.refused[key] += 1
            return self.refused[key]

    def keys(self, run_id: str) -> dict[str, int]:
        """Everything that one run did (and its children did not): PATH -> how often."""
        with self._lock:
            return {
                key.removeprefix(run_id + "/"): count
                for keys in self.done.values()
                for key, count in keys.items()
                if key.startswith(run_id + "/")
            }

    def total(self, name: str) -> int:
        with self._lock:
            return self.done[name].total()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    upstream: Upstream

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A mesh that was killed leaves its connections without a word."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("content-length") or 0)))

    def _answer(self, body: bytes) -> None:
        upstream, parts = self.server.upstream, urlsplit(self.path)
        if parts.path.endswith("/chat/completions"):
            self._complete(json.loads(body))
            return
        _, kind, name = parts.path.split("/", 2)
        key = self.headers.get("idempotency-key") or "no key"
        if kind == "down" and upstream.refuse(key) <= 2:
            self._send(503, {"error": "overloaded"})
            return
        count = upstream.count(name, key)
        match kind:
            case "lose" if count == 1:
                self.close_connection = True
                return
            case "hang":
                upstream.released.wait(600)
            case "late":
                time.sleep(float(parse_qs(parts.query)["s"][0]))
            case "flood":
                self._flood()
                return
        self._send(200, {"name": name, "count": count})

    def _send(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _flood(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("connection", "close")
        self.end_headers()
        chunk = b'"' + b"x" * 1_048_575
        for _ in range(FLOOD // len(chunk)):
            self.wfile.write(chunk)

    def _complete(self, asked: dict[str, Any]) -> None:
        messages = asked["messages"]
        first = next((str(m["content"]) for m in messages if m["role"] == "user"), "")
        with self.server.upstream._lock:
            self.server.upstream.prompts[first] += 1
        if first.startswith("flood"):
            self._flood()
            return
        choice = {"index": 0, "finish_reason": "stop"}
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": asked["model"]}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        text = _said(first, len(messages))
        if not asked.get("stream"):
            message = {"role": "assistant", "content": text}
            self._send(200, {**head, "choices": [{**choice, "message": message}], "usage": usage})
            return
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        chunks = [
            {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]},
            {**head, "choices": [{**choice, "delta": {}}]},
            {**head, "choices": [], "usage": usage},
        ]
        for chunk in chunks:
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")


def _said(prompt: str, messages: int) -> str:
    """`grade …` is first answered wrongly (0), and rightly (5) once the conversation holds a correction; else the prompt comes back."""
    if prompt.startswith("grade"):
        return json.dumps({"grade": 0 if messages <= 1 else 5})
    return json.dumps({"said": prompt[:200]})
