"""Connection: one HTTP connection of uvicorn's, which does not wait for ever for a head, nor keep one without end.

uvicorn bounds how long a connection may be idle between requests; a request whose head never ends it keeps, and collects. Here a
head has HEAD_SECONDS from its first byte (or from the connection's beginning) and as many bytes as the limits say; bodies are
`http/auth.py`'s. What is late is told 408, what is too long 431, and the connection is closed.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agentmesh.http.auth import TARGET_BYTES
from agentmesh.http.joined import Joined

HEAD_SECONDS: Final = 20.0
SPARE: Final = TARGET_BYTES + 1024
"""Bytes of a head besides its headers, whose own limit `http/auth.py` keeps to the byte: the request line fits."""


class Connection(HttpToolsProtocol):
    """What `uvicorn.Config(http=...)` is given; see `bounded`."""

    head_bytes: int
    head_seconds: float = HEAD_SECONDS

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self._in_head = True
        self._held = 0
        self._shared = False
        """The piece that the head began in holds the end of the request before, too."""
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop))
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            if self._patience is not None:
                self._wait_no_more()
            return
        # Most heads come in one piece, and never get here.
        if self._shared:
            self._shared = False
        else:
            self._held += len(data)
        if self._held > self.head_bytes:
            self._refuse(431, "the headers are too large")
        elif self._patience is None:
            self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._held, self._shared = True, 0, self.cycle is not None

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def _wait(self) -> None:
        self._patience = self.loop.call_later(
            self.head_seconds, self._refuse, 408, f"the headers did not arrive within {self.head_seconds:g} seconds"
        )

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _refuse(self, status: int, why: str) -> None:
        """Ends the connection; with words where no other response is on its way."""
        self._wait_no_more()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            body = why.encode()
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        elif status == HTTPStatus.REQUEST_TIMEOUT:
            self._wait()  # the request before is still being answered, and must not be lost for the one behind it
            return
        self.transport.close()


def bounded(head_bytes: int, head_seconds: float = HEAD_SECONDS) -> type[Connection]:
    """The class of connections with these limits: uvicorn makes an instance of it for each."""
    return type("BoundedConnection", (Connection,), {"head_bytes": head_bytes + SPARE, "head_seconds": head_seconds})
