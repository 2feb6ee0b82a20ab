"""Neighbours: tells the other processes on one PostgreSQL which runs changed, and hears it from them.

By NOTIFY on connections of its own and after the commit, since a NOTIFY inside the writer's transactions would make all servers
commit one after another. What is lost with a connection is made up for by a look at what changed meanwhile; nobody's correctness
depends on any of it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, select, text
from sqlalchemy.exc import DBAPIError

from agentmesh.adapters.sql.patience import hang_up
from agentmesh.adapters.sql.tables import runs

log = logging.getLogger("agentmesh.store")
CHANNEL = "agentmesh_changes"
POKE = "!"
"""Before the id of a run that was poked and has not changed."""
GATHER = 0.01
"""Seconds for which changes are gathered into one message."""
PAYLOAD = 7_900
"""Most bytes of one message; PostgreSQL takes fewer than 8,000."""
AGAIN = 0.5
"""Seconds between tries to connect again."""
PENDING = 65_536
MISSED = 10_000
"""Most runs that are told again after the connection was lost."""
_TELL = text("SELECT pg_notify(:channel, message) FROM unnest(CAST(:messages AS text[])) AS message")
_NOW = text("SELECT extract(epoch FROM clock_timestamp())::float8")
_SINCE = (
    select(runs.c.id).where(runs.c.updated_at >= bindparam("since")).order_by(runs.c.updated_at.desc()).limit(MISSED)
)


class Neighbours:
    """Two threads, from `start` until `stop`."""

    def __init__(
        self,
        engine: Engine,
        publish: Callable[[Sequence[str]], None],
        poked: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        """`engine`: without a pool. `publish` and `poked` are called on the listening thread."""
        self._engine = engine
        self._publish = publish
        self._poked = poked
        self._changed: queue.SimpleQueue[Sequence[str] | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._speaker: int | None = None
        """The server's process of our own messages, which are not news."""
        self._ear: Any = None
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("store-listener", self._listen), ("store-notifier", self._speak))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def tell(self, run_ids: Sequence[str]) -> None:
        """Says that these runs changed, soon. Never waits."""
        if run_ids:
            self._changed.put(run_ids)

    def poke(self, run_id: str) -> None:
        """Has the other processes told that this run may have something to look at, soon. Never waits."""
        self._changed.put([POKE + run_id])

    def stop(self) -> None:
        """May be called twice, or before `start`."""
        self._stopped.set()
        self._changed.put(None)
        if self._ear is not None:
            hang_up(self._ear)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _speak(self) -> None:
        waiting: dict[str, None] = {}
        while not self._stopped.is_set():
            try:
                with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    # A message that is lost with the server's memory was not worth a write to its disk.
                    connection.execute(text("SET synchronous_commit = off"))
                    self._speaker = _driver(connection).info.backend_pid
                    self._speak_on(connection, waiting)
            except DBAPIError as error:
                log.info("changes cannot be told to other servers now (%s)", type(error.orig).__name__)
                self._stopped.wait(AGAIN)

    def _speak_on(self, connection: Connection, waiting: dict[str, None]) -> None:
        """`waiting` keeps what could not be said."""
        while not self._stopped.is_set():
            while len(waiting) < PENDING:
                try:
                    run_ids = self._changed.get(block=not waiting)
                except queue.Empty:
                    break
                if run_ids is None:
                    return
                if not waiting:
                    self._stopped.wait(GATHER)
                waiting.update(dict.fromkeys(run_ids))
            connection.execute(_TELL, {"channel": CHANNEL, "messages": list(_messages(waiting))})
            waiting.clear()

    def _listen(self) -> None:
        alive: float | None = None
        while not self._stopped.is_set():
            try:
                with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                    connection.exec_driver_sql(f"LISTEN {CHANNEL}")
                    self._ear = _driver(connection)
                    if alive is not None:
                        since = connection.scalars(_NOW).one() - (time.monotonic() - alive)
                        self._publish(list(connection.scalars(_SINCE, {"since": since - 1.0})))
                    alive = time.monotonic()
                    while not self._stopped.is_set():
                        heard: dict[str, None] = {}
                        for message in self._ear.notifies(timeout=5.0, stop_after=1):
                            if message.pid != self._speaker:
                                heard.update(dict.fromkeys(message.payload.split(",")))
                        alive = time.monotonic()
                        if pokes := [one.removeprefix(POKE) for one in heard if one.startswith(POKE)]:
                            self._poked(pokes)
                        if changed := [one for one in heard if not one.startswith(POKE)]:
                            self._publish(changed)
            except Exception as error:
                if not self._stopped.is_set():
                    log.info("changes of other servers are not heard now (%s)", type(error).__name__)
                    self._stopped.wait(AGAIN)
            finally:
                self._ear = None


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _messages(run_ids: Iterable[str]) -> Iterable[str]:
    message: list[str] = []
    size = 0
    for run_id in run_ids:
        length = len(run_id.encode()) + 1
        if message and size + length > PAYLOAD:
            yield ",".join(message)
            message, size = [], 0
        message.append(run_id)
        size += length
    if message:
        yield ",".join(message)
