"""OpenApiSource: the operations of an HTTP API, by its OpenAPI document, as tools.

The document is a file of the mesh or an address, looked at again from time to time by the one task that the source owns. What it offers
is kept with what an operator approved of it (`approvals`), so that its tools are known and can be called while the address is down, and a
document that changes changes no tool by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import quote, urlsplit
from uuid import uuid4

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from agentmesh.adapters.approvals import Approvals, same
from agentmesh.adapters.looking import Looking
from agentmesh.adapters.openapi_operation import READING, ApiOperation, Operations, read_operations
from agentmesh.adapters.openapi_request import request_of, result_of
from agentmesh.adapters.tools_only import ToolsOnly
from agentmesh.adapters.yaml_document import read_yaml
from agentmesh.core.json_text import parse_json
from agentmesh.core.outside import HttpAnswer, HttpClient, HttpRequest
from agentmesh.core.secret import fill_secrets, hide
from agentmesh.core.server_file import ServerFile
from agentmesh.core.source import Held, OnChange, SourceCall, SourceStatus
from agentmesh.core.store import Store
from agentmesh.core.tool import Tool, ToolResult
from agentmesh.core.workflow import seconds
from agentmesh.errors import Fail, InvalidInput, NotSent, ProjectError, StepError

log = logging.getLogger("agentmesh.sources")

JSON_BYTES: Final = 16 * 1024 * 1024
"""Of a document in JSON; one in YAML has yaml_document.LARGE_BYTES."""
FETCH_TIME: Final = 60.0
REFRESH: Final = 300.0
"""Seconds between two looks at an address; a server that says that nothing has changed (ETag) sends no document."""
FILE_LOOK: Final = 5.0
"""Seconds between two looks at when a file was written."""
AT_ONCE: Final = 32
"""Calls of one API in flight; further ones wait their turn."""
_SECRET_NAMES: Final = ("auth", "key", "token", "secret", "cookie", "session")
"""In the name of a header whose value is shown nowhere."""
SCOPE: Final = "openapi-document"
"""Of the store: the last document of each address, by the server's name."""


