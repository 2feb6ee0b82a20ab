"""Sessions of the older era: what the SDK keeps of one for us, and the notices that it is sent without having asked.

A session is a connection of the SDK, from `initialize` until it ends; it is told of changed lists and of resources that it
subscribed to on its GET stream. One that does not read is waited for a moment, and costs nobody else anything.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import anyio

from agentmesh.core.policy import Principal

if TYPE_CHECKING:
    from mcp.server.connection import Connection
    from mcp.server.context import ServerRequestContext

    from agentmesh.core.caller import Level
    from agentmesh.core.source import Change

log = logging.getLogger("agentmesh.mcp")

DEFAULT_LEVEL: Final[Level] = "info"
"""What a session hears before it says `logging/setLevel`."""
TELL_SECONDS: Final = 10.0
"""How long a session's stream may take over one notice; then what waits for it is dropped."""
WAITING: Final = 1000
"""Changed resources that wait for a session; past that it is told that the list changed."""
_LEVEL: Final = "agentmesh.level"
_SESSION: Final = "agentmesh.session"


def connection_of(ctx: ServerRequestContext[Any]) -> Connection:
    """The connection behind a request: the SDK gives handlers no other way to what outlives the request."""
    return ctx.session._connection  # noqa: SLF001


def level_of(ctx: ServerRequestContext[Any]) -> Level:
    """The least severe log message that the session wants to hear."""
    level: Level = connection_of(ctx).state.get(_LEVEL, DEFAULT_LEVEL)
    return level


def set_level(ctx: ServerRequestContext[Any], level: Level) -> None:
    connection_of(ctx).state[_LEVEL] = level


class Session:
    """One of them, for the hub."""

    def __init__(self, connection: Connection, principal: Principal) -> None:
        self.principal = principal
        self.uris: set[str] = set()
        """Resources that it subscribed to."""
        self.telling = False
        self._connection = connection
        self._waiting: dict[tuple[Change, str | None], None] = {}
        connection.state[_SESSION] = self

    @staticmethod
    def of(ctx: ServerRequestContext[Any]) -> Session | None:
        """The session of a request; None in the newer era."""
        found: Session | None = connection_of(ctx).state.get(_SESSION)
        return found

    def hear(self, change: Change, uri: str | None) -> bool:
        """Notes what it is to be told; whether somebody has to begin telling it."""
        if not self._connection.initialized.is_set() or (change == "updated" and uri not in self.uris):
            return False
        if change == "updated" and len(self._waiting) >= WAITING:
            change, uri = "resources", None
        self._waiting.setdefault((change, uri))
        begin, self.telling = not self.telling, True
        return begin

    async def tell(self) -> None:
        """Tells all that waits."""
        try:
            while self._waiting:
                change, uri = next(iter(self._waiting))
                del self._waiting[change, uri]
                with anyio.move_on_after(TELL_SECONDS) as scope:
                    await self._send(change, uri)
                if scope.cancelled_caught:
                    log.debug("a session does not read its notices; dropped %d", len(self._waiting) + 1)
                    self._waiting.clear()
        finally:
            self.telling = False

    async def _send(self, change: Change, uri: str | None) -> None:
        if change == "tools":
            await self._connection.send_tool_list_changed()
        elif change == "prompts":
            await self._connection.send_prompt_list_changed()
        elif change == "resources":
            await self._connection.send_resource_list_changed()
        elif uri is not None:
            await self._connection.send_resource_updated(uri)
