"""What steps reach outside, in memory: for tests of workflows that must not leave the process."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agentmesh.core.outside import HttpAnswer, HttpRequest, Rows
from agentmesh.errors import Fail, InvalidInput, NotFound

Said = HttpAnswer | BaseException
"""An answer, or an error that is raised."""


class ScriptedHttp:
    """Answers from a function of the request, or answers given one after another. `requests` keeps what was sent."""

    def __init__(self, script: Callable[[HttpRequest], Said | Awaitable[Said]] | Iterable[Said]) -> None:
        if callable(script):
            self._script = script
        else:
            answers = iter(tuple(script))
            self._script = lambda _: next(answers, Fail("the script has no more answers"))
        self.requests: list[HttpRequest] = []

    async def send(self, request: HttpRequest) -> HttpAnswer:
        self.requests.append(request)
        said = self._script(request)
        if inspect.isawaitable(said):
            said = await said
        if isinstance(said, BaseException):
            raise said
        return said


class ScriptedDatabases:
    """Answers statements from a function of (database, text, parameters). `asked` keeps them, with whether they might write."""

    def __init__(self, script: Callable[[str, str, Mapping[str, Any]], Rows]) -> None:
        self._script = script
        self.asked: list[tuple[str, str, Mapping[str, Any], bool]] = []

    async def query(
        self, database: str, text: str, parameters: Mapping[str, Any], *, write: bool, rows: int, timeout: float | None
    ) -> Rows:
        self.asked.append((database, text, dict(parameters), write))
        return self._script(database, text, parameters)


class ScriptedCluster:
    """Runs functions in place, given by name. `calls` keeps (function, arguments, key)."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._functions = functions
        self.calls: list[tuple[str, Mapping[str, Any], str]] = []

    async def call(self, function: str, arguments: Mapping[str, Any], *, key: str, timeout: float | None) -> Any:
        self.calls.append((function, dict(arguments), key))
        found = self._functions[function](**arguments)
        return await found if inspect.isawaitable(found) else found


@dataclass(frozen=True)
class Notified:
    """A notification as a webhook got it."""

    url: str
    headers: Mapping[str, str]
    body: Any


class ScriptedWebhooks:
    """Webhooks that answer from a function of the notification: a status, (status, Retry-After), or an error; 200 without one.

    `got` keeps what arrived, whatever it was answered. What begins with `http://inside` is refused when it is configured.
    """

    def __init__(self, script: Callable[[Notified], Any] | None = None) -> None:
        self._script = script or (lambda _: 200)
        self.got: list[Notified] = []

    def check(self, url: str) -> None:
        if not url.startswith(("http://", "https://")) or url.startswith("http://inside"):
            raise InvalidInput("the url is not of the form https://HOST/PATH")

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str | None]:
        notified = Notified(url, {name.lower(): value for name, value in headers.items()}, json.loads(body))
        self.got.append(notified)
        said = self._script(notified)
        if inspect.isawaitable(said):
            said = await said
        if isinstance(said, BaseException):
            raise said
        return said if isinstance(said, tuple) else (said, None)


class MemoryFiles:
    """Files of resources and prompts, by path; change the mapping and they have changed."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)

    async def read(self, path: str) -> bytes:
        if path not in self.files:
            raise NotFound(f"there is no file {path!r} to show")
        return self.files[path]

    async def stamp(self, path: str) -> object:
        return self.files.get(path)
