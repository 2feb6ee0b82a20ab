"""What a Ray task does: import an installed function by its name, call it, and answer in plain JSON.

Runs in a worker of the cluster, which may be on another machine with AgentMesh and the function's package installed. It imports
no Ray, and raises nothing that would have to be understood by whoever asked: an error is an answer too.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NoReturn

from agentmesh.errors import Fail, MeshError, Retry

LIMIT = 4 * 1024 * 1024
"""Bytes of a result as JSON; more belongs into a file or a database."""
LONGEST = 1000


class RayContext:
    """The `ctx` of a function on Ray: what can be known on another machine. Anything else a context has is refused."""

    def __init__(self, key: str, folder: str) -> None:
        self.key = key
        """The idempotency key: the same for every attempt of one step of one run (`RUN/PATH`)."""
        self.run_id = key.partition("/")[0]
        self.folder = PurePath(folder)
        """The mesh's folder on the server's machine."""

    def progress(self, line: str) -> None:
        """Goes to the log of the Ray worker."""
        sys.stdout.write(f"{self.key}: {line}\n")

    def __getattr__(self, name: str) -> NoReturn:
        raise Fail(f"a function on Ray has no ctx.{name}: it runs in another process, without the mesh's store")


def run_task(function: str, arguments: Mapping[str, Any], key: str, folder: str) -> dict[str, Any]:
    """`{"value": JSON text}`, or `{"error": {code, message, after?}}`."""
    try:
        found = _resolve(function)
        first = next(iter(inspect.signature(found).parameters), None)
        given = (RayContext(key, folder),) if first == "ctx" else ()
        result = found(*given, **arguments)
        if inspect.isawaitable(result):
            result = asyncio.run(_awaited(result))
        text = _to_json(result, function)
    except MeshError as error:
        after = {"after": error.after} if isinstance(error, Retry) and error.after is not None else {}
        return {"error": {"code": error.code, "message": error.message[:LONGEST], **after}}
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return {"error": {"code": "failed", "message": message[:LONGEST]}}
    return {"value": text}


def _resolve(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise Fail(
            f"cannot import {module_name!r} on the Ray cluster ({error}); its package must be installed there too"
        ) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise Fail(f"{name!r} does not name a function; write package.module:function")
    return found


async def _awaited(result: Any) -> Any:
    return await result


def _to_json(result: Any, function: str) -> str:
    try:
        text = json.dumps(result, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise Fail(f"the result of {function} is not JSON ({error})") from None
    if len(text) > LIMIT:
        raise Fail(
            f"the result of {function} is larger than {LIMIT // 1024 // 1024} MB; keep it elsewhere, hand on where"
        )
    return text
