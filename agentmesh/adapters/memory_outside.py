"""What steps reach outside, in memory: for tests of workflows that must not leave the process."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from agentmesh.core.outside import HttpAnswer, HttpRequest, Rows
from agentmesh.errors import Fail, NotFound

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
