"""JSON-RPC messages as the pipe reads and makes them: plain dicts and bytes, no SDK."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import httpx2

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
HEADER_MISMATCH: Final = -32020
FORBIDDEN: Final = -32003
UNAVAILABLE: Final = -32004
"""The last two are the server's own (agentmesh/mcp/convert.py), which this module must not import."""

_VERSION_META: Final = "io.modelcontextprotocol/protocolVersion"
NAMED_BY: Final = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""Which parameter of a method goes into the `Mcp-Name` header."""


def to_error(ident: str | int | None, code: int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": ident, "error": {"code": code, "message": text}}


def to_line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def version_of(message: Mapping[str, Any]) -> str | None:
    """The revision that a message of the stateless era names in its `_meta`; None in the older era."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    version = meta.get(_VERSION_META) if isinstance(meta, dict) else None
    return version if isinstance(version, str) and message.get("method") != "initialize" else None


def cancelled_id(message: Mapping[str, Any]) -> str | int:
    params = message.get("params")
    ident = params.get("requestId") if isinstance(params, dict) else None
    return ident if isinstance(ident, (str, int)) else ""


def to_header(value: str) -> str:
    """A value as a header can carry it (streamable-http, Value Encoding)."""
    if value.isascii() and value.isprintable() and value == value.strip() and not value.startswith("=?base64?"):
        return value
    return f"=?base64?{b64encode(value.encode('utf-8', 'replace')).decode()}?="


def to_answer(status: int, body: bytes, ident: str | int) -> dict[str, Any]:
    """The JSON-RPC answer in a body, or one made of what else the server said."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and ("result" in answer or "error" in answer):
        return {**answer, "id": ident}
    text = answer.get("detail") if isinstance(answer, dict) else None
    code = FORBIDDEN if status in {401, 403} else INVALID_REQUEST if status < 500 else UNAVAILABLE
    return to_error(
        ident, code, str(text) if text else f"The server answered HTTP {status} without a JSON-RPC message."
    )


async def events_of(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The data of each server-sent event. By bytes: U+2028 and its like end no line here."""
    data: list[bytes] = []
    pending = b""
    async for chunk in response.aiter_bytes():
        *lines, pending = (pending + chunk).split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                joined = b" ".join(data)  # in JSON a newline between tokens is a space
                data = []
                if joined:
                    yield joined
