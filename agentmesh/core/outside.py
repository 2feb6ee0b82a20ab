"""Outside: what steps reach besides tools, agents and models. Protocols; the adapters do the I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request as it is sent; `body` is bytes already. Secrets are in place."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout: float = 30.0
    """Seconds for all of it."""
    raw: bool = False
    """The answer's body is wanted as bytes, whatever it is."""
    limit: int | None = None
    """Bytes of the answer's body, after decompression; None: the client's own."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back. `body`: JSON where the answer says it is, else text; bytes when the request was `raw`."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; of a name given twice the values are joined by `, `."""
    body: Any


class HttpClient(Protocol):
    """Sends requests of `http` steps and tools."""

    async def send(self, request: HttpRequest) -> HttpAnswer:
        """NotSent when no byte of the request can have reached the other side; Unanswered when it may have.

        Fail for what cannot be sent, and for an answer that is too large or neither JSON nor text.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """What a statement gave: JSON values by column. `count`: rows given, or changed by a statement that gives none."""

    rows: Sequence[Mapping[str, Any]]
    count: int
    truncated: bool = False


class Databases(Protocol):
    """The `databases:` of the mesh."""

    async def query(
        self, database: str, text: str, parameters: Mapping[str, Any], *, write: bool, rows: int, timeout: float | None
    ) -> Rows:
        """One statement in one transaction, read-only unless `write`.

        Fail for what the database refuses, Retry when it cannot be reached or undid the statement, Unanswered when a write may have
        been committed, StepTimeout.
        """
        ...


class Cluster(Protocol):
    """Runs installed functions as Ray tasks, by way of the supervised child."""

    async def call(self, function: str, arguments: Mapping[str, Any], *, key: str, timeout: float | None) -> Any:
        """The function's result as JSON. What it raises is raised as Fail, InvalidInput or Retry.

        NotSent when the cluster never had it, Unanswered when it was lost there. Cancelling ends it.
        """
        ...


class Files(Protocol):
    """Files under the mesh's folder that resources and prompts show. Never what holds secrets or the mesh's own state."""

    async def read(self, path: str) -> bytes:
        """The contents. NotFound for what is not a file there, or may not be shown; TooLarge."""
        ...

    async def stamp(self, path: str) -> object:
        """Something that is another when the file has changed; None when it cannot be read."""
        ...