class OpenApiSource(ToolsOnly):
    """One `openapi:` of servers/. `async with` it, and leave it in the task that entered it; entering waits for no network."""

    def __init__(
        self, server: ServerFile, *, folder: Path, store: Store, http: HttpClient,
        secrets: Mapping[str, str] = MappingProxyType({}), clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:  # fmt: skip
        """`folder`: the mesh's, in which a file of a document has to be."""
        assert server.openapi is not None
        self.title = f"the API {server.name}"
        self._server, self._spec = server, server.openapi
        self._folder, self._store, self._http, self._clock = folder, store, http, clock
        self._headers = {name: fill_secrets(value, secrets) for name, value in self._spec.headers.items()}
        self._secret = [
            value
            for name, value in self._headers.items()
            if value != self._spec.headers[name] or any(word in name.lower() for word in _SECRET_NAMES)
        ]
        self._secret += [value for value in secrets.values() if value in "".join(self._headers.values())]
        if self._spec.token is not None:
            token = fill_secrets(self._spec.token, secrets)
            self._headers["Authorization"] = f"Bearer {token}"
            self._secret.append(token)
        self._timeout = seconds(self._spec.timeout)
        self._approvals = Approvals(store, f"openapi:{server.name}", mode=server.approve)
        self._operations: Mapping[str, ApiOperation] = {}
        self._refused: Mapping[str, str] = {}
        self._tools: Mapping[str, Tool] = {}
        self._hearers: list[OnChange] = []
        self._etag, self._digest = "", ""
        self._read = False
        self._places = anyio.Semaphore(AT_ONCE)
        self.busy = 0
        """Calls that somebody waits for."""
        self._group: TaskGroup | None = None
        self._looking = Looking(server.name, self._spec.document, sleep=sleep, secrets=self._secret)
        self.looked = self._looking.looked
        """Set when the document was looked for once, with whatever success: for tests, and for who wants to wait."""

    async def __aenter__(self) -> Self:
        await self._approvals.load()
        self._publish()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._keep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._group is not None
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)

    # What is known

    @property
    def name(self) -> str:
        return self._server.name

    def tools(self) -> Mapping[str, Tool]:
        return self._tools

    def held(self) -> Sequence[Held]:
        return self._approvals.held()

    def on_change(self, hear: OnChange) -> None:
        self._hearers.append(hear)

    def status(self) -> SourceStatus:
        left_out = ""
        if self._refused:
            name, why = next(iter(self._refused.items()))
            left_out = f"{len(self._refused)} left out, such as {name}: {why}"
        detail = "; ".join(filter(None, [self._looking.trouble, left_out]))
        known = self._read or bool(self._tools)
        state: Literal["connecting", "ready", "failed"] = (
            "ready" if known else "failed" if self._looking.trouble else "connecting"
        )
        return SourceStatus(
            self.name, "openapi", state, detail, tools=len(self._tools), held=len(self._approvals.held())
        )  # fmt: skip

    def left_out(self) -> Mapping[str, str]:
        """By operation, why it is not offered."""
        return self._refused

    async def approve(self, names: Sequence[str]) -> Sequence[str]:
        done = await self._approvals.approve(names)
        if done:
            self._publish()
            self._tell()
        return done

    # Calling

    async def call(self, call: SourceCall) -> ToolResult:
        """See `Source.call`."""
        self.busy += 1
        try:
            return await self._call(call)
        finally:
            self.busy -= 1

    async def _call(self, call: SourceCall) -> ToolResult:
        operation = self._operations.get(call.tool.name)
        if operation is None:
            raise Fail(
                f"{call.tool.name} cannot be called now: {self.status().detail or 'its document is not read yet'}"
            )
        if (refusal := self._approvals.refusal(call.tool.name) or self._moved(call.tool.name, operation)) is not None:
            raise Fail(refusal)
        writes = call.writes and operation.method not in READING
        key = ""
        if operation.method not in READING:
            key = quote(call.key, safe="/-_.:~") if call.key else str(uuid4())
        try:
            sent = request_of(
                operation, call.arguments, headers=self._headers, key=key, timeout=call.timeout or self._timeout
            )
        except InvalidInput as error:
            return ToolResult(text=error.message, is_error=True)
        tool = self._tools.get(call.tool.name, call.tool)
        try:
            answer = await self._send(sent)
            result = await result_of(
                operation, sent, answer, writes=writes, output_schema=tool.output_schema, now=self._clock()
            )
        except StepError as error:
            error.args = (hide(error.message, self._secret),)
            raise
        structured, text = hide(result.structured, self._secret), hide(result.text, self._secret)
        content = result.content
        if content is not None:
            content = tuple(hide(dict(block), self._secret) for block in content)
        return replace(result, structured=structured, text=text, content=content)

    async def _send(self, sent: HttpRequest) -> HttpAnswer:
        """At most AT_ONCE in flight: an API that hangs must not take every connection of the client that all share."""
        try:
            with anyio.fail_after(sent.timeout):
                await self._places.acquire()
        except TimeoutError:
            raise NotSent(
                f"{AT_ONCE} calls of {self.name} are in flight, and none ended within {sent.timeout:g} s"
            ) from None
        try:
            return await self._http.send(sent)
        finally:
            self._places.release()

    def _moved(self, name: str, operation: ApiOperation) -> str | None:
        """Why a call must wait for approval: the request behind it goes elsewhere, or puts arguments elsewhere, than was approved."""
        approved = self._approvals.visible.get(name)
        if approved is None or same(approved.get("request"), operation.definition()["request"]):
            return None
        return (
            f"the request behind {name} has changed in its document since it was approved; "
            f"an operator has to look at it: `agentmesh tools diff {name}`, then `agentmesh tools approve {name}`"
        )

    # The document

    async def _keep(self) -> None:
        """Looks at the document until the source is left. What goes wrong is said in `status`."""
        remote = self._spec.document.startswith(("http://", "https://"))
        if remote:
            await self._looking.run(self._fetch, REFRESH, self._recall)
        else:
            await self._looking.run(self._look, FILE_LOOK)

    async def _recall(self) -> None:
        """The last document of the address, from the store."""
        kept = await self._store.get(SCOPE, self.name)
        if isinstance(kept, Mapping) and kept.get("address") == self._spec.document:
            await self._take(kept["document"])
            self._etag = str(kept.get("etag") or "")

    async def _fetch(self) -> None:
        address = self._spec.document
        headers = {"accept": "application/json, application/yaml;q=0.9, */*;q=0.5"}
        if self._etag:
            headers["if-none-match"] = self._etag
        if self._spec.url is not None and _origin(self._spec.url) == _origin(address):
            headers |= self._headers  # the operator has said that this is where they belong
        answer = await self._http.send(
            HttpRequest("GET", address, headers, timeout=FETCH_TIME, raw=True, limit=JSON_BYTES)
        )
        if answer.status == 304:
            return
        if answer.status != 200:
            raise Fail(f"it answered {answer.status}")
        document = answer.body
        if isinstance(document, bytes):
            document = await anyio.to_thread.run_sync(_parsed, document, address)
        await self._take(document)
        self._etag = answer.headers.get("etag", "")
        await self._store.put(SCOPE, self.name, {"address": address, "etag": self._etag, "document": document})

    async def _look(self) -> None:
        file, stamp = await anyio.to_thread.run_sync(self._file)
        if stamp != self._digest:
            data = await anyio.to_thread.run_sync(_bytes, file)
            await self._take(await anyio.to_thread.run_sync(_parsed, data, self._spec.document))
            self._digest = stamp

    def _file(self) -> tuple[Path, str]:
        folder = self._folder.resolve()
        try:
            file = (folder / self._spec.document).resolve()
            if not file.is_relative_to(folder):
                raise Fail("it is outside the mesh's folder")
            if not file.is_file():
                raise Fail("there is no such file")
            about = file.stat()
        except (OSError, ValueError) as error:
            raise Fail(f"it cannot be read: {error}") from None
        return file, f"{about.st_mtime_ns} {about.st_size} {about.st_ino}"

    async def _take(self, document: Any) -> None:
        """Offers what a document has. Raises Fail for one that is none, and then nothing changes."""
        address = self._spec.document if "://" in self._spec.document else None
        found = await anyio.to_thread.run_sync(lambda: self._offered(document, address))
        operations, definitions = found
        self._operations = {f"{self.name}.{name}": one for name, one in operations.tools.items()}
        for ident, why in operations.refused.items():
            if self._refused.get(ident) != why:
                log.info("%s: %s is left out: %s", self.name, ident, why)
        self._refused = operations.refused
        self._read = True
        offered = {f"{self.name}.{name}": one for name, one in definitions.items()}
        if await self._approvals.offer(offered):
            self._publish()
            self._tell()

    def _offered(self, document: Any, address: str | None) -> tuple[Operations, dict[str, dict[str, Any]]]:
        operations = read_operations(document, self._server, address=address)
        return operations, {name: one.definition() for name, one in operations.tools.items()}

    def _publish(self) -> None:
        """The tools by what is approved."""
        self._tools = MappingProxyType({
            name: Tool(
                name=name,
                description=str(one.get("description", "")),
                input_schema=one["inputSchema"],
                output_schema=one.get("outputSchema"),
                title=one.get("title"),
                annotations=one.get("annotations", {}),
                source=f"openapi:{self.name}",
                server=self.name,
            )
            for name, one in sorted(self._approvals.visible.items())
        })  # fmt: skip

    def _tell(self) -> None:
        for hear in self._hearers:
            hear("tools", None)


def _parsed(data: bytes, name: str) -> Any:
    """A document's value: JSON where it begins like it, else YAML. Blocks; slow for its size."""
    if data.lstrip()[:1] in (b"{", b"["):
        if len(data) > JSON_BYTES:
            raise Fail(f"it has {len(data):,} bytes, more than {JSON_BYTES:,}")
        try:
            return parse_json(data, depth=128)
        except InvalidInput as error:
            if data.lstrip()[:1] == b"[":
                raise Fail(f"it cannot be read: {error.message}") from None
            try:  # flow style begins like JSON
                return read_yaml(data, name, large=True).value
            except ProjectError:
                raise Fail(f"it cannot be read: {error.message}") from None
    return read_yaml(data, name, large=True).value


def _bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(JSON_BYTES + 1)
    except OSError as error:
        raise Fail(f"it cannot be read: {error.strerror}") from None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()
