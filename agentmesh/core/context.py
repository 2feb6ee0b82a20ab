"""Context: what a python function of a step or tool may know and do besides its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any


class Context:
    """Given to a function whose first parameter is named `ctx`. Good until the function returns; safe to use from its thread."""

    def __init__(
        self,
        *,
        key: str,
        folder: PurePath,
        run_id: str | None = None,
        state: Mapping[str, Any] | None = None,
        message: Mapping[str, Any] | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.key = key
        """The idempotency key: the same for every attempt of one step of one run (`RUN/PATH`)."""
        self.folder = folder
        """The mesh's folder."""
        self.run_id = run_id
        """None in a tool that passes through: it has no run."""
        self.state: Mapping[str, Any] = state if state is not None else {}
        """The durable values of this workflow (or tool), as they were when the attempt began."""
        self.message = message
        """The A2A message that started the run, as JSON."""
        self.puts: dict[str, Any] = {}
        self._notify = notify

    def put(self, key: str, value: Any) -> None:
        """Keeps a JSON value for later runs; written in the transaction that completes the step, and not at all if it fails."""
        self.puts[str(key)] = value

    def progress(self, line: str) -> None:
        """Shows a line to whoever watches. Not recorded."""
        self._notify(str(line))
