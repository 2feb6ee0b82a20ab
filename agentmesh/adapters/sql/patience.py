"""Patience: gives up on a database server that neither answers nor hangs up.

The server's own timeouts cannot end a wait for a server that is stopped or unreachable, and a driver waits for ever. A thread looks
every second at the connections in use and shuts the socket of one that has been in use too long; whoever waits on it gets the
error of a lost connection.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

STALLED = 10.0
"""Seconds one use of a connection, a transaction of ours, may take."""


class Patience:
    """Watches the connections of the engines it is told of, until `stop`."""

    def __init__(self, limit: float = STALLED, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._used: dict[int, tuple[float, Any]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="store-patience", daemon=True)
        self._thread.start()

    def watch(self, engine: Engine) -> None:
        """Counts from when a connection leaves the engine's pool until it is back."""

        @event.listens_for(engine, "checkout")
        def _out(connection: Any, _record: Any, _proxy: Any) -> None:
            self._used[id(connection)] = self._clock(), connection

        @event.listens_for(engine, "checkin")
        def _in(connection: Any, _record: Any) -> None:
            self._used.pop(id(connection), None)

        @event.listens_for(engine, "invalidate")
        def _lost(connection: Any, _record: Any, _error: Any) -> None:
            self._used.pop(id(connection), None)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(1.0):
            late = self._clock() - self._limit
            for key, (since, connection) in list(self._used.items()):
                if since < late:
                    self._used.pop(key, None)
                    hang_up(connection)


def hang_up(connection: Any) -> None:
    """Shuts the socket of a driver's connection under whoever waits on it."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except Exception:  # noqa: S110 - closed meanwhile, which is what we want
        pass
