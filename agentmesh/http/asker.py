"""Asker: who asks for a route of the API, and how its answers are written; for every module that has such routes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from agentmesh.core.json_text import write_json
from agentmesh.core.policy import Principal


async def _principal(request: Request) -> Principal:
    principal = getattr(request.state, "principal", None)
    if not isinstance(principal, Principal):
        raise RuntimeError("a request reached /v1 without a principal; mount it behind http/auth.py")  # noqa: TRY004
    return principal


Asker = Annotated[Principal, Depends(_principal)]
"""The type of a route's first parameter."""


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(write_json(body), status_code=status, headers=headers, media_type="application/json")


def ok(model: type[Any], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with `model`."""
    return {status: {"model": model}}
