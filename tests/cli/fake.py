"""A server that speaks `/v1` from a script: what the command line sees of a served mesh, without one."""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 0, "seconds": 0.1}


def run_json(run_id: str = "r1", state: str = "completed", **more: Any) -> dict[str, Any]:
    """A run as `/v1` writes it."""
    return {
        "id": run_id, "workflow": "greet", "definition": "d", "state": state, "input": {}, "output": None,
        "error": None, "owner": "local", "tenant": "local", "source": "api", "created_at": 1.0, "updated_at": 1.5,
        "usage": USAGE, "steps": [], "cancel_requested": False, "seq": 3,
    } | more  # fmt: skip


def entry(seq: int, kind: str, path: str = "", attempt: int = 1, at: float = 1.0, **payload: Any) -> dict[str, Any]:
    """A row of a journal as the stream of events writes it."""
    return {"seq": seq, "kind": kind, "path": path, "attempt": attempt, "at": at, "payload": payload}


def sse(*events: tuple[str, Any]) -> bytes:
    """Server-sent events."""
    return b"".join(f": hello\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode() for name, data in events)


class Fake:
    """Answers by (method, path): a JSON value, (status, value), bytes of events, or a list of these in turn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    def answer(self, method: str, path: str, value: Any) -> None:
        self.answers[method, path] = value

    def bodies(self, path: str) -> list[Any]:
        """What was sent to a path."""
        return [body for _, target, body in self.asked if target == path]


@contextmanager
def serving(folder: Path) -> Iterator[Fake]:
    """A fake server for the mesh in `folder`, announced in its server.json."""
    fake = Fake(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(json.loads(raw) if raw else None)

        def do_DELETE(self) -> None:
            self._answer(None)

        def _answer(self, body: Any) -> None:
            fake.asked.append((self.command, self.path, body))
            fake.headers.append(dict(self.headers))
            path = self.path.partition("?")[0]
            missing = (404, {"title": "Not Found", "status": 404, "detail": f"nothing at {path}", "code": "not_found"})
            found = fake.answers.get((self.command, path), missing)
            if isinstance(found, list):
                found = found.pop(0) if len(found) > 1 else found[0]
            status, value = found if isinstance(found, tuple) else (200, found)
            if isinstance(value, bytes):
                self.send_response(status)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(value)
                self.close_connection = True
                return
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        fake.url = f"http://127.0.0.1:{server.server_port}"
        fake.answer("GET", "/v1/mesh", {"name": "m", "pid": os.getpid(), "url": fake.url, "folder": str(folder)})
        (folder / ".agentmesh").mkdir(exist_ok=True)
        told = {"pid": os.getpid(), "url": fake.url, "token": "s3cret-token", "started_at": 0}
        (folder / ".agentmesh" / "server.json").write_text(json.dumps(told))
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
