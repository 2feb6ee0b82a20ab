"""One request: who asks, through which caller, and how it ends when its client has to come again first."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mcp.shared.exceptions import MCPError
from mcp_types import PaginatedRequestParams

from agentmesh.core.caller import InputRequired
from agentmesh.core.policy import Principal
from agentmesh.errors import InvalidInput, MeshError
from agentmesh.mcp.caller import ModernCaller, OlderCaller, caller_of
from agentmesh.mcp.convert import check_arguments, to_mcp_error
from agentmesh.mcp.state import NOTHING, Binding, Carried, Seals

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

log = logging.getLogger("agentmesh.mcp")

PAGE: Final = 200
"""Entries in one answer to a list: large, since some clients never ask for the next page."""
T = TypeVar("T")
Verb = Callable[[ModernCaller | OlderCaller, Carried], Awaitable[dict[str, Any]]]
"""What a request does with its caller and what earlier rounds left: the result on the wire."""


class Exchange:
    """What every handler stands on. `depth`: of the JSON that a client may send."""

    def __init__(self, seals: Seals, *, depth: int, in_process: Principal | None) -> None:
        self.depth = depth
        self._seals = seals
        self._in_process = in_process

    def principal(self, ctx: ServerRequestContext[Any]) -> Principal:
        """Who asks. Without `http/auth.py` in front nobody is anybody: refuse rather than guess."""
        if ctx.request is None:
            principal = self._in_process
        else:
            principal = ctx.request.scope.get("state", {}).get("principal")
        if isinstance(principal, Principal):
            return principal
        raise RuntimeError("a request reached /mcp without a principal; mount it behind http/auth.py")

    async def serve(
        self,
        ctx: ServerRequestContext[Any],
        principal: Principal,
        target: str,
        arguments: Mapping[str, Any],
        verb: Verb,
    ) -> dict[str, Any]:
        """What `verb` gives, or the `input_required` result that asks its client to come again (basic/patterns/mrtr).

        MCPError -32602 for a requestState of another call or caller, a forged one and an expired one.
        """
        params = ctx.params or {}
        binding = Binding(principal, ctx.method, target, arguments)
        token, responses = params.get("requestState"), params.get("inputResponses") or {}
        check_arguments(responses, self.depth)
        try:
            carried = NOTHING if token is None else self._seals.open(token, binding)
        except InvalidInput as error:  # an error of the protocol, never a tool's answer
            raise to_mcp_error(error) from error
        caller: ModernCaller | OlderCaller | None = None
        try:
            async with caller_of(ctx, carried, responses) as caller:
                return await verb(caller, carried)
        except InputRequired as needed:
            if not isinstance(caller, ModernCaller):
                raise InvalidInput(
                    f"this call asks what only a client of MCP 2026-07-28 can be asked: {needed}"
                ) from None
            left = Carried(caller.used, needed.run_id, needed.state)
            return {
                "resultType": "input_required",
                "inputRequests": {key: request.to_json() for key, request in needed.requests.items()},
                "requestState": self._seals.seal(left, binding),
            }

    def page(
        self,
        ctx: ServerRequestContext[Any],
        params: PaginatedRequestParams | None,
        entries: Iterable[T],
        name_of: Callable[[T], str],
        to_wire: Callable[[T, str], dict[str, Any]],
        field: str,
    ) -> dict[str, Any]:
        """One page of a list, sorted by name. InvalidInput for a cursor that this list did not give."""
        cursor = params.cursor if params is not None else None
        after = None if cursor is None else self._seals.after(ctx.method, cursor)
        rest = sorted((e for e in entries if after is None or name_of(e) > after), key=name_of)
        page = rest[:PAGE]
        wire: dict[str, Any] = {
            "resultType": "complete",
            field: [to_wire(entry, ctx.protocol_version) for entry in page],
        }
        if len(rest) > PAGE:
            wire["nextCursor"] = self._seals.cursor(ctx.method, name_of(page[-1]))
        return wire


def reported(error: Exception, what: str) -> MCPError:
    """The error for the wire; what nobody raised on purpose stands in the log."""
    if not isinstance(error, (MeshError, MCPError)):
        log.error("%s failed", what, exc_info=error)
    return to_mcp_error(error)
