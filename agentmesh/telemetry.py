"""Logging of the server and its child: a line a record on stderr, with the values of secrets masked."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TextIO

from agentmesh.errors import ServeError

LEVELS = ("debug", "info", "warning", "error")
SHORTEST_SECRET = 4
"""Characters; masking shorter values would blot out ordinary words."""


class Masked(logging.Formatter):
    """`2026-11-22 16:20:00 info    agentmesh.engine  text`, where every secret's value reads `***`."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__("%(asctime)s %(level)-7s %(name)s  %(message)s", "%Y-%m-%d %H:%M:%S")
        # Longest first: a secret that contains another must not leave its tail behind.
        self._secrets = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        record.level = record.levelname.lower()
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line


def set_up(level: str = "info", secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Sends every logger of this process to `stream` (None: stderr). Called again, it replaces what it set up.

    ServeError when `level` is none.
    """
    if level not in LEVELS:
        raise ServeError(f"{level!r} is not a log level; AGENTMESH_LOG may be {', '.join(LEVELS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Masked(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("agentmesh").setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).setLevel(logging.NOTSET)
        logging.getLogger(name).propagate = True
    # A request each is `debug`'s business.
    logging.getLogger("uvicorn.access").setLevel(logging.INFO if level == "debug" else logging.WARNING)
