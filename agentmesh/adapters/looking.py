"""Looking: the one task that looks at somebody else's document (an OpenAPI document, an agent's card) from time to time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

from agentmesh.core.secret import hide
from agentmesh.errors import MeshError, ProjectError

log = logging.getLogger("agentmesh.sources")

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0


class Looking:
    """Looks again and again; what went wrong is kept in words, and tried again ever more seldom."""

    def __init__(
        self, name: str, what: str, *, sleep: Callable[[float], Awaitable[None]], secrets: Sequence[str] = ()
    ) -> None:
        """`what`: the file or address, for people. `secrets`: shown nowhere."""
        self._name, self._what, self._sleep, self._secrets = name, what, sleep, secrets
        self.trouble = ""
        """What was wrong at the last look; empty when nothing was."""
        self.looked = anyio.Event()
        """Set after the first look, with whatever success."""

    async def run(
        self, look: Callable[[], Awaitable[None]], period: float, recall: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Until it is cancelled. `recall` comes first: what was known of earlier looks. `period`: seconds between two that went well."""
        if recall is not None:
            try:
                await recall()
            except Exception as error:  # what an earlier release kept; the address has it anew
                log.warning("%s: what was kept of it cannot be read: %s", self._name, error)
        pause = FIRST_PAUSE
        while True:
            try:
                await look()
                self.trouble, wait, pause = "", period, FIRST_PAUSE
            except Exception as error:  # nobody's document may end the server
                self._note(error)
                wait, pause = pause, min(pause * 2, LONGEST_PAUSE)
            self.looked.set()
            await self._sleep(wait)

    def _note(self, error: Exception) -> None:
        if isinstance(error, ProjectError):
            said = str(error.faults[0])
        elif isinstance(error, MeshError):
            said = error.message
        else:
            log.error("%s: %s broke its reader", self._name, self._what, exc_info=error)
            said = "it cannot be read; the log says why"
        trouble = hide(f"{self._what}: {said}", self._secrets)
        if trouble != self.trouble:
            log.warning("%s: %s", self._name, trouble)
        self.trouble = trouble
