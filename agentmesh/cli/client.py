"""Client: the command line's way to a served mesh, over its HTTP API.

On one side the commands, in core's words; on the other `/v1` and problem details (RFC 9457). The server is found
through `.agentmesh/server.json` in the mesh folder. Built on `http.client`, because the
program must answer `--help` at once.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlencode, urlsplit

from agentmesh.errors import MeshError

CONNECT = 5.0
"""Seconds to wait for a connection, and for an answer to the question who is there."""
SILENCE = 60.0
"""Seconds without a byte after which a stream counts as broken; the server sends a heartbeat every 15."""


class Unreachable(MeshError):
    """No server answers for this mesh."""

    code = "unreachable"


class Problem(MeshError):
    """The server refused, in its own words."""

    code = "problem"
    usage: ClassVar[frozenset[str]] = frozenset(
        {"invalid_request", "invalid_input", "not_found", "too_large", "conflict", "not_built"}
    )

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        title = str(body.get("title") or f"the server answered {status}")
        super().__init__(str(body.get("detail") or title), **{k: v for k, v in body.items() if k != "detail"})
        self.status = status
        self.problem = str(body.get("code") or "")

    @property
    def callers(self) -> bool:
        """Whether the command was wrong, rather than what it started."""
        return self.problem in self.usage or (not self.problem and self.status in {400, 404, 409, 413, 422})


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: `entry`, `notice` or `run`."""

    name: str
    data: Any
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """A served mesh. Opens one connection for each request."""

    url: str
    token: str | None = None

    def get(self, path: str, *, timeout: float = 60.0, **query: Any) -> Any:
        given = {k: v for k, v in query.items() if v is not None and v != []}
        return self._json("GET", path + ("?" + urlencode(given, doseq=True) if given else ""), None, timeout)

    def post(self, path: str, body: Any = None, *, timeout: float = 60.0) -> Any:
        return self._json("POST", path, body, timeout)

    def delete(self, path: str, *, timeout: float = 60.0) -> Any:
        return self._json("DELETE", path, None, timeout)

    def download(self, path: str, *, timeout: float = 300.0) -> bytes:
        """A file as it is."""
        return self._content("GET", path, None, timeout)

    def upload(self, path: str, content: bytes, *, timeout: float = 300.0) -> Any:
        """Sends a gzip file; the answer's JSON."""
        return self._json("POST", path, content, timeout)

    def events(self, path: str, *, after: int = 0, body: Any = None) -> Iterator[Event]:
        """The events of a stream past `after`, as they come; of a POST when there is a body. Ends when the stream ends.

        Unreachable when it breaks, or is silent for longer than the server's heartbeats.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(after)} if after else {})
        connection, response = self._send("GET" if body is None else "POST", path, body, headers, SILENCE)
        try:
            if response.status >= http.client.BAD_REQUEST:
                raise _problem(response.status, response.read())
            if response.status == http.client.OK:
                yield from _read_events(response)
        except (OSError, http.client.HTTPException) as e:
            raise Unreachable(f"the connection to {self.url} broke: {_reason(e)}") from e
        finally:
            connection.close()

    def _json(self, method: str, path: str, body: Any, timeout: float) -> Any:
        content = self._content(method, path, body, timeout)
        try:
            return json.loads(content) if content else None
        except ValueError as e:
            raise Unreachable(f"what answers at {self.url} is not AgentMesh: its answer to {path} is not JSON") from e

    def _content(self, method: str, path: str, body: Any, timeout: float) -> bytes:
        connection, response = self._send(method, path, body, {"Accept": "application/json"}, timeout)
        try:
            content = response.read()
        except (OSError, http.client.HTTPException) as e:
            raise Unreachable(f"the connection to {self.url} broke: {_reason(e)}") from e
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise _problem(response.status, content)
        return content

    def _send(
        self, method: str, path: str, body: Any, headers: dict[str, str], timeout: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        where = urlsplit(self.url)
        connect = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        connection = connect(where.hostname or "127.0.0.1", where.port, timeout=CONNECT)
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        content = None
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
            headers["Content-Type"] = "application/gzip" if isinstance(body, bytes) else "application/json"
        try:
            connection.connect()
            connection.sock.settimeout(timeout)
            try:
                connection.request(method, where.path.rstrip("/") + path, body=content, headers=headers)
            except (BrokenPipeError, ConnectionResetError):
                # A server may refuse a large body before it has read it all; its answer is there to be read.
                if connection.sock is None:
                    raise
            return connection, connection.getresponse()
        except (OSError, http.client.HTTPException) as e:
            connection.close()
            raise Unreachable(f"no server answers at {self.url}: {_reason(e)}") from e


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def find(folder: Path) -> Client | None:
    """The client of a server that serves `folder` now; None when none does."""
    return next(filter(None, (_client(file, folder) for file in announced(folder))), None)


def announced(folder: Path) -> list[Path]:
    """Where the servers of a mesh have written their addresses: the first, and those that share its folder. Some may have died."""
    state = folder / ".agentmesh"
    return [file for file in (state / "server.json", *sorted(state.glob("servers/*/server.json"))) if file.is_file()]


def _client(file: Path, folder: Path) -> Client | None:
    try:
        told = json.loads(file.read_text())
        client = Client(str(told["url"]).rstrip("/"), told.get("token"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    try:
        mesh = client.get("/v1/mesh", timeout=CONNECT)
    except MeshError:
        return None
    # After a crash another program, or another mesh, may have got the port.
    ours = isinstance(mesh, dict) and Path(str(mesh.get("folder", folder))).resolve() == folder.resolve()
    return client if ours else None


def _read_events(response: http.client.HTTPResponse) -> Iterator[Event]:
    """Server-sent events (HTML Living Standard, 9.2.6), with JSON in `data`."""
    name, ident = "message", None
    data: list[str] = []
    for raw in response:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if data:
                yield Event(name, json.loads("\n".join(data)), ident)
            name, data = "message", []
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif key == "id":
            ident = value


def _problem(status: int, content: bytes) -> Problem:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        text = content.decode("utf-8", "replace").strip()
        body = {"detail": f"the server answered {status}" + (f": {text[:200]}" if text else "")}
    return Problem(status, body)


def _reason(e: BaseException) -> str:
    return (getattr(e, "strerror", None) or str(e) or type(e).__name__).lower()
