"""Webhook: a receiver of push notifications, in the test's own process, that keeps what it is told and may be slow or do harm."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Told:
    """One notification. `begun` and `ended`: when it came and was answered, by the monotonic clock."""

    ident: str
    body: dict[str, Any]
    begun: float
    ended: float

    @property
    def place(self) -> tuple[int, int]:
        """Its numbers within the task."""
        _, seq, part = self.ident.rsplit("/", 2)
        return int(seq), int(part)


class Webhook:
    """`serving` it gives the address. `before` is called with each notification before it is answered, in the server's thread."""

    def __init__(self, before: Callable[[str, int], None] | None = None, *, pause: float = 0.0) -> None:
        self.before = before or (lambda _ident, _number: None)
        self.pause = pause
        self.told: list[Told] = []
        self.together: Counter[str] = Counter()
        """By task, of how many notifications more than one was being answered at a time."""
        self._lock = threading.Lock()
        self._now: Counter[str] = Counter()
        self._count = 0
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator[Webhook]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                begun = time.monotonic()
                body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
                ident = self.headers["a2a-notification-id"]
                outer.take(ident, body, begun)
                self.send_response(204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that was killed."""

        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}/hook"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join(5)

    def take(self, ident: str, body: dict[str, Any], begun: float) -> None:
        task = ident.partition("/")[0]
        with self._lock:
            self._count += 1
            number = self._count
            self._now[task] += 1
            if self._now[task] > 1:
                self.together[task] += 1
        if self.pause:
            time.sleep(self.pause)
        self.before(ident, number)
        with self._lock:
            self._now[task] -= 1
            self.told.append(Told(ident, body, begun, time.monotonic()))

    def of(self, task: str) -> list[Told]:
        """What was told of a task, in the order in which it came."""
        with self._lock:
            return sorted((one for one in self.told if one.ident.startswith(f"{task}/")), key=lambda one: one.begun)


def over(told: list[Told]) -> bool:
    """Whether the end of the task was told."""
    states = [one.body.get("statusUpdate", {}).get("status", {}).get("state") for one in told]
    return any(state in {"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED"} for state in states)
