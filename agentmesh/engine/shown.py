"""Shown: what stands behind a resource or a prompt of servers/*.yaml: an installed function, or a file under the mesh's folder."""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Callable, Mapping
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter

from agentmesh.core.caller import NOBODY, Caller
from agentmesh.core.context import Context
from agentmesh.core.expression import render
from agentmesh.core.mesh import Mesh
from agentmesh.core.outside import Files
from agentmesh.core.store import Store
from agentmesh.engine.asking import CheckedCaller
from agentmesh.engine.changes import Changes
from agentmesh.engine.faults import as_json, error_of
from agentmesh.engine.functions import ThreadSafe, call_function, from_thread, wants_context
from agentmesh.errors import Fail, MeshError, NotFound

log = logging.getLogger("agentmesh.engine")
THREADS = 8
"""Plain functions of resources and prompts that run at once in threads."""
TEXT = "text/plain"
JSON_TYPE = "application/json"
BYTES = "application/octet-stream"
_TEXTUAL = ("application/json", "application/xml", "application/yaml", "application/toml", "image/svg+xml")
_BY_NAME: Mapping[str, str] = {
    "md": "text/markdown", "yaml": "application/yaml", "yml": "application/yaml", "toml": "application/toml",
    "json": JSON_TYPE, "csv": "text/csv", "webp": "image/webp", "wav": "audio/wav", "svg": "image/svg+xml",
}  # fmt: skip
"""What a machine's own tables say differently, or not at all."""


class Shown:
    """Calls functions and reads files for `Resources` and `Prompts`."""

    def __init__(
        self, mesh: Mesh, store: Store, changes: Changes, functions: Callable[[str], Callable[..., Any]],
        files: Files | None,
    ) -> None:  # fmt: skip
        self._mesh = mesh
        self._store = store
        self._changes = changes
        self._functions = functions
        self.files = files
        self._resolved: dict[str, Callable[..., Any]] = {}
        self._threads = CapacityLimiter(THREADS)

    async def call(self, name: str, arguments: Mapping[str, str], scope: str, caller: Caller = NOBODY) -> Any:
        """What a function returns; its `ctx.put` values are kept under `scope`. Fail for what it raises that is no MeshError."""
        try:
            function = self._resolved.get(name)
            if function is None:  # importing somebody's package may take seconds
                function = self._resolved[name] = await anyio.to_thread.run_sync(self._functions, name)
            if not wants_context(function):
                return await call_function(function, None, arguments, self._threads)
            context = Context(
                key="", folder=self._mesh.folder, state=await self._store.scan(scope),
                caller=ThreadSafe(CheckedCaller(caller)), changed=from_thread(self._changes.publish),
            )  # fmt: skip
            result = await call_function(function, context, arguments, self._threads)
        except MeshError:
            raise
        except Exception as error:
            log.exception("%s failed", name)
            raise Fail(f"{name} failed: {error_of(error)['message']}") from error
        for key, value in context.puts.items():
            await self._store.put(scope, key, as_json(value, f"the value {key!r} of {name}"))
        return result

    def path(self, template: str, values: Mapping[str, str]) -> str:
        """The path of a file, `${{ }}` in it filled in. A value is one name: it never leads elsewhere. NotFound."""
        for value in values.values() if "${{" in template else ():
            if set(value) & set("/\\\0") or value.startswith("."):
                raise NotFound(f"{value!r} names no file here")
        return str(render(template, {"input": dict(values)}))

    async def file(self, template: str, values: Mapping[str, str]) -> tuple[str, bytes]:
        """(path, contents) of a file."""
        path = self.path(template, values)
        if self.files is None:
            raise NotFound(f"this server shows no files; {path} cannot be read")
        return path, await self.files.read(path)


def type_of_file(path: str) -> str:
    """MIME type by a file's name."""
    ending = path.rpartition(".")[2].lower()
    return _BY_NAME.get(ending) or mimetypes.guess_type(path, strict=False)[0] or BYTES


def as_text(data: bytes, mime: str) -> str | bytes:
    """Text where the type says that it is text and it reads as such."""
    if mime.startswith("text/") or mime in _TEXTUAL or mime.endswith(("+json", "+xml")):
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data
    return data
